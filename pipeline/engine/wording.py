"""The options that change the words, and how words become text.

In: words as the recogniser heard them. Out: words as the request wants them, turns of
several channels, and text.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.engine.speech import NO_SPACES, Word

__all__ = ["TURN_PAUSE_MS", "bare", "joined", "turns", "worded"]

TURN_PAUSE_MS = 800
"""A pause this long ends a turn of a channel."""

# What joins the halves of a word or number ("o'clock", "3.5", "he/she") is part of it.
_MARK = re.compile(r"((?<=\w)['’.,:/@&+-]+(?=\w))|_|[^\w\s%$€£#°]")

# English, and only what has hardly any other use: "dick" is a name, "damn" a mild word.
_PROFANE = re.compile(
    r"(?<!\w)(?:(?:mother)?fuck\w*|(?:bull|horse)?shit\w*|bitch\w*|bastards?|cunts?|assholes?"
    r"|arseholes?|dickheads?|cocksuck\w*|wank\w*|twats?|bollocks|sluts?|whores?|pissed"
    r"|goddamn\w*|nigg(?:er|a)s?|fag(?:got)?s?)(?!\w)",
    re.IGNORECASE,
)


def bare(text: str) -> str:
    """A word as it compares: lower case, without the punctuation around it."""
    return text.casefold().strip(".,;:!?…\"'“”‘’«»()[]{}¿¡。、，！？-—– ")


def joined(texts: Iterable[str], language: str) -> str:
    """Text of words or of turns: with spaces between, where the language has them."""
    return ("" if language in NO_SPACES else " ").join(texts)


def worded(words: Sequence[Word], options: Mapping[str, Any]) -> list[Word]:
    """
    Words as `punctuate`, `format_text`, `custom_spelling` and `filter_profanity` want them.

    Without `punctuate` they carry no punctuation, without `format_text` they are in lower
    case; numbers stay digits, since that is how the model hears them. A spelling rule
    makes one word of as many as it matches, from the first's start to the last's end.
    """
    result = list(words)
    if not options.get("punctuate", True):
        result = [replace(word, text=_without_marks(word.text)) for word in result]
        result = [word for word in result if word.text]
    if not options.get("format_text", True):
        result = [replace(word, text=word.text.lower()) for word in result]
    for rule in options.get("custom_spelling", ()):
        for phrase in rule["from"]:
            result = _respelt(result, [bare(part) for part in phrase.split()], rule["to"])
    if options.get("filter_profanity"):
        result = [replace(word, text=_masked(word.text)) for word in result]
    return result


def turns(channels: Sequence[Sequence[Word]]) -> list[tuple[int, list[Word]]]:
    """
    Channel (0-based) and words of each turn, by their start.

    A channel's turn ends at a pause. Words of several channels are never mixed in one:
    people who speak at once would otherwise be shuffled word by word.
    """
    result: list[tuple[int, list[Word]]] = []
    for channel, words in enumerate(channels):
        turn: list[Word] = []
        for word in words:
            if turn and word.start - turn[-1].end >= TURN_PAUSE_MS:
                result.append((channel, turn))
                turn = []
            turn.append(word)
        if turn:
            result.append((channel, turn))
    return sorted(result, key=lambda turn: turn[1][0].start)


def _without_marks(text: str) -> str:
    return _MARK.sub(lambda mark: mark[1] or "", text)


def _respelt(words: Sequence[Word], phrase: Sequence[str], spelling: str) -> list[Word]:
    result: list[Word] = []
    position = 0
    while position < len(words):
        found = words[position : position + len(phrase)]
        if all(phrase) and [bare(word.text) for word in found] == phrase:
            confidence = sum(word.confidence for word in found) / len(found)
            text = _opening(found[0].text) + spelling + _closing(found[-1].text)
            result.append(Word(text, found[0].start, found[-1].end, confidence))
            position += len(phrase)
        else:
            result.append(words[position])
            position += 1
    return result


def _opening(text: str) -> str:
    return text[: len(text) - len(text.lstrip("\"'“‘«([{¿¡"))]


def _closing(text: str) -> str:
    return text[len(text.rstrip(".,;:!?…\"'”’»)]}。、，！？")) :]


def _masked(text: str) -> str:
    return _PROFANE.sub(lambda word: word[0][0] + "*" * (len(word[0]) - 1), text)
