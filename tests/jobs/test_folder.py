"""`run_folder` from end to end: what is asked for once, what is kept, and what is done again."""

import json
import os
import time
import unicodedata
from collections import Counter
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import anyio
import pytest

from pipeline.errors import ExitCode, SettingsError
from pipeline.events import RecordingFound, Summary, Uploaded, Written
from pipeline.progress import render_summary
from tests.support.runs import Archive, Outcome, opened, recording, watched
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
YEAR_S = 365 * DAY_S
ONE, TWO, THREE = b"SECONDS:3600\none", b"SECONDS:1800\ntwo", b"SECONDS:60\nthree"


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    (tmp_path / "recordings").mkdir()
    async with opened(tmp_path) as archive:
        yield archive


def accounts(summary: Summary) -> dict[str, int]:
    """How the recordings end, without what none of them does; the sum has been checked."""
    ends = ("written", "already_written", "kept", "failed", "skipped", "parked")
    counts = {end: getattr(summary, end) for end in ends}
    assert summary.found == sum(counts.values())
    for end in ("failed", "skipped", "parked"):
        assert sum(summary.reasons.get(end, {}).values()) == counts[end]
    return {end: count for end, count in counts.items() if count}


async def asked(archive: Archive, outcome: Outcome | None = None) -> Counter[str]:
    """Requests that the service has seen since it was asked last."""
    seen = Counter(archive.service.requests)
    archive.service.requests.clear()
    if outcome is not None:
        assert outcome.summary.requests == seen
    return seen


# --- once --------------------------------------------------------------------------------------


async def test_every_recording_has_its_result(archive: Archive) -> None:
    """The output mirrors the input; each file holds the service's answer as it came."""
    archive.add("a.wav", ONE)
    archive.add("2026/11/b.mp3", TWO)
    archive.add("2026/11/c.txt", b"no recording")

    outcome = await archive.run()

    results = archive.results()
    assert sorted(results) == ["2026/11/b.mp3.json", "a.wav.json"]
    for name, content in (("a.wav.json", ONE), ("2026/11/b.mp3.json", TWO)):
        (transcript,) = archive.service.accepted(content)
        told = json.loads(results[name])
        assert (told["id"], told["status"]) == (transcript.id, "completed")
    assert accounts(outcome.summary) == {"written": 2}
    assert outcome.summary.exit_code == ExitCode.DONE
    assert outcome.summary.ignored == 1


async def test_the_answer_is_saved_byte_for_byte(archive: Archive) -> None:
    """What lies on disk is the body of the GET, unknown fields and spacing included."""
    archive.add("a.wav", ONE)
    body = {"x_unknown": {"deep": [1, None]}, "words": None}
    archive.service.faults.add(Fault(on="get", action="patch", times=None, patch=body))

    outcome = await archive.run()

    (written,) = outcome.of(Written)
    result = archive.results()["a.wav.json"]
    # The scripted service writes its patched answers with json.dumps.
    assert json.dumps(json.loads(result), ensure_ascii=False).encode() == result
    assert json.loads(result)["x_unknown"] == {"deep": [1, None]}
    assert written.result == "a.wav.json"


async def test_a_second_run_does_nothing(archive: Archive) -> None:
    """The same command again asks nothing, reads no recording, changes no result, and says so."""
    for number in range(5):
        archive.add(f"{number}.wav", b"%d" % number)
    await archive.run()
    await asked(archive)
    before = {p: p.stat().st_mtime_ns for p in archive.output.glob("*.json")}

    with watched(*archive.recordings.iterdir()) as opens:
        outcome = await archive.run()

        assert opens() == 0
    assert await asked(archive, outcome) == {}
    assert accounts(outcome.summary) == {"already_written": 5}
    assert outcome.of(RecordingFound) == []
    assert {p: p.stat().st_mtime_ns for p in archive.output.glob("*.json")} == before


async def test_watching_sees_a_read(tmp_path: Path) -> None:
    """The watch of the test before notices it when a file is opened."""
    recording(tmp_path / "a", b"x")

    with watched(tmp_path / "a") as opens:
        (tmp_path / "a").read_bytes()

        assert opens() == 1


async def test_new_recordings_are_added(archive: Archive) -> None:
    """A recording that came since is the only one that is sent."""
    archive.add("a.wav", ONE)
    await archive.run()
    archive.add("b.wav", TWO)

    outcome = await archive.run()

    assert accounts(outcome.summary) == {"written": 1, "already_written": 1}
    assert archive.service.billable.total() == 2


