"""Transitions of the ledger: what is paid once, what a crash leaves, and what is written down."""

import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from enum import StrEnum
from hashlib import sha256
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec import structs

from pipeline.errors import ServiceUnavailable
from pipeline.ledger import UPLOAD_LIFETIME_S, Ledger, Redo, read_only
from pipeline.models import (
    AttemptState,
    Completion,
    Copy,
    RecordingState,
    Root,
    TranscriptState,
    request_key,
)
from tests.ledger.ledgers import HERE, Clock, Steps, entry, ledger_at, reading

pytestmark = pytest.mark.anyio

LATER = replace(HERE, run_id="run-2")
SCHEMA = files("pipeline.ledger").joinpath("schema.sql").read_text("utf-8")
DESIGN = Path(__file__).parents[2] / "docs" / "design.md"


def rows(folder: Path, query: str) -> list[Any]:
    """What stands on disk."""
    with closing(read_only(folder / "ledger.sqlite3")) as db:
        found = [tuple(row) for row in db.execute(query)]
    return [row[0] if len(row) == 1 else row for row in found]


async def standing(folder: Path, query: str) -> list[Any]:
    """The same, from a coroutine."""
    return await anyio.to_thread.run_sync(rows, folder, query)


# --- one drawing, one enum, one constraint ---------------------------------------------------


@pytest.mark.parametrize(
    ("table", "states"),
    [
        ("recordings", RecordingState),
        ("transcripts", TranscriptState),
        ("attempts", AttemptState),
    ],
)
def test_states_are_said_once(table: str, states: type[StrEnum]) -> None:
    """The CHECK of each table's `state` allows exactly the values of its enum."""
    body = SCHEMA[SCHEMA.index(f"CREATE TABLE {table} ") :]
    found = re.search(r"CHECK \(state IN \(([^)]*)\)\)", body)

    assert found
    assert set(re.findall(r"'(\w+)'", found[1])) == {state.value for state in states}


@pytest.mark.skipif(not DESIGN.exists(), reason="a built package has no docs")
@pytest.mark.parametrize("states", [RecordingState, TranscriptState, AttemptState])
def test_every_state_is_drawn(states: type[StrEnum]) -> None:
    """The design page names every state of the ledger as code or in its drawing."""
    drawn = set(re.findall(r"\b[a-z_]+\b", DESIGN.read_text("utf-8")))

    assert {state.value for state in states} <= drawn


def test_every_state_says_what_it_means() -> None:
    """Each state is documented below itself."""
    source = files("pipeline").joinpath("models.py").read_text("utf-8")

    for states in (RecordingState, TranscriptState, AttemptState):
        for state in states:
            assert re.search(rf'^    {state.name} = "{state.value}"\n    """', source, re.MULTILINE)


# --- paying once ---------------------------------------------------------------------------------


async def test_two_attempts_at_one_content_and_one_wins(tmp_path: Path) -> None:
    """Of two equal recordings that were uploaded side by side, one may be submitted."""
    async with ledger_at(tmp_path) as ledger:
        first, second = Steps(ledger, b"a.wav"), Steps(ledger, b"b.wav")
        claims = [await first.claim(), await second.claim()]
        for index, claim in enumerate(claims):
            assert await ledger.record_uploaded(claim, reading(), f"upload:{index}")

        won = [await ledger.claim_submit(claim.attempt_id, None) for claim in claims]

        assert won == [True, False]
        assert await standing(tmp_path, "SELECT state FROM attempts ORDER BY attempt_id") == [
            "submitting",
            "not_accepted",
        ]


async def test_racing_claims_let_one_through(tmp_path: Path) -> None:
    """Asked for at the same moment, twenty attempts at one content lead to one submit."""
    async with ledger_at(tmp_path) as ledger:
        won: list[int] = []

        async def race(attempt_id: int) -> None:
            if await ledger.claim_submit(attempt_id, None):
                won.append(attempt_id)

        attempts = []
        for number in range(20):
            claim = await Steps(ledger, b"%02d.wav" % number).claim()
            attempts.append(claim.attempt_id)
            assert await ledger.record_uploaded(claim, reading(), f"upload:{number}")
        async with anyio.create_task_group() as group:
            for attempt_id in attempts:
                group.start_soon(race, attempt_id)

        assert len(won) == 1


@pytest.mark.parametrize(
    "alive", [AttemptState.SUBMITTING, AttemptState.AMBIGUOUS, AttemptState.ACCEPTED]
)
async def test_the_file_itself_holds_one_live_attempt(tmp_path: Path, alive: AttemptState) -> None:
    """Also SQL that forgets every rule cannot make a second live attempt at one request key."""
    async with ledger_at(tmp_path) as ledger:
        await Steps(ledger).reach(alive)

    def forget_the_rules() -> None:
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as db:
            db.execute(
                "INSERT INTO attempts (recording_id, request_key, generation, state, owner,"
                " base_url, key_fingerprint, upload_url, started_at) SELECT recording_id,"
                " request_key, generation, 'submitting', owner, base_url, key_fingerprint,"
                " 'another', 0 FROM attempts"
            )

    with pytest.raises(sqlite3.IntegrityError, match=r"attempts\.request_key"):
        await anyio.to_thread.run_sync(forget_the_rules)


async def test_an_upload_url_serves_one_attempt(tmp_path: Path) -> None:
    """An `upload_url` that was handed out before is no upload, even for another content."""
    async with ledger_at(tmp_path) as ledger:
        await Steps(ledger, b"a.wav").reach(AttemptState.ACCEPTED)
        claim = await Steps(ledger, b"b.wav", b"two").claim()

        with pytest.raises(ServiceUnavailable, match="twice"):
            await ledger.record_uploaded(claim, reading(b"two"), "upload:1")

        assert await ledger.record_uploaded(claim, reading(b"two"), "upload:new")


async def test_a_transcript_belongs_to_one_attempt(tmp_path: Path) -> None:
    """An id that another attempt has is not taken a second time, by submit or by reconciler."""
    async with ledger_at(tmp_path) as ledger:
        first = await Steps(ledger, b"a.wav").reach(AttemptState.ACCEPTED)
        second = await Steps(ledger, b"b.wav", b"two").reach(AttemptState.SUBMITTING)
        third = await Steps(ledger, b"c.wav", b"three").reach(AttemptState.AMBIGUOUS)

        assert not await ledger.record_accepted(second, f"id-{first}")
        assert not await ledger.record_accepted(third, f"id-{first}")
        assert await ledger.record_accepted(third, "another-id")


