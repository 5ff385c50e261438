"""One contract, two servers: the scripted service and the engine answer as the vendor's pages say.

Source: AssemblyAI openapi.yml; https://www.assemblyai.com/docs/api-reference/overview;
"Common errors and solutions"; "Transcript export options".
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pysubs2
import pytest
import webvtt

from tests.support.service_caller import Caller, Json
from tests.support.service_pair import KINDS, Served, recording, served

pytestmark = pytest.mark.anyio

NOT_AUDIO = b"ERROR:File does not appear to contain audio. File type is text/plain (ASCII text)."
UNKNOWN_ID = "6f0b2c1e-5d1a-4f0e-9a55-0f3b1c7e1a01"
LOOKUP_ERROR = (400, {"error": "Transcript lookup error, transcript id not found"})

NEVER_NULL = {
    "id": str,
    "status": str,
    "audio_url": str,
    "language_model": str,
    "acoustic_model": str,
    "webhook_auth": bool,
    "auto_highlights": bool,
    "redact_pii": bool,
    "summarization": bool,
}
"""Source: openapi.yml, Transcript, `required` without those that may be null."""
ALWAYS_THERE = {*NEVER_NULL, "language_confidence", "language_confidence_threshold", "speech_model"}
RESULTS = ("text", "words", "utterances", "confidence")


@pytest.fixture(params=KINDS)
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Served]:
    async with served(request.param, tmp_path / "state") as server:
        yield server


@pytest.fixture
async def caller(server: Served) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession() as http:
        yield Caller(server.url, server.key, http)


CALLS = [
    ("POST", "upload"),
    ("POST", "transcript"),
    ("GET", "transcript"),
    ("GET", f"transcript/{UNKNOWN_ID}"),
    ("DELETE", f"transcript/{UNKNOWN_ID}"),
    ("GET", f"transcript/{UNKNOWN_ID}/srt"),
    ("GET", f"transcript/{UNKNOWN_ID}/sentences"),
    ("GET", f"transcript/{UNKNOWN_ID}/word-search?words=one"),
    ("GET", f"transcript/{UNKNOWN_ID}/redacted-audio"),
]


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_every_call_needs_the_key(caller: Caller, method: str, path: str) -> None:
    """No key, another key and a key behind `Bearer` get 401 with the known sentence."""
    refused = (401, {"error": "Authentication error, API token missing/invalid"})

    for key in ("", "another", f"Bearer {caller.key}"):
        assert await caller.call(method, path, key=key) == refused


async def test_uploads_are_never_the_same(caller: Caller) -> None:
    """Equal bytes, sized or chunked, of whatever type, get an upload_url each and nothing else."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"RIFF"
        yield b"...."

    sent: list[Json] = [
        {"data": b"RIFF...."},
        {"data": b"RIFF....", "headers": {"Content-Type": "audio/wav"}},
        {"data": chunks()},
    ]
    answers = [await caller.call("POST", "upload", **one) for one in sent]

    assert [(status, list(body)) for status, body in answers] == [(200, ["upload_url"])] * 3
    assert len({body["upload_url"] for _, body in answers}) == 3
    assert all(body["upload_url"].startswith("http") for _, body in answers)


async def test_empty_upload(caller: Caller) -> None:
    """An empty upload gets 422, in plain text."""
    answer, body = await caller.answer("POST", "upload", data=b"")

    assert (answer.status, answer.content_type) == (422, "text/plain")
    assert body.startswith("Upload failed, please try again.")


