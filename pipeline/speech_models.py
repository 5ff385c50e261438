"""
The service's speech models by name: in, a name or a moment; out, price, state, and what to say.

    AS_OF ─► SPEECH_MODELS: name -> price and state ─► PRICES, DEFAULT_SPEECH_MODELS
                                                    └► remarks(lists), outdated(now)

The one place that has to follow when the vendor changes models or prices: the table, its day, and
where it comes from. Names that are not in it are sent all the same, and may have a price of the
user's own. Pure.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import chain
from typing import Final

from pipeline.events import moment

__all__ = [
    "AS_OF",
    "DEFAULT_SPEECH_MODELS",
    "LASTS_DAYS",
    "PRICES",
    "SOURCE",
    "SPEECH_MODELS",
    "SpeechModel",
    "outdated",
    "remark",
    "remarks",
]


@dataclass(frozen=True, slots=True)
class SpeechModel:
    """What the vendor says of a model: it is current unless one of the times is set."""

    price_usd: float
    """USD per hour of audio; of a retired one the last that it had, for results that it made."""
    deprecated_since: str | None = None
    """`YYYY-MM-DD`, or as much of it as is known. It still works."""
    retired_since: str | None = None
    """The same. It is refused, or its successor does the work."""


AS_OF: Final = date(2026, 11, 29)
"""The day on which the table was as the vendor has it."""

SOURCE: Final = "https://www.assemblyai.com/docs/getting-started/models"
"""Where the vendor has names, states and prices."""

SPEECH_MODELS: Final[Mapping[str, SpeechModel]] = {
    "assemblyai-stt-3-7": SpeechModel(0.21),
    "universal-2": SpeechModel(0.15),
    "universal-3-5-pro": SpeechModel(0.21, deprecated_since="2026-11-17"),
    "universal-3-pro": SpeechModel(0.21, retired_since="2026-07"),
}
"""By the name that is asked for, and stands in `speech_model_used`."""

DEFAULT_SPEECH_MODELS: Final = ("assemblyai-stt-3-7", "universal-2")
"""Models in order of preference; the first that knows the language does the work.

Always sent, since the service's own default changes with time, and the price with it. The last one
knows 99 languages: what no model of the list knows ends in an error.
Source: https://www.assemblyai.com/docs/pre-recorded-audio/select-the-speech-model
"""

PRICES: Final[Mapping[str, float]] = {
    name: model.price_usd for name, model in SPEECH_MODELS.items()
}
"""USD per hour of audio by `speech_model_used`."""

LASTS_DAYS: Final = 180
"""Days after which the table is told to be old. Ours: models changed four times in 2026."""


def remarks(lists: Iterable[Iterable[str]]) -> Iterator[str]:
    """What to know of the models in these lists before they are asked for, each name once."""
    for name in dict.fromkeys(chain.from_iterable(lists)):
        if said := remark(name):
            yield said


def remark(name: str) -> str | None:
    """What to know of a model before it is asked for, one line; None of one that is current."""
    model = SPEECH_MODELS.get(name)
    if model is None or not (model.deprecated_since or model.retired_since):
        return None
    state = (
        f"is retired since {model.retired_since}: the service refuses it, or lets another one work"
        if model.retired_since
        else f"is deprecated since {model.deprecated_since}: it works until it is retired"
    )
    instead = ", ".join(f'"{each}"' for each in DEFAULT_SPEECH_MODELS)
    return f"the speech model `{name}` {state}; the vendor advises `speech_models = [{instead}]`"


def outdated(now: float) -> str | None:
    """What to say of the table's age at a moment, Unix seconds; None while it counts as young."""
    days = (moment(now).date() - AS_OF).days
    if days <= LASTS_DAYS:
        return None
    return (
        f"names and prices of speech models are of {AS_OF}, {days} days old: compare them with"
        f" {SOURCE}, update the program, or correct `[prices]`"
    )
