"""Asking once: whatever happens to a request or its answer, a content is paid once."""

import json
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import anyio
import pytest

from pipeline.errors import ExitCode
from pipeline.events import Failed, Submitted, Warned
from tests.support.clock import MovableLoop
from tests.support.runs import Archive, opened, quickly
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

ONE, TWO, THREE = b"one", b"two", b"three"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """A loop whose time the tests can move."""
    return "asyncio", {"loop_factory": MovableLoop}


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        yield archive


def paid_once(archive: Archive, *contents: bytes) -> None:
    """Each content has one transcript, completed, and its result on disk is that one."""
    assert all(count == 1 for count in archive.service.billable.values())
    for content in contents:
        completed = [t for t in archive.service.accepted(content) if t.status == "completed"]
        assert len(completed) == 1
    saved = {json.loads(body)["id"] for body in archive.results().values()}
    assert saved == {archive.service.accepted(content)[0].id for content in contents}


# --- lost answers ------------------------------------------------------------------------------

AFTER = [
    Fault(on="submit", action="drop_after"),
    Fault(on="submit", action="truncate"),
    Fault(on="submit", action="garbage"),
    Fault(on="submit", action="foreign_audio_url"),
    Fault(on="submit", action="effect_then_answer", status=500),
    Fault(on="submit", action="effect_then_answer", status=503, body="<html>busy</html>"),
    Fault(on="submit", action="effect_then_answer", status=409),
    Fault(on="submit", action="effect_then_answer", status=408),
    Fault(on="submit", action="effect_then_answer", status=425),
    Fault(on="submit", action="effect_then_answer", status=302),
    Fault(on="submit", action="effect_then_answer", status=200, body="{}"),
    Fault(on="submit", action="effect_then_answer", status=200, body='{"id": "../../etc"}'),
    Fault(on="submit", action="effect_then_answer", status=204, body=""),
]


def fault_name(fault: Fault) -> str:
    return f"{fault.action}-{fault.status}" if "answer" in fault.action else fault.action


@pytest.mark.parametrize("fault", AFTER, ids=fault_name)
async def test_an_accepted_request_whose_answer_is_lost(archive: Archive, fault: Fault) -> None:
    """Whatever kept the answer from us, the list shows the transcript: it is not asked again."""
    archive.add("a.wav", ONE)
    archive.add("b.wav", TWO)
    fault.met = 0
    archive.service.faults.add(fault)

    outcome = await archive.run()

    assert outcome.summary.exit_code == ExitCode.DONE
    assert outcome.summary.written == 2
    assert archive.service.requests["submit"] == 2
    paid_once(archive, ONE, TWO)


BEFORE = [
    Fault(on="submit", action="drop_before"),
    Fault(on="submit", action="answer", status=500),
    Fault(on="submit", action="answer", status=503, body="", content_type="text/html"),
    Fault(on="submit", action="answer", status=200, body="not JSON"),
    Fault(on="submit", action="redirect", location="https://elsewhere.invalid/v2/transcript"),
]


@pytest.mark.parametrize("fault", BEFORE, ids=fault_name)
async def test_a_request_that_was_not_accepted(archive: Archive, fault: Fault) -> None:
    """Where the list does not show it after `settle`, it is asked for again, and paid once."""
    archive.add("a.wav", ONE)
    fault.met = 0
    archive.service.faults.add(fault)

    outcome = await archive.run()

    assert outcome.summary.exit_code == ExitCode.DONE
    assert archive.service.requests["submit"] == 2
    paid_once(archive, ONE)
    assert any("lost" in event.message for event in outcome.of(Warned))


async def test_every_second_answer_is_lost(archive: Archive) -> None:
    """Many lost answers at once, before and after the effect, still cost one transcript each."""
    contents = [b"%d" % number for number in range(12)]
    for number, content in enumerate(contents):
        archive.add(f"{number:02}.wav", content)
    archive.service.faults.add(Fault(on="submit", action="drop_after", times=4))
    archive.service.faults.add(Fault(on="submit", action="drop_before", times=4))

    outcome = await archive.run()

    assert outcome.summary.written == 12
    paid_once(archive, *contents)


