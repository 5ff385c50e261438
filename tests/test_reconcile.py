"""What became of lost answers: found in the list, concluded upon, or left to the next run."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.allowance import Allowance, Amount
from pipeline.client import Client
from pipeline.errors import CapReached, ExitCode
from pipeline.events import Event, Submitted, Warned
from pipeline.intake import Intake
from pipeline.ledger import Ledger
from pipeline.limiter import Limiter
from pipeline.models import AttemptState
from pipeline.outages import Outages
from pipeline.reconcile import Reconciler, next_look_s
from pipeline.settings import Settings
from pipeline.wire import Row
from tests.ledger.ledgers import HERE, Clock, Steps, ledger_at, reading
from tests.support.runs import Archive, opened
from tests.support.service import Fault, ScriptedService
from tests.support.service_account import LISTED_FOR_S, NOT_FOUND, Transcript

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
        reconciler = self.reconciler(Intake(8, 8), settle_s)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(reconciler.run)
                while await self.ledger.unresolved():
                    requests = self.service.requests.total()
                    with anyio.move_on_after(0.05):
                        await self.service.until(lambda: self.service.requests.total() > requests)  # noqa: B023
                reconciler.finish()
        return reconciler

    @asynccontextmanager
    async def looking(
        self, settle_s: float | None, clock: Clock, allowance: Allowance | None = None
    ) -> "AsyncIterator[Looking]":
        """A reconciler at work, whose clock a test moves."""
        intake = Intake(8, 8, allowance)
        reconciler = self.reconciler(intake, settle_s, clock)
        async with anyio.create_task_group() as group:
            group.start_soon(reconciler.run)
            with anyio.fail_after(20):
                yield Looking(reconciler, intake, clock, clock.now)
            reconciler.finish()

    def reconciler(
        self, intake: Intake, settle_s: float | None, clock: Clock | None = None
    ) -> Reconciler:
        outages = Outages(self.client, intake, self.events.append)
        settled = (self.ledger, self.client, intake, outages, self.events.append, settle_s)
        return Reconciler(*settled, clock) if clock else Reconciler(*settled)

    async def accepted(self, path: bytes, content: bytes) -> Transcript:
        """The transcript of an attempt whose answer was lost."""
        await self.lost(path, content, accepted=True)
        return self.service.accepted(content)[-1]

    def walks(self) -> int:
        """How often the list was read from its top, but for the questions of one row."""
        asked = [call.query for call in self.service.log if call.kind == "list"]
        return sum("limit=200" in query and "before_id" not in query for query in asked)

    async def states(self) -> list[str]:
        """Of all attempts, in their order."""

        def read() -> list[str]:
            rows = self.ledger.ro.execute("SELECT state FROM attempts ORDER BY attempt_id")
            return [row[0] for row in rows]

        return await anyio.to_thread.run_sync(read)


@dataclass
class Looking:
    """A reconciler at work: its looks, one by one."""

    reconciler: Reconciler
    intake: Intake
    clock: Clock
    began: float

    async def look(self, age_s: float) -> None:
        """Moves the clock to this age, and waits until the look that is due then is over."""
        change = self.intake.next_change
        self.clock.now = self.began + age_s
        self.reconciler.wake()
        await change.wait()


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
    """A hundred lost answers are resolved by one walk of the list, and a GET of each id found."""
    for number in range(100):
        await bench.lost(b"%03d.wav" % number, b"%d" % number, accepted=number % 2 == 0)
    bench.service.add_foreign(150)
    bench.service.requests.clear()

    await bench.reconcile(settle_s=0.0)

    assert await bench.states() == ["accepted", "not_accepted"] * 50
    assert bench.service.requests == {"list": 2, "get": 50}


async def test_what_is_found_takes_its_place_at_the_service(bench: Bench, clock: Clock) -> None:
    """A transcript that is adopted counts among those that the service has of this run."""
    await bench.lost(b"a.wav", ONE, accepted=True)
    async with bench.looking(120.0, clock) as looking:
        before = looking.intake.room
        await looking.look(0.0)

    assert looking.intake.room == before - 1


async def test_the_walk_goes_down_to_the_oldest_anchor(bench: Bench) -> None:
    """Only what is newer than the oldest anchor is read, however long the list is."""
    bench.service.add_foreign(900)
    await bench.lost(b"a.wav", ONE, accepted=True)
    bench.service.add_foreign(100)
    bench.service.requests.clear()

    await bench.reconcile(settle_s=60.0)

    assert await bench.states() == ["accepted"]
    assert bench.service.requests == {"list": 1, "get": 1}


async def test_no_newer_anchor_ends_the_walk(bench: Bench) -> None:
    """An attempt is found below the anchors of those that were made after it."""
    bench.service.add_foreign(100)
    await bench.lost(b"old.wav", ONE, accepted=True)
    bench.service.add_foreign(300)
    await bench.lost(b"new.wav", TWO, accepted=False)

    await bench.reconcile(settle_s=0.0)

    assert await bench.states() == ["accepted", "not_accepted"]


async def test_without_an_anchor_the_whole_list_counts(bench: Bench) -> None:
    """An attempt that was made when nothing was listed is looked for to the end of the list."""
    await bench.lost(b"a.wav", ONE, accepted=False)
    bench.service.add_foreign(450)
    bench.service.requests.clear()

    await bench.reconcile(settle_s=0.0)

    assert await bench.states() == ["not_accepted"]
    assert bench.service.requests["list"] >= 3


async def test_without_its_anchor_the_whole_list_counts(bench: Bench) -> None:
    """Where the anchor is too old to be listed any more, the walk goes down to the end."""
    bench.service.add_foreign(5)
    await bench.lost(b"a.wav", ONE, accepted=False)
    await bench.lost(b"b.wav", TWO, accepted=True)
    for transcript in list(bench.service)[:5]:
        transcript.created -= LISTED_FOR_S
    bench.service.add_foreign(450)

    await bench.reconcile(settle_s=0.0)

    assert await bench.states() == ["not_accepted", "accepted"]


async def test_an_empty_list_that_was_not_empty_proves_nothing(bench: Bench) -> None:
    """A service that lists nothing at all where it listed something is not believed."""
    bench.service.add_foreign(1)
    await bench.lost(b"a.wav", ONE, accepted=True)
    empty = json.dumps({"transcripts": []})
    bench.service.faults.add(Fault(on="list", action="answer", status=200, body=empty, times=None))

    await bench.reconcile(settle_s=0.0)

    assert await bench.states() == ["ambiguous"]


async def test_absence_before_settle_proves_nothing(bench: Bench, clock: Clock) -> None:
    """A list that lags behind does not show it yet: it is found once it is listed."""
    bench.service.list_lag_s = 3600.0
    await bench.lost(b"a.wav", ONE, accepted=True)
    clock.now += 4
    async with anyio.create_task_group() as group:
        reconciler = bench.reconciler(Intake(8, 8), 120.0, clock)
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
        reconciler = bench.reconciler(Intake(8, 8), 120.0, clock)
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
    told = [event.message for event in bench.events if isinstance(event, Warned)]
    assert [each.id in line for each, line in zip((first, second), sorted(told), strict=True)]
    assert all(sum(each.id in line for line in told) == 1 for each in (first, second))


async def test_of_equal_matches_the_oldest_is_adopted(bench: Bench) -> None:
    """Where several are alike, the first that the service made is taken."""
    await bench.lost(b"a.wav", ONE, accepted=True)
    url = next(iter(bench.service.uploads))
    bench.service.submit("project-1", {"audio_url": url})

    await bench.reconcile(settle_s=60.0)

    (pending,) = await bench.ledger.pending()
    assert pending.transcript_id == next(iter(bench.service)).id


async def test_the_exact_address_comes_first(bench: Bench) -> None:
    """Of two transcripts of one upload the one that spells it as it was given is taken."""
    first = await bench.accepted(b"a.wav", ONE)
    exact = bench.service.submit("project-1", {"audio_url": first.audio_url})
    spoil(bench, [first.id], audio_url=f"{first.audio_url}?again=1")

    await bench.reconcile(settle_s=60.0)

    (pending,) = await bench.ledger.pending()
    assert pending.transcript_id == exact.id


async def test_a_page_of_the_poller_counts(bench: Bench, clock: Clock) -> None:
    """What somebody else has read in the list is looked at without waiting for the next look."""
    transcript = await bench.accepted(b"a.wav", ONE)
    transcript.listed_from = 1e18
    async with bench.looking(120.0, clock) as looking:
        await looking.look(0.0)
        transcript.listed_from = 0.0
        clock.now += 1.0
        row = Row(id=transcript.id, status="queued", audio_url=transcript.audio_url)
        looking.reconciler.seen([row], is_newest=True)
        while await bench.states() == ["ambiguous"]:
            await anyio.wait_all_tasks_blocked()

    assert await bench.states() == ["accepted"]
    assert bench.walks() == 2


@pytest.mark.parametrize("status", [400, 404, 405])
async def test_a_walk_that_breaks_off_proves_nothing(
    bench: Bench, clock: Clock, status: int
) -> None:
    """A cursor that the service does not know in the middle ends the look, not the search."""
    await bench.lost(b"a.wav", ONE, accepted=True)
    bench.service.add_foreign(450)
    gone = json.dumps({"error": NOT_FOUND})
    bench.service.faults.add(
        Fault(on="list", action="answer", status=status, body=gone, match="before_id", skip=1)
    )
    async with bench.looking(120.0, clock) as looking:
        await looking.look(0.0)
        broken = await bench.states()
        await looking.look(5.0)

    assert broken == ["ambiguous"]
    assert await bench.states() == ["accepted"]


# --- rows that cannot be read ------------------------------------------------------------------


def spoil(bench: Bench, rows: Sequence[str], **patch: object) -> None:
    """Let the list say something else of these, each time that it shows them."""
    bench.service.faults.add(Fault(on="list", action="patch", times=None, rows=rows, patch=patch))


ODD_ADDRESSES = [None, 5, ["x"], {"url": "x"}, True]


@pytest.mark.parametrize("address", ODD_ADDRESSES, ids=str)
async def test_a_row_that_does_not_say_what_it_is_of_is_asked_for(
    bench: Bench, address: object
) -> None:
    """A newer row whose address cannot be read is looked into, once, and adopted if it is ours."""
    transcript = await bench.accepted(b"a.wav", ONE)
    await bench.lost(b"b.wav", TWO, accepted=False)
    spoil(bench, [transcript.id], audio_url=address)

    await bench.reconcile(settle_s=0.0)

    assert await bench.states() == ["accepted", "not_accepted"]
    assert bench.service.requests["get"] == 1


@pytest.mark.parametrize("patch", [{"id": None}, {"id": 5}, {}], ids=str)
async def test_what_cannot_be_looked_into_proves_no_absence(
    bench: Bench, clock: Clock, patch: dict[str, object]
) -> None:
    """Below a row that says nothing of itself nobody is absent; attempts after it are decided."""
    await bench.lost(b"a.wav", ONE, accepted=False)
    (foreign,) = bench.service.add_foreign(1)
    spoil(bench, [foreign], audio_url=None, **patch)
    bench.service.faults.add(Fault(on="get", action="patch", times=None, patch={"audio_url": None}))
    bench.service.add_foreign(1)
    await bench.lost(b"b.wav", TWO, accepted=False)
    await bench.lost(b"c.wav", b"three", accepted=True)

    async with bench.looking(120.0, clock) as looking:
        await looking.look(0.0)
        early = await bench.states()
        await looking.look(120.0)

    assert early == ["ambiguous", "ambiguous", "accepted"]
    assert await bench.states() == ["ambiguous", "not_accepted", "accepted"]
    assert not await bench.ledger.unresolved()
    assert bench.service.requests["get"] <= 2  # one is of c.wav, which was found


async def test_the_row_of_another_upload_proves_no_absence(bench: Bench, clock: Clock) -> None:
    """Where two uploads differ by their host alone, a row of the one says nothing of the other."""
    other = await bench.accepted(b"a.wav", ONE)
    await bench.reconcile(settle_s=0.0)
    claim = await Steps(bench.ledger, b"b.wav", TWO).claim()
    assert other.audio_url is not None
    url = f"http://elsewhere.invalid/{other.audio_url.split('/', 3)[3]}"
    assert await bench.ledger.record_uploaded(claim, reading(TWO), url)
    assert await bench.ledger.claim_submit(claim.attempt_id, other.id)
    await bench.ledger.record_ambiguous(claim.attempt_id, "lost")
    spoil(bench, bench.service.add_foreign(1), audio_url=None)
    bench.service.faults.add(Fault(on="get", action="patch", times=None, patch={"audio_url": None}))

    async with bench.looking(120.0, clock) as looking:
        await looking.look(0.0)
        await looking.look(120.0)

    assert await bench.states() == ["accepted", "ambiguous"]
    assert not await bench.ledger.unresolved()


async def test_what_was_looked_into_counts_beside_a_row_that_says_nothing(
    bench: Bench, clock: Clock
) -> None:
    """An attempt whose own row was looked into is taken, though another row may be anybody's."""
    transcript = await bench.accepted(b"a.wav", ONE)
    (foreign,) = bench.service.add_foreign(1)
    spoil(bench, [transcript.id, foreign], audio_url=None)
    bench.service.faults.add(
        Fault(on="get", action="answer", status=400, match=foreign, times=None)
    )

    async with bench.looking(120.0, clock) as looking:
        await looking.look(0.0)

    assert await bench.states() == ["accepted"]


