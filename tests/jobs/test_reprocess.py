"""`reprocess`: what is transcribed again, which of two results stays, and how it is taken back."""

import json
import math
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from anyio import create_task_group, to_thread

from jobs.planning import Plan, plan
from jobs.reprocess import Reprocessed, RolledBack, reprocess, roll_back
from pipeline.allowance import MOST_CHANNELS
from pipeline.errors import ExitCode, SettingsError
from pipeline.events import Event, RunStarted, Warned
from pipeline.ledger.archive import Selection
from tests.support.audio import silence, wav_bytes
from tests.support.runs import Archive, opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

ONE, TWO, THREE = b"SECONDS:3600\none", b"SECONDS:1800\ntwo", b"SECONDS:60\nthree"
OTHER: dict[str, Any] = {"transcript": {"punctuate": False}}


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        archive.add("a.wav", ONE)
        archive.add("b/b.wav", TWO)
        yield archive


async def planned(archive: Archive, **given: Any) -> Plan:
    """What would be done with the whole archive; settings and what `plan` takes."""
    names = ("promote", "limit", "sample", "seed", "only")
    of_plan = {name: given.pop(name) for name in names if name in given}
    look = partial(plan, archive.settings(**given), Selection(), **of_plan)
    return await to_thread.run_sync(look)


async def redone(
    archive: Archive, made: Plan | None = None, *, told: list[Event] | None = None, **given: Any
) -> Reprocessed:
    """The same done, by default with other options."""
    of_job = {name: given.pop(name) for name in ("promote",) if name in given}
    given = given or OTHER
    made = made or await planned(archive, promote=of_job.get("promote", "always"), **given)
    emit = (lambda _: None) if told is None else told.append
    return await reprocess(archive.settings(**given), made, emit=emit, **of_job)


async def taken_back(archive: Archive, run_id: str, told: list[Event] | None = None) -> RolledBack:
    """A run rolled back."""
    emit = (lambda _: None) if told is None else told.append
    return await roll_back(archive.settings(), run_id, emit=emit)


async def asked_for_nothing(archive: Archive, **given: Any) -> None:
    """A run of these settings sends nothing at all, and changes no result."""
    before, requests = archive.results(), Counter(archive.service.requests)
    outcome = await archive.run(**given)
    assert archive.service.requests == requests
    assert archive.results() == before
    assert outcome.summary.exit_code == ExitCode.DONE


@contextmanager
def sounding(archive: Archive, sound: str) -> Iterator[None]:
    """The service has redacted audio of this sound."""
    url = f"{archive.service.url}/storage/a"
    body = json.dumps({"status": "redacted_audio_ready", "redacted_audio_url": url})
    faults = [
        Fault(on="export", action="answer", status=200, body=body, times=None),
        Fault(on="*", action="answer", status=200, body=sound, times=None, match="/storage/"),
    ]
    for fault in faults:
        archive.service.faults.add(fault)
    yield
    archive.service.faults.clear()


def linked(page: Path) -> set[Path]:
    """The files that the differences beside a page lead to."""
    lines = map(json.loads, page.with_name("differences.ndjson").read_text().splitlines())
    links = [line[name] for line in lines for name in ("old_href", "new_href")]
    return {(page.parent / unquote(link)).resolve() for link in links}


# --- planned --------------------------------------------------------------------------------------


async def test_a_plan_sends_nothing(archive: Archive) -> None:
    """It says what would be transcribed, how long that is, what it costs and what would change."""
    await archive.run()
    requests = Counter(archive.service.requests)

    made = await planned(archive, **OTHER)

    assert archive.service.requests == requests
    facts = made.facts()
    assert (facts["recordings"], facts["again"], facts["new"]) == (2, 2, 0)
    assert facts["hours"] == 1.5
    assert facts["cost_usd"] == pytest.approx(1.5 * max(archive.settings().prices.values()), 1)
    assert [change["new_options"] for change in facts["changes"]] == [{"punctuate": False}]
    assert made.question.startswith("Transcribe 2 recordings again, 1.5 h, about $")


