"""
Words for people: in, numbers, times and names from anywhere; out, text that is short and harmless.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any

__all__ = [
    "billed_lines",
    "clock",
    "count",
    "cut",
    "day",
    "exit_code",
    "hours",
    "short_day",
    "shown",
    "span",
    "usd",
]

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)


def cut(text: str, length: int) -> str:
    """A text of at most so many characters, which ends in `…` where there was more."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def shown(text: str) -> str:
    """
    A text on one line in which control characters can be seen.

    So an escape sequence of a terminal is text, and so is the end of a line.
    """
    return _CONTROLS.sub(_pictured, text)


def _pictured(found: re.Match[str]) -> str:
    """The picture of a control character. Source: Unicode chart U2400, Control Pictures."""
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """So many of something: `1 recording`, `1,234 recordings`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def exit_code(code: int, why: Sequence[str]) -> str:
    """An exit code with its causes: `exit code 0`, `exit code 4: key refused`."""
    return ": ".join(filter(None, (f"exit code {code}", "; ".join(why))))


def hours(number: float) -> str:
    """Hours of audio: `0 h`, `0.02 h`, `3.4 h`, `1,240 h`."""
    if number == 0:
        return "0 h"
    if number < 0.005:
        return "under 0.01 h"
    digits = 2 if number < 1 else 1 if number < 100 else 0
    return f"{number:,.{digits}f} h"


def usd(number: float | None) -> str:
    """Dollars: `$0.00`, `under $0.01`, `$12.30`; `unknown` for None."""
    if number is None:
        return "unknown"
    return "under $0.01" if 0 < number < 0.005 else f"${number:,.2f}"


def billed_lines(label: str, billed: Mapping[str, Any]) -> Iterator[str]:
    """What `pipeline.ledger.accounts.billed` gives, a line for each of its parts."""
    cost = f", about ${billed['cost_usd']:.2f}" if billed["cost_usd"] else ""
    yield f"{label:12} {billed['billed_hours']:.2f} h of audio{cost}"
    if billed["open_hours"] or billed["open_cost_usd"]:
        cost = f", about ${billed['open_cost_usd']:.2f}" if billed["open_cost_usd"] else ""
        yield (
            f"{'not settled':12} {billed['open_hours']:.2f} h of audio at the most{cost}:"
            " under way, or in doubt"
        )


def span(seconds: float) -> str:
    """A time that something took: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    for unit_s, unit, part_s, part in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= unit_s:
            large, rest = divmod(whole, unit_s)
            return f"{large:,} {unit} {rest // part_s} {part}"
    return f"{whole} s"


def day(when: date) -> str:
    """A day: `Thu 26 Nov 2026`. In English whatever the locale is."""
    return f"{_WEEKDAYS[when.weekday()]} {short_day(when)} {when.year}"


def short_day(when: date) -> str:
    """A day of the last weeks: `26 Nov`."""
    return f"{when.day} {_MONTHS[when.month - 1]}"


def clock(when: datetime) -> str:
    """A time of day, as the moment's own zone has it: `04:12`."""
    return f"{when:%H:%M}"
