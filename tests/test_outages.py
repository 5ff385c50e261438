"""Outages are waited for: nothing is paid twice, no try is used up, and the work goes on after."""

import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from pipeline.errors import ExitCode
from pipeline.events import Outage
from tests.support.line import Line, line_to
from tests.support.runs import Archive, Outcome, opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

CALLS = ("upload", "submit", "list", "get")


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        yield archive


@pytest.fixture
async def line(archive: Archive) -> AsyncIterator[Line]:
    async with line_to(archive.service.url) as line:
        yield line


def fill(archive: Archive, count: int, prefix: str = "") -> None:
    """So many recordings."""
    for number in range(count):
        archive.add(f"{prefix}{number:02}.wav", f"{prefix}{number}".encode())


def is_paid_once(archive: Archive) -> bool:
    """Whether nothing was asked for twice."""
    return set(archive.service.billable.values()) <= {1}


def down(archive: Archive, on: Any = "*", status: int = 503, **given: Any) -> None:
    """From now on such calls are answered with an error."""
    archive.service.faults.add(Fault(on=on, action="answer", status=status, times=None, **given))


async def beside(run: Callable[[], Any], trouble: Callable[[], Any]) -> Outcome:
    """What a run comes to that meets trouble."""
    outcomes = list[Outcome]()
    async with anyio.create_task_group() as group:
        group.start_soon(trouble)
        outcomes.append(await run())
        group.cancel_scope.cancel()
    return outcomes[0]


# --- all is gone ----------------------------------------------------------------------------------


@pytest.mark.timeout(300)
@pytest.mark.parametrize("at", ["upload", "submit", "get"])
async def test_a_line_that_is_cut_for_seconds_ends_nothing(
    archive: Archive, line: Line, at: str, pytestconfig: pytest.Config
) -> None:
    """Connections that are lost and refused for seconds cost time alone, at whichever stage."""
    fill(archive, 40)

    async def cut() -> None:
        await archive.service.until(lambda: archive.service.requests[at] >= 5)
        await line.cut_for(20 if pytestconfig.getoption("--long") else 2)

    outcome = await beside(lambda: archive.run(provider=line.url, settle="1s"), cut)

    assert (outcome.summary.exit_code, outcome.summary.written) == (ExitCode.DONE, 40)
    assert is_paid_once(archive)
    told = outcome.of(Outage)
    assert told[0].calls
    assert told[-1].calls == []


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_errors_from_all_calls_are_an_outage(archive: Archive, status: int) -> None:
    """A gateway that answers for a service that is down is waited for, with free calls alone."""
    fill(archive, 20)
    service = archive.service

    async def fail() -> None:
        await service.until(lambda: service.requests["submit"] >= 5)
        down(archive, status=status)
        await anyio.sleep(1.5)
        before = service.requests.copy()
        await anyio.sleep(1.5)
        asked = service.requests - before
        service.faults.clear()
        assert "submit" not in asked
        assert asked.total() <= 6  # free calls alone, and few of them

    outcome = await beside(lambda: archive.run(settle="1s"), fail)

    assert (outcome.summary.exit_code, outcome.summary.written) == (ExitCode.DONE, 20)
    assert is_paid_once(archive)


async def test_an_outage_without_end_ends_the_run(archive: Archive, line: Line) -> None:
    """After `outage_patience` the run ends with 5; the next one has lost and fails nothing."""
    fill(archive, 20)

    async def cut() -> None:
        await archive.service.until(lambda: archive.service.requests["submit"] >= 5)
        line.cut()

    outcome = await beside(
        lambda: archive.run(provider=line.url, settle="1s", outage_patience="2s"), cut
    )
    await line.mend()
    after = await archive.run(provider=line.url, settle="1s")

    assert outcome.summary.exit_code == ExitCode.TRY_LATER
    assert "since" in str(outcome.summary.reason)
    assert outcome.summary.failed == 0
    assert after.summary.exit_code == ExitCode.DONE
    assert len(archive.results()) == 20
    assert is_paid_once(archive)


