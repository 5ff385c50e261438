"""What became of lost answers: found in the list, concluded upon, or left to the next run."""

import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.client import Client
from pipeline.errors import ExitCode
from pipeline.events import Event, Warned
from pipeline.intake import Intake
from pipeline.ledger import Ledger
from pipeline.limiter import Limiter
from pipeline.models import AttemptState
from pipeline.reconcile import Reconciler, next_look_s
from pipeline.wire import Row
from tests.ledger.ledgers import Clock, Steps, ledger_at, reading
from tests.support.runs import Archive, opened
from tests.support.service import Fault, ScriptedService

pytestmark = pytest.mark.anyio

ONE, TWO = b"one", b"two"


def _is(content: bytes) -> str:
    """How a content is called in the log of the service."""
    return sha256(content).hexdigest()


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        yield archive


# --- when to look ------------------------------------------------------------------------------


def test_looks_come_early_and_then_every_minute() -> None:
    """An attempt is looked for at 0, 5, 15 and 60 s, then every minute, and at `settle`."""
    ages, age_s = [], -1.0
    while age_s < 200:
        age_s = next_look_s(age_s, 150.0)
        ages.append(age_s)

    assert ages == [0.0, 5.0, 15.0, 60.0, 120.0, 150.0, 180.0, 240.0]


@given(age_s=st.floats(0, 1e6), settle_s=st.none() | st.floats(0, 1e5, exclude_min=True))
def test_the_next_look_is_later_and_within_a_minute(age_s: float, settle_s: float | None) -> None:
    """Whatever the age, the next look lies ahead, a minute away at most, not beyond `settle`."""
    following = next_look_s(age_s, settle_s)

    assert age_s < following <= age_s + 60
    if settle_s is not None and age_s < settle_s:
        assert following <= settle_s


# --- in the list -------------------------------------------------------------------------------


class Bench:
    """A reconciler before a real service, with one clock for both."""

    def __init__(self, service: ScriptedService, client: Client, ledger: Ledger) -> None:
        self.service, self.client, self.ledger = service, client, ledger
        self.events: list[Event] = []

    async def lost(self, path: bytes, content: bytes, *, accepted: bool) -> int:
        """An attempt whose answer was lost, which the service has accepted or not."""
        steps = Steps(self.ledger, path, content)
        claim = await steps.claim()

        async def chunks() -> AsyncIterator[bytes]:
            yield content

        url = await self.client.upload(chunks(), len(content))
        assert await self.ledger.record_uploaded(claim, reading(content), url)
        rows = await self.client.list(limit=1)
        anchor = rows[0].id if rows else None
        assert await self.ledger.claim_submit(claim.attempt_id, anchor)
        if accepted:
            self.service.submit("project-1", {"audio_url": url})
        await self.ledger.record_ambiguous(claim.attempt_id, "lost")
        return claim.attempt_id

    async def reconcile(self, settle_s: float | None) -> Reconciler:
        """Looks until nothing is unresolved any more, or parked."""
        reconciler = Reconciler(
            self.ledger, self.client, Intake(8, 8), self.events.append, settle_s
        )
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(reconciler.run)
                while await self.ledger.unresolved():
                    requests = self.service.requests.total()
                    with anyio.move_on_after(0.05):
                        await self.service.until(lambda: self.service.requests.total() > requests)  # noqa: B023
                reconciler.finish()
        return reconciler

    async def states(self) -> list[str]:
        """Of all attempts, in their order."""

        def read() -> list[str]:
            rows = self.ledger.ro.execute("SELECT state FROM attempts ORDER BY attempt_id")
            return [row[0] for row in rows]

        return await anyio.to_thread.run_sync(read)


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def bench(tmp_path: Path, clock: Clock) -> AsyncIterator[Bench]:
    async with (
        ScriptedService(transcript_seconds=3600.0) as service,
        Client(service.url, service.key, Limiter(1000, 1.0)) as client,
        ledger_at(tmp_path, clock=clock) as ledger,
    ):
        yield Bench(service, client, ledger)


async def test_one_walk_answers_for_all(bench: Bench) -> None:
    """A hundred lost answers are resolved by one walk of the list, a request for each 200 rows."""
    for number in range(100):
        await bench.lost(b"%03d.wav" % number, b"%d" % number, accepted=number % 2 == 0)
    bench.service.add_foreign(150)
    bench.service.requests.clear()

    await bench.reconcile(settle_s=0.0)

    assert await bench.states() == ["accepted", "not_accepted"] * 50
    assert bench.service.requests == {"list": 2}


