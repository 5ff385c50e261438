"""`overnight verify --rebuild`: a lost ledger comes back, and nothing is paid for again."""

import json
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path, PurePath

import anyio
import pytest

from jobs.finding import Finding
from jobs.rebuild import Claimed, Rebuilt, claim, rebuild
from pipeline.errors import ExitCode, LedgerUnusable, ServiceUnusable, SettingsError
from pipeline.events import Event, Warned
from pipeline.settings import key_fingerprint
from tests.support.runs import Archive, opened, watched
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

CONTENTS = {"a.wav": b"one", "b/b.wav": b"two", "c.wav": b"three"}


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        for name, content in CONTENTS.items():
            archive.add(name, content)
        archive.environ["OVERNIGHT_SETTLE"] = "500ms"
        yield archive


def lose(archive: Archive) -> None:
    """The ledger is gone, what SQLite keeps beside it too."""
    for path in archive.state.glob("ledger.sqlite3*"):
        path.unlink()


async def remade(
    archive: Archive, *, details: bool = False, **given: object
) -> tuple[Rebuilt, list[Finding]]:
    """What a rebuild came to."""
    told: list[Finding] = []
    settings = archive.settings(**given)
    made = await rebuild(settings, told.append, details=details, emit=lambda _: None)
    return made, told


async def say(archive: Archive, *claims: str, disclaim: str = "") -> Claimed:
    """What is left once the user has said whose transcripts are."""
    disclaims = [disclaim] if disclaim else []
    return await claim(archive.settings(), claims, disclaims, emit=lambda _: None)


def paid(archive: Archive) -> tuple[int, int]:
    """Uploads and submits that the service has seen."""
    return archive.service.requests["upload"], archive.service.requests["submit"]


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", ["nothing", "an empty file", "one without its log", "an old one"])
async def test_a_lost_ledger_is_noticed(archive: Archive, left: str) -> None:
    """A run that finds no ledger where there was one sends nothing, a dry run neither."""
    await archive.run()
    ledger = archive.state / "ledger.sqlite3"
    older = ledger.read_bytes()
    archive.add("d.wav", b"four")
    await archive.run()
    lose(archive)
    match left:
        case "an empty file":
            ledger.write_bytes(b"")
        case "one without its log":
            ledger.write_bytes(older[:4096])
        case "an old one":
            ledger.write_bytes(older)
    requests = archive.service.requests.total()

    for flags in ({}, {"dry_run": True}):
        with pytest.raises(LedgerUnusable, match="--rebuild"):
            await archive.run(**flags)

    assert archive.service.requests.total() == requests
    assert ledger.exists() == (left != "nothing")


async def test_a_first_run_that_came_to_nothing_is_no_loss(archive: Archive) -> None:
    """Where nothing was ever asked for, a ledger that is gone is one that is not needed."""
    archive.service.faults.add(Fault(on="upload", action="negative_balance", times=None))
    await archive.run()
    archive.service.faults.clear()
    lose(archive)

    outcome = await archive.run()

    assert outcome.summary.written == 3


# --- made anew -----------------------------------------------------------------------------------


async def test_everything_is_known_again(archive: Archive) -> None:
    """After a rebuild the next run finds all written, opens no recording, and sends nothing."""
    archive.add("twin.wav", CONTENTS["a.wav"])
    await archive.run(formats=["srt"])
    results, before = archive.results(), paid(archive)
    lose(archive)

    found, told = await remade(archive, formats=["srt"])
    requests = archive.service.requests.total()
    with watched(*(path for path in archive.recordings.rglob("*.wav"))) as opens:
        outcome = await archive.run(formats=["srt"])

        assert opens() == 0
    assert told == []
    assert (found.recordings, found.written, found.to_fetch, found.unclaimed) == (4, 4, 0, 0)
    assert found.aside is None
    assert found.exit_code == ExitCode.DONE
    assert outcome.summary.already_written == 4
    assert archive.service.requests.total() == requests
    assert paid(archive) == before
    assert archive.results() == results