async def test_what_is_asked_for_is_the_identity() -> None:
    """A request key depends on content, options and provider kind, and on each of them."""
    keys = {
        request_key("content", "{}", "assemblyai"),
        request_key("other", "{}", "assemblyai"),
        request_key("content", '{"punctuate":false}', "assemblyai"),
        request_key("content", "{}", "custom"),
    }

    assert len(keys) == 4
    assert request_key("content", "{}", "custom") in keys


async def test_no_address_is_in_the_identity(tmp_path: Path) -> None:
    """Another host and another key ask for nothing anew: the request key is the same."""
    async with ledger_at(tmp_path) as ledger:
        await Steps(ledger).reach(AttemptState.ACCEPTED)
    moved = replace(LATER, base_url="http://there", key_fingerprint="rotated")
    async with ledger_at(tmp_path, moved) as ledger:
        await Steps(ledger).find()

        assert await ledger.next_due() is None
        assert await ledger.pending() == []
        assert await ledger.elsewhere() == [("http://here", 1)]


@pytest.mark.parametrize(
    "state",
    [
        AttemptState.ACCEPTED,
        AttemptState.AMBIGUOUS,
        AttemptState.REFUSED,
        AttemptState.NOT_ACCEPTED,
    ],
)
async def test_a_late_word_moves_nothing_back(tmp_path: Path, state: AttemptState) -> None:
    """An attempt that is not being submitted any more stays what it is, whatever is said of it."""
    query = "SELECT a.state, a.reason, t.state FROM attempts a JOIN transcripts t USING (content)"
    async with ledger_at(tmp_path) as ledger:
        attempt_id = await Steps(ledger).reach(state)
        before = await standing(tmp_path, query)
        await ledger.set_aside(attempt_id)
        await ledger.record_refused(attempt_id, "late")
        await ledger.upload_anew(attempt_id, "late")
        await ledger.record_ambiguous(attempt_id, "late", "an-id")
        if state is not AttemptState.AMBIGUOUS:
            await ledger.record_not_accepted(attempt_id, 3)

    assert await standing(tmp_path, query) == before


async def test_what_came_with_doubt_is_never_absent(tmp_path: Path) -> None:
    """No list says that an attempt came to nothing whose answer gave an id."""
    async with ledger_at(tmp_path) as ledger:
        attempt_id = await Steps(ledger).reach(AttemptState.SUBMITTING)
        await ledger.record_ambiguous(attempt_id, "another's", "an-id")
        await ledger.record_not_accepted(attempt_id, 3)

        assert [each.claimed_id for each in await ledger.unresolved()] == ["an-id"]


# --- after a crash -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "transcript"),
    [
        (AttemptState.UPLOADING, AttemptState.NOT_ACCEPTED, None),
        (AttemptState.UPLOADED, AttemptState.UPLOADED, TranscriptState.WANTED),
        (AttemptState.SUBMITTING, AttemptState.AMBIGUOUS, TranscriptState.OPEN),
        (AttemptState.AMBIGUOUS, AttemptState.AMBIGUOUS, TranscriptState.OPEN),
        (AttemptState.ACCEPTED, AttemptState.ACCEPTED, TranscriptState.SUBMITTED),
        (AttemptState.REFUSED, AttemptState.REFUSED, TranscriptState.FAILED),
        (AttemptState.NOT_ACCEPTED, AttemptState.NOT_ACCEPTED, TranscriptState.WANTED),
    ],
)
async def test_every_state_survives_a_crash(
    tmp_path: Path, before: AttemptState, after: AttemptState, transcript: TranscriptState | None
) -> None:
    """What the next run makes of an attempt that was left in each of the states."""
    async with ledger_at(tmp_path) as ledger:
        await Steps(ledger).reach(before)
    async with ledger_at(tmp_path, LATER):
        pass

    assert await standing(tmp_path, "SELECT state FROM attempts") == [after]
    found = await standing(tmp_path, "SELECT state FROM transcripts")
    assert found == ([transcript] if transcript else [])
    assert await standing(tmp_path, "SELECT claim FROM recordings") == [None]


async def test_an_upload_is_used_by_the_next_run(tmp_path: Path) -> None:
    """Bytes that the service has already are not sent a second time within their lifetime."""
    clock = Clock()
    async with ledger_at(tmp_path, clock=clock) as ledger:
        await Steps(ledger).reach(AttemptState.UPLOADED)
    clock.now += UPLOAD_LIFETIME_S - 1
    async with ledger_at(tmp_path, LATER, clock) as ledger:
        claim = await Steps(ledger).claim()

        assert claim.uploaded
        assert claim.uploaded.upload_url == "upload:1"


@pytest.mark.parametrize(
    ("later", "after_s"),
    [
        (LATER, UPLOAD_LIFETIME_S + 1.0),
        (replace(LATER, base_url="http://there"), 0.0),
        (replace(LATER, key_fingerprint="rotated"), 0.0),
    ],
    ids=["too old", "another address", "another key"],
)
async def test_an_upload_that_may_be_gone_is_not_used(
    tmp_path: Path, later: Any, after_s: float
) -> None:
    """An upload that is old, or of another address or key, is made again: it is free."""
    clock = Clock()
    async with ledger_at(tmp_path, clock=clock) as ledger:
        await Steps(ledger).reach(AttemptState.UPLOADED)
    clock.now += after_s
    async with ledger_at(tmp_path, later, clock) as ledger:
        claim = await Steps(ledger).claim()

        assert claim.uploaded is None


async def test_a_lost_answer_blocks_its_content(tmp_path: Path) -> None:
    """Until somebody knows what became of it, nothing of this content is due or can be asked."""
    async with ledger_at(tmp_path) as ledger:
        await Steps(ledger, b"a.wav").reach(AttemptState.SUBMITTING)
    async with ledger_at(tmp_path, LATER) as ledger:
        await Steps(ledger, b"a.wav").find()

        assert await ledger.next_due() is None
        assert [each.upload_url for each in await ledger.unresolved()] == ["upload:1"]
        assert await ledger.unfinished() == 1


