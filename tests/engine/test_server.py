"""The engine over HTTP answers as the service does: statuses, shapes, order and sentences."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest

from pipeline.engine import Engine, EngineUnavailable, serve, stored_key
from tests.engine.client import KEY, Client, engine, error
from tests.engine.scripted import ScriptedRecognizer

pytestmark = pytest.mark.anyio

LOOKUP = "Transcript lookup error, transcript id not found"

NULL_AT_FIRST = {
    *("text", "words", "utterances", "confidence", "audio_duration", "language_code"),
    *("language_confidence", "language_confidence_threshold", "speech_model_used", "throttled"),
    *("webhook_url", "webhook_auth_header_name", "webhook_status_code", "chapters", "entities"),
    *("auto_highlights_result", "sentiment_analysis_results", "summary", "speech_threshold"),
    *("audio_start_from", "audio_end_at"),
}

SCRUBBED = {
    *("words", "utterances", "confidence", "language_code", "punctuate", "filter_profanity"),
}


@pytest.fixture
def recognizer() -> ScriptedRecognizer:
    return ScriptedRecognizer()


@pytest.fixture
async def client(tmp_path: Path, recognizer: ScriptedRecognizer) -> AsyncIterator[Client]:
    async with engine(tmp_path / "state", recognizer) as client:
        yield client


# --- the key -----------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "", "another key", f"Bearer {KEY}", KEY + " x", "schlüssel"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/upload"),
        ("POST", "/v2/transcript"),
        ("GET", "/v2/transcript"),
        ("GET", "/v2/transcript/x"),
        ("DELETE", "/v2/transcript/x"),
        ("GET", "/v2/transcript/x/srt"),
        ("GET", "/elsewhere"),
    ],
)
async def test_every_call_needs_the_key(
    client: Client, key: str | None, method: str, path: str
) -> None:
    """Without the bare key, or with a scheme word before it, any call is answered with 401."""
    status, body = await client.call(method, path, key=key, data=b"x")

    assert (status, error(body)) == (401, "Authentication error, API token missing/invalid")


async def test_each_of_several_keys_opens_the_same_transcripts(
    tmp_path: Path, recognizer: ScriptedRecognizer
) -> None:
    """Keys of one engine are keys of one project."""
    async with engine(tmp_path, recognizer, keys=[KEY, "second"]) as client:
        transcript_id = await client.submit("https://example.org/a.mp3")
        status, body = await client.call("GET", f"/v2/transcript/{transcript_id}", key="second")

    assert (status, body["id"]) == (200, transcript_id)


def test_stored_key_is_kept(tmp_path: Path) -> None:
    """A state folder has one key, readable by its owner only; an empty file is made good."""
    first = stored_key(tmp_path / "state")
    path = tmp_path / "state" / "key"

    assert len(first) == 32
    assert stored_key(tmp_path / "state") == first
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("")
    assert stored_key(tmp_path / "state") not in ("", first)


# --- uploads -----------------------------------------------------------------------------


async def test_upload_urls_are_unique_and_hold_no_port(client: Client, upload: Path) -> None:
    """Equal bytes get different URLs, and none of them changes when the engine moves."""
    first, second = await client.upload(upload), await client.upload(upload)

    assert first != second
    assert urlsplit(first).scheme == "https"
    assert urlsplit(first).port is None


@pytest.mark.parametrize("content_type", [None, "application/octet-stream", "audio/wav", "a/b"])
async def test_upload_takes_sized_and_chunked_bodies(
    client: Client, upload: Path, content_type: str | None
) -> None:
    """Whatever the framing and the type, the bytes are what is transcribed."""

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 10_000):
            yield content[start : start + 10_000]

    content = await anyio.Path(upload).read_bytes()
    for data in (content, chunks()):
        headers = {"Authorization": KEY} | ({"Content-Type": content_type} if content_type else {})
        async with client.session.post(
            client.url + "/v2/upload", data=data, headers=headers
        ) as response:
            body = await response.json()
        transcript = await client.finished(await client.submit(body["upload_url"]))

        assert list(body) == ["upload_url"]
        assert transcript["text"] == "Hello there. Hello there."


async def test_empty_upload_is_refused_in_plain_text(client: Client) -> None:
    """An empty body is a 422 with the service's sentence, which is not JSON."""
    status, body = await client.call("POST", "/v2/upload", data=b"")

    assert (status, body) == (
        422,
        "Upload failed, please try again. If you continue to have issues "
        "please reach out to support@assemblyai.com",
    )


