"""
`overnight reprocess --render`: derived files of every result, made anew from the stored JSON.

    ledger -> results, a few at a time -> a process for each core -> files beside the results

In: settings and formats. Out: files, and what they came to. Offline and free: no service is asked,
no key is needed. What is large stays where it is: processes are told names, and tell counts.
"""

import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio import BrokenWorkerProcess, CapacityLimiter, to_process
from anyio.streams.memory import MemoryObjectReceiveStream

from jobs.finding import Finding, Tell
from jobs.leaving import LAST_S, SIGNALS, leave_within, signals_heeded
from jobs.session import session
from pipeline.derive import Derived, Shelf, derive_apart
from pipeline.errors import ExitCode, SettingsError
from pipeline.events import Emit, Warned, printable
from pipeline.ledger import Ledger
from pipeline.models import Stored
from pipeline.settings import FORMATS, Settings

__all__ = ["Rendered", "render_archive"]

_PAGE = 500
_MOST_RESULTS = 32
_MOST_BYTES = 4 << 20
"""Of results that a process is told of at once: some tenths of a second of work."""


@dataclass(slots=True)
class Rendered:
    """What it came to."""

    dry_run: bool
    """Whether nothing was written: what is made and replaced is what would be."""
    results: int = 0
    """Results that were looked at."""
    made: int = 0
    """Derived files that were not there."""
    replaced: int = 0
    """Derived files that were other ones, which are kept in `versions/`."""
    unchanged: int = 0
    """Derived files that were as they are to be."""
    findings: Counter[str] = field(default_factory=Counter)
    """How much went wrong, by kind."""
    exit_code: ExitCode = ExitCode.DONE

    def add(self, results: int, done: Derived, tell: Tell) -> None:
        """Count what became of so many results, and tell what went wrong."""
        self.results += results
        self.made += done.made
        self.replaced += done.replaced
        self.unchanged += done.unchanged
        for kind, result, why in done.problems:
            self.findings[kind] += 1
            self.exit_code = ExitCode.worst(self.exit_code, ExitCode.PARTIAL)
            tell(Finding(kind, printable(result), why))

    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "type": "rendered",
            "exit_code": int(self.exit_code),
            "dry_run": self.dry_run,
            "results": self.results,
            "made": self.made,
            "replaced": self.replaced,
            "unchanged": self.unchanged,
            "findings": dict(self.findings),
        }

    def __str__(self) -> str:
        found = ", ".join(f"{count} {kind}" for kind, count in self.findings.items())
        return (
            f"{self.results} results: {self.made} derived files"
            f" {'would be ' if self.dry_run else ''}made,"
            f" {self.replaced} replaced, {self.unchanged} unchanged; findings: {found or 'none'}"
        )


async def render_archive(
    settings: Settings,
    formats: Sequence[str],
    tell: Tell,
    *,
    workers: int | None = None,
    emit: Emit,
) -> Rendered:
    """
    Make derived files of all results; what goes wrong is told.

    SIGINT, SIGTERM and SIGHUP let what is in hand be finished; a second one ends that too.

    Args:
        formats: of `FORMATS`; `json`, which is what they are made from, is passed over.
        workers: processes at once; None for one a core.

    Raises:
        SettingsError: no format is named, or nothing says where results are.
        BatchError: as `session` does.
    """
    wanted = [name for name in FORMATS[1:] if name in formats]
    if not wanted:
        raise SettingsError(f"which formats? They are {', '.join(FORMATS[1:])}")
    count = workers or os.cpu_count() or 1
    limiter, rendered = CapacityLimiter(count), Rendered(settings.dry_run)
    async with session(settings, is_offline=True, emit=emit) as run:
        output, state = os.fsencode(settings.output or ""), os.fsencode(settings.state_dir)
        shelf = Shelf(output, os.path.join(state, b"versions"), dict(settings.speaker_names))

        async with _heeding_signals(rendered, run.totals) as (stopped, scope):

            async def work(batches: MemoryObjectReceiveStream[list[Stored]]) -> None:
                async with batches:
                    async for batch in batches:
                        if not stopped.is_set():
                            done = await _derive(batch, wanted, shelf, settings.dry_run, limiter)
                            rendered.add(len(batch), done, tell)

            with scope:
                async with anyio.create_task_group() as group:
                    send, receive = anyio.create_memory_object_stream[list[Stored]](0)
                    async with send:
                        with receive:
                            for _ in range(count):
                                group.start_soon(work, receive.clone())
                        async for batch in _batches(run.context.ledger):
                            if stopped.is_set():
                                break
                            await send.send(batch)
    return rendered


async def _derive(
    batch: list[Stored],
    formats: Sequence[str],
    shelf: Shelf,
    dry_run: bool,
    limiter: CapacityLimiter,
) -> Derived:
    """What became of some results; of several that a process dies of, one at a time."""
    try:
        return await to_process.run_sync(
            derive_apart, batch, formats, shelf, dry_run, cancellable=True, limiter=limiter
        )
    except (BrokenWorkerProcess, KeyboardInterrupt, MemoryError) as error:
        if len(batch) == 1:
            why = f"the process that rendered it ended ({type(error).__name__})"
            return Derived(problems=[("unrendered", batch[0].result, why)])
    done = Derived()
    for stored in batch:
        done.add(await _derive([stored], formats, shelf, dry_run, limiter))
    return done


async def _batches(ledger: Ledger) -> AsyncIterator[list[Stored]]:
    """The results, as many at a time as are soon rendered."""
    batch: list[Stored] = []
    last = held_bytes = 0
    while page := await ledger.stored_after(last, _PAGE):
        for stored in page:
            batch.append(stored)
            held_bytes += stored.size
            if len(batch) >= _MOST_RESULTS or held_bytes >= _MOST_BYTES:
                yield batch
                batch, held_bytes = [], 0
        last = page[-1].recording_id
    if batch:
        yield batch


@asynccontextmanager
async def _heeding_signals(
    rendered: Rendered, emit: Emit
) -> AsyncIterator[tuple[anyio.Event, anyio.CancelScope]]:
    """Whether a signal has come, and a scope for the work that the second one ends."""
    stopped, scope = anyio.Event(), anyio.CancelScope()
    async with anyio.create_task_group() as group:

        async def heed() -> None:
            with anyio.open_signal_receiver(*signals_heeded()) as signals:
                async for number in signals:
                    if stopped.is_set():
                        scope.cancel()
                        leave_within(LAST_S, SIGNALS[number])
                        continue
                    emit(Warned(message=f"{number.name}: finishing what is in hand"))
                    rendered.exit_code = ExitCode.worst(rendered.exit_code, SIGNALS[number])
                    stopped.set()

        group.start_soon(heed)
        yield stopped, scope
        group.cancel_scope.cancel()
