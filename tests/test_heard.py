"""Less was heard than the recording holds: what is suspicious, who hears of it, and how often."""

import json
import os
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from pipeline.errors import ExitCode
from pipeline.events import Warned, Written
from pipeline.heard import certain_length_s
from pipeline.models import Sent, signed
from tests.support.audio import RATE_HZ, encode, silence, tone, wav_bytes
from tests.support.clock import MovableLoop
from tests.support.nights import Night, Nights, at, nights, sound
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

CHANGED = at("2026-03-03", "18:00")
HELD_S = 100


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """A loop whose time the tests can move."""
    return "asyncio", {"loop_factory": MovableLoop}


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Nights]:
    """A source without recordings."""
    source = [{"folder": str(tmp_path / "recordings" / "calls")}]
    async with nights(tmp_path, source=source) as archive:
        archive.recordings.mkdir()
        yield archive


def says(archive: Nights, **fields: Any) -> None:
    """What finished transcripts say from here on."""
    archive.service.faults.add(Fault(on="get", action="patch", times=None, patch=fields))


async def night(archive: Nights, number: int = 3, **given: Any) -> Night:
    return await archive.night(at(f"2026-03-0{number}", "22:30"), **given)


def why(night: Night) -> list[str]:
    assert night.summary is not None
    return night.summary.why


def report(archive: Nights, night: Night) -> dict[str, Any]:
    assert night.summary is not None
    body = (archive.state / "runs" / night.summary.run_id / "report.json").read_bytes()
    return dict(json.loads(body))


def odd(archive: Nights, night: Night) -> list[str]:
    """What the report finds suspicious about the lengths of results."""
    said = [each for suspect in report(archive, night)["suspects"] for each in suspect["odd"]]
    return [each for each in said if "were heard" in each]


# --- how much -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held_s", "heard_s", "is_odd", "is_alarm"),
    [
        *((100, 100, False, False), (100, 98, False, False), (100, 97, True, False)),
        *((100, 90, True, False), (100, 89, True, True), (100, 50, True, True)),
        *((100, 0, True, True), (100, 150, True, False), (10, 8, False, False)),
        *((10, 7, True, True), (1, 0, False, False), (3600, 3530, False, False)),
        *((3600, 3500, True, False), (3600, 1800, True, True), (3600, 7200, True, False)),
    ],
)
async def test_both_lengths_are_told(
    archive: Nights, held_s: int, heard_s: int, is_odd: bool, is_alarm: bool
) -> None:
    """What differs is suspicious, with both numbers; less than nine tenths is an alarm, once."""
    archive.put("calls/a.wav", sound(held_s, "a"), CHANGED)
    says(archive, audio_duration=heard_s)

    first, second = await night(archive, 3), await night(archive, 4)

    said = f"{heard_s:,} s were heard, and the recording holds {held_s:,} s"
    assert odd(archive, first) == [said] * is_odd
    assert why(first) == ["1 recording heard in part"] * is_alarm
    assert first.code == (ExitCode.PARTIAL if is_alarm else ExitCode.DONE)
    assert (second.code, why(second)) == (ExitCode.DONE, [])
    warned = [each.message for each in first.events if isinstance(each, Warned)]
    assert [said in each for each in warned] == [True] * is_odd
    (written,) = (each for each in first.events if isinstance(each, Written))
    assert written.amiss == ("heard in part" if is_alarm else None)
    assert first.moments[-1] == ("failure" if is_alarm else "success")
    assert len(list(archive.service)) == 1


async def test_every_look_tells_it(archive: Nights) -> None:
    """Line, page, `list` and `audit` have it; that it is suspicious is no fault of the audit."""
    archive.put("calls/a.wav", sound(3600, "a"), CHANGED)
    archive.put("calls/b.wav", sound(HELD_S, "b"), CHANGED)
    half = Fault(on="get", action="patch", times=1, patch={"audio_duration": 1800})
    archive.service.faults.add(half)
    made = await night(archive, uploads=1, concurrency=1)
    where = ("--config", archive.root / "nightly.toml")
    listed = await archive.command("list", *where)
    lines = (await archive.command("list", *where, "--json")).lines
    audited = await archive.command("audit", *where)
    findings = (await archive.command("audit", *where, "--json")).lines

    said = "1,800 s were heard, and the recording holds 3,600 s"
    assert "1 suspicious" in made.line
    assert "exit code 3: 1 recording heard in part" in made.line
    folder = archive.state / "runs" / (made.summary.run_id if made.summary else "")
    assert said in (folder / "report.html").read_text()
    assert [each["odd"] for each in lines] == [said, None]
    assert [said in line for line in listed.stdout.decode().splitlines()] == [True, False]
    (finding,) = (each for each in findings if each["type"] == "finding")
    assert (finding["kind"], finding["what"]) == ("suspicious", said)
    assert (finding["path"], audited.exit_code) == ("calls/a.wav", ExitCode.DONE)
    assert said in audited.stdout.decode()
    assert "suspicious   1, saved" in audited.stdout.decode()


