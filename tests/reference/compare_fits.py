"""Prints how the directions that `fit-directions` has written for `simple_train` compare with scikit-learn's, layer by layer.

    python tests/reference/compare_fits.py FOLDER DATA_DIR/<model>

FOLDER is a Llama model as in make_real_model_golden.py. Of k-means: accuracy with 10 starts (scikit-learn's usual) and with
300, how far above the smaller one of both sums of squares either is, cosines of ours with either, and the adjectives of the
smaller cluster. Of the other methods: 1 less the absolute cosine.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans
from transformers import AutoModelForCausalLM

from golden_entries import Sets
from make_real_model_golden import BOS, END, TRAIN
from real_model import exactly, fits


def embeddings(folder):
    """At the adjective, of every layer; which prompts are positive; their adjectives."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    exactly(model)
    sets, kept = Sets(folder, BOS, END), []
    position = sets.described(TRAIN)["positions"]["ADJ"]
    keep = lambda _, inputs: kept.append(inputs[0][:, position].numpy().copy())
    for part in (*model.model.layers, model.model.norm):
        part.register_forward_pre_hook(keep)
    rows = sets.rows(TRAIN)
    model(torch.tensor(rows))
    words = np.array([sets.tokenizer.decode([row[position]]).strip() for row in rows])
    return kept, np.arange(len(rows)) % 2 == 0, words


def read(folder, method, layer):
    direction = np.load(folder / f"{method}_{TRAIN}_ADJ_layer{layer}.npy").astype(float).ravel()
    return direction / np.linalg.norm(direction)


def main():
    warnings.filterwarnings("ignore")
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    results = Path(sys.argv[2])
    kept, positive, words = embeddings(Path(sys.argv[1]))
    largest = {}
    print("layer  10 starts  300 starts  sum of squares, 10 and 300  ours, 10  ours, 300  smaller cluster")
    for layer, x in enumerate(kept):
        runs = [KMeans(2, n_init=10, random_state=0).fit(x), KMeans(2, n_init=300, random_state=1, tol=0).fit(x)]
        accuracy = [max((run.labels_ == positive).mean(), (run.labels_ != positive).mean()) for run in runs]
        least = min(run.inertia_ for run in runs)
        ours = read(results, "kmeans", layer)
        between = [np.diff(run.cluster_centers_, axis=0)[0] for run in runs]
        cosines = [abs(ours @ each) / np.linalg.norm(each) for each in between]
        above = [100 * (run.inertia_ / least - 1) for run in runs]
        shown = [f"{value:.1%}" for value in accuracy] + [f"+{value:.2f} %" for value in above]
        smaller = words[runs[1].labels_ == np.bincount(runs[1].labels_).argmin()]
        print(layer, *shown, *(f"{value:.3f}" for value in cosines), *smaller)
        theirs = fits(x, positive) | {"svd": np.linalg.svd(x, full_matrices=False)[2][0]}
        for method in ("mean_diff", "pca", "svd", "logistic_regression"):
            largest[method] = max(largest.get(method, 0), 1 - abs(read(results, method, layer) @ theirs[method]))
    print("largest 1 - |cosine|:", {method: f"{value:.1e}" for method, value in largest.items()})


if __name__ == "__main__":
    main()
