"""The pictures of a profile, as SVG that takes its colours from the page around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastmnist.profiling.machine import Roofs
    from fastmnist.profiling.profiles import BackendProfile, KernelTime

LEFT, TOP, BOTTOM = 62, 34, 52
NUMBERED = 5  # points that have a number, by which the page names them


def speed_picture(runs: Sequence[BackendProfile]) -> str:
    """Seconds of training and of prediction of each backend, as bars: shorter is faster.

    Parameters
    ----------
    runs : sequence of BackendProfile
    """
    parts, y = [], 8
    width, label, room = 640, 84, 190
    for title, of in (("training", "train_seconds"), ("prediction", "predict_seconds")):
        longest = max(getattr(run, of) for run in runs) or 1.0
        fastest = min(getattr(run, of) for run in runs) or 1e-9
        parts.append(f'<text class="strong" x="0" y="{y + 14}">{title}</text>')
        y += 24
        for run in sorted(runs, key=lambda run: getattr(run, of)):
            seconds = getattr(run, of)
            length = max((width - label - room) * seconds / longest, 2)
            ratio = "" if seconds <= fastest else f", {_short(seconds / fastest)} x"
            parts.append(f'<text x="0" y="{y + 15}">{escape(run.backend)}</text>')
            parts.append(
                f'<rect class="{escape(run.backend)}" x="{label}" y="{y}" width="{length:.1f}" height="20" rx="3"/>'
            )
            parts.append(
                f'<text class="strong" x="{label + length + 8:.1f}" y="{y + 15}">{_seconds(seconds)}{ratio}</text>'
            )
            y += 28
        y += 10
    return _svg(width, y, "Seconds of each backend", parts)


def roofline_picture(kernels: Sequence[KernelTime], roofs: Roofs, threads: int = 1) -> str:
    """Each kernel by its FLOPs a byte and its GFLOP/s, under what a thread can reach at most (Williams, Waterman & Patterson 2009).

    Parameters
    ----------
    kernels : sequence of KernelTime
        Those without FLOPs are left out; the area of a point is its share of the phase's time.
    roofs : Roofs
    threads : int
        Whose roof is drawn.
    """
    points = _points(kernels)
    if not points:
        return ""
    width, height, right = 640, 400, 60
    peak = roofs.peak(threads)
    low_x = min(2.0 ** math.floor(math.log2(min(k.intensity or 1.0 for k in points))), 0.0625)
    high_x = max(2.0 ** math.ceil(math.log2(max(k.intensity or 1.0 for k in points))), 32.0)
    low_y = 10.0 ** math.floor(math.log10(min(min(k.gflops or 1.0 for k in points), 1.0)))
    high_y = 10.0 ** math.ceil(math.log10(max(peak, *(k.gflops or 0.0 for k in points)) * 1.05))

    def x(value: float) -> float:
        return LEFT + (width - LEFT - right) * math.log(value / low_x) / math.log(high_x / low_x)

    def y(value: float) -> float:
        return height - BOTTOM - (height - TOP - BOTTOM) * math.log(value / low_y) / math.log(high_y / low_y)

    parts = []
    for exponent in range(round(math.log2(low_x)), round(math.log2(high_x)) + 1, 2):
        value = 2.0**exponent
        name = f"{value:g}" if value >= 1 else f"1/{round(1 / value)}"
        parts.append(f'<path class="grid" d="M{x(value):.1f} {TOP}V{height - BOTTOM}"/>')
        parts.append(f'<text x="{x(value):.1f}" y="{height - BOTTOM + 22}" text-anchor="middle">{name}</text>')
    for exponent in range(round(math.log10(low_y)), round(math.log10(high_y)) + 1):
        value = 10.0**exponent
        parts.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{width - right}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 5:.1f}" text-anchor="end">{value:g}</text>')
    for i, level in enumerate(roofs.bandwidth[roofs.nearest(threads)]):
        bandwidth = roofs.bandwidth_of(level, threads)
        bend = peak / bandwidth
        start = max(low_x, low_y / bandwidth)
        path = f"M{x(start):.1f} {y(start * bandwidth):.1f}L{x(min(bend, high_x)):.1f} {y(min(peak, high_x * bandwidth)):.1f}"
        if i == 0 and bend < high_x:
            path += f"H{width - right}"
        parts.append(f'<path class="roof{" lower" if i else ""}" d="{path}"/>')
        at = start * 1.15
        parts.append(
            f'<text class="slanted" x="{x(at) + 4:.1f}" y="{y(at * bandwidth) - 6:.1f}" transform="rotate({_slope(x, y, bandwidth):.1f} '
            f'{x(at) + 4:.1f} {y(at * bandwidth) - 6:.1f})">{escape(level)} {bandwidth:,.0f} GB/s</text>'
        )
    parts.append(
        f'<text class="strong" x="{width - right}" y="{y(peak) - 7:.1f}" text-anchor="end">peak {peak:,.0f} GFLOP/s</text>'
    )
    for i, kernel in enumerate(points, 1):
        radius = 4 + 22 * math.sqrt(kernel.share)
        text = f"{kernel.backend}: {kernel.op}, {kernel.place}: {kernel.gflops:.3g} GFLOP/s, {kernel.share:.1%} of the time"
        parts.append(
            f'<circle class="{escape(kernel.backend)}" cx="{x(kernel.intensity or 1):.1f}" cy="{y(kernel.gflops or 1):.1f}" '
            f'r="{radius:.1f}"><title>{escape(text)}</title></circle>'
        )
        if i <= NUMBERED:
            parts.append(
                f'<text class="point" x="{x(kernel.intensity or 1):.1f}" y="{y(kernel.gflops or 1):.1f}" dy=".36em" text-anchor="middle">{i}</text>'
            )
    parts.append(f'<text x="{(LEFT + width - right) / 2}" y="{height - 6}" text-anchor="middle">FLOPs a byte</text>')
    parts.append('<text x="0" y="16">GFLOP/s</text>')
    return _svg(width, height, "Roofline", parts)


def numbered(kernels: Sequence[KernelTime]) -> list[KernelTime]:
    """Those that `roofline_picture` marks with 1, 2, ..., the longest first."""
    return _points(kernels)[:NUMBERED]


def _points(kernels: Sequence[KernelTime]) -> list[KernelTime]:
    return sorted((k for k in kernels if k.gflops and k.intensity and k.share >= 0.001), key=lambda k: -k.share)


def _slope(x: object, y: object, bandwidth: float) -> float:
    """Degrees of a line of constant bandwidth on the paper."""
    dx, dy = x(2.0) - x(1.0), y(2.0 * bandwidth) - y(bandwidth)  # type: ignore[operator]
    return math.degrees(math.atan2(dy, dx))


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">\n{body}\n</svg>'


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"


def _seconds(value: float) -> str:
    """Seconds for people."""
    if value >= 1:
        return f"{value:.3g} s"
    return f"{1e3 * value:.3g} ms" if value >= 1e-3 else f"{1e6 * value:.3g} µs"
