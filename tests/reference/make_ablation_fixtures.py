"""Writes tests/fixtures/ablation: ablations and circuit faithfulness, with TransformerLens hooks in f64.

    python tests/reference/make_ablation_fixtures.py [model ...]

Models, prompts and answers are those of tests/fixtures/circuits. Per model `results.safetensors` and `cases.json`:
- `direction.<layer>` (d_model, 1): a unit vector for the residual stream in front of every block and behind the last.
- `clean`, `corrupted` (prompts): logit differences at the last position, averaged over pairs.
- `ablation.<number>` (prompts): the same under case <number> of `cases.json`. A case has `nodes` (component, layer, head), what
  they hold instead (`method`), at which `positions`, perhaps only along the layer's direction, and perhaps with places
  that keep their clean values (`kept`) and frozen attention.
- `faithfulness.<setting>.<circuit|complement|full>` (prompts): the corrupted run with heads of the clean one.
`losses.safetensors` and `losses.json` tell of the loss of every next token:
- `places`: tokens that some cases ablate (`some`), none that all prompts share; the others ablate every token.
- `clean`, `loss.<number>` (prompts, positions - 1): as it is, and under case <number>, which replaces the residual in front of
  `layers` (behind the last one at the end), perhaps only along the layer's direction. Resampled is the prompt before (the
  last one for the first); means are those of the case's tokens in the first `means` prompts.
- `mean.<number>` (3): count and mean of the losses that are predicted from tokens that stay as they are (from all, if none
  does), as it is and under the case.
And `twins.safetensors` and `twins.json`, whose cases are ablations of directions too:
- `<number>.twin` (prompts): logit differences of the ablated run.
- `<number>.map.<name>`: `transformer_lens.patching` from the ablated run into the clean one, mean logit differences; the same
  of log probabilities of the correct tokens under `<number>.log_prob.<name>`.
- `<number>.dla.<map>`: logit attribution of the clean less the ablated run, as in make_attribution_fixtures.py.
"""

import json

import torch
from safetensors.torch import save_file

import tiny_models
from make_attribution_fixtures import logit_attribution
from make_circuit_fixtures import LENGTH, MAPS, MODELS, PROMPTS, answer_pairs, logit_difference, prompts, stored
from tiny_models import FIXTURES

EVERYWHERE = [list(range(LENGTH))] * PROMPTS
LISTS = [[4], [3, 6], [], [5, 6, 8]]
CIRCUIT = ((0, 1), (1, 0))
CIRCUIT_POSITIONS = {(0, 1): [3, 4], (1, 0): [LENGTH - 1]}


def along(nodes, method, positions):
    return dict(nodes=nodes, method=method, positions=positions, along=True, kept=None, frozen=False)


def twin_cases(layers):
    every = [["resid_pre", layer, None] for layer in range(layers)] + [["resid_post", layers - 1, None]]
    return [
        along([["resid_pre", 1, None]], "zero", EVERYWHERE),
        along([["resid_pre", 1, None]], "mean_over_places", LISTS),
        along(every, "mean", EVERYWHERE),
        along(every[1:], "zero", [[LENGTH - 1]] * PROMPTS),
    ]


def cases(layers):
    heads = [["z", 0, 1], ["z", 1, 0]]
    values = [["v", layer, None] for layer in range(layers)]
    every = [["resid_pre", layer, None] for layer in range(layers)] + [["resid_post", layers - 1, None]]
    case = lambda nodes, method, positions=EVERYWHERE, along=False, kept=None, frozen=False: dict(
        nodes=nodes, method=method, positions=positions, along=along, kept=kept, frozen=frozen
    )
    return [
        case(heads, "zero"),
        case([["mlp_out", 0, None], ["z", 1, 1]], "zero", [[5]] * PROMPTS),
        case([["pattern", 1, 0]], "zero", [[LENGTH - 1]] * PROMPTS),
        case(heads, "mean"),
        case([["post", 0, None], ["attn_out", 1, None]], "mean", LISTS),
        case([["resid_pre", 1, None]], "mean_over_places", LISTS),
        case(heads, "corrupted"),
        case(values, "corrupted", [[3, 4, 6]] * PROMPTS, kept=[[5, 7]] * PROMPTS, frozen=True),
        case(values, "corrupted", [[5, 7]] * PROMPTS, frozen=True),
        case(every, "zero", along=True),
        case(every, "zero", LISTS, along=True),
        case(every, "zero", along=True, frozen=True),
        case(every, "mean", along=True),
        case(every, "mean_over_places", LISTS, along=True),
        case(heads, "zero", along=True),
        case([["mlp_out", 1, None]], "corrupted", along=True),
        case([["resid_pre", 1, None], ["v", 1, 0]], "mean_of_other_class", LISTS),
        case(every, "mean_of_other_class", along=True, frozen=True),
    ]


