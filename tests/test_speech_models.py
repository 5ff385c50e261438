"""The vendor's models as the program knows them: one table, and what is said of it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.engine import options as engine
from pipeline.speech_models import (
    AS_OF,
    DEFAULT_SPEECH_MODELS,
    LASTS_DAYS,
    PRICES,
    SPEECH_MODELS,
    outdated,
    remark,
)
from tests.support import service_options as scripted

EXAMPLE = Path(__file__).parents[1] / "config.example.toml"
ON_THE_DAY = datetime(AS_OF.year, AS_OF.month, AS_OF.day, 23, 59, tzinfo=UTC)
CURRENT = [name for name in SPEECH_MODELS if remark(name) is None]


def test_the_default_is_what_the_vendor_advises() -> None:
    """The newest model comes first; the one that knows all languages stays at the end."""
    assert DEFAULT_SPEECH_MODELS == ("assemblyai-stt-3-7", "universal-2")
    assert {*DEFAULT_SPEECH_MODELS} <= {*CURRENT}


def test_prices_are_those_of_the_table() -> None:
    """Each name has one price, also those that are not offered any more: results have them."""
    assert PRICES == {
        "assemblyai-stt-3-7": 0.21,
        "universal-2": 0.15,
        "universal-3-5-pro": 0.21,
        "universal-3-pro": 0.21,
    }


def test_the_example_is_of_the_same_day() -> None:
    """The settings file that shows the prices says of which day they are."""
    assert f"those of {AS_OF}." in EXAMPLE.read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("universal-3-5-pro", "is deprecated since 2026-11-17: it works"),
        ("universal-3-pro", "is retired since 2026-07: the service refuses it"),
    ],
)
def test_what_is_not_current_is_remarked(name: str, said: str) -> None:
    """Of a deprecated or retired name the state is said, since when, and what is advised."""
    remarked = remark(name)

    assert remarked is not None
    assert f"`{name}` {said}" in remarked
    assert '`speech_models = ["assemblyai-stt-3-7", "universal-2"]`' in remarked


@pytest.mark.parametrize("name", [*CURRENT, "somebody's", ""])
def test_of_current_and_unknown_names_nothing_is_said(name: str) -> None:
    """What the table has nothing against is asked for without a word."""
    assert remark(name) is None


@pytest.mark.parametrize(
    ("days", "is_old"),
    [(-400, False), (0, False), (LASTS_DAYS, False), (LASTS_DAYS + 1, True), (4000, True)],
)
def test_the_table_ages(days: int, is_old: bool) -> None:
    """Half a year after its day, and no sooner, the table is told to be old, and how old."""
    said = outdated((ON_THE_DAY + timedelta(days=days)).timestamp())

    assert (said is not None) is is_old
    assert said is None or (f"{AS_OF}, {days} days old" in said and "[prices]" in said)


@pytest.mark.parametrize("now", [-1e20, 1e20, float("-inf"), float("inf")])
def test_no_clock_is_too_wrong(now: float) -> None:
    """A clock that shows a year that there is not is no error."""
    assert (outdated(now) is not None) is (now > 0)


def test_stand_in_and_engine_take_the_same_names() -> None:
    """What stands in for the service refuses what the table has as retired, and takes the rest."""
    taken = {name for name, model in SPEECH_MODELS.items() if not model.retired_since}
    retired = SPEECH_MODELS.keys() - taken
    url = "https://engine.invalid/upload/0"

    assert (taken, retired) == ({*scripted.SPEECH_MODELS}, {*scripted.RETIRED})
    assert scripted.DEFAULT_SPEECH_MODELS == engine.DEFAULT_SPEECH_MODELS == DEFAULT_SPEECH_MODELS
    for name in SPEECH_MODELS:
        body = {"audio_url": url, "speech_models": [name]}
        assert (scripted.refusal(body) is None) is (name in taken)
        if name in taken:
            engine.checked(body, {"en"})
        else:
            with pytest.raises(engine.Refused, match="one or more of"):
                engine.checked(body, {"en"})
