"""`overnight reprocess --adopt`: what other tools left counts, and is not paid for again."""

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from jobs.adopt import Adopted, adopt
from jobs.audit import audit
from jobs.finding import Finding
from jobs.planning import plan
from jobs.rebuild import rebuild
from jobs.reprocess import reprocess
from jobs.verify import verify
from pipeline.errors import ExitCode, Locked, SettingsError
from pipeline.ledger.archive import Selection
from pipeline.ledger.lock import lock
from tests.support.audio import tone, wav_bytes
from tests.support.machine import Ended, Point, machine
from tests.support.runs import Archive, opened, recording, watched
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

LASTING = ("commit", "journal", "rename", "link", "mkdir")
CONTENTS = {"a.wav": b"SECONDS:90\none", "b/b.wav": b"two", "c.mp3": b"three"}


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        for name, content in CONTENTS.items():
            archive.add(name, content)
        yield archive


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """The folder that other tools left."""
    folder = tmp_path / "left"
    folder.mkdir()
    return folder


async def answers(archive: Archive, **given: Any) -> dict[str, bytes]:
    """What the service says of each recording; the run that asked for it is forgotten."""
    await archive.run(**given)
    results = archive.results()
    shutil.rmtree(archive.output)
    return {name.removesuffix(".json"): body for name, body in results.items()}


def leave(left: Path, documents: Mapping[str, bytes]) -> None:
    """Documents as other tools write them."""
    for name, body in documents.items():
        (left / name).parent.mkdir(parents=True, exist_ok=True)
        (left / name).write_bytes(body)


def sidecar(answer: bytes, content: bytes | None = None, **more: object) -> bytes:
    """What the vendor's command line writes beside a recording."""
    inner = json.loads(answer)
    record = {"source": "x", "id": inner["id"], "status": "completed", "transcript": inner, **more}
    if content is not None:
        record["source_sha256"] = sha256(content).hexdigest()
    return json.dumps(record, indent=2).encode() + b"\n"


async def adopted(
    archive: Archive, left: Path, *folders: Path, **given: Any
) -> tuple[Adopted, dict[str, list[Finding]]]:
    """What it came to, and what was told by kind."""
    told: dict[str, list[Finding]] = {}
    done = await adopt(
        archive.settings(**given),
        folders or (archive.recordings,),
        left,
        lambda finding: told.setdefault(finding.kind, []).append(finding),
        emit=lambda _: None,
        environ={},
    )
    return done, told


def paths(findings: list[Finding]) -> list[str | None]:
    return sorted(finding.path or "" for finding in findings)


async def runs_for_nothing(archive: Archive, written: int, **given: Any) -> None:
    """The next run finds so many written, opens none of them, and sends nothing."""
    before = archive.service.requests.total()
    with watched(*archive.recordings.rglob("*.*")) as opens:
        outcome = await archive.run(**given)

        assert opens() == 0
    assert outcome.summary.already_written == written == outcome.summary.found
    assert archive.service.requests.total() == before


# --- matched --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["{path}.json", "{path}.aai.json", "{stem}.json", "moved/{name}.json", "{name}.json"],
)
async def test_what_a_script_saved_is_a_result(archive: Archive, left: Path, name: str) -> None:
    """Answers are copied byte for byte, wherever their names lead, and a run has nothing to do."""
    said = await answers(archive)
    named = {path: {"path": path, "stem": path[:-4], "name": Path(path).name} for path in said}
    leave(left, {name.format(**named[path]): body for path, body in said.items()})

    done, told = await adopted(archive, left)

    assert (done.recordings, done.documents, done.adopted, done.without) == (3, 3, 3, 0)
    assert told.keys() == {"adopted"}
    assert done.exit_code == ExitCode.DONE
    assert archive.results() == {f"{path}.json": body for path, body in said.items()}
    await runs_for_nothing(archive, 3)


