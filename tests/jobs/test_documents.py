"""Answers in what other tools left: cut out as they stand, and held against what is asked for."""

import json
from typing import Any

import pytest

from jobs.documents import answer_in, made_with
from pipeline.errors import AnswerUnusable

ANSWER = {"id": "t-1", "status": "completed", "text": "One.", "audio_url": "https://x.example/1"}


def document(**more: Any) -> bytes:
    return json.dumps(ANSWER | more).encode()


@pytest.mark.parametrize(
    "around",
    [
        b"%s",
        b"  %s\n\n",
        b'\n{"transcript":%s}',
        b'{"id":"t-1","status":"completed","r":  %s ,"n":1}',
    ],
    ids=["alone", "padded", "inside", "beside an id"],
)
def test_an_answer_is_cut_out_as_it_stands(around: bytes) -> None:
    """The bytes of the answer are the tool's own: spaces, order and unknown keys with them."""
    answer = b'{"status" : "completed",  "text":"\\u00fc", "id":"t-1", "new": [1.0, 1e3]}'

    found = answer_in(around % answer)

    assert found.body.strip() == answer
    assert found.head.id == "t-1"


def test_what_is_only_like_json_is_taken_as_it_came() -> None:
    """NaN, as many programs write it, costs no answer: it is what a run would have saved."""
    answer = b'{"id": "t-1", "status": "completed", "text": "", "confidence": NaN}'

    assert answer_in(answer).body == answer


def test_a_byte_order_mark_hides_nothing() -> None:
    """An answer that begins with one is taken with it, and one in a tool's object as it stands."""
    mark = b"\xef\xbb\xbf"
    alone = mark + document(punctuate=False)
    inside = mark + json.dumps({"transcript": ANSWER}).encode()

    assert answer_in(alone).body == alone
    assert made_with({}, answer_in(alone)) == {"punctuate": False}
    assert answer_in(inside).body == json.dumps(ANSWER).encode()


def test_the_tool_says_what_it_read() -> None:
    """The sha256 beside an answer is that of the audio; anything else there is none."""
    beside = {"transcript": ANSWER, "source_sha256": "ab" * 32}

    assert answer_in(json.dumps(beside).encode()).content == "ab" * 32
    assert answer_in(json.dumps(beside | {"source_sha256": 5}).encode()).content is None
    assert answer_in(document()).content is None


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no whole transcript"),
        (b"[]", "no whole transcript"),
        (b'"text"', "no whole transcript"),
        (b'{"a": {"b": 1}}', "no whole transcript"),
        (document()[:-1], "no whole transcript"),
        (b"\xff\xfe" + document(), "no whole transcript"),
        (b"[" * 1_000_000, "no whole transcript"),
        (b'{"a":' * 1_000_000, "no whole transcript"),
        (document(id="../x"), "id that cannot be one"),
        (document(text=None), "no text"),
        (document(status="queued"), "`queued`, not `completed`"),
        (document(status="error", text=None), "`error`, not `completed`"),
        (document(audio_url="http://deleted_by_user"), "deleted at the service"),
        (document(audio_url="HTTPS://Deleted_By_User:443/"), "deleted at the service"),
        (document(is_deleted=True), "deleted at the service"),
        (b'{"id": "job-1", "text": "a"}', "no `status`"),
        (json.dumps({"a": ANSWER, "b": ANSWER}).encode(), "more than one"),
    ],
)
def test_what_is_no_answer_is_refused(body: bytes, why: str) -> None:
    """Anything but one completed transcript is refused in a sentence that says why."""
    with pytest.raises(AnswerUnusable, match=why):
        answer_in(body)


@pytest.mark.parametrize(
    ("asked", "echoed", "made"),
    [
        ({}, {}, {}),
        ({"speaker_labels": True}, {}, {"speaker_labels": True}),
        ({"speaker_labels": True}, {"speaker_labels": None}, {"speaker_labels": True}),
        ({"speaker_labels": True}, {"speaker_labels": True}, {"speaker_labels": True}),
        ({"speaker_labels": True}, {"speaker_labels": False}, {}),
        ({}, {"speaker_labels": True}, {"speaker_labels": True}),
        ({}, {"speaker_labels": False, "punctuate": True, "prompt": ""}, {}),
        ({}, {"punctuate": False, "prompt": "names"}, {"punctuate": False, "prompt": "names"}),
        ({"punctuate": False}, {"punctuate": True}, {}),
        ({}, {"speech_models": ["a"], "language_code": "de", "language_detection": True}, {}),
        ({"speech_models": ["a"]}, {"speech_models": ["b"]}, {"speech_models": ["b"]}),
        ({"language_code": "en"}, {"language_code": "en_us"}, {"language_code": "en"}),
        ({"language_code": "en-US"}, {"language_code": "en_us"}, {"language_code": "en-US"}),
        ({"language_code": "de"}, {"language_code": "en_us"}, {"language_code": "en_us"}),
        (
            {"speaker_options": {"min_speakers_expected": 2}},
            {"speaker_options": {"min_speakers_expected": 2, "of_the_day": False}},
            {"speaker_options": {"min_speakers_expected": 2}},
        ),
        (
            {"speaker_options": {"min_speakers_expected": 2}},
            {"speaker_options": {"min_speakers_expected": 3}},
            {"speaker_options": {"min_speakers_expected": 3}},
        ),
        ({"speech_understanding": {"request": 1}}, {"speech_understanding": {"response": 2}}, None),
    ],
)
def test_an_answer_tells_its_options(
    asked: dict[str, Any], echoed: dict[str, Any], made: dict[str, Any] | None
) -> None:
    """What an answer says of an option wins; what it does not tell was as asked for now."""
    assert made_with(asked, answer_in(document(**echoed))) == (asked if made is None else made)
