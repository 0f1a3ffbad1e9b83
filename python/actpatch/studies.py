"""Everything that a model can be asked for, by name: `Model.study` runs it, and the functions here are short names."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Sequence, Union

from . import _core
from .model import Model
from .results import Result

__all__ = ["ablate", "attention", "attribution", "logit_attribution", "logit_lens", "names", "neuroscope", "settings", "steering"]


def names() -> List[str]:
    """The names of all studies."""
    return _core.studies()


def settings(study: str) -> Dict[str, Any]:
    """The settings of a study with their defaults."""
    found: Dict[str, Any] = json.loads(_core.settings(study))
    return found


def attribution(model: Model, maps: Union[None, str, Sequence[str]] = None, **settings: Any) -> Result:
    """Attribution patching: `patch.maps` to first order, from one backward pass; ``exact=True`` computes both."""
    return model.study("attribution-patching", maps=maps, **settings)


def ablate(model: Model, **settings: Any) -> Result:
    """Ablates heads, neurons, residuals or directions together: the study ``ablation``."""
    return model.study("ablation", **settings)


def neuroscope(model: Model, texts: Union[None, str, Sequence[str]] = None, **settings: Any) -> Result:
    """Reads every token of texts along directions: the study ``neuroscope``."""
    return model.study("neuroscope", text=texts, **settings)


def logit_attribution(model: Model, **settings: Any) -> Result:
    """What layers, heads and neurons write along the answers: logit lens and direct logit attribution."""
    return model.study("logit-attribution", **settings)


def logit_lens(model: Model, texts: Union[None, str, Sequence[str]] = None, **settings: Any) -> Result:
    """What is predicted at every position and layer, of texts or of a dataset's clean, corrupted and patched runs."""
    return model.study("logit-lens", text=texts, **settings)


def attention(model: Model, **settings: Any) -> Result:
    """Where heads attend: mean, value-weighted and single patterns."""
    return model.study("attention", **settings)


def steering(model: Model, directions: Union[str, Sequence[str]], **settings: Any) -> Result:
    """Texts written while stored directions are added: direction x prompt x coefficient x sample."""
    return model.study("steering", directions=directions, **settings)
