"""Runs CUDA C++ on the CPU, for tests: see README.md in this folder."""

from .simulator import Module, SimulatorError, compiler_missing

__all__ = ["Module", "SimulatorError", "compiler_missing"]
