"""Activation patching: along directions, of heads and residuals, along paths.

Values are percent of the clean logit difference restored (``logit_diff``: clean patched into corrupted), or what other
``metrics`` say; what is there already, made of the same things, is kept.
"""

from __future__ import annotations

from typing import Any, Sequence, Union

from .model import Model
from .results import Directions, Result

__all__ = ["heads", "maps", "paths", "resid", "suite"]


def suite(model: Model, directions: Union[None, str, Sequence[str], Directions] = None, **settings: Any) -> Result:
    """Patches along stored directions: direction x dataset x position x metric.

    Args:
        directions: names or patterns (``"das_*"``), or what a fit has returned; all that are stored without it.
        settings: of the study ``direction-patching-suite``: ``eval_sets``, ``positions``, ``metrics``, ``layers``, ``heads``, ...

    Returns:
        A result whose ``to_pandas()`` has a row per cell.
    """
    named = directions.names if isinstance(directions, Directions) else directions
    return model.study("direction-patching-suite", directions=named, **settings)


def maps(model: Model, maps: Union[str, Sequence[str]], **settings: Any) -> Result:
    """Maps by name: ``z``, ``q``, ``k``, ``v``, ``pattern``, ``pre``, ``post`` (each also ``z_by_position``, ...), ``resid_pre``, ``resid_mid``,
    ``resid_post``, ``attn_out``, ``mlp_out``.

    Args:
        settings: of the study ``activation-patching-maps``: ``eval_sets``, ``metrics``, ``along``, ...
    """
    return model.study("activation-patching-maps", maps=maps, **settings)


def heads(model: Model, component: str = "z", *, by_position: bool = False, **settings: Any) -> Result:
    """Every head on its own, ``(layer, head)``, or ``(layer, position, head)``: ``get_act_patch_attn_head_out_all_pos`` and its kin.

    Args:
        component: what of the head: ``z``, ``q``, ``k``, ``v``, ``pattern``.
    """
    return maps(model, f"{component}_by_position" if by_position else component, **settings)


def resid(model: Model, component: str = "resid_pre", **settings: Any) -> Result:
    """Every layer and position on its own, ``(layer, position)``: ``get_act_patch_resid_pre`` and its kin.

    Args:
        component: ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out``, ``mlp_out``.
    """
    return maps(model, component, **settings)


def paths(
    model: Model, senders: Union[str, Sequence[str]], receivers: Union[str, Sequence[str]], **settings: Any
) -> Result:
    """Patches the paths from senders to receivers, as in ``senders="z", receivers="v:7.1,v:10.1"``.

    Args:
        settings: of the study ``path-patching``: ``eval_sets``, ``metrics``, ``method``, ...
    """
    return model.study("path-patching", senders=senders, receivers=receivers, **settings)
