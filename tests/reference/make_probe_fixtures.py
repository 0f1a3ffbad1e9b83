"""Writes tests/fixtures/probes.safetensors: linear probes of scikit-learn and contrast-consistent search by PyTorch, in f64.

    python tests/reference/make_probe_fixtures.py

- `<case>.x`, `.labels`: those of make_direction_fixtures.py with a constant feature behind them; `.weight`, `.bias`: the
  coefficients of StandardScaler and LogisticRegression (lbfgs, C = 1) for the features as they are.
- `ccs.positive`, `ccs.negative` (pairs, d): completions; `ccs.starts` (tries, d + 1); `ccs.losses`, `ccs.ends`: after
  EPOCHS steps of torch.optim.AdamW from each start; `ccs.labels`, `ccs.says`: what the best probe says of the pairs.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from make_direction_fixtures import CASES, embeddings

FILE = Path(__file__).resolve().parents[1] / "fixtures" / "probes.safetensors"
EPOCHS, TRIES, PAIRS, WIDTH = 200, 3, 24, 10


def main():
    tensors = contrast_consistent_search()
    for name in ("tall", "wide", "unequal"):
        x, labels = embeddings(**CASES[name])
        x = np.hstack([x, np.full((len(x), 1), 0.7, dtype=np.float32)])
        regression = LogisticRegression(C=1.0, solver="lbfgs", tol=1e-12, max_iter=100000)
        pipe = make_pipeline(StandardScaler(), regression).fit(x.astype(np.float64), labels)
        scaler = pipe[0]
        weight = regression.coef_[0] / scaler.scale_
        bias = regression.intercept_ - weight @ scaler.mean_
        tensors |= {f"{name}.x": x, f"{name}.labels": labels.astype(np.uint8), f"{name}.weight": weight, f"{name}.bias": bias}
    save_file(tensors, FILE)
    print(FILE, {name: value.shape for name, value in tensors.items()})


def contrast_consistent_search():
    random = np.random.default_rng(8)
    truth, label = random.normal(size=(2, WIDTH))
    labels = random.permutation(PAIRS) < PAIRS // 2
    shared = random.normal(size=(PAIRS, WIDTH))
    sign = np.where(labels, 1.0, -1.0)[:, None]
    positive = (shared + 0.8 * sign * truth + 2 * label + 0.3 * random.normal(size=shared.shape)).astype(np.float32)
    negative = (shared - 0.8 * sign * truth - 2 * label + 0.3 * random.normal(size=shared.shape)).astype(np.float32)
    centred = [torch.tensor(side, dtype=torch.float64) for side in (positive, negative)]
    centred = [side - side.mean(0) for side in centred]
    starts = random.uniform(-1, 1, size=(TRIES, WIDTH + 1)) / WIDTH**0.5
    losses, ends = zip(*(trained(centred, start) for start in starts))
    best = ends[int(np.argmin(losses))]
    p, q = (torch.sigmoid(side @ best[:-1] + best[-1]) for side in centred)
    return {
        "ccs.positive": positive, "ccs.negative": negative, "ccs.starts": starts, "ccs.losses": np.array(losses),
        "ccs.ends": torch.stack(ends).numpy(), "ccs.labels": labels.astype(np.uint8),
        "ccs.says": (0.5 * (p + 1 - q) > 0.5).numpy().astype(np.uint8),
    }  # fmt: skip


def trained(centred, start):
    parameters = torch.tensor(start).requires_grad_()
    optimiser = torch.optim.AdamW([parameters], lr=1e-3, weight_decay=0.01)

    def loss():
        p, q = (torch.sigmoid(side @ parameters[:-1] + parameters[-1]) for side in centred)
        return ((p - (1 - q)) ** 2).mean() + (torch.minimum(p, q) ** 2).mean()

    for _ in range(EPOCHS):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    return loss().item(), parameters.detach()


if __name__ == "__main__":
    main()
