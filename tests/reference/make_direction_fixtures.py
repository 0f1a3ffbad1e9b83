"""Writes tests/fixtures/directions/: fits of scikit-learn and PyTorch that the Rust code must reproduce.

Run from the repository's root:  python tests/reference/make_direction_fixtures.py
Versions: tests/reference/requirements.txt. All draws are seeded here.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch.nn.utils.parametrizations import orthogonal

OUT = Path(__file__).resolve().parents[1] / "fixtures" / "directions"

# n rows, of which `positive`, of d values; distance between the classes; scale of the noise along the rows.
CASES = {
    "tall": dict(n=60, positive=30, d=12, distance=4.0, scale=1.0, seed=1),
    "wide": dict(n=26, positive=13, d=96, distance=9.0, scale=1.0, seed=2),
    "unequal": dict(n=40, positive=11, d=33, distance=9.0, scale=1.5, seed=3),
    "overlap": dict(n=90, positive=40, d=7, distance=3.0, scale=1.0, seed=4),
    "large_norm": dict(n=22, positive=11, d=65, distance=250.0, scale=20.0, seed=5),
}


def embeddings(n, positive, d, distance, scale, seed):
    random = np.random.default_rng(seed)
    axis = random.normal(size=d)
    axis *= distance / np.linalg.norm(axis)
    labels = np.zeros(n, dtype=bool)
    labels[random.permutation(n)[:positive]] = True
    noise = random.normal(size=(n, d)) * scale * np.linspace(1.5, 0.5, d)
    x = noise + np.where(labels[:, None], 0.5, -0.5) * axis + random.normal(size=d) * 3
    x = x.astype(np.float32)
    same = np.flatnonzero(labels)[:2]
    x[same[1]] = x[same[0]]  # a duplicated row
    return x, labels


def oriented(direction, x, labels):
    return direction * np.sign(direction @ (x[labels].mean(0) - x[~labels].mean(0)))


def clusters_of(x):
    """Two k-means clusters; a case where ten starts miss the optimum would test nothing."""
    kmeans = KMeans(2, n_init=10, random_state=0).fit(x)
    optimum = KMeans(2, n_init=300, random_state=1, tol=0).fit(x).inertia_
    assert abs(kmeans.inertia_ - optimum) < 1e-6 * optimum, (kmeans.inertia_, optimum)
    return kmeans


def statistics(x, other, labels):
    """How many rows are right in sample and among others, as the paper's code counts them: by two clusters of the rows
    (mean_diff), or of their coordinates along one component (PCA and SVD)."""
    pca = PCA(n_components=1, svd_solver="full").fit(x)
    axis = np.linalg.svd(x, full_matrices=False)[2][:1]
    right = {}
    for method, place in {"mean_diff": lambda x: x, "pca": pca.transform, "svd": lambda x: x @ axis.T}.items():
        kmeans = clusters_of(place(x))
        positive = int(2 * (kmeans.labels_ == labels).sum() >= len(labels))
        right[method] = [int(((kmeans.predict(place(rows)) == positive) == labels).sum()) for rows in (x, other)]
    return right


def classical():
    tensors, facts = {}, {}
    for name, case in CASES.items():
        x32, labels = embeddings(**case)
        x = x32.astype(np.float64)
        # Other rows of the same classes, for the statistics out of sample.
        noise = np.random.default_rng(case["seed"] + 100).normal(size=x.shape) * 1.5 * case["scale"]
        other32 = (x + noise).astype(np.float32)
        kmeans = clusters_of(x)
        positive = int((kmeans.labels_ == labels).mean() >= 0.5)
        pca = PCA(2, svd_solver="full").fit(x)
        _, _, right = np.linalg.svd(x, full_matrices=False)
        logistic = LogisticRegression(C=1.0, solver="liblinear", tol=1e-4, max_iter=1000, random_state=0)
        logistic.fit(x, labels.astype(int))
        exact = LogisticRegression(C=1.0, solver="liblinear", tol=1e-11, max_iter=100000, random_state=0)
        exact.fit(x, labels.astype(int))
        tensors |= {
            f"{name}.x": x32,
            f"{name}.other": other32,
            f"{name}.labels": labels.astype(np.uint8),
            f"{name}.kmeans": kmeans.cluster_centers_[positive] - kmeans.cluster_centers_[1 - positive],
            f"{name}.mean_diff": x[labels].mean(0) - x[~labels].mean(0),
            f"{name}.pca": oriented(pca.components_[0], x, labels),
            f"{name}.pca_second": pca.components_[1],
            f"{name}.svd": oriented(right[0], x, labels),
            f"{name}.svd_second": right[1],
            f"{name}.logistic_regression": logistic.coef_[0],
            f"{name}.logistic_regression_exact": exact.coef_[0],
        }
        facts[name] = {
            "kmeans_correct": int(((kmeans.labels_ == positive) == labels).sum()),
            "logistic_correct": int((exact.predict(x).astype(bool) == labels).sum()),
            "logistic_intercept": float(exact.intercept_[0]),
            "right": statistics(x, other32.astype(np.float64), labels),
        }
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, OUT / "classical.safetensors")
    (OUT / "classical.json").write_text(json.dumps(facts, indent=1) + "\n")


class Rotate(torch.nn.Module):
    """Its free parameter is a Haar-random matrix, whose lower triangle the matrix exponential takes as it is."""

    def __init__(self, d):
        super().__init__()
        weight = torch.empty(d, d)
        torch.nn.init.orthogonal_(weight)
        self.weight = torch.nn.Parameter(weight)


def das():
    """20 steps of Adam with clipping on mean((R Rᵀ a - b)²) + mean(R * c), a toy loss with a dense gradient."""
    tensors = {}
    for d in (20, 65):
        for k in (1, 2, 3):
            torch.manual_seed(1000 * d + k)
            module = orthogonal(Rotate(d), "weight", orthogonal_map="matrix_exp", use_trivialization=False)
            parameter = module.parametrizations.weight.original
            a, b, c = torch.randn(8, d), torch.randn(8, d), torch.randn(d, k)
            # A loss steep enough for the clipping to bite in the first steps.
            scale = 30.0

            def loss_of(columns):
                return scale * (((a @ columns @ columns.T - b) ** 2).mean() + (columns * c).mean())

            def tensor(name, value):
                tensors[f"d{d}k{k}.{name}"] = value.detach().numpy().copy()

            tensor("start", parameter.tril(-1))
            tensor("a", a), tensor("b", b), tensor("c", c)
            # In f64, so that the difference to it is the rounding of the code under test alone.
            free = parameter.detach().double().requires_grad_()
            columns = torch.matrix_exp(free.tril() - free.tril().T)[:, :k]
            tensor("columns", columns)
            columns.backward(c.double())
            tensor("gradient", free.grad)
            assert torch.equal(free.grad, free.grad.tril(-1))
            optimiser = torch.optim.Adam(module.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
            losses, norms = [], []
            for _ in range(20):
                optimiser.zero_grad()
                loss = loss_of(module.weight[:, :k])
                loss.backward()
                norms.append(torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0).item())
                optimiser.step()
                losses.append(loss.item())
            assert norms[0] > 1.0
            tensors[f"d{d}k{k}.losses"] = np.array(losses, dtype=np.float64)
            tensors[f"d{d}k{k}.norms"] = np.array(norms, dtype=np.float64)
            tensor("final", module.weight[:, :k])
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, OUT / "das.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    classical()
    das()