@pytest.mark.parametrize("suffix", ["wav", "opus"])
async def test_each_channel_is_planned(archive: Archive, suffix: str) -> None:
    """Where channels are transcribed one by one each counts; where nobody knows them, the most."""
    shutil.rmtree(archive.recordings)
    archive.add(f"c.{suffix}", wav_bytes(silence(80.0), channels=2))
    archive.add(f"unknown.{suffix}", b"SECONDS:40\n".ljust(800_000))
    await archive.run()

    made = await planned(archive, transcript={"multichannel": True})

    assert (made.recordings, made.unprobed) == (2, 1)
    assert made.hours * 3600 == pytest.approx(80 + 40 * MOST_CHANNELS)


async def test_an_unknown_result_is_left_out(archive: Archive) -> None:
    """What a run leaves to be adopted, or found again, is not to be paid for: `--force` insists."""
    await archive.run()
    shutil.rmtree(archive.state)
    await archive.run()

    made = await planned(archive)
    forced = await planned(archive, force=True)

    assert (made.recordings, made.hours, made.left_out) == (0, 0, {"unknown": 2})
    assert "--adopt" in str(made)
    assert (forced.new, forced.left_out) == (2, {})


async def test_what_is_as_asked_for_is_left_out(archive: Archive) -> None:
    """Results that the same settings have made are no work, unless it is said by `force`."""
    await archive.run()

    made = await planned(archive)
    forced = await planned(archive, force=True)

    assert (made.recordings, made.left_out) == (0, {"as_asked": 2})
    assert forced.again == 2


async def test_what_is_gone_or_changed_is_named(archive: Archive) -> None:
    """A recording that is not there as it was cannot be done again, and its name is told."""
    archive.add("c.wav", THREE)
    await archive.run()
    (archive.recordings / "a.wav").unlink()
    archive.add("c.wav", b"another by now")

    made = await planned(archive, **OTHER)

    assert (made.again, made.left_out) == (1, {"gone": 1, "changed": 1})
    assert made.named == [("gone", "a.wav"), ("changed", "c.wav")]
    assert "  a.wav" in str(made).splitlines()


async def test_equal_recordings_are_counted_once(archive: Archive) -> None:
    """Two copies of a recording are two results, and one transcript to be paid."""
    archive.add("twin.wav", ONE)
    await archive.run()

    made = await planned(archive, **OTHER)
    done = await redone(archive)

    assert (made.again, made.hours) == (3, 1.5)
    assert len(archive.service.accepted(ONE)) == 2
    assert done.summary.transcripts == 2
    assert len(archive.versions()) == 3


async def test_a_sample_is_the_same_each_time(archive: Archive) -> None:
    """Which recordings are drawn depends on the seed, and on nothing else of the others."""
    for number in range(20):
        archive.add(f"{number}.wav", b"%d" % number)
    await archive.run()

    drawn = [(await planned(archive, sample=5, seed=seed, **OTHER)).sample for seed in (1, 1, 2)]
    everything = (await planned(archive, **OTHER)).listed
    only = {*drawn[0], *sorted(everything)[:7]}
    fewer = await planned(archive, sample=5, seed=1, only=only, **OTHER)

    assert [len(sample) for sample in drawn] == [5, 5, 5]
    assert drawn[0] == drawn[1] == fewer.sample
    assert drawn[0] != drawn[2]


async def test_a_sample_alone_is_transcribed(archive: Archive) -> None:
    """Only what was drawn is paid for; what is left then is the rest."""
    await archive.run()
    drawn = (await planned(archive, sample=1, **OTHER)).sample

    done = await redone(archive, await planned(archive, only=drawn, **OTHER), **OTHER)

    assert done.summary.transcripts == 1
    rest = await planned(archive, **OTHER)
    assert (rest.again, rest.left_out) == (1, {"as_asked": 1})


