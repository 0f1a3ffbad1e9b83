"""What can be changed on the way through the model.

An intervention is a site, what happens there, and where: at all positions of all prompts, or at some. Positions are a
number for all prompts, one number per prompt, or a list of (prompt, position) pairs; negative ones count from the end.
Values have the site's shape: ``(d_model,)`` or ``(head, d_head)`` for the same everywhere, ``(batch, ...)`` for one per
prompt, ``(batch, pos, ...)`` for one per token, or a list of ``(pos, ...)`` for prompts of different lengths: what a cache
holds fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterable, List, Optional, Sequence, Tuple, Union

import numpy as np
from numpy.typing import NDArray

from .arrays import floats, integers, number
from .errors import SettingError
from .hooks import HookName

__all__ = ["Ablate", "Add", "Intervention", "Positions", "Replace", "Swap"]

#: All heads or neurons without it; a number, or several.
Numbers = Union[None, int, Sequence[int]]

#: All positions without it; a number; one per prompt; or (prompt, position) pairs.
Positions = Union[None, int, Sequence[int], Sequence[Tuple[int, int]], NDArray[np.integer[Any]]]


@dataclass(frozen=True, eq=False)
class Intervention:
    """Something that happens at a site; see `Replace`, `Add`, `Swap` and `Ablate`."""

    site: HookName


@dataclass(frozen=True, eq=False)
class Replace(Intervention):
    """``x := value``: activation patching, freezing, mean ablation."""

    value: Any
    positions: Positions = None
    heads: Numbers = None
    neurons: Numbers = None


@dataclass(frozen=True, eq=False)
class Add(Intervention):
    """``x += scale * value``: steering."""

    value: Any
    scale: float = 1.0
    positions: Positions = None
    heads: Numbers = None
    neurons: Numbers = None


@dataclass(frozen=True, eq=False)
class Swap(Intervention):
    """``x += R Rᵀ (value - x)``: the component along `directions`, ``(width,)`` or ``(width, k)`` of any length, is taken
    from `value` and the rest stays: directional patching, or directional ablation with a value of zeros."""

    value: Any
    directions: Any
    positions: Positions = None
    heads: Numbers = None


@dataclass(frozen=True, eq=False)
class Ablate(Intervention):
    """``x := 0``; along `directions`, ``(width,)`` or ``(width, k)``, if they are given: ``x -= R Rᵀ x``."""

    positions: Positions = None
    heads: Numbers = None
    neurons: Numbers = None
    directions: Any = None


def places(positions: Positions, lengths: Sequence[int], what: str) -> NDArray[np.int64]:
    """``(n, 2)``: prompt and position of every place."""
    n = len(lengths)
    if positions is None:
        every = np.empty((sum(lengths), 2), dtype=np.int64)
        every[:, 0] = np.repeat(np.arange(n), lengths)
        every[:, 1] = np.concatenate([np.arange(length) for length in lengths])
        return every
    given = integers(positions, f"positions of {what}")
    pairs = given.tolist()
    if given.ndim == 0:
        pairs = [(row, pairs) for row in range(n)]
    elif given.ndim == 1:
        if len(given) != n:
            raise SettingError(f"positions of {what}: expected one per prompt, {n}, found {len(given)}")
        pairs = list(enumerate(pairs))
    elif given.ndim != 2 or given.shape[1] != 2:
        raise SettingError(f"positions of {what}: expected (prompt, position) pairs, found shape {given.shape}")
    found = []
    for row, at in pairs:
        if not 0 <= row < n:
            raise SettingError(f"positions of {what}: expected a prompt of 0 to {n - 1}, found {row}")
        if not -lengths[row] <= at < lengths[row]:
            bounds = f"{-lengths[row]} to {lengths[row] - 1}"
            raise SettingError(f"positions of {what}: expected {bounds} in prompt {row}, found {at}")
        found.append((row, at % lengths[row]))
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _per_place(
    array: NDArray[np.float32], tail: Tuple[int, ...], where: NDArray[np.int64], lengths: Sequence[int]
) -> Optional[NDArray[np.float32]]:
    """The value of every place, ``(1, *tail)`` if it is the same everywhere, else ``(n, *tail)``; none if it has another shape."""
    n = len(lengths)
    if array.shape == tail:
        return array[None]
    if array.shape == (n, *tail):
        of_prompts: NDArray[np.float32] = array[where[:, 0]]
        return of_prompts
    longest = max(lengths)
    if array.shape not in ((n, longest, *tail), (1, longest, *tail)):
        return None
    return _taken(array.reshape((-1, *tail)), (where[:, 0] % len(array)) * longest + where[:, 1])


def _taken(values: NDArray[np.float32], index: NDArray[np.int64]) -> NDArray[np.float32]:
    """Some of the rows; the array as it is if they are all, in their turn."""
    found: NDArray[np.float32] = values if np.array_equal(index, np.arange(len(values))) else values[index]
    return found


def rows(
    value: Any, tails: Sequence[Tuple[int, ...]], where: NDArray[np.int64], lengths: Sequence[int], what: str
) -> Tuple[NDArray[np.float32], Tuple[int, ...]]:
    """The value of every place, and which of some shapes it has there."""
    if isinstance(value, (list, tuple)) and value and getattr(value[0], "ndim", 0) > 0:
        parts = [floats(part, f"value of {what}") for part in value]
        for tail in tails:
            if [part.shape for part in parts] == [(length, *tail) for length in lengths]:
                starts = np.cumsum([0, *lengths[:-1]])
                return _taken(np.concatenate(parts), starts[where[:, 0]] + where[:, 1]), tail
        expected = " or ".join(_several([(length, *tail) for length in lengths]) for tail in tails)
        found = _several([part.shape for part in parts])
        raise SettingError(f"value of {what}: expected a list of arrays of shapes {expected}, found {found}")
    array = floats(value, f"value of {what}")
    fits = [(given, tail) for tail in tails if (given := _per_place(array, tail, where, lengths)) is not None]
    if len(fits) == 1:
        return fits[0]
    n, pos = len(lengths), max(lengths)
    expected = " or ".join(f"{tail}, {(n, *tail)}, {(n, pos, *tail)}" for tail in tails)
    found = f"{array.shape}, which can be read in two ways" if fits else f"{array.shape}"
    raise SettingError(f"value of {what}: expected shape {expected}, found {found}")


def _several(shapes: Sequence[Tuple[int, ...]]) -> str:
    """Shapes, or how they begin."""
    shown = ", ".join(map(str, shapes[:4]))
    return f"[{shown}]" if len(shapes) <= 4 else f"[{shown}, ...] ({len(shapes)} of them)"


def basis(directions: Any, width: int, what: str) -> NDArray[np.float32]:
    """Rows of unit length, orthogonal to each other, that span what the columns of `directions` span."""
    array = floats(directions, f"directions of {what}")
    columns = array[:, None] if array.ndim == 1 else array
    if columns.ndim != 2 or columns.shape[0] != width or not 0 < columns.shape[1] <= width:
        raise SettingError(f"directions of {what}: expected shape ({width},) or ({width}, k), found {array.shape}")
    if not np.isfinite(columns).all():
        raise SettingError(f"directions of {what}: expected finite numbers, found others")
    orthogonal, scale = np.linalg.qr(columns.astype(np.float64))
    sizes = np.abs(np.diag(scale))
    if sizes.min() <= 1e-6 * max(sizes.max(), 1e-30):
        raise SettingError(f"directions of {what}: expected columns that are not zero and do not depend on each other")
    return np.ascontiguousarray(orthogonal.T, dtype=np.float32)


#: Hook name, head, neuron, places, operation, values, basis.
Edit = Tuple[
    str,
    Optional[int],
    Optional[int],
    NDArray[np.int64],
    str,
    Optional[NDArray[np.float32]],
    Optional[NDArray[np.float32]],
]


class Shapes:
    """What values a site has: the parts of a model's configuration that tell."""

    def __init__(self, n_heads: int, n_key_value_heads: int, d_model: int, d_head: int, d_mlp: int) -> None:
        self.n_heads = n_heads
        self.n_key_value_heads = n_key_value_heads
        self.d_model = d_model
        self.d_head = d_head
        self.d_mlp = d_mlp

    def heads(self, name: str) -> Optional[int]:
        """How many heads a site has, if it has any."""
        place = name.rsplit(".", 1)[-1]
        if place in ("hook_k", "hook_v", "hook_k_input", "hook_v_input"):
            return self.n_key_value_heads
        if place in ("hook_q", "hook_z", "hook_pattern", "hook_result", "hook_q_input"):
            return self.n_heads
        return None

    def tail(self, name: str) -> Tuple[int, ...]:
        """The shape of one token's values."""
        heads, place = self.heads(name), name.rsplit(".", 1)[-1]
        if heads is not None:
            wide = place in ("hook_result", "hook_q_input", "hook_k_input", "hook_v_input")
            return (heads, self.d_model if wide else self.d_head)
        return (self.d_mlp,) if name.endswith(("mlp.hook_pre", "mlp.hook_post")) else (self.d_model,)