def main():
    for seed, name, _, lens in tiny_models.committed(MODELS):
        tensors, listed = results(lens, seed)
        folder = FIXTURES / "ablation" / name
        folder.mkdir(parents=True, exist_ok=True)
        save_file({key: stored(value) for key, value in tensors.items()}, folder / "results.safetensors")
        (folder / "cases.json").write_text(lines(listed))
        losses, listed_losses = token_losses(lens, tensors)
        save_file({key: stored(value) for key, value in losses.items()}, folder / "losses.safetensors")
        (folder / "losses.json").write_text(lines(listed_losses))
        print(name, len(tensors), "tensors,", len(listed), "cases")
        found, listed = twins(lens, tensors)
        save_file({key: stored(value) for key, value in found.items()}, folder / "twins.safetensors")
        (folder / "twins.json").write_text(lines(listed))


def lines(cases):
    return "[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n"


def token_losses(lens, tensors):
    run = Runs(lens, tensors["tokens"], tensors["answers"], tensors)
    every = list(range(lens.cfg.n_layers + 1))
    case = lambda method, some=True, along=False, layers=every, means=PROMPTS: dict(
        method=method, some=some, along=along, layers=layers, means=means
    )
    listed = [
        case("zero", along=True),
        case("resample", along=True),
        case("resample", layers=[1]),
        case("zero", layers=every[1:]),
        case("mean_over_places"),
        case("mean_over_places", layers=every[1:], means=2),
        case("mean_over_places", along=True),
        case("mean_over_places", some=False, along=True),
        case("zero", some=False, along=True),
        case("resample", some=False, along=True),
    ]
    tokens = run.tokens
    found = {"places": torch.stack([tokens[0, 4], tokens[1, 5], tokens[3, 5]]), "clean": run.token_losses([])}
    for number, case in enumerate(listed):
        places = torch.isin(tokens, found["places"]) if case["some"] else torch.ones_like(tokens, dtype=bool)
        losses = run.token_losses(run.loss_hooks(case, places))
        counted = ~places[:, :-1] if case["some"] else places[:, :-1]
        means = [found["clean"][counted].mean(), losses[counted].mean()]
        found |= {f"loss.{number}": losses, f"mean.{number}": torch.stack([counted.sum().double(), *means])}
    return found, listed


def results(lens, seed):
    clean = prompts(seed)
    answers = answer_pairs(lens, clean)
    generator = torch.Generator().manual_seed(900 + seed)
    tensors = {"tokens": clean, "answers": answers}
    for layer in range(lens.cfg.n_layers + 1):
        direction = torch.randn(lens.cfg.d_model, 1, generator=generator)
        tensors[f"direction.{layer}"] = (direction / direction.norm()).double()
    run = Runs(lens, clean, answers, tensors)
    tensors["clean"] = run.differences(clean, [])
    tensors["corrupted"] = run.differences(clean.roll(-1, 0), [])
    listed = cases(lens.cfg.n_layers)
    for number, case in enumerate(listed):
        tensors[f"ablation.{number}"] = run.ablated(case)
    for setting in ("heads", "heads_positions", "heads_direction"):
        for part in ("circuit", "complement", "full"):
            tensors[f"faithfulness.{setting}.{part}"] = run.faithfulness(setting, part)
    return tensors, listed


def twins(lens, tensors):
    """The clean run patched with, and less, its own run with an ablation."""
    clean, answers = tensors["tokens"], tensors["answers"]
    run = Runs(lens, clean, answers, tensors)
    difference = lambda logits: logit_difference(logits, answers)
    right = lambda logits: logits[:, -1].log_softmax(-1).gather(1, answers[..., 0]).mean()
    whole = logit_attribution(lens, clean, answers)
    found, listed = {}, twin_cases(lens.cfg.n_layers)
    for number, case in enumerate(listed):
        hooks = run.hooks(case)
        found[f"{number}.twin"] = run.differences(clean, hooks)
        with lens.hooks(fwd_hooks=hooks):
            cache = lens.run_with_cache(clean)[1]
            ablated = logit_attribution(lens, clean, answers)
        for name, function in MAPS.items():
            found[f"{number}.map.{name}"] = function(lens, clean, cache, difference)
        found[f"{number}.log_prob.z"] = MAPS["z"](lens, clean, cache, right)
        found |= {f"{number}.dla.{name}": value - ablated[name] for name, value in whole.items()}
    return found, listed


