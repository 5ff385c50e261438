"""The page in a real browser: it loads from disk, alone, and can be read on a phone."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import anyio
import pytest
from playwright.sync_api import Browser, ViewportSize

from pipeline.events import Standing
from pipeline.report.morning import Morning, morning
from pipeline.report.page import as_html, save
from tests.report.mornings import made
from tests.support.browser import DESK, PHONE, browsing, shown
from tests.support.runs import Archive, opened

NAMES = [
    b"plain.wav",
    b"2026/11/deep.wav",
    b"a#b?c%25.wav",
    b'"quoted" <b>&amp;.wav',
    b"C:colon.wav",
    b"new\nline.wav",
    b"\xff\xfe.wav",
    "語 überall.wav".encode(),
    b"x" * 240 + b".wav",
]
"""Of recordings that have a result, as bytes."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The saved page of a real run, whose recordings have names and ends of every kind."""
    folder = tmp_path_factory.mktemp("archive")

    async def run() -> Archive:
        async with opened(folder) as archive:
            for number, name in enumerate(NAMES):
                archive.add(name, b"SECONDS:3600\n%d" % number)
            archive.add("short.wav", b"ERROR:Too short: <script>alert(1)</script>\n")
            archive.add("empty.wav", b"")
            await archive.run()
            return archive

    archive = anyio.run(run)
    facts = morning(archive.settings())
    return save(facts, archive.state / "runs" / facts.run_id)


@pytest.fixture(scope="module")
def browser(report: Path) -> Iterator[Browser]:
    """The browser of this machine, after the report: a run needs a loop of its own."""
    with browsing() as browser:
        yield browser


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A page in which everything is there, much of it, and long words too."""
    path = tmp_path / "report.html"
    path.write_text(as_html(full()), "utf-8")
    return path


def full() -> Morning:
    """Facts with every section, and words that break nowhere."""
    sources = [
        Standing(
            name="/srv/" + "recordings" * 12,
            found=123_456,
            written=121_456,
            failed=1000,
            parked=1000,
        ),
        Standing(name="https://archive.example.org/?all=1", found=9, skipped=9, reason="gone" * 90),
    ]
    numbers = (1_234_567, 2_000_000, 300, 40_000, 5_000, 60_000)
    more = {"month_cost_usd": 123_456.78, "cost_usd": 98_765.43, "audio_hours": 1_234_567.0}
    return made("W" * 390, numbers=numbers, sources=sources, **more)


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_loads_alone(browser: Browser, report: Path, size: ViewportSize, scheme: str) -> None:
    """The page opens from disk without a complaint, and asks for nothing but itself."""
    with shown(browser, report, size, color_scheme=scheme) as (page, heard):
        assert page.title().startswith(f"{len(NAMES)} of {len(NAMES) + 2} recordings done")
        assert page.locator("h1").count() == 1
        assert heard.complaints == []
        assert heard.requests == [page.url]
        assert page.url.startswith("file:///")


@pytest.mark.parametrize("opened_up", [False, True], ids=["folded", "unfolded"])
def test_a_phone_shows_all_of_its_width(
    browser: Browser, report: Path, crowded: Path, opened_up: bool
) -> None:
    """Nothing is wider than a phone, however long a name or large a number is."""
    for path in (report, crowded):
        with shown(browser, path, PHONE) as (page, _):
            if opened_up:
                page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            width = page.evaluate("document.documentElement.scrollWidth")
            wide = page.evaluate(
                "[...document.querySelectorAll('main *:not(.scroll *)')].filter("
                "e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"
            )

            assert width <= page.evaluate("innerWidth")
            assert wide == []


def test_every_link_leads_to_its_result(browser: Browser, report: Path) -> None:
    """A link that is followed from disk shows the very bytes of the result that it names."""
    with shown(browser, report, DESK) as (page, _):
        links = page.locator("main a.name").evaluate_all("links => links.map(link => link.href)")
        results = {
            json.dumps(json.loads(path.read_bytes()), sort_keys=True)
            for path in report.parents[3].rglob("*.json")
            if ".overnight" not in path.parts
        }
        read = set()
        for link in set(links):
            page.goto(link)
            read.add(json.dumps(json.loads(page.locator("pre").inner_text()), sort_keys=True))

    assert len(set(links)) == len(NAMES)
    assert read == results


def test_every_recording_can_be_listened_to(browser: Browser, report: Path) -> None:
    """The link beside a result leads to the very file that was sent, whatever it is called."""
    with shown(browser, report, DESK) as (page, _):
        links = page.locator("main a.listen").evaluate_all("links => links.map(link => link.href)")
        assert len(links) == page.locator("main a.name").count()

    recordings = os.fsencode(report.parents[4] / "recordings")
    assert {unquote_to_bytes(urlsplit(link).path) for link in links} == {
        os.path.join(recordings, name) for name in NAMES
    }
    assert {(urlsplit(link).scheme, urlsplit(link).query) for link in links} == {("file", "")}


def test_markup_in_names_is_seen(browser: Browser, report: Path) -> None:
    """What a service or a file name says is read, and not run."""
    with shown(browser, report, DESK) as (page, _):
        text = page.locator("main").inner_text()
        scripts = page.locator("script, img, iframe, b").count()

    assert "Too short: <script>alert(1)</script>" in text
    assert '"quoted" <b>&amp;.wav' in text
    assert scripts == 0


CONTRAST = """
() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = c => c.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return rgb(getComputedStyle(document.body).backgroundColor);
  };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    if (e.tagName === 'title') continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(rgb(e.tagName === 'text' ? style.fill : style.color)), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([e.tagName, e.className.toString(), ratio]);
  }
  return found;
}
"""
"""Of each text, how far its colour stands out from what is behind it; formulas of WCAG 2.2."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out(browser: Browser, crowded: Path, scheme: str) -> None:
    """
    In either scheme each text has the contrast that small print needs.

    Source: https://www.w3.org/TR/WCAG22/#contrast-minimum, 4.5 to 1.
    """
    with shown(browser, crowded, PHONE, color_scheme=scheme) as (page, _):
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        texts = page.evaluate(CONTRAST)
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")

    assert len(texts) > 50
    assert [text for text in texts if text[2] < 4.5] == []
    assert (scheme == "dark") is (sum(map(int, paper[4:-1].split(","))) < 150)


def test_it_is_told_without_sight(browser: Browser, crowded: Path) -> None:
    """Whoever listens to the page finds its parts, its charts in words, and heads of columns."""
    with shown(browser, crowded, DESK) as (page, _):
        parts = [page.locator(part).count() for part in ("header", "main", "footer", "h1")]
        regions = page.locator("main section").evaluate_all(
            "all => all.map(e => e.querySelector(`#${e.getAttribute('aria-labelledby')}`).tagName)"
        )
        charts = page.locator("svg[role=img]").evaluate_all(
            "all => all.map(e => e.querySelector(':scope > title').textContent)"
        )
        heads = page.locator("thead th").evaluate_all("all => all.map(e => e.scope)")

    assert parts == [1, 1, 1, 1]
    assert regions == ["H2"] * 9
    assert [chart.split(" ")[0] for chart in charts] == ["Recordings", "Hours"]
    assert set(heads) == {"col"}


def test_it_prints_what_is_folded(browser: Browser, report: Path) -> None:
    """On paper nothing can be unfolded, so all of it is there, on white."""
    with shown(browser, report, DESK, color_scheme="dark") as (page, _):
        page.emulate_media(media="print", color_scheme="dark")

        assert page.get_by_text("empty.wav").is_visible()
        assert (
            page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        )