async def test_options_reach_the_service(archive: Archive) -> None:
    """What the user set is sent with each request, beside the models and the language."""
    archive.add("a.wav", ONE)

    await archive.run(transcript={"punctuate": False, "language_code": "de"})

    (transcript,) = archive.service.accepted(ONE)
    assert transcript.options["punctuate"] is False
    assert transcript.options["language_code"] == "de"
    assert "language_detection" not in transcript.options
    assert transcript.options["speech_models"]


async def test_one_of_code_and_detection_is_always_sent(archive: Archive) -> None:
    """Without a language set, detection is asked for; models are named in any case."""
    archive.add("a.wav", ONE)

    await archive.run()

    (transcript,) = archive.service.accepted(ONE)
    assert transcript.options["language_detection"] is True
    assert "language_code" not in transcript.options
    assert transcript.options["speech_models"]


# --- names -------------------------------------------------------------------------------------


async def test_any_name_goes_through(archive: Archive) -> None:
    """Names of any bytes get a result each, within 255 bytes, and a second run knows them all."""
    names = [
        unicodedata.normalize("NFC", "é 日本.wav").encode(),
        unicodedata.normalize("NFD", "é 日本.wav").encode(),
        b"two\nlines.wav",
        b"-dash.wav",
        b"l" * 246 + b".wav",
        b"m" * 251 + b".wav",
        b"\xff\xfe.wav",
        b"same.mp3",
        b"same.wav",
        b"deep folder/ name .wav",
    ]
    for name in names:
        archive.add(name, b"content of " + name)

    first = await archive.run(formats=["srt", "txt"])
    await asked(archive)
    second = await archive.run(formats=["srt", "txt"])

    assert accounts(first.summary) == {"written": len(names)}
    assert accounts(second.summary) == {"already_written": len(names)}
    assert await asked(archive) == {}
    results = [os.fsencode(name) for name in archive.results()]
    assert len(results) == 3 * len(names)
    assert all(len(os.path.basename(name)) <= 255 for name in results)
    assert b"same.mp3.json" in results
    assert b"same.wav.json" in results


async def test_two_roots_lead_with_their_names(archive: Archive) -> None:
    """Results of several folders lie under each folder's name."""
    recording(archive.root / "x/calls/a.wav", ONE)
    recording(archive.root / "y/talks/a.wav", TWO)

    await archive.run(archive.root / "x/calls", archive.root / "y/talks")

    assert sorted(archive.results()) == ["calls/a.wav.json", "talks/a.wav.json"]


async def test_two_roots_of_one_name_send_nothing(archive: Archive) -> None:
    """Folders whose results would mix are refused before the first request."""
    recording(archive.root / "x/calls/a.wav", ONE)
    recording(archive.root / "y/calls/a.wav", TWO)

    with pytest.raises(SettingsError, match="calls"):
        await archive.run(archive.root / "x/calls", archive.root / "y/calls")

    assert await asked(archive) == {}


async def test_a_single_file_is_a_folder(archive: Archive) -> None:
    """A file named as FOLDER is transcribed, its neighbours are not."""
    archive.add("a.wav", ONE)
    archive.add("b.wav", TWO)

    outcome = await archive.run(archive.recordings / "b.wav")

    assert accounts(outcome.summary) == {"written": 1}
    assert sorted(archive.results()) == ["b.wav.json"]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["a.wav", "b.wav", "b.wav"], {"recordings": 2}),
        (["", "a.wav", "talk.bin"], {"recordings": 4}),
        (["a.wav", "b.wav", "sub/c.wav"], {"recordings": 2, "sub": 1}),
        (["sub/c.wav", "b.wav", "a.wav", "sub"], {"sub": 1, "recordings": 2}),
        (["", "sub"], {"recordings": 2, "sub": 1}),
    ],
)
async def test_files_stand_in_their_folders_line(
    archive: Archive, given: list[str], found: dict[str, int]
) -> None:
    """However files and folders are named, each root has one line, and the lines add up."""
    for name in ("a.wav", "b.wav", "sub/c.wav", "talk.bin"):
        archive.add(name, name.encode())

    outcome = await archive.run(*(archive.recordings / name for name in given))

    summary = outcome.summary
    assert accounts(summary) == {"written": sum(found.values())}
    told = [(each.name, each.found, each.written) for each in summary.sources]
    several = [(name, count, count) for name, count in found.items()]
    assert told == (several if len(found) > 1 else [])
    assert [line for line in render_summary(summary).splitlines() if line.startswith("  ")] == [
        f"  {each.name}: {each.written} written" for each in summary.sources
    ]


