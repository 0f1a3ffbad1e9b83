"""Arrays from whatever holds numbers: numpy, torch, jax, lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import SettingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["floats", "host_array", "integers"]


def host_array(value: Any, what: str) -> NDArray[Any]:
    """`value` as a numpy array that shares its memory where it can; tensors by DLPack or ``__array__``."""
    if isinstance(value, np.ndarray):
        return value
    device = getattr(value, "device", None)
    kind = getattr(device, "type", None) or getattr(device, "platform", None)
    if kind not in (None, "cpu"):
        raise SettingError(f"{what}: expected values on the host, found a tensor on {device}: use .cpu()")
    if getattr(value, "requires_grad", False):
        value = value.detach()
    try:
        if hasattr(value, "__array__"):
            return np.asarray(value)
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        found = getattr(value, "dtype", type(value).__name__)
        raise SettingError(f"{what}: expected an array of numbers, found {found}: {error}") from error


def floats(value: Any, what: str) -> NDArray[np.float32]:
    """`value` as f32 in C order; lists of Python's numbers and floating-point arrays of any precision."""
    array = host_array(value, what)
    plain = not hasattr(value, "dtype")
    if array.dtype.kind != "f" and not (plain and array.dtype.kind in "iu"):
        raise SettingError(f"{what}: expected floating-point numbers, found {array.dtype}")
    return np.asarray(array, dtype=np.float32, order="C")


def integers(value: Any, what: str) -> NDArray[np.int64]:
    """`value` as i64 in C order; no floating-point numbers."""
    array = host_array(value, what)
    if array.size == 0:
        return np.zeros(array.shape, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise SettingError(f"{what}: expected whole numbers, found {array.dtype}")
    return np.asarray(array, dtype=np.int64, order="C")
