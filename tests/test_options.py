"""The promises of `pipeline.options`: nothing is sent that the service would refuse or ignore."""

import contextlib
import json
import math
from collections.abc import Mapping
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.options import (
    OptionError,
    canonical,
    check_options,
    merge,
    parse_assignment,
    request_options,
)
from pipeline.speech_models import DEFAULT_SPEECH_MODELS


def _understood(task: str, request: Mapping[str, object]) -> dict[str, object]:
    return {"speech_understanding": {"request": {task: request}}}


def _refusal(options: Mapping[str, object]) -> OptionError:
    with pytest.raises(OptionError) as refused:
        check_options(options)
    return refused.value


# ---------------------------------------------------------------- what is taken

TAKEN: list[dict[str, object]] = [
    {},
    {"speech_models": ["assemblyai-stt-9"]},
    {"domain": "medical-v1", "language_code": "de_ch"},
    {"language_code": "no"},
    {"language_code": "zh-Hant"},
    {"language_code": "de", "language_detection": False},
    {"language_codes": ["en", "es"]},
    {"language_detection": True, "language_confidence_threshold": 0.4},
    {
        "language_detection_options": {
            "expected_languages": ["en", "de"],
            "fallback_language": "de",
            "code_switching": True,
            "code_switching_confidence_threshold": 0,
            "localization": ["en_au"],
            "on_low_language_confidence": "fallback",
            "on_no_speech_detected": "fallback",
            "swiss_german": True,
        }
    },
    {"language_detection_options": {"expected_languages": ["all"], "fallback_language": "fr"}},
    {"multichannel": True, "speaker_labels": True, "speakers_expected": 2},
    {
        "speaker_labels": True,
        "speaker_options": {
            "min_speakers_expected": 2,
            "max_speakers_expected": 2,
            "use_two_stage_clustering": False,
            "short_file_diarization_method": "balanced",
        },
    },
    {"audio_start_from": 0, "audio_end_at": 1, "speech_threshold": 1},
    {"keyterms_prompt": ["one two three four five six"] * 1_000},
    {
        "keyterms_prompt": ["caesura"],
        "keyterms_prompt_options": {"keyterms_match_strength": "high"},
    },
    {"prompt": "word " * 1_500, "temperature": 0.2, "remove_audio_tags": "speaker"},
    {"punctuate": False, "format_text": False, "disfluencies": True, "filter_profanity": True},
    {"custom_spelling": [{"from": ["di carlo", "decarlo"], "to": "DeCarlo"}]},
    {
        "redact_pii": True,
        "redact_pii_policies": ["person_name", "named_by_the_service_later"],
        "redact_pii_sub": "entity_name",
        "redact_pii_audio": True,
        "redact_pii_audio_quality": "wav",
        "redact_pii_audio_options": {
            "return_redacted_no_speech_audio": True,
            "override_audio_redaction_method": "silence",
        },
        "redact_pii_return_unredacted": True,
        "redact_static_entities": {"Projet Été-1": ["blue heron"] * 200},
    },
    {"auto_highlights": True, "iab_categories": True, "entity_detection": True},
    {"content_safety": True, "content_safety_confidence": 25, "sentiment_analysis": True},
    {"auto_chapters": True},
    {"summarization": True, "summary_model": "catchy", "summary_type": "gist"},
    {
        "summarization": True,
        "summary_model": "conversational",
        "summary_type": "bullets",
        "multichannel": True,
    },
    _understood("translation", {"target_languages": ["es", "de"], "formal": True}),
    {
        "speaker_labels": True,
        **_understood("speaker_identification", {"speaker_type": "role", "known_values": ["Host"]}),
    },
    {
        "speaker_labels": True,
        **_understood(
            "speaker_identification",
            {"speaker_type": "name", "speakers": [{"name": "Ada", "company": "Acme"}]},
        ),
    },
    _understood("custom_formatting", {"date": "mm/dd/yyyy", "format_utterances": True}),
    _understood("summarization", {"summary_type": "bullets", "effort": "medium"}),
    _understood("action_items", {"include_decisions": False, "effort": "low"}),
    {"+domain": "legal-v1", "+new_option": {"deep": [None, 1.5]}},
    {"speaker_labels": True, "speaker_options": {"+new": 1}},
    {"+language_code": "de", "language_detection": True},
]


