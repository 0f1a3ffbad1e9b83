"""Writes data/golden/demo.toml: experiments on the demo model, computed with TransformerLens and scikit-learn alone.

Run from the repository's root:  python tests/reference/make_golden_fixtures.py
Versions: tests/reference/requirements.txt. Everything is f64; directions are fitted with scikit-learn on TransformerLens'
activations, patched with TransformerLens' hooks, and the metrics are written out below.
"""

import re
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import GPT2LMHeadModel

import golden_entries
from demo_checks import PairedPrompts
from golden_entries import Entries, Sets
from real_model import Runs
from real_model import fits as unit_fits

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "data" / "models" / "demo"
OUT = ROOT / "data" / "golden" / "demo.toml"
SOURCE = "tests/reference/make_golden_fixtures.py: TransformerLens 3.9.0 in f64, scikit-learn 1.9.1"
entry = partial(golden_entries.entry, SOURCE)
TEXTS = [
    "I thought this movie was",
    "I thought this movie was great, I loved it.",
    "The traveller walked to their destination, and felt very bad.",
]


def load():
    """The demo model with processed weights."""
    hugging_face = GPT2LMHeadModel.from_pretrained(DEMO, dtype=torch.float64)
    theirs = hugging_face.config
    config = HookedTransformerConfig(
        n_layers=theirs.n_layer, d_model=theirs.n_embd, n_heads=theirs.n_head, d_head=theirs.n_embd // theirs.n_head,
        d_mlp=4 * theirs.n_embd, act_fn="gelu_new", eps=theirs.layer_norm_epsilon, n_ctx=theirs.n_positions,
        d_vocab=theirs.vocab_size, dtype=torch.float64, normalization_type="LN", device="cpu", seed=0,
        default_prepend_bos=False,
    )  # fmt: skip
    weights = {name: values.detach().clone() for name, values in convert_gpt2_weights(hugging_face, config).items()}
    lens = HookedTransformer(config)
    lens.load_and_process_state_dict(
        weights, fold_ln=True, center_writing_weights=True, center_unembed=True, fold_value_biases=True
    )
    return lens.eval().requires_grad_(False)


class Experiments:
    """Clean and corrupted runs of one dataset, and everything that is measured on them."""

    def __init__(self, lens, prompts, adjective):
        self.lens, self.prompts, self.adjective = lens, prompts, adjective
        logits, self.clean = lens.run_with_cache(prompts.tokens)
        corrupted_logits, self.corrupted = lens.run_with_cache(prompts.corrupted)
        self.clean_scores = self.scores(logits)
        self.corrupted_scores = self.scores(corrupted_logits)
        self.positive = torch.arange(len(prompts.tokens)) % 2 == 0

    def scores(self, logits):
        return self.prompts.logit_difference(logits[:, -1])

    def site(self, layer):
        last = layer == self.lens.cfg.n_layers
        return f"blocks.{layer - 1}.hook_resid_post" if last else f"blocks.{layer}.hook_resid_pre"

    def embeddings(self, layer):
        return self.clean[self.site(layer)][:, self.adjective].numpy()

    def patched(self, site, change):
        """Scores of the corrupted run with `change(activation, clean activation)` at a site."""
        hook = lambda activation, hook: change(activation.clone(), self.clean[site])
        return self.scores(self.lens.run_with_hooks(self.prompts.corrupted, fwd_hooks=[(site, hook)]))

    def along(self, layer, direction):
        """Scores with the part along a unit direction taken from the clean run, at the adjective."""
        unit = torch.tensor(direction / np.linalg.norm(direction))

        def change(activation, clean):
            here = activation[:, self.adjective]
            difference = (clean[:, self.adjective] - here) @ unit
            activation[:, self.adjective] = here + difference[:, None] * unit
            return activation

        return self.patched(self.site(layer), change)

    def recovered(self, scores):
        """Percent of the logit difference that denoising restores."""
        low, high = self.corrupted_scores.mean(), self.clean_scores.mean()
        return 100 * ((scores.mean() - low) / (high - low)).item()

    def accuracy(self, scores):
        """Share of prompts on the right side, once the bias towards one class is taken off."""
        signs = torch.where(self.positive, 1.0, -1.0)
        bias = (scores * signs).mean()
        return ((scores - bias * signs) > 0).double().mean()

    def flipped(self, scores):
        low, high = self.accuracy(self.corrupted_scores), self.accuracy(self.clean_scores)
        return 100 * ((self.accuracy(scores) - low) / (high - low)).item()

    def head(self, layer, head):
        """Recovery with one head's z at all positions."""

        def change(activation, clean):
            activation[:, :, head] = clean[:, :, head]
            return activation

        return self.recovered(self.patched(f"blocks.{layer}.attn.hook_z", change))

    def position(self, node, layer, position):
        """Recovery with one activation at one position."""

        def change(activation, clean):
            activation[:, position] = clean[:, position]
            return activation

        return self.recovered(self.patched(f"blocks.{layer}.hook_{node}", change))

    def direct(self, layer, head):
        """Noising by one head's path to the logits: all other heads keep their clean z, MLPs and norms are recomputed."""

        def freeze(activation, hook):
            activation = self.clean[hook.name].clone()
            if hook.layer() == layer:
                activation[:, :, head] = self.corrupted[hook.name][:, :, head]
            return activation

        hooks = [(lambda name: name.endswith("hook_z"), freeze)]
        scores = self.scores(self.lens.run_with_hooks(self.prompts.tokens, fwd_hooks=hooks))
        low, high = self.corrupted_scores.mean(), self.clean_scores.mean()
        return 100 * ((scores.mean() - high) / (high - low)).item()

    def written(self, kind):
        """What parts of the clean run write along the answers at the last position, the final norm frozen, in logits."""
        stack = {
            "lens": lambda: self.clean.accumulated_resid(layer=-1, incl_mid=True, pos_slice=-1, return_labels=True),
            "layers": lambda: self.clean.decompose_resid(layer=-1, pos_slice=-1, return_labels=True),
            "heads": lambda: self.clean.stack_head_results(layer=-1, pos_slice=-1, return_labels=True),
        }
        parts, labels = stack[kind]()
        parts = self.clean.apply_ln_to_stack(parts, layer=-1, pos_slice=-1)
        answers = self.lens.W_U.T[self.prompts.answers]
        along = (answers[:, :, 0] - answers[:, :, 1]).mean(1)
        values = torch.einsum("cpd,pd->cp", parts, along).mean(1)
        named = {re.sub(r"^L(\d+)H(\d+)$", r"\1.\2", label): value.item() for label, value in zip(labels, values)}
        assert len(named) == len(labels), labels
        return named

    def values_patched(self, layers, position, kept):
        """Mean logit difference with values of layers taken from the corrupted run at one position, clean at another,
        attention as it was."""

        def value(activation, hook):
            activation = activation.clone()
            activation[:, position] = self.corrupted[hook.name][:, position]
            activation[:, kept] = self.clean[hook.name][:, kept]
            return activation

        hooks = [(f"blocks.{layer}.attn.hook_v", value) for layer in layers]
        hooks += [(lambda name: name.endswith("hook_pattern"), lambda pattern, hook: self.clean[hook.name])]
        return self.scores(self.lens.run_with_hooks(self.prompts.tokens, fwd_hooks=hooks)).mean().item()