async def test_a_page_without_an_id_hides_what_is_below(bench: Bench, clock: Clock) -> None:
    """Where no row of a page can be asked for by its id, nobody knows what comes after them."""
    bench.service.add_foreign(1)
    await bench.lost(b"a.wav", ONE, accepted=True)
    spoil(bench, bench.service.add_foreign(200), id=None)

    async with bench.looking(0.0, clock) as looking:
        await looking.look(0.0)

    assert await bench.states() == ["ambiguous"]
    assert not await bench.ledger.unresolved()


async def test_rows_below_its_anchor_do_not_matter(bench: Bench) -> None:
    """What was listed before an attempt was made may say what it likes, the anchor itself too."""
    spoil(bench, bench.service.add_foreign(3), audio_url=None)
    await bench.lost(b"a.wav", ONE, accepted=False)

    await bench.reconcile(settle_s=0.0)

    assert await bench.states() == ["not_accepted"]
    assert bench.service.requests["get"] == 0


async def test_a_list_that_says_nothing_asks_for_little(bench: Bench, clock: Clock) -> None:
    """Of many rows that do not say what they are of, some are asked for in a look, each once."""
    await bench.lost(b"a.wav", ONE, accepted=True)
    bench.service.add_foreign(30)
    spoil(bench, [each.id for each in bench.service], audio_url=None)

    async with bench.looking(120.0, clock) as looking:
        await looking.look(0.0)
        first = bench.service.requests["get"]
        await looking.look(5.0)

    assert (first, bench.service.requests["get"]) == (20, 31)
    assert await bench.states() == ["accepted"]


