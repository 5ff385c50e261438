"""
How values are written: durations, sizes, rates, times of a day, addresses, URLs, globs, lists of
texts, names of speakers; what name was meant; how texts are coded.

In goes text from a flag, variable or file (or a number that TOML has already read), out comes the
quantity in its unit, or a `ValueError` with words for the user. Nothing here knows of a setting.
"""

import codecs
import difflib
import json
import math
import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Self
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo

from pipeline.events import moment

__all__ = [
    "Address",
    "Rate",
    "Timetable",
    "Window",
    "address_in",
    "glob_pattern",
    "nearest",
    "parse_duration",
    "parse_names",
    "parse_size",
    "parse_texts",
    "parse_url",
    "plain_text",
]

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MOST_DIGITS = 18
_UNITS_BYTES = {
    "": 1,
    **{
        letter + ending: base**power
        for power, letter in enumerate("kmgt", start=1)
        for ending, base in (("", 1000), ("b", 1000), ("ib", 1024))
    },
    "b": 1,
}


def parse_duration(value: str | float) -> float:
    """
    Seconds, 0 or more, from `500ms`, `3s`, `5m`, `1h30m`, `2d` or a number of seconds.

    Raises:
        ValueError: it is none of these, negative, or not finite.
    """
    wrong = "not a duration; write `90s`, `1h30m` or a number of seconds"
    if isinstance(value, str):
        text = value.strip()
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
        if parts and "".join(number + unit for number, unit in parts) == text:
            seconds = math.fsum(float(number) * _UNITS_S[unit] for number, unit in parts)
        elif re.fullmatch(r"\d+(\.\d+)?", text):
            seconds = float(text)
        else:
            raise ValueError(wrong)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(wrong)
    else:
        seconds = float(value)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError("a duration is 0 s or more, and finite")
    return seconds


def parse_size(value: str | float) -> int:
    """
    Bytes, 0 or more, from `500k`, `10MB` (1000), `1GiB` (1024) or a number of bytes.

    Raises:
        ValueError: it is none of these, negative, or not finite.
    """
    wrong = "not a size; write `10MB`, `256KiB` or a number of bytes"
    if isinstance(value, str):
        found = re.fullmatch(r"(\d+)(\.\d+)?\s*([a-z]*)", value.strip().lower())
        if not found or found[3] not in _UNITS_BYTES:
            raise ValueError(wrong)
        # Whole numbers stay exact where a float would round, above 2**53.
        number = float(found[1] + found[2]) if found[2] else int(found[1])
        size = number * _UNITS_BYTES[found[3]]
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(wrong)
    else:
        size = value
    if not (math.isfinite(size) and size >= 0):
        raise ValueError("a size is 0 bytes or more, and finite")
    return int(size)