async def test_output_inside_input_is_not_scanned(archive: Archive) -> None:
    """Results among the recordings, and media among the results, are never taken in."""
    archive.add("a.wav", ONE)
    output = archive.recordings / "out"
    recording(output / "intruder.wav", TWO)

    first = await archive.run(output=output)
    second = await archive.run(output=output)

    assert accounts(first.summary) == {"written": 1}
    assert accounts(second.summary) == {"already_written": 1}
    assert (output / "a.wav.json").is_file()


@pytest.mark.parametrize("separator", [b"\n", b"\0"])
async def test_files_from_a_list(archive: Archive, separator: bytes) -> None:
    """A list, separated by newline or NUL, says which recordings are taken."""
    for name in ("a.wav", "b.wav", "c d.wav"):
        archive.add(name, name.encode())
    wanted = [archive.recordings / "a.wav", archive.recordings / "c d.wav"]
    names = archive.root / "list"
    names.write_bytes(separator.join(map(os.fsencode, wanted)) + separator)

    outcome = await archive.run(files_from=str(names))

    assert accounts(outcome.summary) == {"written": 2}
    assert sorted(archive.results()) == ["a.wav.json", "c d.wav.json"]


async def test_a_list_may_go_through_a_link(archive: Archive) -> None:
    """A listed path whose folder is reached by a link is found under its real folder."""
    archive.add("a.wav", ONE)
    (archive.root / "link").symlink_to(archive.recordings)
    names = archive.root / "list"
    names.write_bytes(os.fsencode(archive.root / "link/a.wav"))

    outcome = await archive.run(files_from=str(names))

    assert accounts(outcome.summary) == {"written": 1}


# --- changes -----------------------------------------------------------------------------------


async def test_a_changed_recording_is_transcribed_anew(archive: Archive) -> None:
    """Other bytes under the same name are sent; the old result moves to `versions/`."""
    archive.add("sub/a.wav", ONE)
    await archive.run()
    old = archive.results()["sub/a.wav.json"]
    archive.add("sub/a.wav", TWO)

    outcome = await archive.run()

    assert accounts(outcome.summary) == {"written": 1}
    assert [event.replaced for event in outcome.of(Written)] == [True]
    assert list(archive.versions().values()) == [old]
    assert all(name.startswith("sub/a.wav~") for name in archive.versions())
    (transcript,) = archive.service.accepted(TWO)
    assert json.loads(archive.results()["sub/a.wav.json"])["id"] == transcript.id


async def test_a_touched_recording_costs_nothing(archive: Archive) -> None:
    """New times around the same bytes lead to no upload, no submit, no fetch and no new result."""
    archive.add("a.wav", ONE)
    await archive.run()
    await asked(archive)
    before = (archive.output / "a.wav.json").stat().st_mtime_ns
    archive.add("a.wav", ONE, age_s=600)

    outcome = await archive.run()

    assert accounts(outcome.summary) == {"already_written": 1}
    assert set(await asked(archive, outcome)) <= {"list"}
    assert (archive.output / "a.wav.json").stat().st_mtime_ns == before
    assert archive.versions() == {}


async def test_a_touched_recording_is_known_the_next_time(archive: Archive) -> None:
    """Once it was read again, its new times are known, and it is not read a third time."""
    archive.add("a.wav", ONE)
    await archive.run()
    archive.add("a.wav", ONE, age_s=600)
    await archive.run()

    with watched(archive.recordings / "a.wav") as opens:
        await archive.run()

        assert opens() == 0


async def test_a_touched_recording_still_gets_new_formats(archive: Archive) -> None:
    """Touched and wanted in one more format: the format is made, and nothing is asked for."""
    archive.add("a.wav", ONE)
    await archive.run()
    await asked(archive)
    archive.add("a.wav", ONE, age_s=600)

    await archive.run(formats=["srt"])

    assert sorted(archive.results()) == ["a.wav.json", "a.wav.srt"]
    assert set(await asked(archive)) <= {"list"}


async def test_touched_with_other_options_is_kept(archive: Archive) -> None:
    """New times are no consent to pay: with other options the result is kept, as without."""
    archive.add("a.wav", ONE)
    await archive.run()
    archive.add("a.wav", ONE, age_s=600)

    outcome = await archive.run(transcript={"punctuate": False})

    assert accounts(outcome.summary) == {"kept": 1}
    assert archive.service.billable.total() == 1


async def test_checksum_reads_and_sends_nothing(archive: Archive) -> None:
    """`--checksum` reads every recording, and uploads none that is as it was."""
    for number in range(3):
        archive.add(f"{number}.wav", b"%d" % number)
    await archive.run()
    await asked(archive)

    with watched(*archive.recordings.iterdir()) as opens:
        outcome = await archive.run(checksum=True)

        assert opens() >= 3
    assert accounts(outcome.summary) == {"already_written": 3}
    assert set(await asked(archive)) <= {"list"}


