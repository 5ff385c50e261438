"""The scripted service keeps its own promises: a stand-in that errs would teach the client to."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.support.service import Call, Fault, ScriptedService
from tests.support.service_caller import Caller, Json
from tests.support.service_process import service_process
from tests.support.service_webhooks import delivering

pytestmark = pytest.mark.anyio


@pytest.fixture
async def service() -> AsyncIterator[ScriptedService]:
    async with ScriptedService(is_clock_manual=True, transcript_seconds=30) as service:
        yield service


@pytest.fixture
async def caller(service: ScriptedService) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession() as http:
        yield Caller(service.url, service.key, http)


@pytest.mark.parametrize("key", ["", "wrong", "Bearer scripted-key"])
async def test_only_a_bare_known_key_is_accepted(caller: Caller, key: str) -> None:
    """A key that is missing, unknown or behind a scheme word gets 401 and the known sentence."""
    answer = await caller.call("GET", "transcript", key=key)

    assert answer == (401, {"error": "Authentication error, API token missing/invalid"})


async def test_upload_is_known_by_its_hash(service: ScriptedService, caller: Caller) -> None:
    """Equal bytes, sized or chunked, get two upload_urls of one content."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"RIFF"
        yield b"....WAVE"

    one = await caller.upload(b"RIFF....WAVE")
    two = (await caller.call("POST", "upload", data=chunks()))[1]["upload_url"]

    assert one != two
    assert service.uploads[one].content == service.uploads[two].content
    assert service.uploads[one].size_bytes == 12


async def test_empty_upload_is_refused_as_text(caller: Caller) -> None:
    """An empty body gets 422 in plain text."""
    status, body = await caller.call("POST", "upload", data=b"")

    assert status == 422
    assert body.startswith("Upload failed, please try again.")


async def test_upload_over_the_limit_is_refused(service: ScriptedService, caller: Caller) -> None:
    """A body above the limit gets 413, whether its length was announced or not."""
    service.upload_limit_bytes = 10

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x" * 11

    assert (await caller.call("POST", "upload", data=b"x" * 10))[0] == 200
    assert (await caller.call("POST", "upload", data=b"x" * 11))[0] == 413
    assert (await caller.call("POST", "upload", data=chunks()))[0] == 413


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"audio_url": None}, "Transcript creation error, audio_url not found"),
        ({"audio_url": "ftp://x"}, "Transcript creation error, audio_url should start with http"),
        ({"format_text": "yes"}, "format_text must be a Boolean"),
        ({"speech_model": "best"}, "speech_model is deprecated"),
        ({"speech_models": []}, '"speech_models" must be a non-empty list'),
        (
            {"speech_models": ["loud"]},
            'containing one or more of: "assemblyai-stt-3-7", "universal-3-5-pro", "universal-2"',
        ),
        ({"speech_models": ["universal-2", "universal-3-pro"]}, "have been deprecated"),
        ({"language_code": "en", "language_detection": True}, "language_detection"),
        ({"language_detection": False}, "language_detection"),
        ({"speaker_labels": True, "punctuate": False}, "punctuate"),
        ({"speakers_expected": 2}, "speaker_labels"),
        ({"speech_threshold": 2}, "speech_threshold"),
        ({"audio_start_from": 1.5}, "audio_start_from must be an Integer"),
        ({"audio_start_from": 5, "audio_end_at": 5}, "audio_end_at"),
        ({"formt_text": True}, "formt_text"),
    ],
)
async def test_refused_options_create_nothing(
    service: ScriptedService, caller: Caller, options: Json, fragment: str
) -> None:
    """A submit that breaks a rule gets 400 with a sentence that names it, and no transcript."""
    body = {"audio_url": "https://example.org/a.mp3"} | options
    status, answer = await caller.call("POST", "transcript", json=body)

    assert status == 400
    assert fragment in answer["error"]
    assert not service.transcripts