async def test_crossed_answers_are_nobodys(archive: Archive) -> None:
    """Two submits that get each other's answers: neither result is saved for the other."""
    archive.add("a.wav", ONE)
    archive.add("b.wav", TWO)
    archive.service.faults.add(Fault(on="submit", action="cross_answers", times=2))

    outcome = await archive.run()

    assert outcome.summary.written == 2
    paid_once(archive, ONE, TWO)
    for name, content in (("a.wav.json", ONE), ("b.wav.json", TWO)):
        (transcript,) = archive.service.accepted(content)
        assert json.loads(archive.results()[name])["id"] == transcript.id


async def test_an_id_that_is_given_twice(archive: Archive) -> None:
    """An id that another attempt has already is no acceptance: the list says what became of it."""
    archive.add("a.wav", ONE)
    await archive.run()
    (first,) = archive.service.accepted(ONE)
    archive.add("b.wav", TWO)
    body = json.dumps({"id": first.id, "status": "queued"})
    archive.service.faults.add(
        Fault(on="submit", action="effect_then_answer", status=200, body=body)
    )

    outcome = await archive.run()

    assert outcome.summary.written == 1
    (second,) = archive.service.accepted(TWO)
    assert json.loads(archive.results()["b.wav.json"])["id"] == second.id


async def test_a_submit_is_never_sent_by_a_retry(archive: Archive) -> None:
    """While a lost answer is being looked for, the same content is not submitted."""
    archive.add("a.wav", ONE)
    archive.service.faults.add(Fault(on="submit", action="drop_before"))

    await archive.run(settle="1s")

    first, second = [call for call in archive.service.log if call.kind == "submit"]
    assert second.at - first.at >= 1.0
    between = [c for c in archive.service.log if first.at < c.at < second.at and c.kind == "list"]
    assert between


async def test_an_upload_url_serves_one_submit(archive: Archive) -> None:
    """What was not accepted is uploaded anew: no `audio_url` is ever submitted twice."""
    archive.add("a.wav", ONE)
    archive.service.faults.add(Fault(on="submit", action="drop_before"))

    await archive.run()

    urls = [call.audio_url for call in archive.service.log if call.kind == "submit"]
    assert len(urls) == len(set(urls)) == 2


# --- certain refusals --------------------------------------------------------------------------


async def test_a_full_account_waits(archive: Archive) -> None:
    """A 429 with `Retry-After` pauses every request for as long as it says; then all goes on."""
    archive.add("a.wav", ONE)
    archive.add("b.wav", TWO)
    archive.service.faults.add(
        Fault(on="submit", action="answer", status=429, headers={"Retry-After": "1"})
    )

    outcome = await archive.run()

    assert outcome.summary.written == 2
    paid_once(archive, ONE, TWO)
    calls = archive.service.log
    paused = next(call for call in calls if call.status == 429)
    # What was on its way when the answer came was not sent after it.
    later = [call.at - paused.at for call in calls if call.at - paused.at > 0.2]
    assert min(later) >= 0.95
    assert archive.service.requests["upload"] == 2


async def test_a_429_is_not_ambiguous(archive: Archive) -> None:
    """A whole 429 says that nothing was made: the same upload is submitted again."""
    archive.add("a.wav", ONE)
    archive.service.faults.add(
        Fault(on="submit", action="answer", status=429, headers={"Retry-After": "0"})
    )

    outcome = await archive.run()

    assert outcome.summary.written == 1
    urls = {call.audio_url for call in archive.service.log if call.kind == "submit"}
    assert len(urls) == 1


async def test_a_very_long_pause_ends_the_intake(archive: Archive) -> None:
    """Asked to stay away for longer than a run waits, the run ends, to be tried later."""
    archive.add("a.wav", ONE)
    archive.service.faults.add(
        Fault(on="submit", action="answer", status=429, headers={"Retry-After": "86400"})
    )

    outcome = await archive.run()

    assert outcome.summary.exit_code == ExitCode.TRY_LATER
    assert outcome.summary.parked == 1
    assert (await archive.run()).summary.written == 1
    paid_once(archive, ONE)