async def test_what_is_odd_is_known_again(archive: Archive) -> None:
    """Odd results are taken as they lie, and as odd; JSON of others and odd rows are no results."""
    patch = {"audio_duration": "2", "error": [], "text": None}
    archive.service.faults.add(Fault(on="get", action="patch", times=None, patch=patch))
    await archive.run()
    archive.service.faults.clear()
    before = paid(archive)
    (archive.output / "package.json").write_text('{"id": "a-tool", "text": "x"}')
    (archive.output / "job.json").write_text('{"id": "a-job", "status": "queued"}')
    lose(archive)
    odd_rows = {"id": None, "audio_url": 5}
    archive.service.faults.add(
        Fault(on="list", action="patch", patch=odd_rows, rows=archive.service.add_foreign(1))
    )

    found, told = await remade(archive)
    archive.service.faults.clear()
    await say(archive, disclaim="all")
    archive.add("twin.wav", CONTENTS["a.wav"])
    outcome = await archive.run(delete_remote=True)

    assert (found.written, found.unclaimed) == (3, len(told))
    assert outcome.summary.already_written == 3
    assert (outcome.summary.written, outcome.summary.deleted) == (1, 0)
    assert paid(archive) == before
    noted = await archive.rows("SELECT count(*) FROM attempts WHERE odd IS NOT NULL")
    assert noted == [(3,)]


async def test_results_that_are_gone_are_fetched(archive: Archive) -> None:
    """What was accepted and does not lie on disk is fetched by its id; a torn result is, too."""
    await archive.run()
    results, before = archive.results(), paid(archive)
    lose(archive)
    (archive.output / "a.wav.json").unlink()
    torn = archive.output / "b/b.wav.json"
    torn.write_bytes(torn.read_bytes()[:20])

    found, _ = await remade(archive)
    outcome = await archive.run()

    assert (found.written, found.to_fetch) == (1, 2)
    assert (outcome.summary.written, outcome.summary.already_written) == (2, 1)
    assert archive.results() == results
    assert paid(archive) == before


async def test_all_of_a_history_is_known_again(archive: Archive) -> None:
    """Changed recordings, other options, a new generation, failures: all of it is paid already."""
    archive.add("bad.wav", b"ERROR:Audio duration is too short.\nbad")
    archive.add("again.wav", b"again")
    archive.service.fail_content(b"again", "Server error, developers have been alerted.")
    await archive.run()
    archive.add("a.wav", b"another")
    await archive.run()
    await archive.run(force=True, transcript={"punctuate": False})
    results, before = archive.results(), archive.service.billable.total()
    lose(archive)

    found, told = await remade(archive)
    outcome = await archive.run(transcript={"punctuate": False})

    assert told == []
    assert (found.recordings, found.written) == (5, 4)
    assert outcome.summary.already_written == 4
    assert archive.service.billable.total() == before
    assert archive.results() == results


async def test_what_was_replaced_is_a_copy_again(archive: Archive) -> None:
    """A result among the versions is taken from there, though the service has deleted it."""
    await archive.run(delete_remote=True)
    before = archive.results()
    other = {"transcript": {"punctuate": False}}
    await archive.run(redo_changed=True, delete_remote=True, **other)
    lose(archive)
    await remade(archive, **other)
    requests = archive.service.requests.total()

    outcome = await archive.run(redo_changed=True)

    assert outcome.summary.written == 3
    assert archive.results() == before
    assert set(archive.service.billable.values()) == {2}
    sent = Counter(call.kind for call in archive.service.log[requests:])
    assert sent.keys().isdisjoint({"upload", "submit", "get"})


async def test_a_recording_that_changed_meanwhile_is_transcribed(archive: Archive) -> None:
    """What was changed after the ledger was lost is new; the result of the former bytes is kept."""
    await archive.run()
    (first,) = [body for name, body in archive.results().items() if name == "a.wav.json"]
    lose(archive)
    archive.add("a.wav", b"another")

    await remade(archive)
    outcome = await archive.run()

    assert (outcome.summary.written, outcome.summary.already_written) == (1, 2)
    assert archive.service.billable.total() == 4
    assert list(archive.versions().values()) == [first]