async def test_a_limit_is_for_what_would_be_done(archive: Archive) -> None:
    """What is left out for another reason takes no place of the few."""
    await archive.run()
    await redone(archive, await planned(archive, limit=1, **OTHER), **OTHER)

    made = await planned(archive, limit=1, **OTHER)

    assert (made.again, made.left_out) == (1, {"as_asked": 1})


async def test_what_failed_is_tried_again(archive: Archive) -> None:
    """A recording without a result is among those that are meant, and gets its first one."""
    archive.service.fail_content(ONE, "Audio duration is too short.", times=1)
    await archive.run()

    made = await planned(archive)
    done = await redone(archive, made, provider=archive.service.url)

    assert (made.new, made.left_out) == (1, {"as_asked": 1})
    assert made.question.startswith("Transcribe 1 recording, ")
    assert done.summary.written == 1
    assert done.line is None


# --- done -----------------------------------------------------------------------------------------


async def test_new_results_stay_and_older_ones_are_kept(archive: Archive) -> None:
    """Each recording gets a new transcript; the older answer lies in `versions/` as it was."""
    await archive.run()
    before = archive.results()

    done = await redone(archive)

    after = archive.results()
    for name, content in (("a.wav.json", ONE), ("b/b.wav.json", TWO)):
        old, new = archive.service.accepted(content)
        assert json.loads(before[name])["id"] == old.id
        assert json.loads(after[name])["id"] == new.id
        assert new.options["punctuate"] is False
    assert sorted(archive.versions().values()) == sorted(before.values())
    assert done.exit_code == ExitCode.DONE
    await asked_for_nothing(archive, **OTHER)


async def test_what_differs_has_a_page(archive: Archive) -> None:
    """The run's folder says what differs, in a page whose links lead to both results."""
    await archive.run()
    archive.service.faults.add(Fault(on="get", action="patch", times=None, patch={"words": None}))

    done = await redone(archive)

    assert done.page is not None
    assert done.page.parent.name == done.summary.run_id
    assert done.line is not None
    assert done.line.startswith("In 2 recordings (1.5 h)")
    differences = json.loads(done.page.with_name("differences.json").read_text())
    assert differences["new_options"] == {"punctuate": False}
    kept = {archive.state.resolve() / "versions" / name for name in archive.versions()}
    assert linked(done.page) == kept | {archive.output.resolve() / n for n in archive.results()}


async def test_nothing_is_paid_twice_over_two_plans(archive: Archive) -> None:
    """A plan that is done a second time, or after another run has done it, asks for nothing."""
    await archive.run()
    made = await planned(archive, **OTHER)
    await redone(archive, made, **OTHER)
    paid = archive.service.billable.total()

    again = await redone(archive, made, **OTHER)

    assert archive.service.billable.total() == paid == 4
    assert again.summary.already_written == 2


async def test_force_asks_for_the_same_again(archive: Archive) -> None:
    """With `force` equal options are a new generation: paid again, and the older one is kept."""
    await archive.run()

    done = await redone(archive, force=True)

    assert [len(archive.service.accepted(content)) for content in (ONE, TWO)] == [2, 2]
    assert done.summary.written == 2
    await asked_for_nothing(archive)


async def test_force_after_a_rollback_asks_again(archive: Archive) -> None:
    """Who took a new result back and asks once more gets another, of equal recordings one."""
    archive.add("twin.wav", ONE)
    await archive.run()
    done = await redone(archive, force=True)
    await taken_back(archive, done.summary.run_id)

    again = await redone(archive, force=True)

    assert again.summary.written == 3
    assert [len(archive.service.accepted(content)) for content in (ONE, TWO)] == [3, 3]
    newest = {archive.service.accepted(content)[-1].id for content in (ONE, TWO)}
    assert {json.loads(body)["id"] for body in archive.results().values()} == newest
    await asked_for_nothing(archive)