async def test_an_anchor_outlives_the_crash(tmp_path: Path) -> None:
    """What was the newest listed transcript before the submit is known to the next run."""
    async with ledger_at(tmp_path) as ledger:
        attempt_id = await Steps(ledger).reach(AttemptState.UPLOADED)
        await ledger.claim_submit(attempt_id, "newest-then")
    async with ledger_at(tmp_path, LATER) as ledger:
        (lost,) = await ledger.unresolved()

        assert (lost.attempt_id, lost.anchor) == (attempt_id, "newest-then")


async def test_not_listed_is_due_again_without_an_upload_that_is_spent(tmp_path: Path) -> None:
    """What was not accepted after all is wanted again, with an upload of its own."""
    async with ledger_at(tmp_path) as ledger:
        attempt_id = await Steps(ledger).reach(AttemptState.AMBIGUOUS)
        await ledger.record_not_accepted(attempt_id, 3)
        claim = await Steps(ledger).claim()

        assert claim.attempt_id != attempt_id
        assert claim.uploaded is None


async def test_parking_lasts_for_one_run(tmp_path: Path) -> None:
    """A parked attempt is nobody's in this run, and the reconciler's again in the next one."""
    async with ledger_at(tmp_path) as ledger:
        attempt_id = await Steps(ledger).reach(AttemptState.AMBIGUOUS)
        await ledger.park([attempt_id], "the list is down")

        assert await ledger.unresolved() == []
        assert await ledger.unfinished() == 0
        assert list(await ledger.standing()) == [("root", "parked", "the list is down")]
    async with ledger_at(tmp_path, LATER) as ledger:
        assert len(await ledger.unresolved()) == 1


# --- what is paid ------------------------------------------------------------------------------


async def completed(ledger: Ledger, **steps: Any) -> int:
    """An attempt that was paid."""
    attempt_id = await Steps(ledger, **steps).reach(AttemptState.ACCEPTED)
    await ledger.record_completed(attempt_id, Completion("universal-2", 60.0, 0.0025))
    return attempt_id


async def test_what_is_paid_is_never_failed(tmp_path: Path) -> None:
    """Once a transcript completed, no later `error` makes it failed, nor due again."""
    async with ledger_at(tmp_path) as ledger:
        attempt_id = await completed(ledger)

        assert not await ledger.record_error(attempt_id, "Server error", again=True, tries=2)
        assert await standing(tmp_path, "SELECT state FROM transcripts") == ["completed"]
        assert await ledger.next_due() is None


async def test_retry_failed_leaves_paid_ones_alone(tmp_path: Path) -> None:
    """`--retry-failed` wants what failed again, and nothing that has a result or will have one."""
    async with ledger_at(tmp_path) as ledger:
        await Steps(ledger, b"refused.wav").reach(AttemptState.REFUSED)
        await completed(ledger, path=b"paid.wav", content=b"two")
    async with ledger_at(tmp_path, replace(LATER, redo=Redo(failed=True))) as ledger:
        for path, content in ((b"refused.wav", b"one"), (b"paid.wav", b"two")):
            await Steps(ledger, path, content).find()
        claims = await ledger.claim(10)

        assert [claim.path for claim in claims] == [b"refused.wav"]


async def test_a_failure_of_the_service_is_asked_once_more(tmp_path: Path) -> None:
    """An error that is the service's own fault is due again, a bounded number of times."""
    async with ledger_at(tmp_path) as ledger:
        outcomes = []
        for _ in range(2):
            attempt_id = await Steps(ledger).reach(AttemptState.ACCEPTED)
            outcomes.append(
                await ledger.record_error(attempt_id, "Server error", again=True, tries=2)
            )

        assert outcomes == [True, False]
        assert await standing(tmp_path, "SELECT state, reason FROM transcripts") == [
            ("failed", "Server error")
        ]


async def test_what_the_service_failed_at_is_not_asked_for_again(tmp_path: Path) -> None:
    """Only the attempt that is under way is pending, not the one before it that came to nothing."""
    async with ledger_at(tmp_path) as ledger:
        first = await Steps(ledger).reach(AttemptState.ACCEPTED)
        assert await ledger.record_error(first, "Server error", again=True, tries=2)
        second = await Steps(ledger).reach(AttemptState.ACCEPTED)

        assert [each.attempt_id for each in await ledger.pending()] == [second]


async def test_price_and_model_are_written_down(tmp_path: Path) -> None:
    """Each paid attempt says what it came to: model, seconds, dollars, address, key, time."""
    async with ledger_at(tmp_path) as ledger:
        await completed(ledger)

    (found,) = await standing(
        tmp_path,
        "SELECT outcome, model_used, duration_s, price_usd, base_url, key_fingerprint, owner"
        " FROM attempts",
    )
    assert found == (
        *("completed", "universal-2", 60.0, 0.0025),
        *("http://here", "fingerprint", "run-1"),
    )


async def test_one_more_recording_of_a_saved_content_waits_for_a_copy(tmp_path: Path) -> None:
    """A recording that turns out to be equal to a saved one is not wanted: it gets that result."""
    async with ledger_at(tmp_path) as ledger:
        attempt_id = await completed(ledger)
        await ledger.record_written(attempt_id, [1], 10, "digest")
        claim = await Steps(ledger, b"b.wav").claim()

        assert not await ledger.recognise(claim, reading())
        (pending,) = await ledger.pending()
        delivery = await ledger.delivery(pending.attempt_id)
        assert [each.path for each in delivery.recipients] == [b"b.wav"]
        # Where it has it, and where a run that was about to replace it would keep it first.
        assert delivery.copies == [
            Copy(b"a.wav.json", "digest", is_version=False),
            Copy(b"a.wav.json", "digest", is_version=True, is_noted=False),
        ]


async def test_what_only_looks_alike_is_uploaded(tmp_path: Path) -> None:
    """Bytes that were never read before have to be sent, whatever their size and ends are."""
    async with ledger_at(tmp_path) as ledger:
        await completed(ledger)
        claim = await Steps(ledger, b"b.wav").claim()

        assert await ledger.recognise(claim, reading(b"two"))
        assert await ledger.record_uploaded(claim, reading(b"two"), "upload:2")
        assert await ledger.claim_submit(claim.attempt_id, None)


