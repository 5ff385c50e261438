"""
How far a transcript can be trusted, from what it says of itself.

In: the bytes of a completed transcript as the service sent it. Out: an `Appraisal`, sentences on
what is odd about it, and which of two is the better one. Pure: no I/O.

What is odd need not be wrong: silence has no words, and music has few. The sentences say where to
listen first, not what to throw away.
"""

import math
import re
from typing import Final

import msgspec

from pipeline.durations import is_as_long
from pipeline.errors import AnswerUnusable
from pipeline.parsing import UNREADABLE, decoded
from pipeline.phrases import is_spaced
from pipeline.wire import Head, is_deleted

__all__ = [
    "Appraisal",
    "amiss",
    "appraise",
    "is_better",
    "language",
    "odd_length",
    "suspicions",
]

_LONG_S: Final = 60.0
"""From here on a recording without a word is odd. Ours: a call that nobody took is shorter."""
_RATED_S: Final = 30.0
"""From here on words are held against time. Ours: the service rounds a duration up to a second."""
_SLOW_S: Final = 300.0
"""From here on few words are odd. Ours: music while a call waits goes on for minutes."""
_LEAST_PER_MIN: Final = 10.0
"""Words a minute, over silence and all. Ours: a fifteenth of speech, so that little was heard."""
_MOST_WORDS_PER_MIN: Final = 400.0
"""
Ours: more than anybody says for long. Vietnamese, with a space after each syllable, comes to 313.

Source: 5.22 syllables a second; Pellegrino, Coupé, Marsico, A cross-language perspective on speech
information rate, Language 87 (2011), table 2.
"""
_MOST_SIGNS_PER_MIN: Final = 700.0
"""
Ours, for Chinese and Japanese. A sign is a syllable, or several: 311 and at most 470 a minute.

Source: 5.18 and 7.84 syllables a second; the same table.
"""
_MOST_LETTERS_PER_MIN: Final = 1_500.0
"""Ours, for alphabets without spaces: three letters to a syllable, eight syllables a second."""
_LEAST_CONFIDENCE: Final = 0.6
"""
Mean of the words. Ours: above what the vendor calls low for a single word, which is 0.4 or 0.55.

Source: https://www.assemblyai.com/docs/guides/detecting-low-confidence-words and
https://www.assemblyai.com/blog/detect-low-confidence-words-nodejs
"""
_MEANT_WORDS: Final = 10
"""Words from which on their mean confidence says something. Ours."""
_LEAST_LANGUAGE_CONFIDENCE: Final = 0.5
"""Ours: below it, another language is as likely as the one that was taken."""
_GAIN: Final = 0.01
"""Of confidence, to be called better. Ours: less is rounding."""
_HEARD: Final = 0.9
"""Of a recording: less is a cause for somebody to look."""
_LOST: Final = 0.9
"""
Of the letters of another transcript, fewer are a loss: a speaker, a channel. Ours: words like "um",
which one model writes and another leaves out, come to less than a tenth.
"""

_SIGNS: Final = frozenset({"zh", "yue", "ja"})


class Appraisal(msgspec.Struct, frozen=True, kw_only=True):
    """What a transcript says of itself that can be weighed."""

    words: int | None
    """In the text; None in languages that write no space between words."""
    letters: int
    """In the text: letters and signs, without what stands above or below another."""
    audio_duration: float | None = None
    """Seconds."""
    confidence: float | None = None
    """Mean of the words, 0..1."""
    language_code: str | None = None
    """Asked for, or detected."""
    language_confidence: float | None = None
    """Of its detection, 0..1; None where it was not detected."""
    has_text: bool = True
    """Whether there is any."""
    odd: tuple[str, ...] = ()
    """What cannot be weighed, since it is not what it should be; a sentence each."""

    @property
    def words_per_min(self) -> float | None:
        """Over the whole recording; None where words or time are not known."""
        return self._per_min(self.words)

    @property
    def letters_per_min(self) -> float | None:
        """Over the whole recording; None where its time is not known."""
        return self._per_min(self.letters)

    def _per_min(self, number: int | None) -> float | None:
        if number is None or not self.audio_duration:
            return None
        return number * 60 / self.audio_duration


class _Answer(msgspec.Struct):
    status: str
    text: str | None = None
    audio_url: str | None = None
    audio_duration: float | None = None
    confidence: float | None = None
    language_code: str | None = None
    language_confidence: float | None = None
    is_deleted: bool | None = None


