"""
Which recordings of an archive are meant: in, a connection that only reads, and what is to hold of
them; out, rows, one at a time.

What the ledger of an older version did not note of a transcript is read from the saved answer, of
those recordings only that nothing else has ruled out.
"""

import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pipeline.events import printable
from pipeline.ledger.accounts import STANDING, Reader
from pipeline.ledger.books import Patience
from pipeline.ledger.promotions import MAY_COME_BACK
from pipeline.models import Root
from pipeline.names import result_name

__all__ = [
    "Selected",
    "Selection",
    "Told",
    "is_put_aside",
    "known_state",
    "roots",
    "select",
    "unknown_paths",
    "unsettled",
    "versions",
]

_PAGE = 500


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is to hold of a recording, all of it; None and nothing are for every one."""

    paths: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    """What was said, with its pattern: one of them matches its path, whole, or that with the name
    of its root before it."""
    state: str | None = None
    """As `overnight list` has it: `written kept failed skipped parked`."""
    patience: Patience | None = None
    """It was given up, by this."""
    since: float | None = None
    """Transcribed at this time or later, Unix seconds."""
    until: float | None = None
    """Transcribed before, Unix seconds."""
    model: str | None = None
    """The service's `speech_model_used`."""
    language: str | None = None
    """The service's `language_code`, or the part of it before `_` and `-`."""
    options: tuple[tuple[str, object], ...] = ()
    """What its result was made with, as `parse_assignment` gives it; None for not set."""
    confidence_below: float | None = None
    """0 to 1."""
    longer_than_s: float | None = None
    shorter_than_s: float | None = None
    reason: str | None = None
    """Is a part of why there is no result, in any case."""
    run_id: str | None = None
    """The run that wrote its result."""


class Told(msgspec.Struct, frozen=True):
    """What a saved answer says of itself."""

    model_used: str | None
    language_code: str | None
    confidence: float | None


class Selected(msgspec.Struct, frozen=True):
    """A recording, its result, and what that was made with."""

    recording_id: int
    root: str
    path: bytes
    size: int
    mtime_ns: int
    content: str | None
    state: str
    """The ledger's own: `found skipped written`."""
    standing: str
    """As `overnight list` has it."""
    reason: str | None
    """Why there is no result."""
    result: bytes
    has_result: int
    """Whether it is on disk."""
    request_key: str | None
    generation: int
    result_key: str | None
    made_with: str | None
    """Canonical JSON of the options of its result; None where there is none."""
    provider: str | None
    """The kind of provider that made it."""
    model_used: str | None
    language_code: str | None
    confidence: float | None
    duration_s: float | None


_SELECT = f"""
SELECT s.recording_id, s.root, s.path, s.size, s.mtime_ns, s.content, s.state,
  replace(s.outcome, 'already_', '') AS standing, s.why, s.result, s.result_size IS NOT NULL,
  s.request_key, s.generation, s.result_key, m.options, m.provider, a.model_used, a.language_code,
  a.confidence, coalesce(s.duration_s, a.duration_s) AS long_s, s.is_failed
FROM ({STANDING}) s
LEFT JOIN transcripts m ON m.request_key = s.result_key AND m.generation = s.result_generation
LEFT JOIN attempts a ON a.request_key = s.result_key AND a.generation = s.result_generation
  AND a.outcome = 'completed'
WHERE (s.root, s.path) > (:root, :path)
  AND (:state IS NULL OR standing = :state)
  AND (:since IS NULL OR a.finished_at >= :since)
  AND (:until IS NULL OR a.finished_at < :until)
  AND (:longer_than_s IS NULL OR long_s > :longer_than_s)
  AND (:shorter_than_s IS NULL OR long_s < :shorter_than_s)
  AND (:reason IS NULL OR instr(lower(s.why), lower(:reason)))
  AND (:run_id IS NULL OR s.written_run = :run_id)
ORDER BY s.root, s.path LIMIT {_PAGE}
"""


def select(
    db: Reader, selection: Selection, told: Callable[[Selected], Told | None]
) -> Iterator[Selected]:
    """
    The recordings of which all of a selection holds, by root and path.

    `told` gives what the saved answer of a recording says, None where it cannot be read.
    """
    wanted: dict[str, Any] = {
        name: getattr(selection, name)
        for name in ("state", "since", "until", "longer_than_s", "shorter_than_s", "reason")
    }
    wanted |= {"run": "", "run_id": selection.run_id, "root": "", "path": b""}
    # A page at a time: a run beside is not kept from tidying its log.
    while page := db.execute(_SELECT, wanted).fetchall():
        for row in page:
            *columns, _ = row
            if selection.patience is not None and not selection.patience.is_over(db, row):
                continue
            each = _holding(Selected(*columns), selection, told)
            if each is not None:
                yield each
        wanted |= {"root": page[-1]["root"], "path": page[-1]["path"]}


