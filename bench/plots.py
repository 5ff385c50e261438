"""
Line charts as SVG: series of points in, a file out that reads on light and dark pages alike.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 800, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 44, 90
_LEGEND_COLUMNS = 3
_GREY, _FAINT = "#7d8590", "#7d859044"
_COLOURS = ("#2f81f7", "#d4761a", "#3fa652", "#a371f7", "#e5534b", "#8a8f98")
"""Of middling lightness: they stand out from white and from black."""


@dataclass(frozen=True)
class Series:
    """A line and its name in the legend; a reference is grey, dashed and takes no colour."""

    name: str
    points: Sequence[tuple[float, float]]
    is_reference: bool = False


def chart(path: Path, title: str, x_label: str, y_label: str, series: Sequence[Series]) -> None:
    """Draws the series from zero on; units belong into the labels."""
    path.write_text("\n".join(_lines(title, x_label, y_label, series)) + "\n", encoding="utf-8")


def _lines(title: str, x_label: str, y_label: str, series: Sequence[Series]) -> Iterator[str]:
    x_ticks = _ticks(max((x for each in series for x, _ in each.points), default=1))
    y_ticks = _ticks(max((y for each in series for _, y in each.points), default=1))
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    bottom = _HEIGHT - _BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return _LEFT + width * x / x_ticks[-1], bottom - height * y / y_ticks[-1]

    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{_GREY}">'
    )
    yield f'<text x="{_LEFT}" y="18" font-size="15" font-weight="600">{escape(title)}</text>'
    for tick in y_ticks:
        _, y = at(0, tick)
        yield f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="{_FAINT}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:,g}</text>'
    for tick in x_ticks:
        x, _ = at(tick, 0)
        yield f'<path d="M{x:.1f} {bottom}v5" stroke="{_GREY}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 19}" text-anchor="middle">{tick:,g}</text>'
    middle = _LEFT + width / 2
    yield f'<text x="{middle}" y="{bottom + 36}" text-anchor="middle">{escape(x_label)}</text>'
    yield f'<text x="{_LEFT}" y="{_TOP - 8}">{escape(y_label)}</text>'
    colours = iter(_COLOURS)
    for number, each in enumerate(series):
        colour = f'"{_GREY}" stroke-dasharray="5 4"' if each.is_reference else f'"{next(colours)}"'
        stroke = f'fill="none" stroke={colour} stroke-width="2" stroke-linejoin="round"'
        places = (at(x, y) for x, y in each.points)
        yield f'<polyline {stroke} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'
        row, column = divmod(number, _LEGEND_COLUMNS)
        x, y = _LEFT + column * width / _LEGEND_COLUMNS, bottom + 58 + 19 * row
        yield f'<path d="M{x:.1f} {y}h18" {stroke}/>'
        yield f'<text x="{x + 24:.1f}" y="{y + 4}">{escape(each.name)}</text>'
    yield "</svg>"


def _ticks(most: float) -> list[float]:
    """Four to eight round numbers from zero to the first one that is not below `most`."""
    most = most or 1.0
    rough = most / 6
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 5, 10) if power * each >= rough)
    return [step * count for count in range(math.ceil(most / step) + 1)]
