"""The state folder: whole uploads, transcripts in order, nothing kept longer than said."""

import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from pipeline.engine import EngineUnavailable, store
from pipeline.engine.store import Status, Store, UploadEmpty, UploadTooLarge

pytestmark = pytest.mark.anyio


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await anyio.to_thread.run_sync(Store, tmp_path)
    yield opened
    await opened.close()


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def received(kept: Store, content: bytes = b"content") -> tuple[str, Path]:
    """URL and path of a new upload."""
    url = await kept.receive(chunks(content))
    path = kept.upload_path(url)
    assert path is not None
    return url, path


def files(folder: Path) -> Iterator[str]:
    return (path.name for path in (folder / "uploads").iterdir())


async def test_upload_holds_what_came(kept: Store) -> None:
    """Bytes are kept as they came, also those of several megabytes in odd pieces."""
    pieces = [bytes([n]) * (n * 9973) for n in range(200)]
    url = await kept.receive(chunks(*pieces))
    path = kept.upload_path(url)

    assert path is not None
    assert await anyio.Path(path).read_bytes() == b"".join(pieces)


async def test_upload_without_bytes_leaves_nothing(kept: Store, tmp_path: Path) -> None:
    """An empty upload is refused, and no file stays."""
    with pytest.raises(UploadEmpty):
        await kept.receive(chunks(b"", b""))

    assert list(files(tmp_path)) == []


async def test_upload_over_the_limit_leaves_nothing(kept: Store, tmp_path: Path) -> None:
    """An upload that turns out too large while it comes in is refused, and no file stays."""

    class Endless(bytes):
        def __len__(self) -> int:
            return store.UPLOAD_MAX_BYTES // 2

    with pytest.raises(UploadTooLarge):
        await kept.receive(chunks(Endless(b"x"), Endless(b"x"), Endless(b"x")))

    assert list(files(tmp_path)) == []


