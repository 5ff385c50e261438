"""What lies on disk whole counts, whatever was asked for since: nothing is asked for again."""

from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from anyio import create_task_group, to_thread

from jobs.planning import plan
from jobs.reprocess import reprocess
from jobs.verify import verify
from pipeline.errors import ExitCode
from pipeline.ledger.archive import Selection
from tests.support.runs import Archive, opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

ONE, TWO = b"one", b"two"
OTHER: dict[str, Any] = {"transcript": {"punctuate": False}}
THIRD: dict[str, Any] = {"transcript": {"format_text": False}}
TROUBLES = {
    "refused": Fault(on="submit", action="answer", status=400, body='{"error": "no"}', times=None),
    "rejected": Fault(on="upload", action="answer", status=401, times=None),
    "too large": Fault(on="upload", action="answer", status=413, times=None),
    "lost": Fault(on="submit", action="drop_before", times=None),
    "failed": Fault(on="get", action="patch", patch={"status": "error", "error": "no"}, times=None),
    "deleted": Fault(
        on="get", action="patch", patch={"audio_url": "http://deleted_by_user"}, times=None
    ),
}


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        archive.add("a.wav", ONE)
        archive.add("b/b.wav", TWO)
        yield archive


async def stopped(archive: Archive, **given: Any) -> None:
    """A run that is cut off with all that it has asked for at the service, which finishes it."""
    service = archive.service
    service.transcript_seconds, before = 3600.0, len(list(service))
    async with create_task_group() as group:
        group.start_soon(partial(archive.run, **given))
        await service.until(lambda: len(list(service)) == before + 2)
        looks = service.requests["list"]
        await service.until(lambda: service.requests["list"] > looks + 1)
        group.cancel_scope.cancel()
    for transcript in service:
        service.complete(transcript.id)
    service.transcript_seconds = 0.0


async def troubled(archive: Archive, trouble: str, how: str, **given: Any) -> None:
    """A run with other options that comes to nothing."""
    given = {"outage_patience": "1s"} | (given or OTHER)
    if trouble == "stopped":
        await stopped(archive, **given, redo_changed=True)
        return
    fault = TROUBLES[trouble]
    fault.met = 0
    archive.service.faults.add(fault)
    if how == "reprocess":
        settings = archive.settings(**given)
        made = await to_thread.run_sync(plan, settings, Selection())
        await reprocess(settings, made, emit=lambda _: None)
    else:
        await archive.run(**given, redo_changed=True)
    archive.service.faults.clear()


async def is_had(archive: Archive, results: dict[str, bytes], **given: Any) -> None:
    """A run has these results, all of them, and asks for nothing; nor is anything amiss then."""
    service, submits = archive.service, archive.service.requests["submit"]
    gone, calls = {each.id for each in service if each.is_deleted}, len(service.log)
    outcome = await archive.run(**given)

    assert outcome.summary.exit_code == ExitCode.DONE
    assert outcome.summary.written + outcome.summary.already_written == len(results)
    assert service.requests["submit"] == submits
    assert not gone & {call.transcript_id for call in service.log[calls:] if call.kind == "get"}
    assert archive.results() == results
    assert (await archive.run(**given)).summary.requests == {}
    told: list[object] = []
    await to_thread.run_sync(verify, archive.settings(), told.append)
    assert told == []


@pytest.mark.parametrize(
    ("trouble", "how"),
    [*product(TROUBLES, ["redo_changed", "reprocess"]), ("stopped", "redo_changed")],
)
async def test_the_way_back_is_free(archive: Archive, trouble: str, how: str) -> None:
    """Whatever became of other options, the first ones have their results, though deleted there."""
    await archive.run(delete_remote=True)
    before = archive.results()

    await troubled(archive, trouble, how)

    await is_had(archive, before)


@pytest.mark.parametrize("trouble", ["rejected", "refused", "lost"])
async def test_with_every_recording_read_anew(archive: Archive, trouble: str) -> None:
    """So it is where a run believes no times and reads all recordings."""
    await archive.run(delete_remote=True)
    before = archive.results()
    await troubled(archive, trouble, "redo_changed")
    requests = Counter(archive.service.requests)

    outcome = await archive.run(checksum=True)

    assert outcome.summary.exit_code == ExitCode.DONE
    assert archive.results() == before
    assert archive.service.requests["upload"] == requests["upload"]
    await is_had(archive, before)


@pytest.mark.parametrize("trouble", ["rejected", "refused", "stopped"])
async def test_third_options_are_no_consent(archive: Archive, trouble: str) -> None:
    """Options that nobody agreed to pay for again keep what is there, for the first ones too."""
    await archive.run(delete_remote=True)
    before = archive.results()
    await troubled(archive, trouble, "redo_changed")
    submits = archive.service.requests["submit"]

    third = await archive.run(**THIRD)

    assert (third.summary.kept, third.summary.exit_code) == (2, ExitCode.DONE)
    assert archive.service.requests["submit"] == submits
    assert archive.results() == before
    await is_had(archive, before)


