"""Packages that only some of the features need: pip installs them with `fastmnist[EXTRA]`."""

from __future__ import annotations

import importlib
from types import ModuleType

EXTRAS = {"matplotlib": "plots", "imageio": "video", "imageio_ffmpeg": "video"}


class MissingExtra(ImportError):
    """A package of an extra that is not installed; the message has the command that installs it."""


def require(module: str, purpose: str) -> ModuleType:
    """Import a module of a package that may be missing.

    Parameters
    ----------
    module : str
        Dotted name; its package is one of `EXTRAS`.
    purpose : str
        What it is for, as the beginning of a sentence: "Pictures".

    Returns
    -------
    module

    Raises
    ------
    MissingExtra
        The package is not installed.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"{purpose} need {package}, which can't be imported ({error}). Run: pip install 'fastmnist[{EXTRAS[package]}]'"
        ) from error