@pytest.mark.parametrize("options", TAKEN, ids=lambda options: ",".join(options) or "none")
def test_what_the_service_takes_is_taken(options: dict[str, object]) -> None:
    """Every option of the service is accepted, at the ends of its range, and can be sent."""
    check_options(options)

    assert json.loads(json.dumps(request_options(options)))


# ---------------------------------------------------------------- what is refused

REFUSED: list[tuple[dict[str, object], str, str]] = [
    # Types and ranges.
    ({"speaker_labels": "True"}, "speaker_labels", 'must be true or false, not "True"'),
    ({"punctuate": 1}, "punctuate", "must be true or false, not 1"),
    ({"prompt": 2024}, "prompt", "not 2024"),
    ({"prompt": "  "}, "prompt", "must be text"),
    ({"prompt": "word " * 1_501}, "prompt", "at most 1,500 words"),
    ({"prompt": "\udcff"}, "prompt", "must be text"),
    ({"temperature": 1.1}, "temperature", "a number from 0 to 1, not 1.1"),
    ({"temperature": True}, "temperature", "a number from 0 to 1, not true"),
    ({"speech_threshold": math.nan}, "speech_threshold", "a number from 0 to 1"),
    ({"audio_start_from": -1}, "audio_start_from", "a whole number of milliseconds from 0"),
    ({"audio_end_at": 1.5}, "audio_end_at", "a whole number of milliseconds from 1"),
    ({"speech_models": "universal-2"}, "speech_models", "must be a list"),
    ({"speech_models": []}, "speech_models", "empty list"),
    ({"speech_models": ["universal-2", ""]}, "speech_models[1]", "must be text in quotes"),
    ({"domain": "legal-v1"}, "domain", 'must be "medical-v1"'),
    ({"language_code": False}, "language_code", 'for Norwegian put it in quotes, "no"'),
    ({"language_code": "English (US)"}, "language_code", "a language code"),
    ({"language_codes": ["en"]}, "language_codes", "takes two codes"),
    ({"language_codes": ["de", "fr"]}, "language_codes", 'one of which is "en"'),
    ({"language_codes": ["en", "de", "fr"]}, "language_codes", "at most 2 entries, not 3"),
    ({"keyterms_prompt": ["x"] * 1_001}, "keyterms_prompt", "at most 1000 entries, not 1001"),
    ({"keyterms_prompt": ["a b c d e f g"]}, "keyterms_prompt[0]", "at most 6 words"),
    ({"custom_spelling": [{"from": ["a"], "to": "b c"}]}, "custom_spelling[0].to", "one word"),
    ({"custom_spelling": [{"from": ["a"]}]}, "custom_spelling[0]", "needs `custom_spelling[0].to`"),
    ({"speaker_options": 2}, "speaker_options", "must be an object, not 2"),
    ({"prompt": None}, "prompt", "is null; leave it out"),
    ({"+new": date(2026, 1, 1)}, "+new", "a value that JSON can hold"),
    ({"+new": [math.inf]}, "+new", "a value that JSON can hold"),
    (
        {"redact_pii": True, "redact_static_entities": {"a/b": ["x"]}},
        "redact_static_entities",
        'the label "a/b"',
    ),
    (
        {"redact_pii": True, "redact_static_entities": {"a": ["x" * 201]}},
        "redact_static_entities.a[0]",
        "at most 200 characters",
    ),
    (
        {"redact_pii": True, "redact_static_entities": {f"l{n}": ["x"] for n in range(101)}},
        "redact_static_entities",
        "at most 100 labels, not 101",
    ),
    (
        {"content_safety": True, "content_safety_confidence": 24},
        "content_safety_confidence",
        "from 25 to 100, not 24",
    ),
    (
        {"language_detection_options": {"localization": ["en_au", "en_uk"]}},
        "language_detection_options.localization",
        "at most 1",
    ),
    # Names.
    ({"speaker_lables": True}, "speaker_lables", "did you mean `speaker_labels`?"),
    (
        {"min_speakers_expected": 2},
        "min_speakers_expected",
        "did you mean `speaker_options.min_speakers_expected`?",
    ),
    (
        {"speaker_labels": True, "speaker_options": {"min_speakers": 2}},
        "speaker_options.min_speakers",
        "did you mean `speaker_options.min_speakers_expected`?",
    ),
    ({"qqq": 1}, "qqq", "`+qqq` is sent unchecked"),
    ({"domain": "medical-v1", "+domain": "x"}, "domain", "set twice"),
    ({"speech_model": "best"}, "speech_model", "use `speech_models`"),
    ({"word_boost": ["x"]}, "word_boost", "use `keyterms_prompt`"),
    ({"dual_channel": True}, "dual_channel", "use `multichannel`"),
    ({"topics": ["x"]}, "topics", "has no effect"),
    ({"audio_url": "https://example.org/a"}, "audio_url", "is set by the program"),
    ({"+audio_url": "https://example.org/a"}, "audio_url", "is set by the program"),
    ({"webhook_url": "https://example.org"}, "webhook_url", "not what is transcribed"),
    ({"webhook_auth_header_value": "x"}, "webhook_auth_header_value", "where notifications go"),
    # Combinations.
    ({"language_code": "de", "language_detection": True}, "language_code", "exclude each other"),
    ({"language_code": "de", "language_codes": ["en", "de"]}, "language_code", "exclude"),
    ({"language_codes": ["en", "de"], "language_detection": True}, "language_codes", "exclude"),
    ({"language_detection": False}, "language_detection", "is off and no `language_code` is set"),
    (
        {"language_code": "de", "language_confidence_threshold": 0},
        "language_confidence_threshold",
        "exclude",
    ),
    (
        {"language_code": "de", "language_detection_options": {"code_switching": True}},
        "language_detection_options",
        "exclude",
    ),
    (
        {
            "language_detection_options": {
                "expected_languages": ["en"],
                "fallback_language": "de",
            }
        },
        "language_detection_options.fallback_language",
        "must be `auto` or one of",
    ),
    (
        {"language_detection_options": {"code_switching_confidence_threshold": 0.1}},
        "language_detection_options.code_switching_confidence_threshold",
        "has no effect without",
    ),
    ({"speakers_expected": 2}, "speakers_expected", "without `speaker_labels`"),
    ({"speaker_options": {"max_speakers_expected": 2}}, "speaker_options", "`speaker_labels`"),
    (
        {"speaker_labels": True, "speakers_expected": 2, "speaker_options": {"+x": 1}},
        "speakers_expected",
        "exclude each other",
    ),
    (
        {
            "speaker_labels": True,
            "speaker_options": {"min_speakers_expected": 3, "max_speakers_expected": 2},
        },
        "speaker_options.min_speakers_expected",
        "must be at most",
    ),
    ({"speaker_labels": True, "punctuate": False}, "speaker_labels", "with `punctuate` off"),
    ({"audio_start_from": 5, "audio_end_at": 5}, "audio_start_from", "must be less than"),
    ({"keyterms_prompt": ["x"], "prompt": "y"}, "keyterms_prompt", "exclude each other"),
    (
        {"keyterms_prompt_options": {"keyterms_match_strength": "high"}},
        "keyterms_prompt_options",
        "without `keyterms_prompt`",
    ),
    ({"redact_pii": True, "format_text": False}, "redact_pii", "with `format_text` off"),
    ({"redact_pii_policies": ["date"]}, "redact_pii_policies", "without `redact_pii`"),
    ({"redact_pii_sub": "hash"}, "redact_pii_sub", "without `redact_pii`"),
    ({"redact_pii_audio": True}, "redact_pii_audio", "without `redact_pii`"),
    ({"redact_pii_return_unredacted": True}, "redact_pii_return_unredacted", "`redact_pii`"),
    ({"redact_static_entities": {"a": ["x"]}}, "redact_static_entities", "`redact_pii`"),
    ({"redact_pii_audio_quality": "mp3"}, "redact_pii_audio_quality", "`redact_pii_audio`"),
    ({"content_safety_confidence": 50}, "content_safety_confidence", "`content_safety`"),
    ({"sentiment_analysis": True, "punctuate": False}, "sentiment_analysis", "`punctuate` off"),
    ({"auto_chapters": True, "punctuate": False}, "auto_chapters", "`punctuate` off"),
    ({"summarization": True, "format_text": False}, "summarization", "`format_text` off"),
    ({"summarization": True, "auto_chapters": True}, "auto_chapters", "exclude each other"),
    ({"summarization": True, "summary_type": "gist"}, "summary_type", "without `summary_model`"),
    ({"summarization": True, "summary_model": "catchy"}, "summary_model", "`summary_type`"),
    (
        {"summarization": True, "summary_model": "catchy", "summary_type": "bullets"},
        "summary_type",
        '"gist" or "headline"',
    ),
    (
        {"summarization": True, "summary_model": "informative", "summary_type": "gist"},
        "summary_type",
        'anything but "gist"',
    ),
    (
        {"summarization": True, "summary_model": "conversational", "summary_type": "bullets"},
        "summary_model",
        "needs `speaker_labels` or `multichannel`",
    ),
    ({"speech_understanding": {}}, "speech_understanding", "needs `speech_understanding.request`"),
    (
        {"speech_understanding": {"request": {"action_items": {}, "custom_formatting": {}}}},
        "speech_understanding.request",
        "takes exactly one of",
    ),
    (
        _understood("translation", {}),
        "speech_understanding.request.translation",
        "needs `speech_understanding.request.translation.target_languages`",
    ),
    (
        _understood("translation", {"target_languages": ["es"], "match_original_utterance": True}),
        "speech_understanding.request.translation.match_original_utterance",
        "without `speaker_labels`",
    ),
    (
        _understood("speaker_identification", {"speaker_type": "name"}),
        "speech_understanding.request.speaker_identification",
        "without `speaker_labels`",
    ),
    (
        {
            "speaker_labels": True,
            **_understood("speaker_identification", {"speaker_type": "role"}),
        },
        "speech_understanding.request.speaker_identification.speaker_type",
        "needs `known_values` or `speakers`",
    ),
    (
        {
            "speaker_labels": True,
            **_understood(
                "speaker_identification",
                {"speaker_type": "role", "speakers": [{"name": "Ada"}]},
            ),
        },
        "speech_understanding.request.speaker_identification.speakers",
        "the key that `speaker_type` names",
    ),
]