async def test_checksum_finds_what_times_hide(archive: Archive) -> None:
    """Other bytes of the same length and edges are found by `--checksum`, and transcribed."""
    edge, middle = bytes(64 * 1024), b"x" * 100
    archive.add("a.wav", edge + middle + edge)
    await archive.run()
    archive.add("a.wav", edge + b"y" * 100 + edge)

    outcome = await archive.run(checksum=True)

    assert accounts(outcome.summary) == {"written": 1}
    assert archive.service.billable.total() == 2


async def test_a_recording_in_its_first_seconds_is_read_again(archive: Archive) -> None:
    """What changed less than 2 s before it was read is read again: a change might not show."""
    archive.add("a.wav", ONE, age_s=-5)
    await archive.run()

    with watched(archive.recordings / "a.wav") as opens:
        outcome = await archive.run()

        assert opens() == 1
    assert accounts(outcome.summary) == {"already_written": 1}
    assert archive.service.billable.total() == 1


# --- results on disk ---------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["gone", "cut"])
async def test_a_lost_result_is_fetched_by_its_id(archive: Archive, damage: str) -> None:
    """A result that is gone or cut is fetched again: no upload, no submit, the same bytes."""
    archive.add("a.wav", ONE)
    await archive.run()
    result = archive.output / "a.wav.json"
    before = result.read_bytes()
    if damage == "gone":
        result.unlink()
    else:
        result.write_bytes(before[:10])
    await asked(archive)

    outcome = await archive.run()

    assert result.read_bytes() == before
    assert accounts(outcome.summary) == {"written": 1}
    seen = await asked(archive)
    assert seen["get"] == 1
    assert not seen["upload"] + seen["submit"]
    assert archive.service.billable.total() == 1


async def test_a_lost_result_is_copied_from_its_twin(archive: Archive) -> None:
    """Where an equal recording has the result still, the lost one is a copy of it."""
    archive.add("a.wav", ONE)
    archive.add("b.wav", ONE)
    await archive.run()
    (archive.output / "a.wav.json").unlink()
    await asked(archive)

    await archive.run()

    assert len(set(archive.results().values())) == 1
    assert set(await asked(archive)) <= {"list"}


async def test_a_damaged_twin_is_not_copied(archive: Archive) -> None:
    """A result whose bytes are not what was saved is no source: the lost one is fetched."""
    archive.add("a.wav", ONE)
    archive.add("b.wav", ONE)
    await archive.run()
    whole = (archive.output / "a.wav.json").read_bytes()
    (archive.output / "a.wav.json").unlink()
    (archive.output / "b.wav.json").write_bytes(b"x" * len(whole))

    await archive.run()

    assert (archive.output / "a.wav.json").read_bytes() == whole


async def test_gone_on_both_sides_is_missing(archive: Archive) -> None:
    """
    A result that neither disk nor service has is left to the next run for an hour, then reported
    until `--force`, which is named from then on, pays for another.
    """
    archive.add("a.wav", ONE)
    await archive.run()
    (archive.output / "a.wav.json").unlink()
    archive.service.faults.add(Fault(on="get", action="unknown_id", times=None))

    for ahead_s in (0.0, 1.0, HOUR_S - 30):
        parked = (await archive.run(ahead_s=ahead_s)).summary
        assert accounts(parked) == {"parked": 1}
        assert not any("--force" in reason for reason in parked.reasons["parked"])
    for ahead_s in (HOUR_S + 1, HOUR_S + 2):
        missing = (await archive.run(ahead_s=ahead_s, retry_failed=True)).summary

        assert accounts(missing) == {"failed": 1}
        assert all("--force" in reason for reason in missing.reasons["failed"])
        assert missing.exit_code == ExitCode.PARTIAL
    assert archive.service.billable.total() == 1
    archive.service.faults.clear()

    forced = await archive.run(ahead_s=HOUR_S + 3, force=True)

    assert accounts(forced.summary) == {"written": 1}
    assert archive.service.billable.total() == 2