async def test_what_was_never_reached_is_not_waited_for(archive: Archive, line: Line) -> None:
    """A provider that does not answer at the beginning costs its tries, not the patience."""
    fill(archive, 1)
    line.cut()
    began = time.monotonic()

    outcome = await archive.run(provider=line.url, outage_patience="1h")

    assert outcome.summary.exit_code == ExitCode.TRY_LATER
    assert time.monotonic() - began < 30


async def test_an_outage_uses_up_no_try(archive: Archive, line: Line) -> None:
    """More outages than a recording has tries leave none of them failed, nor left."""
    fill(archive, 4)

    async def cut() -> None:
        for number in range(7):
            await archive.service.until(
                lambda number=number: archive.service.requests["upload"] > number  # type: ignore[misc]
            )
            await line.cut_for(0.3)

    outcome = await beside(lambda: archive.run(provider=line.url, uploads=1, settle="1s"), cut)

    assert outcome.summary.written == 4
    assert is_paid_once(archive)


async def test_settle_begins_anew_after_an_outage(archive: Archive, line: Line) -> None:
    """A list that has just come back proves no absence: what it lacks may be listed a bit later."""
    fill(archive, 1)
    service = archive.service
    service.faults.add(Fault(on="submit", action="drop_after"))
    service.list_lag_s = 3600.0

    async def cut() -> None:
        await service.until(lambda: service.requests["submit"] >= 1)
        await line.cut_for(2.5)
        listed = service.requests["list"]
        await service.until(lambda: service.requests["list"] > listed + 1)
        for transcript in service:
            transcript.listed_from = 0.0

    outcome = await beside(lambda: archive.run(provider=line.url, settle="2s"), cut)

    assert outcome.summary.written == 1
    assert service.requests["submit"] == 1


async def test_a_window_that_closes_in_an_outage(archive: Archive, line: Line) -> None:
    """It was not the window that kept the run: its exit code says that the service was away."""
    fill(archive, 20)

    async def cut() -> None:
        await archive.service.until(lambda: archive.service.requests["submit"] >= 5)
        line.cut()

    begins = time.localtime()
    window = f"{begins.tm_hour:02}:{begins.tm_min:02}-{(begins.tm_hour + 2) % 24:02}:00"
    outcome = await beside(
        lambda: archive.run(provider=line.url, settle="1s", outage_patience="2s", window=window),
        cut,
    )

    assert outcome.summary.exit_code == ExitCode.TRY_LATER


@pytest.mark.parametrize("name", ["INT", "TERM"])
async def test_a_signal_ends_a_run_that_waits(archive: Archive, line: Line, name: str) -> None:
    """A run that waits for the service leaves as quickly as any other."""
    fill(archive, 20)
    number = signal.Signals[f"SIG{name}"]
    command = ["--output", archive.output, "--provider", line.url, "--json"]
    async with archive.started("run", archive.recordings, *command) as process:
        await archive.service.until(lambda: archive.service.requests["submit"] >= 5)
        line.cut()
        await anyio.sleep(1)
        process.send_signal(number)
        with anyio.fail_after(10):
            ended = await archive.ended(process)

    assert ended.exit_code == 128 + number
    assert any(line["type"] == "outage" for line in ended.lines)


# --- one call is gone -----------------------------------------------------------------------------


async def test_a_list_that_is_down_all_night_costs_nothing(archive: Archive) -> None:
    """Without the list everything is watched by its id, and it is told once."""
    fill(archive, 20)
    down(archive, "list")

    outcome = await archive.run()

    assert (outcome.summary.exit_code, outcome.summary.written) == (ExitCode.DONE, 20)
    assert [each.calls for each in outcome.of(Outage)] == [["list"]]
    assert is_paid_once(archive)


