"""
Two transcripts of one recording to what differs between them, word by word.

In: two answers of the service, as their bytes were saved. Out: a `Comparison`: a score, counts,
and the edits that make the new text of the old one. Pure: no I/O.

    old ─► words ─┐                 ┌─► edits ─► word error rate, for people: what to look at
                  ├─► alignment ────┼─► times that moved
    new ─► words ─┘  (Levenshtein)  └─► speakers, once the labels are matched

Words are the service's, or those of the text where it came without. Case and punctuation do not
count, yet are shown: `Well,` and `well` are equal words, spelled differently. A mark between two
digits does count, `1.5` is not `15`; so do the signs that are spoken, as `%`. Languages without
spaces between words are compared by character, foreign words in them whole. The old transcript
is the reference, which does not make it the truth: a high score says that the two differ, not
which of them is right.
"""

import itertools
import math
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from pipeline.errors import AnswerUnusable
from pipeline.parsing import UNREADABLE, decoded
from pipeline.phrases import is_spaced
from pipeline.wire import is_deleted

__all__ = ["MOVED_MS", "Comparison", "Edit", "Moved", "Speakers", "Version", "compare"]

MOVED_MS: Final = 500
"""How far a word's start may be from where it was, ms, before it counts as moved.

Ours: models place words some 100 ms apart; from half a second on, a caption is out of step.
"""

_CONTEXT: Final = {"word": 8, "character": 20}
"""How much of an equal stretch stays on either side of what differs."""

_SPOKEN: Final = frozenset("%‰&@#§")
"""Signs that Unicode takes for punctuation, though they are read out."""

_MOST_SPEAKERS: Final = 64
"""Labels on either side that are given a partner; ours, well above what a recording has."""

_LONGEST_S: Final = 10**7
"""A time beyond this, 115 days, is none that a recording has."""

_PIECE: Final = re.compile("[!-\u0dff]+|[^!-\u0dff]")
"""A character of a language without spaces, or a run of scripts that have them: the first of the
others is Thai, U+0E00. Source: Unicode Standard Annex 24 and Blocks.txt."""


Kind = Literal["equal", "respelled", "substitute", "delete", "insert"]


