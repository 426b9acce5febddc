"""Matrix products over a grid of shapes beside OpenBLAS and MKL: verified, timed in turns, recorded, drawn.

    python bench/gemm_grid.py measure [--groups mnist squares skinny ugly] [--threads 1 2] [--turns 5] [--mkl FOLDER]
    python bench/gemm_grid.py draw

`measure` appends to `bench/results/gemm.csv`; `draw` makes `bench/results/gemm.svg` of the newest records and prints the geometric means.

Providers, each in a process of its own, take turns: one is at work, the others wait, and after each turn all threads have time to fall asleep. Every
product is compared with float64 before it is timed. Operands are random and stay where they are, so what fits a cache is found there (warm figures).

- `fastmnist`: a `MatrixProduct`, prepared once.
- `openblas`: NumPy's `np.matmul(..., out=...)`, as it comes. It may not know a new processor and take its AVX2 kernels.
- `openblas-avx512`: the same, told by OPENBLAS_CORETYPE=SkylakeX to take the AVX-512 ones: its best setting on such processors.
- `mkl`: `cblas_sgemm` of `pip install mkl` in FOLDER (default `.venv-peers/lib`), sequential for one thread, with TBB for more, which is its fastest
  threading for small products; on AMD it keeps to its AVX2 kernels and has no switch for others. Left out where it is not installed.
- `peak`: the register tile on operands that never leave L1, on as many threads.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RECORDS, PICTURE = HERE / "results" / "gemm.csv", HERE / "results" / "gemm.svg"
COLUMNS = [
    "date",
    "group",
    "m",
    "k",
    "n",
    "transposes",
    "threads",
    "turn",
    "provider",
    "version",
    "gflops",
    "machine",
    "commit",
]
TRANSPOSES = ("NN", "NT", "TN")
GROUPS = {
    "mnist": [(m, 784, n) for m in (32, 64, 128, 256, 512, 1024) for n in (128, 256, 512)],
    "squares": [(n, n, n) for n in (64, 128, 256, 512, 1024, 2048)],
    "skinny": [(1, 784, 128), (8, 784, 128), (4096, 784, 10), (4096, 16, 128), (16, 4096, 16), (784, 32, 128)],
    "ugly": [(33, 785, 129), (61, 127, 251), (100, 500, 250), (257, 783, 10), (509, 509, 509), (1000, 777, 333)],
}
ENVIRONMENTS = {
    "fastmnist": {},
    "openblas": {},
    "openblas-avx512": {"OPENBLAS_CORETYPE": "SkylakeX"},
    "mkl": {"MKL_INTERFACE_LAYER": "LP64"},
    "peak": {},
}
SECONDS = 0.012  # of calls to each product in a turn
REST = 0.06  # between turns: OpenBLAS' threads spin for some 30 ms after their work


# --- a provider's process -------------------------------------------------------------------------------------------------------------


def operands(m: int, k: int, n: int, transposes: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A, B as stored, and an empty result: the same numbers in every process."""
    rng = np.random.default_rng([m, k, n])
    a = rng.standard_normal((m, k) if transposes[0] == "N" else (k, m), np.float32)
    b = rng.standard_normal((k, n) if transposes[1] == "N" else (n, k), np.float32)
    return a, b, np.empty((m, n), np.float32)


def fastmnist_call(
    a: np.ndarray, b: np.ndarray, out: np.ndarray, transposes: str, threads: int
) -> Callable[[], object]:
    from fastmnist import MatrixProduct

    return MatrixProduct(*_logical(a, b, transposes), out, n_threads=threads)


def openblas_call(a: np.ndarray, b: np.ndarray, out: np.ndarray, transposes: str, threads: int) -> Callable[[], object]:
    left, right = _logical(a, b, transposes)
    return lambda: np.matmul(left, right, out=out)