@pytest.mark.parametrize("is_accepted", [True, False])
async def test_a_lost_answer_without_a_list_is_left(archive: Archive, is_accepted: bool) -> None:
    """What only the list can tell is left to a run that has one; it asks for what is not there."""
    fill(archive, 1, "before")
    await archive.run()
    fill(archive, 1)
    down(archive, "list")
    action: Any = "drop_after" if is_accepted else "drop_before"
    archive.service.faults.add(Fault(on="submit", action=action))

    without = await archive.run()
    archive.service.faults.clear()
    found = await archive.run()

    assert (without.summary.exit_code, without.summary.parked) == (ExitCode.PARTIAL, 1)
    assert found.summary.written == 1
    assert is_paid_once(archive)
    assert archive.service.requests["submit"] == (2 if is_accepted else 3)


async def test_an_empty_list_proves_nothing_where_none_was_known(archive: Archive) -> None:
    """A first run without a list leaves a lost answer, however empty the next list is."""
    fill(archive, 1)
    down(archive, "list")
    archive.service.faults.add(Fault(on="submit", action="drop_before"))
    await archive.run()
    archive.service.faults.clear()

    empty = await archive.run()
    archive.service.add_foreign(1)
    found = await archive.run()

    assert (empty.summary.parked, empty.summary.transcripts) == (1, 0)
    assert found.summary.written == 1
    assert is_paid_once(archive)


async def test_submits_that_are_down_leave_one_by_one(archive: Archive) -> None:
    """Where no submit gets through, one at a time asks, and the rest goes on; then exit code 5."""
    fill(archive, 3, "before")
    archive.service.transcript_seconds = 30.0
    archive.service.faults.add(Fault(on="get", action="answer", times=None))
    await archive.run(outage_patience="1s")
    archive.service.faults.clear()
    for transcript in archive.service:
        archive.service.complete(transcript.id)
    fill(archive, 20)
    down(archive, "submit")
    asked = archive.service.requests["submit"]

    outcome = await archive.run(settle="500ms", outage_patience="3s")

    assert outcome.summary.exit_code == ExitCode.TRY_LATER
    assert outcome.summary.written == 3
    assert outcome.summary.failed == 0
    assert archive.service.requests["submit"] - asked <= 8 + 7  # at one moment, then by `settle`
    assert is_paid_once(archive)


async def test_submits_that_come_back_go_on(archive: Archive) -> None:
    """Answers that are lost for a while are looked for, and nothing is paid twice."""
    fill(archive, 20)
    service = archive.service
    service.faults.add(Fault(on="submit", action="drop_after", times=12))

    outcome = await archive.run(settle="500ms")

    assert (outcome.summary.exit_code, outcome.summary.written) == (ExitCode.DONE, 20)
    assert service.requests["submit"] == 20
    assert is_paid_once(archive)


async def test_uploads_that_are_down_hold_up_nothing_else(archive: Archive) -> None:
    """Where no upload gets through, what is at the service is saved; then exit code 5."""
    fill(archive, 3, "before")
    archive.service.faults.add(Fault(on="get", action="answer", times=None))
    await archive.run(outage_patience="1s")
    archive.service.faults.clear()
    fill(archive, 20)
    down(archive, "upload")

    outcome = await archive.run(outage_patience="3s")
    archive.service.faults.clear()
    after = await archive.run()

    assert outcome.summary.exit_code == ExitCode.TRY_LATER
    assert (outcome.summary.written, outcome.summary.failed) == (3, 0)
    assert after.summary.written == 20
    assert is_paid_once(archive)


async def test_results_that_cannot_be_fetched_are_fetched_later(archive: Archive) -> None:
    """Where no GET gets through, the rest goes on; then exit code 5, and the next run fetches."""
    fill(archive, 20)
    down(archive, "get")

    outcome = await archive.run(outage_patience="3s")
    asked = archive.service.requests["submit"]
    archive.service.faults.clear()
    after = await archive.run()

    assert outcome.summary.exit_code == ExitCode.TRY_LATER
    assert (outcome.summary.written, outcome.summary.failed) == (0, 0)
    assert asked == 20
    assert after.summary.written == 20
    assert archive.service.requests["submit"] == 20


