"""
Comparisons of old and new transcripts -> what changed over all of them, for people and programs.

    comparisons ─► Comparisons ──┬──► differences.ndjson: a line each, all edits
                                 └──► Differences ─► differences.json, differences.html, a line

However many there are, only totals and the worst of them are held in memory; a page is made of
what the JSON document says and of nothing else.
"""

import heapq
import json
import statistics
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final, Literal
from urllib.parse import quote

import msgspec
from markupsafe import Markup

from pipeline.compare import Comparison, Edit, Version
from pipeline.quality import language
from pipeline.report import charts
from pipeline.report.templates import filled
from pipeline.report.words import count, cut, hours

__all__ = [
    "Bar",
    "Comparisons",
    "Difference",
    "Differences",
    "Passage",
    "Row",
    "Uncompared",
    "as_html",
    "as_json",
    "as_line",
]

_MOST_READ: Final = 200
"""Recordings whose changed passages are shown. Ours: more than anybody reads."""
_MOST_ROWS: Final = 1_000
"""Recordings that are shown at all. Ours: a page of about a megabyte."""
_MOST_PASSAGES: Final = 10
"""Of a recording, the longest changes first."""
_PASSAGE_WORDS: Final = 60
"""From this length on a passage ends with the next words that are equal."""
_PIECE_CHARS: Final = 300

_EDGES: Final = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Scores at which a bar ends; the last bar has no end."""
_NOTABLE_CONFIDENCE: Final = 0.01
"""Ours: less is rounding."""
_NOTABLE_SPEAKERS: Final = 0.05
"""Share of a recording's words. Ours: labels waver at every turn, where nobody minds."""


class Difference(msgspec.Struct, frozen=True, kw_only=True, tag="difference"):
    """A recording whose two transcripts were compared."""

    recording: str
    """As events call it."""
    old_href: str | None
    """The old answer, relative to the folder of this file; null where it was not kept."""
    new_href: str | None
    """The same of the new one."""
    cost_usd: float | None
    """Estimated, of the new one; null where its model has no price."""
    comparison: Comparison
    """See below."""


class Uncompared(msgspec.Struct, frozen=True, kw_only=True, tag="uncompared"):
    """A recording whose two transcripts could not be compared."""

    recording: str
    """As events call it."""
    reason: str
    """One sentence."""


Piece = tuple[Literal["equal", "respelled", "delete", "insert"], str]


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """Some words that changed, with those around them."""

    start: int | None
    """ms from the start of the recording; null without times."""
    pieces: tuple[Piece, ...]
    """Pairs of a kind and a text of at most 300 characters; a substitution is two pairs."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of a recording."""

    recording: str
    """As events call it."""
    old_href: str | None
    """The old answer, relative to the folder of this file; null where it was not kept."""
    new_href: str | None
    """The same of the new one."""
    wer: float
    """Insertions, deletions and substitutions, by words of the old transcript."""
    unit: Literal["word", "character"]
    """What is counted in this recording."""
    distance: int
    """Insertions, deletions and substitutions."""
    old: Version
    """The old transcript, see below."""
    new: Version
    """The new transcript."""
    audio_duration: float | None
    """Seconds."""
    speaker_changes: int
    """Words of both that another speaker says."""
    moved_words: int
    """Words of both whose start moved by more than 0.5 s."""
    moved_ms: int
    """By how much, in the median; above 0 is later."""
    passages: tuple[Passage, ...]
    """The longest changes, in order of time; of the first 200 recordings only."""
    changed_passages: int
    """How many there are in all; `differences.ndjson` has every edit."""


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """How many recordings have a score in one range."""

    up_to: float | None
    """Its end, which is part of it; null for no end. It begins above the end of the one before."""
    recordings: int
    """How many."""