class Runs:
    """The clean prompts with everything that ablations need of them and of their corrupted prompts."""

    def __init__(self, lens, clean, answers, tensors):
        self.lens, self.tokens, self.answers, self.tensors = lens, clean, answers, tensors
        self.clean = lens.run_with_cache(clean)[1]
        self.corrupted = lens.run_with_cache(clean.roll(-1, 0))[1]

    def differences(self, tokens, hooks):
        logits = self.lens.run_with_hooks(tokens, fwd_hooks=hooks)[:, -1]
        picked = logits.gather(1, self.answers.flatten(1)).reshape(self.answers.shape)
        return (picked[..., 0] - picked[..., 1]).mean(1)

    def direction(self, component, layer):
        return self.tensors[f"direction.{layer + (component == 'resid_post')}"]

    def ablated(self, case):
        return self.differences(self.tokens, self.hooks(case))

    def hooks(self, case):
        hooks = []
        for component, layer, head in case["nodes"]:
            along = self.direction(component, layer) if case["along"] else None
            name = hook_name("result" if case["along"] and component == "z" else component, layer)
            value = self.replacement(name, case["method"], case["positions"])
            hooks.append((name, write(case["positions"], head, value, along)))
            if case["kept"] is not None:
                hooks.append((name, write(case["kept"], head, self.clean[name], None)))
        if case["frozen"]:
            for layer in range(self.lens.cfg.n_layers):
                name = hook_name("pattern", layer)
                hooks.append((name, lambda value, hook: self.clean[hook.name]))
        return hooks

    def token_losses(self, hooks):
        logits = self.lens.run_with_hooks(self.tokens, fwd_hooks=hooks)[:, :-1]
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), self.tokens[:, 1:], reduction="none")

    def loss_hooks(self, case, places):
        last, hooks = self.lens.cfg.n_layers - 1, []
        for layer in case["layers"]:
            component, block = ("resid_pre", layer) if layer <= last else ("resid_post", last)
            clean = self.clean[hook_name(component, block)]
            source = {
                "zero": lambda: torch.zeros_like(clean),
                "resample": lambda: clean.roll(1, 0),
                "mean_over_places": lambda: clean[: case["means"]][places[: case["means"]]].mean(0).expand_as(clean),
            }[case["method"]]()
            along = self.direction(component, block) if case["along"] else None
            lists = [row.nonzero().flatten().tolist() for row in places]
            hooks.append((hook_name(component, block), write(lists, None, source, along)))
        return hooks

    def replacement(self, name, method, positions):
        clean = self.clean[name]
        if method == "zero":
            return torch.zeros_like(clean)
        if method == "corrupted":
            return self.corrupted[name]
        if method == "mean":
            return clean.mean(0, keepdim=True).expand_as(clean)
        places = [(prompt, clean[prompt, position]) for prompt, list_ in enumerate(positions) for position in list_]
        if method == "mean_of_other_class":  # Every second prompt is positive.
            means = [torch.stack([value for prompt, value in places if prompt % 2 != own]).mean(0) for own in (0, 1)]
            return torch.stack([means[prompt % 2].expand_as(clean[0]) for prompt in range(PROMPTS)])
        return torch.stack([value for _, value in places]).mean(0).expand_as(clean)

    def faithfulness(self, setting, part):
        """The corrupted run in which circuit heads (or all others, or all) have the clean run's values, or those of the
        corrupted run moved along the direction in front of their layer."""
        hooks = []
        for layer in range(self.lens.cfg.n_layers):
            for head in range(self.lens.cfg.n_heads):
                inside = list(range(LENGTH)) if (layer, head) in CIRCUIT else []
                if setting == "heads_positions":
                    inside = CIRCUIT_POSITIONS.get((layer, head), [])
                outside = [position for position in range(LENGTH) if position not in inside]
                chosen = {"circuit": inside, "complement": outside, "full": list(range(LENGTH))}[part]
                name = hook_name("result", layer)
                value = self.clean[name]
                if setting == "heads_direction":
                    along = self.direction("result", layer)
                    value = self.corrupted[name] + (value - self.corrupted[name]) @ along @ along.T
                hooks.append((name, write([chosen] * PROMPTS, head, value, None)))
        return self.differences(self.tokens.roll(-1, 0), hooks)


def hook_name(component, layer):
    inside = {"z": "attn", "v": "attn", "pattern": "attn", "result": "attn", "post": "mlp"}.get(component)
    return f"blocks.{layer}.{inside + '.' if inside else ''}hook_{component}"


def write(positions, head, source, along):
    """A hook that writes `source` at positions of every prompt; only its part along a direction if there is one."""

    def apply(value, hook):
        value = value.clone()
        pattern = hook.name.endswith("pattern")
        for prompt, places in enumerate(positions):
            for place in places:
                part = slice(None) if head is None else head
                at = (prompt, part, place) if pattern else (prompt, place, part) if value.dim() == 4 else (prompt, place)
                change = source[at] - value[at]
                value[at] += change if along is None else change @ along @ along.T
        return value

    return apply


if __name__ == "__main__":
    main()