async def test_upload_over_the_limit_is_refused_by_its_length(client: Client) -> None:
    """2.2 GB and a byte is a 413 before the bytes are sent."""
    request = (
        f"POST /v2/upload HTTP/1.1\r\nHost: x\r\nAuthorization: {KEY}\r\n"
        "Content-Length: 2200000001\r\nExpect: 100-continue\r\n\r\n"
    )
    async with await client.connect() as stream:
        await stream.send(request.encode())
        answer = b""
        while b" 413 " not in answer:
            answer += await stream.receive()

    assert b" 413 " in answer


async def test_broken_upload_leaves_nothing(
    client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that dies inside of a body leaves no file behind, and no alarm in the log."""
    uploads = tmp_path / "state" / "uploads"
    async with await client.connect() as stream:
        await stream.send(
            f"POST /v2/upload HTTP/1.1\r\nHost: x\r\nAuthorization: {KEY}\r\n"
            f"Content-Length: 1000000\r\n\r\n".encode()
        )
        await stream.send(b"x" * 100_000)
        with anyio.fail_after(10):
            while not [path async for path in anyio.Path(uploads).iterdir()]:
                await client.list()
    with anyio.fail_after(10):
        while [path async for path in anyio.Path(uploads).iterdir()]:
            await client.list()

    assert caplog.records == []


# --- submitting --------------------------------------------------------------------------


async def test_accepted_transcript_has_every_key_and_no_result(
    client: Client, recognizer: ScriptedRecognizer, upload: Path
) -> None:
    """The answer to a submit is a whole transcript: options echoed, results null, no error."""
    recognizer.gate.clear()
    upload_url = await client.upload(upload)
    request = {"audio_url": upload_url, "speech_models": ["universal-2"], "punctuate": True}
    status, body = await client.call("POST", "/v2/transcript", json=request)
    recognizer.gate.set()

    assert (status, body["status"], body["audio_url"]) == (200, "queued", upload_url)
    assert (body["speech_models"], body["speech_model"]) == (["universal-2"], None)
    assert "error" not in body
    assert {name for name in NULL_AT_FIRST if body[name] is not None} == set()
    for name in ("webhook_auth", "auto_highlights", "redact_pii", "summarization"):
        assert body[name] is False, name
    assert body["punctuate"] is body["format_text"] is body["language_detection"] is True
    assert body["language_model"] == body["acoustic_model"] == "assemblyai_default"


@pytest.mark.parametrize(
    ("name", "status"), [("tiny.en", 200), ("scripted", 200), ("universal-2", 200), ("base", 400)]
)
async def test_models_by_the_names_that_there_are(tmp_path: Path, name: str, status: int) -> None:
    """What the engine was told to work with may be asked for by that name, and by its own."""
    async with engine(tmp_path, ScriptedRecognizer(), model="tiny.en") as client:
        request = {"audio_url": f"{client.url}/upload/0", "speech_models": [name]}
        answer = await client.call("POST", "/v2/transcript", json=request)

    assert answer[0] == status


async def test_same_upload_submitted_twice_is_two_transcripts(
    client: Client, recognizer: ScriptedRecognizer, upload: Path
) -> None:
    """Nothing is deduplicated: each submit makes a transcript of its own."""
    recognizer.gate.clear()
    upload_url = await client.upload(upload)
    first, second = await client.submit(upload_url), await client.submit(upload_url)
    recognizer.gate.set()

    assert first != second
    assert (await client.finished(first))["text"] == (await client.finished(second))["text"]


@pytest.mark.parametrize("status", ["completed", "error"])
async def test_upload_that_is_done_is_submitted_in_vain(
    client: Client, tmp_path: Path, upload: Path, status: str
) -> None:
    """
    When a transcript is over its upload is gone from the disk; who asks for one more of it, say
    since an answer was lost, is told in the service's own words to upload again, and that works.
    """
    if status == "error":
        await anyio.Path(upload).write_text("this is a letter\n" * 100)
    first = await client.transcribed(upload)
    left = list((tmp_path / "state" / "uploads").iterdir())
    again = await client.finished(await client.submit(first["audio_url"]))
    anew = await client.transcribed(upload)

    assert left == []
    assert (again["status"], again["error"]) == (
        "error",
        f"Download error, unable to download {first['audio_url']}. "
        "Please make sure the file exists and is accessible from the internet.",
    )
    assert first["status"] == anew["status"] == status


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"{", "The request body must be JSON"),
        (b"[" * 100_000, "The request body must be JSON"),
        (b"\xff", "The request body must be JSON"),
        (b"[]", "The request body must be a JSON object"),
        (b"{}", "Transcript creation error, audio_url not found"),
        (b'{"audio_url": "/a"}', "Transcript creation error, audio_url should start with http"),
    ],
)
async def test_bad_request_is_a_400_with_a_sentence(
    client: Client, body: bytes, sentence: str
) -> None:
    """What is no request at all is refused, and makes no transcript."""
    status, answer = await client.call("POST", "/v2/transcript", data=body)

    assert (status, error(answer)) == (400, sentence)
    assert (await client.list())["transcripts"] == []


@pytest.mark.parametrize("audio_url", ["https://example.org/a.mp3", "gone"])
async def test_url_that_cannot_be_read_fails_as_a_download(
    client: Client, tmp_path: Path, upload: Path, audio_url: str
) -> None:
    """The engine fetches nothing: another's URL, or an upload that is gone, ends in `error`."""
    if audio_url == "gone":
        audio_url = await client.upload(upload)
        for path in (tmp_path / "state" / "uploads").iterdir():
            path.unlink()
    transcript = await client.finished(await client.submit(audio_url))

    assert (transcript["status"], transcript["text"], transcript["words"]) == ("error", None, None)
    assert transcript["error"] == (
        f"Download error, unable to download {audio_url}. "
        "Please make sure the file exists and is accessible from the internet."
    )


# --- one transcript ----------------------------------------------------------------------


async def test_completed_transcript_has_words_times_and_language(
    client: Client, upload: Path
) -> None:
    """Words in ms with confidences, text, whole seconds rounded up, the language heard."""
    transcript = await client.transcribed(upload)

    assert transcript["status"] == "completed"
    assert transcript["text"] == "Hello there. Hello there."
    assert transcript["words"][0] == {
        "text": "Hello",
        "start": 1000,
        "end": 1400,
        "confidence": 0.9,
        "speaker": None,
    }
    assert [word["start"] for word in transcript["words"]] == [1000, 1500, 3000, 3500]
    assert (transcript["confidence"], transcript["audio_duration"]) == (0.9, 4)
    assert (transcript["language_code"], transcript["language_confidence"]) == ("en", 0.9)
    assert (transcript["speech_model_used"], transcript["speech_model"]) == ("scripted", None)
    assert transcript["utterances"] is None
    assert "error" not in transcript


async def test_unknown_ids_are_a_400_wherever_they_stand(client: Client) -> None:
    """An id that is none, a path in disguise included, gets the lookup error."""
    for name in ("00000000-0000-4000-8000-000000000000", "x", "..", "%2e%2e%2fkey", "a%00b", "é"):
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/srt"), ("GET", "/sentences")):
            status, body = await client.call(method, f"/v2/transcript/{name}{path}")
            if name in ("..",):
                assert status in (400, 404, 405)
            else:
                assert (status, error(body)) == (400, LOOKUP)


async def test_unknown_paths_and_methods_are_refused_as_json(client: Client) -> None:
    """A wrong path is a 404 and a wrong method a 405, each with an error in JSON."""
    assert await client.call("GET", "/v3/transcript") == (404, {"error": "Not found"})
    assert await client.call("PUT", "/v2/upload") == (405, {"error": "Method Not Allowed"})


# --- the list ----------------------------------------------------------------------------


async def submitted(client: Client, count: int) -> list[str]:
    """Ids of new transcripts, newest first."""
    return [await client.submit(f"https://example.org/{n}") for n in range(count)][::-1]


def ids(page: dict[str, Any]) -> list[str]:
    return [row["id"] for row in page["transcripts"]]


async def follow(client: Client, url: str) -> dict[str, Any]:
    """The page that a page points to, by the host that it names."""
    assert url.startswith(client.url + "/v2/transcript?")
    return await client.list(**{k: v[0] for k, v in parse_qs(urlsplit(url).query).items()})


async def test_list_is_newest_first_and_pages_to_both_ends(client: Client) -> None:
    """`prev_url` leads to older pages until it is null, `next_url` back to the newest."""
    newest_first = await submitted(client, 7)
    pages = [await client.list(limit=3)]
    while older := pages[-1]["page_details"]["prev_url"]:
        pages.append(await follow(client, older))
    back = pages[-1]
    seen = [ids(back)]
    while newer := back["page_details"]["next_url"]:
        back = await follow(client, newer)
        seen.append(ids(back))

    assert [ids(page) for page in pages] == [
        newest_first[:3],
        newest_first[3:6],
        newest_first[6:],
    ]
    assert seen == [newest_first[6:], newest_first[3:6], newest_first[:3]]
    assert pages[0]["page_details"] == {
        "limit": 3,
        "result_count": 3,
        "current_url": f"{client.url}/v2/transcript?limit=3",
        "prev_url": f"{client.url}/v2/transcript?limit=3&before_id={newest_first[2]}",
        "next_url": None,
    }


async def test_list_rows_have_their_keys(client: Client, upload: Path) -> None:
    """A row says what was submitted, when, and how it ended; `completed` is null for a failure."""
    good = await client.submit(await client.upload(upload))
    bad = await client.submit("https://example.org/x")
    await client.finished(good)
    await client.finished(bad)
    failed, completed = (await client.list())["transcripts"]

    assert list(completed) == [
        "id",
        "resource_url",
        "status",
        "created",
        "completed",
        "audio_url",
        "error",
    ]
    assert completed["resource_url"] == f"{client.url}/v2/transcript/{good}"
    assert completed["created"] < completed["completed"]
    assert len(completed["created"]) == len("2026-11-20T10:00:05.120000")
    assert (completed["status"], completed["error"]) == ("completed", None)
    assert (failed["status"], failed["completed"]) == ("error", None)
    assert failed["audio_url"] == "https://example.org/x"
    assert failed["error"].startswith("Download error")


async def test_list_filters(client: Client, upload: Path) -> None:
    """By status, by day, and by throttling, which never happens here."""
    good = await client.submit(await client.upload(upload))
    bad = await client.submit("https://example.org/x")
    await client.finished(good)
    await client.finished(bad)
    day = (await client.list())["transcripts"][0]["created"][:10]

    assert ids(await client.list(status="completed")) == [good]
    assert ids(await client.list(status="error")) == [bad]
    assert ids(await client.list(status="queued")) == []
    assert ids(await client.list(created_on=day)) == [bad, good]
    assert ids(await client.list(created_on="2020-01-01")) == []
    assert ids(await client.list(throttled_only="true")) == []
    assert ids(await client.list(throttled_only="false")) == [bad, good]
    filtered = await client.list(status="completed", limit=1)
    assert filtered["page_details"]["prev_url"] is None


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"limit": "0"}, "limit must be"),
        ({"limit": "201"}, "limit must be"),
        ({"limit": "ten"}, "limit must be"),
        ({"limit": "-1"}, "limit must be"),
        ({"limit": "9" * 5000}, "limit must be"),
        ({"status": "done"}, "status must be"),
        ({"created_on": "yesterday"}, "created_on must be"),
        ({"before_id": "nobody"}, LOOKUP),
        ({"after_id": "nobody"}, LOOKUP),
        ({"throttled_only": "perhaps"}, "throttled_only must be"),
    ],
)
async def test_list_refuses_what_is_out_of_range(
    client: Client, query: dict[str, str], sentence: str
) -> None:
    """A page of 0 or 201, an unknown status, day or cursor is a 400 that says which."""
    status, body = await client.call("GET", "/v2/transcript", params=query)

    assert status == 400
    assert error(body).startswith(sentence)