@pytest.mark.parametrize(
    ("options", "key", "message"), REFUSED, ids=[f"{key}: {said}" for _, key, said in REFUSED]
)
def test_what_the_service_would_refuse_is_refused(
    options: dict[str, object], key: str, message: str
) -> None:
    """One problem, named by its option, in words that say what is wrong."""
    error = _refusal(options)

    assert [problem.key for problem in error.problems] == [key]
    assert error.key == key
    assert message in str(error)
    assert f"`{key.removeprefix('+')}" in str(error).replace("+", "")


def test_all_problems_are_told_at_once() -> None:
    """Every problem is a line of one message, and a broken value breaks no rules besides."""
    error = _refusal({"speaker_labels": "yes", "speakers_expected": 2, "temperature": 2, "qq": 0})

    assert [problem.key for problem in error.problems] == ["speaker_labels", "temperature", "qq"]
    assert len(str(error).splitlines()) == 3


_JSON = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=8,
)
_VALUES = st.none() | _JSON | st.floats() | st.dates() | st.binary()
_NAMES = st.sampled_from([key for options in TAKEN for key in options])


@given(st.dictionaries(_NAMES, _VALUES))
def test_no_value_breaks_the_check(options: dict[str, object]) -> None:
    """Whatever the values are, the options pass or are refused as an `OptionError`."""
    with contextlib.suppress(OptionError):
        check_options(options)


