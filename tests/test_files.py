"""Files are whole or absent, and work on them that has begun is finished."""

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from anyio import to_thread

from pipeline.files import (
    copy_whole,
    in_thread,
    keep_standing,
    put_in_place,
    put_whole,
    remove,
)

pytestmark = pytest.mark.anyio

OTHER = "0" * 64
"""The sha256 of something else."""


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A file that is whole and has its temporary name yet."""
    fresh = tmp_path / ".call.wav.json~overnight"
    fresh.write_bytes(b'{"id": "new"}')
    return fresh


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the result is to be, with an older one there."""
    place = tmp_path / "call.wav.json"
    place.write_bytes(b'{"id": "old"}')
    return place


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than that of `tmp_path`, to which no file can be linked."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this system has no second file system that anyone may write to")
    with TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def content(path: Path) -> bytes:
    return path.read_bytes()


def names(folder: Path) -> list[str]:
    return os.listdir(folder)


def inode(path: Path) -> int:
    return path.stat().st_ino


# --- put in place ---------------------------------------------------------------------------------


async def test_a_file_takes_its_place_whole(tmp_path: Path, fresh: Path) -> None:
    """The very file that was written appears under its name, and nothing temporary stays."""
    place = tmp_path / "call.wav.json"
    written = inode(fresh)

    await put_in_place(bytes(fresh), bytes(place))

    assert content(place) == b'{"id": "new"}'
    assert inode(place) == written
    assert names(tmp_path) == ["call.wav.json"]


async def test_an_older_file_is_replaced_at_once(fresh: Path, place: Path) -> None:
    """Who has the old file open still reads the old one whole: it is replaced, not written to."""
    with place.open("rb") as old:
        await put_in_place(bytes(fresh), bytes(place))

        assert old.read() == b'{"id": "old"}'
    assert content(place) == b'{"id": "new"}'


async def test_what_is_not_there_replaces_nothing(tmp_path: Path, place: Path) -> None:
    """Without a new file the old one stays, and the error says so."""
    with pytest.raises(FileNotFoundError):
        await put_in_place(bytes(tmp_path / "none"), bytes(place))

    assert content(place) == b'{"id": "old"}'


async def test_a_place_that_cannot_be_taken_leaves_the_file(tmp_path: Path, fresh: Path) -> None:
    """Where a folder is in the way the error comes out, and what was written is not lost."""
    in_the_way = tmp_path / "call.wav.json"
    in_the_way.mkdir()

    with pytest.raises(IsADirectoryError):
        await put_in_place(bytes(fresh), bytes(in_the_way))

    assert content(fresh) == b'{"id": "new"}'


async def test_names_need_not_be_text(tmp_path: Path, fresh: Path) -> None:
    """A name of bytes that are no text is kept byte for byte."""
    place = bytes(tmp_path) + b"/caf\xe9.wav.json"
    try:
        os.stat(place)
    except OSError as error:
        if error.errno == errno.EILSEQ:
            pytest.skip("this file system takes only names that are text")

    await put_in_place(bytes(fresh), place)

    assert os.listdir(bytes(tmp_path)) == [b"caf\xe9.wav.json"]


# --- versions -------------------------------------------------------------------------------------


async def test_a_version_is_the_same_file(tmp_path: Path, place: Path) -> None:
    """The older result gets a second name, in a folder made for it, and keeps its first."""
    kept = tmp_path / "versions" / "a" / "call.wav~01.json"

    await keep_standing(bytes(place), OTHER, lambda _: bytes(kept))

    assert kept.samefile(place)


async def test_a_version_stays_when_its_place_is_taken(
    tmp_path: Path, place: Path, fresh: Path
) -> None:
    """After the replacement the old bytes are under the version's name, the new at the place."""
    kept = tmp_path / "versions" / "call.wav~01.json"

    await keep_standing(bytes(place), OTHER, lambda _: bytes(kept))
    await put_in_place(bytes(fresh), bytes(place))

    assert content(kept) == b'{"id": "old"}'
    assert content(place) == b'{"id": "new"}'


async def test_a_version_is_kept_once(tmp_path: Path, place: Path) -> None:
    """Kept again, as after a crash, the version is what it was."""
    kept = tmp_path / "call.wav~01.json"
    for _ in range(2):
        await keep_standing(bytes(place), OTHER, lambda _: bytes(kept))

    assert kept.samefile(place)


async def test_a_result_that_is_gone_has_no_version(tmp_path: Path) -> None:
    """Where there is nothing to keep, nothing is kept, and that is no error."""
    kept = bytes(tmp_path / "v" / "gone~01.json")

    assert not await keep_standing(bytes(tmp_path / "gone.json"), OTHER, lambda _: kept)

    assert names(tmp_path) == []