class Differences(msgspec.Struct, frozen=True, kw_only=True, tag="differences"):
    """What changed over all recordings that were transcribed again."""

    run_id: str
    """The run that made the new transcripts."""
    old_run_ids: tuple[str, ...]
    """Those that made the old ones, as far as they are known."""
    old_options: dict[str, Any] | None
    """What the old ones were asked for with; null where that differs between them."""
    new_options: dict[str, Any] | None
    """The same of the new ones."""
    old_models: dict[str, int]
    """How many of the old ones each model made; those of an unknown one are not among them."""
    new_models: dict[str, int]
    """The same of the new ones."""
    recordings: int
    """Recordings whose transcripts were compared."""
    uncompared: int
    """Those that could not be compared; no other number counts them."""
    audio_hours: float
    """Hours of audio in the recordings."""
    cost_usd: float | None
    """Estimated cost of the new ones whose model has a price; null if none has."""
    old_words: int
    """Words, or characters where a language has no spaces between words."""
    new_words: int
    """The same of the new ones."""
    insertions: int
    deletions: int
    substitutions: int
    wer: float
    """Insertions, deletions and substitutions by old words, over all recordings."""
    wer_mean: float
    """Mean of the recordings' scores, each counted alike; 0 without recordings."""
    wer_median: float
    """The score that half of the recordings do not exceed."""
    unchanged: int
    """Recordings in which no word differs."""
    old_confidence: float | None
    """Mean over recordings that have a confidence in both; null without any."""
    new_confidence: float | None
    """The same of the new ones."""
    better: int
    """Recordings whose confidence rose by 0.01 or more."""
    worse: int
    """Recordings whose confidence fell by 0.01 or more."""
    languages_changed: int
    """Recordings in another language than before, dialects aside."""
    speakers_changed: int
    """Recordings in which another speaker says more than a twentieth of the words of both."""
    moved_words: int
    """Words of both whose start moved by more than 0.5 s."""
    scores: tuple[Bar, ...]
    """How the scores are spread."""
    worst: tuple[Row, ...]
    """At most 1,000 recordings, the highest score first."""