# ---------------------------------------------------------------- what is sent


def test_models_and_detection_are_sent_when_nothing_is_set() -> None:
    """The default request says its models and asks for the language to be detected, no more."""
    assert request_options({}) == {
        "speech_models": list(DEFAULT_SPEECH_MODELS),
        "language_detection": True,
    }


def test_what_is_set_is_sent_as_it_is() -> None:
    """Set models replace the default ones, a set language replaces detection."""
    options = {"speech_models": ["m"], "language_code": "de", "language_detection": False}

    assert request_options(options) == {"speech_models": ["m"], "language_code": "de"}


@pytest.mark.parametrize("options", TAKEN, ids=lambda options: ",".join(options) or "none")
def test_one_thing_says_the_language(options: dict[str, object]) -> None:
    """A request holds a language or asks for detection: never both, never neither."""
    sent = request_options({k: v for k, v in options.items() if not k.startswith("+lang")})

    says = sent.keys() & {"language_code", "language_codes", "language_detection"}
    assert len(says) == 1
    assert sent.get("language_detection", True) is True


def test_a_plus_is_not_sent() -> None:
    """Names with a plus are sent without it, at any level, and their values as they are."""
    options = {"+new": {"+kept": 1}, "speaker_options": {"+newer": 2}}

    sent = request_options(options)

    assert sent["new"] == {"+kept": 1}
    assert sent["speaker_options"] == {"newer": 2}


