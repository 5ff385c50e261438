"""Cancelled at any await of any stage: streams end, the ledger is true, the next run ends well."""

import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
import stamina
from anyio import (
    BrokenResourceError,
    create_memory_object_stream,
    create_task_group,
    to_thread,
)
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from jobs.session import Session, session
from pipeline.batch import run_batch, start
from pipeline.breaker import ALIKE
from pipeline.errors import ExitCode
from pipeline.intake import Intake
from pipeline.ledger import Redo
from pipeline.models import Claim, Pending, Root, Uploaded
from pipeline.names import version
from pipeline.options import canonical
from pipeline.reconcile import Reconciler
from pipeline.stages import Context
from pipeline.stages.delete import delete, fetch_unheld
from pipeline.stages.feed import feed
from pipeline.stages.poll import poll, seek
from pipeline.stages.scan import Listing, Scan, find_roots
from pipeline.stages.submit import submit
from pipeline.stages.upload import upload
from pipeline.stages.write import render_lacking, write
from tests.support.clock import MovableLoop, advance
from tests.support.nights import sound
from tests.support.runs import Archive, files, opened
from tests.support.service import Fault
from tests.support.service_account import Transcript
from tests.support.ticks import Line, Tick, awaits, ticks

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]  # each is hundreds of runs

T = TypeVar("T")

QUICK: dict[str, Any] = {
    "poll_interval": "5ms",
    "settle": "20ms",
    "uploads": 2,
    "concurrency": 4,
    "upload_chunk": 64 << 10,
}
PASSES = 3
LONGEST_S = 30.0
BIG_BYTES = 1_500_000
SERVER_ERROR = "Server error, developers have been alerted."
REDACTED = {"redact_pii": True, "redact_pii_policies": ["person_name"], "redact_pii_audio": True}
OTHERWISE_REDACTED = REDACTED | {"redact_pii_policies": ["location"]}
SOUND = "the sound of it, redacted"
PAGE = "<html>This is not allowed here.</html>"
DELETED: dict[str, Any] = {"audio_url": "http://deleted_by_user", "text": None}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """A loop whose time can be moved: a refusal of the key is looked into after some seconds."""
    return "asyncio", {"loop_factory": MovableLoop}


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """What is tried again is tried at once."""
    with stamina.set_testing(True, attempts=12, cap=True):
        yield


# --- a run that is cut short -------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """A run over an archive, one stage of which is about to be cancelled."""

    archive: Archive
    run: Session
    roots: Sequence[Root]

    @property
    def context(self) -> Context:
        """What its stages share."""
        return self.run.context

    @property
    def intake(self) -> Intake:
        """Its gate."""
        return self.context.intake

    @property
    def scan(self) -> Scan:
        """A look at the folders."""
        output = os.fsencode(self.archive.output)
        return Scan(
            self.context.settings,
            self.roots,
            listing=Listing(output, self.run.started_at),
            leave_out=[output],
            by_age=self.context.by_age,
        )

    @property
    def reconciler(self) -> Reconciler:
        """A reconciler that has seen nothing yet."""
        context = self.context
        return Reconciler(
            *(context.ledger, context.client, self.intake, context.outages),
            *(context.emit, context.settings.settle),
        )

    async def claims(self) -> list[Claim]:
        """Everything that is found, claimed."""
        await self.scan.run(self.context.ledger, self.context.emit)
        claims = await self.context.ledger.claim(1000)
        for claim in claims:
            self.intake.claim(claim.recording_id)
        return claims

    async def uploads(self, *, together: bool = False) -> list[Uploaded]:
        """Everything that is found, uploaded; together, so that equal ones are, too."""
        claims, service = await self.claims(), self.archive.service
        if together:
            self.context.client.uplink.places.total_tokens = len(claims)
            service.faults.add(Fault(on="upload", action="hold", times=len(claims)))
        to_upload, claimed = create_memory_object_stream[Claim](len(claims))
        to_submit, uploads = create_memory_object_stream[Uploaded](len(claims))
        async with create_task_group() as group, uploads:
            start(group, len(claims), partial(upload, self.context), claimed, to_submit)
            async with to_upload:
                for claim in claims:
                    to_upload.send_nowait(claim)
            if together:
                await service.held("upload", len(claims))
                service.release()
            return sorted([each async for each in uploads], key=lambda each: each.path)

    async def pending(self) -> list[Pending]:
        """Everything that is found, accepted by the service."""
        uploads, reconciler = await self.uploads(), self.reconciler
        to_submit, uploaded = create_memory_object_stream[Uploaded](len(uploads))
        to_poll, submitted = create_memory_object_stream[int](len(uploads))
        async with to_submit, submitted:
            for each in uploads:
                to_submit.send_nowait(each)
            to_submit.close()
            self.intake.in_flight = len(uploads) + 1
            await submit(self.context, reconciler, uploaded, to_poll)
        return await self.context.ledger.pending()


