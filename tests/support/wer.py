"""How much of what was said was heard wrong.

In: texts that were said and texts that were heard. Out: the word error rate over all of them.
Numbers, contractions, spelling, case and punctuation do not count: `26 years` is `twenty-six
years` and `harbour` is `harbor`.

Source: Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, appendix C
(the normaliser), https://arxiv.org/abs/2212.04356
"""

from collections.abc import Iterable

import jiwer
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

__all__ = ["normalised", "word_error_rate"]

_ENGLISH = EnglishTextNormalizer()
_OTHER = BasicTextNormalizer()


def normalised(text: str, language: str = "en") -> str:
    """The words of a text in lower case; numbers and spelling unified if it is English."""
    return str((_ENGLISH if language == "en" else _OTHER)(text))


def word_error_rate(pairs: Iterable[tuple[str, str]], language: str = "en") -> float:
    """
    Words substituted, deleted and inserted, by words said: 0 is perfect, above 1 is possible.

    Args:
        pairs: What was said and what was heard. Long texts weigh more than short ones.
        language: ISO 639-1; other languages than English are written with spaces, and their
            numbers said as they are heard.
    """
    said, heard = zip(
        *((normalised(one, language), normalised(other, language)) for one, other in pairs),
        strict=True,
    )
    return float(jiwer.wer(list(said), list(heard)))