async def test_a_copy_whose_recording_changed_meanwhile_is_not_believed(archive: Archive) -> None:
    """A result beside other bytes than it is of is kept, and those bytes are transcribed."""
    archive.add("twin.wav", CONTENTS["a.wav"])
    await archive.run()
    copy = archive.results()["twin.wav.json"]
    lose(archive)
    archive.add("twin.wav", b"another")

    await remade(archive)
    outcome = await archive.run()

    assert (outcome.summary.written, outcome.summary.already_written) == (1, 3)
    assert archive.results()["twin.wav.json"] != copy
    assert list(archive.versions().values()) == [copy]


async def test_recordings_that_are_gone_keep_their_results(archive: Archive) -> None:
    """Where the recordings are not there any more, results are known and fetched all the same."""
    await archive.run()
    results = archive.results()
    lose(archive)
    shutil.rmtree(archive.recordings)
    archive.recordings.mkdir()
    (archive.output / "c.wav.json").unlink()

    found, _ = await remade(archive)
    outcome = await archive.run()

    assert (found.recordings, found.written) == (3, 2)
    assert outcome.summary.collected == 1
    assert archive.results() == results


async def test_several_roots_are_told_apart(archive: Archive) -> None:
    """Equal names in two folders stay two recordings, copies of one in the other are known."""
    other = archive.root / "other"
    for name, content in (("a.wav", b"else"), ("c.wav", CONTENTS["c.wav"])):
        archive.add(f"../other/{name}", content)
    await archive.run(archive.recordings, other)
    results, before = archive.results(), paid(archive)
    lose(archive)

    await remade(archive)
    outcome = await archive.run(archive.recordings, other)

    assert outcome.summary.found == 5
    assert outcome.summary.failed == outcome.summary.parked == 0
    assert archive.results() == results
    assert paid(archive)[1] == before[1]


async def test_what_is_under_way_is_collected(archive: Archive) -> None:
    """Transcripts that were not finished when the ledger was lost are fetched when they are."""
    archive.service.transcript_seconds = 3600.0
    async with archive.started(*archive.run_line("--json")) as process:
        assert process.stdout is not None
        told = b""
        while told.count(b'"type":"submitted"') < 3:
            told += await process.stdout.receive()
        process.kill()
        await process.wait()
    lose(archive)
    found, told = await remade(archive)
    for transcript in list(archive.service):
        archive.service.complete(transcript.id)

    outcome = await archive.run()

    assert (found.to_fetch, told) == (3, [])
    assert outcome.summary.written == 3
    assert paid(archive)[1] == 3


async def test_torn_lines_are_passed_over(archive: Archive) -> None:
    """Half a line at the end of a journal, and lines twice, do no harm."""
    await archive.run()
    (journal,) = archive.state.glob("runs/*/attempts.ndjson")
    text = journal.read_bytes()
    journal.write_bytes(text + text + text[:100])
    lose(archive)

    found, told = await remade(archive)
    outcome = await archive.run()

    assert told == []
    assert (found.recordings, outcome.summary.already_written) == (3, 3)


@pytest.mark.parametrize(
    ("sentence", "times"),
    [("Audio is bad.", 1), ("Server error, developers have been alerted.", 2)],
)
async def test_clocks_decide_nothing(archive: Archive, sentence: str, times: int) -> None:
    """The failed run is named as the later one: what lies whole on disk counts all the same."""
    archive.service.fail_content(CONTENTS["a.wav"], sentence, times=times)
    await archive.run()
    (first,) = (archive.state / "runs").iterdir()
    await archive.run(retry_failed=True)
    results, before = archive.results(), paid(archive)
    first.rename(first.with_name("20990101T000000Z-aaaaaa"))
    lose(archive)

    found, told = await remade(archive)
    outcome = await archive.run(retry_failed=True)

    assert told == []
    assert (found.written, found.to_fetch) == (3, 0)
    assert outcome.summary.already_written == 3
    assert archive.results() == results
    assert paid(archive) == before