def parse_names(value: object) -> object:
    """
    Names by label from `A=Ann,B=Ben`, a list of such texts, or a table; anything else as it is.

    Labels are in upper case, as the service writes them: a variable cannot be trusted to keep it.

    Raises:
        ValueError: a part of a text has no label or no name.
    """
    if isinstance(value, Mapping):
        return {str(label).strip().upper(): name for label, name in value.items()}
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        return value
    parts = [part.partition("=") for text in texts for part in str(text).split(",")]
    if not all(label.strip() and name.strip() for label, _, name in parts):
        raise ValueError("not names of speakers; write `A=Ann,B=Ben`")
    return parse_names({label: name.strip() for label, _, name in parts})


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in any window of so many seconds."""

    count: int
    """Requests, 1 or more."""
    window_s: float
    """Seconds, more than 0."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        The rate written as `N/DURATION`, for example `20000/300s` or `20000/5m`.

        Raises:
            ValueError: it is not written so, or a part of it is 0.
        """
        count, slash, window = text.partition("/")
        if not (slash and count.strip().isdecimal()):
            raise ValueError("not a rate; write requests/duration, for example `20000/300s`")
        if len(count.strip()) > _MOST_DIGITS:
            raise ValueError("a rate of so many requests is none")
        made = cls(int(count), parse_duration(window))
        if made.count < 1 or made.window_s <= 0:
            raise ValueError("a rate is at least one request in more than 0 s")
        return made

    def __str__(self) -> str:
        return f"{self.count}/{self.window_s:.15g}s"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a program listens on this machine."""

    host: str
    """A name or an IP address, without brackets."""
    port: int
    """1 to 65535; 0 for any that is free, which no text stands for."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        The address written as `HOST:PORT`, for example `127.0.0.1:8787` or `[::1]:8787`.

        Raises:
            ValueError: it is not written so.
        """
        form = r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+)):([0-9]{1,5})"
        found = re.fullmatch(form, text.strip())
        if not found or not 1 <= int(found[3]) <= 65535:
            raise ValueError("not an address; write HOST:PORT, for example `127.0.0.1:8787`")
        return cls(found[1] or found[2], int(found[3]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Timetable:
    """Bytes per second, by the hour of the week on the clock of this place."""

    changes: tuple[tuple[int, int | None], ...]
    """Minutes since Monday began, rising, with the limit from then on; None is no limit."""

    @classmethod
    def parse(cls, value: str | float) -> Self:
        """
        The limit written as a size, `off`, or as times with the limit from each on.

        A time is `HH:MM`, every day, or `Mon-HH:MM`, once a week: `08:00,512k 19:00,10M 23:00,off`.
        Before the first one counts the last, of the day or week before.

        Raises:
            ValueError: it is none of these, or a limit is below 1000 bytes per second.

        Source: https://rclone.org/docs/#bwlimit-bandwidth-spec
        """
        if not isinstance(value, str) or "," not in value:
            return cls(((0, _limit(value)),))
        changes: dict[int, int | None] = {}
        for entry in value.split():
            found = re.fullmatch(r"(?:([a-z]+)-)?(\d\d?):(\d\d),(.+)", entry.lower())
            if not found:
                raise ValueError(f"`{entry}` is no time with a limit; {_TIMETABLE}")
            day, hour, minute = found[1], int(found[2]), int(found[3])
            if day is not None and day not in _DAYS:
                raise ValueError(f"`{day}` is no day; {_TIMETABLE}")
            if hour > 23 or minute > 59:
                raise ValueError(f"`{entry}` is no time of a day; {_TIMETABLE}")
            for weekday in range(7) if day is None else (_DAYS[day],):
                at = (weekday * 24 + hour) * 60 + minute
                if at in changes:
                    raise ValueError(f"`{entry}` is a time that was given a limit before")
                changes[at] = _limit(found[4])
        return cls(tuple(sorted(changes.items())))

    def limit_at(self, local: datetime) -> int | None:
        """Bytes per second at a moment of the local clock; None where there is no limit."""
        minute = (local.weekday() * 24 + local.hour) * 60 + local.minute
        # Before the first of the week counts the last of the week before, which is at -1.
        return self.changes[bisect_right(self.changes, minute, key=lambda each: each[0]) - 1][1]

    def __str__(self) -> str:
        if len(self.changes) == 1 and self.changes[0][0] == 0:
            return _spelled(self.changes[0][1])
        entries = [
            (tuple(_DAYS)[2 * (at // _DAY_MINUTES) + 1], divmod(at % _DAY_MINUTES, 60), limit)
            for at, limit in self.changes
        ]
        daily = dict.fromkeys(f"{h:02}:{m:02},{_spelled(limit)}" for _, (h, m), limit in entries)
        if len(entries) == 7 * len(daily):
            return " ".join(daily)
        return " ".join(f"{day}-{h:02}:{m:02},{_spelled(limit)}" for day, (h, m), limit in entries)


_TIMETABLE = "write `10M`, `off`, or `08:00,512k 19:00,off`, each time also as `Mon-08:00`"
_LEAST_BYTES_PER_S = 1000
_DAY_MINUTES = 24 * 60
_DAYS = {
    name: weekday
    for weekday, whole in enumerate(
        ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    )
    for name in (whole, whole[:3])
}


def _spelled(limit: int | None) -> str:
    return "off" if limit is None else str(limit)


def _limit(value: str | float) -> int | None:
    if value == "off":
        return None
    try:
        limit = parse_size(value)
    except ValueError:
        raise ValueError(f"`{value}` is no limit; {_TIMETABLE}") from None
    if limit < _LEAST_BYTES_PER_S:
        raise ValueError("a limit is 1k per second or more; `off` is none")
    return limit


@dataclass(frozen=True, slots=True)
class Window:
    """The part of each day in which a run may work, by a clock on the wall."""

    opens: time
    closes: time

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        The window written as `HH:MM-HH:MM`, for example `22:00-06:00`, which is over midnight.

        Raises:
            ValueError: it is not written so, or has no length.
        """
        form = r"([01]?\d|2[0-3]):([0-5]\d)-([01]?\d|2[0-3]):([0-5]\d)"
        found = re.fullmatch(form, text.replace(" ", ""))
        if not found:
            raise ValueError("not a window; write `HH:MM-HH:MM`, for example `22:00-06:00`")
        made = cls(time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4])))
        if made.opens == made.closes:
            raise ValueError("a window that closes when it opens is never open")
        return made

    def closes_at(self, now_s: float, zone: ZoneInfo | None) -> float | None:
        """
        When the window closes that is open now, Unix seconds; None when none is open.

        `zone` is where the clock hangs, None for this place. A window over a change to or from
        daylight saving is an hour shorter or longer. One that would open at a time that the clocks
        skip opens at the first moment after, and where they skip all of it, for its length.
        """
        _, closed = self.latest(now_s, zone)
        return closed if now_s < closed else None

    def latest(self, now_s: float, zone: ZoneInfo | None) -> tuple[float, float]:
        """When the window that opened last did so, and when it closes, or did: Unix seconds."""
        now = moment(now_s, zone)
        spans = (self._on(now.date() + timedelta(days), zone) for days in (-1, 0))
        return max(span for span in spans if span[0] <= now.timestamp())

    def opens_next(self, now_s: float, zone: ZoneInfo | None) -> float:
        """When the window opens that opens next, Unix seconds; `zone` as in `closes_at`."""
        today = moment(now_s, zone).date()
        opened = (self._on(today + timedelta(days), zone)[0] for days in range(3))
        return next(at_s for at_s in opened if at_s > now_s)

    def _on(self, day: date, zone: ZoneInfo | None) -> tuple[float, float]:
        """When the window of a day opens and closes."""
        last = day + timedelta(self.closes < self.opens)
        opened, closed = _moment(day, self.opens, zone), _moment(last, self.closes, zone)
        after = _after_skip(day, self.opens, zone)
        if after is None:
            return opened, closed
        if closed <= after or _after_skip(last, self.closes, zone) is not None:
            on_a_wall = datetime.combine(day, self.closes) - datetime.combine(day, self.opens)
            closed = after + (on_a_wall % timedelta(days=1)).total_seconds()
        return after, closed

    def __str__(self) -> str:
        return f"{self.opens:%H:%M}-{self.closes:%H:%M}"


def _moment(day: date, at: time, zone: ZoneInfo | None) -> float:
    """Unix seconds of a time on a wall: the first of two equal ones."""
    return datetime.combine(day, at, zone).timestamp()


def _after_skip(day: date, at: time, zone: ZoneInfo | None) -> float | None:
    """
    The first moment after the times that the clocks skip, if this is one of them, Unix seconds.

    Source: PEP 495: what is left out is read by the clock before the change, or after it with
    `fold`, and so lies behind the change, or before it.
    """
    late, early = int(_moment(day, at, zone)), int(_moment(day, at.replace(fold=1), zone))
    if early >= late:
        return None
    ahead = moment(late, zone).utcoffset()
    return early + bisect_left(
        range(early, late), True, key=lambda at_s: moment(at_s, zone).utcoffset() == ahead
    )


def parse_texts(value: object) -> object:
    """One or many: a text alone becomes a list of it, and one that is a JSON list that list."""
    if isinstance(value, str) and value.startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            return (value,)
    return (value,) if isinstance(value, str) else value


def parse_url(text: str) -> SplitResult:
    """
    The parts of a URL that begins with `http://` or `https://`, without the blanks around it.

    Raises:
        ValueError: it is none, or holds what no URL can. It is not repeated: it may hold a secret.
    """
    text = text.strip()
    try:
        url = urlsplit(text)
        is_one = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # of its port or brackets, in words that repeat them
        is_one = False
    if not is_one or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("not a URL that begins with http:// or https://")
    return url


def address_in(path: str) -> str | None:
    """The address that a path is meant as, `s3://bucket/calls`; None for one of this machine."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+:)/+(.*)", path, re.DOTALL)  # a `Path` keeps one `/`
    return None if not found or os.path.lexists(found[1]) else f"{found[1]}//{found[2]}"


def plain_text(data: bytes) -> bytes:
    """
    The bytes of a file of text without the mark that editors of other systems put before it.

    Raises:
        ValueError: it is UTF-16, which is nothing like ASCII.
    """
    line_ends = (b"\r\0\n\0", b"\0\r\0\n")  # where there is no mark
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if data.startswith(marks) or any(end in data for end in line_ends):
        raise ValueError("it is UTF-16; save it as UTF-8")
    return data.removeprefix(codecs.BOM_UTF8)


def glob_pattern(glob: str) -> re.Pattern[str]:
    """
    What matches, whole, a path relative to its root with `/` between its parts.

    `*`, `?`, `[abc]` and `[!abc]` stay within one part, `**` is any number of parts. A glob
    without `/` is for the name alone, in whatever folder it lies; one with a `/` before it begins
    at the root.

    Raises:
        ValueError: a range in brackets runs backwards.
    """
    made = ""
    parts = glob.removeprefix("/").split("/")
    *folders, name = parts if "/" in glob else ("**", glob)
    for folder in folders:
        made += "(?:[^/]+/)*" if folder == "**" else _part_pattern(folder) + "/"
    made += ".+" if name == "**" else _part_pattern(name)
    try:
        return re.compile(made, re.DOTALL)
    except re.error as error:
        raise ValueError(f"`{glob}` is no glob: {error.msg}") from None


def _part_pattern(part: str) -> str:
    made = ""
    for token in re.findall(r"\[(?:!.|[^!])[^\]]*\]|\*+|.", part, re.DOTALL):
        if token[0] == "*":
            made += "[^/]*"
        elif token == "?":
            made += "[^/]"
        elif len(token) == 1:
            made += re.escape(token)
        else:
            negated = token[1] == "!"
            members = re.sub(r"(.)(?:-(.))?", _escaped, token[1 + negated : -1], flags=re.DOTALL)
            made += f"(?!/)[{'^' if negated else ''}{members}]"
    return made


def _escaped(found: re.Match[str]) -> str:
    """A member or range of a set; both its ends, since a bare `-` or `[` there is ambiguous."""
    return "-".join(re.escape(end) for end in found.groups() if end is not None)


def nearest(name: str, known: Iterable[str]) -> str:
    """Words for the end of an error: the known name that is most like `name`, or nothing."""
    names = list(known)
    begun = [whole for whole in names if name and whole.startswith(name)]
    alike = begun or difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"; did you mean `{alike[0]}`?" if alike else ""
