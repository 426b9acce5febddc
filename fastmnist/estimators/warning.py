"""Warnings that point at the user's line."""

from __future__ import annotations

import os
import sys
import warnings

import sklearn

# Between a user's `fit` and a warning lie this package and scikit-learn's decorators.
_INSIDE = tuple(os.path.dirname(file) + os.sep for file in (os.path.dirname(__file__), sklearn.__file__))


def warn_user(message: str, category: type[Warning]) -> None:
    """Warn at the line that called this package: Python shows a warning once for each line, and each call of the user's counts.

    Parameters
    ----------
    message : str
    category : type of Warning
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
