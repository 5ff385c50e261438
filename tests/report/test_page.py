"""The page, the JSON and the line tell the same, and whatever they are told stays text."""

import json
import re
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from anyio import to_thread
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import OutputNotWritable
from pipeline.events import Standing
from pipeline.report.course import Moment
from pipeline.report.morning import Morning
from pipeline.report.page import as_html, as_json, as_line, save
from tests.report.mornings import facts_of, made
from tests.support.runs import opened

HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>'",
    "\x1b[31mred\x1b[0m\x07\x00\r\n",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;&amp;&#60;",
    "\u202egnp.wav\u2028",
    "x" * 10_000,
]


class Page(HTMLParser):
    """What a browser would make of a page: tags, texts, and the values of its facts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.facts: dict[str, str] = {}
        self.causes: dict[str, int] = {}
        self._is_style = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        given = dict(attrs)
        self._is_style = tag == "style"
        if name := given.get("data-fact"):
            self.facts[name] = given["value"] or ""
        if ended := given.get("data-cause"):
            self.causes[ended] = self.causes.get(ended, 0) + int(given["value"] or "")

    def handle_endtag(self, tag: str) -> None:
        self._is_style = False

    def handle_data(self, data: str) -> None:
        if not self._is_style:
            self.text += data


numbers = st.lists(st.integers(0, 10**9), min_size=6, max_size=6)
PLAIN = Page(as_html(made()))


@given(numbers, st.floats(0, 1e6), st.none() | st.floats(0, 1e6))
@settings(max_examples=50)
def test_the_numbers_of_the_page_add_up(given: list[int], hours: float, cost: float | None) -> None:
    """What stands on the page is what stands in the JSON, and each sum is that of its parts."""
    morning = made(numbers=given, audio_hours=hours, cost_usd=cost)
    told = json.loads(as_json(morning))
    page = Page(as_html(morning))
    facts = {name: json.loads(value.replace("None", "null")) for name, value in page.facts.items()}

    assert facts.items() <= told.items()
    assert {"done", "failed", "skipped", "parked", "audio_hours", "cost_usd"} <= facts.keys()
    assert told["found"] == sum(facts[name] for name in ("done", "failed", "skipped", "parked"))
    for ended in ("failed", "skipped", "parked"):
        assert page.causes.get(ended, 0) == facts[ended]
        assert f"{facts[ended]:,} {ended}" in as_line(morning)
    assert facts["written"] + facts["already_written"] + facts.get("kept", 0) == facts["done"]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_a_text_holds_stays_text(text: str) -> None:
    """A name, a reason or a language adds no tag, no attribute, no script and no control."""
    page = Page(as_html(made(text)))

    assert page.tags == PLAIN.tags
    assert [name for name, _ in page.attributes] == [name for name, _ in PLAIN.attributes]
    assert "script" not in page.tags
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028]", as_html(made(text)))
    assert len(as_line(made(text)).splitlines()) == 1
    assert not re.search(r"[\x00-\x1f]", as_line(made(text)))
    assert msgspec.json.decode(as_json(made(text)), type=Morning) == made(text)


def test_a_page_needs_nothing_else() -> None:
    """No script, no font, no picture and no style is fetched; the browser is told to refuse it."""
    page = as_html(made())
    fetched = [value for name, value in Page(page).attributes if name in ("src", "srcset", "data")]
    policy = next(value for _, value in Page(page).attributes if value and "default-src" in value)

    assert fetched == []
    assert "@import" not in page
    assert "url(" not in page
    assert policy.startswith("default-src 'none'")
    assert re.findall(r"https?://", page) == []


def test_links_lead_to_results_and_recordings_only() -> None:
    """The only places that a page leads to are results, and what they are of."""
    links = [value for name, value in PLAIN.attributes if name == "href"]

    assert set(links) == {"data:,", "../../../x.json", "../x.wav"}


def test_sources_are_told_apart_where_there_are_several() -> None:
    """One source is the run itself; of several each has a row, which adds up."""
    one = [Standing(name="calls", found=6, written=6)]
    two = [
        *one,
        Standing(name="feed", found=2, kept=1, failed=1),
        Standing(name="x", reason="gone"),
    ]

    assert "By source" not in as_html(made(sources=one))
    shown = Page(as_html(made(sources=two))).text
    rows = [row.split() for row in shown[shown.index("By source") :].splitlines()[:20]]
    assert ["SourceFoundDoneFailedSkippedLeft"] in rows
    assert ["calls66000"] in rows
    assert ["feed21100"] in rows
    assert ["x", "gone00000"] in rows


def test_a_run_that_is_not_finished_says_so() -> None:
    """Neither the page nor the line takes a run that was cut off for one that ended."""
    morning = made(finished=False, exit_code=None, verdict="It did not come to its end.")

    assert "It did not come to its end." in as_html(morning)
    assert as_line(morning).endswith("not finished")


@pytest.mark.parametrize(
    ("numbers", "headline"),
    [
        ((0, 0, 0, 0, 0, 0), "No recordings found"),
        ((1, 0, 0, 0, 0, 0), "The one recording is done"),
        ((1000, 200, 34, 0, 0, 0), "All 1,234 done"),
        ((3, 0, 0, 1, 0, 0), "3 of 4 recordings done"),
    ],
)
def test_the_headline_says_how_it_went(numbers: tuple[int, ...], headline: str) -> None:
    """What matters most stands first, and in the title of the window."""
    page = as_html(made(numbers=numbers))

    assert f"<h1>{headline}</h1>" in page
    assert f"<title>{headline}, Wed 25 Nov 2026" in page


def test_a_moment_is_no_chart() -> None:
    """A run that was over as it began has no course, and nothing is divided by nothing."""
    first, last = made().moments
    still = Moment(first.time, last.written, 0, 0, 0, 0)

    for moments in ([], [first], [first, still]):
        assert "Recordings by state" not in as_html(made(moments=moments))
    assert "Recordings by state" in as_html(made())


@pytest.mark.parametrize(
    ("lasts_s", "ticks"),
    [
        (0.5, ["22:00:00", "22:00:00"]),
        (90, ["22:00:00", "22:01:30"]),
        (300, ["22:01", "22:02", "22:03", "22:04", "22:05"]),
        (7 * 3600, ["00:00", "02:00", "04:00"]),
        (30 * 3600, ["00:00", "06:00", "12:00", "18:00", "00:00"]),
    ],
)
def test_times_of_day_are_round(lasts_s: float, ticks: list[str]) -> None:
    """Below the course stand times as people say them; of a short run, its beginning and end."""
    first, last = made().moments
    later = msgspec.structs.replace(last, time=first.time + timedelta(seconds=lasts_s))
    page = as_html(made(moments=[first, later]))
    course = page[page.index('id="course"') : page.index('id="nights"')]

    assert re.findall(r">(\d\d:\d\d(?::\d\d)?)</text>", course) == ticks


def test_the_json_is_one_line() -> None:
    """Programs read one object on one line, whose type says what it is."""
    line = as_json(made("a\nb"))

    assert b"\n" not in line
    assert json.loads(line)["type"] == "report"


def test_a_line_sets_new_ones_apart() -> None:
    """Of what is done, the line says how much is of this run, where that is not all."""
    assert ": 3 done, 0 failed" in as_line(made(numbers=(3, 0, 0, 0, 0, 0)))
    assert "6 done (3 new), " in as_line(made(numbers=(3, 2, 1, 0, 0, 0)))


def test_a_report_is_saved_whole(tmp_path: Path) -> None:
    """Page and JSON lie beside the run, the older ones replaced, and nothing else is left."""
    for text in ("older", "newer"):
        page = save(made(text), tmp_path)

    assert page == tmp_path / "report.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    assert page.read_text("utf-8") == as_html(made("newer"))
    assert (tmp_path / "report.json").read_bytes() == as_json(made("newer")) + b"\n"


def test_where_nothing_can_be_written_is_told(tmp_path: Path) -> None:
    """A folder that takes no file is an error that names it."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(OutputNotWritable, match="file"):
        save(made(), tmp_path / "file")


@pytest.mark.anyio
async def test_a_real_run_reads_alike_everywhere(tmp_path: Path) -> None:
    """Of a run with recordings of every end, page, JSON and line tell the same numbers."""
    async with opened(tmp_path) as archive:
        archive.add("<b>good</b>.wav", b"SECONDS:3600\none")
        archive.add("short.wav", b"ERROR:Too <short> for &amp; us.\n")
        archive.add("empty.wav", b"")
        await archive.run()
        morning = await facts_of(archive)
    page = Page(await to_thread.run_sync(as_html, morning))
    told = json.loads(as_json(morning))

    assert {name: told[name] for name in ("done", "failed", "skipped", "parked")} == {
        name: int(page.facts[name]) for name in ("done", "failed", "skipped", "parked")
    }
    assert "<b>good</b>.wav" in page.text
    assert "Too <short> for &amp; us." in page.text
    assert "1 done, 1 failed, 1 skipped, 0 parked; 1.0 h of audio" in as_line(morning)