def fits(x, positive):
    """Directions by method, from positive to negative or of arbitrary sign."""
    kmeans = KMeans(2, n_init=10, random_state=0).fit(x).cluster_centers_
    exact = LogisticRegression(C=1.0, solver="liblinear", tol=1e-10, max_iter=100000, random_state=0)
    return {
        "kmeans": kmeans[1] - kmeans[0],
        "mean_diff": x[positive].mean(0) - x[~positive].mean(0),
        "pca": PCA(1, svd_solver="full").fit(x).components_[0],
        "svd": np.linalg.svd(x, full_matrices=False)[2][0],
        "logistic_regression": exact.fit(x, positive.astype(int)).coef_[0],
    }


def adjective_position(template, tokenizer):
    """The position of {ADJ}, BOS counted; every filler is one token."""
    before = re.sub(r"\{\w+:( \w+)\}", r"\1", template).split("{ADJ}")[0]
    pieces = re.split(r"\{\w+\}", before)
    return sum(len(tokenizer.encode(piece).ids) for piece in pieces) + len(pieces)


def texts(lens, train):
    """Tokens, texts, and directions of every layer ablated or added."""
    sets = Sets(DEMO, 0, 0)
    entries = Entries(lens, sets, SOURCE)
    test = Runs(lens, sets.rows("simple_test"), sets.described("simple_test")["answers"])
    layers = range(lens.cfg.n_layers + 1)
    directions = {layer: unit_fits(train.embeddings(layer), train.positive.numpy()) for layer in layers}
    family, each = "mean_diff_simple_train_ADJ", {layer: methods["mean_diff"] for layer, methods in directions.items()}
    yield from entries.token_ids(["simple_test", "mood_stories"])
    yield from entries.next_tokens(TEXTS, [0, 1, 100], 0.0001)
    yield from entries.greedy(TEXTS[:2], 6, 0.0001)
    yield from entries.cosines("simple_train", {2: directions[2]})
    yield from entries.attributed("simple_test", test, 0.001)
    yield from entries.ablations("simple_test", test, family, each, 0.001)
    yield from entries.steering(family, 2, each[2], TEXTS[0], [-8, 0, 8], 0.0001)
    # A dataset whose name is the beginning of another's: its directions are not taken for that one's.
    about = sets.described("simple")
    simple, position = Runs(lens, sets.rows("simple"), about["answers"]), about["positions"]["ADJ"]
    fitted = {at: unit_fits(simple.clean[simple.site(at)][:, position].numpy(), simple.positive.numpy()) for at in layers[:-1]}
    values = {
        f"mean_diff {at}": test.metric("logit_diff", test.along(at, methods["mean_diff"], position))
        for at, methods in fitted.items()
    }
    settings = dict(train_set="simple", eval_set="simple_test", metric="logit_diff", position="ADJ")
    yield entries.entry("simple_test: along directions of simple (percent)", "directional_patching", 0.001, values, **settings)
    yield from entries.losses(family, each, TEXTS[1:], 0.0001)


