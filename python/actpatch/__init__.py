"""Activation patching at speed: capture and patch activations, fit directions, and measure what they cause.

    >>> import actpatch
    >>> model = actpatch.Model("demo", progress=False)
    >>> logits, cache = model.run_with_cache("I thought this movie was great", names=["blocks.0.hook_resid_pre"])
    >>> cache["resid_pre", 0].shape == (1, logits.shape[1], model.cfg.d_model)
    True
"""

from __future__ import annotations

from . import datasets, errors, fit, patch, studies
from ._core import __version__
from .cache import ActivationCache
from .errors import ActpatchError
from .hooks import get_act_name
from .interventions import Ablate, Add, Intervention, Replace, Swap
from .model import Config, Model, Written
from .results import Direction, Directions, Plan, Result
from .studies import ablate, attention, attribution, logit_attribution, logit_lens, neuroscope, steering

__all__ = [
    "Ablate",
    "ActivationCache",
    "ActpatchError",
    "Add",
    "Config",
    "Direction",
    "Directions",
    "Intervention",
    "Model",
    "Plan",
    "Replace",
    "Result",
    "Swap",
    "Written",
    "__version__",
    "ablate",
    "attention",
    "attribution",
    "datasets",
    "errors",
    "fit",
    "get_act_name",
    "logit_attribution",
    "logit_lens",
    "neuroscope",
    "patch",
    "steering",
    "studies",
]
