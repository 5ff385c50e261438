"""Redacted audio, when it is asked for, is saved in the same run as its transcript."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from pipeline.errors import ExitCode
from pipeline.events import Warned
from pipeline.names import version
from pipeline.redaction import put_audio_aside
from tests.support.runs import opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

OPTIONS = {"redact_pii": True, "redact_pii_policies": ["person_name"], "redact_pii_audio": True}
AUDIO = b"\xff\xfb" + bytes(range(256)) * 10_000


@asynccontextmanager
async def storage() -> AsyncIterator[tuple[str, list[str]]]:
    """The other host that a link leads to, and what `Authorization` it was sent."""
    keys: list[str] = []

    async def give(request: web.Request) -> web.Response:
        keys.append(request.headers.get("Authorization", ""))
        return web.Response(body=AUDIO)

    app = web.Application()
    app.router.add_get("/audio", give)
    async with TestServer(app) as server:
        yield str(server.make_url("/audio")), keys


def ready(url: str) -> Fault:
    body = json.dumps({"status": "redacted_audio_ready", "redacted_audio_url": url})
    return Fault(on="export", action="answer", status=200, body=body, times=None)


async def test_it_is_saved_beside_each_result(tmp_path: Path) -> None:
    """Equal recordings each get the audio, and the host that stores it never sees the key."""
    async with opened(tmp_path) as archive, storage() as (url, keys):
        archive.add("a.wav", b"one")
        archive.add("deep/b.wav", b"one")
        archive.service.faults.add(ready(url))

        outcome = await archive.run(transcript=OPTIONS)

    assert outcome.summary.written == 2
    assert (archive.output / "a.wav.redacted.mp3").read_bytes() == AUDIO
    assert (archive.output / "deep" / "b.wav.redacted.mp3").read_bytes() == AUDIO
    assert keys == [""]


@pytest.mark.parametrize("echo", [None, False, "true", [True], {"redact_pii_audio": True}], ids=str)
@pytest.mark.parametrize("quality", [None, "wav"])
async def test_what_was_asked_for_decides(
    tmp_path: Path, echo: object, quality: str | None
) -> None:
    """It is saved where it was asked for, whatever the answer says of it, and called as asked."""
    async with opened(tmp_path) as archive, storage() as (url, _):
        archive.add("a.wav", b"one")
        archive.service.faults.add(ready(url))
        patch = {"redact_pii_audio": echo, "redact_pii_audio_quality": "../x"}
        archive.service.faults.add(Fault(on="get", action="patch", times=None, patch=patch))
        asked = OPTIONS | ({"redact_pii_audio_quality": quality} if quality else {})

        outcome = await archive.run(transcript=asked, delete_remote=True)

    assert (outcome.summary.written, outcome.summary.deleted) == (1, 1)
    assert archive.results().keys() == {"a.wav.json", f"a.wav.redacted.{quality or 'mp3'}"}


async def test_what_was_moved_aside_is_found_again(tmp_path: Path) -> None:
    """A run that died once the audio had left its place, for another result, has lost nothing."""
    async with opened(tmp_path) as archive, storage() as (url, _):
        archive.add("a.wav", b"one")
        archive.service.faults.add(ready(url))
        await archive.run(transcript=OPTIONS, delete_remote=True)
        results = archive.results()
        refused = Fault(on="submit", action="answer", status=400, body='{"error": "no"}')
        archive.service.faults.add(refused)
        await archive.run(transcript=OPTIONS | {"punctuate": False}, redo_changed=True)
        versions = os.fsencode(archive.state / "versions")

        def kept_as(digest: str) -> bytes:
            return os.path.join(versions, version(b"a.wav.json", digest[:12]))

        await put_audio_aside(os.fsencode(archive.output / "a.wav.json"), kept_as, "another")
        assert archive.results().keys() == {"a.wav.json"}
        outcome = await archive.run(transcript=OPTIONS)

    assert (outcome.summary.exit_code, outcome.summary.transcripts) == (ExitCode.DONE, 0)
    assert archive.results() == results


async def test_what_was_not_asked_for_is_not_waited_for(tmp_path: Path) -> None:
    """An answer that speaks of redacted audio that nobody asked for is saved alone."""
    async with opened(tmp_path) as archive:
        archive.add("a.wav", b"one")
        patch = {"redact_pii_audio": True}
        archive.service.faults.add(Fault(on="get", action="patch", times=None, patch=patch))

        outcome = await archive.run()

    assert outcome.summary.written == 1
    assert "redacted_audio" not in outcome.summary.requests


async def test_it_is_waited_for(tmp_path: Path) -> None:
    """While the service still makes it, nothing is written, and nothing is paid again."""
    async with opened(tmp_path) as archive, storage() as (url, _):
        archive.add("a.wav", b"one")
        archive.service.faults.add(Fault(on="export", action="answer", status=202, body="{}"))
        archive.service.faults.add(ready(url))

        outcome = await archive.run(transcript=OPTIONS)

    assert outcome.summary.written == 1
    assert (archive.output / "a.wav.redacted.mp3").read_bytes() == AUDIO
    assert archive.service.requests["submit"] == 1


async def test_where_there_is_none_the_result_is_saved(tmp_path: Path) -> None:
    """A service that has no redacted audio is reported; the transcript is not lost for it."""
    async with opened(tmp_path) as archive:
        archive.add("a.wav", b"one")
        archive.service.faults.add(
            Fault(on="export", action="answer", status=400, body='{"error":"expired"}', times=None)
        )

        outcome = await archive.run(transcript=OPTIONS)

    assert outcome.summary.written == 1
    assert any("no redacted audio" in warned.message for warned in outcome.of(Warned))


async def test_it_is_no_recording(tmp_path: Path) -> None:
    """Where results lie among the recordings, the audio is not transcribed in its turn."""
    async with opened(tmp_path) as archive, storage() as (url, _):
        archive.add("a.wav", b"one")
        archive.service.faults.add(ready(url))
        await archive.run(transcript=OPTIONS, output=archive.recordings)

        again = await archive.run(transcript=OPTIONS, output=archive.recordings)

    assert (again.summary.found, again.summary.already_written) == (1, 1)


async def test_a_recording_may_be_called_redacted(tmp_path: Path) -> None:
    """A recording that was redacted before it came here is transcribed like any other."""
    async with opened(tmp_path) as archive:
        archive.add("call.redacted.wav", b"one")

        outcome = await archive.run()

    assert (outcome.summary.found, outcome.summary.written) == (1, 1)


async def test_an_address_that_no_audio_can_be_at_costs_no_result(tmp_path: Path) -> None:
    """A link that is refused is told, and the transcript is saved without its audio."""
    async with opened(tmp_path) as archive:
        archive.add("a.wav", b"one")
        archive.service.faults.add(ready("http://["))

        outcome = await archive.run(transcript=OPTIONS)

    assert outcome.summary.written == 1
    assert any("no redacted audio" in warned.message for warned in outcome.of(Warned))


async def test_a_result_whose_audio_is_gone_everywhere_is_not_missing(tmp_path: Path) -> None:
    """An id that stays unknown costs a twin its audio; the transcript that lies here it gets."""
    async with opened(tmp_path) as archive, storage() as (url, _):
        archive.add("a.wav", b"one")
        archive.service.faults.add(ready(url))
        await archive.run(transcript=OPTIONS)
        (archive.output / "a.wav.redacted.mp3").unlink()
        archive.add("twin.wav", b"one")
        archive.service.faults.add(Fault(on="get", action="unknown_id", times=None))

        first = await archive.run(transcript=OPTIONS)
        second = await archive.run(transcript=OPTIONS, ahead_s=7200.0)

    assert (first.summary.parked, second.summary.written) == (1, 1)
    assert any("without its redacted audio" in warned.message for warned in second.of(Warned))
    assert archive.results()["twin.wav.json"] == archive.results()["a.wav.json"]
    accepted = "SELECT outcome, unknown_at FROM attempts WHERE state = 'accepted'"
    assert await archive.rows(accepted) == [("completed", None)]


async def test_an_odd_answer_is_kept_at_the_service_though_the_one_before_was_not(
    tmp_path: Path,
) -> None:
    """What comes with the audio is what is saved: if that is odd, the copy is not deleted."""
    async with opened(tmp_path) as archive, storage() as (url, _):
        archive.add("a.wav", b"one")
        archive.service.faults.add(Fault(on="export", action="answer", status=202, body="{}"))
        archive.service.faults.add(ready(url))
        patch, requests = {"audio_duration": "long"}, archive.service.requests
        archive.service.faults.add(
            Fault(
                on="get",
                action="patch",
                times=None,
                patch=patch,
                match=lambda _: requests["export"] > 0,
            )
        )

        outcome = await archive.run(transcript=OPTIONS, delete_remote=True)

    assert (outcome.summary.written, outcome.summary.deleted) == (1, 0)
    assert await archive.rows("SELECT odd IS NULL, deletion FROM attempts") == [(0, None)]