# ---------------------------------------------------------------- what identifies

_OPTIONS = st.dictionaries(st.text("abc", min_size=1), _JSON, max_size=4)


@given(_OPTIONS)
def test_identity_is_one_for_one_meaning(options: dict[str, object]) -> None:
    """Order of keys does not matter, and reading the text back gives the same options."""
    turned = dict(reversed(options.items()))

    assert canonical(options) == canonical(turned)
    assert json.loads(canonical(options)) == options


def test_identity_is_exact() -> None:
    """The text that identifies options is JSON with sorted keys, no spaces and plain numbers."""
    options = {
        "prompt": "é 1",
        "+audio_end_at": 1.0,
        "temperature": 0.30,
        "keyterms_prompt": ("a",),
    }

    expected = '{"audio_end_at":1,"keyterms_prompt":["a"],"prompt":"é 1","temperature":0.3}'
    assert expected == canonical(options)


def test_defaults_are_no_part_of_identity() -> None:
    """Nothing set is the empty object, whatever is sent besides."""
    assert canonical({}) == "{}"


# ---------------------------------------------------------------- how they are given


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("speaker_labels=true", ("speaker_labels", True)),
        ("language_code=no", ("language_code", "no")),
        ("language_code=en_us", ("language_code", "en_us")),
        ("prompt=a = b", ("prompt", "a = b")),
        ('prompt="2024"', ("prompt", "2024")),
        ("prompt=", ("prompt", "")),
        ("temperature=0.5", ("temperature", 0.5)),
        ("temperature=NaN", ("temperature", "NaN")),
        ('speech_models=["a","b"]', ("speech_models", ["a", "b"])),
        ("prompt=null", ("prompt", None)),
        ("+new.deep=1", ("+new", {"deep": 1})),
        (
            "speaker_options.min_speakers_expected=2",
            ("speaker_options", {"min_speakers_expected": 2}),
        ),
    ],
)
def test_assignments_are_json_or_text(text: str, expected: tuple[str, object]) -> None:
    """VALUE is JSON if it parses, else text; dots in KEY lead into nested options."""
    assert parse_assignment(text) == expected


@pytest.mark.parametrize("text", ["speaker_labels", "=1", "+=1", "a..b=1", ".a=1", ""])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    """Without a name or an equals sign there is nothing to set."""
    with pytest.raises(OptionError, match="KEY=VALUE"):
        parse_assignment(text)


def test_later_options_win_and_merge() -> None:
    """Objects merge key by key, all else is replaced, and the inputs stay as they were."""
    base = {"prompt": "a", "keyterms_prompt": ["x"], "speaker_options": {"min": 1, "max": 3}}
    override = {"prompt": "b", "keyterms_prompt": ["y"], "speaker_options": {"max": 4}}
    kept = json.dumps([base, override])

    assert merge(base, override) == {
        "prompt": "b",
        "keyterms_prompt": ["y"],
        "speaker_options": {"min": 1, "max": 4},
    }
    assert json.dumps([base, override]) == kept


def test_none_takes_options_back() -> None:
    """`None` removes a key, whether it was set or not, and an object with its last key."""
    base = {"prompt": "a", "speaker_options": {"min": 1}, "punctuate": False}
    override = {"prompt": None, "speaker_options": {"min": None}, "multichannel": None}

    assert merge(base, override) == {"punctuate": False}


@given(_OPTIONS)
def test_merging_with_nothing_is_no_change(options: dict[str, object]) -> None:
    """Options laid over nothing, under nothing, or over themselves are themselves."""
    assert merge(options, {}) == merge({}, options) == merge(options, options) == options