@asynccontextmanager
async def begun(archive: Archive, *, ahead_s: float = 0.0, **given: Any) -> AsyncIterator[Cut]:
    """
    A run with its ledger and its service, of which no stage has started.

    By a clock that is so many seconds ahead of the true one.
    """
    settings = archive.settings(**QUICK | given)
    roots = await to_thread.run_sync(find_roots, [str(archive.recordings)])
    redo = Redo(changed=settings.redo_changed)
    async with session(
        settings,
        roots=roots,
        redo=redo,
        emit=lambda _: None,
        clock=lambda: time.time() + ahead_s,
    ) as run:
        yield Cut(archive, run, roots)


async def give(to_stage: MemoryObjectSendStream[T], items: Sequence[T]) -> None:
    """The stage before: ends with the last item, or when nobody takes them any more."""
    async with to_stage:
        with suppress(BrokenResourceError):
            for item in items:
                await to_stage.send(item)


async def take(
    from_stage: MemoryObjectReceiveStream[T], then: Callable[[T], object] = lambda _: None
) -> None:
    """The stage after: ends when the stream does."""
    async with from_stage:
        async for item in from_stage:
            then(item)


async def unknown_for_long(archive: Archive) -> Fault:
    """Let the service not know what it has completed, twice; the fault, which goes on."""
    await archive.run(**QUICK, ahead_s=-7500.0)
    for name in archive.results():
        (archive.output / name).unlink()
    unknown = archive.service.faults.add(Fault(on="get", action="unknown_id", times=None))
    for ahead_s in (-7400.0, -3799.0):  # an hour apart, and an hour ago
        await archive.run(**QUICK, ahead_s=ahead_s)
    return unknown


async def redacted(archive: Archive) -> None:
    """Two recordings alike, and an account that gives all of them the same redacted audio."""
    archive.add("a.wav", b"one")
    archive.add("sub/b.wav", b"one")
    url = f"{archive.service.url}/storage/a"
    body = json.dumps({"status": "redacted_audio_ready", "redacted_audio_url": url})
    ready = Fault(on="export", action="answer", status=200, body=body, times=None)
    sound = Fault(on="*", action="answer", status=200, body=SOUND, times=None)
    sound.match = "/storage/"
    archive.service.faults.add(ready)
    archive.service.faults.add(sound)


# --- what has to be so ---------------------------------------------------------------------------


def is_doomed(content: bytes) -> bool:
    """Whether there will never be a result of it, as the contents here say of themselves."""
    return content.startswith((b"ERROR:", b"refused", b"deleted", b"unknown", b"blocked"))


def contents(archive: Archive) -> dict[str, bytes]:
    """Every recording that is not empty."""
    return {name: content for name, content in files(archive.recordings).items() if content}


def digest(content: bytes) -> str:
    """How the service and the ledger call it."""
    return sha256(content).hexdigest()


def whole(archive: Archive) -> None:
    """Everything under a final name is whole and its own, nothing temporary is left."""
    recorded, service = contents(archive), archive.service
    for name, body in archive.results().items():
        assert not name.endswith("~overnight")
        if name.endswith(".redacted.mp3"):
            assert body.decode() == SOUND
        elif name.endswith(".txt"):
            assert body.endswith(b"\n")
        elif body != b"of somebody else":
            transcript = service.transcripts[json.loads(body)["id"]]
            assert transcript.content == digest(recorded[name.removesuffix(".json")])
    assert not [name for name in files(archive.state) if name.endswith("~overnight")]


def is_ours(transcript: Transcript) -> bool:
    """Whether it is of something that was uploaded here."""
    return transcript.content != transcript.audio_url


async def in_order(archive: Archive) -> None:
    """What a cancelled stage leaves: the ledger knows all that was accepted, and no more."""
    accepted = {each.audio_url: each.id for each in archive.service if is_ours(each)}
    attempts = await archive.rows("SELECT upload_url, state, transcript_id FROM attempts")
    known = {url: (state, id_) for url, state, id_ in attempts if url in accepted}
    assert known.keys() == accepted.keys()
    for url, (state, transcript_id) in known.items():
        assert state in ("accepted", "submitting", "ambiguous")
        assert transcript_id in (None, accepted[url])
    assert all(id_ in accepted.values() for _, _, id_ in attempts if id_)
    failed = await archive.rows("SELECT content FROM transcripts WHERE state = 'failed'")
    doomed = {digest(each) for each in contents(archive).values() if is_doomed(each)}
    assert {content for (content,) in failed} <= doomed
    alive = await archive.rows(
        "SELECT count(*) FROM attempts WHERE state IN ('submitting', 'ambiguous') "
        "OR (state = 'accepted' AND outcome IS NOT 'error') GROUP BY request_key, generation"
    )
    assert all(count == (1,) for count in alive)
    deleted = await archive.rows("SELECT transcript_id FROM attempts WHERE deletion = 'done'")
    assert all(archive.service.transcripts[id_].is_deleted for (id_,) in deleted)
    results = {os.fsencode(name): digest(body) for name, body in archive.results().items()}
    written = "SELECT result, result_sha256 FROM recordings WHERE state = 'written'"
    assert set(await archive.rows(written)) <= results.items()
    whole(archive)