async def test_sidecars_of_the_vendor_are_cut_open(archive: Archive, left: Path) -> None:
    """The answer inside is a result as it stands there; content finds a recording that moved."""
    said = await answers(archive)
    left = archive.recordings
    leave(
        left,
        {
            "a.wav.aai.json": sidecar(said["a.wav"], CONTENTS["a.wav"]),
            "old name.wav.aai.json": sidecar(said["b/b.wav"], CONTENTS["b/b.wav"]),
            "c.mp3.aai.json": sidecar(said["c.mp3"], CONTENTS["c.mp3"], transform={"steps": []}),
        },
    )
    written = {name: (left / f"{name}.aai.json").read_bytes() for name in ("a.wav", "c.mp3")}

    done, _ = await adopted(archive, left)

    assert done.adopted == 3
    results = archive.results()
    for name, body in results.items():
        assert json.loads(body) == json.loads(said[name.removesuffix(".json")])
    assert all(results[f"{name}.json"] in body for name, body in written.items())
    await runs_for_nothing(archive, 3)


async def test_results_of_a_lost_state_folder_are_known_again(archive: Archive, left: Path) -> None:
    """Results of ours where they lie, without a ledger: no file changes, nothing is sent."""
    archive.add("twin.wav", CONTENTS["a.wav"])
    await archive.run(formats=["srt"])
    results = archive.results()
    shutil.rmtree(archive.state)

    done, told = await adopted(archive, archive.output, formats=["srt"])

    assert (done.adopted, done.documents) == (4, 4)
    assert told.keys() == {"adopted"}
    assert archive.results() == results
    assert archive.versions() == {}
    await runs_for_nothing(archive, 4, formats=["srt"])


async def test_what_our_journals_noted_counts(archive: Archive, left: Path) -> None:
    """Of an output folder with its state, options and contents are taken from the journals."""
    await archive.run(transcript={"speaker_labels": True, "temperature": 0.5})
    shutil.move(archive.output, left / "old")
    for name in ("a.wav", "c.mp3"):
        (archive.recordings / name).rename(archive.recordings / f"new {name}")

    done, told = await adopted(archive, left)
    outcome = await archive.run()

    assert done.adopted == 3
    assert told.keys() == {"adopted"}
    assert outcome.summary.kept == 3
    await runs_for_nothing(archive, 3, transcript={"speaker_labels": True, "temperature": 0.5})


async def test_equal_recordings_each_have_their_own(archive: Archive, left: Path) -> None:
    """Two transcripts of the same bytes, paid twice by another tool, are both kept."""
    said = await answers(archive)
    again = json.loads(said["a.wav"]) | {"id": "another", "audio_url": "https://x.example/2"}
    archive.add("twin.wav", CONTENTS["a.wav"])
    leave(left, {"a.wav.json": said["a.wav"], "twin.wav.json": json.dumps(again).encode()})

    done, _ = await adopted(archive, left)

    assert done.adopted == 2
    assert done.without == 2
    assert archive.results()["twin.wav.json"] == json.dumps(again).encode()


async def test_an_equal_recording_gets_a_copy(archive: Archive, left: Path) -> None:
    """A recording without a document that holds the same bytes costs nothing in the next run."""
    said = await answers(archive)
    archive.add("twin.wav", CONTENTS["a.wav"])
    leave(left, {f"{name}.json": body for name, body in said.items()})
    submits = archive.service.requests["submit"]

    await adopted(archive, left)
    outcome = await archive.run()

    assert outcome.summary.written == 1
    assert archive.results()["twin.wav.json"] == said["a.wav"]
    assert archive.service.requests["submit"] == submits


async def test_the_names_of_several_folders_lead(archive: Archive, left: Path) -> None:
    """With two folders of recordings a document below the name of one is of that one."""
    said = await answers(archive)
    other = archive.root / "other"
    shutil.copytree(archive.recordings, other)
    (other / "a.wav").write_bytes(b"not the same")
    leave(left, {"recordings/a.wav.json": said["a.wav"], "b/b.wav.json": said["b/b.wav"]})

    done, told = await adopted(archive, left, archive.recordings, other)

    assert paths(told["adopted"]) == ["recordings/a.wav.json"]
    assert paths(told["ambiguous"]) == ["b/b.wav.json"]
    assert done.exit_code == ExitCode.PARTIAL


# --- options --------------------------------------------------------------------------------------


