"""The gate lets in what there is room for, and once ended stays so for the worst reason."""

from collections.abc import Callable

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.allowance import Allowance, Amount
from pipeline.breaker import Cause
from pipeline.errors import (
    BalanceNegative,
    BatchError,
    DiskFull,
    ExitCode,
    KeyRefused,
    OptionsRefused,
    ServiceUnusable,
    WindowClosed,
)
from pipeline.intake import Intake
from pipeline.settings import Settings
from tests.support.clock import JumpingLoop

pytestmark = pytest.mark.anyio

ENDS: list[BatchError] = [
    KeyRefused("the key"),
    BalanceNegative("the balance"),
    OptionsRefused("the options"),
    ServiceUnusable("the service"),
    DiskFull("the disk"),
]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """A loop that raises when everybody waits for somebody else."""
    return "asyncio", {"loop_factory": JumpingLoop}


# --- room -----------------------------------------------------------------------------------------


async def test_room_is_what_may_be_claimed() -> None:
    """Uploads ahead and places at the service together are the room; what is under way fills it."""
    intake = Intake(in_flight=2, uploads=1)
    seen = [intake.room]
    for recording_id in (1, 2, 3):
        intake.claim(recording_id)
        seen.append(intake.room)

    assert seen == [3, 2, 1, 0]


async def test_a_recording_keeps_its_room_until_it_is_saved() -> None:
    """From the claim over the upload to the result a recording takes one place, never two."""
    intake = Intake(in_flight=1, uploads=0)
    intake.claim(1)
    assert intake.room == 0
    intake.entered(10)
    intake.release(1)
    assert intake.room == 0
    intake.left(10)

    assert intake.room == 1


async def test_what_is_told_twice_counts_once() -> None:
    """A leftover that is met again, or left twice, does not shift the count."""
    intake = Intake(in_flight=3, uploads=0)
    for _ in range(2):
        intake.entered(10)
    assert intake.room == 2
    for _ in range(2):
        intake.left(10)
        intake.release(99)

    assert intake.room == 3


@given(st.integers(1, 50), st.integers(0, 10), st.integers(0, 100))
def test_leftovers_may_exceed_the_count(in_flight: int, uploads: int, leftovers: int) -> None:
    """More leftovers than places leave no room, never less than none; new ones come after them."""

    async def main() -> list[int]:
        intake = Intake(in_flight, uploads)
        for attempt_id in range(leftovers):
            intake.entered(attempt_id)
        full = intake.room
        for attempt_id in range(leftovers):
            intake.left(attempt_id)
        return [full, intake.room]

    assert anyio.run(main) == [max(0, in_flight + uploads - leftovers), in_flight + uploads]


# --- slots ----------------------------------------------------------------------------------------


async def test_a_free_slot_is_had_at_once() -> None:
    """Below the count nobody waits."""
    intake = Intake(in_flight=1, uploads=0)

    assert await intake.until_slot()


@pytest.mark.parametrize("ending", ["left", "finished"])
async def test_a_slot_that_becomes_free_wakes_who_waits(ending: str) -> None:
    """When a transcript is done with, whoever waits for its place goes on."""
    intake = Intake(in_flight=2, uploads=0)
    intake.entered(10)
    intake.entered(11)
    got: list[bool] = []

    async def wait() -> None:
        got.append(await intake.until_slot())

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.sleep(60)
        assert got == []
        getattr(intake, ending)(10)

    assert got == [True]


async def test_finished_transcripts_that_are_not_saved_hold_new_ones_back() -> None:
    """When saving falls behind, nothing new is submitted, though the service has room."""
    intake = Intake(in_flight=2, uploads=0)
    for attempt_id in (10, 11):
        intake.entered(attempt_id)
        intake.finished(attempt_id)
    got: list[bool] = []

    async def wait() -> None:
        got.append(await intake.until_slot())

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.sleep(60)
        assert got == []
        intake.left(10)

    assert got == [True]


async def test_no_slot_after_the_end() -> None:
    """Who waits for a slot when the intake ends is told that there will be none."""
    intake = Intake(in_flight=1, uploads=0)
    intake.entered(10)
    got: list[bool] = []

    async def wait() -> None:
        got.append(await intake.until_slot())

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.sleep(60)
        intake.end(BalanceNegative("no money"))

    assert got == [False]
    assert not await intake.until_slot()