async def ends_well(archive: Archive, **given: Any) -> None:
    """The next run, which is not cut short, has one result of each recording, paid once."""
    outcome = await archive.run(**QUICK | given)

    recorded, results = contents(archive), archive.results()
    wanted = {name for name, content in recorded.items() if not is_doomed(content)}
    doomed = outcome.summary.failed + outcome.summary.parked
    code = ExitCode.PARTIAL if doomed else ExitCode.DONE
    refused = sum(content.startswith(b"refused ") for content in recorded.values())
    if refused - outcome.summary.failed >= ALIKE:
        code = ExitCode.USAGE  # all that no earlier run has failed, alike
    assert outcome.summary.exit_code == code
    assert doomed == len(recorded) - len(wanted)
    assert {name.removesuffix(".json") for name in results if name.endswith(".json")} == wanted
    for name in wanted:
        paid = [each.id for each in archive.service.accepted(recorded[name]) if each.is_billed]
        assert [json.loads(results[f"{name}.json"])["id"]] == paid
    assert set(archive.service.billable.values()) <= {1}
    assert not await archive.rows("SELECT 1 FROM attempts WHERE state = 'submitting'")
    whole(archive)


@contextmanager
def passing(archive: Archive, *faults: Fault) -> Iterator[None]:
    """Faults that are over when the block is."""
    for fault in faults:
        archive.service.faults.add(fault)
    yield
    for fault in faults:
        fault.times = fault.met


@dataclass(frozen=True)
class Scene:
    """Recordings, and the stage that is cancelled over them."""

    fill: Callable[[Archive], Awaitable[None]]
    stage: Callable[[Cut, Tick], Awaitable[None]]
    settings: dict[str, Any] = field(default_factory=dict)
    deep: bool = False
    """Whether it is cancelled where the libraries wait, too."""

    async def play(self, folder: Path, tick: Tick) -> None:
        """Cancel it once, and see what is left."""
        async with opened(folder, transcript_seconds=0.0) as archive:
            await self.fill(archive)
            with anyio.fail_after(LONGEST_S):
                async with begun(archive, **self.settings) as cut:
                    await self.stage(cut, tick)
            await in_order(archive)
            without = dict.fromkeys(("limit", "max_hours"))
            await ends_well(archive, **self.settings | without)


Everywhere = Callable[..., Awaitable[set[str]]]


@pytest.fixture
def everywhere(tmp_path: Path, pytestconfig: pytest.Config) -> Everywhere:
    """Cancels a stage wherever it waits, over all scenes; the awaits at which it never was."""
    folders = (tmp_path / str(number) for number in itertools.count())
    every = pytestconfig.getoption("--long")

    async def cancelled(module: str, *scenes: Scene, never: Collection[str] = ()) -> set[str]:
        reached: set[Line] = set()
        missed = set[str]()
        for _ in range(PASSES):  # no two are quite alike: who waits for whom is up to the machine
            for scene in scenes:
                for tick in ticks(every=every, deep=scene.deep):
                    await scene.play(next(folders), tick)
                    if tick.is_cancelled:
                        reached.update(list(tick.places)[-1])
            missed = {text for line, text in awaits(module).items() if line not in reached}
            if missed <= set(never):
                break
        return missed

    return cancelled


# --- stages --------------------------------------------------------------------------------------


async def test_scan(everywhere: Everywhere) -> None:
    """A scan that is cancelled leaves what it had seen; the next one sees the rest."""

    async def fill(archive: Archive) -> None:
        for number in range(3):
            archive.add(f"{number}/a.wav", b"%d" % number)
        archive.add("empty.wav", b"")

    async def known(archive: Archive) -> None:
        archive.add("a.wav", b"one")
        await archive.run(**QUICK)
        archive.add("of a kind that it did not take.qta", b"two")

    async def stage(cut: Cut, tick: Tick) -> None:
        await tick.run(cut.scan.run(cut.context.ledger, cut.context.emit))

    never = {"await ledger.record_ended(ended)"}  # amid a scan from 5,000 on

    missed = await everywhere(
        "pipeline/stages/scan.py", Scene(fill, stage), Scene(known, stage), never=never
    )

    assert missed == never


async def test_feed(everywhere: Everywhere) -> None:
    """A feed that is cancelled ends its stream, and what it had claimed is due again."""

    async def fill(archive: Archive) -> None:
        for number in range(5):
            archive.add(f"{number}.wav", b"%d" % number)

    async def stage(cut: Cut, tick: Tick) -> None:
        ledger, scanned = cut.context.ledger, anyio.Event()
        await cut.scan.run(ledger, cut.context.emit)
        to_upload, claims = create_memory_object_stream[Claim](0)

        async def give_back() -> None:
            async with claims:
                async for claim in claims:
                    await ledger.skip(claim, "not today")
                    cut.intake.release(claim.recording_id)
                    if claim.path == b"2.wav":
                        scanned.set()
                        cut.intake.changed()

        async with create_task_group() as neighbours:
            neighbours.start_soon(give_back)
            await tick.run(feed(cut.context, scanned, to_upload))

    missed = await everywhere(
        "pipeline/stages/feed.py",
        Scene(fill, stage),
        Scene(fill, stage, {"limit": 3}),
    )

    assert missed == set()