async def test_upload_over_the_limit(server: Served) -> None:
    """A body that is announced as larger than 2.2 GB gets 413 without being sent."""
    host, port = server.url.removeprefix("http://").split(":")
    head = (
        f"POST /v2/upload HTTP/1.1\r\nHost: {host}\r\nAuthorization: {server.key}\r\n"
        "Content-Length: 2200000001\r\n\r\nRIFF"
    )
    async with await anyio.connect_tcp(host, int(port)) as stream:
        await stream.send(head.encode())
        answer = await stream.receive()

    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_accepted_transcript(server: Served, caller: Caller) -> None:
    """A submit answers 200 with the whole resource: echoes as sent, results null."""
    server.hold()
    audio_url = await caller.upload(recording())
    sent = {"audio_url": audio_url, "language_code": "en", "punctuate": False}
    status, body = await caller.call("POST", "transcript", json=sent)

    assert status == 200
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", body["id"])
    assert body["status"] in ("queued", "processing")
    assert {name: type(body[name]) for name in NEVER_NULL} == NEVER_NULL
    assert set(body) >= ALWAYS_THERE
    assert {name: body[name] for name in sent} == sent
    assert [body[name] for name in RESULTS] == [None] * len(RESULTS)
    assert body.get("error") is None
    assert (await caller.get(body["id"]))["audio_url"] == audio_url


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"audio_url": None}, "Transcript creation error, audio_url not found"),
        ({"audio_url": "a.wav"}, "Transcript creation error, audio_url should start with http"),
        ({"format_text": "yes"}, "format_text must be a Boolean"),
        ({"punctuate": 1}, "punctuate must be a Boolean"),
        ({"speech_model": "best"}, "speech_model is deprecated"),
        ({"speech_models": []}, 'must be a non-empty list containing one or more of: "assembly'),
        ({"speech_models": ["loud"]}, '"assemblyai-stt-3-7", "universal-3-5-pro", "universal-2"'),
        ({"speech_models": ["universal-2", "universal-3-pro"]}, "speech_models"),
        ({"language_code": "en", "language_detection": True}, "language_detection"),
        ({"audio_start_from": 2000, "audio_end_at": 1000}, "audio_"),
        ({"language_confidence_threshold": 2}, "language_confidence_threshold"),
    ],
)
async def test_refused_options(caller: Caller, change: Json, sentence: str) -> None:
    """A submit that breaks a rule gets 400 with a sentence about it, and creates nothing."""
    body = {"audio_url": await caller.upload(recording())} | change
    sent = {name: value for name, value in body.items() if value is not None}
    status, answer = await caller.call("POST", "transcript", json=sent)

    assert status == 400
    assert sentence in answer["error"]
    assert (await caller.listed())[1] == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff"])
async def test_submit_that_is_no_object(caller: Caller, body: bytes) -> None:
    """A submit whose body is not a JSON object gets 400 with an error as JSON."""
    headers = {"Content-Type": "application/json"}
    status, answer = await caller.call("POST", "transcript", data=body, headers=headers)

    assert status == 400
    assert isinstance(answer["error"], str)


async def test_models_that_nobody_named(caller: Caller) -> None:
    """A submit without `speech_models` is worked on with the account's default, and shows it."""
    body = await caller.transcribed(recording())

    assert body["speech_models"] == ["assemblyai-stt-3-7", "universal-2"]
    assert body["speech_model_used"]


async def test_equal_submits(server: Served, caller: Caller) -> None:
    """The same upload_url submitted twice makes two transcripts that say the same."""
    server.hold()
    audio_url = await caller.upload(recording())
    ids = [
        (await caller.call("POST", "transcript", json={"audio_url": audio_url}))[1]["id"]
        for _ in range(2)
    ]
    server.release()
    one, two = [await caller.ended(transcript_id) for transcript_id in ids]

    assert ids[0] != ids[1]
    assert (one["text"], one["words"]) == (two["text"], two["words"])


async def test_completed_transcript(caller: Caller) -> None:
    """A completed transcript has text, ordered words in ms, seconds rounded up, and its model."""
    body = await caller.transcribed(recording(), language_detection=True)
    words = body["words"]

    assert body["status"] == "completed"
    assert body.get("error") is None
    assert body["text"] == " ".join(word["text"] for word in words)
    assert words
    for word in words:
        assert {type(word["start"]), type(word["end"])} == {int}
        assert 0 <= word["start"] < word["end"]
        assert 0 <= word["confidence"] <= 1
        assert word["speaker"] is None
    assert [word["start"] for word in words] == sorted(word["start"] for word in words)
    assert 0 <= body["confidence"] <= 1
    assert body["audio_duration"] == 4
    assert body["language_code"].startswith("en")
    assert 0 < body["language_confidence"] <= 1
    assert isinstance(body["speech_model_used"], str)
    assert body["utterances"] is None
    assert {name: type(body[name]) for name in NEVER_NULL} == NEVER_NULL


async def test_channels(caller: Caller) -> None:
    """With `multichannel` words and utterances say their channel, as channel and as speaker."""
    body = await caller.transcribed(recording(channels=2), multichannel=True)
    turns = body["utterances"]

    assert (body["multichannel"], body["audio_channels"]) == (True, 2)
    assert {word["channel"] for word in body["words"]} == {"1", "2"}
    for turn in turns:
        assert {(word["speaker"], word["channel"]) for word in turn["words"]} == {
            (turn["speaker"], turn["channel"])
        }
        assert turn["speaker"] == turn["channel"]
        assert turn["text"] == " ".join(word["text"] for word in turn["words"])
        assert (turn["start"], turn["end"]) == (turn["words"][0]["start"], turn["words"][-1]["end"])
    assert [turn["start"] for turn in turns] == sorted(turn["start"] for turn in turns)
    assert sorted(word["text"] for turn in turns for word in turn["words"]) == sorted(
        word["text"] for word in body["words"]
    )


