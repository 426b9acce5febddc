"""Every exported CUDA kernel in every mode of the simulator: blocks in both orders, the race checker, the sanitizers; none is forgotten."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cusim import compiler_missing, device
from cusim.simulator import sanitizer_environment

from fastmnist.kernels.gpu import FILES
from fastmnist.kernels.gpu.source import kernels

if compiler_missing():
    pytest.skip(compiler_missing(), allow_module_level=True)

import gpu_mode_cases

TESTS = Path(__file__).parent
KERNELS = {kernel for file in FILES for kernel in kernels(file)}


def assert_none_is_missing(launched: set[str], mode: str) -> None:
    missing = sorted(KERNELS - launched)
    assert not missing, f"{mode}: not launched by any case of gpu_mode_cases.py: {', '.join(missing)}"


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
def test_numbers_with_blocks_in_either_order(reverse):
    device.LAUNCHED.clear()
    for case in gpu_mode_cases.CASES:
        case(mode="plain", reverse=reverse)
    assert_none_is_missing({kernel for kernel, _, backward in device.LAUNCHED if backward == reverse}, "plain")


def test_no_races():
    device.LAUNCHED.clear()
    for case in gpu_mode_cases.CASES:
        case(mode="race", reverse=False)
    assert_none_is_missing({kernel for kernel, mode, _ in device.LAUNCHED if mode == "race"}, "race")


ADDRESSES = """
import json
import gpu_mode_cases
from cusim import device
for case in gpu_mode_cases.CASES:
    case(mode="address", reverse=False)
print(json.dumps([kernel for kernel, mode, _ in device.LAUNCHED if mode == "address"]))
"""


def test_within_bounds_and_aligned():
    path = os.pathsep.join(map(str, (TESTS.parent, TESTS)))
    environment = {**os.environ, **sanitizer_environment(), "PYTHONPATH": path}
    command = [sys.executable, "-c", ADDRESSES]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    assert_none_is_missing(set(json.loads(result.stdout)), "address")