async def test_list_refuses_cursors_in_the_wrong_order(client: Client) -> None:
    """Both cursors at once need the order that the service asks for."""
    newer, older = await submitted(client, 2)
    status, body = await client.call(
        "GET", "/v2/transcript", params={"after_id": older, "before_id": newer}
    )

    assert status == 400
    assert error(body) == "'after_id' must be a newer transcript than 'before_id'"


async def test_list_bears_any_host_and_query(client: Client) -> None:
    """A Host or a query that is no text is no reason to fail: URLs of the page are clean."""
    await submitted(client, 2)
    async with await client.connect() as stream:
        await stream.send(
            b'GET /v2/transcript?limit=1&y=%ff HTTP/1.1\r\nHost: a"><\xff:80\r\n'
            b"Connection: close\r\nAuthorization: " + KEY.encode() + b"\r\n\r\n"
        )
        answer = b"".join([chunk async for chunk in stream])
    details = json.loads(answer.partition(b"\r\n\r\n")[2])["page_details"]

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert details["current_url"] == "http://a%22%3E%3C%3F:80/v2/transcript?limit=1"


# --- deleting ----------------------------------------------------------------------------


async def test_deleting_scrubs_a_transcript_for_good(
    client: Client, tmp_path: Path, upload: Path
) -> None:
    """What was said, what was asked and the upload are gone; the row stays, and says so."""
    transcript = await client.transcribed(upload, language_code="de", filter_profanity=True)
    path = f"/v2/transcript/{transcript['id']}"
    status, deleted = await client.call("DELETE", path)
    again = await client.call("DELETE", path)
    row = (await client.list())["transcripts"][0]

    assert status == 200
    assert (deleted["status"], deleted["text"]) == ("completed", "Deleted by user.")
    assert deleted["audio_url"] == deleted["webhook_url"] == "http://deleted_by_user"
    assert (deleted["is_deleted"], deleted["audio_duration"], deleted["error"]) == (True, 4, None)
    assert (deleted["webhook_auth"], deleted["redact_pii"]) == (False, False)
    assert {name for name in SCRUBBED if deleted[name] is not None} == set()
    assert again == (200, deleted)
    assert await client.get(transcript["id"]) == deleted
    assert (row["status"], row["audio_url"]) == ("completed", "http://deleted_by_user")
    assert list((tmp_path / "state" / "uploads").iterdir()) == []


