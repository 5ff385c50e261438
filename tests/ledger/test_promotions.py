"""Results that were replaced: which are noted, which come back, and what that asks for: nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from pipeline.ledger import Ledger, Redo
from pipeline.models import AttemptState, Claim, Completion, Copy, request_key
from tests.ledger.ledgers import HERE, Clock, Steps, entry, ledger_at, reading
from tests.ledger.test_ledger import standing

pytestmark = pytest.mark.anyio

SIZE = 10
OTHER = '{"punctuate":false}'
NOTED = "SELECT run_id, result_sha256, written_run, promote FROM versions ORDER BY version_id"
CURRENT = (
    "SELECT result_sha256, request_key = result_key AND generation = result_generation, options,"
    " kept, written_run, state, promote FROM recordings"
)


def there(_: bytes) -> int:
    """The size of whatever is asked for: it is on disk."""
    return SIZE


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


@asynccontextmanager
async def run(folder: Path, name: str, **redo: Any) -> AsyncIterator[Ledger]:
    """A run of this name over one recording."""
    given = replace(HERE, run_id=name, redo=Redo(**redo))
    async with ledger_at(folder, given, Clock()) as ledger:
        yield ledger


async def redone(
    folder: Path, name: str, result: str, *, options: str = OTHER, **redo: Any
) -> None:
    """The recording transcribed by a run, with such a result."""
    async with run(folder, name, **redo) as ledger:
        found = [entry(options=options)]
        await ledger.record_found("root", found, there, ())
        (claim,) = await ledger.claim(1)
        await written(ledger, claim, result)


async def written(ledger: Ledger, claim: Claim, result: str) -> None:
    """What was claimed, uploaded, accepted, completed and saved."""
    attempt_id, tag = claim.attempt_id, f"{ledger.run.run_id}-{claim.attempt_id}"
    assert await ledger.record_uploaded(claim, reading(), f"upload:{tag}")
    assert await ledger.claim_submit(attempt_id, None)
    assert await ledger.record_accepted(attempt_id, tag)
    completion = Completion("universal-2", 60.0, 0.1)
    await ledger.record_written(attempt_id, [1], SIZE, digest(result), completion)


async def first(folder: Path, result: str = "one") -> None:
    """The recording, written by a first run."""
    async with run(folder, "run-1") as ledger:
        attempt_id = await Steps(ledger).reach(AttemptState.ACCEPTED)
        await ledger.record_written(
            attempt_id, [1], SIZE, digest(result), Completion("universal-2", 60.0, 0.1)
        )


# --- noted ----------------------------------------------------------------------------------------


async def test_a_first_result_replaces_none(tmp_path: Path) -> None:
    """Nothing is noted where there was no result."""
    await first(tmp_path)

    assert await standing(tmp_path, NOTED) == []


async def test_each_result_that_was_replaced_is_noted(tmp_path: Path) -> None:
    """Twice redone are two rows, each with the run that replaced it and the one that wrote it."""
    await first(tmp_path)
    await redone(tmp_path, "run-2", "two", changed=True)
    await redone(tmp_path, "run-3", "three", force=True)

    assert await standing(tmp_path, NOTED) == [
        ("run-2", digest("one"), "run-1", None),
        ("run-3", digest("two"), "run-2", None),
    ]


async def test_equal_bytes_replace_nothing(tmp_path: Path) -> None:
    """A new result that is the old one, byte for byte, leaves nothing to be kept."""
    await first(tmp_path)
    await redone(tmp_path, "run-2", "one", changed=True)

    assert await standing(tmp_path, NOTED) == []


async def test_a_result_that_was_gone_is_none_to_come_back(tmp_path: Path) -> None:
    """What was not on disk when the run looked lies nowhere, so it is not noted as replaced."""
    await first(tmp_path)
    async with run(tmp_path, "run-2") as ledger:
        await ledger.record_found("root", [entry()], lambda _: None, ())
        (pending,) = await ledger.pending()
        await ledger.record_written(pending.attempt_id, [1], SIZE, digest("one, as it is now"))

    assert await standing(tmp_path, NOTED) == []
    assert await standing(tmp_path, "SELECT result_sha256 FROM recordings") == [
        digest("one, as it is now")
    ]


async def test_killed_between_the_rename_and_the_ledger(tmp_path: Path) -> None:
    """A result that was put in place and not noted is noted by the next run, once."""
    await first(tmp_path)
    async with run(tmp_path, "run-2", changed=True) as ledger:
        await ledger.record_found("root", [entry(options=OTHER)], there, ())
        (claim,) = await ledger.claim(1)
        assert await ledger.record_uploaded(claim, reading(), "upload:run-2")
        assert await ledger.claim_submit(claim.attempt_id, None)
        assert await ledger.record_accepted(claim.attempt_id, "id-run-2")
    async with run(tmp_path, "run-3") as ledger:
        await ledger.record_found("root", [entry(options=OTHER)], there, ())
        (pending,) = await ledger.pending()
        for _ in range(2):
            await ledger.record_written(pending.attempt_id, [1], SIZE, digest("two"))

    assert await standing(tmp_path, NOTED) == [("run-3", digest("one"), "run-1", None)]


async def test_what_was_put_in_its_place_meanwhile(tmp_path: Path) -> None:
    """A scan that takes the older result for its own while a new one is put there comes too late:
    the ledger says what lies there, and where the older one is."""
    await first(tmp_path)
    async with run(tmp_path, "run-2", changed=True) as ledger:
        await ledger.record_found("root", [entry(options=OTHER)], there, ())
        (claim,) = await ledger.claim(1)
        assert await ledger.record_uploaded(claim, reading(), "upload:run-2")
        assert await ledger.claim_submit(claim.attempt_id, None)
        assert await ledger.record_accepted(claim.attempt_id, "id-run-2")
    async with run(tmp_path, "run-3") as ledger:
        (pending,) = await ledger.pending()
        (recipient,) = (await ledger.delivery(pending.attempt_id)).recipients
        await ledger.record_found("root", [entry()], there, ())
        (state,) = await standing(tmp_path, "SELECT state FROM recordings")
        await ledger.record_written(pending.attempt_id, [1], SIZE, digest("two"))

    assert (recipient.current, state) == (True, "written")
    assert await standing(tmp_path, CURRENT) == [
        (digest("two"), 1, "{}", 1, "run-3", "written", None)
    ]
    assert await standing(tmp_path, NOTED) == [("run-3", digest("one"), "run-1", None)]


@pytest.mark.parametrize("promote", ["better", "never", "always"])
async def test_what_is_to_become_of_it_outlives_the_run(tmp_path: Path, promote: str) -> None:
    """A redo that another run finishes is settled as the run was told that has claimed it."""
    await first(tmp_path)
    async with run(tmp_path, "run-2", changed=True, promote=promote) as ledger:
        await ledger.record_found("root", [entry(options=OTHER)], there, ())
        assert await ledger.claim(1)
    await redone(tmp_path, "run-3", "two")

    noted = None if promote == "always" else promote
    assert await standing(tmp_path, NOTED) == [("run-3", digest("one"), "run-1", noted)]
    assert await standing(tmp_path, "SELECT promote FROM recordings") == [None]


async def test_the_last_word_counts(tmp_path: Path) -> None:
    """A redo under way that is asked for once more is settled as was said the second time."""
    await first(tmp_path)
    async with run(tmp_path, "run-2", changed=True, promote="never") as ledger:
        await ledger.record_found("root", [entry(options=OTHER)], there, ())
        assert await ledger.claim(1)
    await redone(tmp_path, "run-3", "two", changed=True, promote="always")

    assert await standing(tmp_path, NOTED) == [("run-3", digest("one"), "run-1", None)]


# --- back -----------------------------------------------------------------------------------------


async def settled(folder: Path, name: str) -> None:
    """A run brings back what earlier ones have left to it."""
    async with run(folder, name) as ledger:
        for each in await ledger.unsettled(0, 10):
            await ledger.record_back(each.version_id)


async def come_back(folder: Path, name: str, of: str) -> tuple[int, int]:
    """What a run replaced is put back by another one; what `roll_back` counts."""
    async with run(folder, name) as ledger:
        counts = await ledger.roll_back(of)
    await settled(folder, f"{name}, later")
    async with run(folder, name) as ledger:
        assert await ledger.unsettled(0, 10) == []
    return counts


async def test_two_results_trade_places(tmp_path: Path) -> None:
    """The older one is current, with its options and its run; the newer one is the replaced one."""
    await first(tmp_path)
    await redone(tmp_path, "run-2", "two", changed=True)

    assert await come_back(tmp_path, "run-3", "run-2") == (1, 0)

    kept = True  # with other options than were asked for last
    assert await standing(tmp_path, CURRENT) == [
        (digest("one"), 1, "{}", kept, "run-1", "written", None)
    ]
    assert await standing(tmp_path, NOTED) == [("run-3", digest("two"), "run-2", None)]


async def test_back_and_forth(tmp_path: Path) -> None:
    """A rollback can be rolled back: then all is as if there had been none, but for its name."""
    await first(tmp_path)
    await redone(tmp_path, "run-2", "two", changed=True)
    await come_back(tmp_path, "run-3", "run-2")
    await come_back(tmp_path, "run-4", "run-3")

    assert await standing(tmp_path, CURRENT) == [
        (digest("two"), 1, OTHER, 1, "run-2", "written", None)
    ]
    assert await standing(tmp_path, NOTED) == [("run-4", digest("one"), "run-1", None)]


@pytest.mark.parametrize("options", ["{}", OTHER])
@pytest.mark.parametrize("redo", [{}, {"changed": True}])
async def test_nothing_is_asked_for_because_of_it(
    tmp_path: Path, options: str, redo: dict[str, bool]
) -> None:
    """Whatever the next run's options and flags are, both results are paid for: none is due."""
    await first(tmp_path)
    await redone(tmp_path, "run-2", "two", changed=True)
    await come_back(tmp_path, "run-3", "run-2")

    async with run(tmp_path, "run-4", **redo) as ledger:
        await ledger.record_found("root", [entry(options=options)], there, ())

        assert await ledger.claim(10) == []
        assert await ledger.next_due() is None
    assert await standing(tmp_path, "SELECT count(*) FROM attempts") == [2]