async def test_what_is_missing_may_be_found_again(archive: Archive) -> None:
    """
    What the service does not know is asked for again, at growing intervals and for nothing; once it
    is known again it is written, and `--force` is not needed.
    """
    archive.add("a.wav", ONE)
    await archive.run()
    whole = (archive.output / "a.wav.json").read_bytes()
    (archive.output / "a.wav.json").unlink()
    archive.service.faults.add(Fault(on="get", action="unknown_id", times=None))
    looks = []
    for hours in range(24):
        await archive.run(ahead_s=hours * HOUR_S + 10 * hours**2)
        if (await asked(archive))["get"]:
            looks.append(hours)

    assert looks == [0, 1, 2, 4, 8, 16]
    archive.service.faults.clear()
    too_soon = await archive.run(ahead_s=24 * HOUR_S)
    found = await archive.run(ahead_s=34 * HOUR_S)

    assert (accounts(too_soon.summary), accounts(found.summary)) == ({"failed": 1}, {"written": 1})
    assert (archive.output / "a.wav.json").read_bytes() == whole
    assert await archive.rows("SELECT unknown_since, unknown_at FROM attempts") == [(None, None)]
    assert archive.service.billable.total() == 1


@pytest.mark.parametrize("wrong_s", [-40 * YEAR_S, 40 * YEAR_S])
async def test_a_wrong_clock_makes_nothing_missing_for_good(
    archive: Archive, wrong_s: float
) -> None:
    """A look by a clock that was years off neither ends the search nor puts it off."""
    archive.add("a.wav", ONE)
    await archive.run()
    (archive.output / "a.wav.json").unlink()
    archive.service.faults.add(Fault(on="get", action="unknown_id", times=None))
    for ahead_s in (0.0, wrong_s, HOUR_S, wrong_s + HOUR_S, 2 * HOUR_S, 4 * HOUR_S):
        await archive.run(ahead_s=ahead_s)
    archive.service.faults.clear()

    found = await archive.run(ahead_s=9 * HOUR_S)

    assert accounts(found.summary) == {"written": 1}


async def test_a_deleted_transcript_is_never_saved(archive: Archive) -> None:
    """What remains of a deleted transcript says `completed`, and is no result all the same."""
    archive.add("a.wav", ONE)
    await archive.run()
    (transcript,) = archive.service.accepted(ONE)
    project = next(iter(archive.service.keys.values()))
    archive.service.delete(project, transcript.id)
    (archive.output / "a.wav.json").unlink()

    outcome = await archive.run()
    await asked(archive)
    later = await archive.run(ahead_s=DAY_S)

    assert accounts(outcome.summary) == accounts(later.summary) == {"failed": 1}
    assert await asked(archive) == {}
    assert archive.results() == {}


# --- formats -----------------------------------------------------------------------------------


async def test_derived_files_lie_beside(archive: Archive) -> None:
    """Each format that is asked for lies beside the JSON, made from it."""
    archive.add("a.wav", ONE)

    await archive.run(formats=["all"])

    assert sorted(archive.results()) == [
        f"a.wav.{suffix}" for suffix in ("json", "md", "srt", "tsv", "txt", "vtt")
    ]
    text = json.loads(archive.results()["a.wav.json"])["text"]
    said = archive.results()["a.wav.txt"].decode().split()
    assert said == text.split()


async def test_a_format_added_later_asks_for_nothing(archive: Archive) -> None:
    """A format added later is made from what is there, without a single request."""
    archive.add("a.wav", ONE)
    archive.add("b.wav", TWO)
    await archive.run()
    await asked(archive)

    outcome = await archive.run(formats=["srt", "txt"])

    assert await asked(archive, outcome) == {}
    assert outcome.summary.rendered == 4
    assert accounts(outcome.summary) == {"already_written": 2}
    assert {"a.wav.srt", "b.wav.txt"} <= archive.results().keys()


async def test_names_of_speakers_cost_nothing(archive: Archive) -> None:
    """
    Named speakers show in what is made from then on: a file that is there stays as it is, one that
    was deleted is made with the names, and nothing is asked for.
    """
    archive.add("a.wav", ONE)
    options = {"speaker_labels": True}
    await archive.run(formats=["txt", "srt"], transcript=options, speaker_names="A=Ann")
    before = archive.results()
    (archive.output / "a.wav.txt").unlink()
    await asked(archive)

    await archive.run(formats=["txt", "srt"], transcript=options, speaker_names={"A": "Ann & Co"})

    after = archive.results()
    assert before["a.wav.txt"].startswith(b"Ann: ")
    assert after["a.wav.txt"] == before["a.wav.txt"].replace(b"Ann: ", b"Ann & Co: ")
    assert after["a.wav.srt"] == before["a.wav.srt"]
    assert after["a.wav.json"] == before["a.wav.json"]
    assert await asked(archive) == {}


