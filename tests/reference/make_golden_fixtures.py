"""Writes data/golden/demo.toml: experiments on the demo model, computed with TransformerLens and scikit-learn alone.

Run from the repository's root:  python tests/reference/make_golden_fixtures.py
Versions: tests/reference/requirements.txt. Everything is f64; directions are fitted with scikit-learn on TransformerLens'
activations, patched with TransformerLens' hooks, and the metrics are written out below.
"""

import re
from pathlib import Path

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import GPT2LMHeadModel

from golden_entries import Entries, Sets
from real_model import Runs, fits

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "data" / "models" / "demo"
OUT = ROOT / "data" / "golden" / "demo.toml"
SOURCE = "tests/reference/make_golden_fixtures.py: TransformerLens 3.9.0 in f64, scikit-learn 1.9.1"
NAMES = ("simple_train", "simple_test", "simple_product")
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


class Demo(Runs):
    """Runs of the demo model, of which everything is kept."""

    KEPT = ("",)

    def position(self, node, layer, position):
        """Recovery with one activation at one position."""

        def change(activation, clean):
            activation[:, position] = clean[:, position]
            return activation

        return self.metric("logit_diff", self.patched(layer, f"blocks.{layer}.hook_{node}", change))

    def written(self, kind):
        """What parts of the clean run write along the answers at the last position, the final norm frozen, in logits."""
        clean = self.lens.run_with_cache(self.tokens)[1]
        stack = {
            "lens": lambda: clean.accumulated_resid(layer=-1, incl_mid=True, pos_slice=-1, return_labels=True),
            "layers": lambda: clean.decompose_resid(layer=-1, pos_slice=-1, return_labels=True),
            "heads": lambda: clean.stack_head_results(layer=-1, pos_slice=-1, return_labels=True),
        }
        parts, labels = stack[kind]()
        parts = clean.apply_ln_to_stack(parts, layer=-1, pos_slice=-1)
        answers = self.lens.W_U.T[self.answers]
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
        return self.scores(self.last_residual(self.clean, 0, hooks))["logit"].mean().item()


def texts(entries, runs, directions):
    """Tokens, texts, and directions of every layer ablated or added."""
    sets, test, layers = entries.sets, runs["simple_test"], range(entries.lens.cfg.n_layers)
    family, each = "mean_diff_simple_train_ADJ", {layer: methods["mean_diff"] for layer, methods in directions.items()}
    yield from entries.token_ids(["simple_test", "mood_stories"])
    yield from entries.next_tokens(TEXTS, [0, 1, 100], 0.0001)
    yield from entries.greedy(TEXTS[:2], 6, 0.0001)
    yield from entries.cosines("scikit-learn's", "simple_train", {2: directions[2]})
    yield from entries.attributed("simple_test", test, 0.001)
    yield from entries.ablations("simple_test", test, family, each, 0.001)
    yield from entries.steering(family, 2, each[2], TEXTS[0], [-8, 0, 8], 0.0001)
    # A dataset whose name is the beginning of another's: its directions are not taken for that one's.
    about = sets.described("simple")
    simple, position = Demo(entries.lens, sets.rows("simple"), about["answers"]), about["positions"]["ADJ"]
    fitted = {at: fits(simple.embeddings(at, position), simple.positive.numpy()) for at in layers}
    values = {
        f"mean_diff {at}": test.metric("logit_diff", test.along(at, methods["mean_diff"], position))
        for at, methods in fitted.items()
    }
    settings = dict(train_set="simple", eval_set="simple_test", metric="logit_diff", position="ADJ")
    yield entries.entry("simple_test: along directions of simple (percent)", "directional_patching", 0.001, values, **settings)
    yield from entries.losses(family, each, TEXTS[1:], 0.0001)


def cells(entries, runs, adjectives, directions):
    for metric in ("logit_diff", "logit_flip"):
        for name in NAMES[1:]:
            values = {
                f"{method} {layer}": runs[name].metric(metric, runs[name].along(layer, direction, adjectives[name]))
                for layer in range(entries.lens.cfg.n_layers)
                for method, direction in directions[layer].items()
            }
            for method in directions[0]:
                values[method] = max(value for key, value in values.items() if key.startswith(f"{method} "))
            settings = dict(train_set="simple_train", eval_set=name, metric=metric)
            # Shares of prompts are exact; the logistic regression's optimum is met to 1e-6.
            title = f"{name}: {metric} along directions (percent)"
            yield entries.entry(title, "directional_patching", 0.001, values, **settings)


