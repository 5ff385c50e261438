"""
What may be asked of `POST /v2/transcript`, checked before anything is sent.

In: options as a person gives them, from a TOML table or `--set KEY=VALUE`. Out: the body of a
request (but for `audio_url`), the text that identifies the options, or an `OptionError` that
lists everything wrong at once. `_OPTIONS` says what each option takes, `_RULES` what they mean to
one another. Pure: no I/O.

The service forbids keys that it does not know, so an unknown key is an error that names the
nearest known one. For an option newer than this table, put a plus before its name, at any level
(`--set +new_option=true`, `--set speaker_options.+new_option=2`): it is sent without the plus,
unchecked, and rules that mention it do not apply. The same lets a value through that the table
does not know (`--set +domain=legal-v1`).
"""

import difflib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, Protocol

from pipeline.speech_models import DEFAULT_SPEECH_MODELS

__all__ = [
    "OptionError",
    "Problem",
    "asked_models",
    "canonical",
    "check_options",
    "merge",
    "parse_assignment",
    "request_options",
]


class Problem(NamedTuple):
    """One thing wrong with the options."""

    key: str
    """The option at fault, nested ones with dots: `speaker_options.min_speakers_expected`."""
    message: str
    """What is wrong with it and what to do, as one line without a full stop."""


class OptionError(ValueError):
    """
    Options that the service would refuse, ignore, or take for something else.

    Its text is one problem a line.
    """

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems
        self.key = problems[0].key
        """The option that the first problem is about."""

    def __str__(self) -> str:
        return "\n".join(problem.message for problem in self.problems)


def check_options(options: Mapping[str, object]) -> None:
    """
    Nothing, if the service can be asked for these options.

    Model and policy names and language codes are only checked for their form: the service adds
    to them without notice, and refuses unknown ones before it charges.

    Raises:
        OptionError: an unknown, refused or null key, a value of the wrong type or out of range,
            or options that exclude or need one another. All problems at once.
    """
    problems = list(_problems(options))
    if problems:
        raise OptionError(*problems)


def request_options(options: Mapping[str, object]) -> dict[str, object]:
    """
    The request body that these options make, but for `audio_url`.

    Adds `speech_models` where not set, and sees that one thing alone says the language: the
    `language_code` (or `language_codes`) given, else `language_detection`. Other defaults of the
    service are not sent.

    Args:
        options: as they passed `check_options`.

    Source: AssemblyAI openapi.yml, TranscriptParams; its default language has changed from
        `en_us` to detection, so none is relied upon.
    """
    body = {"speech_models": list(DEFAULT_SPEECH_MODELS), **_without_plus(options)}
    if not body.keys() & {"language_code", "language_codes"}:
        body.setdefault("language_detection", True)
    elif body.get("language_detection") is False:
        del body["language_detection"]
    return body


def asked_models(options: Mapping[str, object]) -> tuple[str, ...]:
    """The names of the models that a request with these options asks for, by preference."""
    asked = request_options(options)["speech_models"]
    return tuple(map(str, asked)) if isinstance(asked, list | tuple) else (str(asked),)


def canonical(options: Mapping[str, object]) -> str:
    """
    One text for one meaning of the options: the part of a recording's identity that they are.

    JSON with sorted keys, no spaces, characters as they are, and numbers by value (`1.0` and `1`
    are one). Holds what the user set and no default of ours, so that a changed default pays for
    nothing again.

    Args:
        options: as they passed `check_options`.

    Source: in the spirit of RFC 8785, JSON Canonicalization Scheme.
    """
    return json.dumps(
        _by_value(_without_plus(options)),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )


def parse_assignment(text: str) -> tuple[str, object]:
    """
    The option and value of `KEY=VALUE`, as `--set` takes them, unchecked.

    VALUE is JSON if it parses as JSON, else the text itself: `speaker_labels=true` is a boolean,
    `language_code=no` is text. Dots in KEY lead into nested options:
    `speaker_options.min_speakers_expected=2` gives
    `("speaker_options", {"min_speakers_expected": 2})`, ready for `merge`. A VALUE of `null`
    takes the option back.

    Raises:
        OptionError: there is no `=`, or no name before it or between its dots.
    """
    path, equals, given = text.partition("=")
    names = [name.strip() for name in path.split(".")]
    if not equals or not all(name.removeprefix("+") for name in names):
        raise OptionError(Problem(path, f"`{text}` is not of the form KEY=VALUE or KEY.KEY=VALUE"))
    value: object
    try:
        value = json.loads(given, parse_constant=_no_constant)
    except ValueError:
        value = given
    for name in reversed(names[1:]):
        value = {name: value}
    return names[0], value