async def test_a_derived_file_that_is_gone_is_made_again(archive: Archive) -> None:
    """Also what was deleted by hand is made again from the JSON, as it was."""
    archive.add("a.wav", ONE)
    await archive.run(formats=["vtt"])
    before = archive.results()
    (archive.output / "a.wav.vtt").unlink()
    await asked(archive)

    await archive.run(formats=["vtt"])

    assert archive.results() == before
    assert await asked(archive) == {}


# --- other options -----------------------------------------------------------------------------

CHANGED = {"punctuate": False}


async def test_results_with_other_options_are_kept(archive: Archive) -> None:
    """Changed options neither skip nor pay in silence: the run says how many hours there are."""
    archive.add("a.wav", ONE)
    archive.add("b.wav", TWO)
    await archive.run()
    before = archive.results()
    await asked(archive)

    outcome = await archive.run(transcript=CHANGED)

    assert accounts(outcome.summary) == {"kept": 2}
    assert outcome.summary.exit_code == ExitCode.DONE
    assert outcome.summary.kept_hours == pytest.approx(1.5)
    assert outcome.summary.kept_cost_usd
    assert archive.results() == before
    assert await asked(archive) == {}


async def test_redo_changed_pays_once(archive: Archive) -> None:
    """`--redo-changed` asks once for each kept recording; the next run finds all as wanted."""
    archive.add("a.wav", ONE)
    archive.add("b.wav", TWO)
    await archive.run()
    before = archive.results()

    redone = await archive.run(transcript=CHANGED, redo_changed=True)
    after = archive.results()
    again = await archive.run(transcript=CHANGED, redo_changed=True)

    assert accounts(redone.summary) == {"written": 2}
    assert accounts(again.summary) == {"already_written": 2}
    assert set(archive.service.billable.values()) == {2}
    assert sorted(archive.versions().values()) == sorted(before.values())
    assert not set(before.values()) & set(after.values())


async def test_going_back_is_free(archive: Archive) -> None:
    """Back to options that were paid for before: the result is had again without paying."""
    archive.add("a.wav", ONE)
    await archive.run()
    first = archive.results()
    await archive.run(transcript=CHANGED, redo_changed=True)

    outcome = await archive.run(redo_changed=True)

    assert accounts(outcome.summary) == {"written": 1}
    assert archive.results() == first
    assert archive.service.billable.total() == 2


async def test_an_interrupted_redo_finishes_what_was_claimed(archive: Archive) -> None:
    """Without the flag, the next run finishes what was claimed with it, and nothing else."""
    for number in range(8):
        archive.add(f"{number}.wav", b"%d" % number)
    await archive.run()
    archive.service.faults.add(
        Fault(on="submit", action="answer", status=400, times=1, body=NEGATIVE)
    )
    stopped = await archive.run(transcript=CHANGED, redo_changed=True, uploads=1, concurrency=1)
    assert stopped.summary.exit_code == ExitCode.REFUSED
    assert stopped.summary.kept
    assert stopped.summary.parked

    finished = await archive.run(transcript=CHANGED)

    assert finished.summary.written == stopped.summary.parked
    assert finished.summary.kept == stopped.summary.kept
    assert accounts(finished.summary)
    assert max(archive.service.billable.values()) == 2


NEGATIVE = json.dumps({"error": "Your current account balance is negative. Please top up."})


async def test_an_interrupted_redo_keeps_the_old_result(archive: Archive) -> None:
    """Until the new result is there, the old one stays where it is."""
    archive.add("a.wav", ONE)
    await archive.run()
    before = archive.results()
    archive.service.faults.add(
        Fault(on="submit", action="answer", status=400, times=1, body=NEGATIVE)
    )

    outcome = await archive.run(transcript=CHANGED, redo_changed=True)

    assert accounts(outcome.summary) == {"parked": 1}
    assert archive.results() == before


async def test_rules_are_options_by_path(archive: Archive) -> None:
    """A rule's options go with the recordings that it matches; later rules win, keys merge."""
    archive.add("calls/a.wav", ONE)
    archive.add("calls/late/b.wav", TWO)
    archive.add("talks/c.wav", THREE)
    rules = [
        {"match": "calls/**", "punctuate": False, "format_text": False},
        {"match": "calls/late/*", "punctuate": True},
    ]

    await archive.run(rules=rules)

    sent = {content: archive.service.accepted(content)[0].options for content in (ONE, TWO, THREE)}
    assert (sent[ONE]["punctuate"], sent[ONE]["format_text"]) == (False, False)
    assert (sent[TWO]["punctuate"], sent[TWO]["format_text"]) == (True, False)
    assert "punctuate" not in sent[THREE]


