"""One hypothesis profile for all tests: the same examples on every run and every machine, and no deadline on a shared one."""

from hypothesis import settings

settings.register_profile("fastmnist", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("fastmnist")
