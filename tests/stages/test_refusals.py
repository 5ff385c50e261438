"""One cause ends the intake and fails nothing for good; one recording ends nothing but itself."""

import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest

from pipeline.errors import ExitCode
from pipeline.events import Failed, Warned
from tests.support.clock import MovableLoop
from tests.support.runs import Archive, opened, quickly
from tests.support.service import Fault
from tests.support.service_faults import Kind

pytestmark = pytest.mark.anyio

PAGE = "<html><title>Blocked</title>This page is blocked by your administrator.</html>"
MANY = 16


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """A loop whose time the tests can move."""
    return "asyncio", {"loop_factory": MovableLoop}


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        yield archive


def fill(archive: Archive, many: int = MANY) -> None:
    for number in range(many):
        archive.add(f"{number:02}.wav", b"%d" % number)


REFUSALS = [
    (Fault(on="upload", action="answer", status=407, body=""), ExitCode.TRY_LATER),
    (Fault(on="upload", action="answer", status=413, body=PAGE), ExitCode.TRY_LATER),
    (Fault(on="upload", action="answer", status=403, body=PAGE), ExitCode.TRY_LATER),
    (Fault(on="upload", action="answer", status=401, body=PAGE), ExitCode.TRY_LATER),
    (Fault(on="upload", action="answer", status=451), ExitCode.TRY_LATER),
    (Fault(on="upload", action="answer", status=413), ExitCode.TRY_LATER),
    (Fault(on="submit", action="answer", status=403, body=PAGE), ExitCode.TRY_LATER),
    (Fault(on="submit", action="answer", status=407, body=""), ExitCode.TRY_LATER),
    (Fault(on="submit", action="answer", status=451), ExitCode.TRY_LATER),
    (Fault(on="submit", action="answer", status=400), ExitCode.USAGE),
    (Fault(on="submit", action="answer", status=422), ExitCode.USAGE),
]


@pytest.mark.parametrize(
    ("fault", "code"), REFUSALS, ids=lambda each: getattr(each, "status", None) and str(each)[:70]
)
@pytest.mark.parametrize("at_once", [1, 4])
async def test_one_cause_ends_the_intake(
    archive: Archive, fault: Fault, code: ExitCode, at_once: int
) -> None:
    """After three alike and one more nothing is sent, nothing has failed, and all is due again."""
    fill(archive)
    fault.met, fault.times = 0, None
    archive.service.faults.add(fault)

    outcome = await archive.run(uploads=at_once, concurrency=1)

    assert outcome.summary.exit_code == code
    assert (outcome.summary.failed, outcome.summary.parked) == (0, MANY)
    assert fault.met <= 4 + 3 * at_once
    archive.service.faults.clear()
    again = await archive.run()
    assert (again.summary.written, again.summary.exit_code) == (MANY, ExitCode.DONE)
    assert set(archive.service.billable.values()) == {1}


@pytest.mark.parametrize("on", ["upload", "submit"])
async def test_a_sentence_with_an_id_is_the_same_sentence(archive: Archive, on: Kind) -> None:
    """What differs from one refusal to the next is no reason to try them all."""
    fill(archive)
    for number in range(MANY):
        body = json.dumps({"error": f"not allowed (request {number:08x}, file '{number}.wav')"})
        fault = Fault(on=on, action="answer", status=400, body=body)
        archive.service.faults.add(fault)

    outcome = await archive.run(uploads=1, concurrency=1)

    assert archive.service.requests[on] <= 5
    assert outcome.summary.failed == 0


async def test_options_that_were_taken_once_may_be_refused_later(archive: Archive) -> None:
    """That the service took these options on another day, or an hour ago, is no proof for now."""
    archive.add("00.wav", b"0")
    assert (await archive.run()).summary.written == 1
    fill(archive)
    body = '{"error": "this model is not available any more"}'
    fault = Fault(on="submit", action="answer", times=None, skip=2, status=400, body=body)
    archive.service.faults.add(fault)

    outcome = await archive.run(uploads=1, concurrency=1)

    assert outcome.summary.exit_code == ExitCode.USAGE
    assert (outcome.summary.failed, outcome.summary.written) == (0, 2)
    assert fault.met <= 5


@pytest.mark.parametrize("on", ["upload", "submit"])
async def test_one_that_is_taken_leaves_the_fault_with_the_others(
    archive: Archive, on: Kind
) -> None:
    """Three that are refused among others that are taken have failed, and end nothing."""
    fill(archive)
    fault = Fault(on=on, action="answer", times=3, skip=2, status=400)
    archive.service.faults.add(fault)

    outcome = await archive.run(uploads=1, concurrency=1)

    assert outcome.summary.exit_code == ExitCode.PARTIAL
    assert (outcome.summary.failed, outcome.summary.written) == (3, MANY - 3)
    assert len(outcome.of(Failed)) == 3


async def test_three_of_three_are_not_failed_for_good(archive: Archive) -> None:
    """With no other to try, and nothing taken in this run, nothing speaks against a cause."""
    fill(archive, 3)
    archive.service.faults.add(Fault(on="upload", action="answer", times=None, status=413))

    outcome = await archive.run()

    assert outcome.summary.exit_code == ExitCode.TRY_LATER
    assert (outcome.summary.failed, outcome.summary.parked) == (0, 3)


