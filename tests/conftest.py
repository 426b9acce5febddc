"""What all tests share: one hypothesis profile (the same examples on every machine, no deadline on a shared one), and stated crossovers."""

import pytest
from hypothesis import settings

from fastmnist.backends import crossovers

settings.register_profile("fastmnist", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("fastmnist")


@pytest.fixture(autouse=True, scope="session")
def _stated_crossovers():
    """What somebody measured on this machine must not decide which path a test takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crossovers, "read_machine_file", lambda: None)
        crossovers.crossovers.cache_clear()
        yield
