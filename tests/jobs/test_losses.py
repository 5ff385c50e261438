"""A source that has lost its recordings: who hears of it, how often, and what is no loss."""

import html
import json
import os
import pty
import shutil
from collections.abc import AsyncIterator, Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from jobs.folder import run_folder
from pipeline.errors import ExitCode
from pipeline.events import Summary, Warned
from tests.support.clock import MovableLoop
from tests.support.nights import Night, Nights, at, nights, sound
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

FIRST = date(2026, 3, 3)
CHANGED = at("2026-03-03", "18:00")
HELD = 5


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """A loop whose time the tests can move."""
    return "asyncio", {"loop_factory": MovableLoop}


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Nights]:
    """Two sources, one of which holds five recordings."""
    folders = [tmp_path / "recordings" / name for name in ("nas", "phone")]
    async with nights(tmp_path, source=[{"folder": str(folder)} for folder in folders]) as archive:
        fill(archive)
        archive.put("phone/z.wav", sound(1, "z"), CHANGED)
        yield archive


def fill(archive: Nights, folder: str = "nas", count: int = HELD) -> None:
    """So many recordings in a source, as they always were."""
    for number in range(count):
        archive.put(f"{folder}/{number}.wav", sound(1, f"{number}"), CHANGED)


def nas(archive: Nights) -> Path:
    return archive.recordings / "nas"


async def night(archive: Nights, number: int, **given: Any) -> Night:
    """One of the nights that follow each other."""
    return await archive.night(at(FIRST + timedelta(number), "22:30"), **given)


def told(night: Night) -> tuple[int | None, list[str], list[str]]:
    """Exit code, causes, and what the monitor heard last."""
    assert night.summary is not None
    beats = [each.moment for each in night.told if each.moment.startswith("beat")]
    return night.code, night.summary.why, beats[-1:]


def warned(night: Night) -> list[str]:
    return [each.message for each in night.events if isinstance(each, Warned)]


EMPTY = (ExitCode.PARTIAL, ["source nas is empty: it held 5"], ["beat/fail"])
HALVED = (
    ExitCode.PARTIAL,
    ["source nas has lost more than half: 2 of 5 left"],
    ["beat/fail"],
)
WELL = (ExitCode.DONE, [], ["beat"])