def main():
    tables = tomllib.loads((ROOT / "data" / "datasets.toml").read_text())
    words = tomllib.loads((ROOT / "data" / "words.toml").read_text())
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    bos = 0
    lens = load()
    names = ("simple_train", "simple_test", "simple_product")
    prompts = [PairedPrompts(tables[name], tokenizer, bos, words) for name in names]
    adjectives = [adjective_position(tables[name]["template"], tokenizer) for name in names]
    train, test, product = (Experiments(lens, *both) for both in zip(prompts, adjectives))
    entries = []
    for name, each in zip(names[1:], (test, product)):
        values = {"clean": each.clean_scores.mean().item(), "corrupted": each.corrupted_scores.mean().item()}
        entries.append(entry(f"{name}: logit difference", "baselines", 0.0001, values, dataset=name))
    layers = range(lens.cfg.n_layers)
    directions = {layer: fits(train.embeddings(layer), train.positive.numpy()) for layer in layers}
    for metric, measure in (("logit_diff", "recovered"), ("logit_flip", "flipped")):
        for name, each in zip(names[1:], (test, product)):
            values = {
                f"{method} {layer}": getattr(each, measure)(each.along(layer, direction))
                for layer in layers
                for method, direction in directions[layer].items()
            }
            for method in directions[0]:
                values[method] = max(values[f"{method} {layer}"] for layer in layers)
            settings = dict(train_set="simple_train", eval_set=name, metric=metric)
            # Shares of prompts are exact; the logistic regression's optimum is met to 1e-6.
            text = entry(f"{name}: {metric} along directions (percent)", "directional_patching", 0.001, values, **settings)
            entries.append(text)
    heads = [(layer, head) for layer in layers for head in range(lens.cfg.n_heads)]
    places = [(layer, position) for layer in layers for position in range(test.prompts.tokens.shape[1])]
    dataset = dict(dataset="simple_test")
    values = {f"{layer}.{head}": test.head(layer, head) for layer, head in heads}
    title = "simple_test: activation patching"
    entries.append(entry(f"{title}, heads' z (percent)", "activation_patching", 0.001, values, **dataset, node="z"))
    for node in ("resid_pre", "attn_out", "mlp_out"):
        values = {f"{layer}.{position}": test.position(node, layer, position) for layer, position in places}
        values = {key: value for key, value in values.items() if abs(value) > 1}
        name = f"{title}, {node} (layer.position, percent)"
        entries.append(entry(name, "activation_patching", 0.001, values, **dataset, node=node))
    values = {f"{layer}.{head}": test.direct(layer, head) for layer, head in heads}
    receivers = [f"resid_post:{lens.cfg.n_layers - 1}"]
    name = "simple_test: path patching to the logits (percent)"
    entries.append(entry(name, "path_patching", 0.001, values, **dataset, receivers=receivers))
    for kind in ("lens", "layers", "heads"):
        name = f"simple_test: direct logit attribution, {kind} (logits)"
        entries.append(entry(name, "logit_attribution", 0.0001, test.written(kind), **dataset, map=kind))
    some = [0, 3, 4]
    values = {"clean": test.clean_scores[some].mean().item(), "corrupted": test.corrupted_scores[some].mean().item()}
    name = "simple_test: logit difference of three prompts"
    entries.append(entry(name, "baselines", 0.0001, values, **dataset, prompts=some))
    clean, ablated = test.clean_scores.mean().item(), test.values_patched((1, 2), 6, 9)
    values = {"clean": clean, "ablated": ablated, "change": 100 * (ablated - clean) / clean}
    settings = dict(nodes=["v:1", "v:2"], method="corrupted", positions="ADJ", keep_at="VRB", frozen_attention=True)
    name = "simple_test: values patched, attention frozen (logits; percent)"
    entries.append(entry(name, "ablation", 0.001, values, **dataset, **settings))
    entries += texts(lens, train)
    head = "# Made by tests/reference/make_golden_fixtures.py. Tolerances: our f32 against its f64.\n"
    OUT.write_text(head + 'model = "demo"\n\n' + "\n".join(entries))


if __name__ == "__main__":
    main()