@pytest.mark.parametrize("is_read", [True, False])
async def test_what_is_left_to_the_next_run_is_let_go_of(tmp_path: Path, is_read: bool) -> None:
    """A recording that is parked before its upload is not due, and the next run takes it again."""
    async with ledger_at(tmp_path) as ledger:
        if not is_read:
            await Steps(ledger).reach(AttemptState.NOT_ACCEPTED)  # its content is known
        claim = await Steps(ledger).claim()
        await ledger.park_claim(claim, reading() if is_read else None, "why")

        assert await ledger.claim(10) == []
        assert not await ledger.unfinished()
        assert list(await ledger.standing()) == [("root", "parked", "why")]
    async with ledger_at(tmp_path, LATER) as ledger:
        await Steps(ledger).find()
        assert len(await ledger.claim(10)) == 1


async def test_who_comes_late_is_not_forgotten(tmp_path: Path) -> None:
    """A recording that attaches while the result is being written keeps the transcript open."""
    async with ledger_at(tmp_path) as ledger:
        attempt_id = await completed(ledger)
        claim = await Steps(ledger, b"b.wav").claim()
        assert not await ledger.recognise(claim, reading())

        await ledger.record_written(attempt_id, [1], 10, "digest")
        assert await ledger.unfinished() == 1
        await ledger.record_written(attempt_id, [1, 2], 10, "digest")
        assert await ledger.unfinished() == 0


async def test_what_is_saved_is_delivered_to_nobody_else(tmp_path: Path) -> None:
    """A look that was begun before a result was saved finds nobody to tell, and nothing to keep."""
    async with ledger_at(tmp_path) as ledger:
        attempt_id = await completed(ledger)
        (row,) = (await ledger.delivery(attempt_id)).recipients
        await ledger.record_written(attempt_id, [row.recording_id], 10, "digest")

        assert (await ledger.delivery(attempt_id)).recipients == []


async def test_a_result_without_a_recording_still_goes_somewhere(tmp_path: Path) -> None:
    """Where the recording has other bytes by now, what was paid is delivered all the same."""
    async with ledger_at(tmp_path) as ledger:
        attempt_id = await completed(ledger)
        changed = structs.replace(entry(), size=4, mtime_ns=2)
        await ledger.record_found("root", [changed], lambda _: None, ())
        delivery = await ledger.delivery(attempt_id)

        assert [(each.path, each.current) for each in delivery.recipients] == [(b"a.wav", False)]


# --- attempts.ndjson ---------------------------------------------------------------------------


async def test_the_journal_has_what_a_lost_ledger_needs(tmp_path: Path) -> None:
    """The run that asks, then a line each of what was accepted: id, upload, identity, path."""
    path, content = b"caf\xc3\xa9 \xff\n.wav", b"one"
    async with ledger_at(tmp_path) as ledger:
        found = entry(path, options='{"punctuate":false}')
        await ledger.record_roots([Root("root", b"/somewhere", b"")])
        await ledger.record_found("root", [found], lambda _: None, ())
        (claim,) = await ledger.claim(1)
        assert await ledger.record_uploaded(claim, reading(content), "upload:1", 60.0, 0.25)
        assert await ledger.claim_submit(claim.attempt_id, None)
        assert await ledger.record_accepted(claim.attempt_id, "id-1")

    first, line = (tmp_path / "run-1.ndjson").read_bytes().splitlines()
    assert json.loads(first) == {"run_id": "run-1", "began_at": Clock().now}
    digest = sha256(content).hexdigest()
    told = json.loads(line)
    assert bytes.fromhex(told.pop("path_hex")) == path
    assert bytes.fromhex(told.pop("folder_hex")) == b"/somewhere"
    assert bytes.fromhex(told.pop("result_hex")) == path + b".json"
    assert told == {
        "transcript_id": "id-1",
        "upload_url": "upload:1",
        "request_key": request_key(digest, '{"punctuate":false}', "custom"),
        "generation": 1,
        "content": digest,
        "options": {"punctuate": False},
        "provider": "custom",
        "base_url": "http://here",
        "key_fingerprint": "fingerprint",
        "root": "root",
        "path": "café \\xff\n.wav",
        "accepted_at": Clock().now,
        "expected_s": 60.0,
        "expected_usd": 0.25,
    }


async def test_adopted_attempts_are_in_the_journal(tmp_path: Path) -> None:
    """Whatever way the id became known, it is written down outside of the ledger, too."""
    async with ledger_at(tmp_path) as ledger:
        attempt_id = await Steps(ledger).reach(AttemptState.AMBIGUOUS)
        await ledger.record_accepted(attempt_id, "found-in-the-list")

    _, line = (tmp_path / "run-1.ndjson").read_bytes().splitlines()
    assert json.loads(line)["transcript_id"] == "found-in-the-list"


async def test_what_came_with_doubt_is_in_the_journal_as_such(tmp_path: Path) -> None:
    """A ledger that is made anew does not take an id that may be another's for its own."""
    async with ledger_at(tmp_path) as ledger:
        attempt_id = await Steps(ledger).reach(AttemptState.SUBMITTING)
        await ledger.record_ambiguous(attempt_id, "another's", "an-id")

    _, line = (tmp_path / "run-1.ndjson").read_bytes().splitlines()
    told = json.loads(line)
    assert (told["transcript_id"], told["claimed"]) == ("an-id", True)
    assert told["accepted_at"] == Clock().now


# --- generations -------------------------------------------------------------------------------


async def written(ledger: Ledger, path: bytes = b"a.wav") -> None:
    """A recording with its result."""
    attempt_id = await completed(ledger, path=path)
    (row,) = (await ledger.delivery(attempt_id)).recipients
    await ledger.record_written(attempt_id, [row.recording_id], 10, "digest")


async def find_written(ledger: Ledger, options: str = "{}") -> None:
    """A scan that sees the recording and its result, as they were."""
    found = entry(options=options)
    await ledger.record_found("root", [found], lambda _: 10, ())


