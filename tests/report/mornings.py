"""Mornings to be looked at: the facts of real runs, and facts that no run would have."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, tzinfo
from typing import Any

from anyio import to_thread

from pipeline.report.calendar import Night
from pipeline.report.course import Mention, Moment, Stage
from pipeline.report.looks import Result
from pipeline.report.morning import Cause, Morning, morning
from tests.support.runs import Archive

__all__ = ["facts_of", "made"]


async def facts_of(
    archive: Archive, run_id: str | None = None, *, zone: tzinfo | None = UTC, **settings: Any
) -> Morning:
    """The facts of a run of an archive, by default its newest."""
    given = archive.settings(**settings)
    return await to_thread.run_sync(lambda: morning(given, run_id, zone=zone))


def made(
    text: str = "plain", *, numbers: Sequence[int] = (3, 2, 1, 1, 1, 1), **more: Any
) -> Morning:
    """
    Facts in which every text is this one.

    `numbers` are written, already written, kept, failed, skipped and parked.
    """
    written, already_written, kept, failed, skipped, parked = numbers
    at = datetime(2026, 11, 25, 22, tzinfo=UTC)
    ends = {"failed": failed, "parked": parked, "skipped": skipped}
    result = Result(text, text, "../../../x.json", 61.0, 12, 0.5, text, [text], "../x.wav")
    facts: dict[str, Any] = {
        "run_id": text,
        "version": "1",
        "output": text,
        "zone": "UTC",
        "began_time": at,
        "ended_time": at.replace(hour=23),
        "elapsed_s": 3600.0,
        "finished": True,
        "scanned": True,
        "exit_code": 3,
        "verdict": text,
        "reason": text,
        "found": sum(numbers),
        "done": written + already_written + kept,
        "written": written,
        "already_written": already_written,
        "kept": kept,
        "failed": failed,
        "skipped": skipped,
        "parked": parked,
        "audio_hours": 1.5,
        "cost_usd": 0.25,
        "month": "2026-11",
        "month_audio_hours": 2.5,
        "month_cost_usd": 0.5,
        "month_unpriced": 1,
        "month_open_hours": 0.5,
        "month_open_cost_usd": 0.125,
        "outdated": text,
        "slowest": text,
        "stages": [Stage("save", "saving", 1, 1.0, 1.0)],
        "causes": [
            Cause(ended, text, number, [Mention(text, text)] * min(number, 2), max(number - 2, 0))
            for ended, number in ends.items()
            if number
        ],
        "looked_at": 1,
        "suspicious": 1,
        "suspects": [result],
        "unreadable": 0,
        "unread": [],
        "results": [result],
        "usual_language": text,
        "sources": [],
        "warnings": [text],
        "warned": 1,
        "moments": [Moment(at, 0, 0, 0, 0, 1), Moment(at.replace(hour=23), 1, 0, 0, 0, 0)],
        "nights": [Night(date(2026, 11, 24), 0, 0.0, 0.0), Night(date(2026, 11, 25), 2, 1.5, 0.25)],
    }
    return Morning(**(facts | more))