async def test_equal_submits_are_two_transcripts(service: ScriptedService, caller: Caller) -> None:
    """Nothing is deduplicated: a content submitted twice is billed twice, when it completes."""
    await caller.submit(b"RIFF")
    await caller.submit(b"RIFF")
    before = service.billable.total()
    service.advance(30)

    assert before == 0
    assert len(service.accepted(b"RIFF")) == 2
    assert list(service.billable.values()) == [2]


async def test_queue_is_first_in_first_out(service: ScriptedService, caller: Caller) -> None:
    """Above the concurrency transcripts wait as queued and throttled, and start in order."""
    service.concurrency = 2
    ids = [await caller.submit(b"%d" % number) for number in range(5)]

    def statuses() -> list[str]:
        service.settle()
        return [service.transcripts[one].status for one in ids]

    seen = [statuses()]
    for _ in range(3):
        service.advance(30)
        seen.append(statuses())

    assert seen == [
        ["processing"] * 2 + ["queued"] * 3,
        ["completed"] * 2 + ["processing"] * 2 + ["queued"],
        ["completed"] * 4 + ["processing"],
        ["completed"] * 5,
    ]
    assert (await caller.get(ids[0]))["throttled"] is None
    assert (await caller.get(ids[4]))["throttled"] is False
    assert (service.peak_processing, service.peak_open) == (2, 5)


async def test_one_long_step_equals_many_short_ones(
    service: ScriptedService, caller: Caller
) -> None:
    """What happened between two looks at the clock happened at its own time, not at the look."""
    service.concurrency = 1
    ids = [await caller.submit(b"%d" % number) for number in range(3)]
    began = service.now()
    service.advance(1_000)

    ended = [service.transcripts[one].completed for one in ids]

    assert ended == [began + 30, began + 60, began + 90]


async def test_equal_contents_say_the_same(service: ScriptedService, caller: Caller) -> None:
    """Two transcripts of one content differ in id and audio_url alone; another content differs."""
    ids = [await caller.submit(content) for content in (b"one", b"one", b"two")]
    service.advance(30)
    one, same, other = [await caller.get(transcript_id) for transcript_id in ids]

    assert {key for key in one if one[key] != same[key]} == {"id", "audio_url"}
    assert one["text"] != other["text"]


async def test_content_scripts_its_outcome(service: ScriptedService, caller: Caller) -> None:
    """Lines at the beginning of a content set its error, duration, words and time."""
    failed = await caller.submit(b"ERROR:Audio duration is too short.\nSECONDS:7\n...")
    silent = await caller.submit(b"WORDS:0\n...")
    slow = await caller.submit(b"TAKES:31\n...")
    service.advance(30)

    body = await caller.get(failed)
    assert (body["status"], body["error"]) == ("error", "Audio duration is too short.")
    assert (body["text"], body["words"], body["audio_duration"]) == (None, None, 7)
    assert (await caller.get(silent))["text"] == ""
    assert (await caller.get(slow))["status"] == "processing"
    assert service.billable.total() == 1


@pytest.mark.parametrize(
    ("models", "language", "used"),
    [
        (["assemblyai-stt-3-7", "universal-2"], "de", "assemblyai-stt-3-7"),
        (["assemblyai-stt-3-7", "universal-2"], "uk", "universal-2"),
        (["universal-2", "assemblyai-stt-3-7"], "de", "universal-2"),
        (["assemblyai-stt-3-7"], "uk", None),
    ],
)
async def test_the_first_model_that_knows_the_language_does_the_work(
    service: ScriptedService, caller: Caller, models: list[str], language: str, used: str | None
) -> None:
    """What is spoken chooses of the models that were asked for; where none knows it, an error."""
    content = b"LANGUAGE:%s\n" % language.encode()
    asked = await caller.submit(content, speech_models=models)
    service.advance(30)

    body = await caller.get(asked)
    assert body["speech_model_used"] == used
    assert body["status"] == ("completed" if used else "error")
    assert (language in (body.get("error") or "")) is (used is None)


async def test_accounts_have_a_default_of_their_own(
    service: ScriptedService, caller: Caller
) -> None:
    """An older account works with other models than a new one where a submit names none."""
    service.default_models = ("universal-3-5-pro", "universal-2")
    asked = await caller.submit(b"RIFF")
    service.advance(30)

    body = await caller.get(asked)
    assert body["speech_models"] == ["universal-3-5-pro", "universal-2"]
    assert body["speech_model_used"] == "universal-3-5-pro"