# --- which one stays ------------------------------------------------------------------------------


async def test_never_puts_the_older_one_back(archive: Archive) -> None:
    """The archive is as it was, byte for byte; the new results lie in `versions/`, and the page
    leads there."""
    await archive.run(formats=["srt"])
    before = archive.results()

    done = await redone(archive, promote="never", formats=["srt"], **OTHER)

    assert (done.summary.written, done.summary.kept) == (2, 0)
    assert archive.results() == before
    assert (done.settled.back, done.settled.stayed) == (2, 0)
    new = {archive.service.accepted(content)[1].id for content in (ONE, TWO)}
    aside = {json.loads(b)["id"] for n, b in archive.versions().items() if n.endswith("json")}
    assert new <= aside
    assert done.page is not None
    assert all(path.is_file() for path in linked(done.page))
    assert not linked(done.page) & {archive.output.resolve() / name for name in before}
    await asked_for_nothing(archive, formats=["srt"])


async def test_what_was_put_aside_is_not_made_again(archive: Archive) -> None:
    """The same command again has nothing to do; told otherwise, it pays for nothing and fetches
    nothing: the new results are on disk."""
    await archive.run()
    await redone(archive, promote="never")
    aside = archive.versions()

    again = await planned(archive, promote="never", **OTHER)
    archive.service.requests.clear()
    await redone(archive, promote="always")

    assert (again.recordings, again.left_out) == (0, {"put_aside": 2})
    assert archive.service.requests.keys().isdisjoint({"upload", "submit", "get"})
    assert set(archive.results().values()) < set(aside.values())
    for content in (ONE, TWO):
        assert archive.service.accepted(content)[1].id.encode() in b"".join(
            archive.results().values()
        )


async def test_the_better_one_stays(archive: Archive) -> None:
    """Where the new one is surer of itself it stays, elsewhere the older one is put back."""
    await archive.run()
    before = archive.results()
    for content, confidence in ((ONE, 0.999), (TWO, 0.001)):
        patch = {"confidence": confidence}
        archive.service.faults.add(
            Fault(
                on="get", action="patch", times=None, patch=patch, match=sha256(content).hexdigest()
            )
        )

    done = await redone(archive, promote="better")

    after = archive.results()
    assert (done.settled.back, done.settled.stayed) == (1, 1)
    assert json.loads(after["a.wav.json"])["confidence"] == 0.999
    assert after["b/b.wav.json"] == before["b/b.wav.json"]


async def test_what_cannot_be_appraised_is_not_the_better_one(archive: Archive) -> None:
    """A new answer that is none of the sort gives way to an older one that is."""
    await archive.run()
    before = archive.results()
    patch = {"confidence": "high"}
    archive.service.faults.add(Fault(on="get", action="patch", times=None, patch=patch))

    done = await redone(archive, promote="better")

    assert (done.settled.back, done.settled.stayed) == (2, 0)
    assert archive.results() == before


async def test_a_full_disk_under_the_page_ends_nothing(archive: Archive) -> None:
    """Where the differences cannot be written, that is told, and one of each two results stays."""
    await archive.run()
    before = archive.results()
    told: list[Event] = []
    archive.service.transcript_seconds = math.inf

    async def be_in_the_way() -> None:
        await archive.service.until(lambda: len(list(archive.service)) == 4)
        (run_id,) = (event.run_id for event in told if isinstance(event, RunStarted))
        page = archive.state / "runs" / run_id / "differences.json"
        await to_thread.run_sync(page.mkdir)
        for transcript in archive.service:
            archive.service.complete(transcript.id)

    async with create_task_group() as group:
        group.start_soon(be_in_the_way)
        done = await redone(archive, promote="never", told=told)

    assert (done.page, done.line) == (None, None)
    assert (done.settled.back, done.settled.left) == (2, 0)
    assert archive.results() == before
    assert any("differences cannot be written" in str(event) for event in told)