async def test_other_options_are_kept_and_never_paid_for_unasked(
    archive: Archive, left: Path
) -> None:
    """A document says what it was made with: a run that asks for more keeps it, for nothing."""
    said = await answers(archive, transcript={"speaker_labels": True})
    leave(left, {f"{name}.json": body for name, body in said.items()})
    submits = archive.service.requests["submit"]

    await adopted(archive, left, transcript={"sentiment_analysis": True})
    kept = await archive.run(transcript={"sentiment_analysis": True})

    assert kept.summary.kept == 3
    assert archive.service.requests["submit"] == submits
    await runs_for_nothing(archive, 3, transcript={"speaker_labels": True})

    redone = await archive.run(transcript={"sentiment_analysis": True}, redo_changed=True)

    assert redone.summary.written == 3
    assert archive.service.requests["submit"] == submits + 3
    assert set(archive.versions().values()) == set(said.values())


@pytest.mark.parametrize("asked", [{"sentiment_analysis": True}, {"speaker_labels": True}])
async def test_what_was_made_with_no_option_is_not_kept_for_ever(
    archive: Archive, left: Path, asked: dict[str, bool]
) -> None:
    """It was adopted to count: whatever a run asks for, it is no news, and no cause to pay."""
    said = await answers(archive)
    plain = {
        name: json.dumps(json.loads(body) | dict.fromkeys(asked, False)).encode()
        for name, body in said.items()
    }
    leave(left, {f"{name}.json": body for name, body in plain.items()})
    submits = archive.service.requests["submit"]

    done, _ = await adopted(archive, left, transcript=asked)

    assert (done.adopted, done.plain) == (3, 3)
    assert "3 of them were made with no option" in str(done)
    await runs_for_nothing(archive, 3, transcript=asked)
    await runs_for_nothing(archive, 3, transcript=asked, redo_changed=True)
    await runs_for_nothing(archive, 3, transcript={"auto_chapters": True})
    await runs_for_nothing(archive, 3)
    assert archive.service.requests["submit"] == submits
    again = await archive.run(transcript=asked, force=True)
    assert again.summary.written == 3


async def test_reprocess_makes_it_anew(archive: Archive, left: Path) -> None:
    """Who wants other words of what was adopted says so by `reprocess`, which plans it first."""
    said = await answers(archive)
    leave(left, {f"{name}.json": body for name, body in said.items()})
    await adopted(archive, left)
    settings = archive.settings(transcript={"speaker_labels": True})

    made = await to_thread.run_sync(plan, settings, Selection())
    done = await reprocess(settings, made, emit=lambda _: None)

    assert (made.again, done.summary.written) == (3, 3)
    assert set(archive.versions().values()) == set(said.values())


@pytest.mark.parametrize("moment", ["touched", "read again", "rebuilt"])
async def test_it_stays_so(archive: Archive, left: Path, moment: str) -> None:
    """Neither new times of a recording nor a ledger made anew call an adopted result other."""
    said = await answers(archive)
    leave(left, {f"{name}.json": body for name, body in said.items()})
    await adopted(archive, left)
    given: dict[str, Any] = {"transcript": {"speaker_labels": True}}
    if moment == "touched":
        for name in CONTENTS:
            os.utime(archive.recordings / name, (1_700_000_000, 1_700_000_000))
    elif moment == "read again":
        given["checksum"] = True
    else:
        await rebuild(archive.settings(), lambda _: None, emit=lambda _: None)

    for _ in range(2):
        outcome = await archive.run(**given)

        assert (outcome.summary.kept, outcome.summary.already_written) == (0, 3)


async def test_what_this_program_made_with_no_option_is_kept(archive: Archive, left: Path) -> None:
    """Of a journal of ours it is known what was asked for: that is kept, as it always was."""
    await archive.run()
    shutil.move(archive.output, left / "old")

    done, _ = await adopted(archive, left, transcript={"speaker_labels": True})
    outcome = await archive.run(transcript={"speaker_labels": True})

    assert (done.adopted, done.plain) == (3, 0)
    assert outcome.summary.kept == 3