async def test_content_fails_a_number_of_times(service: ScriptedService, caller: Caller) -> None:
    """A content told to fail once fails once, and then completes."""
    service.fail_content(b"RIFF", "Server error, developers have been alerted.")
    ids = [await caller.submit(b"RIFF"), await caller.submit(b"RIFF")]
    service.advance(30)

    assert [service.transcripts[one].status for one in ids] == ["error", "completed"]


async def test_tests_may_end_transcripts_themselves(
    service: ScriptedService, caller: Caller
) -> None:
    """`complete` and `fail` end one transcript now, and its place is free for the next."""
    service.transcript_seconds, service.concurrency = math.inf, 2
    done, failed, third = [await caller.submit(b"%d" % number) for number in range(3)]
    service.complete(done)
    service.fail(failed, "Server error")

    statuses = [service.transcripts[one].status for one in (done, failed, third)]
    assert statuses == ["completed", "error", "processing"]


async def test_uploads_expire(service: ScriptedService, caller: Caller) -> None:
    """An upload_url past its life is accepted, and its transcript ends in a download error."""
    service.upload_life_s = 60
    audio_url = await caller.upload(b"RIFF")
    service.advance(61)
    _, body = await caller.call("POST", "transcript", json={"audio_url": audio_url})
    service.advance(30)

    assert (await caller.get(body["id"]))["error"].startswith("Download error, unable to download")


async def test_projects_are_apart(service: ScriptedService, caller: Caller) -> None:
    """A key of another project sees, lists, deletes and transcribes nothing of ours."""
    audio_url, transcript_id = await caller.upload(b"RIFF"), await caller.submit()
    foreign = service.foreign_key
    lookup = {"error": "Transcript lookup error, transcript id not found"}

    body = {"audio_url": audio_url}
    refused = await caller.call("POST", "transcript", key=foreign, json=body)
    listed = await caller.call("GET", "transcript", key=foreign)

    assert refused == (403, {"error": "Cannot access uploaded file"})
    assert listed[1]["transcripts"] == []
    for method in ("GET", "DELETE"):
        assert await caller.call(method, f"transcript/{transcript_id}", key=foreign) == (
            400,
            lookup,
        )


async def test_pages_go_to_older_rows_by_prev_url(service: ScriptedService, caller: Caller) -> None:
    """Following prev_url from the top meets every row once, newest first, then ends in null."""
    ids = service.add_foreign(7)
    seen: list[str] = []
    query: dict[str, str | int] = {"limit": 3}
    while True:
        details, rows = await caller.listed(**query)
        seen += [row["id"] for row in rows]
        if details["prev_url"] is None:
            break
        assert details["prev_url"].endswith(f"limit=3&before_id={seen[-1]}")
        query["before_id"] = seen[-1]

    assert seen == ids[::-1]
    assert details["result_count"] == 1


async def test_pages_go_to_newer_rows_by_next_url(service: ScriptedService, caller: Caller) -> None:
    """The page after a row holds its next newer neighbours, still newest first."""
    ids = service.add_foreign(7)
    details, rows = await caller.listed(limit=3, after_id=ids[1])

    assert [row["id"] for row in rows] == [ids[4], ids[3], ids[2]]
    assert details["next_url"].endswith(f"limit=3&after_id={ids[4]}")
    assert (await caller.listed(limit=3, after_id=ids[6]))[0]["next_url"] is None


async def test_new_rows_do_not_shift_older_pages(service: ScriptedService, caller: Caller) -> None:
    """A transcript made between two pages is on neither of them."""
    ids = service.add_foreign(4)
    first = await caller.listed_ids(limit=2)
    service.add_foreign(3)
    second = await caller.listed_ids(limit=2, before_id=first[-1])

    assert first + second == ids[::-1]


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "201"},
        {"limit": "ten"},
        {"status": "lost"},
        {"created_on": "yesterday"},
        {"before_id": "unknown"},
        {"after_id": "unknown"},
    ],
)
async def test_bad_list_queries_are_refused(caller: Caller, query: dict[str, str]) -> None:
    """A query outside its range, or with a cursor that does not exist, gets 400."""
    status, body = await caller.call("GET", "transcript", params=query)

    assert status == 400
    assert body["error"]


