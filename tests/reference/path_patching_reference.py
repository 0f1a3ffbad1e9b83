"""Path patching by plain forward passes with hooks (Goldowsky-Dill et al. 2023, arXiv 2304.05969).

A node is (site, layer, part): `part` is a head, a neuron, or None for all of it. Sites are TransformerLens' short names.
"""

from dataclasses import dataclass

import torch
from transformer_lens.utils import get_act_name

ATTENTION = ("q", "k", "v", "z")


@dataclass(frozen=True)
class Node:
    site: str
    layer: int
    part: int | None = None

    def index(self, positions):
        """Index of the node's entries at `positions`, a list of positions for every prompt."""
        rows = torch.arange(len(positions)).repeat_interleave(torch.tensor([len(p) for p in positions]))
        columns = torch.tensor([p for prompt in positions for p in prompt], dtype=torch.long)
        part = () if self.part is None else (self.part,)
        if self.site in ("pre", "post"):
            part = (..., *part)
        return (rows, columns, *part)

    @property
    def hook(self):
        return get_act_name(self.site, self.layer)


def order(node, parallel):
    """Place in the forward pass: a sender must come strictly before a receiver."""
    steps = {"resid_pre": 0, "q": 1, "k": 1, "v": 1, "pattern": 1, "z": 1, "attn_out": 2, "resid_mid": 3}
    steps |= {"pre": 1 if parallel else 4, "post": 4, "mlp_out": 5, "resid_post": 6}
    return 6 * node.layer + steps[node.site]


class PathPatching:
    def __init__(self, lens, own, other, metric):
        self.lens, self.own, self.metric = lens, own, metric
        self.own_cache = lens.run_with_cache(own)[1]
        self.other_cache = lens.run_with_cache(other)[1]
        self.all_positions = [list(range(own.shape[1]))] * own.shape[0]

    def after(self, senders, receivers):
        parallel = self.lens.cfg.parallel_attn_mlp
        return [r for r in receivers if any(order(s, parallel) < order(r, parallel) for s in senders)]

    def three_steps(self, senders, receivers, positions, mlps=True, layer_wide=False):
        """Heads (without `mlps` also the MLPs) keep their own output but for the senders; what arrives at the receivers
        is then patched into a second pass."""
        receivers = self.after(senders, split_patterns(receivers))
        stored = {}
        frozen = [(lambda name: name.endswith("hook_z"), self.freeze)]
        if not mlps:
            frozen.append((lambda name: name.endswith("mlp.hook_post"), self.freeze))
        store = [(node.hook, lambda value, hook: stored.__setitem__(hook.name, value.clone())) for node in receivers]
        sent = [(node.hook, self.send(node, positions)) for node in senders]
        self.lens.run_with_hooks(self.own, fwd_hooks=[*store, *frozen, *sent])

        def receive(node):
            def apply(value, hook):
                index = slice(None) if layer_wide else node.index(self.all_positions)
                value = value.clone()
                value[index] = stored[hook.name][index]
                return value

            return node.hook, apply

        return self.metric(self.lens.run_with_hooks(self.own, fwd_hooks=[receive(node) for node in receivers]))

    def freeze(self, value, hook):
        return self.own_cache[hook.name]

    def send(self, node, positions):
        index = node.index(positions)

        def apply(value, hook):
            value = value.clone()
            value[index] = self.other_cache[hook.name][index]
            return value

        return apply

    def two_steps(self, senders, receivers, positions):
        """The senders' change, as it is in the residual stream, is added to what the receivers read."""
        self.lens.set_use_split_qkv_input(True)
        hooks = []
        for sender in senders:
            change = self.change(sender, positions)
            for receiver in self.after([sender], split_patterns(receivers)):
                head = receiver.site in ATTENTION
                name = f"blocks.{receiver.layer}.hook_{receiver.site}_input" if head else receiver.hook
                hooks.append((name, self.add(change, receiver.part if head else None, head)))
        value = self.metric(self.lens.run_with_hooks(self.own, fwd_hooks=hooks))
        self.lens.set_use_split_qkv_input(False)
        return value

    def change(self, node, positions):
        """(prompts, positions, d_model): zero outside `positions`."""
        difference = self.other_cache[node.hook] - self.own_cache[node.hook]
        chosen = torch.zeros_like(difference)
        index = node.index(positions)
        chosen[index] = difference[index]
        block = self.lens.blocks[node.layer]
        if node.site == "z":
            return torch.einsum("bshd,hdm->bsm", chosen, block.attn.W_O)
        return chosen @ block.mlp.W_out if node.site == "post" else chosen

    @staticmethod
    def add(change, head, has_heads):
        def apply(value, hook):
            value = value.clone()
            if has_heads:
                value[:, :, slice(None) if head is None else slice(head, head + 1)] += change[:, :, None]
            else:
                value += change
            return value

        return apply


def split_patterns(receivers):
    """A pattern is received through its query and its key."""
    split = lambda node: [Node(site, node.layer, node.part) for site in ("q", "k")]
    return [part for node in receivers for part in (split(node) if node.site == "pattern" else [node])]


def path_cases(lens, clean, metric, tensors):
    """Adds `path.<number>` tensors; returns what they are."""
    corrupted = clean.roll(-1, 0)
    runs = {"noising": PathPatching(lens, clean, corrupted, metric)}
    runs["denoising"] = PathPatching(lens, corrupted, clean, metric)
    listed = []
    for number, case in enumerate(cases(lens, clean)):
        values = evaluate(runs[case["mode"]], case)
        tensors[f"path.{number}"] = values
        listed.append({"result": f"path.{number}", **case})
    return listed