async def test_what_is_replaced_is_a_copy_for_who_wants_it(tmp_path: Path) -> None:
    """Going back to the options of a result that was put aside copies it from the versions."""
    await first(tmp_path)
    await redone(tmp_path, "run-2", "two", changed=True)
    await come_back(tmp_path, "run-3", "run-2")

    async with run(tmp_path, "run-4", changed=True) as ledger:
        await ledger.record_found("root", [entry(options=OTHER)], there, ())
        await ledger.claim(1)
        (pending,) = await ledger.pending()
        delivery = await ledger.delivery(pending.attempt_id)

    assert delivery.copies == [Copy(b"a.wav.json", digest("two"), is_version=True)]


async def test_going_back_means_the_newest_of_its_generations(tmp_path: Path) -> None:
    """Where equal options were asked for twice, it is the later transcript that is wanted again."""
    await first(tmp_path)
    await redone(tmp_path, "run-2", "two", changed=True)
    await redone(tmp_path, "run-3", "three", force=True)
    async with run(tmp_path, "run-4", changed=True) as ledger:
        await ledger.record_found("root", [entry(options="{}")], there, ())
        await ledger.claim(1)
        (pending,) = await ledger.pending()
        await ledger.record_written(pending.attempt_id, [1], SIZE, digest("one"))
    async with run(tmp_path, "run-5", changed=True) as ledger:
        await ledger.record_found("root", [entry(options=OTHER)], there, ())
        await ledger.claim(1)

    key = request_key(reading().content, OTHER, HERE.provider_kind)
    assert await standing(tmp_path, "SELECT request_key, generation FROM recordings") == [(key, 2)]