def _unmounted(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _only_what_is_excluded(folder: Path) -> None:
    _unmounted(folder)
    (folder / "a.tmp.wav").write_bytes(b"part")
    (folder / "old").mkdir()
    (folder / "old/a.wav").write_bytes(b"old")


def _only_what_is_no_recording(folder: Path) -> None:
    _unmounted(folder)
    (folder / "lost+found").mkdir()
    (folder / ".hidden.wav").write_bytes(b"hidden")
    (folder / "readme.txt").write_bytes(b"not mounted")


@pytest.mark.parametrize(
    "lose",
    [_unmounted, _only_what_is_excluded, _only_what_is_no_recording],
    ids=lambda f: f.__name__,
)
async def test_an_empty_source_is_told_every_night(
    archive: Nights, lose: Callable[[Path], None]
) -> None:
    """Until it holds something again, each night is a failure that names it, its page as well."""
    given = {"exclude": ["*.tmp.wav", "old/"]}
    first = await night(archive, 0, **given)
    lose(nas(archive))

    empty = [await night(archive, number, **given) for number in (1, 2, 3)]
    fill(archive)
    again = await night(archive, 4, **given)

    assert told(first) == told(again) == WELL
    for each in empty:
        assert told(each) == EMPTY
        assert each.line.endswith("exit code 3: source nas is empty: it held 5")
        (warning,) = warned(each)
        assert warning.startswith("nas: none of the 5 recordings of 2026-03-03 there any more")
        assert each.summary is not None
        folder = archive.state / "runs" / each.summary.run_id
        assert json.loads((folder / "report.json").read_bytes())["why"] == EMPTY[1]
        assert html.unescape((folder / "report.html").read_text()).count(EMPTY[1][0]) == 1


async def test_a_source_that_has_lost_more_than_half_is_told_once(archive: Nights) -> None:
    """The night after, what is left is what it holds; and of that more than half can be lost."""
    codes = [told(await night(archive, 0))]
    for number, left in ((1, 2), (2, 2), (3, 1), (4, 0), (5, 0)):
        for path in sorted(nas(archive).iterdir())[left:]:
            path.unlink()
        codes.append(told(await night(archive, number)))

    empty = (ExitCode.PARTIAL, ["source nas is empty: it held 1"], ["beat/fail"])
    assert codes == [WELL, HALVED, WELL, WELL, empty, empty]


async def test_what_is_only_skipped_is_there(archive: Nights) -> None:
    """Recordings that are too young or too small tonight are no loss, whatever the limits were."""
    await night(archive, 0)

    skipped = await night(archive, 1, min_size="1MB")

    assert told(skipped) == WELL


def _another_filter(archive: Nights) -> dict[str, Any]:
    return {"exclude": ["[1-9].wav"]}


def _another_name(archive: Nights) -> dict[str, Any]:
    _unmounted(nas(archive))
    nas(archive).rename(nas(archive).with_name("renamed"))
    folders = ("renamed", "phone")
    return {"source": [{"folder": str(archive.recordings / name)} for name in folders]}


def _a_folder_of_it_is_a_source(archive: Nights) -> dict[str, Any]:
    inner = nas(archive) / "inner"
    inner.mkdir()
    for number in range(1, HELD):
        (nas(archive) / f"{number}.wav").rename(inner / f"{number}.wav")
    return {"source": [{"folder": str(folder)} for folder in (nas(archive), inner)]}


def _a_list(archive: Nights) -> dict[str, Any]:
    (nas(archive) / "0.wav").rename(nas(archive) / "only.wav")
    folders = (nas(archive) / "only.wav", archive.recordings / "phone")
    return {"source": [{"name": "nas", "folder": str(folders[0])}, {"folder": str(folders[1])}]}


def _switched_off_for_it(archive: Nights) -> dict[str, Any]:
    _unmounted(nas(archive))
    folders = [{"folder": str(nas(archive)), "shrink": False}]
    return {"source": [*folders, {"folder": str(archive.recordings / "phone")}]}


def _switched_off_for_all(archive: Nights) -> dict[str, Any]:
    _unmounted(nas(archive))
    return {"shrink": False}


def _more(archive: Nights) -> dict[str, Any]:
    fill(archive, count=2 * HELD)
    return {}


@pytest.mark.parametrize(
    "change",
    [
        *(_another_filter, _another_name, _a_folder_of_it_is_a_source, _a_list),
        *(_switched_off_for_it, _switched_off_for_all, _more),
    ],
    ids=lambda change: change.__name__,
)
async def test_what_is_no_loss(archive: Nights, change: Callable[[Nights], dict[str, Any]]) -> None:
    """Other filters, another name and a single file have no before, and nobody is told if asked."""
    await night(archive, 0)

    after = await night(archive, 1, **change(archive))

    assert told(after) == WELL
    assert warned(after) == []


async def test_filters_that_come_back_find_what_they_saw(archive: Nights) -> None:
    """A night with another filter neither hides a loss nor is one."""
    await night(archive, 0)
    other = await night(archive, 1, exclude=["[1-9].wav"])
    _unmounted(nas(archive))

    both = [
        await night(archive, 2, exclude=["[1-9].wav"]),
        await night(archive, 3),
    ]

    assert told(other) == WELL
    held = [each.summary.why for each in both if each.summary is not None]
    assert held == [["source nas is empty: it held 1"], EMPTY[1]]


async def test_a_source_that_moves_keeps_its_recordings(archive: Nights) -> None:
    """A folder in another place that has the same name is the same source: it is held to them."""
    await night(archive, 0)
    moved = archive.root / "elsewhere"
    moved.mkdir()
    sources = [{"folder": str(moved), "name": "nas"}, archive.usual["source"][1]]

    assert told(await night(archive, 1, source=sources)) == EMPTY


async def test_each_source_is_told_for_itself(archive: Nights) -> None:
    """One that is missing is told as that alone, beside one that is empty."""
    await night(archive, 0)
    _unmounted(nas(archive))
    shutil.rmtree(archive.recordings / "phone")

    after = await night(archive, 1)

    assert after.summary is not None
    assert after.summary.why == ["source phone is missing", "source nas is empty: it held 5"]
    assert len(warned(after)) == 2


async def test_a_source_that_comes_back_is_held_to_what_it_was(archive: Nights) -> None:
    """That it was missing for a night makes nobody forget what it held."""
    await night(archive, 0)
    nas(archive).rename(nas(archive).with_name("away"))
    missing = await night(archive, 1)
    nas(archive).mkdir()

    assert missing.summary is not None
    assert missing.summary.why == ["source nas is missing"]
    assert told(await night(archive, 2)) == EMPTY


async def test_a_dry_run_tells_and_notes_nothing(archive: Nights) -> None:
    """It warns of what it sees, and the night after it is told as if there had been none."""
    await night(archive, 0)
    for number in range(2, HELD):
        (nas(archive) / f"{number}.wav").unlink()

    dry = await night(archive, 1, dry_run=True)
    real = await night(archive, 1)

    assert dry.code == ExitCode.DONE
    assert warned(dry) == warned(real) != []
    assert told(real) == HALVED


async def test_what_was_not_seen_whole_is_not_compared(archive: Nights) -> None:
    """What cannot be looked at is told as that; the scan is neither a loss nor a baseline."""
    given = {"follow_links": True}
    await night(archive, 0, **given)
    _unmounted(nas(archive))
    (nas(archive) / "loop").symlink_to("loop")

    unread = await night(archive, 1, **given)
    (nas(archive) / "loop").unlink()

    assert unread.summary is not None
    assert unread.summary.why == ["not everything could be looked at"]
    assert told(await night(archive, 2, **given)) == EMPTY


@pytest.mark.parametrize("limit", [0, 1])
async def test_a_limit_does_not_cut_a_scan_short(archive: Nights, limit: int) -> None:
    """However little a run takes in, it has seen what is there, and that is the baseline."""
    await night(archive, 0, limit=limit)
    _unmounted(nas(archive))

    after = await night(archive, 1)

    assert after.summary is not None
    assert EMPTY[1][0] in after.summary.why


async def test_a_run_that_could_not_ask_has_seen_it(archive: Nights) -> None:
    """A night that ends with another cause names the loss beside it, and tells it once."""
    await night(archive, 0)
    for number in range(2, HELD):
        (nas(archive) / f"{number}.wav").unlink()
    archive.put("phone/new.wav", sound(1, "new"), CHANGED)
    refused = Fault(on="submit", action="negative_balance", times=None)
    archive.service.faults.add(refused)

    first = await night(archive, 1)
    archive.service.faults.clear()
    second = await night(archive, 2)

    assert first.code == ExitCode.REFUSED
    assert first.summary is not None
    assert first.summary.why == ["balance used up", HALVED[1][0]]
    assert told(second) == WELL


# --- `overnight run` ------------------------------------------------------------------------------


@pytest.mark.parametrize("is_attended", [True, False])
async def test_a_run_that_somebody_watches_only_warns(archive: Nights, is_attended: bool) -> None:
    """What is a failure where nobody is there is a warning on a terminal; both tell it once."""

    async def run() -> tuple[Summary, list[str]]:
        events: list[Any] = []
        with anyio.fail_after(60):
            summary = await run_folder(
                [nas(archive)],
                archive.settings(),
                is_attended=is_attended,
                emit=events.append,
            )
        return summary, [each.message for each in events if isinstance(each, Warned)]

    await run()
    for number in range(2, HELD):
        (nas(archive) / f"{number}.wav").unlink()
    first, second = await run(), await run()

    assert first[0].exit_code == (ExitCode.DONE if is_attended else ExitCode.PARTIAL)
    assert first[0].why == ([] if is_attended else HALVED[1])
    assert len(first[1]) == 1
    assert (second[0].exit_code, second[1]) == (ExitCode.DONE, [])


@pytest.mark.parametrize("is_attended", [True, False])
async def test_the_command_knows_whether_anybody_watches(
    archive: Nights, is_attended: bool
) -> None:
    """`overnight run` goes by its stderr: exit code 3 in a pipe or log, 0 on a terminal."""
    line = archive.run_line()
    (archive.recordings / "phone/z.wav").unlink()
    await archive.command(*line)
    _unmounted(nas(archive))
    ours, theirs = pty.openpty()
    archive.environ["TERM"] = "dumb"
    try:
        streams = {"stderr": theirs} if is_attended else {}
        async with archive.started(*line, **streams) as process:
            ended = await archive.ended(process)
        said = os.read(ours, 1 << 16).decode() if is_attended else ended.stderr
    finally:
        os.close(ours)
        os.close(theirs)

    assert ended.exit_code == (ExitCode.DONE if is_attended else ExitCode.PARTIAL)
    assert "none of the 5 recordings" in said
    assert "no recordings found" not in said


async def test_a_list_and_files_are_no_folders(archive: Nights) -> None:
    """What is named file by file, as arguments or in a list, says nothing of its folder."""
    listed = archive.root / "list"
    settings = archive.settings()

    async def run(*names: str, **given: Any) -> Summary:
        folders = [nas(archive) / name for name in names]
        return await run_folder(folders, settings.model_copy(update=given), emit=lambda _: None)

    await run("")
    listed.write_text(str(nas(archive) / "0.wav"))
    by_list = await run("", files_from=str(listed))
    by_name = await run("0.wav", "1.wav")
    whole = await run("")

    assert [each.why for each in (by_list, by_name, whole)] == [[], [], []]
    assert [each.found for each in (by_list, by_name, whole)] == [1, 2, 5]


async def test_a_ledger_made_anew_has_no_before(archive: Nights) -> None:
    """After `verify --rebuild` nothing is told that only the lost ledger could know."""
    await night(archive, 0)
    for path in archive.state.glob("ledger.sqlite3*"):
        path.unlink()
    line = ("verify", "--rebuild", "--config", archive.config())
    rebuilt = await archive.command(*line)
    _unmounted(nas(archive))

    after = await night(archive, 1)

    assert rebuilt.exit_code == ExitCode.DONE, rebuilt.stderr
    assert told(after) == WELL