async def test_another_provider_makes_it_other(archive: Archive, left: Path) -> None:
    """What one provider made is not what another would make: that is told as before."""
    said = await answers(archive)
    leave(left, {f"{name}.json": body for name, body in said.items()})
    await adopted(archive, left, provider="assemblyai", settle="10s")

    outcome = await archive.run()

    assert outcome.summary.kept == 3


# --- left -----------------------------------------------------------------------------------------


async def test_what_is_no_result_is_named(archive: Archive, left: Path) -> None:
    """Each document that cannot be adopted is told with its reason; the others are adopted."""
    said = await answers(archive)
    document = json.loads(said["a.wav"])
    deleted = document | {"audio_url": "http://deleted_by_user", "text": "Deleted by user."}
    archive.add("d.wav", b"four")
    leave(
        left,
        {
            "1.json": b'{"name": "package"}',
            "2.json": b"",
            "3.json": said["a.wav"][:-20],
            "4.json": json.dumps(document | {"status": "error", "error": "no"}).encode(),
            "5.json": json.dumps(deleted).encode(),
            "6.json": json.dumps({"x": document, "y": document}).encode(),
            "7.json": json.dumps(document | {"id": "../../etc"}).encode(),
            "8.json": b"[" * 100_000,
            "9.json": json.dumps(document | {"text": None}).encode(),
            "gone.wav.json": json.dumps(document | {"id": "gone"}).encode(),
            "b/b.wav.json": said["b/b.wav"],
        },
    )
    (left / "folder.json").mkdir()
    (left / "link.json").symlink_to(left / "b/b.wav.json")
    os.mkfifo(left / "pipe.json")

    done, told = await adopted(archive, left)

    assert paths(told["unusable"]) == [f"{number}.json" for number in range(1, 10)]
    assert paths(told["unmatched"]) == ["gone.wav.json"]
    assert paths(told["adopted"]) == ["b/b.wav.json"]
    assert done.findings == {"unusable": 9, "unmatched": 1}
    assert done.exit_code == ExitCode.PARTIAL
    assert done.without == 3
    assert all(finding.what.isprintable() for each in told.values() for finding in each)


async def test_two_documents_as_close_are_left(archive: Archive, left: Path) -> None:
    """Of two documents for one recording none is adopted, unless one of them is closer to it."""
    said = await answers(archive)
    other = json.dumps(json.loads(said["a.wav"]) | {"id": "other", "audio_url": None}).encode()
    leave(left, {"a.wav.json": said["a.wav"], "a.wav.aai.json": other})
    leave(left, {"c.mp3.json": said["c.mp3"], "c.json": other, "copy/c.mp3.json": said["c.mp3"]})

    done, told = await adopted(archive, left)

    assert paths(told["adopted"]) == ["c.mp3.json"]
    assert paths(told["ambiguous"]) == ["a.wav.aai.json", "a.wav.json", "c.json"]
    assert done.known == 1


async def test_one_transcript_of_different_bytes_is_left(archive: Archive, left: Path) -> None:
    """A document that lies under the names of two recordings which differ is of neither."""
    said = await answers(archive)
    leave(left, {"a.wav.json": said["a.wav"], "c.mp3.json": said["a.wav"]})

    done, told = await adopted(archive, left)

    assert paths(told["ambiguous"]) == ["a.wav.json", "c.mp3.json"]
    assert done.adopted == 0


async def test_a_recording_that_changed_does_not_get_it(archive: Archive, left: Path) -> None:
    """A document that names other bytes than a recording holds is not of that."""
    said = await answers(archive)
    archive.add("c.mp3", b"three, changed")
    leave(left, {"c.mp3.json": sidecar(said["c.mp3"], b"three")})

    done, told = await adopted(archive, left)

    assert paths(told["unmatched"]) == ["c.mp3.json"]
    assert done.adopted == 0
    assert archive.results() == {}


