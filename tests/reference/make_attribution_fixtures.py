"""Writes tests/fixtures/attribution: logit attribution and attribution patching, from TransformerLens and autograd in f64.

    python tests/reference/make_attribution_fixtures.py [model ...]

Models, prompts and answers are those of make_circuit_fixtures.py. Per model `<name>.safetensors`:
- `dla.<run>.<map>`: means over the prompts, at the last position, the final norm frozen (`apply_ln_to_stack`): `lens`
  (`accumulated_resid`), `lens_by_position` (layer, position), `layers` (`decompose_resid`), `heads`
  (`stack_head_results`) and `neurons` (`stack_neuron_results`) as (layer, head or neuron). The corrupted run is read
  along the clean prompts' answers.
- `att.mean`, `att.weighted` (layer, head, query, key): mean patterns of the clean prompts; every key's column times the mean
  length of the value that the head reads there, rows in shares of their sum. `att.contribution` (prompt, layer, head): what
  heads write along the answers, as in `dla.clean.heads`.
- `atp.<mode>.<map>` and `ig.<mode>.<map>`: change of every activation times the gradient of the mean logit difference there
  (PyTorch's autograd through hooks), in the patched run or as the mean over STEPS steps on the way of
  `blocks.0.hook_resid_pre` to the other run; summed over positions unless the name says `_by_position`, over all of an
  activation that has no heads or neurons.
"""

import torch
from safetensors.torch import save_file

import tiny_models
from make_circuit_fixtures import MODELS, answer_pairs, logit_difference, prompts
from tiny_models import FIXTURES

FOLDER = FIXTURES / "attribution"
STEPS = 3


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    for seed, name, _, lens in tiny_models.committed(MODELS):
        clean = prompts(seed)
        answers = answer_pairs(lens, clean)
        tensors = {}
        for run, tokens in {"clean": clean, "corrupted": clean.roll(-1, 0)}.items():
            tensors |= {f"dla.{run}.{map}": value for map, value in logit_attribution(lens, tokens, answers).items()}
        tensors |= {f"att.{name}": value for name, value in attention(lens, clean, answers).items()}
        metric = lambda logits: logit_difference(logits, answers)
        for mode, (own, other) in {"denoising": (clean.roll(-1, 0), clean), "noising": (clean, clean.roll(-1, 0))}.items():
            for method, shares in {"atp": [0.0], "ig": [(step + 0.5) / STEPS for step in range(STEPS)]}.items():
                found = attribution_patching(lens, own, other, metric, shares)
                tensors |= {f"{method}.{mode}.{map}": value for map, value in found.items()}
        save_file({key: value.detach().float().contiguous() for key, value in tensors.items()}, path(name))
        print(name, len(tensors), "tensors")


def path(name):
    return FOLDER / f"{name}.safetensors"


def logit_attribution(lens, tokens, answers):
    cache = lens.run_with_cache(tokens)[1]
    directions = (lens.W_U.T[answers[..., 0]] - lens.W_U.T[answers[..., 1]]).mean(1)
    shape = (lens.cfg.n_layers, -1)

    def along(stack):
        return torch.einsum("cbd,bd->c", cache.apply_ln_to_stack(stack, layer=-1, pos_slice=-1), directions) / len(tokens)

    everywhere = cache.apply_ln_to_stack(cache.accumulated_resid(layer=-1, incl_mid=False), layer=-1)
    mid = not lens.cfg.parallel_attn_mlp
    return {
        "lens": along(cache.accumulated_resid(layer=-1, incl_mid=mid, pos_slice=-1)),
        "lens_by_position": torch.einsum("cbpd,bd->cp", everywhere, directions) / len(tokens),
        "layers": along(cache.decompose_resid(layer=-1, pos_slice=-1)),
        "heads": along(cache.stack_head_results(layer=-1, pos_slice=-1)).reshape(shape),
        "neurons": along(cache.stack_neuron_results(layer=-1, pos_slice=-1)).reshape(shape),
    }


def attention(lens, tokens, answers):
    cache = lens.run_with_cache(tokens)[1]
    layers, heads = range(lens.cfg.n_layers), lens.cfg.n_heads
    mean = torch.stack([cache["pattern", layer].mean(0) for layer in layers])
    norms = torch.stack([cache["v", layer].norm(dim=-1).mean(0).T for layer in layers])  # (layer, value head, key)
    weighted = mean * norms.repeat_interleave(heads // norms.shape[1], 1)[:, :, None]
    directions = (lens.W_U.T[answers[..., 0]] - lens.W_U.T[answers[..., 1]]).mean(1)
    results = cache.apply_ln_to_stack(cache.stack_head_results(layer=-1, pos_slice=-1), layer=-1, pos_slice=-1)
    return {
        "mean": mean,
        "weighted": weighted / weighted.sum(-1, keepdim=True),
        "contribution": torch.einsum("cbd,bd->bc", results, directions).reshape(len(tokens), -1, heads),
    }


HEADS = {name: f"attn.hook_{name}" for name in ("z", "q", "k", "v", "pattern")}
NEURONS = {"pre": "mlp.hook_pre", "post": "mlp.hook_post"}
WHOLE = {name: f"hook_{name}" for name in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")}


def attribution_patching(lens, own, other, metric, shares):
    """Maps by name; heads of `pattern` are told apart by the query's position."""
    start = "blocks.0.hook_resid_pre"
    values, others = lens.run_with_cache(own)[1], lens.run_with_cache(other)[1]
    names = HEADS | NEURONS | {name: hook for name, hook in WHOLE.items() if f"blocks.0.{hook}" in values}
    sums = {}
    for share in shares:
        slopes = gradients(lens, own, metric, start, values[start] + share * (others[start] - values[start]))
        for name, hook in names.items():
            site = lambda cache, layer: cache[f"blocks.{layer}.{hook}"]
            change = torch.stack([site(others, layer) - site(values, layer) for layer in range(lens.cfg.n_layers)])
            slope = torch.stack([site(slopes, layer) for layer in range(lens.cfg.n_layers)])
            product = (change * slope / len(shares)).sum(1)  # (layer, position, ...), patterns (layer, head, query, key)
            if name == "pattern":
                product = product.sum(-1).transpose(1, 2)
            elif name in WHOLE or name in HEADS:
                product = product.sum(-1)
            sums[name] = sums.get(name, 0) + product
    maps = {}
    for name, value in sums.items():
        if name in WHOLE:
            maps[name] = value
            continue
        maps[name] = value.sum(1)
        if name in ("z", "pattern"):
            maps[f"{name}_by_position"] = value
    return maps


def gradients(lens, tokens, metric, start, value):
    """Gradients of the metric at every activation, with the activation `start` set to `value`."""
    seen = {}

    def keep(activation, hook):
        if hook.name == start:
            activation = value.clone().requires_grad_()
        if activation.requires_grad:
            activation.retain_grad() if not activation.is_leaf else None
            seen[hook.name] = activation
        return activation

    with torch.enable_grad():
        metric(lens.run_with_hooks(tokens, fwd_hooks=[(lambda name: name.startswith("blocks."), keep)])).backward()
    zeros = {name: torch.zeros_like(activation) for name, activation in seen.items()}
    return {name: zeros[name] if value.grad is None else value.grad for name, value in seen.items()}


if __name__ == "__main__":
    main()