def merge(base: Mapping[str, object], override: Mapping[str, object]) -> dict[str, object]:
    """
    The base with the override laid over it; neither is changed.

    The override wins; objects merge key by key, everything else is replaced whole. `None` takes
    a key away, and an object that loses its last key so goes with it.
    """
    merged = dict(base)
    for key, value in override.items():
        if isinstance(value, Mapping):
            below = merged.get(key)
            inner = merge(below if isinstance(below, Mapping) else {}, value)
            merged[key] = inner if inner or not value else None
        else:
            merged[key] = value
        if merged[key] is None:
            del merged[key]
    return merged


# ---------------------------------------------------------------- what an option can take


class _Kind(Protocol):
    def problems(self, path: str, value: object) -> Iterator[Problem]: ...


def _no_hint(value: object) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class _Value:
    """A single value: how to say what it must be, and whether it is."""

    expected: str
    accepts: Callable[[object], bool]
    hint: Callable[[object], str] = _no_hint

    def problems(self, path: str, value: object) -> Iterator[Problem]:
        if not self.accepts(value):
            message = f"`{path}` must be {self.expected}, not {_shown(value)}{self.hint(value)}"
            yield Problem(path, message)


@dataclass(frozen=True, slots=True)
class _List:
    """A list of at least one and at most so many of one kind."""

    of: _Kind
    at_most: int | None = None

    def problems(self, path: str, value: object) -> Iterator[Problem]:
        if not isinstance(value, list | tuple):
            yield Problem(path, f"`{path}` must be a list, not {_shown(value)}")
        elif not value:
            yield Problem(path, f"`{path}` is an empty list; leave it out")
        elif self.at_most and len(value) > self.at_most:
            yield Problem(path, f"`{path}` takes at most {self.at_most} entries, not {len(value)}")
        else:
            for position, entry in enumerate(value):
                yield from self.of.problems(f"{path}[{position}]", entry)


@dataclass(frozen=True, slots=True)
class _Labels:
    """An object whose keys the user chooses."""

    named: re.Pattern[str]
    of: _Kind
    at_most: int

    def problems(self, path: str, value: object) -> Iterator[Problem]:
        if not isinstance(value, Mapping):
            yield Problem(path, f"`{path}` must be an object, not {_shown(value)}")
            return
        if len(value) > self.at_most:
            yield Problem(path, f"`{path}` takes at most {self.at_most} labels, not {len(value)}")
        for label, entry in value.items():
            if not self.named.fullmatch(label):
                rule = "must be 1 to 80 letters, digits, spaces, `_` or `-`"
                yield Problem(path, f"the label {_shown(label)} of `{path}` {rule}")
            yield from self.of.problems(f"{path}.{label}", entry)