async def test_journals_of_the_older_form_are_read(archive: Archive) -> None:
    """
    A journal without its first line, whose lines lack `folder_hex` and `result_hex`, tells of the
    loss, and makes the ledger anew.
    """
    await archive.run()
    results = archive.results()
    (journal,) = archive.state.glob("runs/*/attempts.ndjson")
    _, *lines = [json.loads(line) for line in journal.read_bytes().splitlines()]
    for line in lines:
        del line["folder_hex"], line["result_hex"]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    lose(archive)

    with pytest.raises(LedgerUnusable, match="--rebuild"):
        await archive.run()
    found, told = await remade(archive)
    outcome = await archive.run()

    assert told == []
    assert (found.recordings, found.written) == (3, 3)
    assert (outcome.summary.exit_code, outcome.summary.transcripts) == (ExitCode.DONE, 0)
    assert archive.results() == results
    assert archive.service.requests["submit"] == 3


# --- the old one ---------------------------------------------------------------------------------


async def test_a_damaged_ledger_is_put_aside_as_it_is(archive: Archive) -> None:
    """A damaged file is refused by a run, and then lies aside byte for byte, its log too."""
    await archive.run()
    ledger, before = archive.state / "ledger.sqlite3", paid(archive)
    damaged = b"no database" + ledger.read_bytes()[11:]
    ledger.write_bytes(damaged)
    log = archive.state / "ledger.sqlite3-wal"
    log.write_bytes(b"its log")
    with pytest.raises(LedgerUnusable, match="--rebuild"):
        await archive.run()

    found, _ = await remade(archive)
    outcome = await archive.run()

    assert found.aside is not None
    aside = archive.state / PurePath(found.aside).name
    assert aside.read_bytes() == damaged
    assert aside.with_name(aside.name + "-wal").read_bytes() == b"its log"
    assert outcome.summary.already_written == 3
    assert paid(archive) == before


async def test_a_rebuild_that_was_cut_off_is_made_again(archive: Archive) -> None:
    """With the old ledger aside, and its log not yet, no run begins and a rebuild succeeds."""
    await archive.run()
    ledger, before = archive.state / "ledger.sqlite3", paid(archive)
    ledger.rename(archive.state / "ledger.sqlite3.aside-before")
    (archive.state / "ledger.sqlite3-wal").write_bytes(b"the log of another")
    with pytest.raises(LedgerUnusable, match="--rebuild"):
        await archive.run()

    await remade(archive)
    outcome = await archive.run()

    assert outcome.summary.already_written == 3
    assert (archive.state / "ledger.sqlite3.aside-before").exists()
    assert paid(archive) == before


@pytest.mark.parametrize("skip", [0, 1])
async def test_a_list_that_cannot_be_walked_moves_nothing(archive: Archive, skip: int) -> None:
    """While the account's list cannot be read to its end, the old ledger stays where it is."""
    await archive.run()
    archive.service.add_foreign(300)
    before = (archive.state / "ledger.sqlite3").read_bytes()
    archive.service.faults.add(Fault(on="list", action="answer", status=404, skip=skip, times=None))

    with pytest.raises(ServiceUnusable) as refused:
        await remade(archive)

    assert refused.value.exit_code == ExitCode.TRY_LATER
    assert (archive.state / "ledger.sqlite3").read_bytes() == before
    assert not list(archive.state.glob("rebuild-*")) + list(archive.state.glob("*.aside-*"))


async def test_a_rebuild_that_is_killed_changes_nothing(archive: Archive) -> None:
    """Killed while it works, it leaves the old ledger; the next one removes what it left."""
    await archive.run()
    before = (archive.state / "ledger.sqlite3").read_bytes()
    archive.service.add_foreign(300)
    archive.service.faults.add(Fault(on="list", action="hold", skip=1))
    line = ["verify", "--rebuild", "-o", archive.output, "--provider", archive.service.url]
    async with archive.started(*line) as process:
        await archive.service.held("list")
        process.kill()
        await process.wait()
    left = list(archive.state.glob("rebuild-*"))
    archive.service.release()

    unharmed = (archive.state / "ledger.sqlite3").read_bytes()
    await remade(archive)

    assert len(left) == 1
    assert unharmed == before
    assert not list(archive.state.glob("rebuild-*"))


