"""Hook names, as TransformerLens spells them."""

from __future__ import annotations

from typing import Any, Optional, Tuple, Union

import numpy as np

from .errors import SiteError

__all__ = ["HookName", "get_act_name"]

#: A whole hook name, or a short name with its layer; the part of the layer may stand behind it, as in ``("q", 0, "attn")``.
HookName = Union[str, Tuple[str, int], Tuple[str, int, str]]

_WITHOUT_LAYER = {
    "embed": "hook_embed",
    "pos_embed": "hook_pos_embed",
    "normalized": "ln_final.hook_normalized",
}
_ALIASES = {
    "attn": "pattern",
    "key": "k",
    "query": "q",
    "value": "v",
    "mlp_pre": "pre",
    "mlp_post": "post",
}
_PARTS = {"a": "attn", "attention": "attn", "m": "mlp", "b": "", "block": "", "blocks": ""}
_PLACES = {
    **{name: f"attn.hook_{name}" for name in ("q", "k", "v", "z", "pattern", "result")},
    **{name: f"mlp.hook_{name}" for name in ("pre", "post")},
    **{
        name: f"hook_{name}"
        for name in (
            "resid_pre",
            "resid_mid",
            "resid_post",
            "attn_out",
            "mlp_out",
            "q_input",
            "k_input",
            "v_input",
        )
    },
}


def get_act_name(name: str, layer: Optional[int] = None, layer_type: Optional[str] = None) -> str:
    """The hook name of a short name: ``get_act_name("z", 3)`` is ``"blocks.3.attn.hook_z"``.

    Whole hook names stay as they are. ``layer_type``, as in ``get_act_name("q", 3, "attn")``, has to be the one that it is.

    Raises:
        SiteError: a name that there is not, or one that needs a layer and has none.
    """
    if "hook_" in name:
        return name
    if name in _WITHOUT_LAYER:
        return _WITHOUT_LAYER[name]
    place = _PLACES.get(_ALIASES.get(name, name))
    if place is None:
        known = ", ".join([*_PLACES, *_WITHOUT_LAYER])
        raise SiteError(f"site {name!r}: expected a hook name, or one of {known}")
    if layer is None:
        raise SiteError(f"site {name!r}: expected its layer as well, as in ({name!r}, 0)")
    part = place.rpartition(".")[0]
    if layer_type is not None and _PARTS.get(layer_type, layer_type) != part:
        raise SiteError(f"site {(name, layer, layer_type)!r}: expected {part!r} behind the layer, or nothing")
    return f"blocks.{layer}.{place}"


def full_name(name: HookName, n_layers: int) -> str:
    """The hook name that is meant; negative layers count from the end."""
    if isinstance(name, str):
        return get_act_name(name)
    if not (isinstance(name, tuple) and len(name) in (2, 3) and isinstance(name[0], str)):
        raise SiteError(f"expected a hook name or (name, layer), found {name!r}")
    short, layer, *rest = name
    if not is_layer(layer) or layer < -n_layers:
        raise SiteError(f"site {name!r}: expected a layer of {-n_layers} to {n_layers - 1}, found {layer!r}")
    part: Any = rest[0] if rest else None
    return get_act_name(short, int(layer) % n_layers if layer < 0 else int(layer), part)


def is_layer(value: Any) -> bool:
    """Is it a number that a layer can have?"""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
