"""README's picture of peers: how many times as fast fastmnist is as each of them, as bars on a logarithmic scale that begin at 1, "same speed".

SVG, one file for GitHub's light theme and one for its dark one; the text is text. A whisker spans the 20 % and 80 % quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from jobs import Job
from verdict import Comparison, Outcome

WIDTH, LEFT, RIGHT = 860, 250, 130
ROW, TITLE, TOP, BOTTOM = 19, 26, 54, 12
# Text, soft text, grid, bars where we are faster, slower, and where there is no difference or no verdict.
THEMES = {
    "light": ("#1f2328", "#59636e", "#d1d9e0", "#2f7d4f", "#c2410c", "#8c959f"),
    "dark": ("#f0f6fc", "#9198a1", "#3d444d", "#4fb477", "#f0883e", "#767e88"),
}


def picture(outcomes: Sequence[tuple[Job, Outcome]], theme: str) -> str:
    """The SVG.

    Parameters
    ----------
    outcomes : sequence of (Job, Outcome)
        Those without a number are left out: the table names them.
    theme : {"light", "dark"}
    """
    text, soft, grid, faster, slower, neither = THEMES[theme]
    colours = {"FASTER": faster, "SLOWER": slower, "SAME": neither, "UNCLEAR": neither}
    groups = _groups(outcomes)
    ratios = [value for _, bars in groups for _, c in bars for value in (c.low, c.high)]
    low, high = _span(ratios)
    bottom = TOP + sum(TITLE + ROW * len(bars) for _, bars in groups)
    bottom_of_page = bottom + BOTTOM

    def x(ratio: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(ratio / low) / math.log(high / low)

    parts = []
    begins = [TOP + TITLE * (i + 1) + ROW * sum(len(bars) for _, bars in groups[:i]) for i in range(len(groups))]
    stretches = [(begin, begin + ROW * len(bars)) for begin, (_, bars) in zip(begins, groups, strict=True)]
    for exponent in range(round(math.log2(low)), round(math.log2(high)) + 1):
        at, name = x(2.0**exponent), f"{2.0**exponent:g}" if exponent >= 0 else f"1/{2**-exponent}"
        lines = "".join(f"M{at:.1f} {begin}V{end}" for begin, end in stretches)  # not through the titles
        parts.append(f'<path d="{lines}" stroke="{text if not exponent else grid}"/>')
        parts.append(f'<text x="{at:.1f}" y="{TOP - 6}" fill="{soft}" text-anchor="middle">{name}</text>')
    one = x(1.0)
    parts.append(
        f'<text x="{one + 6:.1f}" y="18" fill="{faster}" font-weight="600">fastmnist is so many times as fast \u2192</text>'
    )
    parts.append(
        f'<text x="{one - 6:.1f}" y="18" fill="{slower}" font-weight="600" text-anchor="end">\u2190 the peer is faster</text>'
    )
    parts.append(f'<text x="{one:.1f}" y="34" fill="{text}" text-anchor="middle">1 = same speed</text>')
    y = TOP
    for title, bars in groups:
        parts.append(f'<text x="4" y="{y + 18}" fill="{text}" font-weight="600">{escape(title)}</text>')
        y += TITLE
        for peer, c in bars:
            begin, end = sorted((one, x(c.ratio)))
            middle, colour = y + ROW / 2, colours[c.verdict]
            parts.append(f'<text x="{LEFT - 8}" y="{y + 14}" fill="{soft}" text-anchor="end">{escape(peer)}</text>')
            parts.append(
                f'<rect x="{begin:.1f}" y="{y + 3}" width="{max(end - begin, 1.5):.1f}" height="{ROW - 6}" rx="2" fill="{colour}">'
                f"<title>{escape(f'{title}, {peer}: {_factor(c.ratio)} x ({_factor(c.low)} .. {_factor(c.high)}), {c.verdict}')}</title></rect>"
            )
            parts.append(f'<path d="M{x(c.low):.1f} {middle}H{x(c.high):.1f}" stroke="{text}" stroke-width="1.5"/>')
            label = f"{_factor(c.ratio)} x" + ("" if c.verdict == "FASTER" else f", {c.verdict.lower()}")
            at = max(x(c.ratio), x(c.high), one) + 6
            parts.append(f'<text x="{at:.1f}" y="{y + 14}" fill="{text}">{label}</text>')
            y += ROW
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom_of_page}" width="{WIDTH}" height="{bottom_of_page}" role="img" '
        f'aria-label="How many times as fast fastmnist is as its peers" font-family="system-ui, -apple-system, Segoe UI, DejaVu Sans, sans-serif" '
        f'font-size="12.5" fill="none">\n{body}\n</svg>\n'
    )


def _groups(outcomes: Sequence[tuple[Job, Outcome]]) -> list[tuple[str, list[tuple[str, Comparison]]]]:
    """What is timed, and its bars, the smallest ratio first."""
    groups: dict[str, list[tuple[str, Comparison]]] = {}
    for job, outcome in outcomes:
        for column, comparison in outcome.comparisons.items():
            label = job.label(column, outcome.peer.peer)
            title = f"{job.title}: {label}" + (" (less memory)" if job.unit != "s" else "")
            groups.setdefault(title, []).append((outcome.peer.peer, comparison))
    return [(title, sorted(bars, key=lambda bar: bar[1].ratio)) for title, bars in groups.items()]


def _span(ratios: Sequence[float]) -> tuple[float, float]:
    """Powers of two around all ratios; at least from a half to four."""
    lowest, highest = min([*ratios, 0.5]), max([*ratios, 4.0])
    return 2.0 ** math.floor(math.log2(lowest)), 2.0 ** math.ceil(math.log2(highest))


def _factor(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"
