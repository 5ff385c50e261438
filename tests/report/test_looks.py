"""A look at the results of a run, as they lie on disk."""

import json
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import pytest
from anyio import to_thread

from pipeline.ledger import read_only
from pipeline.report.looks import Looks, Unread, look, place_of
from tests.support.runs import Archive, Outcome, opened, recording
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

HOUR = b"SECONDS:3600\n"


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        yield archive


def said(archive: Archive, name: str, **fields: Any) -> None:
    """Let a result say something else."""
    path = archive.output / f"{name}.json"
    usual = {
        "audio_duration": 3600,
        "text": "word " * 9000,
        "confidence": 0.9,
        "language_code": "en",
    }
    path.write_text(json.dumps(json.loads(path.read_bytes()) | usual | fields))


async def looked(archive: Archive, ended: Outcome, state: Path | None = None) -> Looks:
    """What is seen of the results of a run."""
    run_id, state = ended.summary.run_id, state or archive.state

    def read() -> Looks:
        with closing(read_only(state / "ledger.sqlite3")) as db:
            return look(db, run_id, archive.output, state / "runs" / run_id)

    return await to_thread.run_sync(read)


async def test_what_was_odd_when_it_was_saved_is_told(archive: Archive) -> None:
    """An answer that is not as it should be is looked at all the same, and is suspicious."""
    archive.add("a.wav", HOUR)
    patch = {"audio_duration": "3600", "error": {}, "speech_model_used": []}
    archive.service.faults.add(Fault(on="get", action="patch", times=None, patch=patch))

    looks = await looked(archive, await archive.run())

    assert (looks.looked_at, looks.suspicious, looks.unreadable) == (1, 1, 0)
    assert sorted(looks.suspects[0].odd) == [
        f"`{name}` cannot be read" for name in ("audio_duration", "error", "speech_model_used")
    ]


async def test_what_is_odd_is_told(archive: Archive) -> None:
    """Of all results those are told that are odd, with what they say and where they lie."""
    for name in ("good", "silent", "unsure", "fast"):
        archive.add(f"{name}.wav", HOUR + name.encode())
    ended = await archive.run()
    said(archive, "good.wav")
    said(archive, "silent.wav", text="")
    said(archive, "unsure.wav", confidence=0.3)
    said(archive, "fast.wav", text="word " * 30_000)

    looks = await looked(archive, ended)

    assert (looks.looked_at, looks.suspicious, looks.unreadable) == (4, 3, 0)
    assert {each.recording for each in looks.results} == {
        *("good.wav", "silent.wav", "unsure.wav", "fast.wav")
    }
    odd = {each.recording: each for each in looks.suspects}
    assert odd["silent.wav"].odd == ["no text in 60 min of audio"]
    assert odd["unsure.wav"].odd == ["low confidence: 0.30 in the mean of its words"]
    assert len(odd["fast.wav"].odd) == 1
    assert odd["unsure.wav"].result == "unsure.wav.json"
    assert odd["unsure.wav"].href == "../../../unsure.wav.json"
    assert odd["unsure.wav"].words == 9000
    assert odd["unsure.wav"].audio_duration == 3600


async def test_the_language_that_was_asked_for_is_expected(archive: Archive) -> None:
    """A result in another language than was asked for is odd, however usual it is."""
    archive.add("a.wav", HOUR)
    ended = await archive.run(transcript={"language_code": "de"})
    said(archive, "a.wav", language_code="en")

    looks = await looked(archive, ended)

    assert looks.suspects[0].odd == ["its language is en, not de as was expected"]
    assert looks.usual_language is None


async def test_the_usual_language_is_expected(archive: Archive) -> None:
    """Where nearly all are in one language, the one that is not is odd; where few are, none is."""
    for number in range(21):
        archive.add(f"{number:02}.wav", HOUR + b"%d" % number)
    ended = await archive.run()
    for number in range(21):
        said(archive, f"{number:02}.wav", language_code="fr" if number == 7 else "en_us")

    looks = await looked(archive, ended)

    assert looks.usual_language == "en"
    assert [each.recording for each in looks.suspects] == ["07.wav"]

    for number in range(4):
        said(archive, f"{number:02}.wav", language_code="fr")

    assert (await looked(archive, ended)).suspicious == 0