async def test_it_is_told_of_each_recording(archive: Nights) -> None:
    """Equal recordings share a transcript, and each has less than it holds."""
    for name in ("a", "b"):
        archive.put(f"calls/{name}.wav", sound(HELD_S, "same"), CHANGED)
    says(archive, audio_duration=50)

    assert why(await night(archive)) == ["2 recordings heard in part"]


async def test_a_copy_of_what_was_told_is_not_told_again(archive: Nights) -> None:
    """A recording that gets the result of another night is no news."""
    archive.put("calls/a.wav", sound(HELD_S, "same"), CHANGED)
    says(archive, audio_duration=50)
    await night(archive, 3)
    archive.put("calls/b.wav", sound(HELD_S, "same"), CHANGED)

    second = await night(archive, 4)

    assert (second.code, len(list(archive.service))) == (ExitCode.DONE, 1)


async def test_it_is_told_when_the_result_is_written(archive: Nights) -> None:
    """A transcript of one night that is saved in another is told then."""
    archive.put("calls/a.wav", sound(HELD_S, "a"), CHANGED)
    unread = Fault(on="get", action="answer", status=404, body="{}", times=None)
    archive.service.faults.add(unread)
    first = await night(archive, 3)
    archive.service.faults.clear()
    says(archive, audio_duration=50)
    second, third = await night(archive, 4), await night(archive, 5)

    assert "1 recording heard in part" not in why(first)
    assert why(second) == ["1 recording heard in part"]
    assert why(third) == []


async def test_its_copy_is_kept_at_the_service(archive: Nights) -> None:
    """`--delete-remote` deletes nothing that is suspicious: its id is what the vendor asks for."""
    cut, whole = sound(HELD_S, "a"), sound(50, "b")
    archive.put("calls/a.wav", cut, CHANGED)
    archive.put("calls/b.wav", whole, CHANGED)
    says(archive, audio_duration=50)

    await night(archive, delete_remote=True)

    assert [each.is_deleted for each in archive.service.accepted(cut)] == [False]
    assert [each.is_deleted for each in archive.service.accepted(whole)] == [True]


# --- what is certain ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "is_whole"),
    [
        ({"audio_end_at": 50_000}, False),
        ({"audio_start_from": 50_000}, False),
        ({"audio_start_from": 0}, True),
        ({"audio_end_at": None}, True),
        ({"speaker_labels": True}, True),
    ],
)
async def test_a_part_that_was_asked_for_is_no_loss(
    archive: Nights, given: dict[str, Any], is_whole: bool
) -> None:
    """Who asks for half of a recording gets half of it."""
    archive.put("calls/a.wav", sound(HELD_S, "a"), CHANGED)
    says(archive, audio_duration=50)
    given = {key: value for key, value in given.items() if value is not None}

    assert bool(odd(archive, await night(archive, transcript=given))) is is_whole


async def test_channels_are_not_added_up(archive: Nights) -> None:
    """A recording of two channels is as long as one of them, also where each is transcribed."""
    frames = array("h", bytes(4 * 8000 * 60))
    archive.put("calls/a.wav", wav_bytes(frames, 8000, channels=2), CHANGED)
    says(archive, audio_duration=60)

    made = await night(archive, transcript={"multichannel": True})

    assert (made.code, odd(archive, made)) == (ExitCode.DONE, [])


@pytest.mark.parametrize("content", [b"SECONDS:50\none", b"RIFF" * 9000, b"\xff\xfb" * 9000])
async def test_an_estimate_is_no_length(archive: Nights, content: bytes) -> None:
    """What tells no length is counted by its size for caps, and is suspicious of nothing."""
    archive.put("calls/a.wav", content, CHANGED)
    says(archive, audio_duration=5)

    made = await night(archive, max_hours=100)

    assert (made.code, odd(archive, made)) == (ExitCode.DONE, [])


@pytest.mark.parametrize("change", ["gone", "other bytes", "touched"])
async def test_what_was_sent_has_to_lie_there(archive: Nights, change: str) -> None:
    """A recording that is not what was sent any more says nothing about its transcript."""
    archive.put("calls/a.wav", sound(HELD_S, "a"), CHANGED)
    path = archive.recordings / "calls/a.wav"
    archive.service.faults.add(Fault(on="get", action="hold"))

    async def meanwhile(_: Night) -> None:
        await archive.service.held("get")
        if change == "gone":
            path.unlink()
        elif change == "touched":
            os.utime(path, (1, 1))
        else:
            path.write_bytes(sound(2 * HELD_S, "b"))
        archive.service.release()

    made = await archive.night(at("2026-03-03", "22:30"), meanwhile=meanwhile)

    assert made.summary is not None
    assert (made.summary.written, odd(archive, made)) == (1, [])


