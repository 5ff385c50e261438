"""Saving what was paid: whole or absent, only what belongs to it, and never asked for twice."""

import json
import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from pipeline.errors import ExitCode
from pipeline.events import Completed, Failed, Warned, Written
from tests.support.runs import Archive, Outcome, opened
from tests.support.service import Fault
from tests.support.service_faults import ABSENT, Call

pytestmark = pytest.mark.anyio

ONE, TWO = b"one", b"two"
SERVER_ERROR = "Server error, developers have been alerted."


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        yield archive


def whole(archive: Archive) -> None:
    """Every result is one whole document, and nothing unfinished lies about."""
    for name, body in archive.results().items():
        assert not name.endswith("~overnight")
        assert json.loads(body)["status"] == "completed"


# --- answers -----------------------------------------------------------------------------------

GET_FAULTS = [
    Fault(on="get", action="truncate"),
    Fault(on="get", action="garbage"),
    Fault(on="get", action="drop_after"),
    Fault(on="get", action="answer", status=500),
    Fault(on="get", action="answer", status=503, body="<html>", content_type="text/html"),
    Fault(on="get", action="answer", status=200, body=""),
    Fault(on="get", action="answer", status=200, body="[]"),
    Fault(on="get", action="answer", status=200, body="null"),
    Fault(on="get", action="redirect", location="http://127.0.0.1:9/elsewhere"),
]


@pytest.mark.parametrize("fault", GET_FAULTS, ids=lambda f: f"{f.action}-{f.status}-{f.body[:3]}")
async def test_a_bad_answer_never_becomes_a_result(archive: Archive, fault: Fault) -> None:
    """A transcript that came in pieces, or not at all, is fetched again; what is saved is whole."""
    archive.add("a.wav", ONE)
    fault.met = 0
    archive.service.faults.add(fault)

    outcome = await archive.run()

    assert outcome.summary.written == 1
    whole(archive)
    assert archive.service.requests["submit"] == 1


@pytest.mark.parametrize(
    "patch",
    [{"id": "00000000-0000-0000-0000-000000000000"}, {"id": "x" * 36}],
    ids=["other", "no id of ours"],
)
async def test_a_foreign_answer_is_not_saved(archive: Archive, patch: dict[str, str]) -> None:
    """An answer that is not for this attempt is not saved; the transcript stays paid and parked."""
    archive.add("a.wav", ONE)
    archive.service.faults.add(Fault(on="get", action="patch", times=None, patch=patch))

    outcome = await archive.run()

    assert archive.results() == {}
    assert outcome.summary.exit_code == ExitCode.PARTIAL
    assert outcome.summary.parked == 1
    archive.service.faults.clear()
    assert (await archive.run()).summary.written == 1
    whole(archive)
    assert archive.service.requests["submit"] == 1


@pytest.mark.parametrize("scheme", ["https:", "http:"])
async def test_an_answer_about_another_upload_is_not_saved(archive: Archive, scheme: str) -> None:
    """An answer of the right id that speaks of another upload of ours stays paid and parked."""
    archive.add("b.wav", TWO)
    await archive.run()
    (other,) = archive.service.accepted(TWO)
    archive.add("a.wav", ONE)
    patch = {"audio_url": other.audio_url.replace("https:", scheme)}
    archive.service.faults.add(Fault(on="get", action="patch", times=None, patch=patch))

    outcome = await archive.run()

    assert list(archive.results()) == ["b.wav.json"]
    assert outcome.summary.parked == 1
    archive.service.faults.clear()
    assert (await archive.run()).summary.written == 1
    assert archive.service.requests["submit"] == 2


ODD_ANSWERS: dict[str, dict[str, Any]] = {
    f"{field} {value}": {field: value}
    for field in ("audio_duration", "error", "speech_model_used", "confidence", "language_code")
    for value in (True, -1e300, "2", [1], {"a": 1})
    if not (isinstance(value, str) and field not in ("audio_duration", "confidence"))
}
"""What a completed transcript should not say: a value of each kind in each field that is noted."""