async def test_a_list_that_is_down_for_a_while_parks_nothing(bench: Bench, clock: Clock) -> None:
    """Looks that fail before `settle` is over decide nothing; the list may be back in time."""
    await bench.lost(b"a.wav", ONE, accepted=True)
    await bench.lost(b"b.wav", TWO, accepted=False)
    bench.service.faults.add(Fault(on="list", action="answer", status=404, times=4))
    async with bench.looking(120.0, clock) as looking:
        for age_s in (0.0, 5.0, 15.0, 60.0):
            await looking.look(age_s)
        undecided = await bench.ledger.unresolved()
        await looking.look(120.0)
        while "ambiguous" in await bench.states():
            await anyio.wait_all_tasks_blocked()

    assert len(undecided) == 2
    assert await bench.states() == ["accepted", "not_accepted"]


async def test_a_list_that_goes_round_proves_nothing(bench: Bench, clock: Clock) -> None:
    """Pages that come again in a circle are noticed, and the attempt is left to the next run."""
    await bench.lost(b"a.wav", ONE, accepted=False)
    pages = [
        json.dumps({"transcripts": [{"id": f"row-{n}", "status": "error", "audio_url": "x"}]})
        for n in (1, 2, 3)
    ]
    turns = [("limit=200", 0), ("before_id=row-1", 1), ("before_id=row-2", 2), ("row-3", 0)]
    for match, page in reversed(turns):
        bench.service.faults.add(
            Fault(on="list", action="answer", status=200, body=pages[page], match=match, times=None)
        )
    async with bench.looking(0.0, clock) as looking:
        await looking.look(0.0)

    assert await bench.states() == ["ambiguous"]
    assert await bench.ledger.unresolved() == []