async def test_upload(everywhere: Everywhere) -> None:
    """An upload that is cancelled is made anew, and nothing of it is submitted by itself."""

    async def fill(archive: Archive) -> None:
        archive.add("left.wav", b"left by an earlier run")
        async with begun(archive) as cut:
            await cut.uploads()
        archive.add("1.wav", bytes(100_000))
        archive.add("2.wav", bytes(100_000))
        archive.add("changed.wav", b"changed")
        archive.add("gone.wav", b"gone")
        archive.add("lost.wav", b"lost")
        archive.add("refused.wav", b"refused" * 10_000)
        refused = Fault(on="upload", action="answer", status=400, match="refused", times=None)
        archive.service.faults.add(refused)
        archive.add("0 key.wav", b"key")
        archive.add("occupied.wav", b"occupied" * 20_000)

    async def several(archive: Archive) -> None:
        for number in range(4):
            archive.add(f"{number}.wav", b"%d" % number)

    async def few(archive: Archive) -> None:
        archive.add("1.wav", b"first")
        archive.add("2.wav", b"second")

    async def long(archive: Archive) -> None:
        archive.add("left.wav", b"left by an earlier run")
        archive.add("left, and long.wav", sound(3 * 3600, "left, and more than the cap"))
        async with begun(archive) as cut:
            await cut.uploads()
        archive.add("1 fits.wav", sound(3600, "fits"))
        archive.add("2 more than the cap.wav", sound(3 * 3600, "more than the cap"))
        archive.add("3 more than is left.wav", sound(3600, "more than is left"))

    async def two_for_one_place(archive: Archive) -> None:
        for name in ("1.wav", "2.wav"):
            archive.add(name, sound(1200, name))

    async def stage(cut: Cut, tick: Tick, *faults: Fault, comes_to: float = 0.0) -> None:
        claims = await cut.claims()
        with suppress(FileNotFoundError):
            (cut.archive.recordings / "gone.wav").unlink()
            cut.archive.add("changed.wav", b"")
        to_upload, claimed = create_memory_object_stream[Claim](0)
        to_submit, uploads = create_memory_object_stream[Uploaded](0)

        async def transcribe() -> None:
            async with uploads:
                async for each in uploads:
                    if cut.context.settings.max_hours is not None:
                        await anyio.sleep(0.05)  # for the next one to be looked at, and to wait
                    cut.intake.allowance.settle(each.attempt_id, comes_to, None)

        with passing(cut.archive, *faults):
            async with create_task_group() as neighbours:
                neighbours.start_soon(give, to_upload, claims)
                neighbours.start_soon(transcribe)
                await tick.run(upload(cut.context, claimed, to_submit))

    async def in_trouble(cut: Cut, tick: Tick) -> None:
        place = cut.archive.output / "occupied.wav.json"
        place.write_text('{"id": "nobody-knows", "status": "completed", "text": ""}')
        lost = Fault(on="upload", action="drop_after", match="lost")
        key = Fault(on="upload", action="answer", status=403, match="key")
        await stage(cut, tick, lost, key)
        place.unlink()

    async def behind_a_filter(cut: Cut, tick: Tick) -> None:
        await stage(cut, tick, Fault(on="upload", action="answer", status=407, times=None))

    async def without_money(cut: Cut, tick: Tick) -> None:
        await stage(cut, tick, Fault(on="upload", action="negative_balance"))

    async def without_service(cut: Cut, tick: Tick) -> None:
        await stage(cut, tick, Fault(on="upload", action="answer", times=None))

    async def with_bad_options(cut: Cut, tick: Tick) -> None:
        cut.intake.refused_options[canonical({})] = "the service refuses these options"
        await stage(cut, tick)

    async def of_an_hour(cut: Cut, tick: Tick) -> None:
        await stage(cut, tick, comes_to=3600.0)

    async def on_a_ration(cut: Cut, tick: Tick) -> None:
        run = replace(cut.run, context=replace(cut.context, by_age=True))
        await stage(replace(cut, run=run), tick)

    missed = await everywhere(
        "pipeline/stages/upload.py",
        Scene(fill, in_trouble),
        Scene(long, of_an_hour, {"max_hours": 1.5}),
        Scene(two_for_one_place, stage, {"max_hours": 0.5}),
        Scene(few, on_a_ration, {"backlog": {"hours_per_night": 1e-9, "older_than": "1s"}}),
        Scene(several, behind_a_filter),
        Scene(few, without_money),
        Scene(few, without_service),
        Scene(few, with_bad_options),
    )

    assert missed == set()