def _logical(a: np.ndarray, b: np.ndarray, transposes: str) -> tuple[np.ndarray, np.ndarray]:
    return (a.T if transposes[0] == "T" else a), (b.T if transposes[1] == "T" else b)


def mkl_call(a: np.ndarray, b: np.ndarray, out: np.ndarray, transposes: str, threads: int) -> Callable[[], object]:
    sgemm = _mkl().cblas_sgemm
    i, p, f = ctypes.c_int, ctypes.c_void_p, ctypes.c_float
    sgemm.argtypes, sgemm.restype = [i, i, i, i, i, i, f, p, i, p, i, f, p, i], None
    flags = [111 if t == "N" else 112 for t in transposes]
    (m, n), k = out.shape, a.shape[1 if transposes[0] == "N" else 0]
    arguments = (a.ctypes.data, a.shape[1], b.ctypes.data, b.shape[1], 0.0, out.ctypes.data, n)
    return lambda: sgemm(101, *flags, m, n, k, 1.0, *arguments)


def _mkl() -> ctypes.CDLL:
    return ctypes.CDLL(next(str(p) for p in sorted(Path(os.environ["MKL_FOLDER"]).glob("libmkl_rt.so*"))))


def peak_call(threads: int) -> tuple[Callable[[], object], float]:
    """Products of one tile, again and again, and the FLOPs of a call."""
    from fastmnist.backends.crew import run_at_once
    from fastmnist.kernels import cpu
    from fastmnist.kernels.cpu.tile import STRIP, TILE_ROWS

    depth, rows = 64, TILE_ROWS * 1024
    table = np.zeros((threads, cpu.ROW_WORDS), np.int64)
    keep = []
    for row in table:
        # Leading dimensions 0: all tiles read and write the same few lines, as many as the widest strip has.
        a, b, c = np.ones((1, depth), np.float32), np.ones((depth, STRIP), np.float32), np.zeros((1, STRIP), np.float32)
        keep += [a, b, c]
        shapes = [(c, (rows, STRIP), 0), (a, (rows, depth), 0), (b, (depth, STRIP), STRIP)]
        cpu.encode(row, "gemm_nn", [(x.ctypes.data, shape, ld, "float32") for x, shape, ld in shapes], [1.0, 0.0])
    return lambda keep=keep: run_at_once(table, threads), 2.0 * threads * rows * depth * STRIP


CALLS = {"fastmnist": fastmnist_call, "openblas": openblas_call, "openblas-avx512": openblas_call, "mkl": mkl_call}


def version(provider: str) -> str:
    if provider == "mkl":
        text = ctypes.create_string_buffer(200)
        _mkl().mkl_get_version_string(text, 200)
        return text.value.decode().split("Version ")[1].split("-")[0]
    if provider.startswith("openblas"):
        from threadpoolctl import threadpool_info

        info = next(info for info in threadpool_info() if info["internal_api"] == "openblas")
        return f"{info['version']} {info['architecture']}"
    import fastmnist

    return fastmnist.__version__


def work(provider: str, threads: int, group: str) -> None:
    """Verify every product of a group, say so, then time them all each time a line comes in."""
    jobs = []
    if provider == "peak":
        jobs.append((*peak_call(threads), None))
    else:
        for m, k, n in GROUPS[group]:
            for transposes in TRANSPOSES:
                a, b, out = operands(m, k, n, transposes)
                call = CALLS[provider](a, b, out, transposes, threads)
                out[:] = np.nan
                call()
                exact = np.matmul(*(x.astype(np.float64) for x in _logical(a, b, transposes)))
                assert not (np.abs(out - exact).max() > 1e-6 * k + 1e-5), (provider, m, k, n, transposes)
                jobs.append((call, 2.0 * m * k * n, (a, b, out)))
    print(json.dumps(version(provider)), flush=True)
    for _ in sys.stdin:
        print(json.dumps([flops / _seconds(call) / 1e9 for call, flops, _ in jobs]), flush=True)