async def test_every_change_wakes_who_waits() -> None:
    """Each of these may be what someone waits for, and wakes them."""
    intake = Intake(in_flight=5, uploads=0)
    changes: list[Callable[[], None]] = [
        lambda: intake.release(1),
        lambda: intake.entered(10),
        lambda: intake.finished(10),
        lambda: intake.left(10),
        lambda: intake.changed(),
        lambda: intake.stop(ExitCode.INTERRUPTED, "SIGINT"),
    ]
    for change in changes:
        event = intake.next_change
        assert not event.is_set()
        change()
        await event.wait()


# --- an account that works on fewer ---------------------------------------------------------------


async def swept(intake: Intake, times: int, *, processing: int, queued: int) -> list[int]:
    """What is told after so many sweeps that all see the same."""
    told = []
    for _ in range(times):
        await anyio.sleep(3)
        works_on = intake.observed(processing=processing, queued=queued)
        told += [] if works_on is None else [works_on]
    return told


async def test_fewer_places_are_taken_where_the_account_works_on_few() -> None:
    """What is queued beyond the lead takes no more places; how many it works on is told once."""
    intake = Intake(in_flight=250, uploads=8)
    for attempt_id in range(250):
        intake.entered(attempt_id)

    told = await swept(intake, 50, processing=5, queued=245)

    assert (intake.in_flight, told) == (7, [5])
    for attempt_id in range(244):
        intake.left(attempt_id)
    assert intake.room == 7 + 8 - 6
    assert await intake.until_slot()


async def test_more_places_wake_who_waits_for_one() -> None:
    """When the account works on more again, its places are taken at once, up to what was set."""
    intake = Intake(in_flight=250, uploads=8)
    for attempt_id in range(250):
        intake.entered(attempt_id)
    await swept(intake, 10, processing=5, queued=245)
    got: list[bool] = []

    async def wait() -> None:
        got.append(await intake.until_slot())

    for attempt_id in range(200):
        intake.left(attempt_id)
    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await swept(intake, 1, processing=5, queued=45)
        assert (intake.in_flight, got) == (7, [])
        assert await swept(intake, 1, processing=50, queued=0) == []

    assert (intake.in_flight, got) == (63, [True])


async def test_sweeps_in_quick_succession_count_once() -> None:
    """A second of sweeps that see a queue is no sign of anything, however many they are."""
    intake = Intake(in_flight=250, uploads=8)
    for attempt_id in range(250):
        intake.entered(attempt_id)
    for _ in range(100):
        await anyio.sleep(0.01)
        intake.observed(processing=5, queued=245)

    assert intake.in_flight == 250


async def test_what_is_free_is_no_reason_for_fewer_places() -> None:
    """As long as places are free, and no queue grows, nothing adapts."""
    intake = Intake(in_flight=250, uploads=8)
    intake.entered(1)

    assert await swept(intake, 50, processing=5, queued=20) == []
    assert intake.in_flight == 250


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ENDS, ids=lambda error: type(error).__name__)
async def test_an_error_for_all_ends_the_intake(error: BatchError) -> None:
    """The intake is closed with the error's exit code, its words and what may still be fetched."""
    intake = Intake(in_flight=5, uploads=5)

    intake.end(error)

    assert not intake.is_open
    assert intake.room == 0
    assert (intake.exit_code, intake.reason) == (error.exit_code, str(error))
    assert intake.collects is error.collect


async def test_a_stop_ends_the_fetching_too() -> None:
    """When the user stops the run nothing more is taken in or fetched."""
    intake = Intake(in_flight=5, uploads=5)

    intake.stop(ExitCode.TERMINATED, "SIGTERM")

    assert (intake.is_open, intake.collects) == (False, False)
    assert (intake.exit_code, intake.reason) == (143, "SIGTERM")


async def test_an_open_intake_has_no_reason() -> None:
    """A run that goes to its end is done, for no reason but that."""
    intake = Intake(in_flight=5, uploads=5)

    assert (intake.is_open, intake.collects) == (True, True)
    assert (intake.exit_code, intake.reason) == (0, None)


