"""Writes tests/fixtures/attribution: logit lens and direct logit attribution, from TransformerLens in f64.

    python tests/reference/make_attribution_fixtures.py [model ...]

Models, prompts and answers are those of make_circuit_fixtures.py. Per model `<name>.safetensors`:
- `dla.<run>.<map>`: means over the prompts, at the last position, the final norm frozen (`apply_ln_to_stack`): `lens`
  (`accumulated_resid`), `lens_by_position` (layer, position), `layers` (`decompose_resid`), `heads`
  (`stack_head_results`) and `neurons` (`stack_neuron_results`) as (layer, head or neuron). The corrupted run is read
  along the clean prompts' answers.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import tiny_models
from make_circuit_fixtures import FIXTURES, MODELS, answer_pairs, prompts

FOLDER = FIXTURES / "attribution"


def main():
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(MODELS):
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        hf_model = AutoModelForCausalLM.from_pretrained(
            FIXTURES / "engine" / name, dtype=torch.float32, attn_implementation="eager"
        )
        lens = tiny_models.transformer_lens(name, hf_model, True)
        clean = prompts(seed)
        answers = answer_pairs(lens, clean)
        tensors = {}
        for run, tokens in {"clean": clean, "corrupted": clean.roll(-1, 0)}.items():
            tensors |= {f"dla.{run}.{map}": value for map, value in logit_attribution(lens, tokens, answers).items()}
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


if __name__ == "__main__":
    main()
