"""Writes tests/fixtures/engine: what the engine must compute, from Hugging Face and TransformerLens.

    python tests/reference/make_engine_fixtures.py [model ...]

Per tiny model a folder with the model itself, `unprocessed.safetensors`, `processed.safetensors` and `cases.json`,
which says what every tensor is. Logits of plain runs come from Hugging Face in f32 with eager attention; everything
else from TransformerLens and autograd in f64, rounded to f32 for the file. Prompts of unequal length are stored ragged:
all tokens of prompt 0, then prompt 1, and so on.

Tensors:
- `tokens`, `logits`: all prompts of `LENGTHS`, (tokens) and (tokens, d_vocab); with processed weights the logits are
  centred over the vocabulary. `tokens.left`, `attention_mask.left`, `position_ids.left`, and the same for `right`:
  what a padded batch is given.
- `site.<hook name>`: of the prompts `stored_prompts`, (tokens, …) as TransformerLens shapes them without the batch;
  patterns flattened (head, query, key) per prompt. `hook_q` and `hook_k` are those before the rotation, and
  `ln_final.hook_normalized` the one before gain and bias.
- `patch.*`: last position's logits, (prompts, d_vocab), of the corrupted `patch.tokens` (rolled by one row) under the
  interventions that `cases.json` lists: `replace` takes the clean value, `swap` the clean part in `patch.subspace`,
  `ablate_zero` and `ablate_mean` remove that part or put its mean over the prompts, `zero` and `mean` do so with all of
  the value, `add` adds `patch.vector`, `freeze` puts the value of the unpatched corrupted run.
- `grad.*`: see `engine_gradients.py`. `das.*`: see `das_reference.py`. Both use `patch.tokens` and `patch.answers`.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

import tiny_models
from das_reference import das_fits
from engine_gradients import gradient_cases
from engine_patches import patch_cases

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "engine"
LENGTHS = (7, 4, 11, 5, 9)
# Prompts whose activations are stored: the first two, and one with processed weights. All of them would be megabytes.
STORED = {"unprocessed": (0, 1), "processed": (1,)}
# The families behind the first three models are stored more sparsely, and gradients only where the backward pass
# differs: a gated MLP over RMS norms, a window, norms of queries and keys.
THOROUGH = ("gpt2-tiny", "neox-parallel", "neox-sequential")
GRADIENTS = (*THOROUGH, "llama-tiny", "mistral-tiny", "qwen3-tiny")
SITES_OF_MODEL = ("hook_embed", "hook_pos_embed", "ln_final.hook_normalized")
SITES_OF_BLOCK = (
    "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn.hook_q",
    "attn.hook_k", "attn.hook_v", "attn.hook_z", "attn.hook_pattern", "attn.hook_result", "mlp.hook_pre",
    "mlp.hook_post",
)  # fmt: skip
# Measured 1e-6 to 4e-6: f32 logits of order 5.
HUGGING_FACE_TOLERANCE = 3e-5


def main():
    torch.set_num_threads(1)
    for seed, name in enumerate(tiny_models.CONFIGS):
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        print(name)
        hf_model = tiny_models.hugging_face(name, seed)
        tiny_models.save(hf_model, name, FOLDER / name)
        generator = torch.Generator().manual_seed(100 + seed)
        ragged = [torch.randint(1, tiny_models.VOCABULARY, (length,), generator=generator) for length in LENGTHS]
        for prompt in ragged:
            prompt[0] = 0  # Beginning of sequence: id 0 is a real token, padding has the same id.
        index = {"lengths": LENGTHS, "seed": seed}
        for weights in ("unprocessed", "processed"):
            lens = tiny_models.transformer_lens(name, hf_model, weights == "processed")
            tensors, index[weights] = fixtures(name, hf_model, lens, weights, ragged, seed)
            save_file({key: stored(value) for key, value in tensors.items()}, FOLDER / name / f"{weights}.safetensors")
        (FOLDER / name / "cases.json").write_text(one_case_a_line(index))
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    print(f"{size / 1e6:.2f} MB in {FOLDER}")


def one_case_a_line(index):
    """The index as JSON, a line per element of every list of cases."""
    lines = lambda cases: "[\n" + ",\n".join("   " + json.dumps(case) for case in cases) + "\n  ]"
    part = lambda part: (
        "{\n" + ",\n".join(f"  {json.dumps(key)}: {lines(value)}" for key, value in part.items()) + "\n }"
    )
    entry = lambda value: part(value) if isinstance(value, dict) else json.dumps(value)
    return "{\n" + ",\n".join(f" {json.dumps(key)}: {entry(value)}" for key, value in index.items()) + "\n}\n"


def stored(value):
    return value.contiguous() if value.dtype == torch.int64 else value.detach().float().contiguous()


def fixtures(name, hf_model, lens, weights, ragged, seed):
    """(tensors, index) of one model with one kind of weights."""
    tensors = {"tokens": torch.cat(ragged)}
    index = {"stored_prompts": STORED[weights]}
    if weights == "unprocessed":
        tensors |= padded_inputs(hf_model, ragged)
    else:
        centred = [logits - logits.mean(-1, keepdim=True) for logits in unpadded_logits(hf_model, ragged)]
        tensors["logits"] = torch.cat(centred)
    compare(lens, weights, ragged, tensors["logits"])
    index["sites"] = sites(lens, [ragged[prompt] for prompt in STORED[weights]], tensors)
    prompts = equal_prompts(seed)
    pairs = answers(hf_model, prompts)
    tensors |= {"patch.tokens": prompts, "patch.answers": pairs}
    thorough = weights == "unprocessed" and name in THOROUGH
    # Processing is the same for all patches: with processed weights, a few of them do.
    every = 1 if name in THOROUGH or weights == "unprocessed" else 7
    index["patches"] = patch_cases(lens, prompts, seed, tensors, thorough, every)
    index["gradients"] = []
    if name in GRADIENTS:
        from_start = weights == "unprocessed"
        index["gradients"] = gradient_cases(lens, prompts, pairs, seed, tensors, thorough, from_start)
    if weights == "unprocessed" and lens.cfg.n_layers > 2:
        index["das"] = das_fits(lens, prompts, pairs, seed, tensors)
    return tensors, index


def unpadded_logits(hf_model, ragged):
    return [hf_model(prompt[None]).logits[0] for prompt in ragged]


def padded_inputs(hf_model, ragged):
    """Tokens and masks padded on either side, and the logits of every real token, which padding must not change."""
    width = max(map(len, ragged))
    logits = unpadded_logits(hf_model, ragged)
    tensors = {"logits": torch.cat(logits)}
    for side in ("left", "right"):
        tokens = torch.zeros(len(ragged), width, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, prompt in enumerate(ragged):
            real = slice(width - len(prompt), width) if side == "left" else slice(0, len(prompt))
            tokens[row, real], mask[row, real] = prompt, 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        padded = hf_model(tokens, attention_mask=mask, position_ids=positions).logits
        worst = max((padded[row][mask[row] == 1] - logits[row]).abs().max().item() for row in range(len(ragged)))
        print(f"  Hugging Face, padded on the {side} against unpadded: {worst:.1e}")
        assert worst < HUGGING_FACE_TOLERANCE
        tensors |= {f"tokens.{side}": tokens, f"attention_mask.{side}": mask, f"position_ids.{side}": positions}
    return tensors


def compare(lens, weights, ragged, expected):
    """TransformerLens must agree with Hugging Face; a processed unembedding is centred over the vocabulary."""
    logits = torch.cat([lens(prompt[None])[0] for prompt in ragged])
    if weights == "processed":
        logits = logits - logits.mean(-1, keepdim=True)
    error = (logits - expected).abs().max().item()
    print(f"{weights}: TransformerLens against Hugging Face {error:.1e}, logits up to {expected.abs().max():.1f}")
    assert error < HUGGING_FACE_TOLERANCE


def sites(lens, ragged, tensors):
    """Adds `site.<hook name>` for every site; returns the names. Patterns are flattened per prompt, then joined."""
    caches = [lens.run_with_cache(prompt[None])[1] for prompt in ragged]
    names = [f"blocks.{layer}.{site}" for layer in range(lens.cfg.n_layers) for site in SITES_OF_BLOCK]
    names = [name for name in [*SITES_OF_MODEL, *names] if name in caches[0].cache_dict]
    for name in names:
        values = [cache[name][0] for cache in caches]
        tensors[f"site.{name}"] = torch.cat([v.flatten() if name.endswith("pattern") else v for v in values])
    return names


def equal_prompts(seed, count=4, length=9):
    """Prompts for patching: row i is the clean prompt i, its corrupted prompt is row i + 1, the last one's is row 0."""
    prompts = torch.randint(
        1, tiny_models.VOCABULARY, (count, length), generator=torch.Generator().manual_seed(200 + seed)
    )
    prompts[:, 0] = 0
    return prompts


def answers(hf_model, prompts, pairs=2):
    """(prompts, pairs, 2): the tokens that the clean prompt raises most over the corrupted one, and those it lowers."""
    change = hf_model(prompts).logits[:, -1] - hf_model(prompts.roll(-1, 0)).logits[:, -1]
    order = change.argsort(1, descending=True)
    return torch.stack([order[:, :pairs], order.flip(1)[:, :pairs]], 2)


if __name__ == "__main__":
    main()