async def test_a_rule_changes_only_what_it_matches(archive: Archive) -> None:
    """A rule added later keeps the results that it touches, and leaves the others alone."""
    archive.add("calls/a.wav", ONE)
    archive.add("talks/c.wav", THREE)
    await archive.run()

    outcome = await archive.run(rules=[{"match": "calls/**", "punctuate": False}])

    assert accounts(outcome.summary) == {"kept": 1, "already_written": 1}


async def test_our_defaults_are_no_options(archive: Archive) -> None:
    """What the program adds by itself is in no request key: only what the user set is."""
    archive.add("a.wav", ONE)
    await archive.run()

    stored = await archive.rows("SELECT options FROM transcripts")
    assert stored == [("{}",)]


async def test_the_order_of_options_does_not_matter(archive: Archive) -> None:
    """The same options in another order are the same options."""
    archive.add("a.wav", ONE)
    await archive.run(transcript={"punctuate": False, "format_text": False})

    outcome = await archive.run(transcript={"format_text": False, "punctuate": False})

    assert accounts(outcome.summary) == {"already_written": 1}


async def test_moving_the_port_pays_for_nothing(archive: Archive, tmp_path: Path) -> None:
    """Another address of the same provider kind, with another key, finds all written."""
    archive.add("a.wav", ONE)
    await archive.run()

    async with opened(tmp_path, keys={"rotated": "project-1", "x": "other"}) as moved:
        outcome = await moved.run()

        assert accounts(outcome.summary) == {"already_written": 1}
        assert moved.service.requests == {}


# --- force -------------------------------------------------------------------------------------


async def test_force_asks_once_for_each(archive: Archive) -> None:
    """`--force` pays for one more transcript of each content, and the old result is kept."""
    archive.add("a.wav", ONE)
    archive.add("b.wav", TWO)
    archive.add("twin.wav", ONE)
    await archive.run()
    before = archive.results()

    outcome = await archive.run(force=True)

    assert accounts(outcome.summary) == {"written": 3}
    assert set(archive.service.billable.values()) == {2}
    generations = await archive.rows("SELECT max(generation) FROM transcripts")
    assert generations == [(2,)]
    assert set(archive.versions().values()) == set(before.values())
    assert accounts((await archive.run()).summary) == {"already_written": 3}


async def test_force_on_something_new_pays_once(archive: Archive) -> None:
    """What has no result yet is asked for once, `--force` or not."""
    archive.add("a.wav", ONE)
    archive.add("twin.wav", ONE)

    outcome = await archive.run(force=True)

    assert accounts(outcome.summary) == {"written": 2}
    assert archive.service.billable.total() == 1


# --- equal contents ----------------------------------------------------------------------------


async def test_equal_recordings_side_by_side(archive: Archive) -> None:
    """Two equal recordings, both on their way at once: one transcript, two results, equal bytes."""
    archive.add("a.wav", ONE)
    archive.add("b.wav", ONE)
    archive.service.faults.add(Fault(on="upload", action="hold", times=2))

    async with anyio.create_task_group() as group:

        async def both_then_on() -> None:
            await archive.service.held("upload", 2)
            archive.service.release("upload")

        group.start_soon(both_then_on)
        outcome = await archive.run()

    assert accounts(outcome.summary) == {"written": 2}
    results = archive.results()
    assert results["a.wav.json"] == results["b.wav.json"]
    assert archive.service.billable == {sha256(ONE).hexdigest(): 1}
    assert archive.service.requests["submit"] == 1


async def test_a_copy_of_something_done_is_not_sent(archive: Archive) -> None:
    """A later copy of a recording that is done is neither uploaded nor asked for nor fetched."""
    archive.add("a.wav", ONE)
    await archive.run()
    await asked(archive)
    archive.add("copy.wav", ONE)

    outcome = await archive.run()

    assert accounts(outcome.summary) == {"written": 1, "already_written": 1}
    assert outcome.of(Uploaded) == []
    assert set(await asked(archive)) <= {"list"}
    results = archive.results()
    assert results["a.wav.json"] == results["copy.wav.json"]


async def test_many_equal_recordings(archive: Archive) -> None:
    """Thirty equal recordings are paid once, and each has its own result."""
    for number in range(30):
        archive.add(f"{number}.wav", ONE)

    outcome = await archive.run(uploads=4, concurrency=2)

    assert accounts(outcome.summary) == {"written": 30}
    assert archive.service.billable.total() == 1
    assert len(set(archive.results().values())) == 1