async def test_what_was_listed_once_was_accepted(bench: Bench, clock: Clock) -> None:
    """A transcript that a page has shown, and that is deleted before the walk, is not absent."""
    transcript = await bench.accepted(b"a.wav", ONE)
    row = Row(id=transcript.id, status="completed", audio_url=transcript.audio_url)
    bench.service.delete(transcript.project, transcript.id)
    bench.service.faults.add(Fault(on="list", action="hold", times=1))
    async with bench.looking(0.0, clock) as looking:
        await bench.service.held("list")
        looking.reconciler.seen([row], is_newest=True)
        bench.service.release()
        while await bench.states() == ["ambiguous"]:
            await anyio.wait_all_tasks_blocked()

    (pending,) = await bench.ledger.pending()
    assert pending.transcript_id == transcript.id


async def test_what_a_broken_walk_showed_was_accepted(bench: Bench, clock: Clock) -> None:
    """A row that a walk met before it broke off counts, though the next does not show it."""
    transcript = await bench.accepted(b"a.wav", ONE)
    bench.service.add_foreign(150)
    bench.service.faults.add(
        Fault(on="list", action="answer", status=404, match="before_id", times=1)
    )
    async with bench.looking(120.0, clock) as looking:
        await looking.look(0.0)
        bench.service.delete(transcript.project, transcript.id)
        await looking.look(1.0)
        while await bench.states() == ["ambiguous"]:
            await anyio.wait_all_tasks_blocked()

    (pending,) = await bench.ledger.pending()
    assert pending.transcript_id == transcript.id