async def test_a_length_that_speaks_against_it_counts(archive: Archive, left: Path) -> None:
    """A document of 2 s more is of a recording, one of 3 s is not, unless of a part of it."""
    said = json.loads((await answers(archive))["a.wav"])
    for name, told_s, more in (
        ("near", 12, {}),
        ("far", 13, {}),
        ("short", 7, {}),
        ("part", 3, {"audio_end_at": 3000}),
    ):
        archive.add(f"{name}.wav", wav_bytes(tone(10, 200 + told_s)))
        answer = said | {"id": name, "audio_url": None, "audio_duration": told_s, **more}
        leave(left, {f"{name}.wav.json": json.dumps(answer).encode()})

    _, told = await adopted(archive, left)

    assert paths(told["adopted"]) == ["near.wav.json", "part.wav.json"]
    assert paths(told["mismatch"]) == ["far.wav.json", "short.wav.json"]
    assert all("10 s" in finding.what for finding in told["mismatch"])


async def test_what_a_recording_has_stays(archive: Archive, left: Path) -> None:
    """A recording that has a result, or waits for one at the service, takes no other."""
    said = await answers(archive)
    await archive.run(archive.recordings / "a.wav")
    other = {"audio_url": "https://x.example/other"}
    archive.service.faults.add(Fault(on="get", action="patch", patch=other, times=None))
    await archive.run(archive.recordings / "c.mp3")
    archive.service.faults.clear()
    leave(left, {f"{name}.json": said[name] for name in ("a.wav", "c.mp3")})
    mine = archive.results()

    done, told = await adopted(archive, left)

    assert paths(told["taken"]) == ["a.wav.json", "c.mp3.json"]
    assert archive.results() == mine
    assert (done.adopted, done.without) == (0, 1)


# --- sound ----------------------------------------------------------------------------------------


async def test_twice_is_once(archive: Archive, left: Path) -> None:
    """A second adoption knows all that the first has taken, by name or by content."""
    said = await answers(archive)
    leave(left, {"a.wav.json": said["a.wav"], "c.json": said["c.mp3"]})
    leave(left, {"moved.aai.json": sidecar(said["b/b.wav"], b"two")})
    await adopted(archive, left)
    rows = await archive.rows("SELECT * FROM attempts")
    results = archive.results()

    done, told = await adopted(archive, left)

    assert (done.adopted, done.known, done.without) == (0, 3, 0)
    assert told == {}
    assert await archive.rows("SELECT * FROM attempts") == rows
    assert archive.results() == results


async def test_a_dry_run_writes_nothing(archive: Archive, left: Path) -> None:
    """With `--dry-run` the same is told, and neither a result nor a ledger is made."""
    said = await answers(archive)
    leave(left, {f"{name}.json": body for name, body in said.items()} | {"x.json": b"{}"})

    dry, dry_told = await adopted(archive, left, dry_run=True)

    assert not archive.output.exists()
    done, told = await adopted(archive, left)
    assert dry_told == told
    assert dry.facts() == done.facts() | {"dry_run": True}


async def test_the_archive_is_only_read(archive: Archive, left: Path) -> None:
    """What other tools left stays as it is, to the second."""
    said = await answers(archive)
    leave(left, {f"{name}.json": body for name, body in said.items()})

    def seen() -> dict[str, tuple[int, bytes]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for path in left.rglob("*")
        }

    before = seen()
    await adopted(archive, left)

    assert seen() == before


async def test_what_stood_there_is_kept(archive: Archive, left: Path) -> None:
    """A file that lies where an adopted result goes is kept among the versions."""
    said = await answers(archive)
    leave(left, {"a.wav.json": said["a.wav"]})
    leave(archive.output, {"a.wav.json": b"precious"})

    await adopted(archive, left)

    assert archive.results()["a.wav.json"] == said["a.wav"]
    assert list(archive.versions().values()) == [b"precious"]


async def test_a_place_that_is_taken_ends_nothing_else(archive: Archive, left: Path) -> None:
    """Where a result cannot be saved its document is left, and the others are adopted."""
    said = await answers(archive)
    leave(left, {f"{name}.json": body for name, body in said.items()})
    (archive.output / "a.wav.json").mkdir(parents=True)

    done, told = await adopted(archive, left)

    assert paths(told["unsaved"]) == ["a.wav.json"]
    assert (done.adopted, done.without) == (2, 1)


