"""What counts against the caps of a month: all that is paid, or may be."""

from datetime import UTC, datetime

import pytest
from anyio import to_thread

from pipeline.durations import LONGEST_S
from pipeline.ledger import Ledger
from pipeline.ledger.accounts import billed
from pipeline.models import AttemptState, Completion
from pipeline.report.calendar import month_of
from tests.ledger.ledgers import Clock, Steps, reading

pytestmark = pytest.mark.anyio

LONG_S, COST_USD, DEAREST_USD = 1800.0, 0.25, 3.6
NOW = datetime.fromtimestamp(Clock().now, UTC)
PRICES = {"universal-2": 1.8, "dear": DEAREST_USD}


async def spent(ledger: Ledger, since: float = 0.0) -> tuple[float, float]:
    """Seconds and USD, the latter without what sums of floats are off by."""
    seconds, usd = await ledger.spent(since, PRICES)
    return seconds, round(usd, 9)


async def asked(ledger: Ledger, state: AttemptState) -> int:
    """An attempt in this state that is expected to be half an hour."""
    attempt_id = await Steps(ledger).reach(state)
    await ledger.expect(attempt_id, LONG_S, COST_USD)
    return attempt_id


@pytest.mark.parametrize("state", AttemptState)
async def test_doubt_counts_as_spent(ledger: Ledger, state: AttemptState) -> None:
    """From before the request leaves until it is certain that it came to nothing."""
    await asked(ledger, state)

    may_be_paid = {AttemptState.SUBMITTING, AttemptState.AMBIGUOUS, AttemptState.ACCEPTED}
    assert await spent(ledger) == ((LONG_S, COST_USD) if state in may_be_paid else (0, 0))


async def test_what_is_parked_counts_as_spent(ledger: Ledger) -> None:
    """What nobody could decide in one run counts in it, and in the next one."""
    attempt_id = await asked(ledger, AttemptState.AMBIGUOUS)
    await ledger.park([attempt_id], "the list is down")

    assert await spent(ledger) == (LONG_S, COST_USD)
    await ledger.recover()
    assert await spent(ledger) == (LONG_S, COST_USD)


async def test_what_was_not_accepted_is_not_spent(ledger: Ledger) -> None:
    """A doubt that is resolved, and an error of the service, cost nothing."""
    attempt_id = await asked(ledger, AttemptState.AMBIGUOUS)
    await ledger.record_not_accepted(attempt_id, 3)
    attempt_id = await asked(ledger, AttemptState.ACCEPTED)
    await ledger.record_error(attempt_id, "no", again=False, tries=1)

    assert await spent(ledger) == (0, 0)


async def test_what_is_missing_was_paid(ledger: Ledger) -> None:
    """What the service has no more was asked for all the same."""
    attempt_id = await asked(ledger, AttemptState.ACCEPTED)
    await ledger.record_missing(attempt_id, "gone")

    assert await spent(ledger) == (LONG_S, COST_USD)


@pytest.mark.parametrize(
    ("model", "said_s", "said_usd", "counted"),
    [
        ("universal-2", 60.0, 0.01, (60.0, 0.01)),
        ("universal-2", 0.0, 0.0, (0.0, 0.0)),
        # Its price was not known then, and is now; its length is not.
        ("universal-2", 60.0, None, (60.0, 0.03)),
        ("universal-2", None, None, (LONG_S, 0.9)),
        ("unheard-of", 60.0, None, (60.0, 0.06)),
        ("unheard-of", None, None, (LONG_S, 1.8)),
        (None, 60.0, None, (60.0, COST_USD)),
        (None, None, None, (LONG_S, COST_USD)),
    ],
)
async def test_the_answer_replaces_the_expectation(
    ledger: Ledger,
    model: str | None,
    said_s: float | None,
    said_usd: float | None,
    counted: tuple[float, float],
) -> None:
    """What the service says counts, a model without a price as the dearest; else as expected."""
    attempt_id = await asked(ledger, AttemptState.ACCEPTED)
    await ledger.record_completed(attempt_id, Completion(model, said_s, said_usd))

    assert await spent(ledger) == counted


async def test_a_month_begins_with_nothing(ledger: Ledger, clock: Clock) -> None:
    """What was asked for before a moment does not count since then."""
    await asked(ledger, AttemptState.ACCEPTED)

    assert await spent(ledger, clock.now + 1) == (0, 0)


async def test_what_nobody_noted_is_bounded_by_size(ledger: Ledger) -> None:
    """Without an expectation the content's size tells, at the dearest price that there is."""
    await Steps(ledger).reach(AttemptState.AMBIGUOUS)

    assert await spent(ledger) == (reading().size / 8000, round(DEAREST_USD / 3600 / 8000, 9) * 3)


async def test_what_nobody_knows_the_size_of_is_as_long_as_can_be(ledger: Ledger) -> None:
    """A recording that holds other bytes by now tells nothing of what was asked for."""
    await Steps(ledger).reach(AttemptState.AMBIGUOUS)
    await Steps(ledger, content=b"another").find()

    assert await spent(ledger) == (LONGEST_S, DEAREST_USD * LONGEST_S / 3600)


async def test_an_upload_keeps_what_it_comes_to(ledger: Ledger, clock: Clock) -> None:
    """A later run that takes up an upload knows what was noted of the bytes that were sent."""
    claim = await Steps(ledger).claim()
    assert await ledger.record_uploaded(claim, reading(), "upload:1", LONG_S, COST_USD)
    await ledger.set_aside(claim.attempt_id)
    clock.now += 1

    (again,) = await ledger.claim(1)

    assert again.uploaded is not None
    assert again.uploaded.expected_s == LONG_S


@pytest.mark.parametrize(
    ("state", "said"),
    [(state, None) for state in AttemptState]
    + [(AttemptState.ACCEPTED, said) for said in [(60.0, 0.01), (60.0, None), (None, None)]],
)
async def test_what_is_told_adds_up_to_what_caps_count(
    ledger: Ledger, state: AttemptState, said: tuple[float | None, float | None] | None
) -> None:
    """What `status` and `audit` tell, settled and open, is together what the caps count."""
    attempt_id = await asked(ledger, state)
    if said is not None:
        await ledger.record_completed(attempt_id, Completion("universal-2", *said))
    seconds, usd = await spent(ledger)

    told = await to_thread.run_sync(billed, ledger.ro, PRICES)
    month = await to_thread.run_sync(month_of, ledger.ro, NOW, None, PRICES)

    assert told["billed_hours"] + told["open_hours"] == pytest.approx(seconds / 3600)
    assert (told["cost_usd"] or 0) + told["open_cost_usd"] == pytest.approx(usd)
    assert month.audio_hours + month.open_hours == pytest.approx(seconds / 3600, abs=1e-6)
    assert month.cost_usd + month.open_cost_usd == pytest.approx(usd, abs=1e-6)


async def test_what_is_missing_is_told_as_it_was_settled(ledger: Ledger) -> None:
    """What was completed, and is gone at the service by now, has come to what it came to."""
    attempt_id = await asked(ledger, AttemptState.ACCEPTED)
    await ledger.record_completed(attempt_id, Completion("universal-2", 60.0, 0.01))
    await ledger.record_missing(attempt_id, "gone")

    told = await to_thread.run_sync(billed, ledger.ro, PRICES)

    assert (told["billed_hours"], told["open_hours"]) == (60 / 3600, 0)
    assert await spent(ledger) == (60.0, 0.01)
