"""What changed over all recordings: totals that add up, and a page that says what the JSON says."""

import json
import os
import tracemalloc
from collections.abc import Sequence
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import ViewportSize

from pipeline.compare import Comparison, compare
from pipeline.report.differences import (
    Comparisons,
    Difference,
    Differences,
    Uncompared,
    as_html,
    as_json,
    as_line,
)
from pipeline.report.words import count
from tests.support.browser import browsing, shown

MODELS = "universal-2", "universal-3-5-pro"


def answer(text: str, confidence: float | None, model: str, **fields: Any) -> bytes:
    """A transcript of a minute; `A:` before a word makes A its speaker, and that of those after."""
    words: list[dict[str, Any]] = []
    speaker = None
    for at, word in enumerate(text.split()):
        label, colon, rest = word.rpartition(":")
        speaker = label or speaker if colon else speaker
        words.append({"text": rest, "start": at * 1000, "end": at * 1000 + 900, "speaker": speaker})
    facts = {"status": "completed", "text": text, "words": words, "confidence": confidence}
    return json.dumps(
        facts | {"speech_model_used": model, "audio_duration": 60, "language_code": "en"} | fields
    ).encode()


def changed(
    old: str, new: str, confidence: Sequence[float | None] = (0.8, 0.9), **new_fields: Any
) -> Comparison:
    """The comparison of two texts of one recording."""
    before, after = confidence
    return compare(answer(old, before, MODELS[0]), answer(new, after, MODELS[1], **new_fields))


def gathered(*added: tuple[str, Comparison], **facts: Any) -> Differences:
    """All of these."""
    comparisons = Comparisons(BytesIO(), run_id="run-2", **facts)
    for recording, comparison in added:
        comparisons.add(recording, comparison)
    return comparisons.differences()