async def test_what_is_odd_is_saved_as_it_came(archive: Archive) -> None:
    """Our id and `completed` are enough: it is saved, told, noted, counted as was expected."""
    for name, patch in ODD_ANSWERS.items():
        content = name.encode()
        archive.add(f"{name}.wav", content)
        of_it = partial(_is_of, archive, content)
        archive.service.faults.add(
            Fault(on="get", action="patch", times=None, match=of_it, patch=patch)
        )
    archive.add("sound.wav", ONE)

    outcome = await archive.run(delete_remote=True, max_hours=1000)

    assert outcome.summary.written == len(ODD_ANSWERS) + 1
    for name, patch in ODD_ANSWERS.items():
        saved = json.loads(archive.results()[f"{name}.wav.json"])
        assert {key: saved[key] for key in patch} == patch
    told = [each.message for each in outcome.of(Warned) if "suspicious" in each.message]
    assert len(told) == len(set(told))
    rows = await archive.rows(
        "SELECT transcript_id, odd, deletion, duration_s, price_usd, expected_s FROM attempts"
    )
    noted = {row[0]: row for row in rows if row[1] is not None}
    assert all(any(each in message for message in told) for each in noted)
    assert len(told) == len(noted) >= len(ODD_ANSWERS) - 2  # a confidence is only shown
    kept = [each.id for each in archive.service if not each.is_deleted]
    assert sorted(kept) == sorted(noted)
    for _, _, deletion, duration_s, price_usd, expected_s in noted.values():
        assert deletion is None
        assert duration_s is None or 0 < duration_s < 10
        assert price_usd is None or price_usd > 0
        assert expected_s
    assert archive.service.requests["submit"] == len(ODD_ANSWERS) + 1


@pytest.mark.parametrize("kind", ["null", "of another type", "absent"])
async def test_whatever_a_finished_answer_lacks_it_is_saved(archive: Archive, kind: str) -> None:
    """Each field but id and status may be null, another thing or absent: saved, and paid once."""
    archive.add("model.wav", b"model")
    await archive.run()
    model = json.loads(archive.results()["model.wav.json"])
    fields = sorted(model.keys() - {"id", "status", "text"})
    for name in fields:
        other = "x" if isinstance(model[name], bool | int | float | dict | list) else [1]
        new = {"null": None, "of another type": other, "absent": ABSENT}[kind]
        archive.add(f"{name}.wav", name.encode())
        of_it = partial(_is_of, archive, name.encode())
        archive.service.faults.add(
            Fault(on="get", action="patch", times=None, match=of_it, patch={name: new})
        )

    outcome = await archive.run()

    assert (outcome.summary.exit_code, outcome.summary.written) == (ExitCode.DONE, len(fields))
    assert set(archive.service.billable.values()) == {1}
    whole(archive)


def _is_of(archive: Archive, content: bytes, call: Call) -> bool:
    return any(each.id in call.path for each in archive.service.accepted(content))


@pytest.mark.parametrize("times", [1, None])
async def test_a_text_that_is_lacking_is_asked_for_once_more(
    archive: Archive, times: int | None
) -> None:
    """A finished transcript without a text is fetched once more, then saved as it is, and told."""
    archive.add("a.wav", ONE)
    archive.service.faults.add(
        Fault(on="get", action="patch", times=times, patch={"text": None, "status": "completed"})
    )

    outcome = await archive.run()

    assert outcome.summary.written == 1
    assert archive.service.requests["get"] == 2
    assert (json.loads(archive.results()["a.wav.json"])["text"] is None) == (times is None)
    odd = [each for each in outcome.of(Warned) if "suspicious: it has no `text`" in each.message]
    assert len(odd) == (times is None)


@pytest.mark.parametrize(
    "patch",
    [{"audio_url": "HTTPS://Deleted_By_User:443/x?y"}, {"is_deleted": True}],
    ids=["audio_url", "is_deleted"],
)
async def test_what_is_deleted_is_not_saved(archive: Archive, patch: dict[str, Any]) -> None:
    """What remains of a deleted transcript is no result, however the service says so."""
    archive.add("a.wav", ONE)
    archive.service.faults.add(
        Fault(on="get", action="patch", times=None, patch=patch | {"status": "completed"})
    )

    outcome = await archive.run()

    assert archive.results() == {}
    assert "it was deleted at the service" in outcome.summary.reasons["failed"]
    assert (await archive.rows("SELECT state FROM transcripts")) == [("missing",)]


@pytest.mark.parametrize("status", ["never heard of", "", "COMPLETED", None, 5, ["completed"], {}])
async def test_an_unknown_status_is_not_the_end(archive: Archive, status: object) -> None:
    """Whatever a row or an answer says for a status that nobody knows, it is asked again."""
    archive.add("a.wav", ONE)
    archive.add("b.wav", TWO)
    for call in ("get", "list"):
        archive.service.faults.add(
            Fault(on=call, action="patch", times=2, patch={"status": status})
        )

    outcome = await archive.run()

    assert (outcome.summary.written, outcome.summary.exit_code) == (2, 0)
    assert archive.service.requests["submit"] == 2


