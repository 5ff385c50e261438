"""Sending the bytes: what was hashed is what was sent, and one bad recording is one failure."""

import os
from collections.abc import AsyncIterator
from functools import partial
from hashlib import sha256
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from pipeline.errors import ExitCode, RecordingChanged, RecordingUnreadable
from pipeline.events import Failed, Skipped, Uploaded
from pipeline.stages.upload import Source
from tests.support.runs import Archive, opened, recording
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

CONTENT = bytes(range(256)) * 1024


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        yield archive


@pytest.fixture
def place(tmp_path: Path) -> Path:
    recording(tmp_path / "a.wav", CONTENT)
    return tmp_path / "a.wav"


async def read(source: Source, chunk_bytes: int = 10_000) -> bytes:
    return b"".join([chunk async for chunk in source.chunks(chunk_bytes)])


# --- a source ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_bytes", [1000, 65_536, 262_144, 1 << 20])
async def test_what_is_read_is_what_is_hashed(place: Path, chunk_bytes: int) -> None:
    """The chunks are the recording, none is larger than asked for, and the hash is theirs."""
    async with await Source.open(os.fsencode(place)) as source:
        chunks = [chunk async for chunk in source.chunks(chunk_bytes)]
        found = await source.reading()

    assert b"".join(chunks) == CONTENT
    assert max(map(len, chunks)) <= chunk_bytes
    assert found.content == sha256(CONTENT).hexdigest()
    assert found.size == len(CONTENT)
    edge = 64 * 1024
    assert found.edges == sha256(CONTENT[:edge] + CONTENT[-edge:]).hexdigest()


async def test_reading_twice_hashes_once(place: Path) -> None:
    """A second attempt begins at the first byte, with a hash of its own."""
    async with await Source.open(os.fsencode(place)) as source:
        async for _ in source.chunks(1000):
            break
        assert await read(source) == CONTENT
        found = await source.reading()

    assert found.content == sha256(CONTENT).hexdigest()


async def test_a_recording_that_grows_is_not_taken(place: Path) -> None:
    """What is being written to while it is read is not what was opened."""
    async with await Source.open(os.fsencode(place)) as source:
        chunks = source.chunks(1000)
        await anext(chunks)
        await to_thread.run_sync(_append, place)
        rest = [chunk async for chunk in chunks]

        assert sum(map(len, rest)) + 1000 == len(CONTENT)
        with pytest.raises(RecordingChanged, match="changed while"):
            await source.reading()


def _append(place: Path) -> None:
    with place.open("ab") as file:
        file.write(b"more")


async def test_a_recording_that_shrinks_ends(place: Path) -> None:
    """A recording that becomes shorter ends the reading, and is told so."""
    async with await Source.open(os.fsencode(place)) as source:
        chunks = source.chunks(1000)
        await anext(chunks)
        await to_thread.run_sync(os.truncate, place, 1500)

        with pytest.raises(RecordingChanged, match="shorter"):
            async for _ in chunks:
                pass


async def test_a_recording_that_is_replaced_is_not_taken(place: Path) -> None:
    """A file that was swapped for another of the same size and time is another recording."""
    other = place.with_name("b.wav")
    recording(other, CONTENT[::-1])
    found = os.stat(place)
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    async with await Source.open(os.fsencode(place)) as source:
        await read(source)
        await to_thread.run_sync(os.replace, other, place)

        with pytest.raises(RecordingChanged):
            await source.reading()


async def test_a_recording_that_is_overwritten_is_not_taken(place: Path) -> None:
    """Other bytes of the same number in the same file are told by the time of the change."""
    async with await Source.open(os.fsencode(place)) as source:
        await read(source)
        await to_thread.run_sync(place.write_bytes, CONTENT[::-1])

        with pytest.raises(RecordingChanged, match="changed while"):
            await source.reading()


async def test_what_became_no_file_is_not_opened(tmp_path: Path) -> None:
    """A FIFO, a link or nothing where a recording was found: told at once, without waiting."""
    os.mkfifo(tmp_path / "fifo.wav")
    os.symlink("/etc/hostname", tmp_path / "link.wav")
    for name in ("fifo.wav", "link.wav", "gone.wav"):
        with anyio.fail_after(5), pytest.raises(RecordingUnreadable):
            await Source.open(os.fsencode(tmp_path / name))