def edits(name: str, intervention: Intervention, lengths: Sequence[int], shapes: Shapes) -> Iterable[Edit]:
    """What the engine does, a part of the site at a time."""
    if not isinstance(intervention, (Replace, Add, Swap, Ablate)):
        raise SettingError(f"interventions: expected Replace, Add, Swap or Ablate, found {intervention!r}")
    what = f"{type(intervention).__name__}({name!r})"
    where = places(intervention.positions, lengths, what)
    neurons = None if isinstance(intervention, Swap) else intervention.neurons
    if intervention.heads is not None and neurons is not None:
        raise SettingError(f"{what}: expected heads or neurons, found both")
    if intervention.heads is not None and shapes.heads(name) is None:
        raise SettingError(f"heads of {what}: expected a site with heads")
    if neurons is not None and not name.endswith(("mlp.hook_pre", "mlp.hook_post")):
        raise SettingError(f"neurons of {what}: expected mlp.hook_pre or mlp.hook_post")
    if name.endswith("hook_pattern"):
        return _pattern_edits(name, intervention, where, lengths, shapes, what)
    if isinstance(intervention, Ablate):
        return _ablations(name, intervention, where, shapes, what)
    return _changes(name, intervention, neurons, where, lengths, shapes, what)


def _numbers(numbers: Numbers, count: int, what: str) -> List[int]:
    """Heads or neurons of `count`, each once."""
    given = integers(numbers, what)
    listed: List[int] = given.reshape(-1).tolist()
    if given.ndim > 1 or not listed:
        raise SettingError(f"{what}: expected a number or a list of numbers, found {numbers!r}")
    for index in listed:
        if not 0 <= index < count:
            raise SettingError(f"{what}: expected 0 to {count - 1}, found {index}")
    if len(set(listed)) < len(listed):
        raise SettingError(f"{what}: expected each number once, found {listed}")
    return listed


