"""Arrays and numbers from whatever holds them: numpy, torch, jax, lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import SettingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["floats", "host_array", "integers", "number", "whole"]


def host_array(value: Any, what: str) -> NDArray[Any]:
    """`value` as a numpy array that shares its memory where it can; tensors by DLPack or ``__array__``."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, Mapping):
        raise SettingError(f"{what}: expected an array, found {type(value).__name__}: take one of what it holds, by its name")
    device = getattr(value, "device", None)
    kind = getattr(device, "type", None) or getattr(device, "platform", None)
    if kind not in (None, "cpu"):
        raise SettingError(f"{what}: expected values on the host, found a tensor on {device}: use .cpu()")
    if getattr(value, "requires_grad", False):
        value = value.detach()
    if hasattr(value, "resolve_neg"):
        value = value.resolve_neg()
    try:
        if hasattr(value, "__array__"):
            return np.asarray(value)
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        found = getattr(value, "dtype", type(value).__name__)
        advice = "use .float()" if str(found).endswith("bfloat16") else str(error)
        raise SettingError(f"{what}: expected an array of numbers, found {found}: {advice}") from error


def _found(array: NDArray[Any]) -> str:
    """What an array of the wrong kind holds: its type, or the first of things that have none in common."""
    return repr(array.reshape(-1)[0])[:80] if array.dtype == object and array.size else str(array.dtype)


def floats(value: Any, what: str) -> NDArray[np.float32]:
    """`value` as f32 in C order; lists of Python's numbers and floating-point arrays of any precision."""
    array = host_array(value, what)
    plain = not hasattr(value, "dtype")
    if array.dtype.kind != "f" and not (plain and array.dtype.kind in "iu"):
        raise SettingError(f"{what}: expected floating-point numbers, found {_found(array)}")
    if array.dtype.itemsize <= 4:
        found = np.asarray(array, dtype=np.float32, order="C")
    else:
        # What does not fit becomes infinite, and is told of as that.
        with np.errstate(over="ignore"):
            found = np.asarray(array, dtype=np.float32, order="C")
    return found if found.flags.aligned else found.copy()


def integers(value: Any, what: str) -> NDArray[np.int64]:
    """`value` as i64 in C order; no floating-point numbers."""
    array = host_array(value, what)
    if array.size == 0:
        return np.zeros(array.shape, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise SettingError(f"{what}: expected whole numbers, found {_found(array)}")
    if array.dtype == np.uint64 and int(array.max()) >= 2**63:
        raise SettingError(f"{what}: expected whole numbers below 2**63, found {array.max()}")
    found = np.asarray(array, dtype=np.int64, order="C")
    return found if found.flags.aligned else found.copy()


def number(value: Any, what: str) -> float:
    """A finite number."""
    if not isinstance(value, float):
        if isinstance(value, (str, bool)) or np.ndim(value) != 0:
            raise SettingError(f"{what}: expected a number, found {value!r}")
        try:
            value = float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise SettingError(f"{what}: expected a number, found {value!r}") from error
    if not np.isfinite(value):
        raise SettingError(f"{what}: expected a finite number, found {value}")
    return float(value)


def whole(value: Any, what: str, least: int) -> int:
    """A whole number of 32 bits that is not below `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= int(value) < 2**32:
        raise SettingError(f"{what}: expected a whole number from {least} on, found {value!r}")
    return int(value)