@pytest.mark.parametrize("on", CALLS)
async def test_a_call_that_is_down_for_a_while_costs_time_alone(archive: Archive, on: str) -> None:
    """Each call may be away by itself for seconds in the midst of a run."""
    fill(archive, 30)
    service = archive.service

    async def fail() -> None:
        await service.until(lambda: service.requests["submit"] >= 5)
        down(archive, on)
        await anyio.sleep(2)
        service.faults.clear()

    outcome = await beside(lambda: archive.run(settle="1s"), fail)

    assert (outcome.summary.exit_code, outcome.summary.written) == (ExitCode.DONE, 30)
    assert is_paid_once(archive)


@pytest.mark.parametrize("how", ["drop_before", "answer"])
async def test_a_proxy_that_blocks_uploads_for_a_night(archive: Archive, how: Any) -> None:
    """Recordings that a proxy keeps back, but for what is tiny, are not failed for it."""
    for number in range(8):
        archive.add(f"{number}.wav", b"LARGE %d" % number)
    page = {"status": 403, "body": "<h1>no</h1>", "content_type": "text/html"}
    archive.service.faults.add(Fault(on="upload", action=how, times=None, match="LARGE", **page))

    blocked = await archive.run()
    archive.service.faults.clear()
    after = await archive.run()

    assert blocked.summary.exit_code == ExitCode.TRY_LATER
    assert blocked.summary.failed == 0
    assert after.summary.written == 8


# --- a transcript that never finishes -------------------------------------------------------------


def is_stuck(archive: Archive, name: str) -> Callable[[Any], bool]:
    """Whether a look is at the transcript of this recording."""

    def is_so(call: Any) -> bool:
        transcripts = archive.service.accepted(name.encode())
        return any(each.id == call.transcript_id for each in transcripts)

    return is_so


def never_finish(archive: Archive, name: str) -> None:
    """From now on the service has this one in work for ever."""
    patch = {"status": "processing"}
    rows = ("none",)
    archive.service.faults.add(
        Fault(on="get", action="patch", times=None, patch=patch, match=is_stuck(archive, name))
    )
    archive.service.faults.add(Fault(on="list", action="patch", times=None, patch=patch, rows=rows))


async def test_a_transcript_that_never_finishes_holds_up_nothing(archive: Archive) -> None:
    """It gives up its place, is left at the end, and is never asked for anew."""
    fill(archive, 6)
    never_finish(archive, "0")

    outcome = await archive.run(concurrency=1, uploads=1, transcript_patience="1s")
    again = await archive.run(transcript_patience="1s")
    archive.service.faults.clear()
    found = await archive.run()

    assert (outcome.summary.exit_code, outcome.summary.written) == (ExitCode.PARTIAL, 5)
    (reason,) = outcome.summary.reasons["parked"]
    assert reason.startswith("not finished by the service since")
    assert again.summary.exit_code == ExitCode.PARTIAL
    assert found.summary.written == 1
    assert archive.service.requests["submit"] == 6


async def test_a_transcript_that_is_stuck_for_nights_is_no_news(archive: Archive) -> None:
    """After three nights it is listed as stuck, looked at by its id, and no cause for 3."""
    fill(archive, 1)
    never_finish(archive, "0")
    await archive.run(transcript_patience="1s")

    late = await archive.run(transcript_patience="1s", ahead_s=4 * 86_400.0)
    asked = archive.service.requests["get"]

    assert late.summary.exit_code == ExitCode.DONE
    (reason,) = late.summary.reasons["parked"]
    assert reason.startswith("stuck at the service since")
    assert asked >= 2
    assert archive.service.requests["submit"] == 1


async def test_a_service_that_finishes_nothing_is_left(archive: Archive) -> None:
    """Where all places are taken by what is never finished, the run ends with 5."""
    archive.service.transcript_seconds = 1e6
    fill(archive, 8)

    outcome = await archive.run(concurrency=2, uploads=1, transcript_patience="1s")

    assert outcome.summary.exit_code == ExitCode.TRY_LATER
    assert "finished none" in str(outcome.summary.reason)
    assert outcome.summary.failed == 0