@pytest.mark.parametrize(
    ("name", "container", "codec"),
    [
        *(("a.mp3", "mp3", "libmp3lame"), ("a.m4a", "ipod", "aac"), ("a.flac", "flac", "flac")),
        *(("a.ogg", "ogg", "libopus"), ("a.webm", "webm", "libopus"), ("a.aac", "adts", "aac")),
    ],
)
async def test_any_container_tells_its_length(
    archive: Nights, name: str, container: str, codec: str
) -> None:
    """Half of a recording is missed whatever it lies in, and its whole never is."""
    for seconds in (20, 10):
        content = encode(tone(seconds), container, codec)
        archive.put(f"calls/{seconds}-{name}", content, CHANGED)
    says(archive, audio_duration=10)

    made = await night(archive, prices={})

    assert why(made) == ["1 recording heard in part"]
    assert odd(archive, made) == ["10 s were heard, and the recording holds 20 s"]


# --- no text --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text", "is_alarm"),
    [
        *((60, "", True), (60, " \n\t", True), (59, "", False), (60, "Yes.", False)),
        *((3600, "", True), (60, None, True), (1, None, True), (1, 5, True), (1, ["a"], True)),
    ],
)
async def test_a_recording_without_text_is_told(
    archive: Nights, seconds: int, text: object, is_alarm: bool
) -> None:
    """No text at all is an alarm, once; but of less than a minute nobody may have said a word."""
    archive.put("calls/a.wav", sound(seconds, "a"), CHANGED)
    says(archive, text=text, words=[])

    first, second = await night(archive, 3), await night(archive, 4)

    assert why(first) == ["1 recording without text"] * is_alarm
    assert (second.code, why(second)) == (ExitCode.DONE, [])
    warned = [each.message for each in first.events if isinstance(each, Warned)]
    assert len(warned) == is_alarm


async def test_silence_is_deleted_at_the_service(archive: Nights) -> None:
    """A text that is empty is one: what there is of it is saved, and the copy not needed."""
    archive.put("calls/a.wav", sound(60, "a"), CHANGED)
    says(archive, text="", words=[])

    await night(archive, delete_remote=True)

    assert [each.is_deleted for each in archive.service] == [True]


async def test_silence_that_was_not_heard_is_told_once(archive: Nights) -> None:
    """A recording has one cause: nothing at all is less than a part."""
    archive.put("calls/a.wav", sound(HELD_S, "a"), CHANGED)
    says(archive, text="", words=[], audio_duration=5)

    made = await night(archive)

    assert why(made) == ["1 recording without text"]
    assert odd(archive, made) == ["5 s were heard, and the recording holds 100 s"]


@pytest.mark.parametrize("field", ["audio_duration", "words", "confidence", "language_code"])
@pytest.mark.parametrize("value", [None, "x", {"a": 1}], ids=str)
async def test_other_fields_are_no_alarm(archive: Nights, field: str, value: object) -> None:
    """Whatever else is odd about an answer stays in the report."""
    archive.put("calls/a.wav", sound(HELD_S, "a"), CHANGED)
    says(archive, **{field: value})

    made = await night(archive)

    assert (made.code, why(made)) == (ExitCode.DONE, [])
    assert made.summary is not None
    assert made.summary.written == 1


# --- the recording itself -------------------------------------------------------------------------


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(silence(5.0), RATE_HZ))
    return path


def sent(path: Path, **other: int) -> Sent:
    """A recording as it was when it was sent."""
    found = path.stat()
    noted = {
        "size": found.st_size,
        "mtime_ns": signed(found.st_mtime_ns),
        "ctime_ns": signed(found.st_ctime_ns),
        "inode": signed(found.st_ino),
    }
    return Sent({}, "root", b"a.wav", **(noted | other))


async def test_a_recording_that_is_what_was_sent(spoken: Path) -> None:
    """It is as long as it is, whatever was heard of it."""
    for near_s in (5.0, 1.0, 100.0):
        found = await certain_length_s(os.fsencode(spoken), sent(spoken), near_s)

        assert found == pytest.approx(5.0)


@pytest.mark.parametrize("fact", ["size", "mtime_ns", "ctime_ns", "inode"])
async def test_a_recording_that_is_another(spoken: Path, fact: str) -> None:
    """Whatever a scan goes by makes it another one."""
    assert await certain_length_s(os.fsencode(spoken), sent(spoken, **{fact: 1}), 1.0) is None


async def test_a_recording_that_cannot_be_read(spoken: Path, tmp_path: Path) -> None:
    """One that is gone tells nothing, and neither does a pipe, which nobody waits for."""
    pipe, before = tmp_path / "pipe", sent(spoken)
    os.mkfifo(pipe)
    with anyio.fail_after(10):
        assert await certain_length_s(os.fsencode(pipe), sent(pipe), 1.0) is None
    os.unlink(spoken)

    assert await certain_length_s(os.fsencode(spoken), before, 1.0) is None
