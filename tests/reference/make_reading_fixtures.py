"""Writes tests/fixtures/reading: residuals, heads and neurons read along directions, from TransformerLens in f64.

    python tests/reference/make_reading_fixtures.py [model ...]

Models and prompts are those of make_circuit_fixtures.py: the clean prompts are `tokens`, the corrupted ones the next.
Per model `<name>.safetensors`:
- `directions` (3, d_model), of unit length.
- `cosine`, `projection` (prompt, position behind BOS, layer, direction): of `blocks.0.hook_resid_pre` and every
  `blocks.{l}.hook_resid_post`.
- `neurons` (direction, layer, neuron): cosines of the rows of `W_out`.
- `heads.<run>` (layer, head) and `heads_by_position.<run>` (layer, head, position): mean over the prompts of what heads
  write along the first direction, turned round in every other prompt, through the final norm with its scale frozen
  (`apply_ln_to_stack`), at the last position or at each.
- `nodes` (n, 3): layer, head and position of some heads; `node_cosines` (n, n): cosines of their mean results of the clean
  less the corrupted run, turned round in every other prompt, each scaled by its layer's ln1 at that position.
"""

import torch
from safetensors.torch import save_file

import tiny_models
from make_circuit_fixtures import LENGTH, MODELS, prompts, stored
from tiny_models import FIXTURES

FOLDER = FIXTURES / "reading"
DIRECTIONS = 3


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    for seed, name, _, lens in tiny_models.committed(MODELS):
        generator = torch.Generator().manual_seed(900 + seed)
        directions = torch.randn((DIRECTIONS, lens.cfg.d_model), generator=generator)
        directions = torch.nn.functional.normalize(directions, dim=1).double()
        tokens = prompts(seed)
        clean, corrupted = (lens.run_with_cache(rows)[1] for rows in (tokens, tokens.roll(-1, 0)))
        tensors = {"directions": directions, "tokens": tokens}
        tensors |= tokens_along(lens, clean, directions)
        tensors["neurons"] = torch.einsum("lnd,kd->kln", torch.nn.functional.normalize(lens.W_out, dim=-1), directions)
        for run, cache in {"clean": clean, "corrupted": corrupted}.items():
            tensors |= {f"{map}.{run}": value for map, value in heads_along(lens, cache, directions[0]).items()}
        tensors |= node_cosines(lens, clean, corrupted)
        save_file({key: stored(value) for key, value in tensors.items()}, FOLDER / f"{name}.safetensors")
        print(name, {key: tuple(value.shape) for key, value in tensors.items()})


def tokens_along(lens, cache, directions):
    residuals = [cache["blocks.0.hook_resid_pre"]]
    residuals += [cache["resid_post", layer] for layer in range(lens.cfg.n_layers)]
    residuals = torch.stack(residuals, 2)[:, 1:]
    unit = torch.nn.functional.normalize(residuals, dim=-1)
    return {"cosine": unit @ directions.T, "projection": residuals @ directions.T}


def heads_along(lens, cache, direction):
    shape = (lens.cfg.n_layers, lens.cfg.n_heads)
    results = cache.apply_ln_to_stack(cache.stack_head_results(layer=-1), layer=-1)
    signs = torch.tensor([1.0, -1.0]).repeat(results.shape[1] // 2).double()
    along = torch.einsum("cbpd,d,b->cp", results, direction, signs) / len(signs)
    return {"heads": along[:, -1].reshape(shape), "heads_by_position": along.reshape(*shape, -1)}


def node_cosines(lens, clean, corrupted):
    heads = [(layer, head) for layer in range(lens.cfg.n_layers) for head in range(lens.cfg.n_heads)]
    nodes = [(layer, head, position) for layer, head in heads for position in (4, LENGTH - 1)]

    def scaled(cache, layer, head, position):
        scale = cache["scale", layer, "ln1"][:, position].reshape(-1, 1)
        return cache["result", layer][:, position, head] / scale

    means = []
    for node in nodes:
        changes = scaled(clean, *node) - scaled(corrupted, *node)
        signs = torch.tensor([1.0, -1.0]).repeat(len(changes) // 2).double()
        means.append((signs[:, None] * changes).mean(0))
    unit = torch.nn.functional.normalize(torch.stack(means), dim=1)
    return {"nodes": torch.tensor(nodes), "node_cosines": unit @ unit.T}


if __name__ == "__main__":
    main()