async def test_force_is_a_generation_of_its_own(tmp_path: Path) -> None:
    """`--force` asks for a written recording once more, as generation 2 and not as 1 again."""
    async with ledger_at(tmp_path) as ledger:
        await written(ledger)
    async with ledger_at(tmp_path, replace(LATER, redo=Redo(force=True))) as ledger:
        await find_written(ledger)
        (claim,) = await ledger.claim(10)
        assert await ledger.record_uploaded(claim, reading(), "upload:2")

        assert await ledger.claim_submit(claim.attempt_id, None)
        assert await ledger.claim(10) == []

    query = "SELECT generation FROM attempts ORDER BY attempt_id"
    generations = await standing(tmp_path, query)
    assert all(one < two for one, two in pairwise(generations))


@pytest.mark.parametrize(
    ("redo", "options", "is_due"),
    [
        (Redo(), '{"punctuate":false}', False),
        (Redo(changed=True), "{}", False),
        (Redo(changed=True), '{"punctuate":false}', True),
        (Redo(force=True), "{}", True),
    ],
)
async def test_new_times_are_no_consent_and_take_none_away(
    tmp_path: Path, redo: Redo, options: str, is_due: bool
) -> None:
    """A recording whose times alone are new is asked for again where the user said so."""
    async with ledger_at(tmp_path) as ledger:
        await written(ledger)
    async with ledger_at(tmp_path, replace(LATER, redo=redo)) as ledger:
        touched = structs.replace(entry(options=options), mtime_ns=2)
        await ledger.record_found("root", [touched], lambda _: 10, ())
        (claim,) = await ledger.claim(10)

        assert not await ledger.recognise(claim, reading())
        assert bool(await ledger.claim(10)) is is_due


async def test_nothing_is_fetched_for_what_is_left_out(tmp_path: Path) -> None:
    """A recording that is skipped by now waits for nothing, though its result is gone."""
    async with ledger_at(tmp_path) as ledger:
        await written(ledger)
    async with ledger_at(tmp_path, LATER) as ledger:
        left_out = structs.replace(entry(), skip="excluded")
        await ledger.record_found("root", [left_out], lambda _: None, ())

        assert await ledger.pending() == []
        assert list(await ledger.standing()) == [("root", "skipped", "excluded")]


@pytest.mark.parametrize("size", [10, None])
async def test_what_lies_nowhere_is_told_before_it_is_deleted(
    tmp_path: Path, size: int | None
) -> None:
    """A result that its recording, edited since, has no more is due to be fetched first."""
    deleting = replace(HERE, deletes=True)
    async with ledger_at(tmp_path, deleting) as ledger:
        await written(ledger)
    async with ledger_at(tmp_path, replace(deleting, run_id="run-2")) as ledger:
        edited = structs.replace(entry(), size=4, mtime_ns=2)
        await ledger.record_found("root", [edited], lambda _: size, ())

        assert await ledger.deletions(10) == [(1, "id-1")]
        assert await ledger.deletions_unheld(0, 10) == ([] if size else [1])


async def test_a_generation_is_done_with_whoever_waits_for_another(tmp_path: Path) -> None:
    """A result of `--force` is written for good, though the one before is still waited for."""
    async with ledger_at(tmp_path) as ledger:
        attempt_id = await completed(ledger)
        late = await Steps(ledger, b"b.wav").claim()
        assert not await ledger.recognise(late, reading())
        await ledger.record_written(attempt_id, [1], 10, "digest")
    async with ledger_at(tmp_path, replace(LATER, redo=Redo(force=True))) as ledger:
        await find_written(ledger)
        (claim,) = await ledger.claim(10)
        assert await ledger.record_uploaded(claim, reading(), "upload:2")
        assert await ledger.claim_submit(claim.attempt_id, None)
        assert await ledger.record_accepted(claim.attempt_id, "id-2")
        await ledger.record_written(claim.attempt_id, [1], 10, "another")

    query = "SELECT generation, state FROM transcripts ORDER BY generation"
    assert await standing(tmp_path, query) == [(1, "completed"), (2, "written")]


@pytest.mark.parametrize(
    ("redo", "is_due"), [(Redo(), False), (Redo(failed=True), True), (Redo(force=True), True)]
)
async def test_a_redo_that_failed_is_tried_again_where_failures_are(
    tmp_path: Path, redo: Redo, is_due: bool
) -> None:
    """A `--force` that came to nothing leaves the result as it is, until one says try again."""
    async with ledger_at(tmp_path) as ledger:
        await written(ledger)
    async with ledger_at(tmp_path, replace(LATER, redo=Redo(force=True))) as ledger:
        await find_written(ledger)
        (claim,) = await ledger.claim(10)
        await ledger.refuse_upload(claim, reading(), "no")
    async with ledger_at(tmp_path, replace(HERE, run_id="run-3", redo=redo)) as ledger:
        await find_written(ledger)

        assert bool(await ledger.claim(10)) is is_due
        assert await standing(tmp_path, "SELECT result_sha256 FROM recordings") == ["digest"]


async def test_an_equal_recording_gets_what_was_asked_for_last(tmp_path: Path) -> None:
    """One more recording of a content waits for the newest generation of it, not for the first."""
    async with ledger_at(tmp_path) as ledger:
        await written(ledger)
    async with ledger_at(tmp_path, replace(LATER, redo=Redo(force=True))) as ledger:
        await find_written(ledger)
        (claim,) = await ledger.claim(10)
        assert await ledger.record_uploaded(claim, reading(), "upload:2")
        assert await ledger.claim_submit(claim.attempt_id, None)
        assert await ledger.record_accepted(claim.attempt_id, "id-2")
        await ledger.record_written(claim.attempt_id, [1], 10, "another")
        late = await Steps(ledger, b"b.wav").claim()

        assert not await ledger.recognise(late, reading())
        assert [each.transcript_id for each in await ledger.pending()] == ["id-2"]


