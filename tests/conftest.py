"""What holds for all tests: one hypothesis profile (the same examples everywhere, no deadline), a Ctrl-C that works, stated crossovers."""

import signal

import pytest
from hypothesis import settings

from fastmnist.backends import crossovers

settings.register_profile("fastmnist", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("fastmnist")


@pytest.fixture(scope="session", autouse=True)
def _interrupts_arrive():
    """A shell starts background jobs, pytest-xdist among them, with SIGINT ignored; tests of interrupts would wait for ever."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


@pytest.fixture(scope="session", autouse=True)
def _stated_crossovers():
    """What somebody measured on this machine must not decide which path a test takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crossovers, "read_machine_file", lambda: None)
        crossovers.crossovers.cache_clear()
        yield