async def test_list_filters_by_status_and_day(service: ScriptedService, caller: Caller) -> None:
    """`status` keeps the rows that have it now, `created_on` those of that day in UTC."""
    done = await caller.submit(b"one")
    service.advance(86_400)
    live = await caller.submit(b"two")

    assert await caller.listed_ids(status="completed") == [done]
    assert await caller.listed_ids(status="processing") == [live]
    assert await caller.listed_ids(created_on="2026-11-20") == [done]


async def test_list_may_lag(service: ScriptedService, caller: Caller) -> None:
    """With a lag a transcript can be fetched at once, but is listed only later."""
    service.list_lag_s = 60
    transcript_id = await caller.submit()

    assert await caller.listed_ids() == []
    assert (await caller.get(transcript_id))["status"] == "processing"
    service.advance(60)
    assert await caller.listed_ids() == [transcript_id]


async def test_list_forgets_after_90_days(service: ScriptedService, caller: Caller) -> None:
    """A transcript older than 90 days is no longer listed, but still fetched by its id."""
    transcript_id = await caller.submit()
    service.advance(90 * 86_400 + 1)

    assert await caller.listed_ids() == []
    assert (await caller.get(transcript_id))["status"] == "completed"


async def test_delete_scrubs(service: ScriptedService, caller: Caller) -> None:
    """A deleted transcript says completed and nothing else, twice over, and stays listed."""
    transcript_id = await caller.submit(language_code="en", webhook_url="https://example.org/hook")
    service.advance(30)
    first = await caller.call("DELETE", f"transcript/{transcript_id}")
    second = await caller.call("DELETE", f"transcript/{transcript_id}")
    row = (await caller.call("GET", "transcript"))[1]["transcripts"][0]

    body = first[1]
    assert first == second == (200, await caller.get(transcript_id))
    assert (body["status"], body["text"]) == ("completed", "Deleted by user.")
    assert body["audio_url"] == body["webhook_url"] == "http://deleted_by_user"
    assert [body[key] for key in ("words", "utterances", "confidence", "language_code")] == [
        None
    ] * 4
    assert (row["status"], row["audio_url"]) == ("completed", "http://deleted_by_user")
    assert not service.uploads


async def test_captions_only_of_the_completed(service: ScriptedService, caller: Caller) -> None:
    """Captions are refused before completion, then they have the words in their order."""
    transcript_id = await caller.submit()
    refused = await caller.call("GET", f"transcript/{transcript_id}/srt")
    service.advance(30)
    text = (await caller.get(transcript_id))["text"]
    srt = (await caller.call("GET", f"transcript/{transcript_id}/srt"))[1]
    vtt = (await caller.call("GET", f"transcript/{transcript_id}/vtt?chars_per_caption=1"))[1]

    assert refused[0] == 400
    assert "status of 'processing'" in refused[1]["error"]
    assert " ".join(block.split("\n")[2] for block in srt.strip().split("\n\n")) == text
    assert vtt.startswith("WEBVTT\n\n")
    assert " ".join(block.split("\n")[1] for block in vtt.strip().split("\n\n")[1:]) == text


async def test_exports_tell_the_same_words(service: ScriptedService, caller: Caller) -> None:
    """Sentences and paragraphs add up to the text; a search finds a word where it stands."""
    transcript_id = await caller.submit(b"WORDS:40\n" + b"x" * 640_000)
    service.advance(30)
    body = await caller.get(transcript_id)
    path = f"transcript/{transcript_id}"
    wanted = body["words"][3]["text"]
    found = (await caller.call("GET", f"{path}/word-search?words={wanted.upper()}"))[1]
    bad = await caller.call("GET", f"{path}/chapters")

    for what in ("sentences", "paragraphs"):
        parts = (await caller.call("GET", f"{path}/{what}"))[1][what]
        assert " ".join(part["text"] for part in parts) == body["text"]
        assert [word for part in parts for word in part["words"]] == body["words"]
    assert 3 in found["matches"][0]["indexes"]
    assert bad[0] == 404
    assert "404: Not Found" in bad[1]


