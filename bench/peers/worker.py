"""A runner in a process of its own: `worker.py MODULE:CLASS PARAMETERS SETTINGS`.

Prints its version as a line of JSON, or why it cannot run; then answers each line `{"ask": method, ...arguments}` with a line of JSON.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import warnings

PR_SET_PDEATHSIG = 1
warnings.simplefilter("ignore")
if sys.platform == "linux":  # a stopped process would outlive the comparing one
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
# Libraries print to standard output as they please; the answers have it for themselves.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def answer(value: object) -> None:
    print(json.dumps(value), file=answers, flush=True)


module, _, name = sys.argv[1].partition(":")
try:
    runner = getattr(importlib.import_module(module), name)(*map(json.loads, sys.argv[2:4]))
except ImportError as error:
    answer({"unavailable": f"{type(error).__name__}: {error}".splitlines()[0]})
    sys.exit()
answer({"version": runner.version})
for line in sys.stdin:
    request = json.loads(line)
    answer(getattr(runner, request.pop("ask"))(**request))
