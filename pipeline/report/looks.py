"""
A look at each result of a run: in, what the ledger says was written; out, which of them are odd,
which cannot be read, and where they lie as seen from the page.

Results are read some hundreds at a time, in threads. Names are bytes: links lead to whatever the
file system calls a file.
"""

import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from pipeline.errors import AnswerUnusable
from pipeline.events import printable
from pipeline.files import regular
from pipeline.ledger.accounts import Reader
from pipeline.ledger.nights import Saved, saved
from pipeline.quality import Appraisal, appraise, language, suspicions
from pipeline.report.course import called

__all__ = ["Looks", "Result", "Unread", "look", "place_of"]

_MOST_LISTED = 200
"""Results that are listed of a kind. Ours: a longer list is not read."""
_READERS = 4
_USUAL_OF = 20
"""Detected languages from which on one of them is the usual one. Ours."""
_USUAL_PART = 0.9
"""Part of them that it has. Ours: an archive of two languages has no usual one."""


class Result(msgspec.Struct, frozen=True):
    """A result that a run wrote, and what it says of itself."""

    recording: str
    result: str
    """Its JSON file, relative to the output folder."""
    href: str
    """The same as a link from the folder of the run."""
    audio_duration: float | None
    """Seconds."""
    words: int | None
    """In the text; None in languages that write no space between words."""
    confidence: float | None
    """Mean of the words, 0..1."""
    language_code: str | None
    odd: list[str]
    """What is odd about it, a sentence each."""
    audio_href: str | None = None
    """The recording itself as a link from the folder of the run; null where no run has noted where
    it lies."""


class Unread(msgspec.Struct, frozen=True):
    """A result that could not be looked at."""

    recording: str
    result: str
    """Its JSON file, relative to the output folder."""
    reason: str


@dataclass(slots=True)
class Looks:
    """What was seen."""

    looked_at: int = 0
    """Results that were read."""
    suspicious: int = 0
    """How many of them have something odd."""
    suspects: list[Result] = field(default_factory=list)
    """The first 200 of those."""
    unreadable: int = 0
    """Results that could not be read."""
    unread: list[Unread] = field(default_factory=list)
    """The first 200 of those."""
    results: list[Result] = field(default_factory=list)
    """The first 200 that could."""
    usual_language: str | None = None
    """The language of at least nine in ten results whose language was detected."""


def look(db: Reader, run_id: str, output: Path, folder: Path) -> Looks:
    """
    What is odd about the results that a run wrote; `folder` is where links to them start.

    A result that cannot be read is named, and no reason to stop.
    """
    looks, detected = Looks(), Counter[str]()
    place = cache(partial(place_of, folder=folder))
    results = place(os.fsencode(output))
    with ThreadPoolExecutor(_READERS, "result-reader") as readers:
        for page in saved(db, run_id):
            weighed = list(readers.map(partial(_weighed, os.fsencode(output)), page))
            asked = [_asked(each.options) for each in page]
            for found, options in zip(weighed, asked, strict=True):
                if isinstance(found, Appraisal) and found.has_text and not options:
                    detected.update(filter(None, [language(found.language_code)]))
            looks.usual_language = _usual(detected)
            for each, found, options in zip(page, weighed, asked, strict=True):
                audio = None if each.folder is None else place(each.folder) + quote(each.path)
                _note(looks, each, found, options, (results + quote(each.result), audio))
    return looks


def _note(
    looks: Looks,
    each: Saved,
    found: Appraisal | str,
    asked: Mapping[str, Any],
    links: tuple[str, str | None],
) -> None:
    recording, result = called(printable(each.name)), called(printable(each.result))
    if isinstance(found, str):
        looks.unreadable += 1
        if len(looks.unread) < _MOST_LISTED:
            looks.unread.append(Unread(recording, result, found))
        return
    expected = asked.get("language_code") if asked else looks.usual_language
    odd = suspicions(found, expected if isinstance(expected, str) else None)
    odd += [said for said in (each.odd or "").split("; ") if said and said not in odd]
    looks.looked_at += 1
    looks.suspicious += bool(odd)
    listed = Result(
        recording,
        result,
        links[0],
        found.audio_duration,
        found.words,
        found.confidence,
        found.language_code and called(found.language_code),
        [called(sentence) for sentence in odd],
        links[1],
    )
    for is_of_it, those in ((True, looks.results), (bool(odd), looks.suspects)):
        if is_of_it and len(those) < _MOST_LISTED:
            those.append(listed)


def _weighed(output: bytes, each: Saved) -> Appraisal | str:
    """What a result says of itself, or why it cannot be read."""
    try:
        with open(os.path.join(output, each.result), "rb", opener=regular) as file:
            return appraise(file.read())
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    except AnswerUnusable as error:
        return called(str(error))


def _asked(options: str) -> dict[str, Any]:
    """What a request said of the language; nothing where it was to be detected."""
    found: dict[str, Any] = msgspec.json.decode(options)
    return {key: found[key] for key in ("language_code", "language_codes") if found.get(key)}


def _usual(detected: Counter[str]) -> str | None:
    for code, number in detected.most_common(1):
        total = detected.total()
        return code if total >= _USUAL_OF and number >= total * _USUAL_PART else None
    return None


def place_of(there: bytes, folder: Path) -> str:
    """
    Where links to what lies `there` begin, of a page in `folder`.

    Relative where both have a folder in common that may be moved or copied as a whole; else the
    URL of a file. Percent-encoded as bytes, so that any name works.
    """
    there, here = os.path.realpath(there), os.path.realpath(os.fsencode(folder))
    if os.path.commonpath((there, here)) == b"/":
        return f"file://{quote(there)}/"
    return quote(os.path.relpath(there, here)) + "/"