def _by_heads(tail: Tuple[int, ...], rotation: Optional[NDArray[np.float32]], shapes: Shapes) -> bool:
    """Are heads changed one by one? So is what is as wide as the residual stream, and a subspace of a head."""
    return len(tail) == 2 and (rotation is not None or tail[1] != shapes.d_head)


def _ablations(
    name: str, intervention: Ablate, where: NDArray[np.int64], shapes: Shapes, what: str
) -> Iterable[Edit]:
    """Zeros, whole or along directions."""
    tail, heads, neurons = shapes.tail(name), intervention.heads, intervention.neurons
    operation, values, rotation = "zero", None, None
    if intervention.directions is not None:
        operation, values = "swap", np.zeros(tail[-1], dtype=np.float32)
        rotation = basis(intervention.directions, tail[-1], what).reshape(-1)
    if heads is None and _by_heads(tail, rotation, shapes):
        heads = range(tail[0])
    if heads is not None:
        for head in _numbers(heads, tail[0], f"heads of {what}"):
            yield (name, head, None, where, operation, values, rotation)
    elif neurons is not None:
        for neuron in _numbers(neurons, tail[0], f"neurons of {what}"):
            yield (name, None, neuron, where, operation, values, rotation)
    else:
        yield (name, None, None, where, operation, values, rotation)


