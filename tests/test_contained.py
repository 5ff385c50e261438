"""Nothing is written, made or read through what somebody planted where files of ours go."""

import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from pipeline.engine import stored_key
from pipeline.engine.store import Store as EngineStore
from pipeline.errors import ExitCode, LedgerUnusable, SettingsError
from pipeline.events import Warned
from pipeline.files import copy_whole, made, regular, sha256_of
from pipeline.ledger import copy_of
from pipeline.ledger.lock import lock
from pipeline.ledger.store import Store, read_only
from pipeline.progress import EventFile
from pipeline.webhooks import stored_secret
from tests.support.runs import Archive, opened

pytestmark = pytest.mark.anyio

PRECIOUS = b"not ours"


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        archive.add("call.wav", b"SECONDS:90\none")
        yield archive


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file that is none of ours."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/precious").write_bytes(PRECIOUS)
    return tmp_path / "outside/precious"


def link(place: Path, outside: Path) -> None:
    place.symlink_to(outside)


def dangling(place: Path, outside: Path) -> None:
    place.symlink_to(outside.with_name("not-there"))


def relative(place: Path, outside: Path) -> None:
    place.symlink_to(os.path.relpath(outside, place.parent))


def pipe(place: Path, _: Path) -> None:
    os.mkfifo(place)


def plug(place: Path, _: Path) -> None:
    os.mknod(place, stat.S_IFSOCK | 0o600)


def folder(place: Path, _: Path) -> None:
    place.mkdir()


LINKS = [link, dangling, relative]
PLANTED = [*LINKS, pipe, plug, folder]

plants = pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
links = pytest.mark.parametrize("plant", LINKS, ids=lambda plant: plant.__name__)
Plant = Callable[[Path, Path], None]


def untouched(outside: Path) -> bool:
    """Whether what is outside is as it was."""
    return outside.read_bytes() == PRECIOUS and list(outside.parent.iterdir()) == [outside]


# --- beside the results ---------------------------------------------------------------------------


@links
@pytest.mark.parametrize("suffix", ["txt", "srt", "vtt", "md", "tsv"])
async def test_a_temporary_name_is_written_anew(
    archive: Archive, outside: Path, plant: Plant, suffix: str
) -> None:
    """Where a link has the name that a file has until it is whole, the link goes."""
    archive.output.mkdir()
    plant(archive.output / f".call.wav.{suffix}~overnight", outside)

    outcome = await archive.run(formats=["json", suffix])

    assert outcome.summary.written == 1
    assert sorted(archive.results()) == sorted(["call.wav.json", f"call.wav.{suffix}"])
    assert untouched(outside)


@links
async def test_a_link_in_the_place_of_a_result_is_kept_as_a_link(
    archive: Archive, outside: Path, plant: Plant
) -> None:
    """What a link leads to is neither read, nor copied, nor changed: the result takes its place."""
    archive.output.mkdir()
    for suffix in ("json", "srt"):
        plant(archive.output / f"call.wav.{suffix}", outside)
    was = os.readlink(archive.output / "call.wav.json")

    outcome = await archive.run(formats=["json", "srt"])

    assert outcome.summary.written == 1
    results = [archive.output / name for name in archive.results()]
    assert len(results) == 2
    assert not any(path.is_symlink() for path in results)
    kept = list((archive.state / "versions").iterdir())
    assert [os.readlink(each) for each in kept] == [was, was]
    assert untouched(outside)


@pytest.mark.parametrize("plant", [pipe, plug, folder], ids=lambda plant: plant.__name__)
async def test_what_is_no_file_in_the_place_of_a_result_costs_nothing(
    archive: Archive, outside: Path, plant: Plant
) -> None:
    """A place that nothing can be saved in is told before anything is sent; the others go on."""
    archive.output.mkdir()
    plant(archive.output / "call.wav.json", outside)
    archive.add("other.wav", b"two")

    outcome = await archive.run()

    assert (outcome.summary.written, outcome.summary.failed) == (1, 1)
    assert archive.service.requests["submit"] == 1


# --- in the state folder --------------------------------------------------------------------------


@plants
@pytest.mark.parametrize("name", ["lock", "ledger.sqlite3", "ledger.sqlite3-wal"])
async def test_what_is_planted_in_the_state_folder_ends_the_run(
    archive: Archive, outside: Path, plant: Plant, name: str
) -> None:
    """A run neither waits for nor works with what is no file of ours: it says so and sends none."""
    archive.state.mkdir(parents=True)
    plant(archive.state / name, outside)

    ended = await archive.command(*archive.run_line())

    assert ended.exit_code == ExitCode.USAGE, ended.stderr
    assert name in ended.stderr
    assert "Traceback" not in ended.stderr
    assert archive.service.requests == {}
    assert untouched(outside)


