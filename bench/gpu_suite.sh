#!/usr/bin/env bash
# Everything that needs a GPU, from a bare checkout: tests, compute-sanitizer, kernels, training steps, whole fits, a profile; last a table of the goals.
# Usage: bench/gpu_suite.sh [--out FOLDER] [PART...]
#   PART: facts tests sanitizer kernels models fits profile; default: all, some 8 minutes, at most 11. Parts may be run one by one, in any
#   order, into the same folder: each replaces its own records, and the table shows what there is. Where a command may take ten minutes at most:
#   `facts tests sanitizer`, then `kernels models`, then `fits profile`, none of which takes more than five.
# Needs Python with this package's dependencies, CuPy and pytest; torch is compared with where it is installed.
# Exits with 1 if a test failed or was skipped, or a part did not finish. A goal that is missed is a result, not a failure.
# FOLDER (default: gpu_results): info.json, tests.log, sanitizer.log, kernels.csv, models.csv, steps.csv, fits.csv, profile.json.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

every=(facts tests sanitizer kernels models fits profile)
out=gpu_results
if [ "${1:-}" = --out ]; then
  out=${2:?--out needs a folder}
  shift 2
fi
for part in "$@"; do
  case " ${every[*]} " in
    *" $part "*) ;;
    *)
      echo "PART must be of: ${every[*]}; got $part" >&2
      exit 2
      ;;
  esac
done
if [ $# -eq 0 ]; then set -- "${every[@]}"; fi
mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd) || exit 1
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
failed=()
step() { # seconds, name, command...
  local limit=$1 name=$2
  shift 2
  echo "== $name" >&2
  timeout --foreground "$limit" "$@" || failed+=("$name (exit $?)")
}

facts() {
  local code='import json; from fastmnist.system_info import system_info; print(json.dumps(system_info(), indent=1))'
  step 20 facts "$python" -c "$code" >"$out/info.json"
}

tests() {
  # Without conftest.py: it serves tests that need more packages than these do.
  local wanted=(--noconftest -m gpu -q -p no:cacheprovider tests/test_gpu.py tests/test_gpu_probe.py)
  echo "== tests" >&2
  timeout --foreground 150 "$python" -m pytest "${wanted[@]}" 2>&1 | tee "$out/tests.log"
  local code=${PIPESTATUS[0]}
  local summary
  summary=$(tail -n 1 "$out/tests.log")
  if [ "$code" -ne 0 ] || ! grep -Eq '[0-9]+ passed' <<<"$summary" || grep -Eq 'failed|error|skipped' <<<"$summary"; then
    failed+=("tests (exit $code): $summary")
  fi
}

sanitizer() {
  : >"$out/sanitizer.log"
  if ! command -v compute-sanitizer >/dev/null; then
    echo "compute-sanitizer is not installed: this line stays open" | tee "$out/sanitizer.log"
    return
  fi
  local tool code log
  log=$(mktemp)
  for tool in memcheck racecheck; do
    echo "== compute-sanitizer $tool" >&2
    timeout --foreground 60 compute-sanitizer --tool "$tool" --error-exitcode 3 "$python" bench/gpu/short_training.py >"$log" 2>&1
    code=$?
    { echo "== $tool (exit $code)"; cat "$log"; } >>"$out/sanitizer.log"
    if [ "$code" -ne 0 ] && grep -Eiq 'device not supported|(unable|failed) to (attach|initiali[sz]e)' "$log"; then
      echo "$tool cannot attach to this device: this line stays open" | tee -a "$out/sanitizer.log"
    elif [ "$code" -ne 0 ]; then
      failed+=("compute-sanitizer $tool (exit $code)")
    fi
    tail -n 1 "$log"
  done
  rm -f "$log"
}

kernels() { step 90 kernels "$python" bench/gpu/kernels.py --out "$out"; }
models() { step 150 models "$python" bench/gpu/models.py --out "$out"; }
fits() { step 60 fits "$python" bench/gpu/fits.py --out "$out"; }

profile() {
  local folder
  folder=$(mktemp -d)
  step 30 profile "$python" -m fastmnist profile mlp --epochs 1 --backends cupy --out "$folder"
  if [ -s "$folder/profile.json" ]; then cp "$folder/profile.json" "$out/"; fi
  rm -rf "$folder"
}

for part in "$@"; do "$part"; done

echo "== records in $out"
"$python" bench/gpu/goals.py --out "$out" || failed+=("goals (exit $?)")
for problem in "${failed[@]}"; do echo "FAILED: $problem" >&2; done
[ ${#failed[@]} -eq 0 ]
