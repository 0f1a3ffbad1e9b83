"""Names of files, and folders that last as long as what is made of them. What a first import can do without is imported when it is
needed."""

from __future__ import annotations

import os
import re
import weakref
from typing import Any

from .errors import SettingError

__all__ = ["TemporaryFolder", "file_name"]


def file_name(value: Any, what: str) -> str:
    """What can be the name of a file: letters, digits, ``_``, ``-`` and ``.``, which does not come first."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}", value):
        raise SettingError(f"{what}: expected up to 200 letters, digits, _, - and ., which does not come first, found {value!r}")
    return value


class TemporaryFolder:
    """A folder that goes when it is let go of, and with the process that made it: one that was forked off does not take it away."""

    def __init__(self) -> None:
        import tempfile

        self.name = tempfile.mkdtemp(prefix="actpatch-")
        self._end = weakref.finalize(self, _remove, self.name, os.getpid())

    def __enter__(self) -> str:
        return self.name

    def __exit__(self, *_: object) -> None:
        self._end()


def _remove(folder: str, process: int) -> None:
    import shutil

    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