def _holding(
    each: Selected, selection: Selection, told: Callable[[Selected], Told | None]
) -> Selected | None:
    """The recording if the rest of the selection holds of it, the cheapest looked at first."""
    if selection.paths and not any(_names(each, selection.paths)):
        return None
    if selection.options and not _made_with(each, selection.options):
        return None
    asked = selection.model, selection.language, selection.confidence_below
    known = each.model_used, each.language_code, each.confidence
    if any(a is not None and k is None for a, k in zip(asked, known, strict=True)):
        if not each.has_result or (said := told(each)) is None:
            return None
        each = msgspec.structs.replace(
            each,
            model_used=each.model_used or said.model_used,
            language_code=each.language_code or said.language_code,
            confidence=said.confidence if each.confidence is None else each.confidence,
        )
    if selection.model not in (None, each.model_used):
        return None
    code = each.language_code or ""
    if selection.language not in (None, code, re.split("[-_]", code)[0]):
        return None
    below = selection.confidence_below
    if below is not None and (each.confidence is None or each.confidence >= below):
        return None
    return each


def _names(each: Selected, paths: Mapping[str, re.Pattern[str]]) -> Iterator[str]:
    """What was said that names this recording."""
    path = printable(each.path)
    for said, pattern in paths.items():
        if pattern.fullmatch(path) or pattern.fullmatch(f"{each.root}/{path}"):
            yield said


def unknown_paths(db: Reader, selection: Selection) -> list[str]:
    """What was said that names no recording which the ledger knows, whatever else is to hold."""
    left = dict(selection.paths)
    for each in select(db, Selection(), lambda _: None) if left else ():
        for said in [*_names(each, left)]:
            del left[said]
        if not left:
            break
    return list(left)


def _made_with(each: Selected, options: Iterable[tuple[str, object]]) -> bool:
    return each.made_with is not None and _holds(msgspec.json.decode(each.made_with), options)


def _holds(made_with: object, options: Iterable[tuple[str, object]]) -> bool:
    """Whether these options have these values, those of nested ones by themselves."""
    there = made_with if isinstance(made_with, Mapping) else {}
    return all(
        _holds(there.get(key), value.items())
        if isinstance(value, Mapping)
        else there.get(key) == value
        for key, value in options
    )


def known_state(db: Reader, key: str) -> str | None:
    """
    The state of the transcript that a recording of this request key would get, if there is one.

    `failed` and `missing` only where there is no better one.
    """
    row = db.execute(
        "SELECT state FROM transcripts WHERE request_key = ?"
        " ORDER BY state IN ('failed', 'missing'), generation DESC LIMIT 1",
        (key,),
    ).fetchone()
    return None if row is None else str(row["state"])


def is_put_aside(db: Reader, recording_id: int, key: str) -> bool:
    """Whether a run has made this for a recording, and let the older result stay."""
    row = db.execute(
        "SELECT 1 FROM versions WHERE recording_id = ? AND result_key = ? AND written_run = run_id"
        " AND replaced_by IS NOT NULL",
        (recording_id, key),
    ).fetchone()
    return row is not None


def unsettled(db: Reader) -> int:
    """How many replaced results may have to come back, as an earlier run has left it."""
    (count,) = db.execute(
        f"SELECT count(*) FROM versions v WHERE v.promote IS NOT NULL AND {MAY_COME_BACK}"
    ).fetchone()
    return int(count)


def roots(db: Reader) -> dict[str, Root]:
    """Each root by name, as it was found last."""
    rows = db.execute(
        "SELECT f.name, f.folder, r.path, r.result FROM roots f LEFT JOIN recordings r"
        " ON r.recording_id = (SELECT min(recording_id) FROM recordings WHERE root = f.name)"
    )
    return {
        name: Root(name, folder, _prefix(path, result) if path is not None else b"")
        for name, folder, path, result in rows
    }


def _prefix(path: bytes, result: bytes) -> bytes:
    """What the results of a root begin with, as far as this one of them shows it."""
    plain = result_name(path)
    return result.removesuffix(plain) if result.endswith(plain) else b""


def versions(db: Reader) -> Iterator[sqlite3.Row]:
    """Every result among the versions by root, path and time: what it was, and who put it there."""
    yield from db.execute(
        "SELECT r.root, r.path, r.result, v.result_sha256, v.replaced_at, v.run_id, v.written_run,"
        " v.duration_s, m.options, a.model_used, a.confidence, a.transcript_id"
        " FROM versions v JOIN recordings r USING (recording_id)"
        " LEFT JOIN transcripts m"
        "  ON m.request_key = v.result_key AND m.generation = v.result_generation"
        " LEFT JOIN attempts a ON a.request_key = v.result_key"
        "  AND a.generation = v.result_generation AND a.outcome = 'completed'"
        " ORDER BY r.root, r.path, v.version_id"
    )