async def test_over_third_options_and_back(archive: Archive) -> None:
    """Two changes of options that came to nothing lose nothing."""
    await archive.run(delete_remote=True)
    before = archive.results()
    await troubled(archive, "rejected", "redo_changed")
    await troubled(archive, "refused", "redo_changed", **THIRD)

    await is_had(archive, before)


@pytest.mark.parametrize("trouble", ["refused", "too large", "failed", "deleted"])
async def test_once_more_that_came_to_nothing(archive: Archive, trouble: str) -> None:
    """What `--force` could not have leaves what there is; said again, it is asked for again."""
    await archive.run(delete_remote=True)
    before = archive.results()
    archive.service.faults.add(TROUBLES[trouble])
    forced = await archive.run(force=True)
    archive.service.faults.clear()

    assert forced.summary.exit_code == ExitCode.PARTIAL
    await is_had(archive, before)
    again = await archive.run(force=True)
    assert (again.summary.written, again.summary.transcripts) == (2, 2)


async def test_once_more_that_was_cut_off(archive: Archive) -> None:
    """What `--force` has at the service is collected by the next run, and not asked for again."""
    await archive.run(delete_remote=True)
    await stopped(archive, force=True)

    outcome = await archive.run(force=True)

    assert (outcome.summary.written, outcome.summary.exit_code) == (2, ExitCode.DONE)
    assert len(list(archive.service)) == 4


async def test_skipped_and_not_any_more(archive: Archive) -> None:
    """A recording that was left out for a while has its result still."""
    await archive.run(delete_remote=True)
    before = archive.results()
    await troubled(archive, "rejected", "redo_changed")

    await archive.run(min_size="1MB", **OTHER)

    await is_had(archive, before)


@pytest.mark.parametrize("trouble", ["rejected", "refused", "too large"])
async def test_other_bytes_and_back(archive: Archive, trouble: str) -> None:
    """A recording that held other bytes for a while, never transcribed, has its result still."""
    await archive.run(delete_remote=True)
    before = archive.results()
    archive.add("a.wav", b"something else", age_s=1800.0)
    archive.service.faults.add(TROUBLES[trouble])
    await archive.run()
    archive.service.faults.clear()
    archive.add("a.wav", ONE, age_s=900.0)

    await is_had(archive, before)


async def test_what_a_moved_recording_waits_for(archive: Archive) -> None:
    """A new path of known bytes has a copy of what lies there for the old one."""
    await archive.run(delete_remote=True)
    before = archive.results()
    await troubled(archive, "rejected", "redo_changed")
    (archive.recordings / "a.wav").rename(archive.recordings / "moved.wav")

    outcome = await archive.run()

    assert outcome.summary.exit_code == ExitCode.DONE
    assert archive.results() == before | {"moved.wav.json": before["a.wav.json"]}


async def test_a_result_that_is_brought_back(archive: Archive) -> None:
    """A result that was gone here and at the service counts as soon as it lies there again."""
    await archive.run(delete_remote=True)
    before = archive.results()
    place = archive.output / "a.wav.json"
    place.rename(archive.root / "backup")
    gone = await archive.run()
    again = await archive.run()
    (archive.root / "backup").rename(place)

    assert (gone.summary.failed, again.summary.failed) == (1, 1)
    await is_had(archive, before)


async def test_other_bytes_that_are_brought_back(archive: Archive) -> None:
    """What is put where a lost result was, and is not that, is no result."""
    await archive.run(delete_remote=True)
    place = archive.output / "a.wav.json"
    size = place.stat().st_size
    place.unlink()
    await archive.run()
    place.write_bytes(bytes(size))

    outcomes = [await archive.run() for _ in range(2)]

    assert [outcome.summary.failed for outcome in outcomes] == [1, 1]
    assert place.read_bytes() == bytes(size)


async def test_a_copy_of_what_is_declared_missing(archive: Archive) -> None:
    """A twin whose own result is gone here and at the service has a copy, once there is one."""
    archive.add("twin.wav", ONE)
    await archive.run(delete_remote=True)
    before = archive.results()
    places = [archive.output / "a.wav.json", archive.output / "twin.wav.json"]
    for place in places:
        place.unlink()
    await archive.run()
    places[0].write_bytes(before["a.wav.json"])

    await archive.run()
    outcome = await archive.run()

    assert outcome.summary.exit_code == ExitCode.DONE
    assert archive.results() == before