async def test_a_result_that_was_brought_back_is_looked_at(tmp_path: Path) -> None:
    """What the service has no more is not missing where somebody has put the file back."""
    async with ledger_at(tmp_path) as ledger:
        await written(ledger)
    async with ledger_at(tmp_path, LATER) as ledger:
        await Steps(ledger).find()
        (pending,) = await ledger.pending()
        await ledger.record_missing(pending.attempt_id, "gone")
    async with ledger_at(tmp_path, replace(HERE, run_id="run-3")) as ledger:
        await Steps(ledger).find()
        assert await ledger.pending() == []
    async with ledger_at(tmp_path, replace(HERE, run_id="run-4")) as ledger:
        await find_written(ledger)
        assert [each.transcript_id for each in await ledger.pending()] == ["id-1"]


async def test_a_redo_with_other_options_that_failed_is_no_result(tmp_path: Path) -> None:
    """What was asked for last has failed, though a result with earlier options lies there."""
    changed = '{"punctuate":false}'
    async with ledger_at(tmp_path) as ledger:
        await written(ledger)
    async with ledger_at(tmp_path, replace(LATER, redo=Redo(changed=True))) as ledger:
        await find_written(ledger, changed)
        (claim,) = await ledger.claim(10)
        await ledger.refuse_upload(claim, reading(), "no")
    async with ledger_at(tmp_path, replace(HERE, run_id="run-3")) as ledger:
        await find_written(ledger, changed)

        assert list(await ledger.standing()) == [("root", "failed", "no")]


@pytest.mark.parametrize("is_other", [True, False])
async def test_a_result_of_other_bytes_does_not_come_back(tmp_path: Path, is_other: bool) -> None:
    """With the first options again the result that lies there is taken, if it is of these bytes."""
    changed, content = '{"punctuate":false}', b"two" if is_other else b"one"
    async with ledger_at(tmp_path) as ledger:
        await written(ledger)
    async with ledger_at(tmp_path, replace(LATER, redo=Redo(changed=True))) as ledger:
        touched = structs.replace(entry(options=changed), mtime_ns=1 + is_other)
        await ledger.record_found("root", [touched], lambda _: 10, ())
        (claim,) = await ledger.claim(10)
        assert await ledger.record_uploaded(claim, reading(content), "upload:2")
    async with ledger_at(tmp_path, replace(HERE, run_id="run-3")) as ledger:
        await find_written(ledger)

        ends = [outcome for _, outcome, _ in await ledger.standing()]
        assert ends == ["parked" if is_other else "already_written"]
        assert bool(await ledger.claim(10)) is is_other


async def test_a_force_that_was_claimed_goes_on(tmp_path: Path) -> None:
    """What was agreed to once is asked for by the next run, though it has the flag no more."""
    async with ledger_at(tmp_path) as ledger:
        await written(ledger)
    async with ledger_at(tmp_path, replace(LATER, redo=Redo(force=True))) as ledger:
        await find_written(ledger)
        assert len(await ledger.claim(10)) == 1
    async with ledger_at(tmp_path, replace(HERE, run_id="run-3")) as ledger:
        await find_written(ledger)

        assert len(await ledger.claim(10)) == 1


async def test_consent_is_kept_for_what_was_claimed(tmp_path: Path) -> None:
    """A redo that was claimed goes on without the flag; one that was not claimed does not."""
    changed, redoing = '{"punctuate":false}', replace(HERE, redo=Redo(changed=True))
    async with ledger_at(tmp_path) as ledger:
        await written(ledger)
    async with ledger_at(tmp_path, replace(redoing, run_id="run-2")) as ledger:
        await find_written(ledger, changed)
    async with ledger_at(tmp_path, replace(HERE, run_id="run-3")) as ledger:
        await find_written(ledger, changed)
        assert await ledger.claim(10) == []
        assert list(await ledger.standing()) == [("root", "kept", None)]
    async with ledger_at(tmp_path, replace(redoing, run_id="run-4")) as ledger:
        await find_written(ledger, changed)
        assert len(await ledger.claim(10)) == 1
    async with ledger_at(tmp_path, replace(HERE, run_id="run-5")) as ledger:
        await find_written(ledger, changed)

        assert len(await ledger.claim(10)) == 1


async def test_a_lost_result_is_no_consent_to_new_options(tmp_path: Path) -> None:
    """A paid result that is gone, found with other options, is fetched and not asked for anew."""
    changed = '{"punctuate":false}'
    async with ledger_at(tmp_path) as ledger:
        await written(ledger)
    for run_id in ("run-2", "run-3"):  # the second finds what the first has left in `found`
        async with ledger_at(tmp_path, replace(HERE, run_id=run_id)) as ledger:
            await Steps(ledger).find(changed)

            assert await ledger.claim(10) == []
            assert [each.transcript_id for each in await ledger.pending()] == ["id-1"]


@pytest.mark.parametrize("state", [AttemptState.AMBIGUOUS, AttemptState.ACCEPTED])
async def test_what_may_be_paid_counts_as_spent(tmp_path: Path, state: AttemptState) -> None:
    """A month counts what was accepted, and what may have been, as it was expected."""
    async with ledger_at(tmp_path) as ledger:
        attempt_id = await Steps(ledger).reach(state)
        await ledger.expect(attempt_id, 60.0, 0.5)

        assert await ledger.spent(0.0, {}) == (60.0, 0.5)


async def test_missing_is_asked_for_with_force_only(tmp_path: Path) -> None:
    """A transcript that is gone at the service stays missing until `--force` asks for another."""
    async with ledger_at(tmp_path) as ledger:
        attempt_id = await completed(ledger)
        await ledger.record_missing(attempt_id, "gone")
    for number, redo in enumerate((Redo(), Redo(failed=True), Redo(changed=True))):
        again = replace(HERE, run_id=f"again-{number}", redo=redo)
        async with ledger_at(tmp_path, again) as ledger:
            await Steps(ledger).find()
            assert await ledger.claim(10) == []
            assert list(await ledger.standing()) == [("root", "failed", "gone")]
    async with ledger_at(tmp_path, replace(LATER, redo=Redo(force=True))) as ledger:
        await Steps(ledger).find()
        claims = await ledger.claim(10)

        assert len(claims) == 1
        assert await ledger.record_uploaded(claims[0], reading(), "upload:2")
        assert await ledger.claim_submit(claims[0].attempt_id, None)


