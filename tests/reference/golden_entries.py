"""Entries of golden files that the demo model and a real one have in common: settings of experiments of `verify`, and what
TransformerLens and scikit-learn give there."""

import json

import tokenizers
import torch

import make_dataset_fixtures as datasets
from real_model import centred, greedy

COMMA = ","


class Sets:
    """Datasets by name and texts as a tokenizer has them, behind BOS. Datasets are expanded as in make_dataset_fixtures.py."""

    def __init__(self, folder, bos, end):
        self.bos, self.end = bos, end
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.words = datasets.Words(self.tokenizer, 0, datasets.WORDS)

    def tokens(self, text):
        return [self.bos, *self.words.tokens(text)]

    def rows(self, name):
        return [self.tokens(datasets.fill(*prompt)[0]) for prompt in datasets.prompts_of(name, self.words)[0]]

    def described(self, name):
        return datasets.describe(name, self.words, self.bos)

    def commas(self):
        """All tokens that are a comma, with or without spaces around it."""
        tokens = range(self.tokenizer.get_vocab_size())
        return torch.tensor([token for token in tokens if self.tokenizer.decode([token]).strip() == COMMA])


def entry(source, name, experiment, tolerance, values, **settings):
    lines = ["[[golden]]", f"name = {json.dumps(name)}", f'source = "{source}"', f'experiment = "{experiment}"']
    tables = {key: value for key, value in settings.items() if isinstance(value, dict)}
    plain = {key: value for key, value in settings.items() if key not in tables}
    lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in plain.items()]
    lines.append(f"tolerance = {tolerance}")
    number = lambda value: json.dumps(value) if isinstance(value, list | int) else f"{value:.6f}"
    for table, content in (tables | {"values": values}).items():
        lines += [f"[golden.{table}]", *(f'"{key}" = {number(value)}' for key, value in content.items())]
    return "\n".join(lines) + "\n"


def written(name, told):
    """Numbers of a text from (token, log probability)."""
    ids = {f"{name} {place} id": token for place, (token, _) in enumerate(told)}
    return ids | {f"{name} {place}": value for place, (_, value) in enumerate(told)}


