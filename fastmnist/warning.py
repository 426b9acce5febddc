"""Warnings that point at the user's line."""

from __future__ import annotations

import os
import sys
import warnings


def warn_user(message: str, category: type[Warning]) -> None:
    """Warn at the line that called this package: Python shows a warning once for each line, and each call of the user's counts.

    Parameters
    ----------
    message : str
    category : type of Warning
    """
    inside = _inside()
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _inside() -> tuple[str, ...]:
    """Folders of this package and of scikit-learn, whose decorators lie between a user's `fit` and a warning, where it is imported."""
    files = (__file__, getattr(sys.modules.get("sklearn"), "__file__", None))
    return tuple(os.path.dirname(file) + os.sep for file in files if file)