@given(st.permutations(ENDS), st.booleans())
def test_the_worst_end_stays(errors: list[BatchError], stops: bool) -> None:
    """Of several ends, in whatever order, the worst gives the exit code and its own reason."""

    async def main() -> Intake:
        intake = Intake(in_flight=5, uploads=5)
        if stops:
            intake.stop(ExitCode.INTERRUPTED, "SIGINT")
        for error in errors:
            intake.end(error)
        return intake

    intake = anyio.run(main)

    assert (intake.exit_code, intake.reason) == (ExitCode.USAGE, "the options")
    assert not intake.collects


async def test_the_first_of_equal_ends_gives_the_reason() -> None:
    """A second error of the same kind does not talk over the one that came first."""
    intake = Intake(in_flight=5, uploads=5)
    intake.end(KeyRefused("first"))
    intake.end(KeyRefused("second"))

    assert intake.reason == "first"


async def test_uploads_are_cancelled_at_the_end() -> None:
    """Uploads under way stop when the intake ends: they cost nothing, and would be for nothing."""
    intake = Intake(in_flight=5, uploads=5)
    cancelled: list[bool] = []

    async def upload() -> None:
        with intake.uploading() as scope:
            await anyio.sleep_forever()
        cancelled.append(scope.cancelled_caught)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(upload)
        await anyio.sleep(60)
        intake.end(BalanceNegative("no money"))

    assert cancelled == [True] * 3


async def test_no_upload_begins_after_the_end() -> None:
    """An upload that would begin after the end is cancelled at its first wait."""
    intake = Intake(in_flight=5, uploads=5)
    intake.stop(ExitCode.INTERRUPTED, "SIGINT")

    with intake.uploading() as scope:
        await anyio.sleep_forever()

    assert scope.cancelled_caught


async def test_an_upload_that_is_over_is_not_cancelled() -> None:
    """The end of the intake does not reach into what comes after an upload."""
    intake = Intake(in_flight=5, uploads=5)
    with intake.uploading() as scope:
        pass
    intake.stop(ExitCode.INTERRUPTED, "SIGINT")

    assert not scope.cancel_called


# --- a service that is down -----------------------------------------------------------------------


# --- a window that closes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duration_s", "takes_s"), [(0.0, 45.0), (3600.0, 88.2), (8 * 3600.0, 390.6)]
)
async def test_what_would_not_be_finished_in_time_is_not_asked_for(
    duration_s: float, takes_s: float
) -> None:
    """A long recording takes the service longer, so it has to be asked for earlier."""
    allowance = Allowance(Settings())
    await allowance.reserve(1, Amount(duration_s, None))
    intake = Intake(in_flight=5, uploads=5, allowance=allowance)
    intake.closes_at = 1000.0

    intake.require_time(1, intake.closes_at - takes_s - 0.1)
    with pytest.raises(WindowClosed):
        intake.require_time(1, intake.closes_at - takes_s + 0.1)


# --- one by one -----------------------------------------------------------------------------------


async def test_what_may_be_refused_is_sent_one_by_one() -> None:
    """While all may be refused alike, requests of that call wait for each other, others do not."""
    intake, log = Intake(in_flight=5, uploads=5), list[str]()

    async def ask(call: str) -> None:
        async with intake.asking(call):
            log.append(f"{call} begins")
            await anyio.sleep(1)
            log.append(f"{call} ends")

    for number in range(3):
        intake.breaker.refused(intake.breaker.began(), Cause("upload", 403, ""), f"{number}", 1)
    async with anyio.create_task_group() as group:
        for call in ("upload", "upload", "submit", "submit"):
            group.start_soon(ask, call)

    assert [each for each in log if "upload" in each] == ["upload begins", "upload ends"] * 2
    assert log.index("submit ends") > 3  # both had begun


async def test_whoever_waits_goes_on_when_it_is_known() -> None:
    """What one request shows frees the others, all at once; so does the end."""
    for ends in (False, True):
        intake = Intake(in_flight=5, uploads=5)
        for number in range(3):
            intake.breaker.refused(intake.breaker.began(), Cause("upload", 403, ""), f"{number}", 1)
        at = []

        async def ask(intake: Intake = intake, at: list[float] = at, ends: bool = ends) -> None:
            async with intake.asking("upload"):
                at.append(anyio.current_time())
                await anyio.sleep(1)
                if ends:
                    intake.end(ServiceUnusable("down"))
                else:
                    intake.breaker.took(intake.breaker.began(), "upload")

        began = anyio.current_time()
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(ask)

        assert [each - began for each in at] == [0, 1, 1, 1]