async def test_the_walk_goes_down_to_the_oldest_anchor(bench: Bench) -> None:
    """Only what is newer than the oldest anchor is read, however long the list is."""
    bench.service.add_foreign(900)
    await bench.lost(b"a.wav", ONE, accepted=True)
    bench.service.add_foreign(100)
    bench.service.requests.clear()

    await bench.reconcile(settle_s=60.0)

    assert await bench.states() == ["accepted"]
    assert bench.service.requests == {"list": 1}


async def test_without_an_anchor_the_whole_list_counts(bench: Bench) -> None:
    """An attempt that was made when nothing was listed is looked for to the end of the list."""
    await bench.lost(b"a.wav", ONE, accepted=False)
    bench.service.add_foreign(450)
    bench.service.requests.clear()

    await bench.reconcile(settle_s=0.0)

    assert await bench.states() == ["not_accepted"]
    assert bench.service.requests["list"] >= 3


async def test_absence_before_settle_proves_nothing(bench: Bench, clock: Clock) -> None:
    """A list that lags behind does not show it yet: it is found once it is listed."""
    bench.service.list_lag_s = 3600.0
    await bench.lost(b"a.wav", ONE, accepted=True)
    clock.now += 4
    async with anyio.create_task_group() as group:
        reconciler = Reconciler(
            bench.ledger, bench.client, Intake(8, 8), bench.events.append, 120.0, clock
        )
        group.start_soon(reconciler.run)
        with anyio.fail_after(10):
            seen = bench.service.requests["list"]
            await bench.service.until(lambda: bench.service.requests["list"] > seen)
            await anyio.wait_all_tasks_blocked()
            assert await bench.states() == ["ambiguous"]
            for transcript in bench.service:
                transcript.listed_from = 0.0
            clock.now += 10
            while await bench.states() == ["ambiguous"]:
                reconciler.wake()
                await anyio.wait_all_tasks_blocked()
        reconciler.finish()

    assert await bench.states() == ["accepted"]


async def test_a_look_has_to_begin_after_settle(bench: Bench, clock: Clock) -> None:
    """A walk that began before `settle` was over concludes nothing, even if it ends after it."""
    await bench.lost(b"a.wav", ONE, accepted=False)
    bench.service.faults.add(Fault(on="list", action="hold", times=1))
    async with anyio.create_task_group() as group:
        reconciler = Reconciler(
            bench.ledger, bench.client, Intake(8, 8), bench.events.append, 120.0, clock
        )
        group.start_soon(reconciler.run)
        with anyio.fail_after(10):
            await bench.service.held("list")
            clock.now += 121
            bench.service.release()
            listed = bench.service.requests["list"]
            assert await bench.states() == ["ambiguous"]
            while await bench.states() == ["ambiguous"]:
                reconciler.wake()
                await anyio.wait_all_tasks_blocked()
        reconciler.finish()

    assert bench.service.requests["list"] > listed
    assert await bench.states() == ["not_accepted"]


async def test_of_several_matches_the_paid_one_is_adopted(bench: Bench) -> None:
    """Of several transcripts of one upload: the completed one, and the others are told."""
    await bench.lost(b"a.wav", ONE, accepted=True)
    url = next(iter(bench.service.uploads))
    second, third = (bench.service.submit("project-1", {"audio_url": url}) for _ in range(2))
    first = next(iter(bench.service))
    bench.service.fail(first.id, "Server error")
    bench.service.complete(third.id)

    await bench.reconcile(settle_s=60.0)

    (pending,) = await bench.ledger.pending()
    assert pending.transcript_id == third.id
    told = " ".join(event.message for event in bench.events if isinstance(event, Warned))
    assert first.id in told
    assert second.id in told


async def test_of_equal_matches_the_oldest_is_adopted(bench: Bench) -> None:
    """Where several are alike, the first that the service made is taken."""
    await bench.lost(b"a.wav", ONE, accepted=True)
    url = next(iter(bench.service.uploads))
    bench.service.submit("project-1", {"audio_url": url})

    await bench.reconcile(settle_s=60.0)

    (pending,) = await bench.ledger.pending()
    assert pending.transcript_id == next(iter(bench.service)).id


