"""
`overnight verify`: is everything that was paid for on disk, as it was saved?

    ledger, output folder, recordings -> findings, one at a time -> counts

In: settings. Out: findings. To look changes nothing and holds no lock: a run may be under way. To
repair is a run of its own that finds no recording: what is missing or damaged is copied from an
equal result or fetched again by its id, and nothing can be asked for.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import file_digest
from math import inf
from typing import Any

import anyio
from anyio import to_thread

from jobs.finding import Finding, Tell
from jobs.session import Session, session
from jobs.shelf import files_below, replaced_ids, whole
from pipeline.batch import run_batch
from pipeline.errors import ExitCode, SettingsError
from pipeline.events import Emit, Warned, printable
from pipeline.ledger import evidence
from pipeline.ledger.accounts import Reader
from pipeline.ledger.evidence import Saved
from pipeline.ledger.lock import holder
from pipeline.models import TranscriptState
from pipeline.names import is_temporary
from pipeline.settings import FORMATS, Settings
from pipeline.stages.scan import Listing, Scan

__all__ = ["Verified", "repair", "verify"]

_SUFFIXES = (*FORMATS[1:], "redacted.mp3", "redacted.wav")
_NO_FAULTS = frozenset({"changed", "repaired", "stray"})


@dataclass(frozen=True, slots=True)
class _Fault(Finding):
    """A finding that may be repaired."""

    saved: Saved | None = None
    """The result that is wrong."""
    transcript: tuple[str, int] | None = None
    """The transcript that lies nowhere."""
    leftover: bytes | None = None
    """The file that is in the way."""


@dataclass(slots=True)
class Verified:
    """What it came to."""

    results: int = 0
    """Results that should be on disk."""
    unchanged: int = 0
    """Recordings that still hold what was transcribed."""
    gone: int = 0
    """Recordings that are not where they were: no fault."""
    findings: Counter[str] = field(default_factory=Counter)
    """How many of each kind."""
    exit_code: ExitCode = ExitCode.DONE

    def tell(self, finding: Finding, tell: Tell) -> None:
        """Count a finding and pass it on."""
        self.findings[finding.kind] += 1
        if finding.kind not in _NO_FAULTS:
            self.exit_code = ExitCode.worst(self.exit_code, ExitCode.PARTIAL)
        tell(finding)

    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "type": "verified",
            "exit_code": int(self.exit_code),
            "results": self.results,
            "unchanged": self.unchanged,
            "gone": self.gone,
            "findings": dict(self.findings),
        }

    def __str__(self) -> str:
        found = ", ".join(f"{count} {kind}" for kind, count in self.findings.items())
        return (
            f"{self.results} results; recordings: {self.unchanged} unchanged, {self.gone} gone;"
            f" findings: {found or 'none'}"
        )


def verify(settings: Settings, tell: Tell) -> Verified:
    """
    Look at every result; each finding goes to `tell` as it is made. Reads only, and blocks.

    Raises:
        SettingsError: nothing says where results are, or nothing was ever run there.
        LedgerUnusable: the ledger cannot be read.
    """
    _output(settings)
    verified = Verified()
    with evidence.opened(settings.state_dir) as db:
        for finding in _look(db, settings, verified):
            verified.tell(finding, tell)
    return verified


async def repair(
    settings: Settings, tell: Tell, *, emit: Emit, environ: Mapping[str, str] = os.environ
) -> Verified:
    """
    Look at every result, and set right what can be; what was repaired is told as such. The service
    is asked once more for all that it did not know any more.

    Raises:
        BatchError: as `session` does, and as `verify` does.
    """
    _output(settings)
    verified, held = Verified(), list[_Fault]()

    def look_first(started_at: float) -> None:
        with evidence.opened(settings.state_dir) as db:
            for finding in _look(db, settings, verified, started_at):
                if isinstance(finding, _Fault):
                    held.append(finding)
                else:
                    verified.tell(finding, tell)

    def look_again() -> None:
        with evidence.opened(settings.state_dir) as db:
            for finding in _outcomes(db, settings, held):
                verified.tell(finding, tell)

    async with session(settings, emit=emit, environ=environ) as run:
        await to_thread.run_sync(look_first, run.started_at, abandon_on_cancel=True)
        if held or await run.context.ledger.lost(None):
            await _set_right(run, held)
            await to_thread.run_sync(look_again, abandon_on_cancel=True)
        intake = run.context.intake
        if intake.reason is not None:
            run.totals(Warned(message=intake.reason))
        verified.exit_code = ExitCode.worst(verified.exit_code, intake.exit_code)
    return verified


async def _set_right(run: Session, findings: list[_Fault]) -> None:
    """Remove what is left over, and let the stages bring what is paid; they find no recording."""
    context = run.context
    for finding in findings:
        if finding.leftover is not None:
            with suppress(OSError):
                await anyio.Path(os.fsdecode(finding.leftover)).unlink(missing_ok=True)
    await context.ledger.fetch_again(
        [finding.saved.recording_id for finding in findings if finding.saved],
        [finding.transcript for finding in findings if finding.transcript],
    )
    listing = Listing(_output(context.settings), run.started_at)
    scan = Scan(context.settings, [], listing=listing)
    await run_batch(context, [scan], anyio.Event(), lost=None)


def _outcomes(db: Reader, settings: Settings, held: list[_Fault]) -> Iterator[Finding]:
    """What has become of each finding."""
    orphans = {row[0] for row in evidence.orphans(db, replaced_ids(settings.state_dir))}

    def is_kept(finding: Finding, key: str, generation: int) -> bool:
        is_saved = evidence.state_of(db, key, generation) == TranscriptState.WRITTEN
        return is_saved and finding.transcript_id not in orphans

    for finding in held:
        what, saved = finding.what, finding.saved
        if saved:
            what = evidence.why(db, saved.recording_id) or what
            if now := evidence.look_again(db, saved.recording_id):
                is_repaired = not _fault(_output(settings), now)
            else:  # it waits for another one: this one lies among the versions
                is_repaired = is_kept(finding, saved.key, saved.generation)
        elif finding.transcript:
            is_repaired = is_kept(finding, *finding.transcript)
        else:
            is_repaired = not os.path.lexists(finding.leftover or b"")
        yield replace(finding, kind="repaired") if is_repaired else replace(finding, what=what)


# --- what there is to see -------------------------------------------------------------------------


def _look(
    db: Reader, settings: Settings, verified: Verified, started_at: float | None = None
) -> Iterator[Finding]:
    """
    Everything that is not as it should be.

    Temporary files from before `started_at` are left over; None when a run may be making some.
    """
    is_damaged = False
    for said in evidence.damage(db):
        is_damaged = True
        what = f"{said}; `overnight verify --rebuild` makes it anew"
        yield Finding("ledger", str(settings.state_dir / "ledger.sqlite3"), what)
    if is_damaged:
        return
    output = _output(settings)
    for saved in evidence.results(db):
        verified.results += 1
        yield from _check(db, output, saved, verified)
    yield from _check_files(db, settings, started_at)
    for transcript_id, root, path, key, generation in evidence.orphans(
        db, replaced_ids(settings.state_dir)
    ):
        what = f"transcript {transcript_id} was paid for, and its result lies nowhere"
        whose = f"{root}/{printable(path)}"
        yield _Fault("orphan", whose, what, transcript_id, transcript=(key, generation))


def _check(db: Reader, output: bytes, saved: Saved, verified: Verified) -> Iterator[Finding]:
    """One result and its recording, as the ledger knows them after they were looked at."""
    known: Saved | None = saved
    while known is not None:
        fault, source = _fault(output, known), _source(known)
        if not fault and source != "changed":
            break
        saved, known = known, evidence.look_again(db, known.recording_id)
        if known == saved:
            break
    if known is None:  # a run beside has work with it by now
        return
    if fault:
        kind, what = fault
        name = printable(known.result)
        yield _Fault(kind, name, what, known.transcript_id, saved=known)
    if source == "changed":
        what = "changed since it was transcribed: the next run looks at it"
        yield Finding("changed", printable(known.source or b""), what)
    verified.unchanged += source == "unchanged"
    verified.gone += source == "gone"


def _fault(output: bytes, saved: Saved) -> tuple[str, str] | None:
    """What is wrong with a result: kind and sentence."""
    try:
        found = whole(os.path.join(output, saved.result))
    except (FileNotFoundError, NotADirectoryError):
        return "missing", "the result is not there"
    except OSError as error:
        return "damaged", f"the result cannot be read: {error.strerror}"
    if found.head is None:
        return "damaged", "the result is no whole transcript"
    if found.head.is_deleted:
        return "damaged", "it is what was left of the transcript when the service deleted it"
    if found.head.id != saved.transcript_id:
        return "damaged", f"it holds the transcript {found.head.id}, not {saved.transcript_id}"
    if found.digest != saved.digest:
        return "damaged", "the result is not what was saved"
    return None


def _source(saved: Saved) -> str:
    """Whether the recording still holds what was transcribed."""
    if saved.source is None:
        return "unknown"
    try:
        with open(os.open(saved.source, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            is_same = file_digest(file, "sha256").hexdigest() == saved.content
    except (FileNotFoundError, NotADirectoryError):
        return "gone"
    except OSError:
        return "unknown"
    return "unchanged" if is_same else "changed"


def _check_files(db: Reader, settings: Settings, started_at: float | None) -> Iterator[Finding]:
    """Files that nobody needs, and files that nobody knows."""
    output = os.path.realpath(_output(settings))  # as the folders of the roots are
    state = os.path.realpath(os.fsencode(settings.state_dir))
    versions = os.path.join(state, b"versions")
    unfinished = [os.path.join(versions, name) for name in files_below(versions) if _is_ours(name)]

    def others() -> Iterator[bytes]:
        for name in files_below(output, leave_out=state):
            if _is_ours(name):
                unfinished.append(os.path.join(output, name))
            else:
                yield name

    for name in evidence.strays(db, others(), _SUFFIXES, output):
        yield Finding("stray", printable(name), "no recording of the ledger has such a file")
    if started_at is None:
        found = holder(settings.state_dir / "lock")
        started_at = inf if found is None else found.since
    for place in unfinished:
        with suppress(FileNotFoundError):
            if os.stat(place, follow_symlinks=False).st_mtime < started_at:
                name = place.removeprefix(os.path.join(output, b""))
                what = "left unfinished by a run that was cut off"
                yield _Fault("leftover", printable(name), what, leftover=place)


def _is_ours(name: bytes) -> bool:
    return is_temporary(os.path.basename(name))


def _output(settings: Settings) -> bytes:
    if settings.output is None:
        raise SettingsError("where are the results? Name their folder with `--output`")
    return os.fsencode(settings.output)
