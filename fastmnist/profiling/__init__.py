"""What takes the time: measured roofs of the machine, profiles of fits, their reports."""

from fastmnist.profiling.machine import Roofs, roofs
from fastmnist.profiling.profiler import profile
from fastmnist.profiling.profiles import BackendProfile, KernelTime, Overhead, Profile, SpeedUp

__all__ = ["BackendProfile", "KernelTime", "Overhead", "Profile", "Roofs", "SpeedUp", "profile", "roofs"]