async def test_a_page_of_the_poller_counts(bench: Bench) -> None:
    """What somebody else has read in the list is looked at without waiting for the next look."""
    attempt_id = await bench.lost(b"a.wav", ONE, accepted=True)
    bench.service.list_lag_s = 0.0
    for transcript in bench.service:
        transcript.listed_from = 1e18
    reconciler = Reconciler(bench.ledger, bench.client, Intake(8, 8), bench.events.append, 120.0)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(reconciler.run)
            seen = bench.service.requests["list"]
            await bench.service.until(lambda: bench.service.requests["list"] > seen)
            await anyio.wait_all_tasks_blocked()
            (lost,) = await bench.ledger.unresolved()
            assert lost.attempt_id == attempt_id
            for transcript in bench.service:
                transcript.listed_from = 0.0
            row = Row(id="x", status="queued", audio_url=lost.upload_url)
            reconciler.seen([row], is_newest=True)
            while await bench.states() == ["ambiguous"]:
                await anyio.wait_all_tasks_blocked()
            reconciler.finish()

    assert await bench.states() == ["accepted"]


# --- in a run ----------------------------------------------------------------------------------


async def test_a_list_that_is_down_parks(archive: Archive) -> None:
    """A list that cannot be walked proves nothing: nothing is asked twice, the next run goes on."""
    archive.add("a.wav", ONE)
    archive.add("b.wav", TWO)
    archive.service.faults.add(Fault(on="submit", action="drop_after", match=_is(ONE)))
    # All but the question of the beginning.
    archive.service.faults.add(Fault(on="list", action="list_down", times=None, skip=1))

    outcome = await archive.run()

    assert outcome.summary.exit_code == ExitCode.PARTIAL
    assert outcome.summary.parked == 1
    assert any("list" in reason for reason in outcome.summary.reasons["parked"])
    archive.service.faults.clear()
    assert (await archive.run()).summary.written == 1
    assert archive.service.requests["submit"] == 2
    assert set(archive.service.billable.values()) == {1}


async def test_settle_never_parks(archive: Archive) -> None:
    """The strict form never concludes: what was found is adopted, what was not stays parked."""
    archive.add("a.wav", ONE)
    archive.service.faults.add(Fault(on="submit", action="drop_after"))

    outcome = await archive.run(settle="never")

    assert outcome.summary.written == 1
    assert archive.service.requests["submit"] == 1


async def test_a_lagging_list_is_waited_for(archive: Archive) -> None:
    """A transcript that is listed late, but within `settle`, is found and not paid again."""
    archive.add("a.wav", ONE)
    archive.service.list_lag_s = 1.0
    archive.service.faults.add(Fault(on="submit", action="drop_after"))

    outcome = await archive.run(settle="6s")

    assert outcome.summary.written == 1
    assert archive.service.requests["submit"] == 1
    (transcript,) = archive.service.accepted(ONE)
    assert json.loads(archive.results()["a.wav.json"])["id"] == transcript.id


async def test_other_programs_transcripts_are_not_ours(archive: Archive) -> None:
    """Transcripts of others in the list are neither adopted nor saved."""
    archive.add("a.wav", ONE)
    archive.service.add_foreign(10)
    archive.service.faults.add(Fault(on="submit", action="drop_before"))

    outcome = await archive.run()

    assert outcome.summary.written == 1
    assert len(archive.results()) == 1
    assert set(archive.service.billable.values()) == {1}


async def test_a_lost_answer_holds_no_worker(archive: Archive) -> None:
    """While lost answers are being looked for, everything else goes on."""
    archive.add("0.wav", ONE)
    for number in range(1, 20):
        archive.add(f"{number:02}.wav", b"%d" % number)
    archive.service.faults.add(Fault(on="submit", action="drop_before"))

    outcome = await archive.run(settle="2s", uploads=1, concurrency=1)

    submits = [call for call in archive.service.log if call.kind == "submit"]
    lost = submits[0]
    assert outcome.summary.written == 20
    between = [call for call in submits if lost.at < call.at < lost.at + 2.0]
    assert len(between) >= 5


async def test_states_are_where_they_belong(archive: Archive) -> None:
    """A lost answer that was found leaves one attempt, accepted; one that was not leaves two."""
    archive.add("a.wav", ONE)
    archive.add("b.wav", TWO)
    archive.service.faults.add(Fault(on="submit", action="drop_after", match=_is(ONE)))
    archive.service.faults.add(Fault(on="submit", action="drop_before", match=_is(TWO)))

    await archive.run()

    states = await archive.rows("SELECT content, state FROM attempts ORDER BY attempt_id")
    assert sorted(states) == sorted(
        [
            (_is(ONE), AttemptState.ACCEPTED),
            (_is(TWO), AttemptState.NOT_ACCEPTED),
            (_is(TWO), AttemptState.ACCEPTED),
        ]
    )