async def test_links_are_read_when_asked_for(tmp_path: Path, place: Path) -> None:
    """With `--follow-links` a link is its target."""
    os.symlink(place, tmp_path / "link.wav")
    async with await Source.open(os.fsencode(tmp_path / "link.wav"), follow_links=True) as source:
        assert await read(source) == CONTENT


async def test_a_recording_that_became_empty_is_not_sent(tmp_path: Path) -> None:
    """Empty by the time it is opened: skipped, since the service would refuse it."""
    recording(tmp_path / "a.wav", b"")

    with pytest.raises(RecordingChanged, match="empty"):
        await Source.open(os.fsencode(tmp_path / "a.wav"))


# --- in a run ----------------------------------------------------------------------------------


async def test_the_service_gets_the_bytes(archive: Archive) -> None:
    """What arrives is the recording, under the hash that is told."""
    archive.add("a.wav", CONTENT)

    outcome = await archive.run()

    (uploaded,) = outcome.of(Uploaded)
    assert uploaded.content == sha256(CONTENT).hexdigest()
    assert uploaded.size == len(CONTENT)
    assert archive.service.billable == {uploaded.content: 1}


async def test_vanishing_before_the_upload(archive: Archive) -> None:
    """A recording that is gone between scan and upload fails with its reason; the others go on."""
    for name in ("a.wav", "b.wav", "c.wav"):
        archive.add(name, name.encode())
    archive.service.faults.add(Fault(on="upload", action="hold_before", times=1))

    async with anyio.create_task_group() as group:

        async def take_away() -> None:
            await archive.service.held("upload")
            await to_thread.run_sync(os.unlink, archive.recordings / "c.wav")
            archive.service.release()

        group.start_soon(take_away)
        outcome = await archive.run(uploads=1)

    (failed,) = outcome.of(Failed)
    assert failed.recording == "c.wav"
    assert "No such file" in failed.reason
    assert outcome.summary.written == 2
    assert outcome.summary.exit_code == ExitCode.PARTIAL


async def test_changing_during_the_upload(archive: Archive) -> None:
    """A recording that changes while it is sent is skipped, not paid for; the next run takes it."""
    archive.add("a.wav", CONTENT)
    archive.service.faults.add(Fault(on="upload", action="hold"))

    async with anyio.create_task_group() as group:

        async def change() -> None:
            await archive.service.held("upload")
            await to_thread.run_sync(_append, archive.recordings / "a.wav")
            archive.service.release()

        group.start_soon(change)
        outcome = await archive.run(upload_chunk="64KiB")

    (skipped,) = outcome.of(Skipped)
    assert "changed while" in skipped.reason
    assert archive.service.requests["submit"] == 0
    assert outcome.summary.skipped == 1
    assert outcome.summary.exit_code == ExitCode.DONE
    await to_thread.run_sync(partial(archive.add, "a.wav", CONTENT + b"more"))
    assert (await archive.run()).summary.written == 1


async def test_a_young_one_that_changes_during_the_upload(archive: Archive) -> None:
    """A recording that was read at once, but is still being written, is not paid for either."""
    archive.add("a.wav", CONTENT)
    await to_thread.run_sync(os.utime, archive.recordings / "a.wav")
    archive.service.faults.add(Fault(on="upload", action="hold"))

    async with anyio.create_task_group() as group:

        async def change() -> None:
            await archive.service.held("upload")
            await to_thread.run_sync(_append, archive.recordings / "a.wav")
            archive.service.release()

        group.start_soon(change)
        outcome = await archive.run()

    assert outcome.summary.skipped == 1
    assert archive.service.requests["submit"] == 0


