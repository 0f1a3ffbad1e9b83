"""Names of files, and folders that last as long as what is made of them. What a first import can do without is imported when it is
needed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .errors import SettingError

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory

__all__ = ["file_name", "temporary_folder"]


def file_name(value: Any, what: str) -> str:
    """What can be the name of a file: letters, digits, ``_``, ``-`` and ``.``, which does not come first."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}", value):
        raise SettingError(f"{what}: expected up to 200 letters, digits, _, - and ., which does not come first, found {value!r}")
    return value


def temporary_folder() -> TemporaryDirectory[str]:
    """A folder that goes when it is let go of."""
    import tempfile

    return tempfile.TemporaryDirectory(prefix="actpatch-")
