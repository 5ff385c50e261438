"""
Words in their order, and what holds them together: in, words; out, where they may be parted.

Sentences end where their marks say so, phrases begin with articles, pronouns and prepositions: what
is cut into captions, lines and paragraphs is cut there.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = [
    "Turn",
    "Word",
    "binds",
    "ends_sentence",
    "is_pause",
    "is_spaced",
    "joined",
    "strain",
    "width",
]

_UNSPACED: Final = frozenset({"zh", "yue", "ja", "th", "lo", "my", "km", "bo"})
"""Languages that write no space between words. Source: Unicode Standard Annex 14, section 3."""
_SENTENCE_END: Final = re.compile(r"[.!?…。！？｡؟۔।॥။։።]['\"”’»)\]」』）]*$")
_CLAUSE_END: Final = re.compile(r"[,;:–—،؛、，；：]['\"”’»)\]」』）]*$")
_BINDING: Final = {
    language: frozenset(words.split())
    for language, words in {
        "en": "a an the my your his its our their i he she we they will would could should must "
        "and & or but nor if that because when while about after as at before by for from in into "
        "of on over than through to under until with without",
        "de": "der die das den dem des ein eine einen einem einer eines kein keine ich er wir "
        "und oder aber denn dass weil wenn ob als wie an am auf aus bei bis für gegen im in mit "
        "nach ohne über um unter vom von vor zu zum zur",
        "fr": "le la les un une des du de au aux ce cet cette ces mon ma mes son sa ses notre nos "
        "votre vos leur leurs je tu il ils et ou mais donc car que qui si comme quand à avec chez "
        "dans en par pour sans sous sur",
        "es": "el la los las un una unos unas mi mis su sus del al y e o u pero que si como cuando "
        "porque a con de desde en entre hasta para por sin sobre",
    }.items()
}
"""Articles, pronouns, auxiliaries, conjunctions, prepositions: a phrase begins with them, and is
not torn after them. Source: Netflix, General Requirements 4; BBC 3.4."""
_ABBREVIATION: Final = re.compile(r"(mr|mrs|ms|dr|prof|st|vs|e\.g|i\.e|[a-z])\.", re.IGNORECASE)


class Word(NamedTuple):
    """A word with what stands before it, so that texts and widths are plain sums."""

    lead: str
    """A space, or nothing: at the start of a turn and in languages without spaces."""
    text: str
    start: int
    """ms from the start of the recording, never before the word before."""
    end: int
    """ms, not before `start`."""
    binds: bool = False
    """Whether it belongs with the word after it, as an article does."""


class Turn(NamedTuple):
    """What one speaker says before another does."""

    speaker: str
    """As the service names them (`A`, `1`, `1A`, `Michel`), or empty."""
    words: Sequence[Word]


def is_spaced(language_code: str | None) -> bool:
    """Whether a language puts spaces between words (`ja` does not); so do those not known."""
    language = re.split("[-_]", language_code or "")[0].lower()
    return language not in _UNSPACED


def binds(text: str, language: str) -> bool:
    """Whether a word belongs with the one after it; of languages that are not known, none does."""
    return text.lower() in _BINDING.get(language, ())


def joined(words: Sequence[Word]) -> str:
    """The text of words in a row, without what leads the first."""
    return "".join([word.lead + word.text for word in words])[len(words[0].lead) :]


def width(text: str) -> int:
    """Columns that a text takes: two for each character of a wide script."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def ends_sentence(word: Word) -> bool:
    """Whether a sentence ends with a word: its mark says so, and it is no `Dr.`."""
    return bool(_SENTENCE_END.search(word.text)) and not _ABBREVIATION.fullmatch(word.text)


def is_pause(before: Word, after: Word, pause_ms: int) -> bool:
    """Whether so long a silence lies between two words."""
    return after.start - before.end >= pause_ms


def strain(before: Word, after: Word) -> int:
    """How much it hurts to break between two words: 0 after a sentence to 4 within a phrase."""
    if ends_sentence(before):
        return 0
    if _CLAUSE_END.search(before.text):
        return 1
    if before.binds:
        return 4
    return 2 if after.binds else 3