async def test_what_is_the_same_is_not_kept(tmp_path: Path, place: Path) -> None:
    """A result that is to be replaced by itself gets no version; another one gets its own name."""
    digest = hashlib.sha256(content(place)).hexdigest()
    asked: list[str] = []

    def kept_as(standing: str) -> bytes:
        asked.append(standing)
        return bytes(tmp_path / "versions" / f"{standing}.json")

    assert not await keep_standing(bytes(place), digest, kept_as)
    assert await keep_standing(bytes(place), OTHER, kept_as)

    assert asked == [digest]


async def test_a_version_on_another_disk_is_a_copy(place: Path, elsewhere: Path) -> None:
    """Where no second name can be given the bytes are copied, whole, with nothing left over."""
    kept = elsewhere / "call.wav~01.json"

    await keep_standing(bytes(place), OTHER, lambda _: bytes(kept))

    assert content(kept) == b'{"id": "old"}'
    assert names(elsewhere) == [kept.name]
    assert names(place.parent) == [place.name]


async def test_a_version_that_cannot_be_kept_is_an_error(tmp_path: Path, place: Path) -> None:
    """When the old result cannot be kept, the caller hears of it before it replaces anything."""
    (tmp_path / "versions").write_bytes(b"a file where the folder should be")

    kept = bytes(tmp_path / "versions" / "call.wav~01.json")
    with pytest.raises(OSError):
        await keep_standing(bytes(place), OTHER, lambda _: kept)

    assert content(place) == b'{"id": "old"}'


# --- the rest -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (5 << 20) + 7])
async def test_a_copy_is_whole_and_known(tmp_path: Path, size: int) -> None:
    """A copy has every byte, and comes with the size and sha256 of what is now on disk."""
    copied = os.urandom(size)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(copied)
    target.write_bytes(b"what was there before, longer or shorter")

    digest = await copy_whole(bytes(source), bytes(target))

    assert content(target) == copied
    assert digest == (hashlib.sha256(copied).hexdigest(), size)


async def test_a_copy_of_nothing_is_an_error(tmp_path: Path) -> None:
    """A source that vanished is an error, not an empty copy."""
    with pytest.raises(FileNotFoundError):
        await copy_whole(bytes(tmp_path / "gone"), bytes(tmp_path / "target"))

    assert not (tmp_path / "target").exists()


async def test_folders_are_made_as_needed(tmp_path: Path) -> None:
    """All folders above a file are made, and those that are there do no harm."""
    where = tmp_path / "2026" / "11" / "call.wav.json"
    for body in (b"one", b"two"):
        await put_whole(body, bytes(where.with_name(".fresh")), bytes(where), OTHER)

    assert content(where) == b"two"
    assert names(where.parent) == [where.name]


async def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """Where a file is in the way of a folder the error comes out."""
    (tmp_path / "2026").write_bytes(b"")

    with pytest.raises(OSError):
        await copy_whole(__file__.encode(), bytes(tmp_path / "2026" / "11" / "call.wav.json"))


async def test_what_is_gone_need_not_be_removed(place: Path) -> None:
    """A file is removed if it is there; one that is not is no error."""
    for _ in range(2):
        await remove(bytes(place))

    assert names(place.parent) == []


async def test_only_files_are_removed(tmp_path: Path) -> None:
    """A folder is never taken for a file to remove."""
    folder = tmp_path / "folder"
    folder.mkdir()

    with pytest.raises(OSError):
        await remove(bytes(folder))

    assert folder.is_dir()


# --- the hop to a thread --------------------------------------------------------------------------


async def test_a_hop_is_finished_when_cancelled() -> None:
    """What has begun in a thread is done before the cancelled caller goes on."""
    order: list[str] = []
    begun, may_end = threading.Event(), threading.Event()

    @in_thread
    def rename() -> None:
        begun.set()
        assert may_end.wait(10)
        order.append("renamed")

    async with anyio.create_task_group() as group:
        group.start_soon(rename)
        await to_thread.run_sync(begun.wait, 10)
        group.cancel_scope.cancel()
        may_end.set()
    order.append("stopped")

    assert order == ["renamed", "stopped"]


async def test_a_hop_that_has_not_begun_is_dropped() -> None:
    """A caller that is cancelled already begins nothing."""
    done: list[str] = []
    append: Callable[[str], Any] = in_thread(done.append)

    with anyio.CancelScope() as scope:
        scope.cancel()
        await append("renamed")

    assert scope.cancelled_caught
    assert done == []


async def test_no_more_than_16_hops_at_once() -> None:
    """However many files wait, the threads that work on them are few."""
    counting, sixteen = threading.Lock(), threading.Event()
    now = most = 0

    @in_thread
    def work() -> None:
        nonlocal now, most
        with counting:
            now += 1
            most = max(most, now)
            if now == 16:
                sixteen.set()
        assert sixteen.wait(10)
        with counting:
            now -= 1

    async with anyio.create_task_group() as group:
        for _ in range(48):
            group.start_soon(work)

    assert most == 16