class Entries:
    """What is measured on a TransformerLens model, and where its numbers are from."""

    def __init__(self, lens, sets, source):
        self.lens, self.sets, self.source = lens, sets, source

    def entry(self, *arguments, **settings):
        return entry(self.source, *arguments, **settings)

    def token_ids(self, names):
        for name in names:
            about = self.sets.described(name)
            first = about["first_prompt"]
            values = {"prompts": about["n_prompts"], "tokens": about["length"], "sha256": int(about["sha256"][:12], 16)}
            values |= {f"0.{place}": first[place] for place in (0, 1, len(first) - 2, len(first) - 1)}
            # Whole numbers.
            yield self.entry(f"{name}: token ids", "token_ids", 0.1, values, dataset=name)

    def next_tokens(self, texts, fixed, tolerance):
        """Logits of the three likeliest tokens and of some fixed ones."""
        values = {}
        for number, text in enumerate(texts):
            logits = centred(self.lens(torch.tensor([self.sets.tokens(text)]))[0, -1])
            chosen = [*logits.topk(3).indices.tolist(), *fixed]
            values |= {f"{number}.{token}": logits[token].item() for token in chosen}
        yield self.entry(f"logits of {len(texts)} texts", "next_token_logits", tolerance, values, text=texts)

    def greedy(self, texts, count, tolerance):
        values = {}
        for number, text in enumerate(texts):
            values |= written(number, greedy(self.lens, self.sets.tokens(text), count, self.sets.end))
        settings = dict(text=texts, max_new_tokens=count)
        yield self.entry("greedy texts (ids, log probabilities)", "greedy_texts", tolerance, values, **settings)

    def cosines(self, train_set, directions):
        """Directions by layer and method, kept in ten thousandths of their length, which moves a cosine by less than 1e-6."""
        stored = {
            f"{method} {layer}": [round(10000 * value) for value in direction]
            for layer, methods in directions.items()
            for method, direction in methods.items()
        }
        name = "directions beside scikit-learn's (absolute cosines)"
        settings = dict(train_set=train_set, directions=stored)
        yield self.entry(name, "fitted_cosines", 0.00001, dict.fromkeys(stored, 1.0), **settings)

    def attributed(self, name, runs, tolerance):
        found = runs.attributed()
        values = {f"{layer}.{head}": found[layer, head].item() for layer, head in self.heads()}
        title = f"{name}: heads' z by their gradients (percent)"
        yield self.entry(title, "attribution_patching", tolerance, values, dataset=name, node="z")

    def heads(self):
        return [(layer, head) for layer in range(self.lens.cfg.n_layers) for head in range(self.lens.cfg.n_heads)]

    def ablations(self, name, runs, family, directions, tolerance):
        """`family` is what the directions of every layer are called."""
        clean = runs.clean_scores["logit"].mean().item()
        everywhere = torch.ones_like(runs.tokens, dtype=torch.bool)
        for positions, places in (("ALL", everywhere), ("COMMA", torch.isin(runs.tokens, self.sets.commas()))):
            for method in ("zero", "mean_over_places"):
                ablated = runs.ablated(directions, places, method)
                values = {"clean": clean, "ablated": ablated, "change": 100 * (ablated - clean) / clean}
                settings = dict(dataset=name, directions=family, method=method, positions=positions)
                title = f"{name}: directions of every layer ablated at {positions} ({method}; logits, percent)"
                yield self.entry(title, "ablation", tolerance, values, **settings)

    def steering(self, family, layer, direction, prompt, coefficients, tolerance):
        values = {}
        for coefficient in coefficients:
            added = (layer, coefficient * torch.tensor(direction))
            values |= written(coefficient, greedy(self.lens, self.sets.tokens(prompt), 12, self.sets.end, added))
        settings = dict(direction=f"{family}_layer{layer}", prompt=prompt, coefficients=coefficients, max_new_tokens=12)
        name = "greedy texts along a direction (ids, log probabilities)"
        yield self.entry(name, "steering", tolerance, values, **settings)

    def losses(self, family, directions, page, tolerance):
        """Where commas alone are ablated, what is predicted from one does not count."""
        for positions in ("ALL", "COMMA"):
            clean, ablated = [], []
            for text in page:
                tokens = torch.tensor([self.sets.tokens(text)])
                commas = torch.isin(tokens, self.sets.commas())
                hit = commas if positions == "COMMA" else torch.ones_like(commas)
                counted = (~commas if positions == "COMMA" else hit)[0, :-1]
                for kept, hooks in ((clean, []), (ablated, self.removed(directions, hit))):
                    logits = self.lens.run_with_hooks(tokens, fwd_hooks=hooks)[0, :-1]
                    kept.append(torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")[counted])
            clean, ablated = torch.cat(clean), torch.cat(ablated)
            values = {"tokens": len(clean), "clean": clean.mean().item(), "ablated": ablated.mean().item()}
            settings = dict(text=page, directions=family, method="zero", positions=positions)
            title = f"loss of a page without the directions of every layer at {positions} (nats)"
            yield self.entry(title, "text_loss", tolerance, values, **settings)

    def removed(self, directions, places):
        """Hooks that take the part along every layer's direction away at places (a mask of texts and positions)."""

        def without(layer):
            unit = torch.tensor(directions[layer])
            return lambda resid, hook: torch.where(places[..., None], resid - (resid @ unit)[..., None] * unit, resid)

        last = self.lens.cfg.n_layers
        hooks = [(f"blocks.{layer}.hook_resid_pre", without(layer)) for layer in range(last)]
        return [*hooks, (f"blocks.{last - 1}.hook_resid_post", without(last))]