class Page(HTMLParser):
    """A page as its elements, and the text in each kind of them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.facts: list[tuple[str, str]] = []
        self.scores: list[float] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = {name: value or "" for name, value in attrs}
        if tag == "a":
            self.links.append(given["href"])
        if "data-fact" in given:
            self.facts.append((given["data-fact"], given["value"]))
        if "data-row" in given:
            self.scores.append(float(given["value"]))
        if tag not in ("meta", "link", "br", "line", "rect"):
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data

    def words(self, tag: str) -> list[str]:
        """What stands in each element of a kind, white space aside."""
        return [" ".join(text.split()) for text in self.texts.get(tag, [])]


# ---------------------------------------------------------------- totals


def test_totals_by_hand() -> None:
    """Hours, dollars, scores, confidence, models, languages and speakers are those of the parts."""
    comparisons = Comparisons(BytesIO(), run_id="run-2", old_run_ids=("run-1",))
    comparisons.add("same.wav", changed("a b c d", "A b, c d."), cost_usd=0.5)
    comparisons.add("one.wav", changed("a b c d", "a b x d", (0.9, 0.895)), cost_usd=0.25)
    comparisons.add("all.wav", changed("a b", "x y z", (0.9, 0.7), language_code="de"))
    comparisons.add("who.wav", changed("A:a b c d B:e", "X:a b c Y:d e", (None, 0.9)))
    comparisons.refuse("gone.wav", "the old transcript was deleted")

    made = comparisons.differences()

    assert (made.run_id, made.old_run_ids) == ("run-2", ("run-1",))
    assert (made.recordings, made.uncompared, made.unchanged) == (4, 1, 2)
    assert made.audio_hours == pytest.approx(4 / 60)
    assert made.cost_usd == 0.75
    assert (made.old_words, made.new_words) == (15, 16)
    assert (made.insertions, made.deletions, made.substitutions) == (1, 0, 3)
    assert made.wer == 4 / 15
    assert made.wer_mean == pytest.approx((0 + 0.25 + 1.5 + 0) / 4)
    assert made.wer_median == 0.125
    assert made.old_confidence == pytest.approx((0.8 + 0.9 + 0.9) / 3)
    assert made.new_confidence == pytest.approx((0.9 + 0.895 + 0.7) / 3)
    assert (made.better, made.worse) == (1, 1)
    assert (made.languages_changed, made.speakers_changed) == (1, 1)
    assert (made.old_models, made.new_models) == ({MODELS[0]: 4}, {MODELS[1]: 4})
    assert [row.recording for row in made.worst] == ["all.wav", "one.wav", "same.wav", "who.wav"]
    assert {bar.up_to: bar.recordings for bar in made.scores if bar.recordings} == {
        0: 2,
        0.5: 1,
        None: 1,
    }


def test_one_sentence_says_it() -> None:
    """The line has what matters of many recordings, and leaves out what did not change."""
    calm = gathered(("a", changed("a b c d", "a b c x")))
    wild = gathered(
        ("a", changed("A:a b c d", "A:a b B:c d", language_code="fr")),
        ("b", changed("a b c d", "a b c x", (None, None))),
    )

    assert as_line(calm) == ("In 1 recording (0.02 h) 25 % of words differ; confidence 0.80 → 0.90")
    assert as_line(wild) == (
        "In 2 recordings (0.03 h) 12 % of words differ; confidence 0.80 → 0.90;"
        " speakers changed in 1; the language in 1"
    )


def test_nothing_compared_is_no_trouble() -> None:
    """Without recordings there is a line, a document and a page, and none divides by zero."""
    made = gathered()

    assert as_line(made) == "No recordings were compared"
    assert json.loads(as_json(made))["wer_median"] == 0
    assert "No recordings were compared" in as_html(made)


@given(st.lists(st.sampled_from(["", "x", "a", "a x", "a b c", "x y z w"]), max_size=30))
def test_worst_first(texts: list[str]) -> None:
    """Recordings stand by their score, equal ones in their order, and each is in one bar."""
    comparisons = [(f"{at:02}", changed("a b c", text)) for at, text in enumerate(texts)]

    made = gathered(*comparisons)

    scores = [(-comparison.wer, name) for name, comparison in comparisons]
    assert [(-row.wer, row.recording) for row in made.worst] == sorted(scores)
    assert sum(bar.recordings for bar in made.scores) == len(texts)


# ---------------------------------------------------------------- lines


def test_each_comparison_is_a_line_at_once() -> None:
    """What was added stands in the stream, whole, before the next one is."""
    lines = BytesIO()
    comparisons = Comparisons(lines, run_id="run-2")
    comparison = changed("a b c", "a x c")

    comparisons.add("é.wav", comparison, old_result=b"old/\xe9.json", cost_usd=0.1)
    first = lines.getvalue()
    comparisons.refuse("b.wav", "it was deleted")

    assert first.endswith(b"}\n")
    assert json.loads(first)["type"] == "difference"
    assert msgspec.json.decode(first, type=Difference) == Difference(
        recording="é.wav",
        old_href="old/%E9.json",
        new_href=None,
        cost_usd=0.1,
        comparison=comparison,
    )
    second = lines.getvalue().removeprefix(first)
    assert msgspec.json.decode(second, type=Uncompared).reason == "it was deleted"


def test_the_page_is_made_of_the_document() -> None:
    """Who has `differences.json` has all that the page shows."""
    made = gathered(("a", changed("a b c d", "a b x")), new_options={"speech_models": ["u"]})

    read = msgspec.json.decode(as_json(made), type=Differences)

    assert read == made
    assert as_html(read) == as_html(made)


# ---------------------------------------------------------------- the page


def test_numbers_of_the_page_are_those_of_the_document() -> None:
    """Figures, scores, counts and bars on the page are those in the JSON, in the same order."""
    comparisons = Comparisons(BytesIO(), run_id="run-2")
    for at, text in enumerate(["a b c d e f g h", "a b c x e f g h", "x y"] * 4):
        comparison = changed("a b c d e f g h", text, (0.5 + at / 100, 0.75))
        comparisons.add(f"call-{at}.wav", comparison, cost_usd=1.1)
    made = comparisons.differences()
    document = json.loads(as_json(made))

    page = Page(as_html(made))

    assert {name: document[name] for name, _ in page.facts} == {
        name: json.loads(value) for name, value in page.facts
    }
    assert page.words("strong") == ["38 %", "12 %", "12", "$13.20"]
    assert page.scores == [row["wer"] for row in document["worst"]]
    cells = page.words("td")
    assert [cell for cell in cells if cell.endswith("%")] == [
        *["100 %"] * 4,
        *["12 %"] * 4,
        *["0 %"] * 4,
    ]
    assert [cell for cell in cells if "→" in cell] == [
        f"{row['old']['confidence']:.2f} → 0.75" for row in document["worst"]
    ]
    names = [cell.split(" of ")[0] for cell in cells if cell.startswith("call")]
    assert names == [
        f"{row['recording']} {count(row['distance'], 'word')}" for row in document["worst"]
    ]
    bars = [title for title in page.words("title") if "recordings:" in title]
    assert [int(title.split()[0]) for title in bars] == [
        bar["recordings"] for bar in document["scores"]
    ]


def test_changes_are_read_without_colour() -> None:
    """Old words are in `del`, new ones after them in `ins`, each passage with its time."""
    old = "the pump was noisy " + "and so on " * 30 + "Then it settled well"
    new = "the bump was noisy " + "and so on " * 30 + "then it is settled"

    page = Page(as_html(gathered(("a", changed(old, new)))))

    assert page.words("del")[1:] == ["pump", "well"]
    assert page.words("ins")[1:] == ["bump", "is"]
    assert page.words("p")[-3:-1] == [
        "0:00 the pump bump was noisy and so on and so on",
        "1:26 so on and so on and so on then it is settled well",
    ]
    assert page.words("summary") == ["2 changed passages"]


def test_a_language_without_spaces_is_shown_without() -> None:
    """Characters stand beside one another as they were written."""
    made = gathered(
        (
            "a",
            compare(
                answer("今日は東京です", 0.9, "u", language_code="ja"),
                answer("今日は京都です", 0.9, "u", language_code="ja"),
            ),
        )
    )

    assert "今日は東京京都です" in as_html(made).replace("<del>", "").replace("</del>", "").replace(
        "<ins>", ""
    ).replace("</ins>", "")


def test_only_the_longest_passages_are_shown() -> None:
    """Of many changes the longest are shown, in order of time, and how many there are is said."""
    quiet = " ".join("abcdefghijklmnopqrstuvwxyz" * 2)
    old = " ".join(f"{quiet} {'one ' * (at % 20 + 1)}" for at in range(20))
    new = " ".join(f"{quiet} {'two ' * (at % 20 + 1)}" for at in range(20))

    made = gathered(("a", changed(old, new)))

    (row,) = made.worst
    starts = [passage.start for passage in row.passages]
    assert (len(starts), row.changed_passages) == (10, 20)
    assert starts == sorted(starts, key=lambda start: start or 0)
    assert all(len(dict(passage.pieces)["insert"].split()) > 10 for passage in row.passages)
    assert Page(as_html(made)).words("summary") == ["20 changed passages, the 10 longest of them"]


def test_no_passage_is_long() -> None:
    """Neither a change of a whole hour nor changes at every turn make a wall of text."""
    text = [f"w{at}" for at in range(5_000)]
    every_third = ["x" if at % 3 == 0 else word for at, word in enumerate(text)]

    made = gathered(
        ("all", changed(" ".join(text), "y" * 10_000)),
        ("often", changed(" ".join(text), " ".join(every_third))),
    )

    passages = [passage for row in made.worst for passage in row.passages]
    assert len(passages) == 11
    assert all(len(text) <= 300 for passage in passages for _, text in passage.pieces)
    assert all(len(passage.pieces) < 100 for passage in passages)


HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e\"'&amp;{{ 7 * 7 }}"


def test_what_was_said_stays_text() -> None:
    """Names, words, models and options that look like markup are shown as they are."""
    comparisons = Comparisons(
        BytesIO(),
        run_id=HOSTILE,
        old_options={HOSTILE: HOSTILE},
        new_options={HOSTILE: 1},
    )
    comparisons.add(
        HOSTILE,
        compare(
            answer(f"a b {HOSTILE}x", 0.9, HOSTILE),
            answer(f"a b {HOSTILE}y", 0.9, HOSTILE, language_code=HOSTILE),
        ),
        old_result=b"javascript:alert(1)",
        new_result=b'"><script>\xff',
    )

    html = as_html(comparisons.differences())

    page = Page(html)
    assert "script" not in page.tags
    assert "49" not in html
    assert "\x1b" not in html
    assert page.links == ["javascript%3Aalert%281%29", "%22%3E%3Cscript%3E%FF"]
    assert page.words("h1") == ["What changed"]
    assert any("<script>alert(1)</script>␛[31m" in text for text in page.words("td"))


def test_options_that_changed_are_shown() -> None:
    """What was asked for differently is shown, what was not is left out, unset is said."""
    facts = {"old_options": {"a": 1, "b": True}, "new_options": {"a": 1, "b": False, "c": "x"}}

    page = Page(as_html(gathered(("r", changed("a", "a")), **facts)))

    assert page.words("th")[3:5] == ["b", "c"]
    assert page.words("del")[:2] == ["true", "not set"]
    assert page.words("ins")[:2] == ["false", '"x"']


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_a_browser_shows_it_whole(
    tmp_path: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    """On a phone and a desk, by day and by night: no sideways scroll, no error, nothing fetched."""
    name = "archive/2026/" + "very-long-name-" * 12 + ".wav"
    words = "the pump was noisy until two then it settled by itself " * 3
    html = as_html(
        gathered(
            (name, changed(words, words.replace("pump", "x" * 300).replace("two", "half past"))),
            (HOSTILE, changed(words, words.title(), (None, 0.5), language_code="fr")),
            *((f"{n}.wav", changed("one two three", "one too three")) for n in range(9)),
            old_options={"keyterms_prompt": [words]},
            new_options={},
        )
    )
    path = tmp_path / "differences.html"
    path.write_text(html, "utf-8")
    size = ViewportSize(width=width, height=800)
    with browsing() as browser, shown(browser, path, size, color_scheme=scheme) as (page, heard):
        passages = page.locator("details p")
        visible = [passages.nth(number).is_visible() for number in range(passages.count())]
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        added = page.locator("details ins").first.evaluate(
            "e => getComputedStyle(e).borderBottomStyle"
        )
        gone = page.locator("details del").first.evaluate(
            "e => getComputedStyle(e).textDecorationLine"
        )

    assert (heard.requests, heard.complaints) == ([path.as_uri()], [])
    assert True in visible
    assert False in visible
    assert overflow <= 0
    assert (added, gone) == ("solid", "line-through")


# ---------------------------------------------------------------- many


def test_memory_does_not_grow_with_the_recordings() -> None:
    """Of thousands, totals, 1,000 rows and 200 with passages stay; each further one is a number."""
    comparison = changed("a b c d e f g h " * 5, "a b x d e f g " * 5)
    with open(os.devnull, "wb") as lines:
        comparisons = Comparisons(lines, run_id="run-2")

        def add(numbers: range) -> int:
            for number in numbers:
                score = number * 7919 % 5_000 / 5_000
                comparisons.add(f"{number:05}.wav", msgspec.structs.replace(comparison, wer=score))
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            some, many = add(range(2_500)), add(range(2_500, 5_000))
        finally:
            tracemalloc.stop()
        made = comparisons.differences()

    assert many - some < 500_000
    assert [row.wer for row in made.worst] == [at / 5_000 for at in range(4_999, 3_999, -1)]
    assert [bool(row.passages) for row in made.worst] == [True] * 200 + [False] * 800
    assert all(row.changed_passages == made.worst[0].changed_passages for row in made.worst)
    html = as_html(made)
    assert "4,000 recordings that changed less" in html
    assert len(html) < 2_000_000