async def test_filters_of_a_nightly_do_not_undo_a_plan(archive: Archive) -> None:
    """What was planned and agreed to is done, however old or large the settings let it be."""
    await archive.run()
    filters = {"max_age": "1s", "min_size": "1MB"}
    made = await planned(archive, **OTHER, **filters)

    done = await redone(archive, made, **OTHER, **filters)

    assert (made.again, done.summary.written) == (2, 2)


async def test_a_night_settles_what_it_collects(archive: Archive) -> None:
    """A redo that was interrupted is collected by any run, which does as was said of it then."""
    await archive.run()
    before = archive.results()
    archive.service.transcript_seconds = 3600.0
    made = await planned(archive, promote="never", **OTHER)
    async with create_task_group() as group:
        group.start_soon(partial(redone, archive, made, promote="never", **OTHER))
        await archive.service.until(lambda: len(list(archive.service)) == 4)
        looks = archive.service.requests["list"]
        await archive.service.until(lambda: archive.service.requests["list"] > looks)
        group.cancel_scope.cancel()
    for transcript in archive.service:
        archive.service.complete(transcript.id)
    archive.service.transcript_seconds = 0.0

    night = await archive.run()

    assert (night.summary.already_written, night.summary.exit_code) == (2, ExitCode.DONE)
    assert archive.results() == before
    assert len(await archive.rows("SELECT 1 FROM versions WHERE replaced_by IS NULL")) == 2
    assert (await taken_back(archive, night.summary.run_id)).settled.back == 0


async def test_what_is_made_from_a_result_follows_it(archive: Archive) -> None:
    """Captions are those of the result that stays, also in a format that is not asked for now."""
    await archive.run(formats=["srt", "txt"])
    before = archive.results()
    text = {"text": "quite another", "words": None, "utterances": None}
    archive.service.faults.add(Fault(on="get", action="patch", times=None, patch=text))
    done = await redone(archive, formats=["srt"], **OTHER)
    changed = archive.results()

    await taken_back(archive, done.summary.run_id)

    assert changed["a.wav.srt"] != before["a.wav.srt"]
    assert archive.results() == before


async def test_redacted_audio_follows_its_result(archive: Archive) -> None:
    """What is heard beside a result is what that one was redacted to, also among the versions."""
    redacted = {"redact_pii": True, "redact_pii_audio": True}
    one, other = ({**redacted, "redact_pii_policies": [p]} for p in ("person_name", "location"))
    with sounding(archive, "by the first"):
        await archive.run(transcript=one)
    before = archive.results()

    with sounding(archive, "by the second"):
        done = await redone(archive, transcript=other, promote="never")
    compared = archive.results()
    archive.service.requests.clear()
    again = await redone(archive, transcript=other)
    promoted = archive.results()
    asked = Counter(archive.service.requests)
    await taken_back(archive, again.summary.run_id)

    assert before["a.wav.redacted.mp3"] == b"by the first"
    assert (done.settled.back, compared) == (2, before)
    assert promoted["a.wav.redacted.mp3"] == b"by the second"
    assert asked.keys().isdisjoint({"upload", "submit", "get", "export", "*"})
    assert archive.results() == before


async def test_redacted_audio_of_another_sort_does_not_stay(archive: Archive) -> None:
    """Beside a result that has none, or one of another format, no older audio is left."""
    redacted = {"redact_pii": True, "redact_pii_policies": ["person_name"]}
    with sounding(archive, "by the first"):
        await archive.run(transcript={**redacted, "redact_pii_audio": True})
    before = archive.results()

    done = await redone(archive, transcript=redacted)
    without = archive.results()
    await taken_back(archive, done.summary.run_id)

    assert [name for name in without if "redacted" in name] == []
    assert archive.results() == before