async def test_what_was_had_since_is_looked_for_anew(tmp_path: Path) -> None:
    """A look at which an id was unknown says nothing any more once its transcript was saved."""
    clock = Clock()
    async with ledger_at(tmp_path, clock=clock) as ledger:
        attempt_id = await Steps(ledger).reach(AttemptState.ACCEPTED)
        assert not await ledger.record_unknown(attempt_id, "unknown")
        await ledger.record_written(attempt_id, [1], 10, "digest")
        clock.now += 86_400

        assert not await ledger.record_unknown(attempt_id, "unknown")
        clock.now += 3_600
        assert await ledger.record_unknown(attempt_id, "unknown")
        await ledger.record_missing(attempt_id, "unknown", is_unknown=True)
        clock.now += 3_600
        assert not await ledger.record_unknown(attempt_id, "unknown")  # it is told once


@pytest.mark.parametrize("is_paid", [True, False])
async def test_what_is_looked_for_says_whether_it_was_completed(
    tmp_path: Path, is_paid: bool
) -> None:
    """A transcript that the service forgot is looked for as what it was before."""
    async with ledger_at(tmp_path) as ledger:
        attempt_id = await Steps(ledger).reach(AttemptState.ACCEPTED)
        if is_paid:
            await ledger.record_completed(attempt_id, Completion("universal-2", 60.0, 0.0025))
        await ledger.record_unknown(attempt_id, "unknown")
        await ledger.record_missing(attempt_id, "unknown", is_unknown=True)

        assert [each.completed for each in await ledger.lost(None)] == [is_paid]
        assert await ledger.lost(100) == []  # an hour has not gone by


@pytest.mark.parametrize(("asked_with", "is_missing"), [("fingerprint", False), ("", True)])
async def test_another_key_knows_nothing_of_an_id(
    tmp_path: Path, asked_with: str, is_missing: bool
) -> None:
    """Asked with another key, an unknown id is no look, unless nobody knows with which it was."""
    clock, asked = Clock(), replace(HERE, key_fingerprint=asked_with)
    async with ledger_at(tmp_path, asked, clock) as ledger:
        attempt_id = await Steps(ledger).reach(AttemptState.ACCEPTED)
    async with ledger_at(tmp_path, replace(LATER, key_fingerprint="rotated"), clock) as ledger:
        assert not await ledger.record_unknown(attempt_id, "unknown")
        assert await ledger.pending() == []
        clock.now += 86_400
        assert await ledger.record_unknown(attempt_id, "unknown") is is_missing
    async with ledger_at(tmp_path, replace(asked, run_id="run-3"), clock) as ledger:
        assert await ledger.record_unknown(attempt_id, "unknown") is is_missing


async def test_a_second_pass_comes_after_the_first(tmp_path: Path) -> None:
    """What failed for a passing reason is due again, behind all that was not tried yet."""
    clock = Clock()
    async with ledger_at(tmp_path, clock=clock) as ledger:
        await Steps(ledger, b"a.wav").find()
        (first,) = await ledger.claim(1)
        assert await ledger.fail_upload(first, "a hiccup", 30.0, 2)
        await Steps(ledger, b"b.wav").find()
        assert [claim.path for claim in await ledger.claim(1)] == [b"b.wav"]
        await Steps(ledger, b"c.wav").find()
        clock.now += 31

        order = [claim.path for _ in range(2) for claim in await ledger.claim(10)]

        assert order == [b"c.wav", b"a.wav"]


async def test_an_upload_that_waits_is_not_made_again(tmp_path: Path) -> None:
    """A recording that turns out to be equal to one that is uploaded and set aside waits for it."""
    async with ledger_at(tmp_path) as ledger:
        first = await Steps(ledger, b"a.wav").claim()
        second = await Steps(ledger, b"b.wav").claim()
        assert await ledger.record_uploaded(first, reading(), "upload:1")
        await ledger.set_aside(first.attempt_id)

        assert not await ledger.recognise(second, reading())


async def test_an_upload_in_hand_is_not_handed_out_twice(tmp_path: Path) -> None:
    """An upload that waits for its place at the service is nobody else's, whatever becomes due."""
    async with ledger_at(tmp_path) as ledger:
        first = await Steps(ledger, b"a.wav").claim()
        second = await Steps(ledger, b"b.wav").claim()
        assert await ledger.record_uploaded(first, reading(), "upload:1")
        assert await ledger.record_uploaded(second, reading(), "upload:2")
        assert await ledger.claim_submit(first.attempt_id, None)
        assert await ledger.record_accepted(first.attempt_id, "id-1")
        assert await ledger.record_error(first.attempt_id, "Server error", again=True, tries=2)

        claims = await ledger.claim(10)

        assert second.attempt_id not in [claim.attempt_id for claim in claims]


async def test_an_upload_that_waits_holds_nobody_up(tmp_path: Path) -> None:
    """What an equal recording's lost answer was for is due again, beside an upload set aside."""
    clock = Clock()
    async with ledger_at(tmp_path, clock=clock) as ledger:
        first = await Steps(ledger, b"a.wav").claim()
        second = await Steps(ledger, b"b.wav").claim()
        assert await ledger.record_uploaded(first, reading(), "upload:1")
        assert await ledger.claim_submit(first.attempt_id, None)
        await ledger.set_aside(first.attempt_id)
        assert await ledger.record_uploaded(second, reading(), "upload:2")
        assert await ledger.claim_submit(second.attempt_id, None)
        await ledger.record_ambiguous(second.attempt_id, "lost")

        await ledger.record_not_accepted(second.attempt_id, 3)
        clock.now += 1

        assert [claim.attempt_id for claim in await ledger.claim(10)] == [first.attempt_id]


# --- the budget -----------------------------------------------------------------------------------


async def test_the_next_run_is_told_of_the_last_window(tmp_path: Path) -> None:
    """Requests are never taken for older than they are, and those before the window are none."""
    clock = Clock()
    async with ledger_at(tmp_path, clock=clock) as ledger:
        await ledger.record_requests([0.0, 0.5, 7.5, 10.0, 99.0], 10.0)
    clock.now += 2.25

    async with ledger_at(tmp_path, clock=clock) as ledger:
        assert sorted(await ledger.earlier_requests(10.0)) == [1.25, 2.25, 9.25]