async def test_a_refused_recording_is_not_sent_again(archive: Archive) -> None:
    """A request that the service refuses for good fails with its sentence; the others go on."""
    archive.add("a.wav", ONE)
    archive.add("b.wav", TWO)
    sentence = "Audio is of the wrong colour"
    archive.service.faults.add(
        Fault(on="submit", action="answer", status=400, body=json.dumps({"error": sentence}))
    )

    first = await archive.run(uploads=1)
    uploads = archive.service.requests["upload"]
    second = await archive.run()

    assert first.summary.exit_code == ExitCode.PARTIAL
    assert (first.summary.written, first.summary.failed) == (1, 1)
    (failed,) = first.of(Failed)
    assert sentence in failed.reason
    assert second.summary.failed == 1
    assert sentence in next(iter(second.summary.reasons["failed"]))
    assert archive.service.requests["upload"] == uploads
    assert (await archive.run(retry_failed=True)).summary.written == 1


async def test_refused_options_stop_their_set_only(archive: Archive) -> None:
    """With rules, options that the service refuses fail the recordings that have them only."""
    for number in range(10):
        archive.add(f"bad/{number}.wav", b"bad %d" % number)
    for name in ("good/a.wav", "good/d.wav"):
        archive.add(name, name.encode())
    rules = [{"match": "bad/*", "speech_models": ["universal-2"]}]
    refuse = Fault(
        on="submit",
        action="answer",
        times=None,
        status=400,
        body='{"error": "speech_models: this model is not for you"}',
        match=lambda call: call.sent["speech_models"] == ["universal-2"],
    )
    archive.service.faults.add(refuse)

    outcome = await archive.run(rules=rules, uploads=1)

    assert outcome.summary.exit_code == ExitCode.PARTIAL
    assert sorted(archive.results()) == ["good/a.wav.json", "good/d.wav.json"]
    assert outcome.summary.failed == 10
    # Those under way when the first refusal came were sent, the others were not.
    assert refuse.met < 6


async def test_refused_options_of_all_end_the_intake(archive: Archive) -> None:
    """Without rules, options that the service refuses would fail every recording: the run ends."""
    for number in range(6):
        archive.add(f"{number}.wav", b"%d" % number)
    archive.service.faults.add(
        Fault(
            on="submit",
            action="answer",
            times=None,
            status=400,
            body='{"error": "speech_models must be a list"}',
        )
    )

    outcome = await archive.run(uploads=1, concurrency=1)

    assert outcome.summary.exit_code == ExitCode.USAGE
    assert outcome.summary.parked == 6
    assert archive.service.requests["upload"] < 6


@pytest.mark.parametrize("is_by_rule", [False, True])
async def test_refusals_alike_are_of_the_options(archive: Archive, is_by_rule: bool) -> None:
    """Three refusals in the same words end their options, whatever the words: uploads end, too."""
    for number in range(20):
        archive.add(f"bad/{number:02}.wav", b"bad %d" % number)
    rules = [{"match": "bad/*", "punctuate": False}] if is_by_rule else []
    if is_by_rule:
        archive.add("good.wav", b"good")
    refuse = Fault(
        on="submit",
        action="answer",
        times=None,
        status=400,
        body='{"error": "The following models are not available in this language: universal-2"}',
        match=lambda call: not is_by_rule or call.sent.get("punctuate") is False,
    )
    archive.service.faults.add(refuse)

    outcome = await archive.run(rules=rules, uploads=1, concurrency=1)

    assert refuse.met < 8
    assert archive.service.requests["upload"] < 12
    assert sorted(archive.results()) == (["good.wav.json"] if is_by_rule else [])
    code = ExitCode.PARTIAL if is_by_rule else ExitCode.USAGE
    assert outcome.summary.exit_code == code


async def test_refusals_of_recordings_stop_nobody(archive: Archive) -> None:
    """Refusals that come among acceptances are about recordings, however many there are."""
    for number in range(24):
        archive.add(f"{number:02}.wav", b"%d" % number)
    sent = count()
    refuse = Fault(
        on="submit",
        action="answer",
        times=None,
        status=400,
        body='{"error": "not this one"}',
        match=lambda call: next(sent) % 3 > 0,
    )
    archive.service.faults.add(refuse)

    outcome = await archive.run(uploads=1, concurrency=1)

    assert (outcome.summary.written, outcome.summary.failed) == (8, 16)


