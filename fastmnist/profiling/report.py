"""A profile as a page: `report.html` is the frame, with its style and the sorting of tables; what stands in it is written here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from fastmnist.kernels.contract import CONTRACT, JOBS
from fastmnist.profiling.pictures import _seconds, numbered, roofline_picture, speed_picture
from fastmnist.version import __version__

if TYPE_CHECKING:
    from fastmnist.profiling.profiles import BackendProfile, KernelTime, Overhead, Profile

PHASES = {
    "training": "Training",
    "gradient": "Training (gradient of all rows)",
    "inference": "Prediction",
    "preparation": "Preparation",
    "out of bag": "Prediction of the rows that trees did not get",
}
INTRODUCTION = """A model learns by running a few small computations, the <em>kernels</em>, again and again. This page shows how long each of them
took on this machine, measured while the model was really trained. <em>Backends</em> are ways to run them: numba is compiled for this processor,
numpy is the readable reference. The kernels at the top of the tables are where a second could be saved."""
ROOFLINE = """Each point is a kernel; the larger, the more of the time it took. A kernel that does more arithmetic on each byte stands further right.
None can stand above the solid line, but for what measurements differ by: its flat part is the most arithmetic that a thread of this machine can
do, the slanted lines are the most bytes that its caches and its memory deliver. A point far below has room to become faster; one at the line
has none."""


def page(profile: Profile) -> str:
    """The whole page, self-contained.

    Parameters
    ----------
    profile : Profile
    """
    frame = Template(files("fastmnist.profiling").joinpath("report.html").read_text(encoding="utf-8"))
    return frame.substitute(title=escape(f"Profile of {profile.model}"), body=_body(profile))


def fragment(profile: Profile) -> str:
    """What a notebook shows: the backends and the longest kernels."""
    kernels = sorted((k for k in profile.kernels if k.phase != "inference"), key=lambda k: -k.seconds)[:12]
    return f"<div><p><code>{escape(profile.model)}</code></p>{_backends(profile)}{_kernels(kernels, _SHORT, named=True)}</div>"


def _body(profile: Profile) -> str:
    parts = [
        "<h1>Where the time goes</h1>",
        f"<p><code>{escape(profile.model)}</code></p>",
        f'<p class="soft">{escape(". ".join(text.rstrip(".") for text in (profile.data, f"fastmnist {__version__}") if text))}.</p>',
        f"<p>{INTRODUCTION}</p>",
        _cards(profile.backends),
        *_speeds(profile.backends),
        *(f"<p>{escape(name)} did not run: {escape(why)}</p>" for name, why in profile.missing.items()),
        _backends(profile),
    ]
    if profile.roofs is not None:
        compiled = [k for k in profile.kernels if k.backend == "numba" and k.phase != "inference"]
        drawn = compiled or [k for k in profile.kernels if k.phase != "inference"]
        picture = roofline_picture(drawn, profile.roofs)
        if picture:
            parts += ["<h2>How close to the machine's limits</h2>", f"<p>{ROOFLINE}</p>"]
            of = ", ".join(f"<b>{i}</b>&nbsp;{escape(f'{k.op} ({k.place})')}" for i, k in enumerate(numbered(drawn), 1))
            about = f"Kernels of the training, one thread of {escape(profile.roofs.machine)}. The longest: {of}."
            parts += [f"<figure>{picture}<figcaption>{about}</figcaption></figure>"]
    parts.append("<h2>Kernel by kernel</h2>")
    parts.append('<p class="soft">Click on a heading to sort.</p>')
    for run in sorted(profile.backends, key=lambda run: run.train_seconds):
        phases = dict.fromkeys(k.phase for k in profile.kernels if k.backend == run.backend)
        for phase in phases:
            kernels = [k for k in profile.kernels if k.backend == run.backend and k.phase == phase]
            parts.append(f"<h3>{PHASES[phase]} on {escape(run.backend)}</h3>{_kernels(kernels, _SHORT)}")
            parts.append(f"<details><summary>All numbers</summary>{_kernels(kernels, _LONG)}</details>")
    parts += [_meanings(profile.kernels), _decisions(profile.backends), _method(profile)]
    return "\n".join(parts)


def _speeds(runs: Sequence[BackendProfile]) -> list[str]:
    """The bars, where there is more than one backend."""
    if len(runs) == 1:
        return ["<h2>What it took</h2>"]
    caption = "<figcaption>Seconds for the same work: shorter is faster.</figcaption>"
    return ["<h2>Which backend is faster</h2>", f"<figure>{speed_picture(runs)}{caption}</figure>"]


def _cards(runs: Sequence[BackendProfile]) -> str:
    cards = []
    for run in sorted(runs, key=lambda run: run.train_seconds):
        step = run.train_seconds / run.steps if run.steps else 0.0
        cards.append(
            f'<div class="card"><div class="of {escape(run.backend)}-of">{escape(run.backend)}</div>'
            f"<strong>{_seconds(run.train_seconds)}</strong>to train, {run.steps:,} {run.unit}s of {_seconds(step)}"
            f'<div class="soft">{_seconds(run.predict_seconds)} to predict, {run.n_threads} thread(s)</div></div>'
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _table(heads: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]]) -> str:
    """A table that sorts; `heads` are (title, is text), rows hold finished cells."""
    head = "".join(
        f'<th scope="col"{" class=text" if text else ""}><button type="button">{escape(title)}</button></th>'
        for title, text in heads
    )
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _text(value: str, *, wide: bool = False) -> str:
    return f'<td class="text{" wide" if wide else ""}">{escape(value)}</td>'


def _number(value: float | None, shown: Callable[[float], str]) -> str:
    if value is None:
        return '<td data-value="-1"></td>'
    return f'<td data-value="{value!r}">{escape(shown(value))}</td>'


def _mebibytes(value: float) -> str:
    return f"{value / 2**20:,.0f} MiB"


def _overhead(cost: Overhead) -> str:
    return _number(cost.median, lambda value: f"{value:+.1%}{', noise' if cost.within_noise else ''}")


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _plain(value: float) -> str:
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def _backends(profile: Profile) -> str:
    on_gpu = any(run.device_peak is not None for run in profile.backends)
    heads = ["backend", "training", "compiling", "preparing", "waiting, a thread", "prediction", "memory"]
    heads += ["GPU memory"] * on_gpu + ["recording costs"]
    rows = [
        [
            _text(run.backend),
            _number(run.train_seconds, _seconds),
            _number(run.compile_seconds, _seconds),
            _number(run.prepare_seconds, _seconds),
            _number(run.idle_seconds / run.n_threads, _seconds),
            _number(run.predict_seconds, _seconds),
            _number(run.host_peak, _mebibytes),
            *[_number(run.device_peak, _mebibytes)] * on_gpu,
            _overhead(run.overhead),
        ]
        for run in sorted(profile.backends, key=lambda run: run.train_seconds)
    ]
    table = _table([(head, head == "backend") for head in heads], rows)
    if not profile.speed_ups:
        return table
    pairs = [
        [
            _text(pair.fast),
            _text(pair.slow),
            _number(pair.training, lambda v: f"{v:.2f} x"),
            _number(pair.inference, lambda v: f"{v:.2f} x"),
        ]
        for pair in profile.speed_ups
    ]
    heads = ["faster", "slower", "training", "prediction"]
    return table + "<h3>Speed-ups</h3>" + _table([(head, i < 2) for i, head in enumerate(heads)], pairs)


def _share(kernel: KernelTime) -> str:
    wait = " wait" if kernel.op == "barrier" else ""
    bar = f'<span class="bar{wait}"><i style="width:{100 * kernel.share:.1f}%"></i></span>'
    return f'<td data-value="{kernel.share!r}">{bar}{kernel.share:.1%}</td>'


def _kernel(kernel: KernelTime) -> str:
    """The op, and below it the layer."""
    name = "waiting" if kernel.op == "barrier" else kernel.op
    place = "at barriers" if kernel.place == "waiting" else kernel.place
    return f'<td class="text">{escape(name)}<small>{escape(place)}</small></td>'


Column = tuple[str, bool, "Callable[[KernelTime], str]"]
_NAMED: list[Column] = [
    ("kernel", True, lambda k: _text(k.op)),
    ("layer", True, lambda k: _text(k.place)),
]
_SHORT: list[Column] = [
    ("kernel", True, _kernel),
    ("share of time", False, _share),
    ("a call", False, lambda k: _number(k.mean_us, lambda v: f"{_plain(v)} µs")),
    ("of the roof", False, lambda k: _number(k.roof, lambda v: f"{v:.0%}")),
]
_LONG: list[Column] = [
    *_NAMED,
    ("calls", False, lambda k: _number(k.calls, lambda v: f"{v:,}")),
    ("total", False, lambda k: _number(k.seconds, _seconds)),
    ("a call", False, lambda k: _number(k.mean_us, lambda v: f"{_plain(v)} µs")),
    ("share", False, lambda k: _number(k.share, _percent)),
    ("GFLOP/s", False, lambda k: _number(k.gflops, _plain)),
    ("GB/s", False, lambda k: _number(k.gbytes, _plain)),
    ("FLOPs a byte", False, lambda k: _number(k.intensity, _plain)),
    ("of the roof", False, lambda k: _number(k.roof, _percent)),
    ("one call", True, lambda k: _text(k.sizes)),
    ("variant", True, lambda k: _text(k.variant)),
    ("why this one", True, lambda k: _text(k.reason, wide=True)),
]


def _kernels(kernels: Sequence[KernelTime], columns: Sequence[Column], *, named: bool = False) -> str:
    if named:
        columns = [("backend", True, lambda k: _text(k.backend)), *columns]
    heads = [(title, text) for title, text, _ in columns]
    return _table(heads, [[cell(kernel) for _, _, cell in columns] for kernel in kernels])


def _meanings(kernels: Sequence[KernelTime]) -> str:
    known = {**CONTRACT, **JOBS}
    names = sorted({k.op for k in kernels} & set(known))
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(' '.join(known[name].doc.split()))}</dd>" for name in names)
    return f"<details><summary>What each kernel computes</summary><dl>{items}</dl></details>"


def _decisions(runs: Sequence[BackendProfile]) -> str:
    items = "".join(
        f"<dt>{escape(run.backend)}: {escape(run.reason)}</dt>{''.join(f'<dd>{escape(line)}</dd>' for line in run.decisions)}"
        for run in runs
    )
    return f"<details><summary>What was chosen, and why</summary><dl>{items}</dl></details>"


def _method(profile: Profile) -> str:
    items = []
    for run in profile.backends:
        items.append(
            f"<dt>{escape(run.backend)}</dt><dd>{run.timed:.0%} of the {run.unit}s were timed, kernel by kernel. Kernels and waiting add up to "
            f"{run.accounted:.1%} of the wall time of the training on all threads. "
            f"What recording cost, by turns with and without: {escape(str(run.overhead))}.</dd>"
        )
    roofs = "".join(
        f"<dd>{escape(line)}</dd>" for line in (profile.roofs.summary() if profile.roofs else ["not measured"])
    )
    forest = any(run.unit == "tree" for run in profile.backends)
    clock = (
        "Python's clock is read before and after each job"
        if forest
        else "compiled code reads the processor's cycle counter before and after each kernel"
    )
    text = (
        f"Times are measured, not shared out: {clock}, on every thread. "
        "FLOPs and bytes of a call are counted by the kernel's definition, GFLOP/s and GB/s are those of one thread while it runs the kernel. "
        "The roof is the lower of the peak of multiply-adds and of FLOPs a byte times the bandwidth of the level-1 cache; "
        "NumPy's is that of all threads."
    )
    return f"<details open><summary>How this was measured</summary><p>{text}</p><dl>{''.join(items)}<dt>Roofs</dt>{roofs}</dl></details>"
