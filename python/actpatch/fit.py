"""Directions between classes of prompts: every method at every layer and position of every dataset.

Every function takes the settings of the study ``fit-directions`` (`actpatch.studies.settings` lists them): ``train_sets``,
``test_sets``, ``positions``, ``layers`` (``"all"``, ``"2..5"``, ``[0, 3]``) and, for DAS, ``epochs``, ``batch_size``, ``learning_rate`` and
``early_stop``; and options of the model, such as ``seed`` and ``overwrite``. Directions that are there already are kept.
"""

from __future__ import annotations

from typing import Any, Sequence, Union

from .model import Model
from .results import Directions

__all__ = [
    "ccs",
    "das",
    "das2d",
    "das3d",
    "directions",
    "kmeans",
    "logistic_regression",
    "mean_diff",
    "pca",
    "random",
    "svd",
]


def directions(model: Model, methods: Union[str, Sequence[str]] = (), **settings: Any) -> Directions:
    """Directions by some methods; by all of them without any."""
    result = model.study("fit-directions", methods=methods or None, **settings)
    names = [fitted["name"] for fitted in result.json["directions"] if fitted["skipped"] is None]
    return Directions(result.folder, names, result)


def das(model: Model, **settings: Any) -> Directions:
    """Distributed alignment search: the direction along which patching restores the answers."""
    return directions(model, "das", **settings)


def das2d(model: Model, **settings: Any) -> Directions:
    """The same in two dimensions."""
    return directions(model, "das2d", **settings)


def das3d(model: Model, **settings: Any) -> Directions:
    """The same in three dimensions."""
    return directions(model, "das3d", **settings)


def kmeans(model: Model, **settings: Any) -> Directions:
    """Between the centres of two clusters."""
    return directions(model, "kmeans", **settings)


def mean_diff(model: Model, **settings: Any) -> Directions:
    """Between the means of the classes."""
    return directions(model, "mean_diff", **settings)


def pca(model: Model, **settings: Any) -> Directions:
    """The first principal component."""
    return directions(model, "pca", **settings)


def svd(model: Model, **settings: Any) -> Directions:
    """The first singular vector, of what is not centred."""
    return directions(model, "svd", **settings)


def logistic_regression(model: Model, **settings: Any) -> Directions:
    """The normal of a logistic regression between the classes."""
    return directions(model, "logistic_regression", **settings)


def random(model: Model, **settings: Any) -> Directions:
    """A random unit direction for every layer, to compare with."""
    result = model.study("random-directions", **settings)
    return Directions(result.folder, model.directions("random_direction*").names, result)


def ccs(model: Model, **settings: Any) -> Directions:
    """Contrast-consistent search: a direction of truth without labels (the study ``ccs``, with its own settings)."""
    result = model.study("ccs", **settings)
    return Directions(result.folder, model.directions("ccs_*").names, result)