async def test_submit(everywhere: Everywhere) -> None:
    """A submit that is cancelled is one that never left, or one that the ledger looks for."""

    async def fill(archive: Archive) -> None:
        archive.add("earlier.wav", b"earlier")
        await archive.run(**QUICK)
        for name in ("accepted", "another's id", "busy", "lost after", "lost before", "refused"):
            archive.add(f"{name}.wav", name.encode())
        archive.add("twin.wav", b"accepted")
        refused = Fault(on="submit", action="answer", status=400, match=digest(b"refused"))
        refused.times = None
        archive.service.faults.add(refused)

    async def alike(archive: Archive) -> None:
        archive.add("earlier.wav", b"earlier")
        await archive.run(**QUICK)
        for number in range(4):
            archive.add(f"{number}.wav", b"refused %d" % number)
        archive.service.faults.add(Fault(on="submit", action="answer", status=400, times=None))

    async def several(archive: Archive) -> None:
        for number in range(4):
            archive.add(f"{number}.wav", b"%d" % number)

    async def unlucky(archive: Archive) -> None:
        for name in ("filtered", "filtered again", "key", "lost upload", "options", "options 2"):
            archive.add(f"{name}.wav", name.encode())

    async def few(archive: Archive) -> None:
        archive.add("1.wav", b"first")
        archive.add("2.wav", b"second")

    async def stage(
        cut: Cut, tick: Tick, *faults: Fault, meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        uploads = await cut.uploads(together=True)
        for each in uploads:
            if each.path == b"filtered again.wav":
                cut.intake.is_first("filter", each.recording_id)  # as it was a while ago
        others = range(-cut.intake.in_flight, 0)
        for other in others:
            cut.intake.entered(other)

        async def make_room() -> None:
            await anyio.wait_all_tasks_blocked()
            meanwhile()
            for other in others:
                cut.intake.left(other)

        to_submit, uploaded = create_memory_object_stream[Uploaded](0)
        to_poll, submitted = create_memory_object_stream[int](0)
        with passing(cut.archive, *faults):
            async with create_task_group() as neighbours:
                neighbours.start_soon(give, to_submit, uploads)
                neighbours.start_soon(take, submitted)
                neighbours.start_soon(make_room)
                await tick.run(submit(cut.context, cut.reconciler, uploaded, to_poll))

    def busy(seconds: int) -> Fault:
        return Fault(
            on="submit", action="answer", status=429, headers={"Retry-After": str(seconds)}
        )

    async def in_trouble(cut: Cut, tick: Tick) -> None:
        (earlier,) = cut.archive.service
        troubles = {
            "another's id": Fault(on="submit", action="patch", patch={"id": earlier.id}),
            "busy": busy(0),
            "lost after": Fault(on="submit", action="drop_after"),
            "lost before": Fault(on="submit", action="drop_before"),
        }
        for name, fault in troubles.items():
            fault.match = digest(name.encode())
        await stage(cut, tick, *troubles.values())

    async def stopped(cut: Cut, tick: Tick) -> None:
        stop = partial(cut.intake.stop, ExitCode.TERMINATED, "stopped")
        await stage(cut, tick, meanwhile=stop)

    async def told_to_wait(cut: Cut, tick: Tick) -> None:
        await stage(cut, tick, busy(3600))

    async def without_money(cut: Cut, tick: Tick) -> None:
        await stage(cut, tick, Fault(on="submit", action="negative_balance"))

    async def refused_in_passing(cut: Cut, tick: Tick) -> None:
        denied = '{"error": "Cannot access uploaded file"}'
        options = '{"error": "speech_model is not for this language"}'
        troubles = {
            "filtered": Fault(on="submit", action="answer", status=403, body=PAGE),
            "filtered again": Fault(on="submit", action="answer", status=403, body=PAGE),
            "key": Fault(on="submit", action="answer", status=401),
            "lost upload": Fault(on="submit", action="answer", status=403, body=denied),
        }
        for name, fault in troubles.items():
            fault.match = digest(name.encode())
        of_options = Fault(on="submit", action="answer", status=400, body=options)
        of_options.match = lambda call: "language_code" in call.sent

        async def look_into_it() -> None:
            service = cut.archive.service
            await service.until(lambda: any(call.status == 401 for call in service.log))
            while not service.requests["list"]:
                await anyio.wait_all_tasks_blocked()
                await advance(0.5)

        async with create_task_group() as clock:
            clock.start_soon(look_into_it)
            with passing(cut.archive, of_options):
                await stage(cut, tick, *troubles.values())
            clock.cancel_scope.cancel()

    async def behind_a_filter(cut: Cut, tick: Tick) -> None:
        page = Fault(on="submit", action="answer", status=403, body=PAGE, times=None)
        await stage(cut, tick, page)

    async def behind_a_proxy(cut: Cut, tick: Tick) -> None:  # it may have let them through
        await stage(cut, tick, Fault(on="submit", action="answer", status=407, times=None))

    never = {
        "await _set_aside(context, attempt_id)",  # when cancelled, in a shield
        "await context.outages.noticed('list', error, sent_at)",  # the same
    }
    rules = {"rules": [{"match": "options*", "language_code": "de"}]}
    missed = await everywhere(
        "pipeline/stages/submit.py",
        # Between the last byte of a request and the first of its answer, too.
        Scene(fill, in_trouble, deep=True),
        Scene(alike, stage, deep=True),
        Scene(few, stopped, deep=True),
        Scene(few, told_to_wait, deep=True),
        Scene(few, without_money, deep=True),
        Scene(unlucky, refused_in_passing, rules),
        Scene(several, behind_a_filter),
        Scene(several, behind_a_proxy),
        never=never,
    )

    assert missed == never


async def test_poll(everywhere: Everywhere) -> None:
    """A poll that is cancelled ends both of its streams; what is in hand is still written."""

    async def fill(archive: Archive) -> None:
        for number in range(3):
            archive.add(f"{number}.wav", b"%d" % number)
        archive.add("slow.wav", b"TAKES:0.03\n")

    async def stage(cut: Cut, tick: Tick) -> None:
        pending, looking = await cut.pending(), set[str]()
        to_poll, submitted = create_memory_object_stream[int](0)
        to_write, looks = create_memory_object_stream[Pending](2)
        to_delete, saved = create_memory_object_stream[None](1)
        with saved, passing(cut.archive, Fault(on="list", action="list_down", skip=1)):
            async with cut.context.outages.watched(), create_task_group() as neighbours:
                neighbours.start_soon(give, to_poll, [each.attempt_id for each in pending])
                neighbours.start_soon(write, cut.context, looking, looks, to_delete)
                await tick.run(poll(cut.context, cut.reconciler, looking, submitted, to_write))

    async def stopped(cut: Cut, tick: Tick) -> None:
        cut.intake.stop(ExitCode.TERMINATED, "stopped")
        to_poll, submitted = create_memory_object_stream[int](0)
        to_write, looks = create_memory_object_stream[Pending](2)
        async with create_task_group() as neighbours:
            neighbours.start_soon(give, to_poll, [1, 2])
            neighbours.start_soon(take, looks)
            await tick.run(poll(cut.context, cut.reconciler, set(), submitted, to_write))

    async def spoken_of(cut: Cut, tick: Tick) -> None:
        async def speak() -> None:
            for number in range(20):
                cut.context.notices.add(number)
                await anyio.sleep(0.005)

        async with create_task_group() as speakers:
            speakers.start_soon(speak)
            await stage(cut, tick)
            speakers.cancel_scope.cancel()

    async def without_a_list(cut: Cut, tick: Tick) -> None:
        with passing(cut.archive, Fault(on="list", action="list_down", times=2)):
            await stage(cut, tick)

    async def never_finished(cut: Cut, tick: Tick) -> None:
        patch = {"status": "processing"}
        looks = Fault(on="get", action="patch", patch=patch, times=None)
        with passing(cut.archive, looks, Fault(on="list", action="patch", patch=patch, times=None)):
            await stage(cut, tick)

    async def lost(archive: Archive) -> None:
        for number in range(2):
            archive.add(f"{number}.wav", b"unknown %d" % number, age_s=10_000.0)
        await unknown_for_long(archive)

    async def sought(cut: Cut, tick: Tick) -> None:
        to_write, looks = create_memory_object_stream[Pending](0)
        async with create_task_group() as neighbours:
            neighbours.start_soon(take, looks)
            await tick.run(seek(cut.context, set(), to_write, most=None))

    missed = await everywhere(
        "pipeline/stages/poll.py",
        Scene(fill, stage),
        Scene(lost, sought),
        Scene(fill, stopped),
        Scene(fill, spoken_of),
        Scene(fill, without_a_list),
        Scene(fill, never_finished, {"transcript_patience": "1ms"}),
    )

    assert missed == set()


async def test_write(everywhere: Everywhere) -> None:
    """A writer that is cancelled leaves results that are whole or absent, and all of them paid."""

    async def large(archive: Archive) -> None:
        archive.add("big.wav", b"big")
        archive.add("sub/twin.wav", b"big")
        archive.service.faults.add(Fault(on="get", action="big", size_bytes=BIG_BYTES, times=None))

    async def bad(archive: Archive) -> None:
        for name in ("blocked", "deleted", "garbage", "hiccup", "spelled", "unusable"):
            archive.add(f"{name}.wav", name.encode())
        archive.add("error.wav", b"ERROR:Audio duration is too short.\n")
        archive.service.fail_content(b"hiccup", SERVER_ERROR)
        otherwise = {"audio_url": lambda url: f"{url}?x=1"}
        for content, patch in ((b"deleted", DELETED), (b"spelled", otherwise)):
            fault = Fault(on="get", action="patch", patch=patch, match=digest(content), times=None)
            archive.service.faults.add(fault)

    async def few(archive: Archive) -> None:
        archive.add("a.wav", b"one")
        archive.output.mkdir()
        (archive.output / "a.wav.json").write_bytes(b"of somebody else")

    async def unknown(archive: Archive) -> None:
        for name in ("unknown", "unknown before"):
            archive.add(f"{name}.wav", name.encode())
        await archive.run(**QUICK)
        for name in ("unknown before", "unknown"):
            match = digest(name.encode())
            archive.service.faults.add(
                Fault(on="get", action="unknown_id", match=match, times=None)
            )
            (archive.output / f"{name}.wav.json").unlink()
            if name == "unknown before":
                await archive.run(**QUICK, ahead_s=-4000.0)  # for the first time

    async def lost(archive: Archive) -> None:
        archive.add("a.wav", b"one", age_s=10_000.0)
        unknown = await unknown_for_long(archive)
        unknown.times = unknown.met

    async def with_an_older_name(archive: Archive) -> None:
        await few(archive)
        await archive.run(**QUICK)
        result = archive.output / "a.wav.json"
        name = version(b"a.wav.json", json.loads(result.read_bytes())["id"])
        result.rename(archive.state / "versions" / os.fsdecode(name))  # as earlier releases did

    async def to_be_replaced(archive: Archive) -> None:
        await redacted(archive)
        await archive.run(**QUICK, transcript=REDACTED)
        for transcript in archive.service:
            transcript.is_billed = False  # on last month's bill

    async def redacted_before(archive: Archive) -> None:
        await redacted(archive)
        await archive.run(**QUICK, transcript=REDACTED)
        archive.add("twin.wav", b"one")

    async def silent_by_now(archive: Archive) -> None:
        await redacted_before(archive)
        for audio in archive.output.rglob("*.redacted.mp3"):
            audio.unlink()
        archive.service.faults.add(Fault(on="get", action="patch", patch=DELETED, times=None))

    async def stage(cut: Cut, tick: Tick, *faults: Fault) -> None:
        pending = await cut.pending() + await cut.context.ledger.lost(None)
        if (cut.archive.recordings / "blocked.wav").exists():  # paid for, and then in the way
            (cut.archive.output / "blocked.wav.json").mkdir(exist_ok=True)
        looking = {each.transcript_id for each in pending}
        to_write, looks = create_memory_object_stream[Pending](0)
        to_delete, saved = create_memory_object_stream[None](1)
        with passing(cut.archive, *faults):
            async with create_task_group() as neighbours:
                neighbours.start_soon(give, to_write, pending)
                neighbours.start_soon(take, saved)
                await tick.run(write(cut.context, looking, looks, to_delete))

        assert tick.is_cancelled or not looking

    async def in_trouble(cut: Cut, tick: Tick) -> None:
        none = Fault(on="get", action="patch", patch={"text": None}, match=digest(b"unusable"))
        await stage(cut, tick, none, Fault(on="get", action="garbage", match=digest(b"garbage")))

    async def without_money(cut: Cut, tick: Tick) -> None:
        await stage(cut, tick, Fault(on="get", action="negative_balance"))

    async def rendered(cut: Cut, tick: Tick) -> None:
        pending = await cut.pending()
        assert not pending
        await tick.run(render_lacking(cut.context))

    async def written(archive: Archive) -> None:
        await few(archive)
        await archive.run(**QUICK)

    never = {"await spool.rewind()"}  # of audio: waits only after half of a large one
    missed = await everywhere(
        "pipeline/stages/write.py",
        Scene(large, stage),
        Scene(bad, in_trouble),
        Scene(few, without_money),
        Scene(few, stage, {"formats": ["json", "txt"]}),
        Scene(written, rendered, {"formats": ["json", "txt"]}),
        Scene(unknown, stage),
        Scene(lost, stage),
        Scene(with_an_older_name, stage),
        Scene(redacted, stage, {"transcript": REDACTED}),
        Scene(redacted_before, stage, {"transcript": REDACTED}),
        Scene(silent_by_now, stage, {"transcript": REDACTED}),
        Scene(to_be_replaced, stage, {"redo_changed": True}),
        Scene(to_be_replaced, stage, {"redo_changed": True, "transcript": OTHERWISE_REDACTED}),
        never=never,
    )

    assert missed == never


async def test_delete(everywhere: Everywhere) -> None:
    """A deletion that is cancelled is made by the next run, and takes nothing from the results."""

    async def fill(archive: Archive) -> None:
        for number in range(3):
            archive.add(f"{number}.wav", b"%d" % number)
        down = Fault(on="delete", action="answer", status=400, times=1)
        with passing(archive, down):
            await archive.run(**QUICK, delete_remote=True)

    async def with_audio(archive: Archive) -> None:
        await redacted(archive)
        with passing(archive, Fault(on="delete", action="answer", status=400, times=None)):
            await archive.run(**QUICK, delete_remote=True, transcript=REDACTED)

    async def stage(cut: Cut, tick: Tick) -> None:
        to_delete, saved = create_memory_object_stream[None](0)
        async with create_task_group() as neighbours:
            neighbours.start_soon(give, to_delete, [None, None])
            await tick.run(delete(cut.context, saved))

    async def lose(archive: Archive) -> None:
        archive.add("0.wav", b"0")
        later = Fault(on="delete", action="answer", status=400, times=None)
        with passing(archive, later):
            await archive.run(**QUICK, delete_remote=True)
            archive.add("0.wav", b"other by now", age_s=1800.0)
            await archive.run(**QUICK, delete_remote=True)
        for name in archive.versions():
            (archive.state / "versions" / name).unlink()

    async def fetched(cut: Cut, tick: Tick) -> None:
        await tick.run(fetch_unheld(cut.context))

    missed = await everywhere(
        "pipeline/stages/delete.py",
        Scene(fill, stage, {"delete_remote": True}),
        Scene(with_audio, stage, {"delete_remote": True, "transcript": REDACTED}),
        Scene(lose, fetched, {"delete_remote": True}),
    )

    assert missed == set()


async def test_reconciler(everywhere: Everywhere) -> None:
    """A reconciler that is cancelled has adopted what it has, and forgotten nothing."""

    async def fill(archive: Archive) -> None:
        archive.add("1 kept.wav", b"kept")
        archive.add("2 after.wav", b"after")
        archive.add("3 before.wav", b"before")

    async def stage(
        cut: Cut,
        tick: Tick,
        *faults: Fault,
        reconciler: Reconciler | None = None,
        others: int = 3,
    ) -> None:
        after = Fault(on="submit", action="drop_after", match=digest(b"after"))
        before = Fault(on="submit", action="drop_before", match=digest(b"before"))
        with passing(cut.archive, after, before):
            (kept,) = await cut.pending()
        cut.archive.service.add_foreign(others)
        looking = reconciler or cut.reconciler

        async def until_resolved() -> None:
            while True:
                change = cut.intake.next_change
                if not await cut.context.ledger.unresolved():
                    return looking.finish()
                await change.wait()

        for fault in faults:
            fault.patch = fault.patch or {"id": kept.transcript_id}
        with passing(cut.archive, *faults):
            async with create_task_group() as neighbours:
                neighbours.start_soon(until_resolved)
                await tick.run(looking.run())
                neighbours.cancel_scope.cancel()

    async def with_half_a_list(cut: Cut, tick: Tick) -> None:
        await stage(cut, tick, Fault(on="list", action="list_down", skip=1, times=None))

    async def with_rows_of_nobody(cut: Cut, tick: Tick) -> None:
        nothing: dict[str, Any] = {"audio_url": None}
        listed = Fault(on="list", action="patch", times=None, patch=nothing)
        looked_into = Fault(on="get", action="patch", times=None, patch=nothing)
        await stage(cut, tick, listed, looked_into, others=1)

    async def without_money(cut: Cut, tick: Tick) -> None:
        await stage(cut, tick, Fault(on="list", action="negative_balance", times=None))

    async def with_one_id_for_two(cut: Cut, tick: Tick) -> None:
        await stage(cut, tick, Fault(on="list", action="patch", times=None), others=0)

    async def in_another_spelling(cut: Cut, tick: Tick) -> None:
        patch = {"audio_url": lambda url: f"{url}?x=1"}
        await stage(cut, tick, Fault(on="list", action="patch", times=None, patch=patch), others=0)

    async def never_settled(cut: Cut, tick: Tick) -> None:
        minutes, context = itertools.count(step=61.0), cut.context
        outages, emit = context.outages, context.emit
        facts = (context.ledger, context.client, cut.intake, outages, emit, None)
        await stage(cut, tick, reconciler=Reconciler(*facts, clock=partial(next, minutes)))

    missed = await everywhere(
        "pipeline/reconcile.py",
        Scene(fill, stage),
        Scene(fill, with_half_a_list),
        Scene(fill, with_rows_of_nobody),
        Scene(fill, without_money),
        Scene(fill, with_one_id_for_two),
        Scene(fill, in_another_spelling),
        Scene(fill, never_settled),
    )

    assert missed == set()


# --- all of them ---------------------------------------------------------------------------------


async def test_batch(everywhere: Everywhere) -> None:
    """A batch that is cancelled at any step of any of its tasks is ended by the next run."""

    async def fill(archive: Archive) -> None:
        archive.add("a.wav", b"one")
        archive.add("b.wav", b"one")
        archive.add("lost.wav", b"lost")

    async def done(archive: Archive) -> None:
        archive.add("a.wav", b"one")
        await archive.run(**QUICK)

    async def done_and_more(archive: Archive) -> None:
        await done(archive)
        archive.add("b.wav", b"two")

    async def with_another_key(archive: Archive) -> None:
        archive.add("a.wav", b"one")
        async with begun(archive) as cut:
            await cut.pending()
        archive.service.keys = {"second-key": "project-1"}

    async def with_a_key_of_others(archive: Archive) -> None:
        archive.add("a.wav", b"unknown to them")
        async with begun(archive, ahead_s=-7200.0) as cut:
            await cut.pending()
        archive.service.keys = {"their-key": "project-2"}

    async def alike(archive: Archive) -> None:
        for number in range(3):
            archive.add(f"{number}.wav", b"refused %d" % number)
        archive.service.faults.add(Fault(on="submit", action="answer", status=400, times=None))

    async def stage(cut: Cut, tick: Tick) -> None:
        with passing(cut.archive, Fault(on="submit", action="drop_after", match=digest(b"lost"))):
            await tick.run(run_batch(cut.context, [cut.scan], anyio.Event()))

    async def stopped(cut: Cut, tick: Tick) -> None:
        log = cut.archive.service.log

        async def stop() -> None:
            await cut.archive.service.until(lambda: sum(each.status == 400 for each in log) == 3)
            cut.intake.stop(ExitCode.TERMINATED, "stopped")

        async with create_task_group() as users:
            users.start_soon(stop)
            await stage(cut, tick)
            users.cancel_scope.cancel()

    async def without_a_list(cut: Cut, tick: Tick) -> None:
        with passing(cut.archive, Fault(on="list", action="list_down", times=None)):
            await stage(cut, tick)

    async def late(cut: Cut, tick: Tick) -> None:
        away = Fault(on="get", action="answer", times=1)
        with passing(cut.archive, Fault(on="list", action="list_down", times=None), away):
            await stage(cut, tick)

    missed = await everywhere(
        "pipeline/batch.py",
        Scene(fill, stage, {"wait_network": "10s", "min_free": 1}),
        Scene(done, stage),
        Scene(done_and_more, without_a_list),
        Scene(done_and_more, late, {"wait_network": "10s"}),
        Scene(with_another_key, stage),
        Scene(with_a_key_of_others, stage),
        Scene(alike, stage),
        Scene(alike, stopped),
    )

    assert missed == set()