async def test_not_while_another_one_is_on_its_way(tmp_path: Path) -> None:
    """A recording that waits for a transcript keeps waiting, and its result stays where it is."""
    await first(tmp_path)
    await redone(tmp_path, "run-2", "two", changed=True)
    async with run(tmp_path, "run-3", force=True) as ledger:
        await ledger.record_found("root", [entry(options=OTHER)], there, ())
        assert await ledger.claim(1)

    assert await come_back(tmp_path, "run-4", "run-2") == (0, 1)


async def test_not_where_a_newer_one_has_come(tmp_path: Path) -> None:
    """What a run replaced does not come back over the head of a later run, only after that one."""
    await first(tmp_path)
    await redone(tmp_path, "run-2", "two", changed=True)
    await redone(tmp_path, "run-3", "three", force=True)

    assert await come_back(tmp_path, "run-4", "run-2") == (0, 1)
    assert await come_back(tmp_path, "run-5", "run-3") == (1, 0)
    assert await come_back(tmp_path, "run-6", "run-2") == (1, 0)
    assert await standing(tmp_path, "SELECT result_sha256 FROM recordings") == [digest("one")]


async def test_what_was_only_compared_is_in_nobodys_way(tmp_path: Path) -> None:
    """A newer result that was put aside does not keep what an earlier run replaced from coming."""
    await first(tmp_path)
    await redone(tmp_path, "run-2", "two", changed=True)
    await redone(tmp_path, "run-3", "three", force=True, promote="never")
    await settled(tmp_path, "run-4")

    assert await come_back(tmp_path, "run-5", "run-2") == (1, 0)
    assert await standing(tmp_path, "SELECT result_sha256 FROM recordings") == [digest("one")]