@dataclass(frozen=True, slots=True)
class _Object:
    """An object of named options."""

    fields: Mapping[str, _Kind]
    required: tuple[str, ...] = ()
    takes_others: bool = False
    takes_one: bool = False

    def names(self) -> Iterator[str]:
        """Every option in here, those of objects further in with dots."""
        for name, kind in self.fields.items():
            yield name
            if isinstance(kind, _Object):
                yield from (f"{name}.{inner}" for inner in kind.names())

    def problems(self, path: str, value: object) -> Iterator[Problem]:
        if not isinstance(value, Mapping):
            yield Problem(path, f"`{path}` must be an object, not {_shown(value)}")
            return
        inside = f"{path}." if path else ""
        for name, entry in value.items():
            yield from self._entry_problems(inside, name, entry)
        given = {name.removeprefix("+") for name in value}
        for name in self.required:
            if name not in given:
                yield Problem(path, f"`{path}` needs `{inside}{name}`")
        if self.takes_one and len(value) != 1:
            choice = ", ".join(f"`{name}`" for name in self.fields)
            yield Problem(path, f"`{path}` takes exactly one of {choice}, not {len(value)}")

    def _entry_problems(self, inside: str, name: str, entry: object) -> Iterator[Problem]:
        path = inside + name
        if entry is None:
            yield Problem(path, f"`{path}` is null; leave it out to get the service's default")
        elif name.startswith("+"):
            yield from _JSON.problems(path, entry)
        elif name in self.fields:
            yield from self.fields[name].problems(path, entry)
        elif self.takes_others:
            yield from _JSON.problems(path, entry)
        else:
            names = list(self.names())
            near = [known for known in names if known.endswith(f".{name}")]
            near = near or difflib.get_close_matches(name, names, n=1)
            meant = f"did you mean `{inside}{near[0]}`?" if near else "see the service's API page."
            sent = f"`{inside}+{name}` is sent unchecked"
            yield Problem(path, f"`{path}` is not an option; {meant} ({sent})")


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _is_unicode(value: object) -> bool:
    """Whether this is text that UTF-8 can hold: arguments that were not UTF-8 cannot be sent."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _is_json(value: object) -> bool:
    match value:
        case None | bool() | int():
            return True
        case float():
            return math.isfinite(value)
        case str():
            return _is_unicode(value)
        case list() | tuple():
            return all(map(_is_json, value))
        case Mapping():
            return all(map(_is_unicode, value)) and all(map(_is_json, value.values()))
    return False


def _text(expected: str, max_words: int | None = None, max_chars: int | None = None) -> _Value:
    def accepts(value: object) -> bool:
        return (
            isinstance(value, str)
            and _is_unicode(value)
            and not value.isspace()
            and 0 < len(value) <= (max_chars or len(value))
            and len(value.split()) <= (max_words or len(value))
        )

    return _Value(expected, accepts)


def _pattern(expected: str, pattern: str, hint: Callable[[object], str] = _no_hint) -> _Value:
    compiled = re.compile(pattern)
    return _Value(
        expected,
        lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None,
        hint,
    )


def _one_of(*names: str) -> _Value:
    return _Value(" or ".join(f'"{name}"' for name in names), lambda value: value in names)


def _integer(low: int, high: int | None = None, unit: str = "") -> _Value:
    bounds = f"from {low}" if high is None else f"from {low} to {high}"
    return _Value(
        f"a whole number{unit} {bounds}",
        lambda value: (
            isinstance(value, int)
            and not isinstance(value, bool)
            and low <= value
            and (high is None or value <= high)
        ),
    )


def _false_language(value: object) -> str:
    if value is not False:
        return ""
    return '; for Norwegian put it in quotes, "no": YAML reads a bare `no` as false'


_BOOLEAN: Final = _Value("true or false", lambda value: isinstance(value, bool))
_FRACTION: Final = _Value(
    "a number from 0 to 1",
    lambda value: (
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    ),
)
_NAME: Final = _text("text in quotes")
_JSON: Final = _Value("a value that JSON can hold", _is_json)
_LANGUAGE: Final = _pattern(
    'a language code in quotes, such as "en_us"',
    r"[A-Za-z]{2,8}([_-][A-Za-z0-9]{1,8})*",
    _false_language,
)
_EFFORT: Final = _one_of("low", "medium")

# Source of all that follow, where nothing else is said: AssemblyAI openapi.yml,
# TranscriptOptionalParams.
_DETECTION_OPTIONS: Final = _Object(
    {
        "expected_languages": _List(_LANGUAGE),
        "fallback_language": _LANGUAGE,
        "code_switching": _BOOLEAN,
        "code_switching_confidence_threshold": _FRACTION,
        # One locale for a language, and English alone has locales.
        "localization": _List(_one_of("en_au", "en_uk"), at_most=1),
        # Source of the rest: AssemblyAI Python and Node SDKs, language detection options.
        "on_low_language_confidence": _one_of("error", "fallback"),
        "on_no_speech_detected": _one_of("error", "fallback"),
        "swiss_german": _BOOLEAN,
        "language_detection_model": _NAME,
    }
)
_SPEAKER_OPTIONS: Final = _Object(
    {
        "min_speakers_expected": _integer(1),
        "max_speakers_expected": _integer(1),
        # Source of the rest: AssemblyAI Python SDK, types.SpeakerOptions.
        "use_two_stage_clustering": _BOOLEAN,
        "short_file_diarization_method": _one_of(
            "deliberate", "balanced", "conservative", "aggressive"
        ),
        "long_file_diarization_method": _one_of("standard", "experimental"),
    }
)
# Source: https://www.assemblyai.com/docs/pre-recorded-audio/custom-spelling
_SPELLING: Final = _Object(
    {
        "from": _List(_text("text of at most 5 words", max_words=5)),
        "to": _text("one word", max_words=1),
    },
    required=("from", "to"),
)
_SPEAKER: Final = _Object({"role": _NAME, "name": _NAME, "description": _NAME}, takes_others=True)
_UNDERSTANDING_TASKS: Final = {
    "translation": _Object(
        {
            "target_languages": _List(_LANGUAGE),
            "formal": _BOOLEAN,
            "match_original_utterance": _BOOLEAN,
        },
        required=("target_languages",),
    ),
    "speaker_identification": _Object(
        {
            "speaker_type": _one_of("role", "name"),
            "known_values": _List(_text("text of at most 35 characters", max_chars=35)),
            "speakers": _List(_SPEAKER),
        },
        required=("speaker_type",),
    ),
    # Source: https://www.assemblyai.com/docs/speech-understanding/custom-formatting
    "custom_formatting": _Object(
        {"date": _NAME, "phone_number": _NAME, "email": _NAME, "format_utterances": _BOOLEAN}
    ),
    # Source: AssemblyAI Python SDK, types.SummarizationRequest.
    "summarization": _Object(
        {
            "summary_type": _one_of("bullets", "paragraph"),
            "effort": _EFFORT,
            "headline_length": _integer(5, 15),
            "approximate_chapters": _integer(1),
        },
        required=("summary_type",),
    ),
    "action_items": _Object({"include_decisions": _BOOLEAN, "effort": _EFFORT}),
}

_OPTIONS: Final = _Object(
    {
        "speech_models": _List(_NAME),
        "domain": _one_of("medical-v1"),
        # Language.
        "language_code": _LANGUAGE,
        # Source: https://www.assemblyai.com/docs/speech-to-text/pre-recorded-audio/code-switching
        "language_codes": _List(_LANGUAGE, at_most=2),
        "language_detection": _BOOLEAN,
        "language_confidence_threshold": _FRACTION,
        "language_detection_options": _DETECTION_OPTIONS,
        # Speakers and channels.
        "multichannel": _BOOLEAN,
        "speaker_labels": _BOOLEAN,
        "speakers_expected": _integer(1),
        "speaker_options": _SPEAKER_OPTIONS,
        # What is heard.
        "audio_start_from": _integer(0, unit=" of milliseconds"),
        "audio_end_at": _integer(1, unit=" of milliseconds"),
        "speech_threshold": _FRACTION,
        "keyterms_prompt": _List(_text("text of at most 6 words", max_words=6), at_most=1_000),
        # Source: AssemblyAI Python SDK, types.KeytermsPromptOptions.
        "keyterms_prompt_options": _Object(
            {"keyterms_match_strength": _one_of("high", "standard")}
        ),
        "prompt": _text("text of at most 1,500 words", max_words=1_500),
        "temperature": _FRACTION,
        # What is written.
        "punctuate": _BOOLEAN,
        "format_text": _BOOLEAN,
        "disfluencies": _BOOLEAN,
        "filter_profanity": _BOOLEAN,
        "remove_audio_tags": _one_of("all", "speaker"),
        "custom_spelling": _List(_SPELLING),
        # What must not be written.
        "redact_pii": _BOOLEAN,
        "redact_pii_policies": _List(_pattern("a policy name", r"[a-z][a-z0-9_]*")),
        "redact_pii_sub": _one_of("hash", "entity_name"),
        "redact_pii_audio": _BOOLEAN,
        "redact_pii_audio_quality": _one_of("mp3", "wav"),
        "redact_pii_audio_options": _Object(
            {
                "return_redacted_no_speech_audio": _BOOLEAN,
                "override_audio_redaction_method": _one_of("silence"),
            }
        ),
        "redact_pii_return_unredacted": _BOOLEAN,
        "redact_static_entities": _Labels(
            re.compile(r"[\w -]{1,80}"),
            _List(_text("text of at most 200 characters", max_chars=200), at_most=200),
            at_most=100,
        ),
        # What is understood.
        "auto_highlights": _BOOLEAN,
        "content_safety": _BOOLEAN,
        "content_safety_confidence": _integer(25, 100),
        "iab_categories": _BOOLEAN,
        "entity_detection": _BOOLEAN,
        "sentiment_analysis": _BOOLEAN,
        "auto_chapters": _BOOLEAN,
        "summarization": _BOOLEAN,
        "summary_model": _one_of("informative", "conversational", "catchy"),
        "summary_type": _one_of("bullets", "bullets_verbose", "gist", "headline", "paragraph"),
        "speech_understanding": _Object(
            {"request": _Object(_UNDERSTANDING_TASKS, takes_one=True)}, required=("request",)
        ),
    }
)

_OURS: Final = {
    "audio_url": "names the upload of each recording and is set by the program",
    "webhook_url": "says where notifications go, not what is transcribed; see `--webhook-url`",
    "webhook_auth_header_name": "says where notifications go, not what is transcribed",
    "webhook_auth_header_value": "says where notifications go, not what is transcribed",
}
"""Keys of the request that are not options, plus or no plus, and why."""

_RETIRED: Final = {
    # Source: AssemblyAI openapi.yml, TranscriptOptionalParams (deprecated), and its changelog.
    "speech_model": "is refused by the service; use `speech_models`, a list by preference",
    "word_boost": "was replaced; use `keyterms_prompt`",
    "boost_param": "was replaced; use `keyterms_prompt_options.keyterms_match_strength`",
    "dual_channel": "was replaced; use `multichannel`",
    "speed_boost": "is no longer known to the service; leave it out",
    "custom_topics": "has no effect at the service; leave it out",
    "topics": "has no effect at the service; leave it out",
}
"""Options of the past, and what to do instead."""


# ---------------------------------------------------------------- what options mean to each other

_Given = Mapping[str, object]
"""Sound options by dotted name, the objects that hold nested ones too."""


@dataclass(frozen=True, slots=True)
class _Rule:
    keys: tuple[str, ...]
    """What the rule looks at; a problem is reported under the first."""
    is_broken: Callable[[_Given], bool]
    message: str


def _is_on(given: _Given, key: str) -> bool:
    return given.get(key, False) is not False


def _excludes(key: str, *others: str) -> Iterator[_Rule]:
    """Rules for options of which one alone can be on."""

    def are_both_on(other: str, given: _Given) -> bool:
        return _is_on(given, key) and _is_on(given, other)

    for other in others:
        message = f"`{key}` and `{other}` exclude each other; leave one out, or set it to null"
        yield _Rule((key, other), partial(are_both_on, other), message)


def _needs(other: str, *keys: str) -> Iterator[_Rule]:
    """Rules for options that need another, which is off unless it is switched on."""

    def is_missing(key: str, given: _Given) -> bool:
        return _is_on(given, key) and not _is_on(given, other)

    for key in keys:
        message = f"`{key}` has no effect without `{other}`; set that too"
        yield _Rule((key, other), partial(is_missing, key), message)


def _needs_default(other: str, *keys: str) -> Iterator[_Rule]:
    """Rules for options that need another, which is on unless it is switched off."""

    def is_switched_off(key: str, given: _Given) -> bool:
        return _is_on(given, key) and given.get(other) is False

    for key in keys:
        message = f"`{key}` does not work with `{other}` off; leave that out"
        yield _Rule((key, other), partial(is_switched_off, key), message)


def _in_order(low: str, high: str, relation: Callable[[int, int], bool], word: str) -> _Rule:
    def is_broken(given: _Given) -> bool:
        match given.get(low), given.get(high):
            case int(first), int(second):
                return not relation(first, second)
        return False

    return _Rule((low, high), is_broken, f"`{low}` must be {word} `{high}`")


def _language_is_unsaid(given: _Given) -> bool:
    said = given.keys() & {"language_code", "language_codes"}
    return given.get("language_detection") is False and not said


def _code_switching_lacks_english(given: _Given) -> bool:
    match given.get("language_codes"):
        case [_, _] as codes:
            return "en" not in codes
        case None:
            return False
    return True


def _fallback_is_unexpected(given: _Given) -> bool:
    expected = given.get(f"{_DETECTION}.expected_languages")
    fallback = given.get(f"{_DETECTION}.fallback_language")
    if not isinstance(expected, list | tuple) or fallback is None:
        return False
    return fallback != "auto" and fallback not in expected and "all" not in expected


def _summary_type_is_foreign(given: _Given) -> bool:
    model, wanted = given.get("summary_model"), given.get("summary_type")
    if model is None or wanted is None:
        return False
    return wanted not in ("gist", "headline") if model == "catchy" else wanted == "gist"


def _conversation_is_undivided(given: _Given) -> bool:
    divided = _is_on(given, "speaker_labels") or _is_on(given, "multichannel")
    return given.get("summary_model") == "conversational" and not divided


def _roles_are_unnamed(given: _Given) -> bool:
    named = given.keys() & {f"{_IDENTIFICATION}.known_values", f"{_IDENTIFICATION}.speakers"}
    return given.get(f"{_IDENTIFICATION}.speaker_type") == "role" and not named


def _speaker_lacks_its_type(given: _Given) -> bool:
    speakers = given.get(f"{_IDENTIFICATION}.speakers")
    kind = given.get(f"{_IDENTIFICATION}.speaker_type")
    return isinstance(speakers, list | tuple) and any(
        isinstance(speaker, Mapping) and kind not in speaker for speaker in speakers
    )


_DETECTION: Final = "language_detection_options"
_IDENTIFICATION: Final = "speech_understanding.request.speaker_identification"
_TRANSLATION: Final = "speech_understanding.request.translation"

_RULES: Final = (
    # Source: https://www.assemblyai.com/docs/pre-recorded-audio/language-detection, and
    # AssemblyAI openapi.yml, TranscriptOptionalParams.language_detection.
    *_excludes("language_code", "language_detection", "language_codes"),
    *_excludes("language_codes", "language_detection"),
    *_excludes("language_confidence_threshold", "language_code", "language_codes"),
    *_excludes(_DETECTION, "language_code", "language_codes"),
    *_needs_default("language_detection", "language_confidence_threshold", _DETECTION),
    _Rule(
        ("language_detection", "language_code", "language_codes"),
        _language_is_unsaid,
        "`language_detection` is off and no `language_code` is set; the service needs one of them",
    ),
    _Rule(
        (f"{_DETECTION}.fallback_language", f"{_DETECTION}.expected_languages"),
        _fallback_is_unexpected,
        f"`{_DETECTION}.fallback_language` must be `auto` or one of `expected_languages`",
    ),
    *_needs(f"{_DETECTION}.code_switching", f"{_DETECTION}.code_switching_confidence_threshold"),
    # Source: https://www.assemblyai.com/docs/speech-to-text/pre-recorded-audio/code-switching
    _Rule(
        ("language_codes",),
        _code_switching_lacks_english,
        '`language_codes` takes two codes, one of which is "en"',
    ),
    # Source: https://www.assemblyai.com/docs/pre-recorded-audio/speaker-diarization
    *_needs("speaker_labels", "speakers_expected", "speaker_options"),
    *_excludes("speakers_expected", "speaker_options"),
    *_needs_default("punctuate", "speaker_labels"),
    _in_order(
        "speaker_options.min_speakers_expected",
        "speaker_options.max_speakers_expected",
        int.__le__,
        "at most",
    ),
    # Source: https://www.assemblyai.com/docs/pre-recorded-audio/set-the-start-and-end-of-the-transcript
    _in_order("audio_start_from", "audio_end_at", int.__lt__, "less than"),
    # Source: https://www.assemblyai.com/docs/pre-recorded-audio/keyterms-prompting
    *_excludes("keyterms_prompt", "prompt"),
    *_needs("keyterms_prompt", "keyterms_prompt_options"),
    # Source: https://www.assemblyai.com/docs/pii-redaction
    *_needs_default("format_text", "redact_pii"),
    *_needs(
        "redact_pii",
        "redact_pii_policies",
        "redact_pii_sub",
        "redact_pii_audio",
        "redact_pii_return_unredacted",
        "redact_static_entities",
    ),
    *_needs("redact_pii_audio", "redact_pii_audio_quality", "redact_pii_audio_options"),
    # Source: https://www.assemblyai.com/docs/content-moderation
    *_needs("content_safety", "content_safety_confidence"),
    # Source: https://www.assemblyai.com/docs/speech-understanding/sentiment-analysis
    *_needs_default("punctuate", "sentiment_analysis"),
    # Source: https://www.assemblyai.com/docs/speech-understanding/summarization and
    # https://www.assemblyai.com/docs/speech-understanding/auto-chapters
    *_needs_default("punctuate", "auto_chapters", "summarization"),
    *_needs_default("format_text", "summarization"),
    *_excludes("auto_chapters", "summarization"),
    *_needs("summarization", "summary_model", "summary_type"),
    *_needs("summary_type", "summary_model"),
    *_needs("summary_model", "summary_type"),
    _Rule(
        ("summary_type", "summary_model"),
        _summary_type_is_foreign,
        '`summary_type` must be "gist" or "headline" with the summary model "catchy", '
        'and anything but "gist" with the others',
    ),
    _Rule(
        ("summary_model", "speaker_labels", "multichannel"),
        _conversation_is_undivided,
        '`summary_model` "conversational" needs `speaker_labels` or `multichannel`',
    ),
    # Source: https://www.assemblyai.com/docs/speech-understanding/translation
    *_needs("speaker_labels", f"{_TRANSLATION}.match_original_utterance"),
    # Source: https://www.assemblyai.com/docs/speech-understanding/speaker-identification
    *_needs("speaker_labels", _IDENTIFICATION),
    _Rule(
        (f"{_IDENTIFICATION}.speaker_type",),
        _roles_are_unnamed,
        f'`{_IDENTIFICATION}.speaker_type` "role" needs `known_values` or `speakers`',
    ),
    _Rule(
        (f"{_IDENTIFICATION}.speakers", f"{_IDENTIFICATION}.speaker_type"),
        _speaker_lacks_its_type,
        f"each of `{_IDENTIFICATION}.speakers` needs the key that `speaker_type` names",
    ),
)


def _problems(options: Mapping[str, object]) -> Iterator[Problem]:
    choices = {}
    unsound = set()
    for key, value in options.items():
        name = key.removeprefix("+")
        if name in _OURS:
            yield Problem(name, f"`{name}` {_OURS[name]}")
        elif key in _RETIRED:
            yield Problem(key, f"`{key}` {_RETIRED[key]}")
        elif key != name and name in options:
            yield Problem(name, f"`{name}` is set twice, with a plus and without; leave one out")
        else:
            choices[key] = value

    for problem in _OPTIONS.problems("", choices):
        unsound.add(problem.key)
        yield problem

    given = {}
    for path, value in _flat(choices):
        if "+" in path:
            unsound.add(path.replace("+", ""))
        else:
            given[path] = value
    for rule in _RULES:
        if unsound.isdisjoint(rule.keys) and rule.is_broken(given):
            yield Problem(rule.keys[0], rule.message)


def _flat(options: Mapping[str, object], inside: str = "") -> Iterator[tuple[str, object]]:
    for key, value in options.items():
        yield inside + key, value
        if isinstance(value, Mapping):
            yield from _flat(value, f"{inside}{key}.")


def _without_plus(options: Mapping[str, object]) -> dict[str, object]:
    return {
        key.removeprefix("+"): _without_plus(value)
        if isinstance(value, Mapping) and not key.startswith("+")
        else value
        for key, value in options.items()
    }


def _by_value(value: object) -> object:
    match value:
        case float() if value.is_integer():
            return int(value)
        case list() | tuple():
            return [_by_value(entry) for entry in value]
        case Mapping():
            return {key: _by_value(entry) for key, entry in value.items()}
    return value


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
