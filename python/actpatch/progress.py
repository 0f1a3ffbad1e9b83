"""What is told while something is computed: bars, notes and warnings."""

from __future__ import annotations

import warnings
from typing import Any, Callable, Optional, Union

__all__ = ["Listener", "Progress"]

#: Are bars shown? Or who is called instead, with an event (begin, progress, at, end, note, warning), a text and a number.
Progress = Union[bool, Callable[[str, str, int], None]]


def _bars() -> Optional[Any]:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm


class Listener:
    """Shows bars for pieces of work that take longer than half a second; notes go to the log, warnings are warnings."""

    def __init__(self, show: bool) -> None:
        self._make = _bars() if show else None
        self._bar: Optional[Any] = None

    def __call__(self, event: str, text: str, number: int) -> None:
        if event == "warning":
            warnings.warn(text, stacklevel=4)
        elif event == "note":
            import logging

            logging.getLogger("actpatch").info(text)
        elif event == "begin":
            self.close()
            if self._make is not None:
                self._bar = self._make(desc=text, total=number or None, leave=False, delay=0.5)
        elif event == "end":
            self.close()
        elif self._bar is not None and event == "at":
            self._bar.set_postfix_str(text)
        elif self._bar is not None and event == "progress":
            self._bar.update(number - self._bar.n)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def listener(progress: Progress) -> Callable[[str, str, int], None]:
    """Who is told."""
    return progress if callable(progress) else Listener(bool(progress))
