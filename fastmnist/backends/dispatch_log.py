"""Choices, printed as they happen where `FASTMNIST_VERBOSE=dispatch` asks for it: the backend, and what its executor makes of the network."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

VERBOSE_VARIABLE = "FASTMNIST_VERBOSE"


def announce(line: str) -> None:
    """Print a choice to stderr, if that is asked for."""
    if "dispatch" in os.environ.get(VERBOSE_VARIABLE, "").split(","):
        print(f"fastmnist: {line}", file=sys.stderr)


def announce_decisions(backend: str, decisions: Iterable[str]) -> None:
    """Print a Program's decisions: how rows of X are read, who owns which units, how convolutions are done."""
    for decision in decisions:
        announce(f"{backend}: {decision}")
