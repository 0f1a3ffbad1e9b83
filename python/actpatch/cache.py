"""The activations of a pass, by hook name."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
from numpy.typing import NDArray

from .errors import SettingError, SiteError
from .hooks import HookName, full_name

__all__ = ["ActivationCache", "Ragged"]

#: One array for prompts of one length, ``(batch, pos, ...)``; else a list of arrays, ``(pos, ...)`` each.
Ragged = Union[NDArray[np.float32], List[NDArray[np.float32]]]


class Batch:
    """How flat values of many tokens become arrays of prompts."""

    def __init__(self, lengths: Sequence[int], padding: Optional[str]) -> None:
        if padding not in (None, "right"):
            raise SettingError(f"padding: expected None or 'right', found {padding!r}")
        self.lengths = list(lengths)
        self.padding = padding
        self.ragged = len(set(self.lengths)) > 1

    @property
    def mask(self) -> NDArray[np.bool_]:
        """``(batch, longest)``: is there a token?"""
        return np.arange(max(self.lengths, default=0)) < np.asarray(self.lengths)[:, None]

    def tokens(self, flat: NDArray[Any], tail: Tuple[int, ...]) -> Any:
        """Values of every token: ``(batch, pos, *tail)``, a list of ``(pos, *tail)``, or padded with zeros."""
        if not self.ragged:
            return flat.reshape((len(self.lengths), self.lengths[0], *tail))
        rows = flat.reshape((-1, *tail))
        parts = np.split(rows, np.cumsum(self.lengths)[:-1])
        if self.padding is None:
            return parts
        padded = np.zeros((len(parts), max(self.lengths), *tail), dtype=flat.dtype)
        for place, part in zip(padded, parts):
            place[: len(part)] = part
        return padded

    def patterns(self, flat: NDArray[np.float32], n_heads: int) -> Any:
        """Attention probabilities: ``(batch, head, query, key)``, a list of ``(head, query, key)``, or padded."""
        if not self.ragged:
            length = self.lengths[0]
            return flat.reshape((len(self.lengths), n_heads, length, length))
        sizes = [n_heads * length * length for length in self.lengths]
        pieces = np.split(flat, np.cumsum(sizes)[:-1])
        parts = [part.reshape((n_heads, length, length)) for part, length in zip(pieces, self.lengths)]
        if self.padding is None:
            return parts
        longest = max(self.lengths)
        padded = np.zeros((len(parts), n_heads, longest, longest), dtype=flat.dtype)
        for place, part, length in zip(padded, parts, self.lengths):
            place[:, :length, :length] = part
        return padded


class ActivationCache(Mapping[HookName, Any]):
    """Activations by hook name, or by short name and layer: ``cache["resid_pre", 3]``, ``cache["pattern", -1]``.

    Arrays are ``(batch, pos, d_model)``; ``(batch, pos, head, d_head)`` at ``q``, ``k``, ``v`` and ``z``;
    ``(batch, pos, head, d_model)`` at ``result``; ``(batch, head, query, key)`` at ``pattern``. Of prompts of
    different lengths there is a list of arrays without the axis of the batch, or, with ``padding="right"``, one array with
    zeros behind the prompts' ends, which :attr:`mask` tells from values.
    """

    def __init__(self, values: Dict[str, Any], batch: Batch, n_layers: int) -> None:
        self._values = values
        self._batch = batch
        self._n_layers = n_layers

    @property
    def lengths(self) -> List[int]:
        """Tokens of every prompt."""
        return list(self._batch.lengths)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """``(batch, longest)``: is there a token?"""
        return self._batch.mask

    def __getitem__(self, key: HookName) -> Any:
        name = full_name(key, self._n_layers)
        try:
            return self._values[name]
        except KeyError:
            known = ", ".join(self._values) or "nothing"
            raise SiteError(f"{name} was not cached; there is {known}") from None

    def __contains__(self, key: object) -> bool:
        try:
            return full_name(key, self._n_layers) in self._values  # type: ignore[arg-type]
        except SiteError:
            return False

    def __iter__(self) -> Iterator[HookName]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"ActivationCache of {len(self._batch.lengths)} prompts with keys {list(self._values)}"
