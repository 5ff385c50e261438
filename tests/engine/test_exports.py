"""Captions and exports hold every word once, in time and in order, however they are cut."""

import io
from typing import Any

import pysubs2
import pytest
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine import exports


def document(*said: tuple[str, int], **more: Any) -> dict[str, Any]:
    """A completed transcript of words and the pauses (ms) after them."""
    now = 0
    words: list[dict[str, Any]] = []
    for text, pause in said:
        words.append(
            {"text": text, "start": now, "end": now + 100, "confidence": 0.5, "speaker": None}
        )
        now += 100 + pause
    return {
        "id": "x",
        "confidence": 0.5,
        "audio_duration": 9,
        "language_code": "en_us",
        "utterances": None,
        "words": words,
        **more,
    }


def said(text: str) -> dict[str, Any]:
    return document(*[(word, 20) for word in text.split()])


SPOKEN = st.lists(
    st.tuples(
        st.sampled_from(["a", "word.", "longer", "Mr.", "end?", "<b>", "&", "x" * 90]),
        st.integers(0, 5000),
    ),
    max_size=60,
)


@given(SPOKEN, st.integers(1, 100))
def test_captions_hold_every_word_once(spoken: list[tuple[str, int]], limit: int) -> None:
    """Both kinds of captions parse elsewhere, hold all words in order, and never run backwards."""
    transcript = document(*spoken)
    subrip = pysubs2.SSAFile.from_string(exports.srt(transcript, limit), "srt", keep_html_tags=True)
    web = webvtt.from_buffer(io.StringIO(exports.vtt(transcript, limit))).captions
    expected = " ".join(text for text, _ in spoken).split()

    assert " ".join(line.text for line in subrip).split() == expected
    assert len(web) == len(subrip)
    assert all(line.start < line.end for line in subrip)
    assert [line.start for line in subrip] == sorted(line.start for line in subrip)


def test_captions_are_short_and_end_with_sentences() -> None:
    """A caption has at most the characters asked for, unless one word has more."""
    text = "It was the best of times. It was the worst of times, an incomprehensibility."
    captions = exports.srt(said(text), 22).split("\n\n")
    lines = [caption.split("\n")[2] for caption in captions if caption]

    assert lines == [
        "It was the best of",
        "times.",
        "It was the worst of",
        "times, an",
        "incomprehensibility.",
    ]


def test_vtt_escapes_what_players_take_for_tags() -> None:
    """Angle brackets and ampersands of the text are text in WebVTT."""
    assert "R&amp;D &lt;b&gt;" in exports.vtt(said("R&D <b>"))


def test_nothing_said_gives_empty_exports() -> None:
    """A transcript without words has no captions, sentences, paragraphs or matches."""
    silent = document()

    assert exports.srt(silent) == ""
    assert exports.vtt(silent) == "WEBVTT\n\n"
    assert exports.sentences(silent)["sentences"] == []
    assert exports.paragraphs(silent)["paragraphs"] == []
    assert exports.word_search(silent, ["a"])["total_count"] == 0


def test_sentences_end_where_sentences_do() -> None:
    """Not after a title or inside of a number; a quotation mark belongs to its sentence."""
    found = exports.sentences(said('Mr. Ford paid 3.5 million. "Really?" Yes'))["sentences"]

    assert [sentence["text"] for sentence in found] == [
        "Mr. Ford paid 3.5 million.",
        '"Really?"',
        "Yes",
    ]
    assert found[0].keys() == {"text", "start", "end", "confidence", "words", "speaker"}
    assert (found[1]["start"], found[1]["end"]) == (600, 700)


def test_paragraphs_begin_after_pauses_and_when_they_grow_long() -> None:
    """A pause of two seconds or 120 words begin one; a sentence is never torn."""
    paused = document(("One.", 20), ("Two.", 2000), ("Three.", 20))
    long = said("word " * 119 + "end. " + "next. " * 3)

    assert [found["text"] for found in exports.paragraphs(paused)["paragraphs"]] == [
        "One. Two.",
        "Three.",
    ]
    assert [len(found["words"]) for found in exports.paragraphs(long)["paragraphs"]] == [120, 3]


@given(SPOKEN)
def test_sentences_and_paragraphs_hold_every_word_once(spoken: list[tuple[str, int]]) -> None:
    """However speech is cut, the parts together are the whole."""
    transcript = document(*spoken)
    for name, export in (("sentences", exports.sentences), ("paragraphs", exports.paragraphs)):
        parts = export(transcript)[name]

        assert [word for part in parts for word in part["words"]] == transcript["words"]


def test_channels_are_not_mixed() -> None:
    """With turns of several channels, exports follow the turns and name the channel."""

    def turn(channel: str, text: str, start: int) -> dict[str, Any]:
        words = document(*[(part, 20) for part in text.split()])["words"]
        return {
            "words": [
                {**word, "speaker": channel, "channel": channel, "start": word["start"] + start}
                for word in words
            ]
        }

    transcript = document(utterances=[turn("1", "Are you there", 0), turn("2", "Hello Yes.", 50)])
    sentences = exports.sentences(transcript)["sentences"]

    assert [(found["channel"], found["text"]) for found in sentences] == [
        ("1", "Are you there"),
        ("2", "Hello Yes."),
    ]
    assert len(exports.paragraphs(transcript)["paragraphs"]) == 2


@pytest.mark.parametrize(
    ("phrase", "indexes"),
    [("times", [5, 11]), ("BEST of times", [3]), ("the", [2, 8]), ("of  times", [4, 10])],
)
def test_words_are_found_whatever_their_case(phrase: str, indexes: list[int]) -> None:
    """Words and phrases are found without regard to case, marks and spaces."""
    transcript = said("It was the best of times; it was the worst of times.")
    found = exports.word_search(transcript, [phrase, "nobody"])

    assert found["total_count"] == len(indexes)
    assert [match["indexes"] for match in found["matches"]] == [indexes]