async def test_what_cannot_be_read_is_named(archive: Archive) -> None:
    """A result that is gone, or no transcript any more, is named with a reason, and the rest goes
    on."""
    for name in ("gone", "torn", "good"):
        archive.add(f"{name}.wav", HOUR + name.encode())
    ended = await archive.run()
    said(archive, "good.wav")
    (archive.output / "gone.wav.json").unlink()
    (archive.output / "torn.wav.json").write_bytes(b'{"status": "comp')

    looks = await looked(archive, ended)

    assert looks.looked_at == 1
    assert looks.unreadable == 2
    assert looks.unread[0] == Unread(
        "gone.wav", "gone.wav.json", "it cannot be read: No such file or directory"
    )
    assert looks.unread[1].reason.startswith("it is not the JSON of a transcript")


def are_files(places: Iterable[bytes]) -> bool:
    return all(map(os.path.isfile, places))


HOSTILE = [
    b"a#b.wav",
    b"what?.wav",
    b"100%25.wav",
    b'say "hello" <b>.wav',
    b"new\nline.wav",
    b"C:\\x.wav",
    b"http:/x.wav",
    b"\xff\xfe.wav",
    "überall 語.wav".encode(),
    b"\xe2\x80\xaegnp.wav",
]


async def test_links_lead_to_files_of_any_name(archive: Archive) -> None:
    """Whatever bytes a name is made of, its link leads to its result."""
    for number, name in enumerate(HOSTILE):
        archive.add(name, HOUR + b"%d" % number)
    ended = await archive.run()

    looks = await looked(archive, ended)

    page = (archive.state / "runs" / ended.summary.run_id / "report.html").as_uri()
    targets = {unquote_to_bytes(urlsplit(urljoin(page, each.href)).path) for each in looks.results}
    assert targets == {os.path.join(os.fsencode(archive.output), n + b".json") for n in HOSTILE}
    assert are_files(targets)


@pytest.mark.parametrize("state", ["below", "beside"])
async def test_so_do_those_to_listen_to(archive: Archive, state: str) -> None:
    """Beside each result is a link to its recording, of whichever folder, and of any name."""
    others = archive.root / "other #1 50%"
    for number, name in enumerate(HOSTILE):
        archive.add(name, HOUR + b"%d" % number)
        recording(os.path.join(os.fsencode(others), b"in/" + name), HOUR + b"o%d" % number)
    given = {"state": archive.root / "state"} if state == "beside" else {}
    ended = await archive.run(archive.recordings, others, **given)

    looks = await looked(archive, ended, given.get("state"))

    run = (given.get("state") or archive.state) / "runs" / ended.summary.run_id
    page = (run / "report.html").as_uri()
    links = [urlsplit(urljoin(page, each.audio_href or "")) for each in looks.results]
    targets = {unquote_to_bytes(link.path) for link in links}
    assert {(link.scheme, link.query, link.fragment) for link in links} == {("file", "", "")}
    assert targets == {
        *(os.path.join(os.fsencode(archive.recordings), name) for name in HOSTILE),
        *(os.path.join(os.fsencode(others), b"in/" + name) for name in HOSTILE),
    }
    assert are_files(targets)


def test_links_are_relative_where_folders_move_together(tmp_path: Path) -> None:
    """A state folder below the results, or beside them, is linked to from where it is."""
    output = tmp_path / "out put"
    for folder in (
        output / ".overnight/runs/r",
        tmp_path / "state/runs/r",
        Path("/nowhere/runs/r"),
    ):
        place = place_of(os.fsencode(output), folder)
        led = urljoin((folder / "report.html").as_uri(), f"{place}x.json")

        assert led == (output / "x.json").as_uri()
        assert place.startswith("file:///") is (folder.parts[1] == "nowhere")