# --- key and balance ---------------------------------------------------------------------------


async def test_a_refused_key_stops_at_once(archive: Archive) -> None:
    """With a key that is refused nothing is uploaded, nothing fails, and the exit code is 4."""
    archive.add("a.wav", ONE)
    archive.service.faults.add(
        Fault(on="*", action="answer", times=None, status=401, body='{"error": "Unauthorized"}')
    )

    outcome = await archive.run()

    assert outcome.summary.exit_code == ExitCode.REFUSED
    assert outcome.summary.parked == 1
    assert archive.service.requests.total() == 1
    archive.service.faults.clear()
    assert (await archive.run()).summary.written == 1


async def test_a_key_that_is_revoked_midway(archive: Archive) -> None:
    """A 401 for all in the middle ends the run: nothing fails, and the next run goes on."""
    for number in range(10):
        archive.add(f"{number}.wav", b"%d" % number)
    archive.service.transcript_seconds = 60.0
    archive.service.faults.add(
        Fault(on="*", action="answer", times=None, skip=12, status=401, body='{"error": "no"}')
    )

    outcome = await quickly(archive, uploads=2)

    assert outcome.summary.exit_code == ExitCode.REFUSED
    assert outcome.summary.failed == 0
    assert outcome.summary.parked == 10
    archive.service.faults.clear()
    archive.service.transcript_seconds = 0.05
    for transcript in archive.service:
        archive.service.complete(transcript.id)
    again = await archive.run()
    assert again.summary.written == 10
    assert set(archive.service.billable.values()) == {1}


async def test_an_empty_account_collects_what_it_paid(archive: Archive) -> None:
    """A negative balance ends the intake before more is uploaded; what was accepted is saved."""
    for number in range(10):
        archive.add(f"{number}.wav", b"%d" % number)
    archive.service.faults.add(Fault(on="submit", action="negative_balance", times=None, skip=3))

    outcome = await archive.run(uploads=1, concurrency=2)

    assert outcome.summary.exit_code == ExitCode.REFUSED
    assert "balance" in (outcome.summary.reason or "")
    assert outcome.summary.written == 3
    assert outcome.summary.parked == 7
    assert archive.service.requests["upload"] < 10
    assert len(archive.results()) == 3


# --- pressure ----------------------------------------------------------------------------------


async def test_no_more_is_open_than_allowed(archive: Archive) -> None:
    """At the service are never more than `in_flight`, ahead of it never more than `uploads`."""
    for number in range(30):
        archive.add(f"{number:02}.wav", b"%d" % number)
    archive.service.concurrency = 4

    outcome = await archive.run(concurrency=4, uploads=3)

    assert outcome.summary.written == 30
    assert archive.service.peak_open <= 5
    assert archive.service.peak_uploads <= 3
    assert archive.service.peak_processing == 4


async def test_uploads_stop_when_the_service_is_full(archive: Archive) -> None:
    """While no transcript ends, no more is uploaded than can be submitted soon."""
    for number in range(30):
        archive.add(f"{number:02}.wav", b"%d" % number)
    archive.service.transcript_seconds = 3600.0
    most = 5 + 3

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: archive.run(concurrency=4, uploads=3))
        with anyio.fail_after(30):
            await archive.service.until(lambda: archive.service.requests["upload"] >= most)
            await archive.service.until(lambda: archive.service.requests["submit"] >= 5)
            seen = archive.service.requests["list"]
            await archive.service.until(lambda: archive.service.requests["list"] >= seen + 5)
        group.cancel_scope.cancel()

    assert archive.service.requests["upload"] == most
    assert archive.service.requests["submit"] == 5


async def test_submitted_is_told_with_its_id(archive: Archive) -> None:
    """Each accepted request is a fact with the recording and the id."""
    archive.add("a.wav", ONE)

    outcome = await archive.run()

    (event,) = outcome.of(Submitted)
    (transcript,) = archive.service.accepted(ONE)
    assert (event.recording, event.transcript_id) == ("a.wav", transcript.id)
