"""Ctrl-C at a moment of one's choice."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any


def fit_and_interrupt(fit: Callable[[], Any], seconds: float) -> Any:
    """What `fit` returns if Ctrl-C is pressed `seconds` after its call, or later: on a busy machine training may not have begun by then."""
    while True:
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            return fit()
        except KeyboardInterrupt:  # there was no model to be kept
            seconds *= 2
        finally:
            timer.join()
