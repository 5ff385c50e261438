"""A request asks for what the engine does, or is refused by name: never answered with less."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.options import Refused, checked

LANGUAGES = {"en", "de", "fr", "no", "ja"}
URL = "https://engine.invalid/upload/0"


def accepted(**options: Any) -> dict[str, Any]:
    return checked({"audio_url": URL, **options}, LANGUAGES)[1]


def refusal(**options: Any) -> str:
    with pytest.raises(Refused) as refused:
        accepted(**options)
    return str(refused.value)


DONE: dict[str, list[Any]] = {
    "speech_models": [["assemblyai-stt-3-7", "universal-2"], ["universal-3-5-pro"]],
    "language_code": ["en", "en_us", "de_ch", "no"],
    "language_detection": [True],
    "language_confidence_threshold": [0, 0.4, 1],
    "punctuate": [True, False],
    "format_text": [True, False],
    "filter_profanity": [True, False],
    "multichannel": [True, False],
    "audio_start_from": [0, 1500],
    "audio_end_at": [1, 90_000_000],
    "speech_threshold": [0, 0.5, 1.0],
    "custom_spelling": [[], [{"from": ["sequel", "s q l"], "to": "SQL"}]],
    "remove_audio_tags": ["all", "speaker"],
    "language_detection_options": [
        {},
        {"expected_languages": ["en", "de_ch"], "fallback_language": "auto"},
        {"expected_languages": ["all"], "fallback_language": "fr"},
        {"expected_languages": ["en", "fr"], "fallback_language": "fr"},
        {"code_switching": False, "code_switching_confidence_threshold": 0.3},
        {"on_low_language_confidence": "fallback", "on_no_speech_detected": "error"},
        {"localization": None},
    ],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in DONE.items() for v in values])
def test_what_the_engine_does_is_accepted_as_it_is(name: str, value: object) -> None:
    """An option that is honoured goes through unchanged."""
    assert accepted(**{name: value}) == {name: value}


WRONG: dict[str, list[Any]] = {
    "speech_models": [
        [],
        "universal-2",
        [""],
        [1],
        [[]],
        ["loud"],
        ["universal-2", "universal-3-pro"],
    ],
    "language_code": [7, ["en"], "", "xx", "fallback"],
    "language_detection": ["true", 1],
    "language_confidence_threshold": [-0.1, 1.1, "0.4", True],
    "punctuate": ["false", 0],
    "format_text": ["x", []],
    "audio_start_from": [-1, 1.5, "0", True],
    "audio_end_at": [-1, 0, "1"],
    "speech_threshold": [2, -1, "a"],
    "custom_spelling": [
        {},
        ["a"],
        [{"from": "a", "to": "b"}],
        [{"from": [], "to": "b"}],
        [{"from": ["a"], "to": "two words"}],
        [{"from": ["a"], "to": ""}],
        [{"from": ["a"]}],
        [{"from": ["one two three four five six"], "to": "b"}],
        [{"from": ["a"], "to": "b", "more": 1}],
    ],
    "remove_audio_tags": ["none", True],
    "language_detection_options": [
        [],
        {"expected_language": ["en"]},
        {"expected_languages": "en"},
        {"expected_languages": [1]},
        {"code_switching": "yes"},
        {"code_switching_confidence_threshold": 2},
        {"on_low_language_confidence": "ignore"},
    ],
    "speaker_labels": ["yes", 1],
    "temperature": [-1, 2, "0"],
    "content_safety_confidence": [24, 101],
    "redact_pii_sub": ["entity_type"],
    "summary_type": ["poem"],
    "keyterms_prompt": ["a", [1]],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in WRONG.items() for v in values])
def test_wrong_values_are_refused_by_name(name: str, value: object) -> None:
    """A value of another type or out of range is refused, and the sentence says of what."""
    assert name.split("_")[0] in refusal(**{name: value})


def test_booleans_are_refused_in_the_services_words() -> None:
    """The one sentence about types that the service's specification shows is ours, too."""
    assert refusal(format_text="yes") == "format_text must be a Boolean"