async def test_equal_recordings_with_other_options_are_two(archive: Archive) -> None:
    """Equal bytes under different rules are two things that the user wants."""
    archive.add("a/x.wav", ONE)
    archive.add("b/x.wav", ONE)

    await archive.run(rules=[{"match": "a/*", "punctuate": False}])

    assert archive.service.billable.total() == 2


# --- limits and dry runs -----------------------------------------------------------------------


async def test_limit_takes_in_so_many(archive: Archive) -> None:
    """`--limit` takes in so many new recordings, and says what is left."""
    for number in range(5):
        archive.add(f"{number}.wav", b"%d" % number)

    outcome = await archive.run(limit=2)

    assert accounts(outcome.summary) == {"written": 2, "parked": 3}
    assert outcome.summary.reasons["parked"] == {"left by `--limit`": 3}
    assert archive.service.billable.total() == 2


async def test_limit_counts_recordings_and_not_tries(archive: Archive) -> None:
    """A recording that has to be asked for twice is still one of the `--limit`."""
    archive.add("a.wav", ONE)
    archive.service.faults.add(Fault(on="submit", action="drop_before"))

    outcome = await archive.run(limit=1)

    assert accounts(outcome.summary) == {"written": 1}


async def test_a_dry_run_sends_and_leaves_nothing(archive: Archive) -> None:
    """`--dry-run` says what there is to do; the service hears nothing and the disk is untouched."""
    archive.add("a.wav", ONE)
    archive.add("b.wav", b"")

    outcome = await archive.run(dry_run=True)

    assert accounts(outcome.summary) == {"parked": 1, "skipped": 1}
    assert outcome.summary.exit_code == ExitCode.DONE
    assert not archive.output.exists()
    assert await asked(archive) == {}


async def test_a_dry_run_knows_what_is_there(archive: Archive) -> None:
    """Over an archive that is done, a dry run sees that, and changes no file of the state."""
    archive.add("a.wav", ONE)
    await archive.run()
    archive.add("b.wav", TWO)
    before = {p: p.stat().st_mtime_ns for p in archive.output.rglob("*")}

    outcome = await archive.run(dry_run=True)

    assert accounts(outcome.summary) == {"already_written": 1, "parked": 1}
    assert {p: p.stat().st_mtime_ns for p in archive.output.rglob("*")} == before


# --- leftovers ---------------------------------------------------------------------------------


async def test_no_temporary_file_outlives_a_run(archive: Archive) -> None:
    """After a run that ended normally nothing unfinished lies anywhere, not even an older one's."""
    archive.add("sub/a.wav", ONE)
    for place in ("transcripts/sub", "transcripts/.overnight/versions/sub"):
        recording(archive.root / place / ".a.wav.json~overnight", b"half")

    await archive.run(formats=["all"])

    names = [path.name for path in archive.output.rglob("*")]
    assert [name for name in names if name.endswith("~overnight")] == []


async def test_results_of_recordings_that_are_gone_stay(archive: Archive) -> None:
    """Removing a recording removes nothing that was paid for it."""
    archive.add("a.wav", ONE)
    await archive.run()
    (archive.recordings / "a.wav").unlink()

    outcome = await archive.run()

    assert outcome.summary.found == 0
    assert "a.wav.json" in archive.results()


async def test_a_recording_that_is_back_is_not_paid_again(archive: Archive) -> None:
    """A recording that was away for a run is known when it is back."""
    archive.add("a.wav", ONE)
    await archive.run()
    os.rename(archive.recordings / "a.wav", archive.root / "aside.wav")
    await archive.run()
    os.rename(archive.root / "aside.wav", archive.recordings / "a.wav")

    outcome = await archive.run()

    assert accounts(outcome.summary) == {"already_written": 1}
    assert archive.service.billable.total() == 1


async def test_a_moved_recording_is_not_paid_again(archive: Archive) -> None:
    """A recording under another name is the same content: it gets a copy of the result."""
    archive.add("a.wav", ONE)
    await archive.run()
    os.rename(archive.recordings / "a.wav", archive.recordings / "renamed.wav")

    outcome = await archive.run()

    assert accounts(outcome.summary) == {"written": 1}
    assert archive.service.billable.total() == 1
    assert len(set(archive.results().values())) == 1


async def test_a_run_says_how_long_it_took(archive: Archive) -> None:
    """The summary is equal to what lies in the run's folder, and its time is that of the run."""
    archive.add("a.wav", ONE)
    began = time.monotonic()

    outcome = await archive.run()

    assert 0 < outcome.summary.elapsed_s <= time.monotonic() - began
    stored = archive.state / "runs" / outcome.summary.run_id / "summary.json"
    assert json.loads(stored.read_text())["elapsed_s"] == outcome.summary.elapsed_s
