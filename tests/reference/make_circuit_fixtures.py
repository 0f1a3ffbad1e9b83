"""Writes tests/fixtures/circuits: activation-patching maps and path patching, from TransformerLens in f64.

    python tests/reference/make_circuit_fixtures.py [model ...]

The models are those of tests/fixtures/engine, with processed weights. Per model `results.safetensors` and `cases.json`:
- `tokens` (prompts, positions): row i is the clean prompt i, its corrupted prompt is row i + 1, the last one's is row 0.
  All rows start with the same three tokens. `answers` (prompts, pairs, 2): correct and incorrect tokens.
- `map.<mode>.<name>`: results of `transformer_lens.patching`, as shaped there.
- `heads.<mode>`: `subspace` of the results of several heads swapped at once.
- `path.<number>`: path patching as `path_patching_reference.py` does it, see `cases.json`.
All values are logit differences at the last position, averaged over pairs and prompts. `log_prob.safetensors` has mean log
probabilities of the correct tokens: `map.<mode>.<name>` as above, and `path.<mode>` (layer, head) from every head's `z` to the
end of the residual stream. `along.safetensors` has the same of the product of `direction` (d_model) with
`ln_final.hook_normalized` at the last position, turned round in every other prompt; `unpatched.<mode>` is that of the run that
is patched.
"""

import json

import torch
from safetensors.torch import save_file
from transformer_lens import patching

import tiny_models
from engine_patches import orthonormal
from path_patching_reference import Node, PathPatching, path_cases
from tiny_models import FIXTURES

MODELS = ("gpt2-tiny", "neox-parallel", "neox-sequential", "llama-tiny", "mistral-tiny", "qwen3-tiny")
SHARED, LENGTH, PROMPTS, PAIRS = 3, 9, 4, 2
MAPS = {
    "z": patching.get_act_patch_attn_head_out_all_pos,
    "q": patching.get_act_patch_attn_head_q_all_pos,
    "k": patching.get_act_patch_attn_head_k_all_pos,
    "v": patching.get_act_patch_attn_head_v_all_pos,
    "pattern": patching.get_act_patch_attn_head_pattern_all_pos,
    "resid_pre": patching.get_act_patch_resid_pre,
    "attn_out": patching.get_act_patch_attn_out,
    "mlp_out": patching.get_act_patch_mlp_out,
    "z_by_position": patching.get_act_patch_attn_head_out_by_pos,
}
HEADS = ((0, 1), (1, 0), (1, 1))


def main():
    for seed, name, _, lens in tiny_models.committed(MODELS):
        tensors, cases = results(lens, seed)
        folder = FIXTURES / "circuits" / name
        folder.mkdir(parents=True, exist_ok=True)
        save_file({key: stored(value) for key, value in tensors.items()}, folder / "results.safetensors")
        for file, found in {"log_prob": log_probabilities(lens, seed), "along": along(lens, seed)}.items():
            save_file({key: stored(value) for key, value in found.items()}, folder / f"{file}.safetensors")
        lines = ",\n".join(json.dumps(case) for case in cases)
        (folder / "cases.json").write_text(f"[\n{lines}\n]\n")
        print(name, len(tensors), "tensors,", len(cases), "paths")


def stored(value):
    return value.contiguous() if value.dtype == torch.int64 else value.detach().float().contiguous()


def results(lens, seed):
    clean = prompts(seed)
    answers = answer_pairs(lens, clean)
    tensors = {"tokens": clean, "answers": answers, "subspace": orthonormal(lens.cfg.d_model, 2, seed)}
    tensors["subspace"] = tensors["subspace"].float().double()
    metric = lambda logits: logit_difference(logits, answers)
    for mode, (own, other) in {"denoising": (clean.roll(-1, 0), clean), "noising": (clean, clean.roll(-1, 0))}.items():
        cache = lens.run_with_cache(other)[1]
        tensors[f"unpatched.{mode}"] = metric(lens(own)).reshape(1)
        for name, function in MAPS.items():
            tensors[f"map.{mode}.{name}"] = function(lens, own, cache, metric)
        tensors[f"heads.{mode}"] = metric(swapped_heads(lens, own, cache, tensors["subspace"])).reshape(1)
    return tensors, path_cases(lens, clean, metric, tensors)