def _changes(
    name: str,
    intervention: Union[Replace, Add, Swap],
    neurons: Numbers,
    where: NDArray[np.int64],
    lengths: Sequence[int],
    shapes: Shapes,
    what: str,
) -> Iterable[Edit]:
    """Values put in, added, or swapped along directions. One number takes its axis away, a list keeps it."""
    tail, heads = shapes.tail(name), intervention.heads
    operation, rotation = type(intervention).__name__.lower(), None
    if isinstance(intervention, Swap):
        rotation = basis(intervention.directions, tail[-1], what).reshape(-1)
    tails, numbers = [tail], None
    if heads is not None:
        numbers = _numbers(heads, tail[0], f"heads of {what}")
        tails.append(tail[1:] if np.ndim(heads) == 0 else (len(numbers), tail[1]))
    elif neurons is not None:
        numbers = _numbers(neurons, tail[0], f"neurons of {what}")
        tails.append((len(numbers),))
    given, part = rows(intervention.value, list(dict.fromkeys(tails)), where, lengths, what)
    scale = number(intervention.scale, f"scale of {what}") if isinstance(intervention, Add) else 1.0
    if scale != 1.0:
        # What does not fit becomes infinite, and is told of as that.
        with np.errstate(over="ignore"):
            given = given * np.float32(scale)
    if numbers is None and _by_heads(tail, rotation, shapes):
        numbers = list(range(tail[0]))
    if numbers is None:
        yield (name, None, None, where, operation, given.reshape(-1), rotation)
        return
    for place, index in enumerate(numbers):
        own = given
        if part == tail:
            own = given[:, index]
        elif len(part) == len(tail):
            own = given[:, place]
        head, neuron = (index, None) if neurons is None else (None, index)
        yield (name, head, neuron, where, operation, np.ascontiguousarray(own).reshape(-1), rotation)


def _pattern_edits(
    name: str,
    intervention: Intervention,
    where: NDArray[np.int64],
    lengths: Sequence[int],
    shapes: Shapes,
    what: str,
) -> Iterable[Edit]:
    """Attention probabilities: replaced by those of a cache, or by zero."""
    heads, n_heads = getattr(intervention, "heads"), shapes.n_heads
    numbers = list(range(n_heads)) if heads is None else _numbers(heads, n_heads, f"heads of {what}")
    if isinstance(intervention, Ablate) and intervention.directions is None:
        for head in numbers:
            yield (name, head, None, where, "zero", None, None)
        return
    if not isinstance(intervention, Replace):
        raise SettingError(f"{what}: expected Replace or Ablate at attention probabilities")
    parts = _patterns(intervention.value, (n_heads,), lengths, what)
    places = numbers
    if parts is None and heads is not None:
        alone = np.ndim(heads) == 0
        parts = _patterns(intervention.value, () if alone else (len(numbers),), lengths, what)
        places = list(range(len(numbers)))
        parts = [part[None] for part in parts] if alone and parts is not None else parts
    if parts is None:
        expected = _several([(n_heads, length, length) for length in lengths])
        raise SettingError(
            f"value of {what}: expected (head, query, key) of every prompt, {expected}, or of those heads alone, found other shapes"
        )
    for head, place in zip(numbers, places):
        yield (name, head, None, where, "replace", np.concatenate([parts[row][place, at] for row, at in where]), None)


def _patterns(
    value: Any, front: Tuple[int, ...], lengths: Sequence[int], what: str
) -> Optional[List[NDArray[np.float32]]]:
    """``(*front, query, key)`` of every prompt, without its padding; none if the value has another shape."""
    listed = value if isinstance(value, (list, tuple)) else floats(value, f"value of {what}")
    if getattr(listed, "ndim", 1) == 0 or len(listed) != len(lengths):
        return None
    longest, found = max(lengths), []
    for part, length in zip(listed, lengths):
        array = floats(part, f"value of {what}")
        if array.shape not in ((*front, length, length), (*front, longest, longest)):
            return None
        found.append(array[..., :length, :length])
    return found
