"""Charts as inline SVG: colors and type come from the page's style sheet, so one drawing suits light, dark and paper.

A chart is a small panel of fixed width; the page sets several side by side, so its text keeps its size on a phone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llgbm.percent import percent

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 10, 24
MAX_POINTS = 300
"""Points of a curve; longer ones are averaged over equal stretches of steps."""
STYLES = 6
"""Looks of lines and dots (`s0` to `s5`) the style sheet has; further runs begin again."""

Format = Callable[[float], str]


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    label: str
    points: list[tuple[int, float]]
    """(step, value), by step; not empty."""


@dataclass(frozen=True)
class Estimate:
    """A dot with its interval; `low` and `high` are None where there is none."""

    label: str
    value: float
    low: float | None
    high: float | None


def number(value: float) -> str:
    """A figure for people, three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def curves_chart(
    title: str,
    curves: Sequence[Curve],
    form: Format = number,
    reference: tuple[str, float] | None = None,
    share: bool = False,
    axis: str = "step",
    from_zero: bool = False,
) -> Markup:
    """Figures over steps, or something else that is counted, one line per run.

    Args:
        title: What is drawn; also the chart's accessible name.
        curves: At least one.
        form: Writes the values of the vertical axis.
        reference: A level to compare with, drawn as a dashed line with its name.
        share: Whether values are shares; their axis is from 0 to 1 in every chart.
        axis: What the points' first numbers count.
        from_zero: The vertical axis begins at 0 or below.
    """
    values = [value for curve in curves for _, value in curve.points] + ([reference[1]] if reference else []) + ([0.0] if from_zero else [])
    steps = [step for curve in curves for step, _ in curve.points]
    levels = [0, 0.25, 0.5, 0.75, 1] if share else ticks(min(values), max(values))
    at_x = _scale(min(steps), max(steps), LEFT, WIDTH - RIGHT)
    at_y = _scale(levels[0], levels[-1], HEIGHT - BOTTOM, TOP)
    parts = [_horizontal(at_y(level), form(level)) for level in levels]
    parts += [_below(at_x(step), number(step)) for step in ticks(min(steps), max(steps)) if min(steps) <= step <= max(steps)]
    parts.append(Markup('<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>').format(LEFT - 12, HEIGHT - BOTTOM + 16, axis))
    if reference:
        y = _at(at_y(reference[1]))
        parts.append(Markup('<line class="reference" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, WIDTH - RIGHT, y, y))
        below = 14 if at_y(reference[1]) < TOP + 12 else -5
        mark = Markup('<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>')
        parts.append(mark.format(WIDTH - RIGHT, _at(at_y(reference[1]) + below), reference[0]))
    for i, curve in enumerate(curves):
        line = " ".join(f"{_at(at_x(step))},{_at(at_y(value))}" for step, value in thin(curve.points))
        parts.append(Markup('<polyline class="line s{}" points="{}"/>').format(i % STYLES, line))
        if len(curve.points) <= 12:
            parts += [_dot(at_x(step), at_y(value), i, f"{curve.label}: {form(value)} at {axis} {step}") for step, value in curve.points]
    ends = "; ".join(f"{c.label} from {form(c.points[0][1])} to {form(c.points[-1][1])}" for c in curves)
    return _svg(title, f"{ends}, {axis}s {min(steps)} to {max(steps)}", HEIGHT, parts)


def estimates_chart(
    title: str, rows: Sequence[tuple[str, Sequence[Estimate | None]]], form: Format = percent, emphasis: str = ""
) -> Markup:
    """Dots with intervals on an axis from 0 to 1.

    Args:
        title: What is drawn; also the chart's accessible name.
        rows: (name, one estimate per run); None leaves a gap.
        form: Writes values.
        emphasis: The name of the row to look at.
    """
    runs = max(len(estimates) for _, estimates in rows)
    pitch = 12 + 12 * runs
    left, height = 124, TOP + pitch * len(rows) + 24
    at_x = _scale(0, 1, left, WIDTH - 18)
    bottom = TOP + pitch * len(rows)
    parts = []
    for level in (0, 0.25, 0.5, 0.75, 1):
        x = _at(at_x(level))
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x, x, TOP, bottom))
        parts.append(Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>').format(x, bottom + 16, form(level)))
    for r, (name, estimates) in enumerate(rows):
        middle = TOP + pitch * (r + 0.5)
        parts.append(_name(left - 10, middle + 4, name, name == emphasis))
        for i, estimate in enumerate(estimates):
            if estimate is not None:
                parts.append(_estimate(estimate, at_x, middle + 12 * (i - (len(estimates) - 1) / 2), i, form))
    described = "; ".join(f"{name} {', '.join(form(e.value) for e in estimates if e)}" for name, estimates in rows)
    return _svg(title, described, height, parts)


def sheet(panels: Sequence[tuple[str, Markup]], lines: Sequence[str], style: str, columns: int = 3) -> str:
    """Charts side by side as one SVG file of its own, light or dark as the reader's screen.

    Args:
        panels: (title, chart); charts of `curves_chart`.
        lines: What their lines are, named on top when there are several.
        style: The charts' style sheet.
        columns: Charts in a row.
    """
    gap, head = 24, 22
    top = gap + (20 if len(lines) > 1 else 0)
    rows = math.ceil(len(panels) / columns)
    width, height = columns * (WIDTH + gap) + gap, rows * (HEIGHT + head + gap) + top
    parts = []
    for i, (title, chart) in enumerate(panels):
        x, y = gap + i % columns * (WIDTH + gap), top + i // columns * (HEIGHT + head + gap)
        parts.append(Markup('<text class="title" x="{}" y="{}">{}</text>').format(x, y + 12, title))
        parts.append(Markup('<svg x="{}" y="{}" width="{}" height="{}">{}</svg>').format(x, y + head, WIDTH, HEIGHT, chart))
    for i, name in enumerate(lines if len(lines) > 1 else ()):
        x = gap + i * (width - 2 * gap) // len(lines)
        parts.append(Markup('<line class="line s{}" x1="{}" x2="{}" y1="22" y2="22"/>').format(i % STYLES, x, x + 30))
        parts.append(Markup('<text class="name" x="{}" y="26">{}</text>').format(x + 36, name))
    head_line = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    own = "svg { font-family: system-ui, sans-serif; } .title { fill: var(--ink); font-weight: 600; font-size: 14px; }"
    page = '<rect width="100%" height="100%" style="fill: var(--page)"/>'
    return f"{head_line}<style>{style}{own}</style>{page}{''.join(parts)}</svg>\n"


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round levels from at or below `low` to at or above `high`, at least two."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if span / (power * m) <= about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, max(last, first + 1) + 1)]


def thin(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most MAX_POINTS points: means over equal stretches of a longer curve."""
    size = math.ceil(len(points) / MAX_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(step for step, _ in g) / len(g), sum(value for _, value in g) / len(g)) for g in groups]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = high - low or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _at(position: float) -> str:
    return f"{position:.1f}".removesuffix(".0")


def _horizontal(y: float, label: str) -> Markup:
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, WIDTH - RIGHT, _at(y), _at(y))
    return line + Markup('<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>').format(LEFT - 6, _at(y + 4), label)


def _below(x: float, label: str) -> Markup:
    """A label under the axis, kept inside the panel at its right end."""
    anchor = "end" if x > WIDTH - RIGHT - 12 else "middle"
    return Markup('<text class="axis" x="{}" y="{}" text-anchor="{}">{}</text>').format(_at(x), HEIGHT - BOTTOM + 16, anchor, label)


def _name(x: float, y: float, name: str, is_key: bool) -> Markup:
    mark = Markup('<text class="name{}" x="{}" y="{}" text-anchor="end">{}</text>')
    return mark.format(" key" if is_key else "", _at(x), _at(y), name)


def _estimate(estimate: Estimate, at_x: Callable[[float], float], y: float, style: int, form: Format) -> Markup:
    said = f"{estimate.label}: {form(estimate.value)}"
    drawn = Markup("")
    if estimate.low is not None and estimate.high is not None:
        said += f" [{form(estimate.low)}, {form(estimate.high)}]"
        whisker = Markup('<line class="whisker s{}" x1="{}" x2="{}" y1="{}" y2="{}"/>')
        drawn = whisker.format(style % STYLES, _at(at_x(estimate.low)), _at(at_x(estimate.high)), _at(y), _at(y))
    return drawn + _dot(at_x(estimate.value), y, style, said)


def _dot(x: float, y: float, style: int, said: str) -> Markup:
    """A circle, square or diamond, so that color is not the only mark of a run."""
    shape = style % 3
    if shape == 0:
        drawn = Markup('<circle class="dot s{}" cx="{}" cy="{}" r="4">').format(style % STYLES, _at(x), _at(y))
    else:
        turn = Markup(' transform="rotate(45 {} {})"').format(_at(x), _at(y)) if shape == 2 else ""
        square = Markup('<rect class="dot s{}" x="{}" y="{}" width="7" height="7"{}>')
        drawn = square.format(style % STYLES, _at(x - 3.5), _at(y - 3.5), turn)
    return drawn + Markup("<title>{}</title>").format(said) + (Markup("</circle>") if shape == 0 else Markup("</rect>"))


def _svg(title: str, description: str, height: float, parts: Sequence[Markup]) -> Markup:
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}. {}">')
    return head.format(WIDTH, _at(height), title, description) + Markup("").join(parts) + Markup("</svg>")
