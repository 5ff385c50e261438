"""How much of what was said was heard wrong.

In: texts that were said and texts that were heard. Out: the word error rate over all of them.
Numbers, contractions, spelling, case and punctuation do not count: `26 years` is `twenty-six
years` and `harbour` is `harbor`.

Source: Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, appendix C
(the normaliser), https://arxiv.org/abs/2212.04356
"""

from typing import NamedTuple

import jiwer
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

__all__ = ["Heard", "word_error_rate"]


class Heard(NamedTuple):
    """What was said, and what was heard of it."""

    said: str
    text: str
    language: str = "en"
    """ISO 639-1, one that puts spaces between words. Only English has its numbers unified."""


def word_error_rate(*heard: Heard) -> float:
    """
    Words substituted, deleted and inserted, by words said: 0 is perfect, above 1 is possible.

    Long texts weigh more than short ones.

    Raises:
        ValueError: Nothing was said in one of them, so nothing can be heard wrong.
    """
    return float(
        jiwer.wer(
            [_normalised(one.said, one.language) for one in heard],
            [_normalised(one.text, one.language) for one in heard],
        )
    )


_ENGLISH = EnglishTextNormalizer()
_OTHER = BasicTextNormalizer()


def _normalised(text: str, language: str) -> str:
    return str((_ENGLISH if language == "en" else _OTHER)(text))