@pytest.mark.parametrize("is_readable", [True, False])
async def test_what_was_said_of_keys_is_known_again(archive: Archive, is_readable: bool) -> None:
    """
    Which older keys are of the same project is taken from the ledger that is put aside; where it
    cannot be read that is told, and the next run names the flag again.
    """
    archive.service.transcript_seconds = 3600.0
    async with anyio.create_task_group() as group:
        group.start_soon(archive.run)
        with anyio.fail_after(30):
            await archive.service.until(lambda: archive.service.requests["submit"] == 3)
            while len(await accepted(archive)) < 3:
                await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    for transcript_id in await accepted(archive):
        archive.service.complete(transcript_id)
        gone = Fault(on="get", action="unknown_id", match=transcript_id, times=None)
        archive.service.faults.add(gone)
    new, fingerprint = archive.root / "new", key_fingerprint(archive.service.key)
    new.touch(mode=0o600)
    new.write_text("second-key")
    await archive.run(api_key_file=new, ahead_s=4000, trust_key=fingerprint)
    if not is_readable:
        (archive.state / "ledger.sqlite3").write_bytes(b"no database")

    warned: list[Event] = []
    await rebuild(archive.settings(api_key_file=new), lambda _: None, emit=warned.append)
    left = (await archive.run(api_key_file=new, ahead_s=4000)).summary

    told = [each.message for each in warned if isinstance(each, Warned)]
    assert any("--trust-key" in message for message in told) is not is_readable
    assert {"--trust-key" in reason for reason in left.reasons["parked"]} == {not is_readable}


async def accepted(archive: Archive) -> list[str]:
    """The ids that the ledger knows."""
    query = "SELECT transcript_id FROM attempts WHERE state = 'accepted'"
    return [row[0] for row in await archive.rows(query)]


async def test_what_is_due_to_be_deleted_stays_so(archive: Archive) -> None:
    """A deletion that an earlier run left due is made up for, also by a ledger made anew."""
    archive.service.faults.add(Fault(on="delete", action="answer", status=403, times=None))
    await archive.run(delete_remote=True)
    archive.service.faults.clear()
    await remade(archive)

    outcome = await archive.run()

    assert outcome.summary.deleted == 3


# --- nobody's ------------------------------------------------------------------------------------


async def test_what_nobody_claims_stops_runs(archive: Archive) -> None:
    """Rows of the account that no journal knows stop every run until they are disclaimed."""
    await archive.run()
    foreign = archive.service.add_foreign(2)
    lose(archive)

    found, told = await remade(archive)
    archive.add("d.wav", b"four")
    with pytest.raises(SettingsError, match="--claim ID=PATH"):
        await archive.run()
    sent, one_left = paid(archive), await say(archive, disclaim=foreign[0])
    with pytest.raises(SettingsError, match="1 transcripts"):
        await archive.run()
    none_left = await say(archive, disclaim="all")
    outcome = await archive.run()

    assert {finding.transcript_id for finding in told} == set(foreign)
    assert (found.unclaimed, found.exit_code) == (2, ExitCode.PARTIAL)
    assert sent == (3, 3)
    assert (one_left.unclaimed, one_left.exit_code) == (1, ExitCode.PARTIAL)
    assert (none_left.unclaimed, none_left.exit_code) == (0, ExitCode.DONE)
    assert (outcome.summary.written, outcome.summary.already_written) == (1, 3)


# --- what is said of it --------------------------------------------------------------------------


async def foreign_rows(archive: Archive, count: int) -> list[str]:
    """So many transcripts of another program, over a run of ours whose ledger is lost."""
    await archive.run()
    foreign = archive.service.add_foreign(count)
    lose(archive)
    return foreign


async def test_what_is_nobodys_has_a_date(archive: Archive) -> None:
    """Each is told with when it was asked for, the newest first, and a file has all of them."""
    foreign = await foreign_rows(archive, 3)
    sent = paid(archive), archive.service.requests["get"]

    found, told = await remade(archive)

    dates = [each.created_at for each in told]
    assert sorted(each.transcript_id or "" for each in told) == sorted(foreign)
    assert all(abs(at - time.time()) < 600 for at in dates if at is not None)
    assert dates == sorted(dates, key=lambda at: at or 0.0, reverse=True)
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert all(f"asked for {today}" in each.what for each in told)
    assert (found.unclaimed, found.measured) == (3, 0)
    assert f"3 transcripts are nobody's (asked for on {today})" in str(found)
    lines = (archive.state / "unclaimed.ndjson").read_bytes().splitlines()
    assert [json.loads(line) for line in lines] == [each.facts() for each in told]
    assert (paid(archive), archive.service.requests["get"]) == sent