class Comparisons:
    """
    Takes comparisons one at a time, writes each down, and keeps the totals and the worst.

    Each is a line of the stream before `add` returns, with all its edits; nothing else of it is
    kept but numbers and, of the worst, some passages. For one thread at a time; writing blocks.

    Args:
        lines: where lines of NDJSON go. It stays open.
        run_id: the run that made the new transcripts.
        old_run_ids: those that made the old ones, as far as they are known.
        old_options: what they were asked for with, None where that differs between them.
        new_options: the same of the new ones.
    """

    def __init__(
        self,
        lines: BinaryIO,
        *,
        run_id: str,
        old_run_ids: tuple[str, ...] = (),
        old_options: Mapping[str, Any] | None = None,
        new_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._lines = lines
        self._run_id = run_id
        self._old_run_ids = old_run_ids
        self._options = [
            None if options is None else dict(options) for options in (old_options, new_options)
        ]
        self._encoder = msgspec.json.Encoder()
        self._totals: Counter[str] = Counter()
        self._models: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._bars = [0] * (len(_EDGES) + 1)
        self._scores = array("d")
        self._audio_s = 0.0
        self._cost_usd: float | None = None
        self._confidence = [0.0, 0.0]
        # The least bad lies on top of each heap, so that it is what a worse one pushes out.
        self._read: list[tuple[float, int, int, Row]] = []
        self._rows: list[tuple[float, int, int, Row]] = []

    def add(
        self,
        recording: str,
        comparison: Comparison,
        *,
        old_result: bytes | None = None,
        new_result: bytes | None = None,
        cost_usd: float | None = None,
    ) -> None:
        """
        Counts one more recording.

        Args:
            recording: its name, as events have it.
            comparison: of its old and its new transcript.
            old_result: path of the old answer, relative to the folder that the page goes to.
            new_result: the same of the new one.
            cost_usd: what the new transcript costs, None if that is unknown.

        Raises:
            OSError: the line cannot be written.
        """
        difference = Difference(
            recording=recording,
            old_href=None if old_result is None else quote(old_result),
            new_href=None if new_result is None else quote(new_result),
            cost_usd=cost_usd,
            comparison=comparison,
        )
        self._lines.write(self._encoder.encode(difference) + b"\n")
        self._count(comparison)
        if cost_usd is not None:
            self._cost_usd = (self._cost_usd or 0.0) + cost_usd
        self._keep(difference)

    def refuse(self, recording: str, reason: str) -> None:
        """
        Counts a recording whose transcripts cannot be compared.

        Raises:
            OSError: the line cannot be written.
        """
        uncompared = Uncompared(recording=recording, reason=reason)
        self._lines.write(self._encoder.encode(uncompared) + b"\n")
        self._totals["uncompared"] += 1

    def differences(self) -> Differences:
        """What all that were added come to, so far."""
        totals, recordings = self._totals, len(self._scores)
        distance = totals["insertions"] + totals["deletions"] + totals["substitutions"]
        sure = totals["with_confidence"]
        old_confidence, new_confidence = (
            total / sure if sure else None for total in self._confidence
        )
        worst_first = sorted([*self._read, *self._rows], key=lambda kept: kept[:3], reverse=True)
        return Differences(
            run_id=self._run_id,
            old_run_ids=self._old_run_ids,
            old_options=self._options[0],
            new_options=self._options[1],
            old_models=dict(self._models[0].most_common()),
            new_models=dict(self._models[1].most_common()),
            recordings=recordings,
            uncompared=totals["uncompared"],
            audio_hours=self._audio_s / 3600,
            cost_usd=self._cost_usd,
            old_words=totals["old_words"],
            new_words=totals["new_words"],
            insertions=totals["insertions"],
            deletions=totals["deletions"],
            substitutions=totals["substitutions"],
            wer=distance / max(1, totals["old_words"]),
            wer_mean=statistics.fmean(self._scores) if recordings else 0.0,
            wer_median=statistics.median(self._scores) if recordings else 0.0,
            unchanged=totals["unchanged"],
            old_confidence=old_confidence,
            new_confidence=new_confidence,
            better=totals["better"],
            worse=totals["worse"],
            languages_changed=totals["languages_changed"],
            speakers_changed=totals["speakers_changed"],
            moved_words=totals["moved_words"],
            scores=tuple(
                Bar(up_to=end, recordings=number)
                for end, number in zip((*_EDGES, None), self._bars, strict=True)
            ),
            worst=tuple(row for *_, row in worst_first),
        )

    def _count(self, comparison: Comparison) -> None:
        old, new, speakers = comparison.old, comparison.new, comparison.speakers
        self._scores.append(comparison.wer)
        self._bars[bisect_left(_EDGES, comparison.wer)] += 1
        self._audio_s += comparison.audio_duration or 0.0
        for models, version in zip(self._models, (old, new), strict=True):
            if version.speech_model_used:
                models[version.speech_model_used] += 1
        self._totals.update(
            old_words=old.words,
            new_words=new.words,
            insertions=comparison.insertions,
            deletions=comparison.deletions,
            substitutions=comparison.substitutions,
            unchanged=int(comparison.distance == 0),
            languages_changed=int(_is_other_language(old, new)),
            speakers_changed=int(speakers.changed > speakers.words * _NOTABLE_SPEAKERS),
            moved_words=comparison.moved.words,
        )
        if old.confidence is not None and new.confidence is not None:
            rise = round(new.confidence - old.confidence, 6)
            self._confidence[0] += old.confidence
            self._confidence[1] += new.confidence
            self._totals.update(
                with_confidence=1,
                better=int(rise >= _NOTABLE_CONFIDENCE),
                worse=int(rise <= -_NOTABLE_CONFIDENCE),
            )

    def _keep(self, difference: Difference) -> None:
        """Holds on to a recording while it is among the worst; of equals, the earlier stays."""
        comparison = difference.comparison
        kept = (comparison.wer, comparison.distance, -len(self._scores), _row(difference))
        if len(self._read) < _MOST_READ:
            heapq.heappush(self._read, kept)
            return
        wer, distance, place, row = heapq.heappushpop(self._read, kept)
        kept = (wer, distance, place, msgspec.structs.replace(row, passages=()))
        heapq.heappush(self._rows, kept)
        if len(self._rows) > _MOST_ROWS - _MOST_READ:
            heapq.heappop(self._rows)


def as_json(differences: Differences) -> bytes:
    """The same as one JSON object on one line, without the newline."""
    return msgspec.json.encode(differences)


def as_html(differences: Differences) -> str:
    """A page that says first what changed, then where, the worst first. It needs nothing else."""
    return filled(
        "differences.html",
        differences=differences,
        sentence=as_line(differences),
        models=[_models(differences.old_models), _models(differences.new_models)],
        options=_changed_options(differences),
        spread=_spread(differences.scores),
        percent=_percent,
        clock=_clock,
        notes=_notes,
    )


def as_line(differences: Differences) -> str:
    """What changed over all, in one sentence without a full stop."""
    if not differences.recordings:
        return "No recordings were compared"
    parts = [
        f"In {count(differences.recordings, 'recording')} ({hours(differences.audio_hours)})"
        f" {_percent(differences.wer)} of words differ"
    ]
    if differences.old_confidence is not None and differences.new_confidence is not None:
        parts.append(
            f"confidence {differences.old_confidence:.2f} → {differences.new_confidence:.2f}"
        )
    if differences.speakers_changed:
        parts.append(f"speakers changed in {differences.speakers_changed:,}")
    if differences.languages_changed:
        parts.append(f"the language in {differences.languages_changed:,}")
    return "; ".join(parts)


# ---------------------------------------------------------------- of one recording


def _row(difference: Difference) -> Row:
    comparison = difference.comparison
    changed = [_words_changed(stretch) for stretch in _stretches(comparison.edits)]
    longest = heapq.nlargest(_MOST_PASSAGES, range(len(changed)), key=changed.__getitem__)
    passages = [
        _passage(stretch)
        for at, stretch in enumerate(_stretches(comparison.edits))
        if at in longest
    ]
    return Row(
        recording=difference.recording,
        old_href=difference.old_href,
        new_href=difference.new_href,
        wer=comparison.wer,
        unit=comparison.unit,
        distance=comparison.distance,
        old=comparison.old,
        new=comparison.new,
        audio_duration=comparison.audio_duration,
        speaker_changes=comparison.speakers.changed,
        moved_words=comparison.moved.words,
        moved_ms=comparison.moved.median_ms,
        passages=tuple(passages),
        changed_passages=len(changed),
    )


def _stretches(edits: Iterable[Edit]) -> Iterator[list[Edit]]:
    """What is read together: from one folded stretch to the next, where a word differs."""
    stretch: list[Edit] = []
    words = 0
    for edit in edits:
        words += max(edit.old_words, edit.new_words)
        if not edit.folded:
            stretch.append(edit)
        if edit.folded or (words >= _PASSAGE_WORDS and edit.kind == "equal"):
            if _words_changed(stretch):
                yield stretch
            stretch, words = [], 0
    if _words_changed(stretch):
        yield stretch


def _words_changed(edits: Iterable[Edit]) -> int:
    return sum(
        max(edit.old_words, edit.new_words)
        for edit in edits
        if edit.kind not in ("equal", "respelled")
    )


def _passage(edits: Sequence[Edit]) -> Passage:
    pieces: list[Piece] = []
    for edit in edits:
        if edit.kind in ("equal", "respelled"):
            pieces.append((edit.kind, edit.new))
            continue
        if edit.old:
            pieces.append(("delete", edit.old))
        if edit.new:
            pieces.append(("insert", edit.new))
    return Passage(
        start=edits[0].start,
        pieces=tuple((kind, cut(text, _PIECE_CHARS)) for kind, text in pieces),
    )


def _is_other_language(old: Version, new: Version) -> bool:
    before, after = language(old.language_code), language(new.language_code)
    return None not in (before, after) and before != after


# ---------------------------------------------------------------- words of the page


def _spread(scores: Sequence[Bar]) -> Markup:
    ends = [f"≤{bar.up_to * 100:.0f}" if bar.up_to else "0" for bar in scores[:-1]]
    return charts.bars(
        "How many recordings differ by how many percent of their words",
        [
            charts.Bar(f"{count(bar.recordings, 'recording')}: {end} %", bar.recordings, "bar")
            for bar, end in zip(scores, [*ends, "over 100"], strict=True)
        ],
        [
            charts.Tick((place + 0.5) / len(scores), end)
            for place, end in enumerate([*ends, "more"])
        ],
    )


def _percent(share: float) -> str:
    if 0 < share < 0.0005:
        return "under 0.1 %"
    return f"{share * 100:,.{0 if share == 0 or share >= 0.0995 else 1}f} %"


def _clock(ms: int) -> str:
    minutes, second = divmod(ms // 1000, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def _models(models: Mapping[str, int]) -> str:
    return ", ".join(models) or "a model that is not known"


def _changed_options(differences: Differences) -> list[tuple[str, str, str]]:
    """Options whose values differ, as JSON; none where the old ones differ between recordings."""
    if differences.old_options is None or differences.new_options is None:
        return []
    old, new = differences.old_options, differences.new_options
    return [
        (name, _shown(old, name), _shown(new, name))
        for name in sorted({*old, *new})
        if name not in old or name not in new or old[name] != new[name]
    ]


def _shown(options: Mapping[str, Any], name: str) -> str:
    return cut(json.dumps(options[name], ensure_ascii=False), 80) if name in options else "not set"


def _notes(row: Row) -> list[str]:
    """What else there is to say of a recording, in some words each."""
    notes = []
    if _is_other_language(row.old, row.new):
        notes.append(f"language {row.old.language_code} → {row.new.language_code}")
    if row.speaker_changes:
        notes.append(f"another speaker for {count(row.speaker_changes, row.unit)}")
    if row.old.speakers != row.new.speakers:
        notes.append(f"speakers {row.old.speakers} → {row.new.speakers}")
    if row.moved_words:
        notes.append(
            f"{count(row.moved_words, row.unit)} moved, {row.moved_ms / 1000:+.1f} s".replace(
                "-", "−"
            )
        )
    return notes