def das_cells(entries, runs, adjectives, fitted):
    for name in NAMES[1:]:
        values = {
            f"das {layer}": runs[name].metric("logit_diff", runs[name].along(layer, direction, adjectives[name]))
            for layer, (_, direction) in fitted.items()
        }
        settings = dict(train_set="simple_train", eval_set=name, metric="logit_diff")
        yield entries.entry(f"{name}: along DAS directions (percent)", "directional_patching", 0.01, values, **settings)


def maps(entries, test):
    heads, layers = entries.heads(), range(entries.lens.cfg.n_layers)
    dataset = dict(dataset="simple_test")
    values = {f"{layer}.{head}": test.head(layer, head) for layer, head in heads}
    title = "simple_test: activation patching"
    yield entries.entry(f"{title}, heads' z (percent)", "activation_patching", 0.001, values, **dataset, node="z")
    places = [(layer, position) for layer in layers for position in range(test.tokens.shape[1])]
    for node in ("resid_pre", "attn_out", "mlp_out"):
        values = {f"{layer}.{position}": test.position(node, layer, position) for layer, position in places}
        values = {key: value for key, value in values.items() if abs(value) > 1}
        name = f"{title}, {node} (layer.position, percent)"
        yield entries.entry(name, "activation_patching", 0.001, values, **dataset, node=node)
    values = {f"{layer}.{head}": test.direct(layer, head) for layer, head in heads}
    receivers = [f"resid_post:{layers[-1]}"]
    name = "simple_test: path patching to the logits (percent)"
    yield entries.entry(name, "path_patching", 0.001, values, **dataset, receivers=receivers)
    for kind in ("lens", "layers", "heads"):
        name = f"simple_test: direct logit attribution, {kind} (logits)"
        yield entries.entry(name, "logit_attribution", 0.0001, test.written(kind), **dataset, map=kind)
    some = [0, 3, 4]
    clean, corrupted = (scores["logit"][some].mean().item() for scores in (test.clean_scores, test.corrupted_scores))
    name = "simple_test: logit difference of three prompts"
    yield entries.entry(name, "baselines", 0.0001, {"clean": clean, "corrupted": corrupted}, **dataset, prompts=some)
    clean, ablated = test.clean_scores["logit"].mean().item(), test.values_patched((1, 2), 6, 9)
    values = {"clean": clean, "ablated": ablated, "change": 100 * (ablated - clean) / clean}
    settings = dict(nodes=["v:1", "v:2"], method="corrupted", positions="ADJ", keep_at="VRB", frozen_attention=True)
    name = "simple_test: values patched, attention frozen (logits; percent)"
    yield entries.entry(name, "ablation", 0.001, values, **dataset, **settings)


def main():
    lens = load()
    sets = Sets(DEMO, 0, 0)
    entries = Entries(lens, sets, SOURCE)
    described = {name: sets.described(name) for name in NAMES}
    runs = {name: Demo(lens, sets.rows(name), described[name]["answers"]) for name in NAMES}
    adjectives = {name: described[name]["positions"]["ADJ"] for name in NAMES}
    train = runs["simple_train"]
    embeddings = [train.embeddings(layer, adjectives["simple_train"]) for layer in range(lens.cfg.n_layers + 1)]
    directions = {layer: fits(x, train.positive.numpy()) for layer, x in enumerate(embeddings)}
    fitted = {layer: train.das(layer, adjectives["simple_train"]) for layer in (0, 2)}
    tested = {name: runs[name] for name in NAMES[1:]}
    made = [
        *entries.baselines(tested),
        *cells(entries, runs, adjectives, directions),
        *maps(entries, runs["simple_test"]),
        *texts(entries, runs, directions),
        *entries.das("simple_train", fitted, {"cosine": 0.00001, "loss": 0.0001}),
        *das_cells(entries, runs, adjectives, fitted),
    ]
    head = "# Made by tests/reference/make_golden_fixtures.py. Tolerances: our f32 against its f64.\n"
    OUT.write_text(head + 'model = "demo"\n\n' + "\n".join(made))


if __name__ == "__main__":
    main()