async def test_a_sighting_counts_when_the_list_fails_for_good(bench: Bench, clock: Clock) -> None:
    """What a page has shown is adopted at `settle`, though no walk was ever complete."""
    transcript = await bench.accepted(b"a.wav", ONE)
    await bench.lost(b"b.wav", TWO, accepted=True)
    row = Row(id=transcript.id, status="queued", audio_url=transcript.audio_url)
    bench.service.faults.add(Fault(on="list", action="answer", status=404, times=None))
    async with bench.looking(120.0, clock) as looking:
        await looking.look(0.0)
        looking.reconciler.seen([row], is_newest=True)
        await looking.look(120.0)
        while await bench.ledger.unresolved():
            await anyio.wait_all_tasks_blocked()

    assert await bench.states() == ["accepted", "ambiguous"]


async def test_thousands_of_rows_are_walked_as_often_as_the_schedule_says(
    bench: Bench, clock: Clock
) -> None:
    """With 5,000 rows of others above it, an attempt costs five walks in two minutes, no more."""
    await bench.lost(b"a.wav", ONE, accepted=False)
    bench.service.add_foreign(5_000)
    bench.service.requests.clear()
    async with bench.looking(120.0, clock) as looking:
        for age_s in range(121):
            if age_s in (0, 5, 15, 60, 120):
                await looking.look(age_s)
            else:
                clock.now = looking.began + age_s
                looking.reconciler.wake()
                await bench.ledger.unresolved()

    assert await bench.states() == ["not_accepted"]
    assert bench.walks() == 5
    assert bench.service.requests == {"list": 5 * 26}


async def test_a_long_walk_is_followed_by_a_rest(bench: Bench, clock: Clock) -> None:
    """Answers that are lost one after the other share walks: each page is a tenth of a second."""
    for number in range(3):
        await bench.lost(b"%d.wav" % number, b"%d" % number, accepted=False)
    bench.service.add_foreign(2_000)
    bench.service.requests.clear()
    async with bench.looking(120.0, clock) as looking:
        await looking.look(0.0)
        await bench.lost(b"late.wav", ONE, accepted=True)
        for age_s in (0.5, 1.0):
            clock.now = looking.began + age_s
            looking.reconciler.wake()
            await bench.ledger.unresolved()
        rested = bench.walks()
        await looking.look(1.2)

    assert (rested, bench.walks()) == (1, 2)
    assert await bench.states() == ["ambiguous"] * 3 + ["accepted"]