async def test_deleted_words_are_not_in_the_files(tmp_path: Path, upload: Path) -> None:
    """Nothing that was said can be found in the state folder once it is deleted."""
    async with engine(tmp_path / "state", ScriptedRecognizer("Rumpelstiltskin")) as client:
        transcript = await client.transcribed(upload)
        await client.call("DELETE", f"/v2/transcript/{transcript['id']}")
    left = b"".join(path.read_bytes() for path in (tmp_path / "state").iterdir() if path.is_file())

    assert b"Rumpelstiltskin" not in left


async def test_unfinished_transcript_cannot_be_deleted(
    client: Client, recognizer: ScriptedRecognizer, upload: Path
) -> None:
    """No result gets lost by a delete that came too early: it is refused, and nothing changes."""
    recognizer.gate.clear()
    transcript_id = await client.submit(await client.upload(upload))
    await anyio.to_thread.run_sync(recognizer.started.wait)
    status, body = await client.call("DELETE", f"/v2/transcript/{transcript_id}")
    recognizer.gate.set()

    assert status == 400
    assert "'processing'" in error(body)
    assert (await client.finished(transcript_id))["text"] == "Hello there. Hello there."


async def test_failed_transcript_can_be_deleted(client: Client) -> None:
    """A failed transcript is scrubbed like any other, and stays failed."""
    transcript = await client.finished(await client.submit("https://example.org/secret"))
    status, deleted = await client.call("DELETE", f"/v2/transcript/{transcript['id']}")

    assert (status, deleted["status"], deleted["error"]) == (200, "error", None)
    assert "example.org" not in json.dumps(deleted)