async def test_upload_broken_off_leaves_nothing(kept: Store, tmp_path: Path) -> None:
    """An upload whose sender fails, or is given up, leaves no file."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 3_000_000
        raise ConnectionResetError

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 100_000
            await anyio.lowlevel.checkpoint()

    with pytest.raises(ConnectionResetError):
        await kept.receive(broken())
    with anyio.move_on_after(0.05):
        await kept.receive(endless())

    assert list(files(tmp_path)) == []


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a",
        "https://engine.invalid/upload/../engine.sqlite3",
        "https://engine.invalid/upload/",
        "https://engine.invalid/upload/" + "a" * 32 + "/x",
        "https://engine.invalid/upload/" + "A" * 32,
    ],
)
async def test_only_our_upload_urls_name_files(kept: Store, url: str) -> None:
    """No other URL leads to a file, whatever path it holds."""
    assert kept.upload_path(url) is None


async def test_transcripts_survive_a_new_start(tmp_path: Path) -> None:
    """What was claimed and not finished is queued again, in its old place."""
    first = await anyio.to_thread.run_sync(Store, tmp_path)
    created = [await first.create(f"https://example.org/{n}", {"punctuate": n}) for n in range(3)]
    claimed = await first.claim()
    await first.close()
    second = await anyio.to_thread.run_sync(Store, tmp_path)
    again = [await second.claim() for _ in range(4)]
    await second.close()

    assert claimed is not None
    assert claimed.id == created[0].id
    assert [row.id if row else None for row in again] == [*(row.id for row in created), None]
    assert [row.options if row else None for row in again][2] == {"punctuate": 2}


async def test_part_of_an_upload_is_removed_by_the_next_start(tmp_path: Path) -> None:
    """What a killed engine had received of an upload does not stay."""
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "0.part").write_bytes(b"x")
    opened = await anyio.to_thread.run_sync(Store, tmp_path)
    await opened.close()

    assert list(files(tmp_path)) == []


async def test_refused_engine_touches_nothing(kept: Store, tmp_path: Path) -> None:
    """A second engine is refused before it changes what the first one is working with."""
    row = await kept.create("https://example.org", {})
    await kept.claim()
    (tmp_path / "uploads" / "1.part").write_bytes(b"x")
    with pytest.raises(EngineUnavailable, match="another engine"):
        await anyio.to_thread.run_sync(Store, tmp_path)
    found = await kept.find(row.id)

    assert list(files(tmp_path)) == ["1.part"]
    assert found is not None
    assert found.status == "processing"


async def test_state_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    """What this program does not know it does not write to."""
    with closing(sqlite3.connect(tmp_path / "engine.sqlite3")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(EngineUnavailable, match="newer program"):
        await anyio.to_thread.run_sync(Store, tmp_path)


async def test_state_is_its_owners_only(tmp_path: Path) -> None:
    """The folder of transcripts and recordings cannot be read by others."""
    opened = await anyio.to_thread.run_sync(Store, tmp_path / "new" / "state")
    await opened.close()

    assert (tmp_path / "new" / "state").stat().st_mode & 0o777 == 0o700


async def test_damaged_state_is_refused(tmp_path: Path) -> None:
    """A database that is none is an error that names the folder, not a crash."""
    (tmp_path / "engine.sqlite3").write_bytes(b"not a database" * 1000)
    with pytest.raises(EngineUnavailable, match="not a database"):
        await anyio.to_thread.run_sync(Store, tmp_path)


async def test_order_is_that_of_creation_though_clocks_tie(kept: Store) -> None:
    """Pages follow the order of creation, not of times that may be equal."""
    created = [(await kept.create("https://example.org", {})).id for _ in range(50)]
    found: list[str] = []
    page = await kept.page(7)
    found += [row.id for row in page.rows]
    while page.has_older:
        page = await kept.page(7, before=page.rows[-1].sequence)
        found += [row.id for row in page.rows]

    assert found == created[::-1]


async def test_page_after_a_transcript_holds_its_neighbours(kept: Store) -> None:
    """The newer page is the one that joins, not the newest of all."""
    created = [await kept.create("https://example.org", {}) for _ in range(6)]
    page = await kept.page(2, after=created[1].sequence)

    assert [row.id for row in page.rows] == [created[3].id, created[2].id]
    assert (page.has_older, page.has_newer) == (True, True)


async def aged(path: Path, hours: float) -> None:
    past = (datetime.now(UTC) - timedelta(hours=hours)).timestamp()
    await anyio.to_thread.run_sync(os.utime, path, (past, past))


@pytest.mark.parametrize("status", ["completed", "error"])
async def test_upload_goes_with_its_transcript(kept: Store, status: Status) -> None:
    """Once a transcript is completed or failed, nothing is kept of what it was made from."""
    url, path = await received(kept)
    _, other = await received(kept)
    row = await kept.create(url, {})
    await kept.claim()
    was_there = path.exists()
    await kept.finish(row.id, status, "{}")

    assert (was_there, path.exists(), other.exists()) == (True, False, True)


@pytest.mark.parametrize("is_claimed", [False, True])
@pytest.mark.parametrize("is_scrubbed", [False, True])
async def test_upload_goes_with_its_last_transcript(
    kept: Store, is_claimed: bool, is_scrubbed: bool
) -> None:
    """Queued or at work, a transcript keeps its upload, also from a delete of another one."""
    url, path = await received(kept)
    first, second = await kept.create(url, {}), await kept.create(url, {})
    await kept.claim()
    if is_claimed:
        await kept.claim()
    await kept.finish(first.id, "completed", "{}")
    if is_scrubbed:
        await kept.scrub(first.id, "{}")
    await kept.sweep()
    was_there = path.exists()
    await kept.finish(second.id, "completed", "{}")

    assert (was_there, path.exists()) == (True, False)


async def test_upload_outlives_its_engine(tmp_path: Path) -> None:
    """What the next engine has to work on again keeps its upload until it is done there."""
    first = await anyio.to_thread.run_sync(Store, tmp_path)
    url, path = await received(first)
    row = await first.create(url, {})
    await first.claim()
    await first.close()
    await aged(path, hours=100)
    second = await anyio.to_thread.run_sync(Store, tmp_path)
    await second.sweep()
    was_there = path.exists()
    await second.finish(row.id, "error", "{}")
    await second.close()

    assert (was_there, path.exists()) == (True, False)


async def test_sweep_removes_uploads_that_nothing_needs(kept: Store) -> None:
    """
    What an engine left that was killed, or that is older than this rule, goes at once if its
    transcripts are final; what nobody asked a transcript of goes after a day.
    """
    _, unused = await received(kept)
    _, fresh = await received(kept)
    queued_url, queued = await received(kept)
    done_url, done = await received(kept)
    await kept.create(queued_url, {})
    row = await kept.create(done_url, {})
    await kept.finish(row.id, "completed", "{}")
    done.write_bytes(b"content")
    for path in (unused, queued):
        await aged(path, hours=25)
    await kept.sweep()

    assert [path.exists() for path in (unused, fresh, queued, done)] == [False, True, True, False]


async def test_upload_that_cannot_be_removed_ends_nothing(kept: Store) -> None:
    """The answer is kept and the other uploads go, whatever the disk says to one of them."""
    urls = [await received(kept) for _ in range(3)]
    rows = [await kept.create(url, {}) for url, _ in urls]
    stuck = urls[1][1]
    stuck.unlink()
    (stuck / "held").mkdir(parents=True)
    for row in rows:
        await kept.finish(row.id, "completed", "{}")
    for _, path in (urls[0], urls[2]):
        path.write_bytes(b"content")
    await kept.sweep()
    found = await kept.find(rows[1].id)

    assert found is not None
    assert found.status == "completed"
    assert [path.exists() for _, path in urls] == [False, True, False]