async def test_who_carries_it_out_has_replaced_nothing(tmp_path: Path) -> None:
    """An interrupted run's word is carried out by the next one, and is its own all the same."""
    await first(tmp_path)
    await redone(tmp_path, "run-2", "two", changed=True, promote="never")
    await settled(tmp_path, "run-3")

    assert await standing(tmp_path, NOTED) == [("run-2", digest("two"), "run-2", None)]
    assert await come_back(tmp_path, "run-4", "run-3") == (0, 0)


async def test_an_interrupted_rollback_is_that_one_s_all_the_same(tmp_path: Path) -> None:
    """What another run has put back for it is rolled back by the name of the rollback."""
    await first(tmp_path)
    await redone(tmp_path, "run-2", "two", changed=True)
    async with run(tmp_path, "run-3") as ledger:
        assert await ledger.roll_back("run-2") == (1, 0)
    await settled(tmp_path, "run-4")

    assert await come_back(tmp_path, "run-5", "run-4") == (0, 0)
    assert await come_back(tmp_path, "run-6", "run-3") == (1, 0)


async def test_what_is_settled_is_settled(tmp_path: Path) -> None:
    """A result that does not come back is not asked about again."""
    await first(tmp_path)
    await redone(tmp_path, "run-2", "two", changed=True, promote="better")

    async with run(tmp_path, "run-3") as ledger:
        (each,) = await ledger.unsettled(0, 10)
        assert (each.promote, each.digest, each.current_digest) == (
            *("better", digest("one")),
            digest("two"),
        )
        await ledger.settle(each.version_id, comes_back=False)

        assert await ledger.unsettled(0, 10) == []
        assert await ledger.replaced("run-2", 0, 10) == [replace(each, promote="always")]
        assert await ledger.made_with("run-2") == (["run-1"], "{}", OTHER)