async def test_upload_is_kept_while_another_transcript_needs_it(
    client: Client, recognizer: ScriptedRecognizer, upload: Path
) -> None:
    """Deleting one of two transcripts of an upload does not break the other one."""
    upload_url = await client.upload(upload)
    recognizer.gate.clear()
    second = await client.submit(upload_url)
    silent = await client.submit(upload_url, language_code="en", audio_end_at=900)
    first = await client.finished(silent)
    status, _ = await client.call("DELETE", f"/v2/transcript/{first['id']}")
    recognizer.gate.set()

    assert (status, first["status"]) == (200, "completed")
    assert (await client.finished(second))["status"] == "completed"


# --- exports -----------------------------------------------------------------------------


async def test_exports_of_a_completed_transcript(client: Client, upload: Path) -> None:
    """Captions are text, the rest is JSON of the service's shape."""
    transcript = await client.transcribed(upload)
    path = f"/v2/transcript/{transcript['id']}"
    _, srt = await client.call("GET", f"{path}/srt")
    _, vtt = await client.call("GET", f"{path}/vtt?chars_per_caption=5")
    _, sentences = await client.call("GET", f"{path}/sentences")
    _, paragraphs = await client.call("GET", f"{path}/paragraphs")
    _, found = await client.call("GET", f"{path}/word-search?words=hello,there%20hello,nobody")

    assert srt == (
        "1\n00:00:01,000 --> 00:00:01,900\nHello there.\n\n"
        "2\n00:00:03,000 --> 00:00:03,900\nHello there.\n\n"
    )
    assert vtt.startswith("WEBVTT\n\n00:00:01.000 --> 00:00:01.400\nHello\n\n")
    assert [sentence["text"] for sentence in sentences["sentences"]] == ["Hello there."] * 2
    assert (sentences["id"], sentences["audio_duration"]) == (transcript["id"], 4)
    assert [paragraph["text"] for paragraph in paragraphs["paragraphs"]] == [transcript["text"]]
    assert found == {
        "id": transcript["id"],
        "total_count": 3,
        "matches": [
            {
                "text": "hello",
                "count": 2,
                "timestamps": [[1000, 1400], [3000, 3400]],
                "indexes": [0, 2],
            },
            {"text": "there hello", "count": 1, "timestamps": [[1500, 3400]], "indexes": [1]},
        ],
    }