def _seconds(call: Callable[[], object]) -> float:
    """Median of the calls in a time budget, after one to warm up."""
    call()
    times, end = [], time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


# --- the measurement --------------------------------------------------------------------------------------------------------------------


class Worker:
    """A provider's process."""

    def __init__(self, provider: str, threads: int, group: str, mkl: Path) -> None:
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        layer = {
            "MKL_THREADING_LAYER": "SEQUENTIAL" if threads == 1 else "TBB",
            "MKL_FOLDER": str(mkl),
            "LD_LIBRARY_PATH": str(mkl),
        }
        environment = {
            **os.environ,
            **limits,
            **(layer if provider == "mkl" else {}),
            **ENVIRONMENTS[provider],
            "PYTHONPATH": str(ROOT),
        }
        self.provider = provider
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "work", provider, str(threads), group],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.version = self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.provider} ended with code {self.process.wait()}; see its message above.")
        return json.loads(line)

    def turn(self) -> list[float]:
        """GFLOP/s of every product."""
        time.sleep(REST)
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def measure(groups: list[str], threads: list[int], turns: int, mkl: Path) -> None:
    """Time the groups and append the records."""
    providers = [p for p in ENVIRONMENTS if p != "mkl" or any(mkl.glob("libmkl_rt.so*"))]
    for group in groups:
        for n_threads in threads:
            workers = [Worker(provider, n_threads, group, mkl) for provider in providers]
            rows = []
            for turn in range(turns):
                for worker in workers:
                    rates = worker.turn()
                    cells = (
                        [(*shape, t) for shape in GROUPS[group] for t in TRANSPOSES]
                        if worker.provider != "peak"
                        else [(0, 0, 0, "")]
                    )
                    rows += [
                        (group, *cell, n_threads, turn, worker.provider, worker.version, f"{rate:.1f}")
                        for cell, rate in zip(cells, rates, strict=True)
                    ]
            for worker in workers:
                worker.close()
            append(rows)
            print(f"{group}, {n_threads} thread(s): {len(rows)} records", flush=True)


def append(rows: list[tuple]) -> None:
    new = not RECORDS.exists()
    RECORDS.parent.mkdir(exist_ok=True)
    with RECORDS.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        today = datetime.date.today().isoformat()
        for row in rows:
            writer.writerow([today, *row, machine(), commit()])


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} cores"


def commit() -> str:
    """Short hash of what is timed, `+` when the tree has changes."""
    run = lambda *a: subprocess.run(["git", *a], cwd=ROOT, capture_output=True, text=True).stdout.strip()  # noqa: E731
    return run("rev-parse", "--short", "HEAD") + ("+" if run("status", "--porcelain", "kernels", "fastmnist") else "")


# --- what came of it ----------------------------------------------------------------------------------------------------------------------


def newest():
    """Records of the newest run of each group and number of threads, as a pandas DataFrame."""
    import pandas as pd

    records = pd.read_csv(RECORDS, keep_default_na=False)
    records["order"] = range(len(records))
    # A run's records stand together; the last turn 0 of a group and number of threads begins the newest one.
    starts = (
        records[(records.turn == 0) & (records.provider == "fastmnist")].groupby(["group", "threads"])["commit"].last()
    )
    keep = [starts[(g, t)] == c for g, t, c in zip(records["group"], records.threads, records["commit"], strict=True)]
    return records[keep]


