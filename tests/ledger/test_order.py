"""What is handed out first: the ledger is the queue, and keeps each order with all in it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from pipeline.ledger import Ledger, Redo
from pipeline.models import AttemptState, Claim, Entry, Turn
from tests.ledger.ledgers import HERE, Clock, Steps, entry, ledger_at, reading

pytestmark = pytest.mark.anyio

LATER = replace(HERE, run_id="run-2")


def placed(**places: int) -> list[Entry]:
    """Recordings and where each stands in the order."""
    return [structs.replace(entry(b"%s.wav" % n.encode()), place=p) for n, p in places.items()]


async def find(ledger: Ledger, entries: Sequence[Entry]) -> None:
    await ledger.record_found("root", entries, lambda _: None, ())


def names(claims: Sequence[Claim]) -> str:
    return " ".join(claim.path.decode().removesuffix(".wav") for claim in claims)


async def test_lower_places_come_first(tmp_path: Path) -> None:
    """Whatever order the scan saw them in, places decide, and among equals the path."""
    async with ledger_at(tmp_path) as ledger:
        await find(ledger, placed(c=5, a=5, d=-(2**40), b=5, e=7))

        assert names(await ledger.claim(2)) == "d a"
        assert names(await ledger.claim(10)) == "b c e"


async def test_an_order_goes_on_in_the_next_run(tmp_path: Path) -> None:
    """Stopped in the middle, the next run takes the rest in its own order, also another one."""
    async with ledger_at(tmp_path) as ledger:
        await find(ledger, placed(a=3, b=2, c=1, d=4))
        assert names(await ledger.claim(2)) == "c b"
    async with ledger_at(tmp_path, LATER) as ledger:
        await find(ledger, placed(a=-3, b=-2, c=-1, d=-4))

        assert names(await ledger.claim(10)) == "d a b c"


async def test_what_was_read_before_keeps_its_place(tmp_path: Path) -> None:
    """Recordings whose bytes are known are handed out in their order, as all others are."""
    async with ledger_at(tmp_path) as ledger:
        for name in "abc":
            steps = Steps(ledger, f"{name}.wav".encode(), name.encode())
            claim = await steps.claim()
            await ledger.park_claim(claim, reading(name.encode()), "later")
    async with ledger_at(tmp_path, LATER) as ledger:
        found = [structs.replace(each, size=1) for each in placed(a=3, b=1, c=2)]
        await find(ledger, found)

        assert names(await ledger.claim(10)) == "b c a"


async def test_what_could_not_be_sent_comes_behind_the_others(tmp_path: Path) -> None:
    """A recording that a run gave up for what is the matter with all is no first of the next."""
    async with ledger_at(tmp_path) as ledger:
        claim = await Steps(ledger).claim()
        assert not await ledger.fail_upload(claim, "no", None, 3, reading())
    async with ledger_at(tmp_path, LATER) as ledger:
        await find(ledger, placed(a=0, b=1))

        assert names(await ledger.claim(10)) == "b a"


async def test_what_this_run_did_not_see_is_not_due(tmp_path: Path) -> None:
    """Recordings of other folders, or that are gone, wait in nobody's way."""
    async with ledger_at(tmp_path) as ledger:
        await find(ledger, placed(a=0, b=0, c=0))
    async with ledger_at(tmp_path, LATER) as ledger:
        await find(ledger, placed(b=0))

        assert names(await ledger.claim(10)) == "b"
        assert await ledger.next_due() is None


async def test_uploads_that_are_good_come_before_all_else(tmp_path: Path) -> None:
    """What an earlier run has uploaded and not submitted is submitted before anything is sent."""
    async with ledger_at(tmp_path) as ledger:
        await Steps(ledger, b"z.wav", b"zzz").reach(AttemptState.UPLOADED)
    async with ledger_at(tmp_path, LATER) as ledger:
        await find(ledger, placed(a=-9, z=9))

        first, second = await ledger.claim(10)

    assert (names([first]), first.uploaded is not None) == ("z", True)
    assert (names([second]), second.uploaded is not None) == ("a", False)


async def test_a_second_pass_begins_when_the_first_is_over(tmp_path: Path) -> None:
    """What failed once is taken again after everything that was not taken yet."""
    clock = Clock()
    async with ledger_at(tmp_path, clock=clock) as ledger:
        await find(ledger, placed(a=1, b=2, c=3))
        (first,) = await ledger.claim(1)
        assert await ledger.fail_upload(first, "lost", 30.0, 2)
        assert names(await ledger.claim(1)) == "b"
        clock.now += 31

        assert names(await ledger.claim(10)) == "c"
        assert names(await ledger.claim(10)) == "a"


async def test_a_try_is_not_new(tmp_path: Path) -> None:
    """Only what this run takes for the first time counts as new; the rest is there without."""
    async with ledger_at(tmp_path) as ledger:
        await find(ledger, placed(a=1, b=2))
        (first,) = await ledger.claim(1)
        assert await ledger.claim(10, anew=False) == []
        assert await ledger.next_due(anew=False) is None
        await ledger.put_back(first)

        assert await ledger.next_due(anew=False) == 0.0
        (again,) = await ledger.claim(10, anew=False)

    assert (first.is_new, again.is_new) == (True, False)
    assert first.path == again.path