async def test_details_are_lengths(archive: Archive) -> None:
    """With `--details` each is asked for by its id, and nothing else is: free, and with a total."""
    foreign = await foreign_rows(archive, 3)
    sent, gets = paid(archive), archive.service.requests["get"]

    found, told = await remade(archive, details=True)

    lengths = [each.audio_duration for each in told]
    assert None not in lengths
    assert archive.service.requests["get"] - gets == len(foreign)
    assert (found.measured, found.unclaimed_hours) == (3, sum(filter(None, lengths)) / 3600)
    assert "h of audio)" in str(found)
    assert "--details" not in str(found)
    assert paid(archive) == sent


async def test_lengths_that_are_not_told_stop_nothing(archive: Archive) -> None:
    """A transcript that cannot be had, or is none, has no length; the ledger is made."""
    await foreign_rows(archive, 3)
    archive.service.faults.add(Fault(on="get", action="unknown_id"))
    archive.service.faults.add(Fault(on="get", action="garbage", times=None))

    found, told = await remade(archive, details=True)

    assert (found.unclaimed, len(told), found.measured) == (3, 3, 0)
    assert (await say(archive, disclaim="all")).unclaimed == 0


ODD_TIMES = [None, "", "yesterday", 7, {}, "9999-12-31T23:59:59.999999+00:00", "0001-01-01", "\x1b"]


@pytest.mark.parametrize("created", ODD_TIMES, ids=repr)
async def test_a_time_that_is_none(archive: Archive, created: object) -> None:
    """Whatever the list says in the place of a time, the transcript is told."""
    foreign = await foreign_rows(archive, 2)
    patch = {"created": created}
    archive.service.faults.add(Fault(on="list", action="patch", times=None, patch=patch))

    found, told = await remade(archive)

    assert {each.transcript_id for each in told} == set(foreign)
    assert "2 transcripts are nobody's" in str(found)


async def test_the_command_names_the_first(archive: Archive) -> None:
    """For people twenty are named, and the file that has all; programs get all; a total in both."""
    await foreign_rows(archive, 33)
    line = ["--output", archive.output, "--provider", archive.service.url]

    ended = await archive.command("verify", *line, "--rebuild")
    lines = ended.stdout.decode().splitlines()
    for path in archive.state.glob("ledger.sqlite3*"):
        path.unlink()
    as_json = await archive.command("verify", *line, "--rebuild", "--details", "--json")
    refused = await archive.command("verify", *line, "--details")

    assert ended.exit_code == as_json.exit_code == ExitCode.PARTIAL
    assert sum(each.startswith("unclaimed") for each in lines) == 20
    assert "33 transcripts are nobody's" in ended.stdout.decode()
    assert f"all of them stand in {archive.state / 'unclaimed.ndjson'}" in lines
    assert [each["type"] for each in as_json.lines] == ["finding"] * 33 + ["rebuilt"]
    assert as_json.summary["measured"] == 33
    assert refused.exit_code == ExitCode.USAGE


async def test_a_rebuild_without_anything_unclaimed_leaves_no_old_list(archive: Archive) -> None:
    """What an earlier rebuild could not account for is not told by a later one that can."""
    await foreign_rows(archive, 1)
    await remade(archive)
    archive.service.faults.add(
        Fault(
            on="list",
            action="answer",
            status=200,
            body='{"page_details": {}, "transcripts": []}',
            times=None,
        )
    )
    lose(archive)

    found, told = await remade(archive)

    assert (found.listing, told) == (None, [])
    assert (archive.state / "unclaimed.ndjson").read_bytes() == b""