async def test_redacted_audio_only_where_asked_for(
    service: ScriptedService, caller: Caller
) -> None:
    """Redacted audio is refused where it was not asked for, and before completion."""
    plain = await caller.submit()
    asked = await caller.submit(redact_pii=True, redact_pii_audio=True)
    answers = [
        await caller.call("GET", f"transcript/{one}/redacted-audio") for one in (plain, asked)
    ]
    service.advance(30)
    ready = await caller.call("GET", f"transcript/{asked}/redacted-audio")

    assert [status for status, _ in answers] == [400, 400]
    assert "doesn't exist" in answers[0][1]["error"]
    assert "still in progress" in answers[1][1]["error"]
    assert ready[1]["status"] == "redacted_audio_ready"


@pytest.mark.parametrize("form", ["seconds", "date", "none"])
async def test_rate_limit(service: ScriptedService, caller: Caller, form: str) -> None:
    """Above the limit 429 with Retry-After in the form set, until the window has moved on."""
    service.requests_limit, service.requests_window_s, service.retry_after = 2, 10.0, form
    headers = {"Authorization": service.key}
    for _ in range(2):
        await caller.listed()
        service.advance(1)
    async with caller.http.get(f"{service.url}/v2/transcript", headers=headers) as answer:
        told = answer.headers.get("Retry-After")

        assert answer.status == 429
    if form == "seconds":
        assert told == "8"
    elif form == "date":
        assert told is not None
        ahead = parsedate_to_datetime(told) - datetime.now(UTC)
        assert timedelta(seconds=5) < ahead < timedelta(seconds=9)
    else:
        assert told is None
    service.advance(8)
    await caller.listed()


LOST = {
    "drop_before": aiohttp.ClientOSError,
    "drop_after": aiohttp.ClientOSError,
    "truncate": aiohttp.ClientPayloadError,
}


@pytest.mark.parametrize(
    ("action", "is_created"), [("drop_before", False), ("drop_after", True), ("truncate", True)]
)
async def test_lost_answers(
    service: ScriptedService, caller: Caller, action: Any, is_created: bool
) -> None:
    """An answer that is dropped or cut never arrives whole, with the effect or without it."""
    service.faults.add(Fault(on="submit", action=action))
    body = {"audio_url": await caller.upload(b"RIFF")}
    with pytest.raises(LOST[action]):
        await caller.call("POST", "transcript", json=body)

    assert bool(service.accepted(b"RIFF")) is is_created
    assert (await caller.call("POST", "transcript", json=body))[0] == 200


@pytest.mark.parametrize(
    ("action", "status", "is_created"),
    [
        ("answer", 500, False),
        ("effect_then_answer", 500, True),
        ("garbage", 200, True),
        ("negative_balance", 400, False),
        ("redirect", 307, False),
    ],
)
async def test_false_statuses(
    service: ScriptedService, caller: Caller, action: Any, status: int, is_created: bool
) -> None:
    """A fault answers with its status, and has the effect only if it says so."""
    service.faults.add(
        Fault(on="submit", action=action, status=500, location="http://127.0.0.1:9/v2/transcript")
    )
    body = {"audio_url": await caller.upload(b"RIFF")}
    answer = await caller.call("POST", "transcript", json=body)

    assert answer[0] == status
    assert bool(service.transcripts) is is_created
    assert service.log[-1].fault == action


