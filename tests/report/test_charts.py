"""Charts: what is drawn is what was given, in the room there is, and words stay words."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.charts import Band, Bar, Tick, areas, bars, steps

SVG = "{http://www.w3.org/2000/svg}"


def parsed(chart: str) -> ElementTree.Element:
    """A chart as XML, which has to be well formed."""
    return ElementTree.fromstring(
        str(chart).replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"')
    )


def texts(root: ElementTree.Element) -> list[str]:
    return [each.text or "" for each in root.iter(f"{SVG}text")]


def titles(root: ElementTree.Element) -> list[str]:
    return [each.text or "" for each in root.iter(f"{SVG}title")]


def polygons(root: ElementTree.Element) -> list[list[tuple[float, float]]]:
    """The corners of each area."""
    return [
        [
            (float(x), float(y))
            for x, y in (pair.split(",") for pair in each.get("points", "").split())
        ]
        for each in root.iter(f"{SVG}polygon")
    ]


@pytest.mark.parametrize(
    ("most", "lines"),
    [
        (0, []),
        (1, [0.5, 1]),
        (3, [1, 2, 3]),
        (7, [2, 4, 6]),
        (10, [5, 10]),
        (99, [20, 40, 60, 80]),
        (1234, [500, 1000]),
        (float("inf"), []),
        (float("nan"), []),
    ],
)
def test_lines_stand_at_round_numbers(most: float, lines: list[float]) -> None:
    """The numbers beside a chart are ones that people count in."""
    assert steps(most) == pytest.approx(lines)


@given(st.floats(1e-6, 1e12))
def test_lines_are_few_and_within_the_chart(most: float) -> None:
    """Two to four lines, evenly spaced, none of them above what is drawn."""
    lines = steps(most)

    assert 2 <= len(lines) <= 4
    assert all(0 < line <= most * (1 + 1e-9) for line in lines)


def test_areas_lie_on_each_other() -> None:
    """The second area begins where the first one ends, and the highest sum is the top."""
    chart = parsed(
        areas("Both", [0, 0.5, 1], [Band("a", "x", [0, 1, 2]), Band("b", "y", [2, 1, 2])])
    )
    low, high = polygons(chart)

    assert low == [(0, 150), (500, 112.5), (1000, 75), (1000, 150), (500, 150), (0, 150)]
    assert high == [(0, 75), (500, 75), (1000, 0), (1000, 75), (500, 112.5), (0, 150)]
    assert titles(chart) == ["Both", "a", "b"]


def test_an_area_of_nothing_is_not_drawn() -> None:
    """A state that no recording was ever in is left out."""
    chart = parsed(areas("One", [0, 1], [Band("a", "x", [0, 0]), Band("b", "y", [1, 1])]))

    assert titles(chart) == ["One", "b"]


def test_bars_are_as_high_as_their_values() -> None:
    """The largest bar fills the chart, one of nothing has no height, and each says what it is."""
    chart = parsed(bars("Nights", [Bar("no", 0, "x"), Bar("half", 2, "x"), Bar("all", 4, "y")]))
    drawn = list(chart.iter(f"{SVG}rect"))

    assert [float(each.get("height", "")) for each in drawn] == [0, 75, 150]
    assert [float(each.get("y", "")) for each in drawn] == [150, 75, 0]
    assert titles(chart) == ["Nights", "no", "half", "all"]


def test_numbers_have_their_unit_and_times_their_place() -> None:
    """Words beside and below the chart are those that were given; the outermost stay inside."""
    chart = bars(
        "t", [Bar("x", 4, "x")], [Tick(0, "left"), Tick(0.5, "mid"), Tick(1, "right")], " h"
    )

    assert texts(parsed(chart)) == ["1 h", "2 h", "3 h", "4 h", "left", "mid", "right"]
    assert [part.split('"')[0] for part in chart.split('text-anchor="')[5:]] == [
        "start",
        "middle",
        "end",
    ]


def test_what_is_counted_has_whole_numbers() -> None:
    """Beside areas there is no half a recording."""
    assert texts(parsed(areas("t", [0, 1], [Band("a", "x", [1, 1])]))) == ["1"]


def test_nothing_is_a_chart_too() -> None:
    """Without a value there are no lines but the ground, and nothing is divided by nothing."""
    assert texts(parsed(bars("t", []))) == []
    assert texts(parsed(areas("t", [], []))) == []
    assert texts(parsed(bars("t", [Bar("x", 0, "x")]))) == []


def test_words_stay_words() -> None:
    """What a chart is told of can close no tag and open none."""
    evil = "</title><script>alert(1)</script>\"'&"
    charts = [
        bars(evil, [Bar(evil, 1, "x")], [Tick(0.5, evil)], evil),
        areas(evil, [0, 1], [Band(evil, "x", [1, 1])], [Tick(0.5, evil)]),
    ]

    for chart in charts:
        assert "<script" not in chart
        assert titles(parsed(chart)) == [evil, evil]