async def test_what_is_claimed_is_fetched(archive: Archive) -> None:
    """A transcript that the user says is of a recording is that recording's, and costs nothing."""
    await archive.run()
    results, before = archive.results(), paid(archive)
    (journal,) = archive.state.glob("runs/*/attempts.ndjson")
    kept = [
        line
        for line in journal.read_bytes().splitlines(keepends=True)
        if json.loads(line).get("path") != "b/b.wav"
    ]
    journal.write_bytes(b"".join(kept))
    lose(archive)
    (archive.output / "b/b.wav.json").unlink()
    _, told = await remade(archive)
    (mine,) = archive.service.accepted(CONTENTS["b/b.wav"])

    left = await say(archive, f"{mine.id}={archive.recordings / 'b/b.wav'}")
    outcome = await archive.run()

    assert [finding.transcript_id for finding in told] == [mine.id]
    assert left.unclaimed == 0
    assert (outcome.summary.written, outcome.summary.already_written) == (1, 2)
    assert archive.results() == results
    assert paid(archive) == before


async def test_a_claim_outlives_the_next_loss(archive: Archive) -> None:
    """What was claimed stands in a journal, so that it need not be said a second time."""
    await archive.run()
    shutil.rmtree(archive.state / "runs")
    lose(archive)
    _, told = await remade(archive)
    by_place = {finding.path: finding.transcript_id for finding in told}
    for name in CONTENTS:
        await say(archive, f"{by_place[f'{name}.json']}={archive.recordings / name}")
    before = paid(archive)
    await archive.run()
    lose(archive)

    found, again = await remade(archive)
    outcome = await archive.run()

    assert again == []
    assert found.recordings == 3
    assert outcome.summary.already_written == 3
    assert paid(archive) == before


async def test_what_cannot_be_meant_is_refused(archive: Archive) -> None:
    """A claim of what is not unclaimed, of no file, or of a recording that has one, is refused."""
    await archive.run()
    (foreign,) = archive.service.add_foreign(1)
    lose(archive)
    await remade(archive)
    known = archive.recordings / "a.wav"

    for words, said in {
        f"{foreign}={known}": "can only be disclaimed",
        f"other={known}": "no transcript that waits",
        f"{foreign}={archive.recordings}": "name a recording",
        f"{foreign}={archive.root / 'none.wav'}": "cannot read",
        foreign: "is not ID=PATH",
    }.items():
        with pytest.raises(SettingsError, match=said):
            await say(archive, words)
    with pytest.raises(SettingsError, match="no transcript that waits"):
        await say(archive, disclaim="other")

    assert await archive.rows("SELECT transcript_id FROM unclaimed") == [(foreign,)]


# --- the command ---------------------------------------------------------------------------------


async def test_the_command_leads_out(archive: Archive) -> None:
    """Each message names the next command, from a lost ledger to a run that goes on."""
    where = ["-o", archive.output, "--provider", archive.service.url]
    first = await archive.command(*archive.run_line())
    archive.service.add_foreign(1)
    lose(archive)
    refused = await archive.command(*archive.run_line())
    rebuilt = await archive.command("verify", "--rebuild", *where, "--json")
    stopped = await archive.command(*archive.run_line())
    disclaimed = await archive.command("verify", "--disclaim", "all", *where)
    again = await archive.command(*archive.run_line("--json"))

    ended = (first, refused, rebuilt, stopped, disclaimed, again)
    assert [each.exit_code for each in ended] == [0, 2, 3, 2, 0, 0]
    assert "overnight verify --rebuild" in refused.stderr
    assert [line["type"] for line in rebuilt.lines] == ["finding", "rebuilt"]
    assert "--disclaim all" in stopped.stderr
    assert again.summary["already_written"] == 3
    assert paid(archive) == (3, 3)


async def test_one_thing_at_a_time(archive: Archive) -> None:
    """A look, a repair, a rebuild and a claim exclude each other."""
    ended = await archive.command("verify", "-o", archive.output, "--repair", "--rebuild")

    assert ended.exit_code == ExitCode.USAGE


async def test_what_may_not_be_listed_yet_is_waited_for(archive: Archive) -> None:
    """A transcript whose answer was lost a moment ago, and that the list shows late, is found."""
    archive.service.list_lag_s = 0.4
    archive.service.faults.add(Fault(on="submit", action="hold", times=None))
    async with archive.started(*archive.run_line("--uploads", "1")) as process:
        with anyio.fail_after(60):
            await archive.service.held("submit")
        process.kill()
        await process.wait()
    archive.service.faults.clear()
    archive.service.release()
    lose(archive)

    rebuilt, told = await remade(archive)

    assert rebuilt.unclaimed == len(told) == len(list(archive.service))