async def test_faults_count_skip_and_match(service: ScriptedService, caller: Caller) -> None:
    """A fault meets so many matching requests, after so many others, and no request besides."""
    service.faults.add(Fault(on="upload", action="answer", match="lame", skip=1, times=2))
    service.faults.add(Fault(on="list", action="list_down", match=lambda call: "5" in call.query))
    contents = [b"lame 1", b"fine 1", b"lame 2", b"lame 3", b"lame 4"]
    statuses = [(await caller.call("POST", "upload", data=content))[0] for content in contents]

    assert statuses == [200, 200, 503, 503, 200]
    assert (await caller.call("GET", "transcript?limit=4"))[0] == 200
    assert (await caller.call("GET", "transcript?limit=5"))[0] == 503


@pytest.mark.parametrize("action", ["hold", "hold_before"])
async def test_held_requests_wait_for_their_release(
    service: ScriptedService, caller: Caller, action: Any
) -> None:
    """A held request is seen to wait, with its effect or without it, and ends when released."""
    service.faults.add(Fault(on="submit", action=action))
    async with anyio.create_task_group() as group:
        group.start_soon(caller.submit)
        held = await service.held("submit")
        count = len(service.transcripts)
        service.release("submit")

    assert [call.kind for call in held] == ["submit"]
    assert count == (1 if action == "hold" else 0)
    assert service.log[-1].status == 200