REFUSED: dict[str, Any] = {
    "speaker_labels": True,
    "disfluencies": True,
    "language_codes": ["en", "es"],
    "keyterms_prompt": ["Overnight"],
    "prompt": "a letter",
    "temperature": 0.5,
    "domain": "medical-v1",
    "webhook_url": "https://example.org/",
    "webhook_auth_header_name": "X-Key",
    "auto_highlights": True,
    "content_safety": True,
    "iab_categories": True,
    "entity_detection": True,
    "sentiment_analysis": True,
    "auto_chapters": True,
    "summarization": True,
    "summary_type": "gist",
    "redact_pii": True,
    "redact_pii_policies": ["drug"],
    "redact_pii_sub": "entity_name",
    "redact_pii_audio": True,
    "redact_pii_audio_options": {"return_redacted_no_speech_audio": True},
    "speech_understanding": {"request": {"translation": {"target_languages": ["de"]}}},
    "word_boost": ["Overnight"],
    "speakers_expected": 2,
    "speaker_options": {"min_speakers_expected": 2},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_engine_cannot_do_is_refused(name: str) -> None:
    """An option of the service that the engine lacks is never passed over in silence."""
    assert refusal(**{name: REFUSED[name]}) == (
        f"{name} is not supported by the embedded engine: leave it out, "
        "or send this recording to the AssemblyAI API"
    )


@pytest.mark.parametrize("name", ["code_switching", "localization"])
def test_detection_that_the_engine_cannot_do_is_refused(name: str) -> None:
    """The same holds inside of `language_detection_options`."""
    value = {"code_switching": True, "localization": ["en_au"]}[name]

    assert name in refusal(language_detection_options={name: value})


ASKS_FOR_NOTHING: dict[str, list[Any]] = {
    "speaker_labels": [None, False],
    "keyterms_prompt": [None, []],
    "prompt": [None, ""],
    "temperature": [None, 0, 0.0],
    "content_safety_confidence": [50],
    "redact_pii_sub": ["hash"],
    "redact_pii_audio_quality": ["mp3"],
    "redact_pii_audio_options": [{}, {"return_redacted_no_speech_audio": False}],
    "summary_model": ["informative"],
    "summary_type": ["bullets"],
    "webhook_url": [None, ""],
    "speech_model": [None],
}


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, values in ASKS_FOR_NOTHING.items() for v in values]
)
def test_what_asks_for_nothing_is_accepted(name: str, value: object) -> None:
    """Null, false, empty and the service's defaults are fine; nulls are as if not given."""
    assert accepted(**{name: value}) == ({} if value is None else {name: value})


@pytest.mark.parametrize("value", [None, False, 1])
def test_unknown_names_are_refused(value: object) -> None:
    """A slip of the pen is told, whatever the value."""
    assert refusal(puncuate=value) == "puncuate is not a known parameter"


def test_deprecated_model_is_refused_in_the_services_words() -> None:
    """`speech_model` is refused with the advice to send `speech_models`."""
    assert refusal(speech_model="best").startswith(
        'speech_model is deprecated. Use "speech_models" instead.'
    )


def test_refused_models_are_answered_with_those_that_are_taken() -> None:
    """Names that the service refuses are refused in its words, which list those that it takes."""
    assert refusal(speech_models=["universal-3-pro"]) == (
        '"speech_models" must be a non-empty list containing one or more of: '
        '"assemblyai-stt-3-7", "universal-3-5-pro", "universal-2"'
    )


def test_the_engines_own_model_may_be_asked_for() -> None:
    """What the engine's own model is called is taken like the service's names, and no other."""
    asked = {"audio_url": URL, "speech_models": ["tiny.en", "universal-2"]}

    assert checked(asked, LANGUAGES, ("tiny.en", "whisper-tiny.en"))[1] == {
        "speech_models": asked["speech_models"]
    }
    assert "speech_models" in refusal(speech_models=["tiny.en"])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"language_code": "en", "language_detection": True}, "language_code"),
        ({"language_detection": False}, "language_detection"),
        ({"audio_start_from": 5, "audio_end_at": 5}, "audio_start_from"),
        ({"language_code": "en", "language_confidence_threshold": 0.5}, "language_detection"),
        (
            {"language_code": "en", "language_detection_options": {"expected_languages": ["en"]}},
            "language_detection",
        ),
        (
            {
                "language_detection_options": {
                    "expected_languages": ["en"],
                    "fallback_language": "fr",
                }
            },
            "fallback_language",
        ),
        ({"language_detection_options": {"expected_languages": ["xx"]}}, "'xx'"),
        ({"language_detection_options": {"fallback_language": "xx"}}, "'xx'"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], named: str) -> None:
    """Combinations that the service refuses, and languages that the model lacks."""
    assert named in refusal(**options)


@pytest.mark.parametrize("audio_url", [None, ""])
def test_missing_url_is_not_found(audio_url: str | None) -> None:
    """Without an audio_url there is the service's own sentence."""
    assert refusal(audio_url=audio_url) == "Transcript creation error, audio_url not found"


@pytest.mark.parametrize(
    "audio_url", ["ftp://x", "a.mp3", "httpx://", 7, ["http://x"], " http://x"]
)
def test_url_that_is_none_should_start_with_http(audio_url: object) -> None:
    """Whatever is no http URL gets the service's own sentence."""
    assert (
        refusal(audio_url=audio_url)
        == "Transcript creation error, audio_url should start with http"
    )


@pytest.mark.parametrize("value", ["\ud800", float("nan"), float("inf")])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    """Half a character or a number that is none would come back as broken JSON: refused."""
    assert "must be JSON" in refusal(prompt=value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)
NAMES = st.sampled_from([*DONE, *REFUSED, "audio_url", "speech_model"]) | st.text()


@given(st.dictionaries(NAMES, JSON) | JSON)
def test_any_json_is_accepted_or_refused(body: Any) -> None:
    """No body makes the check fail in another way, and what it accepts can be stored."""
    try:
        audio_url, options = checked(body, LANGUAGES)
    except Refused:
        return

    assert audio_url.startswith("http")
    assert json.loads(json.dumps(options)) == options