@plants
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
async def test_a_ledger_is_opened_plain_or_not_at_all(
    tmp_path: Path, outside: Path, plant: Plant, suffix: str
) -> None:
    """Neither the writer, nor a reader, nor a dry run's copy goes through a link."""
    async with Store(tmp_path / "ledger.sqlite3"):
        pass
    (tmp_path / f"ledger.sqlite3{suffix}").unlink(missing_ok=True)
    plant(tmp_path / f"ledger.sqlite3{suffix}", outside)

    with pytest.raises(LedgerUnusable, match="link"):
        async with Store(tmp_path / "ledger.sqlite3"):
            pass
    with pytest.raises(LedgerUnusable, match="link"):
        await to_thread.run_sync(read_only, tmp_path / "ledger.sqlite3")
    with pytest.raises(LedgerUnusable, match="link"):
        await to_thread.run_sync(copy_of, tmp_path / "ledger.sqlite3", tmp_path / "copy")
    assert untouched(outside)


@plants
def test_own_files_are_opened_plain_or_not_at_all(
    tmp_path: Path, outside: Path, plant: Plant
) -> None:
    """Events, journal, secret, key and the engine's ledger: no link is followed, nothing waits."""
    for name in ("events.ndjson", "webhook-secret", "key", "engine.sqlite3"):
        plant(tmp_path / name, outside)

    with pytest.raises(OSError, match=r"link|irectory"):
        EventFile(tmp_path / "events.ndjson")
    with pytest.raises(OSError, match=r"link|irectory"):
        os.close(regular(tmp_path / "events.ndjson", os.O_RDONLY))
    with pytest.raises(SettingsError):
        stored_secret(tmp_path)
    with pytest.raises(OSError, match=r"link|irectory|regular|address"):
        stored_key(tmp_path)
    with pytest.raises(Exception, match="link"):
        EngineStore(tmp_path)
    assert untouched(outside)


@plants
async def test_a_copy_is_of_a_file_or_of_nothing(
    tmp_path: Path, outside: Path, plant: Plant
) -> None:
    """Neither what is copied nor what is compared is read through a link."""
    plant(tmp_path / "source", outside)

    with anyio.fail_after(10):
        with pytest.raises(OSError, match=r"link|irectory"):
            await copy_whole(os.fsencode(tmp_path / "source"), os.fsencode(tmp_path / "copy"))
        if plant in LINKS:
            assert await sha256_of(os.fsencode(tmp_path / "source")) is None


@links
def test_what_is_made_is_made_anew(tmp_path: Path, outside: Path, plant: Plant) -> None:
    """A leftover of any kind but a folder goes, and a file is made in its place."""
    plant(tmp_path / "fresh", outside)

    with made(os.fsencode(tmp_path / "fresh")) as file:
        file.write(b"ours")

    assert (tmp_path / "fresh").read_bytes() == b"ours"
    assert not (tmp_path / "fresh").is_symlink()
    assert untouched(outside)


# --- rights ---------------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_what_is_new_in_the_state_folder_is_its_owners(archive: Archive) -> None:
    """Folders are for their owner alone, and so are ledger, lock, journal, events and summary."""
    before = os.umask(0)
    try:
        await archive.run()
        kept = [*archive.state.rglob("*"), archive.state]
        modes = {path: mode(path) for path in kept}
    finally:
        os.umask(before)

    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    names = {path.name for path in kept}
    assert names >= {"ledger.sqlite3", "lock", "events.ndjson", "attempts.ndjson", "summary.json"}


async def test_rights_that_were_chosen_stay(archive: Archive) -> None:
    """A state folder and a ledger that are there keep their rights."""
    await archive.run()
    archive.state.chmod(0o750)
    (archive.state / "ledger.sqlite3").chmod(0o640)
    archive.add("more.wav", b"more")

    await archive.run()

    assert mode(archive.state) == 0o750
    assert mode(archive.state / "ledger.sqlite3") == 0o640


async def test_a_lock_is_its_owners(tmp_path: Path) -> None:
    """The lock tells who works where to its owner alone."""
    async with lock(tmp_path / "lock"):
        assert mode(tmp_path / "lock") == 0o600


@pytest.mark.parametrize(("rights", "count"), [(0o600, 0), (0o644, 1)])
async def test_a_run_says_that_others_can_read_the_key(
    archive: Archive, rights: int, count: int
) -> None:
    """A file of the key that is not its owner's alone is a warning of each run, and no more."""
    settings = archive.settings()
    (archive.root / "key").chmod(rights)

    outcome = await archive.run(**{"api_key_file": settings.api_key_file})

    assert sum("others can read it" in each.message for each in outcome.of(Warned)) == count
    assert outcome.summary.written == 1