async def test_stalled_upload_is_left_unread(service: ScriptedService, caller: Caller) -> None:
    """A stalled upload stops taking bytes, and goes on when released."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(512):
            yield bytes(1 << 16)
            sent += 1

    service.faults.add(Fault(on="upload", action="stall"))
    async with anyio.create_task_group() as group:

        async def upload() -> None:
            await caller.call("POST", "upload", data=endless())

        group.start_soon(upload)
        await service.held("upload")
        await anyio.wait_all_tasks_blocked()
        unread = sent
        service.release()

    assert 0 < unread < sent == 512
    assert service.log[-1].status == 200


async def test_two_submits_get_each_others_answers(
    service: ScriptedService, caller: Caller
) -> None:
    """Crossed submits both succeed, and each is told the transcript of the other."""
    service.faults.add(Fault(on="submit", action="cross_answers", times=2))
    told: dict[bytes, str] = {}

    async def submit(content: bytes) -> None:
        told[content] = await caller.submit(content)

    async with anyio.create_task_group() as group:
        group.start_soon(submit, b"one")
        group.start_soon(submit, b"two")

    assert told[b"one"] == service.accepted(b"two")[0].id
    assert told[b"two"] == service.accepted(b"one")[0].id


async def test_get_may_answer_with_another_transcript(
    service: ScriptedService, caller: Caller
) -> None:
    """A crossed GET has the body of another transcript of the project."""
    one, two = await caller.submit(b"one"), await caller.submit(b"two")
    service.faults.add(Fault(on="get", action="cross_answers"))

    assert (await caller.get(one))["id"] == two
    assert (await caller.get(one))["id"] == one


async def test_upload_url_may_be_handed_out_twice(service: ScriptedService, caller: Caller) -> None:
    """A reused upload_url is the one before, for another content."""
    one = await caller.upload(b"one")
    service.faults.add(Fault(on="upload", action="reuse_upload_url"))

    assert await caller.upload(b"two") == one
    assert await caller.upload(b"three") != one


async def test_answers_may_be_patched(service: ScriptedService, caller: Caller) -> None:
    """A patch puts keys over the answer, and over each row of a list; the truth stays."""
    transcript_id = await caller.submit()
    service.faults.add(Fault(on="get", action="patch", patch={"status": "resting"}))
    service.faults.add(Fault(on="get", action="foreign_audio_url"))
    service.faults.add(Fault(on="list", action="list_says_error"))
    patched, foreign = await caller.get(transcript_id), await caller.get(transcript_id)
    row = (await caller.call("GET", "transcript"))[1]["transcripts"][0]

    assert patched["status"] == "resting"
    assert foreign["audio_url"] == "https://elsewhere.invalid/foreign.mp3"
    assert row["status"] == "error"
    assert (await caller.get(transcript_id))["status"] == "processing"


async def test_big_and_slow_answers_are_whole(service: ScriptedService, caller: Caller) -> None:
    """A big answer has more bytes, a slow one has them one by one; both arrive whole."""
    service.faults.add(Fault(on="upload", action="big", size_bytes=1_000_000))
    service.faults.add(Fault(on="upload", action="slow", seconds=0.01))
    big = (await caller.call("POST", "upload", data=b"RIFF"))[1]

    assert len(big["x_padding"]) == 1_000_000
    assert await caller.upload(b"RIFF") in service.uploads


async def test_unknown_id_for_some_looks(service: ScriptedService, caller: Caller) -> None:
    """An id may be unknown for a number of looks, then it is there."""
    transcript_id = await caller.submit()
    service.faults.add(Fault(on="get", action="unknown_id", times=2))
    looks = [(await caller.call("GET", f"transcript/{transcript_id}"))[0] for _ in range(3)]

    assert looks == [400, 400, 200]


async def test_faults_are_named_rightly() -> None:
    """A fault that does not exist is refused when it is written down, not when it is met."""
    mistake: Any = "explode"
    with pytest.raises(ValueError, match=mistake):
        Fault(on="get", action=mistake)


async def test_log_and_peaks(service: ScriptedService, caller: Caller) -> None:
    """The log holds each call in order, and the peak is the most within one window."""
    for _ in range(3):
        await caller.listed()
        service.advance(5)
    await caller.upload(b"RIFF")

    assert [call.kind for call in service.log] == ["list", "list", "list", "upload"]
    assert [call.status for call in service.log] == [200] * 4
    assert {call.key for call in service.log} == {service.key}
    assert service.requests == {"list": 3, "upload": 1}
    assert (service.peak_requests(5), service.peak_requests(11), service.connections) == (1, 3, 1)


async def test_until_waits_for_what_requests_bring_about(
    service: ScriptedService, caller: Caller
) -> None:
    """`until` returns when a request has made its condition true."""
    seen: list[Call] = []

    async def watch() -> None:
        await service.until(lambda: service.requests["list"] == 2)
        seen.extend(service.log)

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        await caller.listed()
        await caller.listed()

    assert len(seen) == 2


async def test_process_outlives_its_client(tmp_path: Path) -> None:
    """As a process it is set, asked and released over HTTP, and its books outlive a restart."""
    state = tmp_path / "state.json"
    async with service_process(state=state, key="k") as service, aiohttp.ClientSession() as http:
        headers = {"Authorization": service.key}
        await service.add_fault(on="submit", action="hold")
        async with http.post(f"{service.url}/v2/upload", data=b"RIFF", headers=headers) as answer:
            body = {"audio_url": (await answer.json())["upload_url"]}

        async def submit() -> None:
            url = f"{service.url}/v2/transcript"
            async with http.post(url, json=body, headers=headers) as answer:
                assert answer.status == 200

        async with anyio.create_task_group() as group:
            group.start_soon(submit)
            held = await service.held("submit")
            await service.control("release")
        with pytest.raises(ValueError, match="explode"):
            await service.add_fault(on="get", action="explode")
        before = await service.oracle()
    async with service_process(state=state, key="k") as service:
        after = await service.oracle()
        os.kill(service.pid, signal.SIGTERM)

    assert held[0]["audio_url"] == body["audio_url"]
    assert list(before["billable"].values()) == [1]
    assert before["requests"] == {"upload": 1, "submit": 1}
    assert (before["billable"], before["transcripts"]) == (after["billable"], after["transcripts"])


# --- webhooks -------------------------------------------------------------------------------------


@asynccontextmanager
async def ear(*statuses: int) -> AsyncIterator[tuple[str, list[tuple[str, str, Json]]]]:
    """Who is told: its URL, and each call's query, secret and body; it answers these in turn."""
    heard: list[tuple[str, str, Json]] = []

    async def answer(request: web.Request) -> web.Response:
        secret = request.headers.get("X-Secret", "")
        heard.append((request.query_string, secret, await request.json()))
        return web.Response(status=statuses[min(len(heard), len(statuses)) - 1])

    app = web.Application()
    app.router.add_post("/hook", answer)
    async with TestServer(app) as server:
        yield str(server.make_url("/hook")), heard


