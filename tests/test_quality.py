"""What is odd about a transcript, and which of two is the better one."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import AnswerUnusable
from pipeline.quality import Appraisal, appraise, is_better, language, suspicions


def answer(text: str | None = "word " * 150, **more: Any) -> bytes:
    """A minute of speech as the service tells it."""
    usual = {"audio_duration": 60, "confidence": 0.95, "language_code": "en_us"}
    return json.dumps({"status": "completed", "text": text} | usual | more).encode()


def odd(text: str | None = "word " * 150, expected: str | None = None, **more: Any) -> list[str]:
    return suspicions(appraise(answer(text, **more)), expected)


def test_a_transcript_is_weighed() -> None:
    """Words, time, confidence and language of a transcript are what it says of itself."""
    found = appraise(answer("Hello there, you two.", language_confidence=0.9))

    assert found == Appraisal(
        words=4,
        letters=16,
        audio_duration=60,
        confidence=0.95,
        language_code="en_us",
        language_confidence=0.9,
    )
    assert found.words_per_min == 4
    assert found.letters_per_min == 16


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"status": 3}',
        answer(status="error"),
        answer(audio_url="http://deleted_by_user"),
        answer(audio_url="https://DELETED_BY_USER/x"),
        answer(is_deleted=True),
    ],
)
def test_what_is_no_transcript_is_told(body: bytes) -> None:
    """What cannot be weighed is an error of that recording alone."""
    with pytest.raises(AnswerUnusable):
        appraise(body)


@pytest.mark.parametrize("value", ['"7"', "[]", "{}", "true", "1e999", '"\xff"'])
@pytest.mark.parametrize("field", ["text", "audio_duration", "confidence", "language_code"])
def test_what_cannot_be_weighed_is_odd(field: str, value: str) -> None:
    """A field that is not what it should be keeps no other from being weighed, and is odd."""
    usual = {"status": b'"completed"', "text": b'"a b"', "audio_duration": b"60"}
    fields = usual | {field: value.encode("latin-1")}
    body = b",".join(b'"%s":%s' % (name.encode(), said) for name, said in fields.items())

    found = appraise(b"\xef\xbb\xbf{%s}" % body)

    assert found.words == (2 if field != "text" else found.words)
    is_what_it_should_be = value == '"7"' and field in ("text", "language_code")
    unread = [] if is_what_it_should_be else [f"`{field}` cannot be read"]
    assert suspicions(found)[-1 - len(unread) :] == ["it is no strict JSON", *unread]


def test_speech_is_nothing_odd() -> None:
    """A minute of speech in any language, or of two people, has nothing odd about it."""
    assert odd() == []
    assert odd("có " * 320, language_code="vi") == []
    assert odd("語" * 470, language_code="ja") == []
    assert odd("สวัสดี" * 180, language_code="th") == []


@pytest.mark.parametrize("text", ["", "  \n", None])
def test_long_audio_without_text_is_odd(text: str | None) -> None:
    """A minute without a word is worth a look, a few seconds are not."""
    (sentence,) = odd(text, audio_duration=720)

    assert sentence == "no text in 12 min of audio"
    assert odd(text, audio_duration=59) == []
    assert odd(text, audio_duration=None) == []


def test_more_than_anybody_says_is_odd() -> None:
    """A text that nobody could say in that time was not said."""
    assert odd("word " * 420) == ["420 words a minute: nobody speaks that fast for 1 min"]
    assert odd("語" * 800, language_code="zh")[0].startswith("800 signs a minute")
    assert odd("ก" * 1600, language_code="th")[0].startswith("1,600 letters a minute")


def test_little_in_a_long_time_is_odd() -> None:
    """Few words in many minutes say that speech was not heard, or that there was none."""
    (sentence,) = odd("one two three", audio_duration=600)

    assert sentence == "0.3 words a minute in 10 min: little speech was heard"
    assert odd("one two three", audio_duration=299) == [], "music, and a word"
    assert odd("語" * 20, language_code="ja", audio_duration=600)[0].startswith("2.0 signs")


def test_a_short_recording_is_not_held_against_time() -> None:
    """A duration that is rounded up to a second says nothing of the pace of a word or two."""
    assert odd("one two three four five six seven eight nine", audio_duration=1) == []


def test_low_confidence_is_odd() -> None:
    """What the service itself doubts is told, once there are enough words to mean it."""
    assert odd(confidence=0.41) == ["low confidence: 0.41 in the mean of its words"]
    assert odd("well", confidence=0.41) == []
    assert odd(confidence=None) == []


def test_another_language_is_odd() -> None:
    """A language that was not expected is told, a region of it is none; so is a bare guess."""
    assert odd(expected="de") == ["its language is en_us, not de as was expected"]
    assert odd(expected="en-GB") == []
    assert odd(language_confidence=0.3) == [
        "its language is taken for en_us, with a confidence of 0.30 only"
    ]
    assert odd("", expected="de", audio_duration=3) == []


@pytest.mark.parametrize(
    ("code", "base"), [("en_us", "en"), ("pt-BR", "pt"), ("JA", "ja"), ("", None), (None, None)]
)
def test_a_region_is_no_language(code: str | None, base: str | None) -> None:
    """Codes are compared by the language alone."""
    assert language(code) == base


def test_impossible_numbers_are_not_believed() -> None:
    """A confidence above 1, or a time before 0, is taken for unknown."""
    found = appraise(answer(confidence=7, audio_duration=-3, language_confidence=-1))

    assert found.confidence is None
    assert found.audio_duration is None
    assert found.language_confidence is None


GOOD = appraise(answer())


@pytest.mark.parametrize(
    ("new", "better"),
    [
        (answer(confidence=0.99), True),
        (answer(confidence=0.955), False),
        (answer(confidence=0.9), False),
        (answer(confidence=None), False),
        (answer("word " * 70, confidence=0.99), False),
        (answer(confidence=0.99, language_code="de"), False),
        (answer("", confidence=0.99), False),
        (answer("word " * 500, confidence=0.99), False),
    ],
    ids=["surer", "same", "less", "unknown", "shorter", "other", "empty", "odd"],
)
def test_better_is_surer_and_sane(new: bytes, better: bool) -> None:
    """Only more confidence makes a better one, and only where text and language stayed."""
    assert is_better(appraise(new), GOOD) is better


def test_what_is_not_odd_is_better_than_what_is() -> None:
    """An odd transcript gives way to one that is not, whatever their confidence is."""
    empty = appraise(answer("", audio_duration=600, confidence=None))

    assert is_better(appraise(answer(confidence=0.7)), empty)
    assert not is_better(empty, GOOD)


appraisals = st.builds(
    Appraisal,
    words=st.none() | st.integers(0, 1000),
    letters=st.integers(0, 5000),
    audio_duration=st.none() | st.floats(0, 1000),
    confidence=st.none() | st.floats(0, 1),
    language_code=st.none() | st.sampled_from(["en", "de", "ja", "th"]),
    language_confidence=st.none() | st.floats(0, 1),
    has_text=st.booleans(),
)


@given(appraisals, appraisals)
def test_no_two_are_better_than_each_other(one: Appraisal, other: Appraisal) -> None:
    """Of two transcripts at most one is the better one, and none is better than itself."""
    assert not (is_better(one, other) and is_better(other, one))
    assert not is_better(one, one)
    assert not (suspicions(one) and not suspicions(other) and is_better(one, other))