async def test_failed_transcript(caller: Caller) -> None:
    """What is not audio uploads well, and ends in error with a sentence and no results."""
    body = await caller.transcribed(NOT_AUDIO)

    assert body["status"] == "error"
    assert "does not appear to contain audio" in body["error"]
    assert [body[name] for name in RESULTS] == [None] * len(RESULTS)
    assert {name: type(body[name]) for name in NEVER_NULL} == NEVER_NULL


async def test_unknown_upload(caller: Caller) -> None:
    """An upload_url that was never handed out does not become a transcript with a text."""
    audio_url = await caller.upload(recording())
    sent = {"audio_url": f"{audio_url}0"}
    status, body = await caller.call("POST", "transcript", json=sent)

    if status == 200:
        body = await caller.ended(body["id"])
        assert body["status"] == "error"
        assert "download error" in body["error"].lower()
    else:
        assert status in (400, 403)


@pytest.mark.parametrize(
    ("method", "rest"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/srt"),
        ("GET", "/vtt"),
        ("GET", "/sentences"),
        ("GET", "/paragraphs"),
        ("GET", "/word-search?words=one"),
    ],
)
@pytest.mark.parametrize("transcript_id", [UNKNOWN_ID, "x", "..%2Fupload", "%00", "é" * 70])
async def test_unknown_ids(caller: Caller, method: str, rest: str, transcript_id: str) -> None:
    """An id that is none of ours gets 400 and the lookup sentence, whatever it looks like."""
    assert await caller.call(method, f"transcript/{transcript_id}{rest}") == LOOKUP_ERROR


async def test_unknown_paths(caller: Caller) -> None:
    """A path that is none of the API's gets 404."""
    for path in ("", "uploads", "transcripts", f"transcript/{UNKNOWN_ID}/srt/more"):
        assert (await caller.call("GET", path))[0] == 404


async def test_list_rows(caller: Caller) -> None:
    """A row has seven keys, times without a zone, the audio_url as submitted, and the error."""
    before = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    audio_url = await caller.upload(recording())
    _, submitted = await caller.call("POST", "transcript", json={"audio_url": audio_url})
    await caller.ended(submitted["id"])
    failed = await caller.transcribed(NOT_AUDIO)
    details, rows = await caller.listed()
    after = datetime.now(UTC).replace(tzinfo=None)

    assert [row["id"] for row in rows] == [failed["id"], submitted["id"]]
    assert (details["limit"], details["result_count"]) == (10, 2)
    done, bad = rows[1], rows[0]
    for row in rows:
        assert set(row) == {
            *("id", "resource_url", "status", "created", "completed", "audio_url", "error")
        }
        assert row["resource_url"] == f"{caller.url}/v2/transcript/{row['id']}"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?", row["created"])
        assert before <= datetime.fromisoformat(row["created"]) <= after
    assert done["created"] <= done["completed"]
    assert (done["status"], done["audio_url"], done["error"]) == ("completed", audio_url, None)
    assert (bad["status"], bad["completed"], bad["error"]) == ("error", None, failed["error"])


async def test_list_pages(server: Served, caller: Caller) -> None:
    """Older pages by prev_url and newer ones by after_id meet every row once, in order."""
    server.hold()
    ids = [await caller.submit(recording(seed)) for seed in range(5)][::-1]
    details, rows = await caller.listed(limit=2)
    down = [row["id"] for row in rows]
    while rows and details["prev_url"]:
        assert details["prev_url"].startswith(f"{caller.url}/v2/transcript?")
        assert f"before_id={rows[-1]['id']}" in details["prev_url"]
        assert "limit=2" in details["prev_url"]
        details, rows = await caller.listed(limit=2, before_id=rows[-1]["id"])
        down += [row["id"] for row in rows]
    up = [ids[-1]]
    while newer := await caller.listed_ids(limit=2, after_id=up[0]):
        up = newer + up

    assert down == ids
    assert up == ids