@pytest.mark.parametrize("export", ["srt", "vtt", "sentences", "paragraphs", "word-search?words=a"])
async def test_exports_wait_for_completion(
    client: Client, recognizer: ScriptedRecognizer, upload: Path, export: str
) -> None:
    """Before completion, after failure and after deletion there is nothing to export: 400."""
    recognizer.gate.clear()
    transcript_id = await client.submit(await client.upload(upload))
    await anyio.to_thread.run_sync(recognizer.started.wait)
    early = await client.call("GET", f"/v2/transcript/{transcript_id}/{export}")
    recognizer.gate.set()
    await client.finished(transcript_id)
    await client.call("DELETE", f"/v2/transcript/{transcript_id}")
    late = await client.call("GET", f"/v2/transcript/{transcript_id}/{export}")
    failed = await client.finished(await client.submit("https://example.org/x"))
    never = await client.call("GET", f"/v2/transcript/{failed['id']}/{export}")

    assert (early[0], late[0], never[0]) == (400, 400, 400)
    assert error(early[1]).startswith(
        "This transcript has a status of 'processing'. Transcripts must have a status of "
        "'completed' before requesting "
    )
    assert "deleted" in error(late[1])
    assert "'error'" in error(never[1])


async def test_exports_that_are_none(client: Client, upload: Path) -> None:
    """Another caption format is a 404 page; bad parameters and redacted audio are a 400."""
    transcript = await client.transcribed(upload)
    path = f"/v2/transcript/{transcript['id']}"
    status, page = await client.call("GET", f"{path}/ass")

    assert (status, "404: Not Found" in page, page[0]) == (404, True, "<")
    for query in ("srt?chars_per_caption=0", "srt?chars_per_caption=x", "word-search"):
        status, _ = await client.call("GET", f"{path}/{query}")
        assert status == 400, query
    status, _ = await client.call("GET", f"{path}/word-search?words=a%20b%20c%20d%20e%20f")
    assert status == 400
    status, body = await client.call("GET", f"{path}/redacted-audio")
    assert status == 400
    assert error(body).startswith("A redacted audio file for this transcript ID doesn't exist.")


