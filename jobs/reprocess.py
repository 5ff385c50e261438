"""
`overnight reprocess`: what was transcribed before, once more, and which of two results stays.

    plan [-> its sample] -> batch of exactly those -> compared, page by page -> one of two stays

In: a plan that somebody agreed to. Out: new results with the older ones among the versions, or the
other way round, and a page on what differs.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from io import BufferedWriter
from pathlib import Path
from typing import Any

import msgspec
from anyio import BrokenWorkerProcess, to_process, to_thread

from jobs.planning import Plan, settings_by_root
from jobs.session import session
from jobs.transcribe import Source, transcribe
from pipeline.compare import Comparison, compare
from pipeline.errors import AnswerUnusable, ExitCode, SettingsError
from pipeline.events import Emit, Summary, Warned
from pipeline.files import regular
from pipeline.ledger import Redo
from pipeline.ledger.books import Promote
from pipeline.ledger.promotions import Replaced
from pipeline.promote import Settled, settle, settle_one
from pipeline.report.differences import Comparisons, as_html, as_json, as_line
from pipeline.report.words import count
from pipeline.settings import Settings
from pipeline.stages import Context, kept_as

__all__ = ["Reprocessed", "RolledBack", "finish", "reprocess", "roll_back"]

_PAGE = 100


@dataclass(slots=True)
class Reprocessed:
    """What it came to."""

    summary: Summary
    line: str | None
    """What differs, in a sentence; None where there was nothing to compare."""
    page: Path | None
    """Where it stands in full."""
    settled: Settled

    @property
    def exit_code(self) -> ExitCode:
        """That of the run, or that a result is left between two places, or could not come back."""
        is_all = not (self.settled.left or self.settled.foreign)
        left = ExitCode.DONE if is_all else ExitCode.PARTIAL
        return ExitCode.worst(ExitCode(self.summary.exit_code), left)

    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "type": "reprocessed",
            "exit_code": int(self.exit_code),
            "run_id": self.summary.run_id,
            "page": None if self.page is None else str(self.page),
            "back": self.settled.back,
            "stayed": self.settled.stayed,
            "left": self.settled.left,
            "foreign": self.settled.foreign,
        }

    def __str__(self) -> str:
        lines = []
        if self.line is not None:
            lines.append(f"{self.line}\n  {self.page}")
        if self.settled.back:
            older = count(self.settled.back, "older result")
            lines.append(f"{older} stayed in place; the new ones are in `versions/`")
        if self.settled.left:
            lines.append(f"{count(self.settled.left, 'result')} left to the next run: see above")
        if self.settled.foreign:
            lines.append(f"{count(self.settled.foreign, 'older result')} of other bytes: see above")
        if self.settled.stayed:
            lines.append(
                f"hint: `overnight reprocess --rollback {self.summary.run_id}` takes it back"
            )
        return "\n".join(lines)


async def reprocess(
    settings: Settings,
    made: Plan,
    *,
    promote: Promote = "always",
    emit: Emit,
    environ: Mapping[str, str] = os.environ,
) -> Reprocessed:
    """
    Do what a plan says, compare the results, and let one of each two stay.

    What has been done meanwhile, or is under way, is not paid for again.

    Raises:
        BatchError: as `transcribe` does.
    """
    own = settings_by_root(settings, [root.name for root in made.roots])
    # The plan says which: what keeps a nightly run from older or larger ones is no word on that.
    whatever = dict.fromkeys(("min_age", "max_age", "min_size", "max_size"))
    sources = [
        Source(root.name, [root], own[root.name].model_copy(update=whatever)) for root in made.roots
    ]
    seen = _Seen()
    summary = await transcribe(
        settings.model_copy(update={"limit": None}),
        sources,
        redo=Redo(force=settings.force, changed=True, adopted=True, failed=True, promote=promote),
        listed=list(made.listed),
        ended=partial(_compared, seen),
        emit=emit,
        environ=environ,
    )
    return Reprocessed(summary, seen.line, seen.page, seen.settled)


@dataclass(slots=True)
class _Seen:
    """What was seen when all was written."""

    line: str | None = None
    page: Path | None = None
    settled: Settled = field(default_factory=Settled)


async def _compared(seen: _Seen, context: Context, folder: Path) -> None:
    """Compare what this run replaced with what it put there, and settle which one stays."""
    if not await context.ledger.replaced(folder.name, 0, 1):
        return
    try:
        await _page(seen, context, folder)
    except OSError as error:
        seen.line = seen.page = None
        context.emit(Warned(message=f"the differences cannot be written: {error.strerror}"))
    await settle(context, seen.settled)  # what was not come to


async def _page(seen: _Seen, context: Context, folder: Path) -> None:
    run_id, ledger = folder.name, context.ledger
    old_runs, old, new = await ledger.made_with(run_id)
    with await to_thread.run_sync(_opened, folder / "differences.ndjson") as lines:
        comparisons = Comparisons(
            lines,
            run_id=run_id,
            old_run_ids=tuple(old_runs),
            old_options=None if old is None else msgspec.json.decode(old),
            new_options=None if new is None else msgspec.json.decode(new),
        )
        last = 0
        while page := await ledger.replaced(run_id, last, _PAGE):
            for each in page:
                await _compare(context, folder, each, comparisons, seen)
            last = page[-1].version_id
        await to_thread.run_sync(_write, folder, lines, comparisons)
    seen.line, seen.page = as_line(comparisons.differences()), folder / "differences.html"


def _opened(path: Path) -> BufferedWriter:
    return open(path, "wb", opener=regular)


async def _compare(
    context: Context, folder: Path, each: Replaced, comparisons: Comparisons, seen: _Seen
) -> None:
    """One recording: what differs, which result stays, and where both are then."""
    place = context.place(each.result)
    old, aside = (kept_as(context, place)(digest) for digest in (each.digest, each.current_digest))
    try:
        found = await to_process.run_sync(_differences, old, place)
    except (BrokenWorkerProcess, KeyboardInterrupt, MemoryError) as error:
        # The worker's end, not ours: a Ctrl-C reaches it too.
        found = f"comparing them ended with {type(error).__name__}"
    verdict = await settle_one(context, each)
    seen.settled.count(verdict)
    recording = context.label(each.root, each.path)
    new = aside if verdict == "back" else place
    await to_thread.run_sync(
        _note, comparisons, recording, found, folder, (old, new), each.price_usd
    )


def _note(
    comparisons: Comparisons,
    recording: str,
    found: Comparison | str,
    folder: Path,
    results: tuple[bytes, bytes],
    cost_usd: float | None,
) -> None:
    if isinstance(found, str):
        comparisons.refuse(recording, found)
        return
    old, new = (os.path.relpath(place, os.fsencode(folder)) for place in results)
    comparisons.add(recording, found, old_result=old, new_result=new, cost_usd=cost_usd)


def _differences(old: bytes, new: bytes) -> Comparison | str:
    """What differs between two saved answers, or why that cannot be said."""
    try:
        with open(old, "rb", opener=regular) as before, open(new, "rb", opener=regular) as after:
            return compare(before.read(), after.read())
    except AnswerUnusable as error:
        return str(error)
    except OSError as error:
        return f"one of the results cannot be read: {error.strerror}"


def _write(folder: Path, lines: BufferedWriter, comparisons: Comparisons) -> None:
    lines.flush()
    differences = comparisons.differences()
    made = {"json": as_json(differences), "html": as_html(differences).encode()}
    for suffix, body in made.items():
        with open(folder / f"differences.{suffix}", "wb", opener=regular) as file:
            file.write(body)


async def finish(settings: Settings, *, emit: Emit) -> ExitCode:
    """
    Settle what an interrupted run has left between two results. Asks no service.

    Raises:
        BatchError: as `session` does.
    """
    async with session(settings, is_offline=True, emit=emit) as run:  # does it when it begins
        is_left = run.settled.foreign or await run.context.ledger.unsettled(0, 1)
    return ExitCode.PARTIAL if is_left else ExitCode.DONE


# --- taking it back -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What it came to."""

    run_id: str
    """The run that was taken back."""
    settled: Settled
    others: int
    """Results that stay replaced: another one is on its way, or has come since."""

    @property
    def exit_code(self) -> ExitCode:
        """Whether all that the run replaced is back."""
        settled = self.settled
        is_all = not (self.others or settled.left or settled.stayed or settled.foreign)
        return ExitCode.DONE if is_all else ExitCode.PARTIAL

    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "type": "rolled_back",
            "exit_code": int(self.exit_code),
            "run_id": self.run_id,
            "back": self.settled.back,
            "lost": self.settled.stayed,
            "left": self.settled.left,
            "others": self.others,
            "foreign": self.settled.foreign,
        }

    def __str__(self) -> str:
        if self.settled == Settled() and not self.others:
            return f"the run {self.run_id} replaced no result that stayed, as the ledger has it"
        results = count(self.settled.back, "result")
        lines = [f"{results} back to what was there before the run {self.run_id}"]
        if self.others:
            lines.append(f"{count(self.others, 'recording')} have a newer result, or wait for one")
        if self.settled.foreign:
            lines.append(f"{count(self.settled.foreign, 'older result')} of other bytes: see above")
        if self.settled.stayed:
            lines.append(f"{count(self.settled.stayed, 'older result')} lost: see above")
        if self.settled.left:
            lines.append(
                f"{count(self.settled.left, 'result')} are left to the next run: see above"
            )
        return "\n".join(lines)


async def roll_back(
    settings: Settings, run_id: str, *, emit: Emit, environ: Mapping[str, str] = os.environ
) -> RolledBack:
    """
    Put back whatever a run replaced. Asks no service, and costs nothing.

    Raises:
        SettingsError: there was no such run, or nothing says where results are.
        BatchError: as `session` does.
    """
    folder = settings.state_dir / "runs" / run_id
    if os.path.basename(run_id) != run_id or not await to_thread.run_sync(folder.is_dir):
        raise SettingsError(f"there was no run `{run_id}` here; their names are in {folder.parent}")
    async with session(settings, is_offline=True, emit=emit, environ=environ) as run:
        _, others = await run.context.ledger.roll_back(run_id)
        return RolledBack(run_id, await settle(run.context), others)