HEADER = {"webhook_auth_header_name": "X-Secret", "webhook_auth_header_value": "hush"}


async def test_who_asked_for_it_is_told_of_the_end(
    service: ScriptedService, caller: Caller
) -> None:
    """A transcript that ends is told to its URL, query and header as given, and then shows it."""
    async with ear(200) as (url, heard), delivering(service) as post:
        good = await caller.submit(webhook_url=f"{url}?a=1&b", **HEADER)
        await caller.submit(b"ERROR:No sound.\n", webhook_url=url)
        await caller.submit(b"quiet")
        before = (await caller.get(good))["webhook_status_code"]
        service.advance(30)
        await service.until(lambda: len(post.deliveries) == 2 and post.is_done)
        after = (await caller.get(good))["webhook_status_code"]

    ids = list(service.transcripts)
    assert sorted(heard, key=lambda call: call[0], reverse=True) == [
        ("a=1&b", "hush", {"transcript_id": good, "status": "completed"}),
        ("", "", {"transcript_id": ids[1], "status": "error"}),
    ]
    assert (before, after) == (None, 200)


@pytest.mark.parametrize(
    ("statuses", "sent"),
    [
        ([503, 500, 204], [503, 500, 204]),
        ([307, 403], [307, 403]),
        ([404], [404]),
        ([503], [503] * 10),
    ],
)
async def test_it_is_told_again_until_it_is_heard(
    service: ScriptedService, caller: Caller, statuses: list[int], sent: list[int]
) -> None:
    """Told until a 2xx, ten times at the most; a 4xx is final, a redirect is not followed."""
    service.webhook_every_s = 0.01
    async with ear(*statuses) as (url, _), delivering(service) as post:
        transcript_id = await caller.submit(webhook_url=url)
        service.advance(30)
        await service.until(lambda: post.is_done)
        shown = (await caller.get(transcript_id))["webhook_status_code"]

    assert post.deliveries[0].statuses == sent
    assert shown == sent[-1]


async def test_redacted_audio_is_told_without_an_id(
    service: ScriptedService, caller: Caller
) -> None:
    """Redacted audio comes with a call of its own, which says where it is and not of what."""
    async with ear(200) as (url, heard), delivering(service) as post:
        options = {"redact_pii": True, "redact_pii_audio": True, "webhook_url": url}
        transcript_id = await caller.submit(**options)
        service.advance(30)
        await service.until(lambda: len(post.deliveries) == 2 and post.is_done)

    audio = f"https://redacted.scripted.invalid/{transcript_id}.mp3"
    assert [body for _, _, body in heard] == [
        {"transcript_id": transcript_id, "status": "completed"},
        {"status": "redacted_audio_ready", "redacted_audio_url": audio},
    ]


async def test_what_is_told_can_be_altered(service: ScriptedService, caller: Caller) -> None:
    """A test loses, doubles, delays or falsifies what is told; nobody there is no answer."""
    async with ear(200) as (url, heard), delivering(service) as post:
        post.alter = lambda sound: (
            [] if "lost" in sound.url else [sound.again(after_s=0.01), sound.again(body={})]
        )
        for hook in (url, f"{url}?lost", "http://127.0.0.1:1/"):
            await caller.submit(webhook_url=hook)
        service.webhook_every_s = 0.0
        service.advance(30)
        await service.until(lambda: len(post.deliveries) == 4 and post.is_done)

    assert [set(body) for _, _, body in heard] == [{"transcript_id", "status"}, set()]
    assert sorted(each.statuses for each in post.deliveries) == [[0] * 10, [0] * 10, [200], [200]]


@pytest.mark.parametrize("missing", ["webhook_url", *HEADER])
async def test_the_three_keys_go_together(
    service: ScriptedService, caller: Caller, missing: str
) -> None:
    """A header without its value, a value without its header, either without a URL: 400."""
    given = {"audio_url": "https://example.org/a.mp3", "webhook_url": "https://example.org"}
    given |= HEADER
    del given[missing]

    assert (await caller.call("POST", "transcript", json=given))[0] == 400
    assert not service.transcripts