async def test_redacted_audio_of_an_unfinished_transcript(
    client: Client, recognizer: ScriptedRecognizer, upload: Path
) -> None:
    """As long as it is being worked on, the service's own sentence says so."""
    recognizer.gate.clear()
    transcript_id = await client.submit(await client.upload(upload))
    status, body = await client.call("GET", f"/v2/transcript/{transcript_id}/redacted-audio")
    recognizer.gate.set()

    assert status == 400
    assert error(body).startswith("Transcription is still in progress.")


# --- starting and stopping ---------------------------------------------------------------


async def test_second_engine_on_a_state_folder_is_refused(
    tmp_path: Path, recognizer: ScriptedRecognizer
) -> None:
    """Two engines would work on the same transcripts: the second says what to do instead."""
    async with engine(tmp_path, recognizer):
        with pytest.raises(EngineUnavailable, match="another engine"):
            async with serve(tmp_path, keys=[KEY], recognizer=recognizer):
                pass
    async with engine(tmp_path, recognizer) as client:
        assert (await client.list())["transcripts"] == []


async def test_port_that_is_taken_is_refused(
    tmp_path: Path, recognizer: ScriptedRecognizer
) -> None:
    """A port in use is an error that names it, and the state folder is let go."""
    async with engine(tmp_path / "a", recognizer) as client:
        port = urlsplit(client.url).port
        with pytest.raises(EngineUnavailable, match=str(port)):
            async with serve(tmp_path / "b", port=port or 0, keys=[KEY], recognizer=recognizer):
                pass
        async with serve(tmp_path / "b", keys=[KEY], recognizer=recognizer) as other:
            assert isinstance(other, Engine)


async def test_state_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, recognizer: ScriptedRecognizer
) -> None:
    """A file in the place of the folder is an error that names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineUnavailable, match="file"):
        async with serve(tmp_path / "file", keys=[KEY], recognizer=recognizer):
            pass


@pytest.mark.parametrize("keys", [[], [""], ["good", ""]])
async def test_engine_without_a_key_is_refused(
    tmp_path: Path, recognizer: ScriptedRecognizer, keys: list[str]
) -> None:
    """An engine that anybody could use does not start."""
    with pytest.raises(ValueError, match="key"):
        async with serve(tmp_path, keys=keys, recognizer=recognizer):
            pass


async def test_error_of_the_caller_comes_out_as_it_is(
    tmp_path: Path, recognizer: ScriptedRecognizer
) -> None:
    """What is raised while the engine runs reaches the caller unwrapped, groups included."""
    mine = ExceptionGroup("mine", [KeyError("a"), ValueError("b")])
    with pytest.raises(ExceptionGroup) as raised:
        async with engine(tmp_path, recognizer):
            raise mine

    assert raised.value is mine


async def test_engine_can_be_cancelled_at_work(
    tmp_path: Path, recognizer: ScriptedRecognizer, upload: Path
) -> None:
    """Cancelling the caller ends the engine soon, and the transcript is there for the next one."""
    recognizer.gate.clear()
    with anyio.fail_after(10):
        with anyio.CancelScope() as scope:
            async with engine(tmp_path, recognizer) as client:
                transcript_id = await client.submit(await client.upload(upload))
                await anyio.to_thread.run_sync(recognizer.started.wait)
                scope.cancel()
                await anyio.sleep_forever()
    recognizer.gate.set()
    async with engine(tmp_path, recognizer) as client:
        assert (await client.finished(transcript_id))["status"] == "completed"