# --- taken back -----------------------------------------------------------------------------------


async def test_a_run_is_taken_back_for_nothing(archive: Archive) -> None:
    """All that it replaced is there as before; no service is asked, then or by the next run."""
    await archive.run()
    before = archive.results()
    done = await redone(archive)
    archive.service.requests.clear()

    back = await taken_back(archive, done.summary.run_id)

    assert (back.settled.back, back.others, back.exit_code) == (2, 0, ExitCode.DONE)
    assert archive.results() == before
    assert archive.service.requests == {}
    await asked_for_nothing(archive)
    await asked_for_nothing(archive, **OTHER)  # kept: other options are no consent to pay


async def test_taking_back_can_be_taken_back(archive: Archive) -> None:
    """A rollback is a run like any other: rolled back, the new results are current again."""
    await archive.run()
    before = archive.results()
    done = await redone(archive)
    after = archive.results()

    def last() -> str:
        return max((archive.state / "runs").iterdir(), key=lambda f: f.stat().st_mtime_ns).name

    runs = [done.summary.run_id]
    seen = []
    for _ in range(3):
        await taken_back(archive, runs[-1])
        runs.append(last())
        seen.append(archive.results())

    assert seen == [before, after, before]
    assert len(set(runs)) == 4
    await asked_for_nothing(archive)


async def test_what_the_run_put_aside_itself_is_not_taken_back(archive: Archive) -> None:
    """A run whose results did not stay has nothing to be rolled back."""
    await archive.run()
    before = archive.results()
    done = await redone(archive, promote="never")

    back = await taken_back(archive, done.summary.run_id)

    assert (back.settled.back, back.exit_code) == (0, ExitCode.DONE)
    assert "replaced no result" in str(back)
    assert archive.results() == before


async def test_a_newer_result_is_not_taken_back(archive: Archive) -> None:
    """What another run has replaced since stays, and is counted."""
    await archive.run()
    done = await redone(archive)
    made = await planned(archive, limit=1, force=True, **OTHER)
    await redone(archive, made, force=True, **OTHER)
    newest = archive.results()["a.wav.json"]

    back = await taken_back(archive, done.summary.run_id)

    assert (back.settled.back, back.others, back.exit_code) == (1, 1, ExitCode.PARTIAL)
    assert archive.results()["a.wav.json"] == newest


async def test_a_lost_version_is_told(archive: Archive) -> None:
    """Where the older result is not there any more, or not as it was, the newer one stays."""
    await archive.run()
    done = await redone(archive)
    after = archive.results()
    (archive.state / "versions" / sorted(archive.versions())[0]).unlink()
    (archive.state / "versions" / sorted(archive.versions())[0]).write_bytes(b"{}")
    told: list[Event] = []

    back = await taken_back(archive, done.summary.run_id, told)

    assert (back.settled.stayed, back.exit_code) == (2, ExitCode.PARTIAL)
    assert archive.results() == after
    assert len([event for event in told if isinstance(event, Warned)]) == 2


async def test_a_run_that_never_was(archive: Archive) -> None:
    """A name that is no run's is refused, with the place where the names are."""
    await archive.run()

    for name in ("20260101T000000Z-abcdef", "../runs"):
        with pytest.raises(SettingsError, match="there was no run"):
            await taken_back(archive, name)


async def test_results_of_another_service_come_back(archive: Archive, tmp_path: Path) -> None:
    """The archive can be compared with another provider's results, and is as it was afterwards."""
    await archive.run()
    before = archive.results()
    (tmp_path / "elsewhere").mkdir()
    async with opened(tmp_path / "elsewhere") as other:
        given = OTHER | {
            "provider": other.service.url,
            "api_key_file": other.settings().api_key_file,
        }
        done = await redone(archive, promote="never", **given)

        assert other.service.billable.total() == 2
    assert done.settled.back == 2
    assert archive.results() == before
    await asked_for_nothing(archive)