def appraise(transcript: bytes) -> Appraisal:
    """
    What a completed transcript says of itself.

    Raises:
        AnswerUnusable: not JSON of a transcript, not completed, or deleted at the service.
    """
    try:
        answer, odd = decoded(transcript, _Answer)
    except UNREADABLE as error:
        raise AnswerUnusable(f"it is not the JSON of a transcript: {error}") from error
    if answer.status != "completed":
        raise AnswerUnusable(f"the transcript is `{answer.status}`, not `completed`")
    if is_deleted(answer.audio_url, answer.is_deleted):
        raise AnswerUnusable("the transcript was deleted at the service")
    text = answer.text or ""
    return Appraisal(
        words=len(text.split()) if is_spaced(answer.language_code) else None,
        letters=sum(map(str.isalpha, text)),
        audio_duration=_within(answer.audio_duration, math.inf),
        confidence=_within(answer.confidence, 1.0),
        language_code=answer.language_code,
        language_confidence=_within(answer.language_confidence, 1.0),
        has_text=bool(text.strip()),
        odd=tuple(odd),
    )


def _within(number: float | None, most: float) -> float | None:
    """A number that can be meant, None otherwise."""
    return number if number is not None and 0 <= number <= most and number < math.inf else None


def language(code: str | None) -> str | None:
    """The language of a code without its region: `en` of `en_us`."""
    return re.split("[-_]", code)[0].lower() if code else None


def suspicions(appraisal: Appraisal, expected_language: str | None = None) -> list[str]:
    """
    What is odd about a transcript, a sentence each; none where nothing is.

    `expected_language` is a code of the service, with a region or without; None where any will do.
    """
    found = (
        _odd_amount(appraisal),
        _odd_language(appraisal, expected_language),
        _odd_confidence(appraisal),
    )
    return [*(sentence for sentence in found if sentence is not None), *appraisal.odd]


def odd_length(heard_s: float | None, held_s: float | None) -> str | None:
    """What is odd about so many seconds that were heard of so many; None where nothing is."""
    if heard_s is None or held_s is None or is_as_long(held_s, heard_s):
        return None
    return f"{heard_s:,.0f} s were heard, and the recording holds {held_s:,.0f} s"


def amiss(head: Head, held_s: float | None) -> str | None:
    """
    Why somebody has to look at a result, in a few words; None where nobody has to.

    `held_s` are the seconds that the recording certainly holds. That there are no words in less
    than a minute is nothing odd, but there always is a text.
    """
    heard_s = head.audio_duration
    if head.text is None or not (head.has_words or max(heard_s or 0.0, held_s or 0.0) < _LONG_S):
        return "without text"
    if heard_s is None or held_s is None or heard_s >= _HEARD * held_s:
        return None
    return None if is_as_long(held_s, heard_s) else "heard in part"


def _odd_amount(appraisal: Appraisal) -> str | None:
    duration_s = appraisal.audio_duration or 0.0
    if not appraisal.has_text:
        return f"no text in {_minutes(duration_s)} of audio" if duration_s >= _LONG_S else None
    if duration_s < _RATED_S:
        return None
    per_min, noun, most = appraisal.words_per_min, "words", _MOST_WORDS_PER_MIN
    if per_min is None:
        is_signs = language(appraisal.language_code) in _SIGNS
        per_min, noun = appraisal.letters_per_min or 0.0, "signs" if is_signs else "letters"
        most = _MOST_SIGNS_PER_MIN if is_signs else _MOST_LETTERS_PER_MIN
    if per_min > most:
        return f"{per_min:,.0f} {noun} a minute: nobody speaks that fast for {_minutes(duration_s)}"
    if per_min < _LEAST_PER_MIN and duration_s >= _SLOW_S:
        return f"{per_min:.1f} {noun} a minute in {_minutes(duration_s)}: little speech was heard"
    return None


def _odd_language(appraisal: Appraisal, expected: str | None) -> str | None:
    code, confidence = appraisal.language_code, appraisal.language_confidence
    if not appraisal.has_text or code is None:
        return None
    if expected is not None and language(code) != language(expected):
        return f"its language is {code}, not {expected} as was expected"
    if confidence is not None and confidence < _LEAST_LANGUAGE_CONFIDENCE:
        return f"its language is taken for {code}, with a confidence of {confidence:.2f} only"
    return None


def _odd_confidence(appraisal: Appraisal) -> str | None:
    confidence = appraisal.confidence
    words = appraisal.letters if appraisal.words is None else appraisal.words
    if confidence is None or confidence >= _LEAST_CONFIDENCE or words < _MEANT_WORDS:
        return None
    return f"low confidence: {confidence:.2f} in the mean of its words"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def is_better(new: Appraisal, old: Appraisal) -> bool:
    """
    Whether a new transcript of the same recording should take the place of an old one.

    One that is odd is never better than one that is not. Of two alike, the one with the higher
    confidence is, unless it lost text, or is in another language. Confidences of different models
    are not measured alike: what is called better may well be read before it is believed.
    """
    is_odd, was_odd = bool(suspicions(new)), bool(suspicions(old))
    if is_odd != was_odd:
        return was_odd
    if new.has_text != old.has_text:
        return new.has_text
    if language(new.language_code) != language(old.language_code):
        return False
    if new.letters < old.letters * _LOST:
        return False
    if new.confidence is None or old.confidence is None:
        return False
    return new.confidence - old.confidence >= _GAIN
