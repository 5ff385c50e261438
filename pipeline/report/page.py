"""
The morning, told: in, its facts; out, a page of HTML, one JSON object, or one line.

All three tell the same, under the same names; the page needs no other file and no network.
"""

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import msgspec
from markupsafe import Markup

from pipeline.events import Standing, moment
from pipeline.files import made, sync, unwritable, write_all
from pipeline.names import temporary
from pipeline.report import words
from pipeline.report.calendar import Night
from pipeline.report.charts import Band, Bar, Tick, areas, bars
from pipeline.report.course import Moment
from pipeline.report.morning import Morning
from pipeline.report.templates import filled

__all__ = ["as_html", "as_json", "as_line", "save"]

_BANDS = (
    ("written", "written", "written"),
    ("failed", "failed", "failed"),
    ("saving", "saving", "saving"),
    ("at_service", "at the service", "service"),
    ("uploaded", "uploaded, not asked for yet", "uploaded"),
)
"""Field of a moment, what it is called, and its colour; from the bottom of the chart to its top."""

_COLUMNS = (
    ("Found", ("found",), ""),
    ("Done", ("written", "already_written", "kept"), ""),
    ("Failed", ("failed",), "is-bad"),
    ("Skipped", ("skipped",), ""),
    ("Left", ("parked",), "is-late"),
)
"""Head of a column, the fields of a source that it sums up, and the class of a number above 0."""