def draw() -> None:
    """Make the picture and print the geometric means of the ratios."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    records = newest()
    cells = records[records.provider != "peak"]
    keys = ["group", "m", "k", "n", "transposes", "threads"]
    table = cells.pivot_table(index=[*keys, "turn"], columns="provider", values="gflops")
    for (group, threads), part in table.groupby(["group", "threads"]):
        line = []
        for peer in [p for p in table.columns if p != "fastmnist"]:
            ratios = (part["fastmnist"] / part[peer]).groupby(keys).median()
            line.append(f"{math.exp(np.log(ratios).mean()):.2f} x {peer} (least {ratios.min():.2f})")
        print(f"{group:8} {threads} thread(s): {', '.join(line)}")
    medians = cells.groupby([*keys, "provider"])["gflops"].median()
    # The best seen is the roof: on a shared machine some turns get less than all cores.
    peaks = records[records.provider == "peak"].groupby("threads")["gflops"].max()
    threads = sorted(set(cells.threads))
    groups = [g for g in GROUPS if g in set(cells["group"])]
    styles = {
        "fastmnist": ("#c1272d", "o"),
        "openblas-avx512": ("#0b6e99", "s"),
        "openblas": ("#7fb8d4", "^"),
        "mkl": ("#8a8a8a", "D"),
    }
    widths = [len(GROUPS[g]) for g in groups]
    figure, axes = plt.subplots(
        len(threads),
        len(groups),
        figsize=(18, 4.6 * len(threads)),
        sharey="row",
        squeeze=False,
        gridspec_kw={"width_ratios": widths, "wspace": 0.04},
    )
    for i, n_threads in enumerate(threads):
        for j, group in enumerate(groups):
            ax, names = axes[i][j], ["x".join(map(str, shape)) for shape in GROUPS[group]]
            for provider, (colour, marker) in styles.items():
                if provider not in set(cells.provider):
                    continue
                for t, shift in zip(TRANSPOSES, (-0.22, 0, 0.22), strict=True):
                    rates = [medians.get((group, *shape, t, n_threads, provider), np.nan) for shape in GROUPS[group]]
                    label = provider if t == "NN" and i == 0 and j == 0 else None
                    ax.plot(
                        np.arange(len(names)) + shift,
                        rates,
                        marker,
                        color=colour,
                        markersize=4.5,
                        label=label,
                        zorder=3 if provider == "fastmnist" else 2,
                    )
            ax.axhline(peaks[n_threads], color="black", linewidth=1, linestyle="--")
            ax.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
            ax.set_xlim(-0.6, len(names) - 0.4)
            ax.set_ylim(0, max(peaks[n_threads], medians.xs(n_threads, level="threads").max()) * 1.08)
            ax.grid(axis="y", linewidth=0.4)
            ax.set_title(f"{group}, {n_threads} thread{'s' if n_threads > 1 else ''}", fontsize=10)
        axes[i][0].set_ylabel("GFLOP/s")
        axes[i][0].annotate(
            f"register tile in L1: {peaks[n_threads]:.0f}",
            (-0.5, peaks[n_threads]),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=8,
        )
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="upper center", ncols=4, frameon=False, fontsize=10)
    figure.text(
        0.5,
        0.005,
        f"m x k x n; in each column NN, NT, TN from left to right. {records.machine.iloc[-1]}",
        ha="center",
        fontsize=9,
    )
    figure.subplots_adjust(left=0.045, right=0.995, top=0.90, bottom=0.13, hspace=0.5)
    figure.savefig(PICTURE)
    print(PICTURE.relative_to(ROOT))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("--groups", nargs="+", default=list(GROUPS), choices=list(GROUPS))
    measuring.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    measuring.add_argument("--turns", type=int, default=5)
    measuring.add_argument("--mkl", type=Path, default=ROOT / ".venv-peers" / "lib")
    commands.add_parser("draw")
    working = commands.add_parser("work")
    working.add_argument("provider", choices=list(ENVIRONMENTS))
    working.add_argument("threads", type=int)
    working.add_argument("group", choices=list(GROUPS))
    arguments = parser.parse_args()
    if arguments.command == "measure":
        measure(arguments.groups, arguments.threads, arguments.turns, arguments.mkl)
    elif arguments.command == "work":
        work(arguments.provider, arguments.threads, arguments.group)
    else:
        draw()


if __name__ == "__main__":
    main()
