"""
Small charts: in, numbers with their words; out, inline SVG for a page.

Pure. A chart is as wide as the page lets it be: what is drawn is stretched, text never is, since
it stands outside of what is stretched. Colours are custom properties of the page, so that they
follow its scheme. Whatever words hold stays text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

__all__ = ["Band", "Bar", "Tick", "areas", "bars", "steps"]

_PLOT_PX = 150
_ABOVE_PX = 14
"""Room for the word on the highest line."""
_BELOW_PX = 20
"""Room for the words on the axis of time."""
_SIGN_PX = 6.5
"""Width of a sign of 11 px, about."""
_WIDTH = 1000
"""Of what is stretched; no unit."""


@dataclass(frozen=True, slots=True)
class Band:
    """One of the areas that lie on each other."""

    name: str
    colour: str
    """Name of a custom property, without its dashes."""
    values: Sequence[float]
    """One for each moment, not below 0."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar and what is said of it."""

    said: str
    value: float
    """Not below 0."""
    colour: str
    """Name of a custom property, without its dashes."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A word on the axis of time."""

    at: float
    """0..1 from left to right."""
    said: str


def steps(most: float) -> list[float]:
    """
    Round numbers for the lines of a chart: two to four above 0, none of them above `most`.

    None at all where there is nothing to show.
    """
    if most <= 0 or not math.isfinite(most):
        return []
    size = 10.0 ** math.floor(math.log10(most))
    if _times(size, most) < 2:
        size /= 10
    step = next(size * factor for factor in (1, 2, 5, 10) if _times(size * factor, most) < 5)
    return [step * number for number in range(1, _times(step, most) + 1)]


def _times(step: float, most: float) -> int:
    """How often a step goes into the whole; what is missing by rounding alone is not missing."""
    return int(most / step + 1e-9)


def areas(
    title: str, at: Sequence[float], bands: Sequence[Band], ticks: Sequence[Tick] = ()
) -> Markup:
    """
    Areas of things that are counted, which lie on each other, the first at the bottom.

    `at` are their moments, 0..1 from left to right.
    """
    most = max((sum(moment) for moment in _columns(bands)), default=0.0)
    below = [0.0] * len(at)
    drawn = Markup()
    for band in bands:
        above = [low + value for low, value in zip(below, band.values, strict=True)]
        if any(band.values):
            edge = [*zip(at, above, strict=True), *reversed([*zip(at, below, strict=True)])]
            points = " ".join(f"{x * _WIDTH:.1f},{_height(y, most):.1f}" for x, y in edge)
            drawn += Markup(
                '<polygon points="{}" style="fill:var(--{})"><title>{}</title></polygon>'
            ).format(points, band.colour, band.name)
        below = above
    whole = [step for step in steps(most) if step.is_integer()]
    return _chart(title, drawn, most, [(step, f"{step:,.0f}") for step in whole], ticks)


def bars(title: str, given: Sequence[Bar], ticks: Sequence[Tick] = (), unit: str = "") -> Markup:
    """Bars side by side, each with its words where it is pointed at."""
    most = max((bar.value for bar in given), default=0.0)
    room = _WIDTH / max(len(given), 1)
    drawn = Markup()
    for place, bar in enumerate(given):
        top = _height(bar.value, most)
        drawn += Markup(
            '<rect x="{}" y="{}" width="{}" height="{}" style="fill:var(--{})">'
            "<title>{}</title></rect>"
        ).format(
            f"{(place + 0.12) * room:.1f}",
            f"{top:.1f}",
            f"{room * 0.76:.1f}",
            f"{_PLOT_PX - top:.1f}",
            bar.colour,
            bar.said,
        )
    numbers = [(step, f"{step:,g}{unit}") for step in steps(most)]
    return _chart(title, drawn, most, numbers, ticks)


def _columns(bands: Sequence[Band]) -> Sequence[tuple[float, ...]]:
    return list(zip(*(band.values for band in bands), strict=True))


def _height(value: float, most: float) -> float:
    """From the top of the plot, px."""
    return _PLOT_PX * (1 - value / most) if most > 0 else _PLOT_PX


def _chart(
    title: str,
    drawn: Markup,
    most: float,
    numbers: Sequence[tuple[float, str]],
    ticks: Sequence[Tick],
) -> Markup:
    """What is drawn, stretched to the right of the numbers and above the times."""
    lines, words, times = Markup(), Markup(), Markup()
    for step, said in [(0.0, ""), *numbers]:
        y = _ABOVE_PX + _height(step, most)
        lines += _LINE.format(f"{y:.1f}")
        words += _NUMBER.format(f"{y + 4:.1f}", said) if said else ""
    for tick in ticks:
        anchor = "start" if tick.at < 0.05 else "end" if tick.at > 0.95 else "middle"
        times += _TIME.format(f"{tick.at * 100:.2f}", anchor, tick.said)
    left = round(max((len(said) for _, said in numbers), default=0) * _SIGN_PX + 6)
    return _CHART.format(
        title=title,
        height=_ABOVE_PX + _PLOT_PX + _BELOW_PX,
        left=left,
        top=_ABOVE_PX,
        plot=_PLOT_PX,
        width=_WIDTH,
        below=_ABOVE_PX + _PLOT_PX + 14,
        lines=lines,
        words=words,
        drawn=drawn,
        times=times,
    )


_LINE = Markup('<line x1="0" x2="100%" y1="{0}" y2="{0}" style="stroke:var(--rule)"/>')
_NUMBER = Markup('<text x="-6" y="{}" text-anchor="end">{}</text>')
_TIME = Markup('<text x="{}%" text-anchor="{}">{}</text>')
_CHART = Markup(
    '<svg class="chart" height="{height}" style="padding-left:{left}px" role="img">'
    "<title>{title}</title>{lines}{words}"
    '<svg y="{top}" width="100%" height="{plot}" viewBox="0 0 {width} {plot}"'
    ' preserveAspectRatio="none">{drawn}</svg>'
    '<svg y="{below}" width="100%" overflow="visible">{times}</svg></svg>'
)
