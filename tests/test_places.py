"""The number of places follows what the account works on, whatever that is and becomes.

The accounts here are simulated, half a second at a time. As with the real one a place is
only free again once a sweep has shown that its transcript is finished.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.places import Places

MOST = 250
STEP_S = 0.5


@dataclass
class Account:
    """Works on so many at once, each for some time, once it had its way to get there."""

    capacity: Callable[[float], int]
    work_s: tuple[float, float] = (10.0, 60.0)
    way_s: float = 0.5
    misread: float = 0.0
    """How many of the rows of what is worked on still say `queued`, 0 to 1."""
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    now: float = 0.0
    queued: list[float] = field(default_factory=list)
    """When each gets there."""
    working: list[float] = field(default_factory=list)
    """When each is finished."""
    finished: int = 0

    def step(self) -> None:
        """Half a second goes by."""
        self.now += STEP_S
        still = [at for at in self.working if at > self.now]
        self.finished += len(self.working) - len(still)
        free = max(0, self.capacity(self.now) - len(still))
        ready = [at for at in self.queued if at <= self.now][:free]
        self.queued = self.queued[len(ready) :]
        self.working = still + [self.now + self.chance.uniform(*self.work_s) for _ in ready]

    def rows(self) -> tuple[int, int]:
        """How many a sweep sees as processing, and as queued."""
        misread = sum(self.chance.random() < self.misread for _ in self.working)
        return len(self.working) - misread, len(self.queued) + misread


@dataclass
class Sweep:
    """What was so after one."""

    at: float
    places: int
    queued: int
    finished: int


def worked(
    account: Account,
    until_s: float,
    *,
    adapts: bool = True,
    interval_s: float = 3.0,
    per_s: float = 20.0,
) -> list[Sweep]:
    """A run with more to do than it comes to, which submits so many in a second at most."""
    places, sweeps, taken, may_submit = Places(MOST), list[Sweep](), 0, 0.0
    while account.now < until_s:
        is_full = taken >= places.count
        for _ in range(int(interval_s / STEP_S)):
            account.step()
            may_submit += per_s * STEP_S
            while may_submit >= 1 and taken < places.count:
                may_submit -= 1
                taken += 1
                account.queued.append(account.now + account.way_s)
            if taken >= places.count:
                may_submit, is_full = 0.0, True
        taken = len(account.queued) + len(account.working)
        if adapts:
            processing, queued = account.rows()
            places.observed(processing, queued, is_full=is_full)
        sweeps.append(Sweep(account.now, places.count, len(account.queued), account.finished))
    return sweeps


def places_after(sweeps: list[Sweep], at: float, until: float = 1e9) -> set[int]:
    return {each.places for each in sweeps if at <= each.at < until}


def about(capacity: int, misread: float) -> float:
    """The most places for an account that works on so many: a quarter, a trial of that, a few."""
    return 1.25 * 1.25 * capacity + 10 + 100 * misread


# --- an account that works on fewer ---------------------------------------------------------------


@pytest.mark.parametrize("misread", [0.0, 0.1])
@pytest.mark.parametrize(("capacity", "soon_s"), [(1, 60), (5, 60), (20, 60), (50, 60)])
def test_the_places_become_a_quarter_more_than_it_works_on(
    capacity: int, soon_s: float, misread: float
) -> None:
    """About that, within twenty sweeps; and a quarter more again while it looks for more."""
    sweeps = worked(Account(lambda _: capacity, misread=misread), 3600)

    after = places_after(sweeps, soon_s)

    assert max(2, capacity) <= min(after)
    assert max(after) <= about(capacity, misread)


@pytest.mark.parametrize("capacity", [1, 5, 20, 50])
def test_nothing_is_queued_beyond_what_was_already_sent(capacity: int) -> None:
    """Once it has adapted, what is queued becomes less, down to the lead."""
    sweeps = worked(Account(lambda _: capacity), 3 * 3600)
    adapted = next(index for index, each in enumerate(sweeps) if each.places < MOST)
    queued = [each.queued for each in sweeps[adapted:]]

    assert max(queued) == queued[0]
    assert queued[-1] <= max(8, capacity)


@pytest.mark.parametrize("capacity", [1, 5, 50])
def test_it_adapts_before_all_places_are_taken(capacity: int) -> None:
    """Where submits are slow, a queue that grows while the work does not is enough to go by."""
    sweeps = worked(Account(lambda _: capacity), 300, per_s=4.0)

    assert max(each.queued for each in sweeps) < MOST * 2 / 3


@pytest.mark.parametrize("misread", [0.0, 0.1])
@pytest.mark.parametrize("capacity", [200, 250, 1000])
def test_an_account_that_keeps_up_has_all_places(capacity: int, misread: float) -> None:
    """The lead of a quarter is no queue that piles up."""
    sweeps = worked(Account(lambda _: capacity, misread=misread), 3600)

    assert places_after(sweeps, 0) == {MOST}


@pytest.mark.parametrize("misread", [0.0, 0.1])
@pytest.mark.parametrize(
    "capacities", [(200, 5, 50, 200), (5, 200, 5, 200), (50, 5, 1, 200), (1, 2, 4, 200)], ids=str
)
def test_it_follows_an_account_that_changes(
    capacities: tuple[int, int, int, int], misread: float
) -> None:
    """Down, and up again; a stage lasts an hour and a half."""
    stage_s = 5400
    account = Account(lambda at: capacities[min(3, int(at // stage_s))], misread=misread)

    sweeps = worked(account, 4 * stage_s)

    for stage, capacity in enumerate(capacities):
        last = places_after(sweeps, (stage + 0.9) * stage_s, (stage + 1) * stage_s)
        assert min(last) >= min(max(2, capacity), MOST)
        assert max(last) <= about(capacity, misread)


@pytest.mark.parametrize(("queued_still", "within_s"), [(True, 10), (False, 240)])
def test_growing_again_takes_minutes(queued_still: bool, within_s: float) -> None:
    """From 5 to 200: what is worked on more is followed at once, step by step if none waits."""
    changes_at = 120 if queued_still else 5400
    account = Account(lambda at: 5 if at < changes_at else 200)

    sweeps = worked(account, changes_at + 900)
    back = next(each.at for each in sweeps if each.at > changes_at and each.places >= 200)

    assert back - changes_at <= within_s


# --- what looks like one, and is none -------------------------------------------------------------


@pytest.mark.parametrize("interval_s", [3.0, 10.0])
@pytest.mark.parametrize("capacity", [5, 30, 1000])
@pytest.mark.parametrize(
    ("work_s", "way_s", "least"),
    [
        ((10.0, 60.0), 0.5, 0.9),
        ((10.0, 60.0), 10.0, 0.9),
        ((2.0, 5.0), 2.0, 0.9),
        ((0.5, 1.0), 0.5, 0.9),
        ((2.0, 4.0), 10.0, 0.8),
        ((5.0, 15.0), 30.0, 0.8),
    ],
)
def test_as_much_is_finished_as_with_all_places(
    work_s: tuple[float, float], way_s: float, least: float, capacity: int, interval_s: float
) -> None:
    """Adapting costs little time, even in an hour in which the way is longer than the work."""
    fixed, adapting = (
        worked(Account(lambda _: capacity, work_s, way_s), 3600, adapts=how, interval_s=interval_s)
        for how in (False, True)
    )

    assert adapting[-1].finished >= least * fixed[-1].finished


@pytest.mark.parametrize("work_s", [(10.0, 60.0), (2.0, 5.0), (0.5, 1.0)])
def test_an_account_that_grows_is_used(work_s: tuple[float, float]) -> None:
    """Half an hour after it went from 5 to 200, as much is finished as with all places."""

    def changed(at: float) -> int:
        return 5 if at < 1800 else 200

    fixed, adapting = (
        [each.finished for each in worked(Account(changed, work_s), 5400, adapts=how)]
        for how in (False, True)
    )

    assert adapting[-1] - adapting[1200] >= 0.9 * (fixed[-1] - fixed[1200])


@pytest.mark.parametrize("work_s", [(10.0, 60.0), (2.0, 5.0)])
@pytest.mark.parametrize("per_s", [0.5, 3.3])
def test_a_slow_start_is_no_sign(per_s: float, work_s: tuple[float, float]) -> None:
    """Few are worked on as long as few are submitted, or as they are long on their way."""
    sweeps = worked(Account(lambda _: 200, work_s, way_s=12.0), 900, per_s=per_s)

    assert places_after(sweeps, 0) == {MOST}


def test_an_account_of_which_nothing_is_known_keeps_its_places() -> None:
    """A list that calls all of them queued says nothing of how many are worked on."""
    places = Places(MOST)

    assert {places.observed(0, 250, is_full=True) for _ in range(500)} == {MOST}


# --- whatever sweeps may show ---------------------------------------------------------------------

rows = st.tuples(st.integers(0, 400), st.integers(0, 400), st.booleans(), st.integers(1, 20))


@given(st.integers(1, 300), st.lists(rows, max_size=60))
def test_no_sweeps_can_wedge_it(most: int, shown: list[tuple[int, int, bool, int]]) -> None:
    """Never below 2 and never above what was set; and an account that keeps up gets all again."""
    places = Places(most)
    counts = {most}
    for processing, queued, is_full, times in shown:
        for _ in range(times):
            counts.add(places.observed(processing, queued, is_full=is_full))
    for _ in range(60):
        places.observed(places.count, 0, is_full=True)

    assert min(2, most) <= min(counts)
    assert max(counts) <= most
    assert places.count == most
