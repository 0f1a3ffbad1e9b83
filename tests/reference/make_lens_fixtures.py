"""Writes tests/fixtures/lens: what the residual stream predicts at every layer, from Hugging Face.

    python tests/reference/make_lens_fixtures.py [model ...]

The models are those of tests/fixtures/engine, in f32 with their own weights. Per model `<name>.safetensors`:
- `tokens` (prompt, position): every prompt's corrupted one is the next.
- `columns` (d_model, 2): orthogonal unit columns, rounded to f32.
- `<run>` (prompt, position, layer, d_vocab): log probabilities, in f64 rounded to f32, of the model's own final norm and
  unembedding on the input of every block, and on that of the norm, which must give the model's logits. `clean` and `corrupted`
  as they are; `swap` and `whole` are the corrupted run with the clean one's residual in front of block LAYER at POSITIONS, along
  the columns or as a whole, put there by a hook of PyTorch.
"""

import torch
from safetensors.torch import save_file

import tiny_models
from tiny_models import FIXTURES

PROMPTS, LENGTH = 2, 6
LAYER, POSITIONS = 1, [2, 4]


def main():
    folder = FIXTURES / "lens"
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name, model, lens in tiny_models.committed(tiny_models.CONFIGS):
        generator = torch.Generator().manual_seed(900 + seed)
        tokens = torch.randint(1, tiny_models.VOCABULARY, (PROMPTS, LENGTH), generator=generator)
        columns = torch.linalg.qr(torch.randn(lens.cfg.d_model, 2, generator=generator, dtype=torch.float64)).Q.float()
        clean, residuals = run(model, tokens)
        patches = {"swap": columns @ columns.T, "whole": torch.eye(len(columns))}
        found = {"clean": clean, "corrupted": run(model, tokens.roll(-1, 0))[0]}
        for case, projection in patches.items():
            found[case] = run(model, tokens.roll(-1, 0), (projection, residuals[LAYER]))[0]
        tensors = {"tokens": tokens, "columns": columns} | found
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors")
        print(name, {key: tuple(value.shape) for key, value in tensors.items()})


def run(model, tokens, patch=None):
    """Log probabilities (prompt, position, layer, d_vocab), and the residual stream by layer; with a patch, the projection of
    what is patched and the residual that it comes from."""
    base = model.base_model
    blocks = base.h if hasattr(base, "h") else base.layers
    norm = next(getattr(base, key) for key in ("ln_f", "final_layer_norm", "norm") if hasattr(base, key))
    residuals = {}

    def enter(layer):
        def hook(_, arguments):
            resid, *rest = arguments
            if patch is not None and layer == LAYER:
                projection, source = patch
                resid = resid.clone()
                resid[:, POSITIONS] += (source - resid)[:, POSITIONS] @ projection
            residuals[layer] = resid
            return (resid, *rest)

        return hook

    hooks = [module.register_forward_pre_hook(enter(layer)) for layer, module in enumerate([*blocks, norm])]
    logits = model(tokens).logits
    for hook in hooks:
        hook.remove()
    stream = torch.stack([residuals[layer] for layer in range(len(blocks) + 1)], 2)
    read = model.get_output_embeddings()(norm(stream))
    assert (read[:, :, -1] - logits).abs().max() < 1e-5
    return read.double().log_softmax(-1).float(), residuals


if __name__ == "__main__":
    main()