async def test_one_that_fits_a_chunk_is_opened_once_and_read_anew(place: Path) -> None:
    """It comes whole, hashed, and once more for a second attempt: as it is then, or not at all."""
    async with await Source.open(os.fsencode(place), chunk_bytes=len(CONTENT)) as source:
        assert await source.body() == CONTENT
        assert (await source.reading()).content == sha256(CONTENT).hexdigest()
        assert await source.body() == CONTENT
        edge = 64 * 1024
        assert source.edges == sha256(CONTENT[:edge] + CONTENT[-edge:]).hexdigest()

        await to_thread.run_sync(_append, place)
        with pytest.raises(RecordingChanged, match="changed while"):
            await source.body()
        await to_thread.run_sync(os.truncate, place, 1500)
        with pytest.raises(RecordingChanged, match="shorter"):
            await source.body()


async def test_a_larger_one_comes_in_chunks(place: Path) -> None:
    """One byte more than a chunk is two chunks, and the first attempt is none of the second."""
    async with await Source.open(os.fsencode(place), chunk_bytes=len(CONTENT) - 1) as source:
        for _ in range(2):
            body = await source.body()
            assert not isinstance(body, bytes)
            assert [len(chunk) async for chunk in body] == [len(CONTENT) - 1, 1]
        assert (await source.reading()).content == sha256(CONTENT).hexdigest()


UPLOAD_FAULTS = [
    Fault(on="upload", action="drop_before"),
    Fault(on="upload", action="drop_after"),
    Fault(on="upload", action="truncate"),
    Fault(on="upload", action="garbage"),
    Fault(on="upload", action="answer", status=503),
    Fault(on="upload", action="answer", status=422, body="Upload failed, please try again."),
    Fault(on="upload", action="answer", status=429, headers={"Retry-After": "0"}),
]


@pytest.mark.parametrize("fault", UPLOAD_FAULTS, ids=lambda f: f"{f.action}-{f.status}")
async def test_an_upload_is_free_to_repeat(archive: Archive, fault: Fault) -> None:
    """An upload that went wrong is made again at once, whatever went wrong, and paid once."""
    archive.add("a.wav", CONTENT)
    fault.met = 0
    archive.service.faults.add(fault)

    outcome = await archive.run()

    assert outcome.summary.written == 1
    assert archive.service.requests["upload"] == 2
    assert set(archive.service.billable.values()) == {1}


async def test_an_upload_url_that_was_handed_out_before(archive: Archive) -> None:
    """Two uploads with one `upload_url`: the second is made again, and no result is mixed up."""
    archive.add("a.wav", b"one")
    archive.add("b.wav", b"two")
    archive.service.faults.add(Fault(on="upload", action="reuse_upload_url", skip=1))

    outcome = await archive.run(uploads=1)

    assert outcome.summary.written == 2
    assert archive.service.requests["upload"] == 3
    urls = [call.audio_url for call in archive.service.log if call.kind == "submit"]
    assert len(set(urls)) == 2


async def test_bytes_that_the_service_refuses(archive: Archive) -> None:
    """A recording that the service will never take fails once: the next run does not send it."""
    archive.add("a.wav", CONTENT)
    archive.service.upload_limit_bytes = 1000

    first = await archive.run()
    sent = archive.service.requests["upload"]
    second = await archive.run()

    assert first.summary.failed == second.summary.failed == 1
    assert "413" in next(iter(first.summary.reasons["failed"]))
    assert archive.service.requests["upload"] == sent


async def test_an_upload_that_stalls_is_given_up(archive: Archive) -> None:
    """A service that takes no more bytes costs `stall` seconds, not the night."""
    archive.add("a.wav", bytes(64 << 20))
    archive.service.faults.add(Fault(on="upload", action="stall"))

    outcome = await archive.run(timeouts={"stall": "500ms", "connect": "500ms"})

    assert outcome.summary.written == 1
    assert archive.service.requests["upload"] == 2


async def test_uploads_reuse_their_connection(archive: Archive) -> None:
    """A body of counted length leaves the connection usable: many uploads, few connections."""
    for number in range(12):
        archive.add(f"{number:02}.wav", b"%d" % number)

    await archive.run(uploads=1)

    peers = {call.peer for call in archive.service.log if call.kind == "upload"}
    assert len(peers) <= 4