def log_probabilities(lens, seed):
    clean = prompts(seed)
    right = answer_pairs(lens, clean)[..., 0]
    return heads_and_paths(lens, clean, lambda logits: logits[:, -1].log_softmax(-1).gather(1, right).mean())


def along(lens, seed):
    clean = prompts(seed)
    direction = torch.randn(lens.cfg.d_model, generator=torch.Generator().manual_seed(800 + seed))
    direction = torch.nn.functional.normalize(direction, dim=0).double()
    signs = torch.tensor([1.0, -1.0]).repeat(PROMPTS // 2).double()
    last = {}
    keep = lambda value, hook: last.__setitem__("normalized", value[:, -1])
    lens.add_hook("ln_final.hook_normalized", keep, is_permanent=True)
    # Of the latest pass, whose logits the metric is given.
    metric = lambda logits: (signs * (last["normalized"] @ direction)).mean()
    tensors = {"direction": direction} | heads_and_paths(lens, clean, metric)
    for mode, own in {"denoising": clean.roll(-1, 0), "noising": clean}.items():
        tensors[f"unpatched.{mode}"] = metric(lens(own)).reshape(1)
    lens.reset_hooks(including_permanent=True)
    return tensors


def heads_and_paths(lens, clean, metric):
    end = [Node("resid_post", lens.cfg.n_layers - 1)]
    tensors = {}
    for mode, (own, other) in {"denoising": (clean.roll(-1, 0), clean), "noising": (clean, clean.roll(-1, 0))}.items():
        cache = lens.run_with_cache(other)[1]
        for name in ("z", "resid_pre"):
            tensors[f"map.{mode}.{name}"] = MAPS[name](lens, own, cache, metric)
        paths = PathPatching(lens, own, other, metric)
        through = lambda layer, head: paths.three_steps([Node("z", layer, head)], end, paths.all_positions)
        heads = [[through(layer, head) for head in range(lens.cfg.n_heads)] for layer in range(lens.cfg.n_layers)]
        tensors[f"path.{mode}"] = torch.tensor(heads)
    return tensors


def prompts(seed):
    generator = torch.Generator().manual_seed(700 + seed)
    tokens = torch.randint(1, tiny_models.VOCABULARY, (PROMPTS, LENGTH), generator=generator)
    tokens[:, 0] = 0
    tokens[:, :SHARED] = tokens[0, :SHARED]
    return tokens


def answer_pairs(lens, clean):
    """The tokens that the clean prompt raises most over the corrupted one, and those it lowers."""
    change = lens(clean)[:, -1] - lens(clean.roll(-1, 0))[:, -1]
    order = change.argsort(1, descending=True)
    return torch.stack([order[:, :PAIRS], order.flip(1)[:, :PAIRS]], 2)


def logit_difference(logits, answers):
    picked = logits[:, -1].gather(1, answers.flatten(1)).reshape(answers.shape)
    return (picked[..., 0] - picked[..., 1]).mean()


def swapped_heads(lens, own, cache, subspace):
    """Logits with the results of HEADS, at all positions, swapped along the subspace for those of the other run."""

    def hook(layer, head):
        def apply(value, hook):
            value = value.clone()
            change = cache[hook.name][:, :, head] - value[:, :, head]
            value[:, :, head] += change @ subspace @ subspace.T
            return value

        return f"blocks.{layer}.attn.hook_result", apply

    return lens.run_with_hooks(own, fwd_hooks=[hook(layer, head) for layer, head in HEADS])


if __name__ == "__main__":
    main()