async def test_redacted_audio_comes_along(archive: Archive, left: Path) -> None:
    """What lies beside a document lies beside the result, and an equal recording gets it too."""
    options = {"redact_pii": True, "redact_pii_audio": True}
    said = json.loads((await answers(archive))["a.wav"]) | options
    leave(left, {"a.wav.json": json.dumps(said).encode(), "a.wav.redacted.mp3": b"beep"})
    archive.add("twin.wav", CONTENTS["a.wav"])
    submits = archive.service.requests["submit"]

    await adopted(archive, left, transcript=options)
    await archive.run(archive.recordings / "twin.wav", transcript=options)

    results = archive.results()
    assert results["a.wav.redacted.mp3"] == results["twin.wav.redacted.mp3"] == b"beep"
    assert results["twin.wav.json"] == results["a.wav.json"]
    assert archive.service.requests["submit"] == submits


async def test_nothing_is_wrong_with_an_adopted_archive(archive: Archive, left: Path) -> None:
    """Verify and audit find no fault, and a ledger that is lost after it comes back."""
    said = await answers(archive)
    leave(left, {f"{name}.json": body for name, body in said.items()})
    await adopted(archive, left)
    findings: list[Finding] = []

    verified = await to_thread.run_sync(verify, archive.settings(), findings.append)
    audited = await to_thread.run_sync(audit, archive.settings(), findings.append)

    assert findings == []
    assert (verified.exit_code, verified.unchanged) == (ExitCode.DONE, 3)
    assert (audited.exit_code, audited.facts()["transcripts"]) == (ExitCode.DONE, 3)
    assert audited.facts()["cost_usd"] is None
    for path in archive.state.glob("ledger.sqlite3*"):
        path.unlink()

    rebuilt = await rebuild(archive.settings(), findings.append, emit=lambda _: None)

    assert (rebuilt.written, rebuilt.unclaimed) == (3, 0)
    await runs_for_nothing(archive, 3)


async def test_an_adopted_result_that_is_gone_is_fetched(archive: Archive, left: Path) -> None:
    """What was adopted is fetched by its id like any other, whichever key it was asked for with."""
    said = await answers(archive)
    leave(left, {f"{name}.json": body for name, body in said.items()})
    await adopted(archive, left)
    (archive.output / "a.wav.json").unlink()
    submits = archive.service.requests["submit"]

    outcome = await archive.run()

    assert outcome.summary.written == 1
    assert archive.results()["a.wav.json"] == said["a.wav"]
    assert archive.service.requests["submit"] == submits


async def test_a_lost_result_is_adopted_again(archive: Archive, left: Path) -> None:
    """A result that was adopted, and deleted since, comes back from where it still lies."""
    bodies = await answers(archive)
    leave(left, {f"{name}.json": body for name, body in bodies.items()})
    await adopted(archive, left)
    results = archive.results()
    for name in ("a.wav.json", "c.mp3.json"):
        (archive.output / name).unlink()
    again, told = await adopted(archive, left)

    assert (again.adopted, again.known, again.exit_code) == (2, 1, ExitCode.DONE)
    assert paths(told["adopted"]) == ["a.wav.json", "c.mp3.json"]
    assert archive.results() == results
    await runs_for_nothing(archive, 3)


async def test_a_result_that_the_service_has_lost_too_is_adopted(
    archive: Archive, left: Path
) -> None:
    """Missing here and there, it is not gone while somebody has a copy: that costs nothing."""
    await archive.run()
    results = archive.results()
    leave(left, results)
    archive.service.faults.add(Fault(on="get", action="unknown_id", times=None))
    for name in results:
        (archive.output / name).unlink()
    for ahead_s in (0.0, 3601.0):
        await archive.run(ahead_s=ahead_s)
    assert await archive.rows("SELECT DISTINCT state FROM transcripts") == [("missing",)]

    done, _ = await adopted(archive, left)

    assert (done.adopted, done.exit_code) == (3, ExitCode.DONE)
    assert archive.results() == results
    await runs_for_nothing(archive, 3)