async def test_what_failed_before_is_no_newer_for_a_run_that_did_not_try_it(tmp_path: Path) -> None:
    """It comes after what is new, also when the run that was to try it again came to its end."""
    again = Redo(failed=9)
    async with ledger_at(tmp_path) as ledger:
        failed = await Steps(ledger, b"a.wav").reach(AttemptState.ACCEPTED)
        await ledger.record_error(failed, "no speech", again=False, tries=1)
    async with ledger_at(tmp_path, replace(LATER, redo=again)) as ledger:
        await find(ledger, placed(a=1))
    async with ledger_at(tmp_path, replace(LATER, run_id="run-3", redo=again)) as ledger:
        await find(ledger, placed(a=1, b=2))

        assert names(await ledger.claim(10)) == "b a"


async def test_an_equal_recording_is_due_when_the_first_comes_to_nothing(tmp_path: Path) -> None:
    """One that was passed over for an equal recording's sake is taken once that has given up."""
    async with ledger_at(tmp_path) as ledger:
        first = await Steps(ledger, b"a.wav").claim()
        assert await ledger.record_uploaded(first, reading(), "upload:a")
        twin = await Steps(ledger, b"b.wav").claim()
        assert not await ledger.recognise(twin, reading())
        assert await ledger.claim(10) == []
        assert await ledger.next_due() is None

        await ledger.skip(first, "it changed while it was read")

        assert names(await ledger.claim(10)) == "b"


async def test_an_equal_recording_is_due_when_the_first_holds_other_bytes(tmp_path: Path) -> None:
    """A recording that was edited since it was claimed leaves its place to those that were not."""
    async with ledger_at(tmp_path) as ledger:
        claims = [await Steps(ledger, path).claim() for path in (b"a.wav", b"b.wav")]
        for claim in claims:
            assert await ledger.record_uploaded(claim, reading(), f"upload:{claim.path!r}")
            await ledger.put_back(claim)
    async with ledger_at(tmp_path, LATER) as ledger:
        await find(ledger, [entry(b"a.wav"), entry(b"b.wav")])
        (first,) = await ledger.claim(10)
        assert await ledger.record_uploaded(first, reading(b"two"), "upload:two")

        assert names(await ledger.claim(10)) == "b"


async def test_equal_recordings_are_no_obstacle(tmp_path: Path) -> None:
    """What is behind recordings that wait for an equal one is handed out, also one by one."""
    equal = [b"a.wav", b"b.wav", b"c.wav"]
    async with ledger_at(tmp_path) as ledger:
        claims = [await Steps(ledger, path).claim() for path in equal]
        for claim in claims:
            await ledger.record_uploaded(claim, reading(), f"upload:{claim.path!r}")
            await ledger.put_back(claim)
    async with ledger_at(tmp_path, LATER) as ledger:
        await find(ledger, [*map(entry, equal), entry(b"d.wav")])

        assert [names(await ledger.claim(1)) for _ in range(3)] == ["a", "d", ""]


async def test_what_failed_is_no_obstacle(tmp_path: Path) -> None:
    """However many recordings failed for good, what is behind them is handed out at once."""
    async with ledger_at(tmp_path) as ledger:
        for number in range(30):
            steps = Steps(ledger, b"bad-%02d.wav" % number, b"bad-%02d" % number)
            await steps.reach(AttemptState.REFUSED)
    bad = [entry(b"bad-%02d.wav" % number, size=6) for number in range(30)]
    async with ledger_at(tmp_path, LATER) as ledger:
        await find(ledger, [*bad, entry(b"good.wav")])

        assert names(await ledger.claim(1)) == "good"
        assert await ledger.next_due() is None
        assert await ledger.standing() == {
            ("root", "failed", "no"): 30,
            ("root", "parked", None): 1,
        }


@pytest.mark.parametrize("aside_s", [5.0, 40.0])
async def test_the_soonest_of_all_is_waited_for(tmp_path: Path, aside_s: float) -> None:
    """What is due later in this run is known to the second, whichever turn it has."""
    clock = Clock()
    async with ledger_at(tmp_path, clock=clock) as ledger:
        for path, again_in_s in ((b"a.wav", 30.0), (b"b.wav", 10.0)):
            claim = await Steps(ledger, path).claim()
            assert await ledger.fail_upload(claim, "a hiccup", again_in_s, 3)
        aside = await Steps(ledger, b"c.wav", b"three").reach(AttemptState.UPLOADED)
        await ledger.set_aside(aside, aside_s)

        assert await ledger.next_due() == min(aside_s, 10.0)
        clock.now += 10.5
        assert await ledger.next_due() == 0
        assert names(await ledger.claim(10)) == ("c" if aside_s < 10 else "b")


async def test_what_is_put_back_is_of_the_backlog_as_before(tmp_path: Path) -> None:
    """A ration that is used up leaves what it has no room for to other nights, not to this one."""
    async with ledger_at(tmp_path) as ledger:
        await find(ledger, [structs.replace(entry(), turn=Turn.BACKLOG)])
        (claim,) = await ledger.claim(1)
        await ledger.put_back(claim)

        assert await ledger.claim(10, backlog=False) == []
        assert await ledger.next_due(backlog=False) is None
        assert await ledger.next_due() == 0
        assert names(await ledger.claim(10)) == "a"
