"""What goes wrong, by kind. Every message says what was expected and what was found."""

from __future__ import annotations

__all__ = [
    "ActpatchError",
    "DatasetError",
    "DeviceError",
    "FileError",
    "InternalError",
    "ModelError",
    "SettingError",
    "SiteError",
    "StoppedError",
]


class ActpatchError(Exception):
    """Anything that goes wrong in actpatch."""


class SettingError(ActpatchError, ValueError):
    """An argument or a setting that cannot be met."""


class SiteError(SettingError):
    """A hook name that does not exist, in general or in this model."""


class ModelError(ActpatchError, ValueError):
    """A model that cannot be found, read or run."""


class DatasetError(ActpatchError, ValueError):
    """A dataset that cannot be read, or cannot be built for this model."""


class DeviceError(ActpatchError, RuntimeError):
    """A device that is not there, is full, or has computed what is not finite."""


class FileError(ActpatchError, OSError):
    """A file of results, directions or a ledger that cannot be read or written."""


class StoppedError(ActpatchError):
    """Work that was stopped before its end."""


class InternalError(ActpatchError, RuntimeError):
    """A mistake of actpatch, with what a report of it should say."""
