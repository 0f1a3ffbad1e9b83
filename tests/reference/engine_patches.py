"""Patched runs: the corrupted prompts with something taken from the clean ones, for `make_engine_fixtures.py`."""

import torch

RESIDUAL_SITES = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
MLP_SITES = ("mlp.hook_pre", "mlp.hook_post")
HEAD_SITES = ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z", "attn.hook_result")
PATTERN = "attn.hook_pattern"
POSITION, HEAD = 4, 1
ALL = "ALL"


def orthonormal(width, rank, seed):
    return torch.linalg.qr(
        torch.randn(width, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )[0]


class Run:
    """A model with its clean and corrupted activations, which interventions refer to."""

    def __init__(self, lens, prompts, seed):
        self.lens = lens
        self.corrupted_tokens = prompts.roll(-1, 0)
        self.clean = lens.run_with_cache(prompts)[1]
        self.corrupted = lens.run_with_cache(self.corrupted_tokens)[1]
        width = lens.cfg.d_model
        # Rounded as they are stored, so that both sides use the very same numbers.
        self.subspace = orthonormal(width, 2, 400 + seed).float().double()
        self.vector = (
            torch.randn(width, dtype=torch.float64, generator=torch.Generator().manual_seed(500 + seed))
            .float()
            .double()
        )

    def hook(self, intervention):
        """(hook name, hook function) of one intervention, see `OPS`."""
        site, position, head, op = (intervention[key] for key in ("site", "position", "head", "op"))

        def apply(value, hook):
            chosen = self.selection(site, position, head)
            value = value.clone()
            value[chosen] = self.value(op, value[chosen], self.clean[site][chosen], self.corrupted[site][chosen])
            return value

        return site, apply

    @staticmethod
    def selection(site, position, head):
        """Index of what is touched: (row, position[, head], width), or (row, head, query, key) of a pattern."""
        heads = slice(None) if head == ALL else slice(head, head + 1)
        positions = slice(None) if position == ALL else slice(position, position + 1)
        if site.endswith("pattern"):
            return (slice(None), heads)
        return (slice(None), positions, heads) if ".attn." in site else (slice(None), positions)

    def value(self, op, now, clean, own):
        """The new value; `own` is the unpatched corrupted run's. Projections act on the last axis, means on rows."""
        project = lambda x: x @ self.subspace @ self.subspace.T
        match op:
            case "replace":
                return clean
            case "swap":
                return now + project(clean - now)
            case "ablate_zero":
                return now - project(now)
            case "ablate_mean":
                return now - project(now - now.mean(0, keepdim=True))
            case "zero":
                return torch.zeros_like(now)
            case "mean":
                return now.mean(0, keepdim=True).expand_as(now)
            case "add":
                return now + self.vector
            case "freeze":
                return own
        raise ValueError(op)

    def logits(self, interventions):
        """Last position's logits of the corrupted prompts under the interventions, (prompts, vocabulary)."""
        hooks = [self.hook(intervention) for intervention in interventions]
        return self.lens.run_with_hooks(self.corrupted_tokens, fwd_hooks=hooks)[:, -1]


def intervention(site, layer, position, head, op):
    return {"site": f"blocks.{layer}.{site}", "position": position, "head": head, "op": op}


def replacements(n_layers, has_mid, thorough):
    """Every site at layer 1, whole width and one head, one and all positions; one case per site at the other layers."""
    sites = [site for site in (*RESIDUAL_SITES, *MLP_SITES) if has_mid or site != "hook_resid_mid"]
    cases = [intervention(site, 1, position, ALL, "replace") for site in sites for position in (POSITION, ALL)]
    for head in (HEAD, ALL):
        cases += [intervention(site, 1, p, head, "replace") for site in HEAD_SITES for p in (POSITION, ALL)]
        cases.append(intervention(PATTERN, 1, ALL, head, "replace"))
    for layer in sorted({0, n_layers - 1} - {1}) if thorough else ():
        position = ALL if layer == n_layers - 1 else POSITION  # The last layer's position 4 reaches no logits.
        cases += [intervention(site, layer, position, ALL, "replace") for site in sites]
        cases += [intervention(site, layer, position, HEAD, "replace") for site in HEAD_SITES]
        cases.append(intervention(PATTERN, layer, ALL, HEAD, "replace"))
    return [[case] for case in cases]


def other_operations(n_layers):
    """Swaps, ablations, additions and frozen patterns; lists of interventions that act together."""
    at = lambda site, layer, position, head, op: [intervention(site, layer, position, head, op)]
    cases = []
    for op in ("swap", "ablate_zero", "ablate_mean", "add"):
        cases += [at("hook_resid_pre", 1, position, ALL, op) for position in (POSITION, ALL)]
    cases += [at("hook_resid_post", n_layers - 1, ALL, ALL, "swap"), at("attn.hook_result", 1, ALL, HEAD, "swap")]
    cases += [at("attn.hook_z", 1, position, HEAD, op) for op in ("zero", "mean") for position in (POSITION, ALL)]
    patched = intervention("hook_resid_pre", 0, POSITION, ALL, "replace")
    cases.append([patched, intervention(PATTERN, 1, ALL, ALL, "freeze")])
    cases.append([patched] + [intervention(PATTERN, layer, ALL, ALL, "freeze") for layer in range(n_layers)])
    return cases


def case_name(interventions):
    """`patch.<site>.L<layer>.P<position>.H<head>.<op>` of each intervention, joined by `+`."""
    parts = []
    for each in interventions:
        _, layer, site = each["site"].split(".", 2)
        parts.append(f"{site}.L{layer}.P{each['position']}.H{each['head']}.{each['op']}")
    return "patch." + "+".join(parts)


def patch_cases(lens, prompts, seed, tensors, thorough, every=1):
    """Adds `patch.*` tensors, baselines included; returns the index of the cases. One case in `every` is kept."""
    run = Run(lens, prompts, seed)
    tensors |= {"patch.subspace": run.subspace, "patch.vector": run.vector}
    tensors["patch.clean_logits"] = lens(prompts)[:, -1]
    tensors["patch.corrupted_logits"] = corrupted = run.logits([])
    has_mid = not lens.cfg.parallel_attn_mlp
    cases = replacements(lens.cfg.n_layers, has_mid, thorough) + other_operations(lens.cfg.n_layers)
    index = []
    for interventions in cases[::every]:
        name = case_name(interventions)
        assert name not in tensors, name
        tensors[name] = run.logits(interventions)
        moved = (tensors[name] - corrupted).abs().max().item()
        # The last layer's position 4 is the only place from which nothing reaches the last position's logits.
        assert moved > 1e-4 or unreachable(interventions, lens.cfg.n_layers), (name, moved)
        index.append({"logits": name, "interventions": interventions})
    return index


def unreachable(interventions, n_layers):
    """In the last layer one position's output, query or MLP does not reach another position's logits."""
    first = interventions[0]
    carried_on = ("hook_resid_pre", "attn.hook_k", "attn.hook_v")
    return (
        first["site"].startswith(f"blocks.{n_layers - 1}.")
        and first["position"] == POSITION
        and not first["site"].endswith(carried_on)
    )
