"""Charts of a comparison as SVG: the radar of the paper's Figure 1a, and quality against time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap

from osediff_core.report.page import Figure, text_of

from .metric_table import Metric
from .tables import number

COLOURS = 8
"""Classes c0 to c7 of the page's style; a ninth method begins anew, dashed."""
WIDTH, LINE = 480, 18
CENTRE, RADIUS = (240, 160), 112
WORST = 0.15
"""Where on an axis of the radar the worst method is, of 1 for the best: at 0 all would meet."""
LEAST_AXES = 3
LETTERS = 15
"""Of a line beside the radar: what has room there."""
LEFT, RIGHT, TOP, BOTTOM = 62, 460, 24, 220
"""Of the plot of quality against time."""
LOG_FROM = 10
"""How many times slower the slowest is than the fastest where time gets a logarithmic axis."""


def radar(
    title: str, metrics: Mapping[str, Metric], methods: Mapping[str, Mapping[str, float]]
) -> Figure | None:
    """Draw each method's figures as a polygon; None for fewer than three metrics that all methods have.

    Each axis reaches from the worst of the methods to the best, so that outside is always better.
    """
    axes = [
        n for n in metrics if methods and all(math.isfinite(f.get(n, math.nan)) for f in methods.values())
    ]
    if len(axes) < LEAST_AXES:
        return None
    parts = []
    for i, name in enumerate(axes):
        parts.append(_axis(i / len(axes), metrics[name], [figures[name] for figures in methods.values()]))
    for i, figures in enumerate(methods.values()):
        corners = []
        for axis, name in enumerate(axes):
            of_all = [other[name] for other in methods.values()]
            corners.append(_point(axis / len(axes), _standing(figures[name], of_all, metrics[name])))
        shape = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        parts.append(f'<polygon class="{_colour(i)} line"{_dash(i)} points="{shape}"/>')
    caption = (
        f"{title}: each axis from the worst of these methods to the best, outside is better. The two "
        "figures are of the best and the worst."
    )
    return Figure(caption, _svg(title, 330, parts, list(methods)))


def quality_against_time(
    title: str, metric: Metric, points: Mapping[str, tuple[float, float]]
) -> Figure | None:
    """Draw methods by seconds of a picture and a metric, better upwards; None for fewer than two."""
    if len(points) < 2:
        return None
    seconds, values = zip(*points.values(), strict=True)
    logarithmic = min(seconds) > 0 and max(seconds) > LOG_FROM * min(seconds)
    across = [math.log10(s) if logarithmic else s for s in seconds]
    up = [v if metric.better == "higher" else -v for v in values]
    parts = [f'<path class="grid" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>']
    for i, (x, y) in enumerate(zip(across, up, strict=True)):
        at = (
            LEFT + 12 + (RIGHT - LEFT - 24) * _part(x, across),
            BOTTOM - 12 - (BOTTOM - TOP - 24) * _part(y, up),
        )
        parts.append(f'<circle class="{_colour(i)} dot" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="6"/>')
    best, worst = _best_worst(values, metric)
    parts += [
        f'<text class="soft" x="{LEFT - 6}" y="{TOP + 16}" text-anchor="end">{best}</text>',
        f'<text class="soft" x="{LEFT - 6}" y="{BOTTOM - 8}" text-anchor="end">{worst}</text>',
        f'<text x="4" y="14">{_label(metric)}</text>',
        f'<text class="soft" x="{LEFT + 12}" y="{BOTTOM + 16}">{min(seconds):.3g} s</text>',
        f'<text class="soft" x="{RIGHT}" y="{BOTTOM + 16}" text-anchor="end">{max(seconds):.3g} s</text>',
    ]
    scale = ", logarithmic" if logarithmic else ""
    caption = (
        f"{title}: {metric.label} against seconds of a picture{scale}; better is upwards, faster to the left."
    )
    return Figure(caption, _svg(f"{title}: {metric.label} against time", BOTTOM + 26, parts, list(points)))


def _axis(turn: float, metric: Metric, values: Sequence[float]) -> str:
    """One axis of the radar with its name and the figures of its two ends."""
    (x, y), (label_x, label_y) = _point(turn, 1), _point(turn, 1.16)
    anchor = "middle" if abs(label_x - CENTRE[0]) < 20 else "start" if label_x > CENTRE[0] else "end"
    best, worst = _best_worst(values, metric)
    words = wrap(f"{metric.label.partition(',')[0]} {metric.arrow}", LETTERS)
    told = [text_of(line) for line in words] + [f"{best} / {worst}"]
    top = label_y + (2 if label_y > CENTRE[1] + 20 else 9 - 13 * (len(told) - 1))
    texts = [
        f'<text class="{"soft" if i == len(words) else "name"}" x="{label_x:.1f}" y="{top + 13 * i:.1f}" '
        f'text-anchor="{anchor}">{line}</text>'
        for i, line in enumerate(told)
    ]
    return f'<line class="grid" x1="{CENTRE[0]}" y1="{CENTRE[1]}" x2="{x:.1f}" y2="{y:.1f}"/>{"".join(texts)}'


def _best_worst(values: Sequence[float], metric: Metric) -> tuple[str, str]:
    """Return the figures of the best and the worst."""
    best, worst = (max, min) if metric.better == "higher" else (min, max)
    return number(best(values), metric.digits), number(worst(values), metric.digits)


def _standing(value: float, values: Sequence[float], metric: Metric) -> float:
    """Where a value is between the worst, `WORST`, and the best, 1; all are the best where they are equal."""
    part = _part(value, values) if metric.better == "higher" else _part(-value, [-v for v in values])
    return 1.0 if min(values) == max(values) else WORST + (1 - WORST) * part


def _part(value: float, values: Sequence[float]) -> float:
    """Where a value lies between the least, 0, and the greatest, 1; in the middle where they are equal."""
    low, high = min(values), max(values)
    return (value - low) / (high - low) if high > low else 0.5


def _point(turn: float, radius: float) -> tuple[float, float]:
    """Return a point of the radar; turn: 0 is up, 1 all the way round, clockwise."""
    angle = 2 * math.pi * turn
    return CENTRE[0] + RADIUS * radius * math.sin(angle), CENTRE[1] - RADIUS * radius * math.cos(angle)


def _svg(title: str, height: int, parts: Sequence[str], names: Sequence[str]) -> str:
    """Return the drawing, with a line of legend for each method below it."""
    legend = [
        f'<line class="{_colour(i)} line"{_dash(i)} x1="8" y1="{height + LINE * i + 5}" x2="28" '
        f'y2="{height + LINE * i + 5}"/><text x="36" y="{height + LINE * i + 9}">{text_of(name)}</text>'
        for i, name in enumerate(names)
    ]
    return (
        f'<svg viewBox="0 0 {WIDTH} {height + LINE * len(names)}" role="img" aria-label="{text_of(title)}">'
        f"{''.join(parts)}{''.join(legend)}</svg>"
    )


def _colour(number: int) -> str:
    return f"c{number % COLOURS}"


def _dash(number: int) -> str:
    return ' stroke-dasharray="6 3"' if number >= COLOURS else ""


def _label(metric: Metric) -> str:
    return text_of(f"{metric.label} {metric.arrow}")
