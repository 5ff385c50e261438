"""
Transcripts of the account that nobody here knows: in, a ledger made anew, and what the account's
list and the results on disk say; out, what a user needs to say whose they are.

Of each its id, time and length are held in memory, some hundred bytes.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from jobs.finding import Finding
from jobs.session import Session
from pipeline.client import Client
from pipeline.errors import RecordingError, ServiceUnavailable
from pipeline.events import Warned, moment, printable
from pipeline.files import regular, unwritable
from pipeline.ledger.remains import Result
from pipeline.report.words import span
from pipeline.retry import retry
from pipeline.wire import parse_head

__all__ = ["LISTING", "all_unclaimed", "save", "sums"]

LISTING = "unclaimed.ndjson"
"""What the file is called that names all of them."""

_PAGE = 500
_MOST_LENGTHS = 1_000
"""Transcripts that are asked for how long they are. Ours: some minutes of an account's limit."""
_AT_ONCE = 8


async def all_unclaimed(
    run: Session,
    created: Mapping[str, str | None],
    results: Mapping[str, Result],
    *,
    details: bool,
) -> list[Finding]:
    """
    What nobody here knows, the newest first.

    Args:
        run: a session whose ledger knows what is unclaimed.
        created: when transcripts of the account were asked for, by their ids, as it says.
        results: those that lie on disk, by their ids.
        details: whether to ask for the lengths of the newest thousand, at no cost.
    """
    status_of, last = dict[str, str](), ""
    while page := await run.context.ledger.next_unclaimed(last, _PAGE):
        status_of.update(page)
        last = page[-1][0]
    at = {each: _at(created.get(each)) for each in status_of}
    newest_first = sorted(status_of, key=lambda each: at[each] or 0.0, reverse=True)
    lengths = {each: results[each].duration_s for each in status_of if each in results}
    if details:
        left = [
            each for each in newest_first if status_of[each] == "completed" and each not in lengths
        ]
        if len(left) > _MOST_LENGTHS:
            message = f"only the newest {_MOST_LENGTHS:,} are asked for their lengths"
            run.totals(Warned(message=message))
        lengths |= await _lengths(run.context.client, left[:_MOST_LENGTHS])
    return [
        _unclaimed(each, status_of[each], results.get(each), at[each], lengths.get(each))
        for each in newest_first
    ]


def _unclaimed(
    transcript_id: str,
    status: str,
    result: Result | None,
    created_at: float | None,
    duration_s: float | None,
) -> Finding:
    known = [
        status,
        *([] if created_at is None else [f"asked for {moment(created_at):%Y-%m-%d %H:%M} UTC"]),
        *([] if duration_s is None else [span(duration_s)]),
    ]
    what = f"{', '.join(known)}; nobody here knows transcript {transcript_id}"
    place = None if result is None or result.place is None else printable(result.place)
    return Finding("unclaimed", place, what, transcript_id, created_at, duration_s)


def _at(created: str | None) -> float | None:
    """
    A time as the service writes it, Unix seconds; None where that is no time.

    Source: AssemblyAI openapi.yml, TranscriptListItem: no zone is named, and UTC is meant.
    """
    try:
        at = datetime.fromisoformat(created or "")
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


async def _lengths(client: Client, ids: Sequence[str]) -> dict[str, float | None]:
    """How long transcripts are, by their ids; of those that say so."""
    lengths: dict[str, float | None] = {}
    left = iter(ids)

    async def ask() -> None:
        for each in left:
            with suppress(RecordingError, ServiceUnavailable):
                body = await retry(partial(client.answer, each))
                lengths[each] = parse_head(body).audio_duration

    async with anyio.create_task_group() as group:
        for _ in range(_AT_ONCE):
            group.start_soon(ask)
    return lengths


def sums(each: Sequence[Finding]) -> dict[str, Any]:
    """What all of them come to."""
    times = [one.created_at for one in each if one.created_at is not None]
    lengths = [one.audio_duration for one in each if one.audio_duration is not None]
    return {
        "since": min(times, default=None),
        "until": max(times, default=None),
        "unclaimed_hours": sum(lengths) / 3600,
        "measured": len(lengths),
    }


def save(path: Path, each: Sequence[Finding]) -> None:
    """
    A line for each of them, as `--json` has it.

    Raises:
        BatchError: there is no room, or it cannot be written.
    """
    try:
        with open(path, "wb", opener=regular) as file:
            for one in each:
                line = json.dumps(one.facts(), ensure_ascii=False)
                file.write(line.encode("utf-8", "backslashreplace") + b"\n")
    except OSError as error:
        raise unwritable(error, f"cannot write {path}") from error