async def test_list_keeps_older_pages_still(server: Served, caller: Caller) -> None:
    """Transcripts made between two pages are on neither: a cursor is a place, not a count."""
    server.hold()
    ids = [await caller.submit(recording(seed)) for seed in range(4)][::-1]
    first = (await caller.listed(limit=2))[1]
    await caller.submit(recording(9))
    second = (await caller.listed(limit=2, before_id=first[-1]["id"]))[1]

    assert [row["id"] for row in first + second] == ids


async def test_list_filters(server: Served, caller: Caller) -> None:
    """`status` keeps the rows that have it now, `created_on` the rows of that day in UTC."""
    done = await caller.transcribed(recording())
    bad = await caller.transcribed(NOT_AUDIO)
    server.hold()
    live = await caller.submit(recording(1))
    ids = {
        status: await caller.listed_ids(status=status)
        for status in ("completed", "error", "queued", "processing")
    }

    assert (ids["completed"], ids["error"]) == ([done["id"]], [bad["id"]])
    assert ids["queued"] + ids["processing"] == [live]
    assert len((await caller.listed(created_on=f"{datetime.now(UTC):%Y-%m-%d}"))[1]) == 3
    assert (await caller.listed(created_on="2020-02-29"))[1] == []


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=x", "status=lost", "created_on=x", "before_id=x", "after_id=x"],
)
async def test_refused_lists(caller: Caller, query: str) -> None:
    """A list query that is out of range or names no transcript gets 400 with an error."""
    status, body = await caller.call("GET", f"transcript?{query}")

    assert status == 400
    assert isinstance(body["error"], str)


async def test_crossed_cursors(server: Served, caller: Caller) -> None:
    """An after_id that is older than the before_id gets 400 and the known sentence."""
    server.hold()
    older, newer = [await caller.submit(recording(seed)) for seed in range(2)]
    answer = await caller.call("GET", f"transcript?before_id={newer}&after_id={older}")

    sentence = "'after_id' must be a newer transcript than 'before_id'"
    assert answer == (400, {"error": sentence})


async def test_delete(caller: Caller) -> None:
    """A deleted transcript is completed, scrubbed and still listed; deleting again is the same."""
    transcript = await caller.transcribed(recording(), language_code="en")
    path = f"transcript/{transcript['id']}"
    answers = [await caller.call("DELETE", path), await caller.call("DELETE", path)]
    body, row = await caller.get(transcript["id"]), (await caller.listed())[1][0]

    assert [status for status, _ in answers] == [200, 200]
    for scrubbed in (answers[0][1], answers[1][1], body):
        assert (scrubbed["id"], scrubbed["status"]) == (transcript["id"], "completed")
        assert scrubbed["text"] == "Deleted by user."
        assert scrubbed["audio_url"] == "http://deleted_by_user"
        nulls = ("words", "utterances", "confidence", "language_code", "punctuate", "format_text")
        assert [scrubbed[name] for name in nulls] == [None] * len(nulls)
        assert scrubbed["audio_duration"] == transcript["audio_duration"]
        assert {name: type(scrubbed[name]) for name in NEVER_NULL} == NEVER_NULL
    assert answers[0][1]["is_deleted"] is True
    assert (row["id"], row["status"]) == (transcript["id"], "completed")
    assert row["audio_url"] == "http://deleted_by_user"


async def test_delete_takes_the_upload_along(caller: Caller) -> None:
    """After a delete the upload_url of that transcript can no longer be transcribed."""
    transcript = await caller.transcribed(recording())
    await caller.call("DELETE", f"transcript/{transcript['id']}")
    sent = {"audio_url": transcript["audio_url"]}
    status, body = await caller.call("POST", "transcript", json=sent)

    assert status in (200, 400, 403)
    if status == 200:
        assert (await caller.ended(body["id"]))["status"] == "error"


@pytest.mark.parametrize("suffix", ["srt", "vtt"])
async def test_captions(caller: Caller, suffix: str) -> None:
    """Captions are plain text, parse as what they are, and hold all words in order."""
    transcript = await caller.transcribed(recording())
    path = f"transcript/{transcript['id']}/{suffix}"
    answer, text = await caller.answer("GET", path)
    _, narrow = await caller.answer("GET", f"{path}?chars_per_caption=16")

    assert (answer.status, answer.content_type) == (200, "text/plain")
    for captions, widest in ((text, 1000), (narrow, 16)):
        lines = [
            (line.start, line.end, line.plaintext)
            for line in pysubs2.SSAFile.from_string(captions, format_=suffix)
        ]
        assert " ".join(" ".join(line[2].split()) for line in lines) == transcript["text"]
        assert lines == sorted(lines)
        assert all(0 <= start < end for start, end, _ in lines)
        assert all(len(line) <= widest for *_, plain in lines for line in plain.splitlines())
    if suffix == "vtt":
        assert len(webvtt.from_string(text)) == len(pysubs2.SSAFile.from_string(text))