async def test_a_row_that_cannot_be_taken_is_no_reason_to_hurry(bench: Bench, clock: Clock) -> None:
    """A row that is seen for the first time is looked at once more at once, then as all others."""
    transcript = await bench.accepted(b"a.wav", ONE)
    bench.service.faults.add(
        Fault(on="get", action="answer", status=400, match=transcript.id, times=None)
    )
    async with bench.looking(120.0, clock) as looking:
        for age_s in (0.0, 0.2):
            await looking.look(age_s)
        for tenths in range(3, 50):
            clock.now = looking.began + tenths / 10
            looking.reconciler.wake()
            await bench.ledger.unresolved()
        await looking.look(5.0)

    assert bench.walks() == 3
    assert await bench.states() == ["ambiguous"]


async def test_rows_that_come_meanwhile_do_no_harm(bench: Bench, clock: Clock) -> None:
    """Transcripts that others begin while the list is being walked hide nothing."""
    await bench.lost(b"a.wav", ONE, accepted=True)
    bench.service.add_foreign(450)
    bench.service.faults.add(Fault(on="list", action="hold_before", match="before_id", times=1))
    async with bench.looking(0.0, clock):
        await bench.service.held("list")
        bench.service.add_foreign(500)
        bench.service.release()
        while await bench.states() == ["ambiguous"]:
            await anyio.wait_all_tasks_blocked()

    assert await bench.states() == ["accepted"]


async def test_other_projects_are_not_looked_into(bench: Bench) -> None:
    """Rows of another project on the same service are neither seen nor walked."""
    await bench.lost(b"a.wav", ONE, accepted=False)
    bench.service.add_foreign(1_000, project="project-2")
    bench.service.requests.clear()

    await bench.reconcile(settle_s=0.0)

    assert await bench.states() == ["not_accepted"]
    assert bench.service.requests == {"list": 1}


async def test_a_stop_ends_a_walk(bench: Bench, clock: Clock) -> None:
    """A run that fetches nothing more does not wait for a page of the list."""
    await bench.lost(b"a.wav", ONE, accepted=False)
    bench.service.faults.add(Fault(on="list", action="hold", times=None))
    intake = Intake(8, 8)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(bench.reconciler(intake, 0.0, clock).run)
            await bench.service.held("list")
            intake.stop(ExitCode.INTERRUPTED, "stopped")

    assert await bench.states() == ["ambiguous"]


async def test_what_never_settles_is_parked_and_decided_when_it_may_be(
    tmp_path: Path, clock: Clock
) -> None:
    """`--settle never` parks after a minute of looks; a later run with a `settle` decides."""
    async with (
        ScriptedService() as service,
        Client(service.url, service.key, Limiter(1000, 1.0)) as client,
    ):
        async with ledger_at(tmp_path, clock=clock) as ledger:
            bench = Bench(service, client, ledger)
            await bench.lost(b"a.wav", ONE, accepted=False)
            async with bench.looking(None, clock) as looking:
                for age_s in (0.0, 5.0, 15.0):
                    await looking.look(age_s)
                before = len(await ledger.unresolved())
                await looking.look(60.0)
            parked = before - len(await ledger.unresolved())
            states = await bench.states()
        async with ledger_at(tmp_path, replace(HERE, run_id="run-2"), clock) as ledger:
            bench = Bench(service, client, ledger)
            await bench.reconcile(settle_s=0.0)
            decided = await bench.states()

    assert (before, parked, states) == (1, 1, ["ambiguous"])
    assert decided == ["not_accepted"]


async def room(allowance: Allowance) -> bool:
    """Whether half an hour may still be asked for."""
    with anyio.move_on_after(0.01) as scope, suppress(CapReached):
        return await allowance.reserve(99, Amount(1800.0, None))
    assert not scope.cancelled_caught, "what is decided is not waited for"
    return False