_BETWEEN_TICKS_S = (60, 300, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_MOST_TICKS = 5
_WEEK = 7


def as_html(morning: Morning) -> str:
    """The page, one file; its links to results work from the folder of the run. Blocks."""
    shown = [band for band in _BANDS if any(getattr(each, band[0]) for each in morning.moments)]
    return filled(
        "morning.html",
        morning=morning,
        headline=_headline(morning),
        why=list(_why(morning)),
        sources=_sources(morning.sources),
        columns=[head for head, _, _ in _COLUMNS],
        bands=shown,
        course=_course(morning.moments),
        nights=_nights(morning.nights),
    )


def as_json(morning: Morning) -> bytes:
    """The same as one JSON object on one line, without the newline; its `type` is `report`."""
    return msgspec.json.encode(morning)


def as_line(morning: Morning) -> str:
    """The same as one line of text, for a message or a log."""
    new = f" ({morning.written:,} new)" if morning.written != morning.done else ""
    month = f"{words.usd(morning.month_cost_usd)} this month"
    if morning.month_open_hours or morning.month_open_cost_usd:
        month += f", at the most {words.usd(morning.month_open_cost_usd)} not settled"
    given_up = f" ({morning.given_up:,} given up before)" if morning.given_up else ""
    parts = [
        f"{morning.done:,} done{new}, {morning.failed:,} failed{given_up},"
        f" {morning.skipped:,} skipped,"
        f" {morning.parked:,} parked",
        f"{words.hours(morning.audio_hours)} of audio, cost {words.usd(morning.cost_usd)}"
        f" ({month})",
    ]
    if morning.scanned is False:
        parts.append("the scan was cut short")
    if morning.suspicious:
        parts.append(f"{morning.suspicious:,} suspicious")
    if morning.unreadable:
        parts.append(f"{morning.unreadable:,} unreadable")
    if morning.slowest:
        parts.append(f"slowest: {morning.slowest}")
    code = morning.exit_code
    ended = "not finished" if code is None else words.exit_code(code, morning.why)
    return words.shown(f"{morning.run_id}: {'; '.join(parts)}; {ended}")


def save(morning: Morning, folder: Path) -> Path:
    """
    Put report.html and report.json into the folder of the run; the path of the page.

    Each is whole, or as it was before. Blocks.

    Raises:
        OutputNotWritable: they cannot be written there.
        DiskFull: there is no room for them.
    """
    page = folder / "report.html"
    try:
        _put(folder / "report.json", as_json(morning) + b"\n")
        _put(page, as_html(morning).encode())
    except OSError as error:
        raise unwritable(error, f"cannot write the report to {folder}") from error
    return page


def _put(path: Path, body: bytes) -> None:
    place = os.fsencode(path)
    fresh = temporary(place)
    with made(fresh) as file:
        write_all(file, body)
    sync(fresh)
    os.replace(fresh, place)


def _headline(morning: Morning) -> str:
    """How it went, in a few words."""
    if not morning.found:
        cut_short = "Cut short before any recording was found"
        return "No recordings found" if morning.scanned else cut_short
    if morning.scanned is False:
        least = words.count(morning.found, "recording")
        return f"{morning.done:,} of at least {least} done"
    if morning.done < morning.found:
        return f"{morning.done:,} of {words.count(morning.found, 'recording')} done"
    return "The one recording is done" if morning.found == 1 else f"All {morning.found:,} done"


def _why(morning: Morning) -> Iterator[str]:
    """The causes of its end, but for those that stand below with the recordings that they hit."""
    told = [each.reason for each in morning.causes]
    for said in dict.fromkeys((*morning.why, morning.reason)):
        if said is not None and not any(reason in said for reason in told):
            yield said


def _sources(sources: Sequence[Standing]) -> list[tuple[Standing, list[tuple[int, str]]]]:
    """Each source with its row: numbers and how they look."""
    rows = []
    for source in sources:
        sums = [sum(getattr(source, field) for field in fields) for _, fields, _ in _COLUMNS]
        tones = [tone for _, _, tone in _COLUMNS]
        row = [(number, tone if number else "") for number, tone in zip(sums, tones, strict=True)]
        rows.append((source, row))
    return rows


def _course(moments: Sequence[Moment]) -> Markup | None:
    """The chart of how far recordings were; None where there is nothing to be seen."""
    if len(moments) < 2:
        return None
    first, last = moments[0].time, moments[-1].time
    lasted_s = (last - first).total_seconds()
    if lasted_s <= 0:
        return None
    title = (
        f"Recordings by state from {words.clock(first)} to {words.clock(last)}:"
        f" {words.count(moments[-1].written, 'result')} written in the end"
    )
    return areas(
        title,
        [(moment.time - first).total_seconds() / lasted_s for moment in moments],
        [
            Band(name, colour, [getattr(moment, field) for moment in moments])
            for field, name, colour in _BANDS
        ],
        list(_clock_ticks(first, last)),
    )


def _clock_ticks(first: datetime, last: datetime) -> Iterator[Tick]:
    """Round times of day; of a run that is too short for them, its beginning and end."""
    begins, ends = first.timestamp(), last.timestamp()
    ahead = first.utcoffset()
    offset_s = 0.0 if ahead is None else ahead.total_seconds()
    step = next(
        (step for step in _BETWEEN_TICKS_S if (ends - begins) / step <= _MOST_TICKS),
        max(_BETWEEN_TICKS_S[-1], (ends - begins) / _MOST_TICKS),
    )
    at = ((begins + offset_s) // step + 1) * step - offset_s
    if at + step > ends:
        yield Tick(0.0, f"{first:%H:%M:%S}")
        yield Tick(1.0, f"{last:%H:%M:%S}")
    else:
        while at <= ends:
            when = moment(at, first.tzinfo)
            yield Tick((at - begins) / (ends - begins), words.clock(when))
            at += step


def _nights(nights: Sequence[Night]) -> Markup | None:
    """The chart of hours a night; None where there were none."""
    if not any(each.transcripts for each in nights):
        return None
    longest = max(nights, key=lambda each: each.audio_hours)
    total_hours = sum(each.audio_hours for each in nights)
    title = (
        f"Hours of audio a night over {len(nights)} nights: {words.hours(total_hours)} in all,"
        f" at the most {words.hours(longest.audio_hours)} on {words.day(longest.night)}"
    )
    given = [
        Bar(
            f"{words.day(each.night)}: {words.hours(each.audio_hours)},"
            f" {words.count(each.transcripts, 'transcript')}, {words.usd(each.cost_usd)}",
            each.audio_hours,
            "bar-now" if each is nights[-1] else "bar",
        )
        for each in nights
    ]
    ticks = [
        Tick((place + 0.5) / len(nights), words.short_day(each.night))
        for place, each in enumerate(nights)
        if (len(nights) - 1 - place) % _WEEK == 0
    ]
    return bars(title, given, ticks, " h")
