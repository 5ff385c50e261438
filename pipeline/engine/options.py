"""What a request for a transcript may ask for.

In: the JSON body of `POST /v2/transcript`. Out: the `audio_url` and the options, or the
sentence of a 400.

Options are of three sorts: those that the engine does (`_DONE`), those that the service
does and the engine cannot (`_REFUSED`), and unknown ones. The second sort is refused
when it asks for something and accepted when it does not (null, false, empty, the
service's default): a request is never answered as if it had asked for less.

Source: AssemblyAI openapi.yml, TranscriptOptionalParams, unless said otherwise.
"""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

__all__ = ["DEFAULT_SPEECH_MODELS", "Refused", "checked", "whisper_language"]

_SPEECH_MODELS = ("assemblyai-stt-3-7", "universal-3-5-pro", "universal-2")
"""Names that the service takes: what it refuses is refused here, where it costs nothing.

Source: AssemblyAI, model versions and deprecations, November 2026.
"""

DEFAULT_SPEECH_MODELS = ("assemblyai-stt-3-7", "universal-2")
"""What the service echoes where nothing is asked for. Source: the same."""


class Refused(Exception):
    """The request is refused; the text is the sentence to answer with."""


_Check = Callable[[Any], str | None]
"""What is wrong with a value, as the end of a sentence; None if nothing is."""


def whisper_language(code: str) -> str:
    """The recogniser's code of a language: `en_us` is `en` to it."""
    return code.partition("_")[0]


def checked(
    body: object, languages: Collection[str], models: Collection[str] = ()
) -> tuple[str, dict[str, Any]]:
    """
    `audio_url` and options of a request that the engine can do; nulls are left out.

    Args:
        body: The request, from JSON.
        languages: What the recogniser knows.
        models: What it is called itself, taken as well as the service's own names.

    Raises:
        Refused: It cannot be done, or is no valid request.
    """
    if not isinstance(body, dict):
        raise Refused("The request body must be a JSON object")
    try:
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise Refused("The request body must be JSON in UTF-8, with finite numbers") from error
    audio_url = body.get("audio_url")
    if audio_url is None or audio_url == "":
        raise Refused("Transcript creation error, audio_url not found")
    if not isinstance(audio_url, str) or not audio_url.startswith(("http://", "https://")):
        raise Refused("Transcript creation error, audio_url should start with http")
    options = {
        name: value for name, value in body.items() if name != "audio_url" and value is not None
    }
    # Null or not, a name that nobody knows is a slip of the pen.
    for name in body.keys() - {"audio_url"}:
        if name not in _DONE and name not in _REFUSED:
            raise Refused(f"{name} is not a known parameter")
    if "speech_model" in options:
        raise Refused('speech_model is deprecated. Use "speech_models" instead.')
    for name, value in options.items():
        _check_one(name, value)
    if "speech_models" in options:
        _check_models(options["speech_models"], models)
    _check_together(options)
    _check_languages(options, languages)
    return audio_url, options


def _check_one(name: str, value: object) -> None:
    if name in _DONE:
        wrong = _DONE[name](value)
    else:
        check, default = _REFUSED[name]
        wrong = check(value)
        if wrong is None and value != default and not _is_empty(value):
            raise Refused(
                f"{name} is not supported by the embedded engine: leave it out, "
                "or send this recording to the AssemblyAI API"
            )
    if wrong is not None:
        raise Refused(f"{name} {wrong}")


def _is_empty(value: object) -> bool:
    """Null, false, or nothing but such: it asks for nothing. Zero is a number like others."""
    if isinstance(value, Mapping):
        return all(_is_empty(inner) for inner in value.values())
    return value is None or value is False or value == "" or value == []


def _check_models(asked: object, own: Collection[str]) -> None:
    known = [*_SPEECH_MODELS, *own]
    if not isinstance(asked, list) or not asked or not all(name in known for name in asked):
        names = ", ".join(f'"{name}"' for name in _SPEECH_MODELS)
        raise Refused(
            f'"speech_models" must be a non-empty list containing one or more of: {names}'
        )


def _check_together(options: Mapping[str, Any]) -> None:
    start, end = options.get("audio_start_from", 0), options.get("audio_end_at")
    if end is not None and start >= end:
        raise Refused("audio_start_from must be less than audio_end_at")
    if "language_code" in options and options.get("language_detection"):
        raise Refused("language_code cannot be combined with language_detection")
    if "language_code" not in options and options.get("language_detection") is False:
        raise Refused("language_detection must be true, or language_code be given")
    for name in ("language_confidence_threshold", "language_detection_options"):
        if "language_code" in options and options.get(name, 0) not in (0, {}):
            raise Refused(f"{name} requires language_detection")


def _check_languages(options: Mapping[str, Any], languages: Collection[str]) -> None:
    detection = options.get("language_detection_options", {})
    expected = detection.get("expected_languages") or ["all"]
    fallback = detection.get("fallback_language") or "auto"
    if "all" not in expected and fallback != "auto" and fallback not in expected:
        raise Refused("fallback_language must be one of expected_languages, or auto")
    for code in [*_given(options, "language_code"), *expected, fallback]:
        if code not in ("all", "auto") and whisper_language(code) not in languages:
            raise Refused(f"language '{code}' is not supported by the embedded engine's model")


def _given(options: Mapping[str, Any], name: str) -> list[Any]:
    return [options[name]] if name in options else []


# --- one value ---------------------------------------------------------------------------


def _boolean(value: object) -> str | None:
    return None if isinstance(value, bool) else "must be a Boolean"


