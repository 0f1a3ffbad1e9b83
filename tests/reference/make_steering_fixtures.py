"""Writes tests/fixtures/steering: texts that tiny models write, from Hugging Face and TransformerLens.

    python tests/reference/make_steering_fixtures.py [model ...]

The models are those of tests/fixtures/engine. Per model `<name>.safetensors`:
- `prompt.<p>`: token ids of prompts of unequal length.
- `greedy.<p>`: what Hugging Face's `generate` continues with, in f32, greedily, with its own cache.
- `direction`: a unit vector, rounded to f32.
- `<case>.tokens` (prompt, coefficient, step) and `<case>.logits` (prompt, coefficient, step, d_vocab): greedy texts of
  TransformerLens in f64 with processed weights. Every token comes from a pass over the whole text, without a cache, in which
  hooks add COEFFICIENTS[c] times the direction at all positions of the sites of CASES.
The likeliest token of every step leads by MARGIN at least, so that rounding cannot change a text.
"""

import torch
from safetensors.torch import save_file

import tiny_models
from tiny_models import FIXTURES

LENGTHS, STEPS = (5, 9), 10
COEFFICIENTS = (-4.0, 6.0)
CASES = {
    "resid": ("blocks.0.hook_resid_post",),
    "outputs": ("blocks.0.hook_attn_out", "blocks.1.hook_mlp_out"),
}
MARGIN = 2e-3


def main():
    folder = FIXTURES / "steering"
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name, hf_model, lens in tiny_models.committed(tiny_models.CONFIGS):
        hf_model.generation_config.eos_token_id = None
        generator = torch.Generator().manual_seed(800 + seed)
        direction = torch.randn(lens.cfg.d_model, generator=generator, dtype=torch.float64)
        direction = (direction / direction.norm()).float()
        found = None
        while found is None:
            prompts = [torch.randint(1, tiny_models.VOCABULARY, (length,), generator=generator) for length in LENGTHS]
            found = texts(hf_model, lens, prompts, direction.double())
        save_file({"direction": direction} | found, folder / f"{name}.safetensors")
        print(name, {key: tuple(value.shape) for key, value in found.items()})


def texts(hf_model, lens, prompts, direction):
    """All tensors of a model, or None when some token leads by too little."""
    tensors, margins = {}, []
    for number, prompt in enumerate(prompts):
        prompt[0] = 0
        tensors[f"prompt.{number}"] = prompt
        output = hf_model.generate(
            prompt[None], attention_mask=torch.ones_like(prompt[None]), do_sample=False, max_new_tokens=STEPS,
            pad_token_id=0, return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        tensors[f"greedy.{number}"] = output.sequences[0, len(prompt):].contiguous()
        margins += [margin(logits[0]) for logits in output.logits]
    for case, sites in CASES.items():
        written = [[write(lens, prompt, sites, c * direction) for c in COEFFICIENTS] for prompt in prompts]
        stack = lambda part: torch.stack([torch.stack([pair[part] for pair in row]) for row in written])
        tensors |= {f"{case}.tokens": stack(0), f"{case}.logits": stack(1).float()}
        margins += [margin(logits) for logits in stack(1).flatten(0, 2)]
    return tensors if min(margins) > MARGIN else None


def margin(logits):
    first, second = logits.topk(2).values
    return (first - second).item()


def write(lens, prompt, sites, added):
    """A greedy text and the logits that each of its tokens was chosen by."""
    tokens, steps = prompt, []
    hooks = [(site, lambda value, hook: value + added) for site in sites]
    for _ in range(STEPS):
        logits = lens.run_with_hooks(tokens[None], fwd_hooks=hooks)[0, -1]
        steps.append(logits)
        tokens = torch.cat([tokens, logits.argmax()[None]])
    return tokens[len(prompt):], torch.stack(steps)


if __name__ == "__main__":
    main()