async def test_what_is_refused_on_another_day_as_well_is_to_blame(archive: Archive) -> None:
    """Those that all were refused with come behind the others, and fail where these are taken."""
    fill(archive, 6)
    bad = ("0", "1", "2", "3", "4")
    refuse = Fault(
        on="upload",
        action="answer",
        times=None,
        status=413,
        match=lambda call: call.beginning in bad,
    )
    archive.service.faults.add(refuse)

    first = await archive.run(uploads=1)
    second = await archive.run(uploads=1)

    assert (first.summary.written, first.summary.failed) == (0, 0)
    assert (second.summary.written, second.summary.failed) == (1, 5)
    assert archive.service.log[-1].status == 200
    assert second.summary.exit_code == ExitCode.PARTIAL


async def test_a_page_fails_no_recording_for_good(archive: Archive) -> None:
    """A filter that minds one recording leaves it for another day, and stops no other."""
    fill(archive, 4)
    digest = sha256(b"1").hexdigest()
    filtered = Fault(on="submit", action="answer", times=None, status=403, body=PAGE, match=digest)
    archive.service.faults.add(filtered)

    outcome = await archive.run(uploads=1)
    archive.service.faults.clear()

    assert filtered.met == 2
    assert (outcome.summary.written, outcome.summary.failed) == (3, 1)
    assert (await archive.run()).summary.written == 1


# --- the key, in passing -----------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("on", ["upload", "submit", "list", "get"])
async def test_a_refusal_in_passing_ends_nothing(archive: Archive, on: Kind, status: int) -> None:
    """One refusal of a key that is taken before and after is no reason to stop or to fail."""
    fill(archive, 4)
    fault = Fault(on=on, action="answer", skip=1, status=status)
    archive.service.faults.add(fault)

    outcome = await quickly(archive, uploads=1)

    assert fault.met == 1
    assert (outcome.summary.written, outcome.summary.exit_code) == (4, ExitCode.DONE)
    assert set(archive.service.billable.values()) == {1}


@pytest.mark.parametrize("on", ["upload", "submit"])
async def test_a_key_that_is_refused_for_good_ends_the_run(archive: Archive, on: Kind) -> None:
    """Where the newest row is refused too, after 5 s and after 15, nothing more is sent."""
    fill(archive, 4)
    body = '{"error": "API token missing/invalid"}'
    first = Fault(on=on, action="answer", times=None, status=401, body=body)
    archive.service.faults.add(first)
    rest = Fault(
        on="*", action="answer", times=None, status=401, body=body, match=lambda _: first.met > 0
    )
    archive.service.faults.add(rest)

    outcome = await quickly(archive, uploads=1)

    assert outcome.summary.exit_code == ExitCode.REFUSED
    assert (outcome.summary.failed, outcome.summary.parked) == (0, 4)
    assert first.met <= 2


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("on", ["upload", "submit"])
async def test_access_that_is_refused_to_all_is_told_as_such(
    archive: Archive, on: Kind, status: int
) -> None:
    """Each is set aside once; refused again, one after the other, it is exit code 4 for all."""
    fill(archive)
    fault = Fault(on=on, action="answer", times=None, status=status)
    archive.service.faults.add(fault)

    outcome = await quickly(archive, uploads=1, concurrency=1)

    assert outcome.summary.exit_code == ExitCode.REFUSED
    assert (outcome.summary.failed, outcome.summary.parked) == (0, MANY)
    assert fault.met <= 12


async def test_an_upload_that_cannot_be_read_is_made_anew_once(archive: Archive) -> None:
    """`Cannot access uploaded file` is about the upload: another one of the same bytes is tried."""
    fill(archive, 2)
    body = '{"error": "Cannot access uploaded file"}'
    fault = Fault(on="submit", action="answer", status=403, body=body)
    archive.service.faults.add(fault)

    outcome = await archive.run(uploads=1)

    assert (outcome.summary.written, outcome.summary.exit_code) == (2, ExitCode.DONE)
    assert archive.service.requests["upload"] == 3
    urls = [call.audio_url for call in archive.service.log if call.kind == "submit"]
    assert len(set(urls)) == 3
    assert any("anew" in event.message for event in outcome.of(Warned))


async def test_a_second_upload_that_cannot_be_read_is_a_refusal(archive: Archive) -> None:
    """Once is enough: what cannot be read twice fails, and the others go on."""
    fill(archive, 3)
    body = '{"error": "Cannot access uploaded file"}'
    refused = set[str]()
    fault = Fault(
        on="submit",
        action="answer",
        times=None,
        status=403,
        body=body,
        match=lambda call: call.content in refused or not (refused or refused.add(call.content)),
    )
    archive.service.faults.add(fault)

    outcome = await archive.run(uploads=1)

    assert (outcome.summary.written, outcome.summary.failed) == (2, 1)
    assert fault.met == 2


# --- 429 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["upload", "submit", "get"])
async def test_a_429_uses_up_no_try(archive: Archive, on: Kind) -> None:
    """Refused more often than anything is tried, a recording is transcribed all the same."""
    archive.add("a.wav", b"a")
    headers = {"Retry-After": "0"}
    fault = Fault(on=on, action="answer", times=3, status=429, headers=headers)
    archive.service.faults.add(fault)

    outcome = await archive.run()

    assert (outcome.summary.written, outcome.summary.exit_code) == (1, ExitCode.DONE)
    assert fault.met == 3