class Edit(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of words to which one thing happened."""

    kind: Kind
    """`equal`; `respelled`, in case or punctuation only; `substitute`, also by more words or fewer;
    `delete`; `insert`."""
    old: str
    """The words as the old transcript has them; empty for `insert`, and where they are left out."""
    new: str
    """The same of the new one; empty for `delete`, and where they are left out."""
    old_words: int
    new_words: int
    start: int | None
    """ms from the start of the recording to the first of the words; null without times."""
    folded: bool = False
    """Whether it is the middle of a long stretch; where that is `equal`, its words are left out."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two transcripts, by itself."""

    words: int
    """Or characters, see `unit`."""
    speakers: int
    """Different labels among the words."""
    confidence: float | None
    """0..1, the service's mean over its words."""
    language_code: str | None
    speech_model_used: str | None


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """Words of both that start more than 0.5 s from where they did; shifts are new less old."""

    words: int
    median_ms: int
    largest_ms: int
    """The one that is farthest from zero; both are 0 where none moved."""


class Speakers(msgspec.Struct, frozen=True, kw_only=True):
    """Who says the words of both, once each old label has the new one that fits best."""

    words: int
    """Words of both that have a speaker in both."""
    changed: int
    """Those of them that another speaker says."""
    partners: dict[str, str]
    """Old label to new label, at most one each: labels are given anew in each transcript."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between two transcripts of one recording."""

    wer: float
    """Insertions, deletions and substitutions, by words of the old one, 0 or more.

    Above 1 where much is new; by 1 for each word where the old one has none.
    """
    insertions: int
    deletions: int
    substitutions: int
    respelled: int
    """Words that differ in case or punctuation only; not part of `wer`."""
    unit: Literal["word", "character"]
    """What all counts are of: `character` where either language has no spaces between words."""
    old: Version
    new: Version
    audio_duration: float | None
    """Seconds, as the new one says, or else the old one."""
    moved: Moved
    speakers: Speakers
    edits: tuple[Edit, ...]
    """From the first word to the last; those made to the old text give the new one."""

    @property
    def distance(self) -> int:
        """Insertions, deletions and substitutions."""
        return self.insertions + self.deletions + self.substitutions


def compare(old: bytes, new: bytes) -> Comparison:
    """
    What differs between two transcripts of one recording, the same for the same bytes.

    Blocks for about a second where both have 50,000 words, and for four times that where both
    have twice as many.

    Args:
        old: the service's JSON answer, the reference of the score.
        new: another one of the same recording.

    Raises:
        AnswerUnusable: one is not JSON of a completed transcript, or was deleted at the service.

    Source: of the score, V. I. Levenshtein, Binary codes capable of correcting deletions,
    insertions and reversals, 1966.
    """
    # Only who compares pays for loading it.
    from rapidfuzz.distance import Levenshtein

    answers = _completed(old, "old"), _completed(new, "new")
    spaced = all(is_spaced(answer.language_code) for answer in answers)
    before, after = (list(_words(answer, spaced)) for answer in answers)

    ids: dict[str, int] = {}
    numbers = [
        [ids.setdefault(_counted(word.text), len(ids)) for word in words]
        for words in (before, after)
    ]
    blocks = Levenshtein.editops(*numbers).as_matching_blocks()
    matches = [(match.a, match.b, match.size) for match in blocks]
    pairs = [
        (before[at + step], after[to + step]) for at, to, size in matches for step in range(size)
    ]

    unit: Literal["word", "character"] = "word" if spaced else "character"
    ends = len(before), len(after)
    edits = tuple(
        _edit(before, after, part)
        for span in _spans(before, after, matches)
        for part in _folded(span, ends, _CONTEXT[unit])
    )
    changed = [edit for edit in edits if edit.kind in ("insert", "delete", "substitute")]
    # Where words stand against words, as many as both have are substituted: no alignment that
    # both deletes and inserts at one place has the fewest edits.
    substitutions = sum(min(edit.old_words, edit.new_words) for edit in changed)
    deletions = sum(edit.old_words for edit in changed) - substitutions
    insertions = sum(edit.new_words for edit in changed) - substitutions
    return Comparison(
        wer=(insertions + deletions + substitutions) / max(1, len(before)),
        insertions=insertions,
        deletions=deletions,
        substitutions=substitutions,
        respelled=sum(edit.old_words for edit in edits if edit.kind == "respelled"),
        unit=unit,
        old=_version(answers[0], before),
        new=_version(answers[1], after),
        audio_duration=_within(answers[1].audio_duration, _LONGEST_S)
        or _within(answers[0].audio_duration, _LONGEST_S),
        moved=_moved(pairs),
        speakers=_speakers(pairs),
        edits=edits,
    )


# ---------------------------------------------------------------- what the service said


class _AnswerWord(msgspec.Struct):
    text: str | None = None
    start: float | None = None
    end: float | None = None
    speaker: str | int | None = None


class _Answer(msgspec.Struct):
    status: str
    text: str | None = None
    words: list[_AnswerWord] | None = None
    audio_url: str | None = None
    audio_duration: float | None = None
    confidence: float | None = None
    language_code: str | None = None
    speech_model_used: str | None = None
    is_deleted: bool | None = None


class _Word(NamedTuple):
    lead: str
    """A space or nothing, before it inside of a text."""
    text: str
    """With the marks that stand beside it."""
    start: int | None
    speaker: str


def _completed(transcript: bytes, which: str) -> _Answer:
    try:
        answer, odd = decoded(transcript, _Answer)
    except UNREADABLE as error:
        raise AnswerUnusable(f"the {which} one is not the JSON of a transcript: {error}") from error
    if answer.status != "completed":
        raise AnswerUnusable(f"the {which} transcript is `{answer.status}`, not `completed`")
    if is_deleted(answer.audio_url, answer.is_deleted):
        raise AnswerUnusable(f"the {which} transcript was deleted at the service; its text is gone")
    if odd and answer.text is None and not answer.words:
        raise AnswerUnusable(f"the {which} one is not the JSON of a transcript: {'; '.join(odd)}")
    return answer


def _words(answer: _Answer, spaced: bool) -> Iterator[_Word]:
    """What is compared, each with a letter, digit or sign in it; marks go with what they follow."""
    word: _Word | None = None
    texts: list[str] = []
    before = ""
    for said in answer.words or [_AnswerWord(answer.text)]:
        speaker = "" if said.speaker is None else str(said.speaker)
        for text, start, is_first in _pieces(said, spaced):
            lead = " " if spaced or (before and is_first and _are_ascii(before, text)) else ""
            before = text
            if any(map(_is_said, text)):
                if word:
                    yield word._replace(text="".join(texts))
                    texts.clear()
                word = _Word(lead, "", start, speaker)
            texts.append(lead + text if texts else text)
    if word:
        yield word._replace(text="".join(texts))


def _pieces(word: _AnswerWord, spaced: bool) -> Iterator[tuple[str, int | None, bool]]:
    """A word cut where it has to be: text, start, and whether it begins something written apart."""
    parts = (word.text or "").split()
    pieces = [
        (piece, at == 0)
        for part in parts
        for at, piece in enumerate([part] if spaced else _PIECE.findall(part))
    ]
    start = word.start
    for at, (piece, is_first) in enumerate(pieces):
        if start is None:
            yield piece, None, is_first
            continue
        length = max(0.0, (word.end or start) - start)
        time = start + length * at / len(pieces)
        yield piece, round(min(max(time, 0), _LONGEST_S * 1000)), is_first


def _are_ascii(left: str, right: str) -> bool:
    """Whether two words would run into one, as foreign names do in Chinese text."""
    return f"{left[-1]}{right[0]}".isascii() and left[-1].isalnum() and right[0].isalnum()


def _is_said(char: str) -> bool:
    category = unicodedata.category(char)
    # `Sk` holds marks such as the backtick, which pass for an apostrophe.
    return char in _SPOKEN or (category[0] in "LNS" and category != "Sk")


def _counted(text: str) -> str:
    """A word as it is compared: letters, vowel signs, digits and spoken signs, without case."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    if folded.isalnum():
        return folded
    return "".join(
        char
        for before, char, after in zip(f" {folded}", folded, f"{folded[1:]} ", strict=False)
        if _is_said(char)
        or unicodedata.category(char)[0] == "M"
        or (before.isdigit() and after.isdigit())
    )


def _within(number: float | None, most: float) -> float | None:
    """A number that can be meant, None otherwise."""
    return number if number is not None and 0 <= number <= most else None


def _version(answer: _Answer, words: Sequence[_Word]) -> Version:
    return Version(
        words=len(words),
        speakers=len({word.speaker for word in words if word.speaker}),
        confidence=_within(answer.confidence, 1.0),
        language_code=answer.language_code,
        speech_model_used=answer.speech_model_used,
    )


# ---------------------------------------------------------------- what became of the words


class _Span(NamedTuple):
    """An edit by the places of its words."""

    kind: Kind
    at: int
    end: int
    to: int
    new_end: int
    folded: bool = False


_CHANGES: Final[dict[tuple[bool, bool], Kind]] = {
    (True, True): "substitute",
    (True, False): "delete",
    (False, True): "insert",
}
"""Whether there are old words, and whether new ones, between two matches."""


def _spans(
    old: Sequence[_Word], new: Sequence[_Word], matches: Sequence[tuple[int, int, int]]
) -> Iterator[_Span]:
    """The whole alignment in its order; the last match is the empty one at both ends."""
    done = new_done = 0
    for at, to, size in matches:
        if kind := _CHANGES.get((done < at, new_done < to)):
            yield _Span(kind, done, at, new_done, to)
        begin = 0
        same = (old[at + step].text == new[to + step].text for step in range(size))
        for is_same, run in itertools.groupby(same):
            end = begin + sum(1 for _ in run)
            kind = "equal" if is_same else "respelled"
            yield _Span(kind, at + begin, at + end, to + begin, to + end)
            begin = end
        done, new_done = at + size, to + size


def _folded(span: _Span, ends: tuple[int, int], context: int) -> Iterator[_Span]:
    """A long stretch that nobody needs to read in three: both ends of it are context."""
    # Where the texts begin or end there is nothing that it could be the context of.
    head = span.at + (context if span.at or span.to else 0)
    tail = span.end - (context if (span.end, span.new_end) != ends else 0)
    if span.kind not in ("equal", "respelled") or tail - head <= context:
        yield span
        return
    shift = span.to - span.at
    for begin, end in ((span.at, head), (head, tail), (tail, span.end)):
        if begin < end:
            is_middle = (begin, end) == (head, tail)
            yield _Span(span.kind, begin, end, begin + shift, end + shift, is_middle)


def _edit(old: Sequence[_Word], new: Sequence[_Word], span: _Span) -> Edit:
    before, after = old[span.at : span.end], new[span.to : span.new_end]
    is_left_out = span.folded and span.kind == "equal"
    return Edit(
        kind=span.kind,
        old="" if is_left_out else _joined(before),
        new="" if is_left_out else _joined(after),
        old_words=len(before),
        new_words=len(after),
        start=(before or after)[0].start,
        folded=span.folded,
    )


def _joined(words: Sequence[_Word]) -> str:
    return "".join([word.lead + word.text for word in words])[len(words[0].lead) :] if words else ""


def _moved(pairs: Sequence[tuple[_Word, _Word]]) -> Moved:
    shifts = [
        after.start - before.start
        for before, after in pairs
        if before.start is not None and after.start is not None
    ]
    moved = [shift for shift in shifts if abs(shift) > MOVED_MS]
    return Moved(
        words=len(moved),
        median_ms=statistics.median_low(moved) if moved else 0,
        largest_ms=max(moved, key=abs, default=0),
    )


# ---------------------------------------------------------------- who said them


def _speakers(pairs: Sequence[tuple[_Word, _Word]]) -> Speakers:
    shared = Counter(
        (before.speaker, after.speaker)
        for before, after in pairs
        if before.speaker and after.speaker
    )
    partners = _partners(shared)
    return Speakers(
        words=shared.total(),
        changed=sum(n for (old, new), n in shared.items() if partners.get(old) != new),
        partners=partners,
    )


def _partners(shared: Counter[tuple[str, str]]) -> dict[str, str]:
    """For each old label a new one of its own, so that most words stay with their speaker."""
    olds: Counter[str] = Counter()
    news: Counter[str] = Counter()
    for (old, new), words in shared.items():
        olds[old] += words
        news[new] += words
    rows = [label for label, _ in olds.most_common(_MOST_SPEAKERS)]
    columns = [label for label, _ in news.most_common(_MOST_SPEAKERS)]
    size = max(len(rows), len(columns))
    gains = [[0] * size for _ in range(size)]
    for (i, old), (j, new) in itertools.product(enumerate(rows), enumerate(columns)):
        gains[i][j] = shared[old, new]
    return {
        rows[i]: columns[j]
        for i, j in sorted(enumerate(_assigned(gains)))
        if gains[i][j]  # else they have no word in common, or one of them is not there
    }


def _assigned(gains: Sequence[Sequence[int]]) -> list[int]:
    """
    For each row of a square a column of its own, such that the gains add up to the most.

    Prices of a row and a column are never below the gain where they cross, and equal to it where
    a row has its column. Each row in turn gets one along the path of least slack, which may make
    others move on.

    Source: H. W. Kuhn, The Hungarian method for the assignment problem, 1955.
    """
    size = len(gains)
    row_price = [max(row) for row in gains]
    column_price = [0] * size
    row_of = [-1] * size
    for newcomer in range(size):
        slack = [math.inf] * size
        came_from = [-1] * size
        path: list[int] = []
        row, here = newcomer, -1
        while row >= 0:
            open_columns = [column for column in range(size) if column not in path]
            for column in open_columns:
                excess = row_price[row] + column_price[column] - gains[row][column]
                if excess < slack[column]:
                    slack[column], came_from[column] = excess, here
            here = min(open_columns, key=slack.__getitem__)
            step = int(slack[here])
            row_price[newcomer] -= step
            for column in path:
                row_price[row_of[column]] -= step
                column_price[column] += step
            for column in open_columns:
                slack[column] -= step
            path.append(here)
            row = row_of[here]
        while here >= 0:
            before = came_from[here]
            row_of[here] = row_of[before] if before >= 0 else newcomer
            here = before
    return [row_of.index(row) for row in range(size)]