async def test_the_body_of_another_transcript(archive: Archive) -> None:
    """A GET that answers with another transcript of ours saves nothing under the wrong name."""
    archive.add("a.wav", ONE)
    archive.add("b.wav", TWO)
    archive.service.faults.add(Fault(on="get", action="cross_answers", times=2))

    await archive.run()
    await archive.run()

    for name, content in (("a.wav.json", ONE), ("b.wav.json", TWO)):
        (transcript,) = archive.service.accepted(content)
        assert json.loads(archive.results()[name])["id"] == transcript.id


async def test_an_answer_over_the_cap(archive: Archive) -> None:
    """An answer over `max_answer` is parked with what to do, and saved once the cap allows it."""
    archive.add("a.wav", ONE)
    archive.service.faults.add(Fault(on="get", action="big", times=None, size_bytes=1 << 20))

    outcome = await archive.run(max_answer="100k")

    assert outcome.summary.parked == 1
    assert any("max_answer" in reason for reason in outcome.summary.reasons["parked"])
    assert archive.results() == {}
    assert (await archive.run()).summary.written == 1
    assert archive.service.requests["submit"] == 1


async def test_a_large_answer_is_saved_as_it_came(archive: Archive) -> None:
    """An answer of many megabytes arrives byte for byte."""
    archive.add("a.wav", ONE)
    archive.service.faults.add(Fault(on="get", action="big", times=None, size_bytes=20 << 20))

    await archive.run()

    result = archive.results()["a.wav.json"]
    assert len(result) > 20 << 20
    assert json.loads(result)["x_padding"] == "x" * (20 << 20)


# --- error -------------------------------------------------------------------------------------


async def test_a_failure_of_the_service_is_asked_once_more(archive: Archive) -> None:
    """A transcript that failed by the service's own fault is asked for once more, and paid once."""
    archive.add("a.wav", ONE)
    archive.service.fail_content(ONE, SERVER_ERROR)

    outcome = await archive.run()

    assert outcome.summary.written == 1
    assert archive.service.requests["submit"] == 2
    assert set(archive.service.billable.values()) == {1}


async def test_a_service_that_keeps_failing_is_left(archive: Archive) -> None:
    """A transcript that fails again and again is failed, with the service's own sentence."""
    archive.add("a.wav", ONE)
    archive.service.fail_content(ONE, SERVER_ERROR, times=10)

    outcome = await archive.run()

    assert outcome.summary.failed == 1
    assert archive.service.requests["submit"] == 2
    assert SERVER_ERROR in outcome.summary.reasons["failed"]


async def test_what_is_not_audio_fails_with_the_service_s_words(archive: Archive) -> None:
    """A recording that the service cannot decode fails with its sentence, and is not sent again."""
    sentence = "Transcoding failed. File does not appear to contain audio."
    archive.add("a.wav", f"ERROR:{sentence}\n".encode())
    archive.add("b.wav", ONE)

    first = await archive.run()
    sent = archive.service.requests["upload"]
    second = await archive.run()

    assert (first.summary.written, first.summary.failed) == (1, 1)
    assert first.summary.exit_code == ExitCode.PARTIAL
    (failed,) = first.of(Failed)
    assert (failed.recording, failed.reason) == ("a.wav", sentence)
    assert failed.transcript_id
    assert second.summary.reasons["failed"] == {sentence: 1}
    assert archive.service.requests["upload"] == sent
    third = await archive.run(retry_failed=True)
    assert third.summary.failed == 1
    assert archive.service.requests["upload"] == sent + 1


async def test_all_equal_recordings_fail_together(archive: Archive) -> None:
    """Where a content cannot be transcribed, each recording of it is told and counted."""
    for name in ("a.wav", "b.wav", "c.wav"):
        archive.add(name, b"ERROR:Audio duration is too short.\n")

    outcome = await archive.run()

    assert outcome.summary.failed == 3
    assert archive.service.requests["submit"] == 1


async def test_silence_is_a_result(archive: Archive) -> None:
    """A recording in which nothing is said completes with an empty text, which is saved."""
    archive.add("a.wav", b"WORDS:0\n")

    outcome = await archive.run(formats=["all"])

    assert outcome.summary.written == 1
    assert json.loads(archive.results()["a.wav.json"])["text"] == ""


# --- facts -------------------------------------------------------------------------------------


async def test_cost_is_told(archive: Archive) -> None:
    """Hours and dollars of what completed are in the events and in the summary."""
    archive.add("a.wav", b"SECONDS:7200\none")

    outcome = await archive.run(prices={"assemblyai-stt-3-7": 0.5})

    (completed,) = outcome.of(Completed)
    assert completed.audio_duration == 7200
    assert completed.cost_usd == pytest.approx(1.0)
    assert outcome.summary.audio_hours == pytest.approx(2.0)
    assert outcome.summary.cost_usd == pytest.approx(1.0)


