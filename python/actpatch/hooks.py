"""Hook names, as TransformerLens spells them."""

from __future__ import annotations

from typing import Optional, Tuple, Union

from .errors import SiteError

__all__ = ["HookName", "get_act_name"]

#: A whole hook name, or a short name with its layer.
HookName = Union[str, Tuple[str, int]]

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


def get_act_name(name: str, layer: Optional[int] = None) -> str:
    """The hook name of a short name: ``get_act_name("z", 3)`` is ``"blocks.3.attn.hook_z"``.

    Whole hook names stay as they are.

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
    return f"blocks.{layer}.{place}"


def full_name(name: HookName, n_layers: int) -> str:
    """The hook name that is meant; negative layers count from the end."""
    if isinstance(name, str):
        return get_act_name(name)
    if not (isinstance(name, tuple) and len(name) == 2 and isinstance(name[0], str)):
        raise SiteError(f"expected a hook name or (name, layer), found {name!r}")
    short, layer = name
    layer = int(layer)
    return get_act_name(short, layer + n_layers if layer < 0 else layer)