def cases(lens, clean):
    """Senders or receivers of which one is swept, (positions, layer, part) or (layer, part); the others are lists."""
    layers, length = lens.cfg.n_layers, clean.shape[1]
    last = layers - 1
    grouped = lens.cfg.n_key_value_heads is not None and lens.cfg.n_key_value_heads != lens.cfg.n_heads
    final = [["resid_post", last, None]]
    per_prompt = [[(3 * p + 2 * i) % (length - 3) + 3 for i in range(2)] for p in range(clean.shape[0])]
    per_prompt = [sorted(set(p)) if len(set(p)) == 2 else [3, length - 1] for p in per_prompt]
    common = {"method": "three_step", "mode": "noising", "positions": "all", "layer_wide": False}
    sweep = lambda site, receivers, **others: {"sweep": "senders", "sites": [site], "fixed": receivers} | common | others
    receive = lambda site, senders, **others: {"sweep": "receivers", "sites": [site], "fixed": senders} | common | others
    found = [
        sweep("z", final),
        sweep("z", final, mode="denoising", positions="each"),
        sweep("z", [["v", 1, 1], ["v", last, 0]]),
        sweep("z", [["v", 1, 1], ["v", last, 0]], layer_wide=True),
        sweep("z", [["v", last, 1]], positions="each"),
        sweep("z", [["q", 1, 0], ["k", last, 1]], positions=per_prompt),
        sweep("z", [["pre", last, None]], positions=length - 1),
        sweep("z", [["pre", last, 3], ["pre", int(lens.cfg.parallel_attn_mlp), 4]], mode="denoising"),
        sweep("z", [["resid_pre", last, None]]),
        sweep("mlp_out", [["v", 1, 0]], positions="each"),
        sweep("attn_out", final, positions=per_prompt),
        sweep("resid_pre", [["v", last, 1]], positions="each"),
        sweep("resid_post", final, positions="each"),
        sweep("z", final, method="two_step"),
        sweep("z", [["v", last, 1], ["q", 1, 0]], method="two_step", mode="denoising"),
        sweep("z", [["k", 1, 0], ["v", last, 0]], method="two_step", positions="each"),
        sweep("mlp_out", [["v", last, 1], ["resid_pre", last, None]], method="two_step", positions=per_prompt),
        sweep("post", final, method="two_step", positions="all", layers=[0]),
        sweep("z", [["pre", last, None]], mlps=False),
        receive("v", [["z", 0, 1]]),
        receive("q", [["z", 0, 1], ["mlp_out", 0, None]], positions=length - 1, mode="denoising"),
        receive("k", [["z", 0, 0]], method="two_step"),
        receive("resid_post", [["mlp_out", 0, None]], positions=length - 1),
        receive("resid_pre", [["post", 0, 2], ["z", 0, 0]], method="two_step"),
    ]
    if not grouped:
        found += [sweep("z", [["pattern", last, 1]]), sweep("z", [["pattern", last, 0]], method="two_step")]
    if not lens.cfg.parallel_attn_mlp:
        found += [sweep("z", [["resid_mid", last, None]]), sweep("resid_mid", final, positions="each")]
    return found


def evaluate(run, case):
    """The tensor of a case: one value per swept node, in the shape (positions if each, layer, part if there are any)."""
    length = run.own.shape[1]
    each = case["positions"] == "each"
    positions = [[position] for position in range(length)] if each else [case["positions"]]
    values = []
    for at in positions:
        for node in swept(run.lens.cfg, case["sites"][0], case.get("layers")):
            fixed = [Node(*entry) for entry in case["fixed"]]
            senders, receivers = ([node], fixed) if case["sweep"] == "senders" else (fixed, [node])
            values.append(single(run, case, senders, receivers, per_prompt(at, run)))
    layers = len(case.get("layers") or range(run.lens.cfg.n_layers))
    shape = ([length] if each else []) + [layers] + ([-1] if has_parts(case["sites"][0]) else [])
    return torch.stack(values).reshape(shape)


def per_prompt(positions, run):
    """Positions of every prompt: `all`, one for all of them, or a list for each."""
    prompts = run.own.shape[0]
    if positions == "all":
        return run.all_positions
    if isinstance(positions, int):
        return [[positions]] * prompts
    return positions if isinstance(positions[0], list) else [positions] * prompts


def single(run, case, senders, receivers, positions):
    if not run.after(senders, split_patterns(receivers)):
        return run.metric(run.lens(run.own))
    if case["method"] == "two_step":
        return run.two_steps(senders, receivers, positions)
    return run.three_steps(senders, receivers, positions, case.get("mlps", True), case["layer_wide"])


def has_parts(site):
    return site in ("q", "k", "v", "z", "post", "pre")


def swept(cfg, site, layers):
    heads = {"q": cfg.n_heads, "z": cfg.n_heads, "k": cfg.n_key_value_heads or cfg.n_heads}
    heads |= {"v": heads["k"], "post": cfg.d_mlp, "pre": cfg.d_mlp}
    parts = range(heads[site]) if site in heads else [None]
    return [Node(site, layer, part) for layer in (layers or range(cfg.n_layers)) for part in parts]