@pytest.mark.parametrize("suffix", ["srt", "vtt"])
async def test_captions_before_completion(server: Served, caller: Caller, suffix: str) -> None:
    """Captions of a transcript that is not completed get 400 with a sentence that says so."""
    failed = await caller.transcribed(NOT_AUDIO)
    server.hold()
    live = await caller.submit(recording())

    for transcript_id, statuses in ((failed["id"], "error"), (live, "queued|processing")):
        status, body = await caller.call("GET", f"transcript/{transcript_id}/{suffix}")
        assert status == 400
        assert re.fullmatch(
            rf"This transcript has a status of '({statuses})'\. Transcripts must have a status "
            r"of 'completed' before requesting captions\.",
            body["error"],
        )


async def test_captions_of_another_kind(caller: Caller) -> None:
    """A suffix that is no export gets 404, as a page."""
    transcript = await caller.transcribed(recording())
    answer, body = await caller.answer("GET", f"transcript/{transcript['id']}/txt")

    assert (answer.status, answer.content_type) == (404, "text/html")
    assert "404: Not Found" in body


@pytest.mark.parametrize("what", ["sentences", "paragraphs"])
async def test_sentences_and_paragraphs(caller: Caller, what: str) -> None:
    """Sentences and paragraphs are the words of the transcript, cut into stretches."""
    transcript = await caller.transcribed(recording())
    status, body = await caller.call("GET", f"transcript/{transcript['id']}/{what}")

    assert status == 200
    assert set(body) >= {"id", "confidence", "audio_duration", what}
    assert (body["id"], body["confidence"]) == (transcript["id"], transcript["confidence"])
    assert " ".join(part["text"] for part in body[what]) == transcript["text"]
    words = [word for part in body[what] for word in part["words"]]
    assert [w["text"] for w in words] == [w["text"] for w in transcript["words"]]
    for part in body[what]:
        assert (part["start"], part["end"]) == (part["words"][0]["start"], part["words"][-1]["end"])
        assert 0 <= part["confidence"] <= 1
        assert what == "paragraphs" or part["speaker"] is None


async def test_sentences_before_completion(server: Served, caller: Caller) -> None:
    """Sentences and paragraphs of a transcript that is not completed get 400."""
    server.hold()
    live = await caller.submit(recording())

    for what in ("sentences", "paragraphs", "word-search?words=one"):
        status, body = await caller.call("GET", f"transcript/{live}/{what}")
        assert status == 400
        assert isinstance(body["error"], str)


async def test_word_search(caller: Caller) -> None:
    """A search finds words and phrases whatever their case, with times and places."""
    transcript = await caller.transcribed(recording())
    words = transcript["words"]
    first, phrase = _plain(words[0]).upper(), f"{_plain(words[1])} {_plain(words[2])}"
    params = {"words": f"{first},{phrase},zeppelin"}
    path = f"transcript/{transcript['id']}/word-search"
    status, body = await caller.call("GET", path, params=params)
    found = {match["text"].lower(): match for match in body["matches"]}

    assert status == 200
    assert body["id"] == transcript["id"]
    assert body["total_count"] == sum(match["count"] for match in body["matches"])
    assert 0 in found[first.lower()]["indexes"]
    assert 1 in found[phrase]["indexes"]
    at = found[phrase]["indexes"].index(1)
    assert found[phrase]["timestamps"][at] == [words[1]["start"], words[2]["end"]]
    assert found.get("zeppelin", {"count": 0})["count"] == 0
    assert (await caller.call("GET", path))[0] == 400


async def test_redacted_audio(caller: Caller) -> None:
    """Redacted audio of a transcript that did not ask for it gets 400 and the known sentence."""
    transcript = await caller.transcribed(recording())
    answer = await caller.call("GET", f"transcript/{transcript['id']}/redacted-audio")

    sentence = (
        "A redacted audio file for this transcript ID doesn't exist. Try submitting the "
        "transcript again with `redact_pii_audio` set to `true`."
    )
    assert answer == (400, {"error": sentence})


def _plain(word: dict[str, Any]) -> str:
    return str(word["text"]).strip(".,").lower()