async def test_the_next_run_is_told_of_submits_at_its_address(tmp_path: Path) -> None:
    """How long ago each was made, whatever came of it; not those of another address or long ago."""
    clock = Clock()
    elsewhere = replace(HERE, run_id="run-2", base_url="http://elsewhere")
    async with ledger_at(tmp_path, clock=clock) as ledger:
        await Steps(ledger, b"a.wav", b"a").reach(AttemptState.ACCEPTED)
        clock.now += 290
        await Steps(ledger, b"b.wav", b"b").reach(AttemptState.AMBIGUOUS)
        await Steps(ledger, b"c.wav", b"c").reach(AttemptState.REFUSED)
        await Steps(ledger, b"d.wav", b"d").reach(AttemptState.UPLOADED)
    async with ledger_at(tmp_path, elsewhere, clock) as ledger:
        await Steps(ledger, b"e.wav", b"e").reach(AttemptState.ACCEPTED)
    clock.now += 20

    async with ledger_at(tmp_path, clock=clock) as ledger:
        assert await ledger.earlier_submits(300.0) == [20.0, 20.0]


# --- clocks that were wrong -----------------------------------------------------------------------

FAR_S = 40 * 365 * 86_400.0


@pytest.mark.parametrize("wrong_s", [-FAR_S, FAR_S])
async def test_a_wrong_clock_does_not_fill_the_window(tmp_path: Path, wrong_s: float) -> None:
    """Requests and submits of a clock that was years off are none of the last window."""
    clock = Clock()
    clock.now += wrong_s
    async with ledger_at(tmp_path, clock=clock) as ledger:
        await ledger.record_requests([0.0] * 10, 300.0)
        await Steps(ledger).reach(AttemptState.ACCEPTED)
    clock.now -= wrong_s

    async with ledger_at(tmp_path, clock=clock) as ledger:
        assert await ledger.earlier_requests(300.0) == []
        assert await ledger.earlier_submits(300.0) == []
        await ledger.record_requests([1.0], 300.0)

    assert await standing(tmp_path, "SELECT count(*) FROM requests") == [1]


async def test_a_clock_set_back_a_little_hides_nothing(tmp_path: Path) -> None:
    """What was sent in the minute that comes once more counts as sent just now."""
    clock = Clock()
    async with ledger_at(tmp_path, clock=clock) as ledger:
        await ledger.record_requests([0.0], 300.0)
        await Steps(ledger).reach(AttemptState.ACCEPTED)
    clock.now -= 60

    async with ledger_at(tmp_path, clock=clock) as ledger:
        assert await ledger.earlier_requests(300.0) == [0.0]
        assert await ledger.earlier_submits(300.0) == [0.0]


@pytest.mark.parametrize("wrong_s", [-FAR_S, FAR_S])
async def test_a_month_counts_what_a_wrong_clock_noted(tmp_path: Path, wrong_s: float) -> None:
    """It counts in the month in which it was asked for, and in none after the next."""
    month_s, clock = 30 * 86_400.0, Clock()
    counted = []
    for month in range(4):
        since, number = clock.now - 1, 0
        async with ledger_at(tmp_path, replace(HERE, run_id=f"run-{month}"), clock) as ledger:
            for off_s in (0.0, wrong_s, 0.0) if month == 1 else (0.0,):
                clock.now += off_s
                name = b"%d-%d.wav" % (month, number)
                attempt_id = await Steps(ledger, name, name).reach(AttemptState.UPLOADED)
                await ledger.expect(attempt_id, 1.0, 0.0)
                assert await ledger.claim_submit(attempt_id, None)
                clock.now -= off_s
                clock.now += 60
                number += 1
            counted.append((await ledger.spent(since, {}))[0])
        clock.now += month_s

    assert counted == [1.0, 3.0, 1.0, 1.0]


@pytest.mark.parametrize("wrong_s", [-FAR_S, FAR_S])
async def test_an_upload_of_a_wrong_clock_is_made_again(tmp_path: Path, wrong_s: float) -> None:
    """Nobody knows how old it is, and the service keeps it for a day only."""
    clock = Clock()
    clock.now += wrong_s
    async with ledger_at(tmp_path, clock=clock) as ledger:
        attempt_id = await Steps(ledger).reach(AttemptState.UPLOADED)
        await ledger.set_aside(attempt_id)
    clock.now -= wrong_s

    async with ledger_at(tmp_path, LATER, clock) as ledger:
        await Steps(ledger).find()
        (claim,) = await ledger.claim(1)

    assert claim.uploaded is None


# --- names of results --------------------------------------------------------------------------


async def test_results_never_share_a_name(tmp_path: Path) -> None:
    """Names that some file system takes for one get eight hex digits to tell them apart."""
    paths = [b"Call.wav", b"call.wav", "caf\u00e9.wav".encode(), "cafe\u0301.wav".encode()]
    async with ledger_at(tmp_path) as ledger:
        await ledger.record_found("root", [entry(path) for path in paths], lambda _: None, ())

    results = await standing(tmp_path, "SELECT result FROM recordings ORDER BY recording_id")
    assert results[0] == b"Call.wav.json"
    assert re.fullmatch(rb"call\.wav~[0-9a-f]{8}\.json", results[1])
    assert results[2] == "caf\u00e9.wav.json".encode()
    assert re.fullmatch("cafe\u0301\\.wav~[0-9a-f]{8}\\.json", results[3].decode())


async def test_a_result_is_only_noted_where_it_is_still_waited_for(tmp_path: Path) -> None:
    """A recording that changed between fetch and save does not get the old content's result."""
    async with ledger_at(tmp_path) as ledger:
        steps = Steps(ledger)
        attempt_id = await steps.reach(AttemptState.ACCEPTED)
        delivery = await ledger.record_completed(attempt_id, Completion(None, 1.0, None))
        recipients = [each.recording_id for each in delivery.recipients]
        changed = structs.replace(entry(steps.path), mtime_ns=9)
        await ledger.record_found("root", [changed], lambda _: None, ())

        await ledger.record_written(attempt_id, recipients, 3, "f" * 64)

        assert recipients
        assert await ledger.next_due() is not None
        assert (await ledger.standing())["root", "parked", None] == 1