async def test_results_are_written_with_ordinary_rights(archive: Archive) -> None:
    """Results have the rights that any new file of this user has."""
    archive.add("sub/a.wav", ONE)

    await archive.run()

    mask = os.umask(0)
    os.umask(mask)
    mode = (archive.output / "sub/a.wav.json").stat().st_mode & 0o777
    assert mode == 0o666 & ~mask


async def test_a_result_that_cannot_be_placed(archive: Archive) -> None:
    """A recording whose result has no place is not sent, until a run finds that it has one."""
    archive.add("a.wav", ONE)
    archive.add("b/c.wav", TWO)
    archive.output.mkdir()
    (archive.output / "b").write_text("a file where a folder is to be")

    outcome = await archive.run()

    assert (outcome.summary.written, outcome.summary.failed) == (1, 1)
    assert outcome.summary.exit_code == ExitCode.PARTIAL
    assert "is no folder; nothing was sent" in str(outcome.summary.reasons)
    assert archive.service.requests["upload"] == 1
    (archive.output / "b").unlink()
    again = await archive.run()
    assert again.summary.written == 1
    assert archive.service.requests["submit"] == 2


async def test_a_place_that_is_taken_meanwhile(archive: Archive) -> None:
    """Something that comes in the way of a paid result parks it; the next run writes it."""
    archive.add("a.wav", ONE)
    archive.add("b/c.wav", TWO)
    archive.service.faults.add(Fault(on="get", action="hold", times=2))

    async with anyio.create_task_group() as group:
        outcomes: list[Outcome] = []

        async def run() -> None:
            outcomes.append(await archive.run())

        group.start_soon(run)
        await archive.service.held("get", 2)
        (archive.output / "b").write_text("a file where a folder is to be")
        archive.service.release()

    assert (outcomes[0].summary.written, outcomes[0].summary.parked) == (1, 1)
    (archive.output / "b").unlink()
    outcomes.append(await archive.run())
    assert outcomes[1].summary.written == 1
    assert archive.service.requests["submit"] == 2
    assert [len(outcome.of(Completed)) for outcome in outcomes] == [2, 0]  # each is paid once


async def test_an_output_that_is_gone_ends_the_intake(archive: Archive) -> None:
    """Once no result can be saved nothing more is sent, and what is paid is fetched when it can."""
    for number in range(12):
        archive.add(f"{number:02}.wav", b"%d" % number)
    line = ["--state", archive.root / "state", "--uploads", "1", "--concurrency", "2", "--json"]
    archive.service.faults.add(Fault(on="get", action="hold", times=1))

    async with archive.started(*archive.run_line(*line)) as process:
        with anyio.fail_after(60):
            await archive.service.held("get")
            archive.output.rename(archive.root / "elsewhere")
            archive.output.write_text("a file where the output was")
            archive.service.release()
            ended = await archive.ended(process)
    sent = archive.service.requests["submit"]
    archive.output.unlink()
    (archive.root / "elsewhere").rename(archive.output)
    again = await archive.command(*archive.run_line(*line))

    assert ended.exit_code == ExitCode.USAGE
    assert "cannot write to" in ended.summary["reason"]
    assert sent < 8
    assert (again.exit_code, len(archive.results())) == (ExitCode.DONE, 12)
    assert set(archive.service.billable.values()) == {1}


async def test_written_is_told_when_it_is_there(archive: Archive) -> None:
    """Each result is told once, with where it lies."""
    archive.add("sub/a.wav", ONE)

    outcome = await archive.run()

    (written,) = outcome.of(Written)
    assert (written.recording, written.result, written.replaced) == (
        "sub/a.wav",
        "sub/a.wav.json",
        False,
    )


async def test_what_a_user_wrote_is_kept(archive: Archive) -> None:
    """A file of one's own under a name that a result takes is moved to `versions/`, not lost."""
    archive.add("a.wav", ONE)
    archive.recordings.joinpath("a.wav.json").write_text("mine")
    archive.recordings.joinpath("a.wav.txt").write_text("my notes")

    await archive.run(output=archive.recordings, formats=("json", "txt"))

    kept = [
        path.read_text() for path in (archive.recordings / ".overnight/versions").rglob("a.wav*")
    ]
    assert sorted(kept) == ["mine", "my notes"]
    assert json.loads((archive.recordings / "a.wav.json").read_bytes())["status"] == "completed"
