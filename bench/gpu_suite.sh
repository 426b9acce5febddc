#!/usr/bin/env bash
# Everything that needs a GPU, from a bare checkout, within 8 minutes: tests, compute-sanitizer, kernels, models.
# Usage: bench/gpu_suite.sh [--out FOLDER]; needs Python with this package's dependencies, CuPy and pytest; torch is compared with where it is installed.
# Exits with 1 if a test failed or was skipped, or a benchmark did not finish. FOLDER (default: gpu_results) holds the records.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

out=gpu_results
if [ "${1:-}" = --out ]; then out=${2:?--out needs a folder}; fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
failed=()
step() { # seconds, name, command...
  local limit=$1 name=$2
  shift 2
  echo "== $name" >&2
  timeout --foreground "$limit" "$@" || failed+=("$name (exit $?)")
}

facts='import json; from fastmnist.system_info import system_info; print(json.dumps(system_info(), indent=1))'
step 20 facts "$python" -c "$facts" >"$out/info.json"
# Without conftest.py: it serves tests that need more packages than these do.
step 150 tests "$python" -m pytest --noconftest -m gpu -q -p no:cacheprovider tests/test_gpu.py tests/test_gpu_probe.py 2>&1 | tee "$out/tests.log"
tail -n 1 "$out/tests.log" | grep -Eq '[0-9]+ passed' || failed+=("tests: none passed")
if tail -n 1 "$out/tests.log" | grep -Eq 'failed|error|skipped'; then failed+=("tests: $(tail -n 1 "$out/tests.log")"); fi
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    step 60 "compute-sanitizer $tool" compute-sanitizer --tool "$tool" --error-exitcode 3 "$python" bench/gpu/short_training.py >"$out/$tool.log" 2>&1
    tail -n 1 "$out/$tool.log"
  done
else
  echo "compute-sanitizer is not installed: this line stays open" | tee "$out/memcheck.log"
fi
step 120 kernels "$python" bench/gpu/kernels.py --out "$out"
step 150 models "$python" bench/gpu/models.py --out "$out"

echo "== records in $out"
for problem in "${failed[@]}"; do echo "FAILED: $problem" >&2; done
[ ${#failed[@]} -eq 0 ]