async def test_what_is_refused_leaves_no_file(archive: Archive, left: Path) -> None:
    """A transcript that is known to be of other bytes is not put where a result belongs."""
    await archive.run()
    body = archive.results()["a.wav.json"]
    archive.add("d.wav", b"SECONDS:90\nfour")
    leave(left, {"d.wav.json": body})

    done, told = await adopted(archive, left)

    assert (done.adopted, paths(told["taken"])) == (0, ["d.wav.json"])
    assert "d.wav.json" not in archive.results()


async def test_uploads_that_are_still_good_stay_good(archive: Archive, left: Path) -> None:
    """An adoption between two runs lets the second submit what the first has uploaded."""
    said = await answers(archive)
    archive.service.faults.add(Fault(on="submit", action="negative_balance", times=None))
    await archive.run(archive.recordings / "c.mp3")
    archive.service.faults.clear()
    uploads = archive.service.requests["upload"]
    leave(left, {"a.wav.json": said["a.wav"], "b/b.wav.json": said["b/b.wav"]})

    await adopted(archive, left)
    outcome = await archive.run()

    assert outcome.summary.written == 1
    assert archive.service.requests["upload"] == uploads


async def test_after_a_run_over_another_folder(archive: Archive, left: Path) -> None:
    """What an earlier run found in folders that are not named now is no matter of an adoption."""
    said = await answers(archive)
    leave(left, {f"{name}.json": body for name, body in said.items()})
    elsewhere = archive.root / "elsewhere"
    recording(elsewhere / "other.wav", b"other")
    await archive.run(elsewhere)

    done, told = await adopted(archive, left)

    assert (done.adopted, done.recordings, done.without) == (3, 3, 0), told


async def test_a_run_beside_is_waited_for_by_the_user(archive: Archive, left: Path) -> None:
    """While another run holds the state folder nothing is adopted."""
    archive.state.mkdir(parents=True)
    async with lock(archive.state / "lock"):
        with pytest.raises(Locked):
            await adopted(archive, left)


async def test_a_folder_that_cannot_be_read_is_said(archive: Archive, left: Path) -> None:
    """What might hold a result and cannot be looked into is an error that names it."""
    deep = os.open(left, os.O_RDONLY)
    for _ in range(20):  # deeper than a path can say
        os.mkdir("x" * 250, dir_fd=deep)
        inner = os.open("x" * 250, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = inner
    os.close(deep)

    with pytest.raises(SettingsError, match=r"cannot read the folder .*x"):
        await adopted(archive, left)


async def test_an_archive_that_is_none_is_said(archive: Archive, left: Path) -> None:
    """A path that is no folder is a mistake of the command line, and nothing is made."""
    with pytest.raises(SettingsError, match="archive"):
        await adopted(archive, left / "nowhere")

    assert not archive.output.exists()


async def test_killed_anywhere_it_is_finished_by_the_next_time(
    archive: Archive, left: Path
) -> None:
    """Killed before any lasting step and done again, all is adopted once, and paid by nobody."""
    said = await answers(archive)
    leave(left, {f"{name}.json": body for name, body in said.items()})
    results = {f"{name}.json": body for name, body in said.items()}
    requests = archive.service.requests.total()
    line = ["reprocess", archive.recordings, "--adopt", left, "--provider", archive.service.url]
    async with machine() as its:

        async def done(die: Point | None = None) -> Ended:
            arguments = [*line, "-o", archive.output, "--json"]
            return await its.run(*arguments, environ={}, cwd=archive.root, die=die)

        trace = [name for name in (await done()).trace if name in LASTING]
        nth: Counter[str] = Counter()
        killed = 0
        for name in trace:
            nth[name] += 1
            shutil.rmtree(archive.output)
            ended = await done(Point(name, nth[name], "before"))
            killed += ended.exit_code == -signal.SIGKILL
            again = await done()

            assert again.exit_code == ExitCode.DONE, (name, nth[name], again.stderr)
            assert again.summary["adopted"] + again.summary["known"] == 3
            assert archive.results() == results, (name, nth[name])
            assert [str(path) for path in archive.output.rglob("*~overnight")] == []
            assert await archive.rows("SELECT count(*) FROM attempts") == [(3,)]
    assert killed > len(trace) // 2
    assert archive.service.requests.total() == requests
    await runs_for_nothing(archive, 3)