def _number(low: float, high: float) -> _Check:
    def check(value: object) -> str | None:
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            return None
        return f"must be a number from {low:g} to {high:g}"

    return check


def _integer(low: int, high: int | None = None) -> _Check:
    def check(value: object) -> str | None:
        if not isinstance(value, int) or isinstance(value, bool):
            return "must be an integer"
        if value < low:
            return f"must be at least {low}"
        return f"must be at most {high}" if high is not None and value > high else None

    return check


def _string(value: object) -> str | None:
    return None if isinstance(value, str) else "must be a string"


def _strings(value: object) -> str | None:
    if isinstance(value, list) and all(isinstance(inner, str) for inner in value):
        return None
    return "must be a list of strings"


def _object(value: object) -> str | None:
    return None if isinstance(value, dict) else "must be an object"


def _anything(value: object) -> str | None:
    return None


def _one_of(*allowed: str) -> _Check:
    def check(value: object) -> str | None:
        return None if value in allowed else f"must be one of {', '.join(allowed)}"

    return check


def _custom_spelling(value: object) -> str | None:
    """Source: AssemblyAI, custom spelling: `to` is one word, `from` up to five."""
    wrong = "must be a list of objects with from (a list of strings) and to (one word)"
    if not isinstance(value, list):
        return wrong
    for rule in value:
        if not isinstance(rule, dict) or rule.keys() != {"from", "to"}:
            return wrong
        said, spelt = rule["from"], rule["to"]
        if not isinstance(said, list) or not isinstance(spelt, str) or len(spelt.split()) != 1:
            return wrong
        if not said or not all(isinstance(phrase, str) for phrase in said):
            return wrong
        if not all(1 <= len(phrase.split()) <= 5 for phrase in said):
            return "must have one to five words in each phrase of from"
    return None


def _detection_options(value: object) -> str | None:
    if not isinstance(value, dict):
        return "must be an object"
    for name, inner in value.items():
        if name not in _DETECTION:
            return f"must not hold {name}, which is not a known parameter"
        if inner is None:
            continue
        if name in _DETECTION_REFUSED and not _is_empty(inner):
            return f"must not hold {name}: the embedded engine does not support it"
        wrong = _DETECTION[name](inner)
        if wrong is not None:
            return f"holds {name}, which {wrong}"
    return None


_DETECTION: Mapping[str, _Check] = {
    "expected_languages": _strings,
    "fallback_language": _string,
    "code_switching": _boolean,
    "code_switching_confidence_threshold": _number(0, 1),
    # Source of these three: AssemblyAI's Python and Node SDKs.
    "localization": _strings,
    "on_low_language_confidence": _one_of("error", "fallback"),
    "on_no_speech_detected": _one_of("error", "fallback"),
}
_DETECTION_REFUSED = frozenset({"code_switching", "localization"})

_DONE: Mapping[str, _Check] = {
    "speech_models": _anything,  # see `_check_models`
    "speech_model": _anything,
    "language_code": _string,
    "language_detection": _boolean,
    "language_detection_options": _detection_options,
    "language_confidence_threshold": _number(0, 1),
    "punctuate": _boolean,
    "format_text": _boolean,
    "filter_profanity": _boolean,
    "multichannel": _boolean,
    "audio_start_from": _integer(0),
    "audio_end_at": _integer(0),
    "speech_threshold": _number(0, 1),
    "custom_spelling": _custom_spelling,
    # The model writes no tags, so there is nothing to do for it.
    "remove_audio_tags": _one_of("all", "speaker"),
}

_REFUSED: Mapping[str, tuple[_Check, object]] = {
    # name: what it must be, and the service's default where that is not empty
    "speaker_labels": (_boolean, False),
    "speakers_expected": (_integer(1), None),
    "speaker_options": (_object, None),
    "disfluencies": (_boolean, False),
    "language_codes": (_strings, None),
    "keyterms_prompt": (_strings, None),
    "keyterms_prompt_options": (_object, None),
    "prompt": (_string, None),
    "temperature": (_number(0, 1), 0),
    "domain": (_string, None),
    "webhook_url": (_string, None),
    "webhook_auth_header_name": (_string, None),
    "webhook_auth_header_value": (_string, None),
    "auto_highlights": (_boolean, False),
    "content_safety": (_boolean, False),
    "content_safety_confidence": (_integer(25, 100), 50),
    "iab_categories": (_boolean, False),
    "entity_detection": (_boolean, False),
    "sentiment_analysis": (_boolean, False),
    "auto_chapters": (_boolean, False),
    "summarization": (_boolean, False),
    "summary_model": (_one_of("informative", "conversational", "catchy"), "informative"),
    "summary_type": (
        _one_of("bullets", "bullets_verbose", "gist", "headline", "paragraph"),
        "bullets",
    ),
    "redact_pii": (_boolean, False),
    "redact_pii_policies": (_strings, None),
    "redact_pii_sub": (_one_of("hash", "entity_name"), "hash"),
    "redact_pii_audio": (_boolean, False),
    "redact_pii_audio_quality": (_one_of("mp3", "wav"), "mp3"),
    "redact_pii_audio_options": (_object, None),
    "redact_pii_return_unredacted": (_boolean, False),
    "redact_static_entities": (_object, None),
    "speech_understanding": (_object, None),
    "custom_topics": (_boolean, False),
    "topics": (_strings, None),
    # Gone from the service's specification, still sent by older clients.
    "dual_channel": (_boolean, False),
    "speed_boost": (_boolean, False),
    "word_boost": (_strings, None),
    "boost_param": (_string, None),
}
