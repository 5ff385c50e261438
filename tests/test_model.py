"""
Random nights of trouble: whatever happens in whatever order, each content is paid once, and saved.

Each example is a schedule of `tests.support.schedules`: an archive of 20 recordings or more, two
deaths or more, troubles of every kind, then clean runs. Or it is a life of `tests.support.lives`:
what befalls a few recordings and their results over weeks. `--long` lives 2,000 of them.
`python bench/schedules.py` plays thousands of either, and one of them by its seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st

from tests.support.lives import Life, live
from tests.support.lives import draw as draw_life
from tests.support.machine import Machine, Point, machine
from tests.support.runs import opened
from tests.support.schedules import (
    Night,
    Schedule,
    Tally,
    Trouble,
    Unsound,
    draw,
    play,
)
from tests.support.service import Fault
from tests.support.service_process import ServiceProcess, service_process

pytestmark = pytest.mark.timeout(900)


@st.composite
def schedules(drawn: st.DrawFn) -> Schedule:
    """Any schedule: fewer and smaller numbers are simpler ones."""
    return draw(lambda least, most: drawn(st.integers(least, most)))


@st.composite
def lives(drawn: st.DrawFn) -> Life:
    """Any life."""
    return draw_life(lambda least, most: drawn(st.integers(least, most)))


@dataclass
class Stage:
    """A machine and a service, at hand for one schedule after the other."""

    portal: BlockingPortal
    machine: Machine
    service: ServiceProcess
    folder: Path
    numbers: Iterator[int]

    def play(self, schedule: Schedule) -> Tally:
        """What a schedule comes to."""
        return self.portal.call(play, schedule, self.machine, self.service, self._root())

    def live(self, life: Life) -> Tally:
        """What a life comes to."""
        return self.portal.call(live, life, self.machine, self.service, self._root())

    def _root(self) -> Path:
        return self.folder / str(next(self.numbers))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("nights")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(machine()) as running,
        portal.wrap_async_context_manager(service_process()) as service,
    ):
        yield Stage(portal, running, service, folder, count())


ANEW = settings(
    derandomize=False,
    database=None,
    print_blob=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
"""Others each time."""


@pytest.mark.parametrize("half", [1, 2])  # a worker plays one while another plays the other
@settings(ANEW, max_examples=6)
@given(schedule=schedules())
def test_whatever_happens_each_content_is_paid_once_and_saved(
    stage: Stage, half: int, schedule: Schedule
) -> None:
    """After any schedule of troubles and deaths everything is accounted for, saved, paid once."""
    try:
        tally = stage.play(schedule)
    except Unsound:
        reject()

    assert tally.deaths >= 2
    assert tally.paid_most <= 1


@pytest.mark.timeout(14_400)
@pytest.mark.parametrize("half", [1, 2])
def test_whatever_befalls_an_archive_what_was_paid_is_there(
    stage: Stage, half: int, pytestconfig: pytest.Config
) -> None:
    """After any life of an archive each recording has what was paid for its own bytes, once."""

    @settings(ANEW, max_examples=1000 if pytestconfig.getoption("--long") else 8)
    @given(life=lives())
    def befalls(life: Life) -> None:
        try:
            tally = stage.live(life)
        except Unsound:
            reject()
        assert tally.paid_most <= 1

    befalls()


def test_an_upload_that_was_set_aside_is_nobody_at_work(stage: Stage) -> None:
    """A lost answer is asked for again, though an equal recording's upload lies ready."""
    tally = stage.play(
        Schedule(
            contents=(0,) * 2,
            nights=(
                Night(
                    troubles=(
                        Trouble("429, seconds", "submit", 1, 0),
                        Trouble("lost before acceptance", "submit", 1, 0),
                        Trouble("lost before acceptance", "upload", 2, 1),
                    ),
                ),
            ),
        )
    )

    assert tally.paid_most == 1


def test_an_upload_is_in_one_hand_at_a_time(stage: Stage) -> None:
    """A server fault is no reason to take an upload that an equal recording waits to submit."""
    tally = stage.play(
        Schedule(
            contents=tuple(number % 6 for number in range(24)),
            shaky=frozenset(range(6)),
            uploads=8,
            concurrency=1,
            seconds=0.05,
            nights=(Night(together=8),),
        )
    )

    assert (tally.paid, tally.paid_most) == (6, 1)


def test_what_a_dead_run_left_beside_its_ledger_is_removed(stage: Stage) -> None:
    """A run that dies while it proves that it can write leaves nothing behind for ever."""
    tally = stage.play(
        Schedule(
            contents=(0, 1),
            nights=tuple(Night(die=Point("unlink", n, "before")) for n in (1, 2)),
        )
    )

    assert tally.deaths == 2


@pytest.mark.anyio
async def test_a_rotated_key_finds_what_the_old_one_lost(tmp_path: Path) -> None:
    """A lost answer that the list shows to another key of the project is adopted."""
    async with opened(tmp_path) as archive:
        archive.add("a.wav", b"one")
        rotated = tmp_path / "rotated"
        rotated.write_text("second-key")
        archive.service.faults.add(Fault(on="submit", action="hold"))
        async with anyio.create_task_group() as group:
            group.start_soon(archive.run)
            await archive.service.held("submit")
            group.cancel_scope.cancel()

        found = await archive.run(api_key_file=rotated)

    assert found.summary.written == 1
    assert len(archive.service.accepted(b"one")) == 1