@pytest.mark.parametrize(
    ("settle_s", "is_listed", "has_room"),
    [(None, True, False), (60.0, False, False), (60.0, True, True)],
)
async def test_what_is_parked_is_charged(
    bench: Bench, clock: Clock, settle_s: float | None, is_listed: bool, has_room: bool
) -> None:
    """What nobody can decide in this run may well be paid; what never was leaves its room."""
    attempt_id = await bench.lost(b"a.wav", ONE, accepted=False)
    if not is_listed:
        bench.service.faults.add(Fault(on="list", action="answer", status=404, times=None))
    allowance = Allowance(Settings(max_hours=1))
    await allowance.reserve(attempt_id, Amount(2700.0, None))
    async with bench.looking(settle_s, clock, allowance) as looking:
        for age_s in (0.0, 5.0, 15.0, 60.0):
            await looking.look(age_s)

    assert await room(allowance) is has_room


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


async def test_what_is_found_counts_as_accepted(archive: Archive) -> None:
    """Each transcript that was accepted is told and counted once, found in the list or not."""
    for number in range(6):
        archive.add(f"{number}.wav", b"%d" % number)
    archive.service.faults.add(Fault(on="submit", action="drop_after", times=3))

    outcome = await archive.run()

    told = [(each.recording, each.transcript_id) for each in outcome.of(Submitted)]
    journal = archive.state / "runs" / outcome.summary.run_id / "attempts.ndjson"
    _, *noted = map(json.loads, journal.read_text().splitlines())
    assert sorted(told) == sorted((line["path"], line["transcript_id"]) for line in noted)
    assert sorted(each for _, each in told) == sorted(each.id for each in archive.service)
    assert outcome.summary.transcripts == len(told) == 6


async def test_what_an_earlier_run_lost_counts_where_it_is_found(archive: Archive) -> None:
    """A lost answer that only a later run finds is no transcript of the first, and one of that."""
    archive.add("a.wav", ONE)
    archive.service.faults.add(Fault(on="submit", action="drop_after"))
    archive.service.faults.add(Fault(on="list", action="list_down", times=None, skip=1))
    first = await archive.run()
    archive.service.faults.clear()
    archive.add("b.wav", TWO)

    second = await archive.run()

    assert first.summary.transcripts == len(first.of(Submitted)) == 0
    assert second.summary.transcripts == 2
    assert sorted(each.recording for each in second.of(Submitted)) == ["a.wav", "b.wav"]
    assert archive.service.requests["submit"] == 2


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


async def test_a_long_walk_holds_nothing_up(archive: Archive) -> None:
    """While a walk waits for a page, all other recordings are transcribed and saved."""
    archive.add("0.wav", ONE)
    archive.service.faults.add(Fault(on="submit", action="hold", times=1))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(archive.run)
            await archive.service.held("submit")
            group.cancel_scope.cancel()
    archive.service.release()
    archive.service.add_foreign(300)
    for number in range(1, 10):
        archive.add(f"{number}.wav", b"%d" % number)
    archive.service.faults.add(Fault(on="list", action="hold", match="before_id", times=1))
    outcomes = []

    async def run() -> None:
        outcomes.append(await archive.run(uploads=1, concurrency=1))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        with anyio.fail_after(30):
            await archive.service.held("list")
            await archive.service.until(lambda: archive.service.requests["get"] >= 9)
            while len(archive.results()) < 9:
                await anyio.wait_all_tasks_blocked()
            still_held = await archive.service.held("list")
            archive.service.release()

    assert len(still_held) == 1
    assert outcomes[0].summary.written == 10
    assert set(archive.service.billable.values()) == {1}


async def test_a_list_that_asks_for_money_ends_the_run(archive: Archive) -> None:
    """A list that is refused for want of money leaves a lost answer to the next run."""
    archive.add("a.wav", ONE)
    archive.service.faults.add(Fault(on="submit", action="drop_after", times=1))
    archive.service.faults.add(
        Fault(on="list", action="answer", status=402, body="no", times=None, skip=1)
    )

    outcome = await archive.run()
    archive.service.faults.clear()
    again = await archive.run()

    assert outcome.summary.exit_code == ExitCode.REFUSED
    assert (outcome.summary.parked, again.summary.written) == (1, 1)
    assert archive.service.requests["submit"] == 1
