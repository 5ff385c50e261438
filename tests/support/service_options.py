"""What the scripted service refuses in the body of a submit: JSON in, one sentence or nothing out.

Sentences between straight quotes in the vendor's pages are used word for word; where the
vendor publishes a rule without its sentence, the sentence is ours.

Source: AssemblyAI openapi.yml, TranscriptParams; "Common errors and solutions".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_PUBLISHED = frozenset(_names("en es pt fr de it"))
SPEECH_MODELS: dict[str, frozenset[str] | None] = {
    "assemblyai-stt-3-7": _PUBLISHED,
    "universal-3-5-pro": _PUBLISHED,
    "universal-2": None,
}
"""What is accepted since 17 November 2026, and the languages it knows, None for all that there are.

Which 32 and 18 the first two know is not published: here it is those that all their kind know.
"""
RETIRED = ("universal-3-pro",)
DEFAULT_SPEECH_MODELS = ("assemblyai-stt-3-7", "universal-2")
"""What accounts made since then get where nothing is asked for."""

_BOOLEANS = _names(
    "auto_chapters auto_highlights content_safety custom_topics disfluencies entity_detection "
    "filter_profanity format_text iab_categories language_detection multichannel punctuate "
    "redact_pii redact_pii_audio redact_pii_return_unredacted sentiment_analysis speaker_labels "
    "summarization"
)
_STRINGS = _names(
    "domain language_code prompt redact_pii_audio_quality redact_pii_sub remove_audio_tags "
    "summary_model summary_type webhook_auth_header_name webhook_auth_header_value webhook_url"
)
_LISTS = _names("custom_spelling keyterms_prompt language_codes redact_pii_policies topics")
_OBJECTS = _names(
    "keyterms_prompt_options language_detection_options redact_pii_audio_options "
    "redact_static_entities speaker_options speech_understanding"
)
_RANGES: dict[str, tuple[float, float]] = {
    "audio_end_at": (0, math.inf),
    "audio_start_from": (0, math.inf),
    "content_safety_confidence": (25, 100),
    "language_confidence_threshold": (0, 1),
    "speakers_expected": (1, math.inf),
    "speech_threshold": (0, 1),
    "temperature": (0, 1),
}
_FRACTIONS = _names("language_confidence_threshold speech_threshold temperature")
_NEEDS = {
    "speaker_labels": "punctuate",
    "sentiment_analysis": "punctuate",
    "auto_chapters": "punctuate",
    "summarization": "punctuate",
    "redact_pii": "format_text",
}


def refusal(body: dict[str, Any]) -> str | None:
    """The sentence this submit is refused with, or None if the service would take it."""
    for rule in (_audio_url, _speech_models, _types, _languages, _combinations, _webhook):
        sentence = rule(body)
        if sentence is not None:
            return sentence
    return None


def model_for(models: list[str], language: str) -> str | None:
    """The first of these models that knows a language; None if none does: there is no other."""
    return next((model for model in models if _knows(model, language)), None)


def _knows(model: str, language: str) -> bool:
    known = SPEECH_MODELS[model]
    return known is None or language.partition("_")[0] in known


def _is_known(model: object) -> bool:
    return isinstance(model, str) and model in SPEECH_MODELS


def _audio_url(body: dict[str, Any]) -> str | None:
    audio_url = body.get("audio_url")
    if not isinstance(audio_url, str) or not audio_url:
        return "Transcript creation error, audio_url not found"
    if not audio_url.startswith("http"):
        return "Transcript creation error, audio_url should start with http"
    return None


def _speech_models(body: dict[str, Any]) -> str | None:
    if body.get("speech_model") is not None:
        return 'speech_model is deprecated. Use "speech_models" instead.'
    if "speech_models" not in body:
        return None
    wanted = body["speech_models"]
    advised = ", ".join(f'"{model}"' for model in DEFAULT_SPEECH_MODELS)
    for model in RETIRED:
        if isinstance(wanted, list) and model in wanted:
            return (
                f'The "{model}" speech model(s) have been deprecated. '
                f"Use speech_models: [{advised}] instead."
            )
    if not isinstance(wanted, list) or not wanted or not all(map(_is_known, wanted)):
        known = ", ".join(f'"{model}"' for model in SPEECH_MODELS)
        return f'"speech_models" must be a non-empty list containing one or more of: {known}'
    return None


def _types(body: dict[str, Any]) -> str | None:
    checks: tuple[tuple[tuple[str, ...], Callable[[object], bool], str], ...] = (
        (_BOOLEANS, lambda value: isinstance(value, bool), "a Boolean"),
        (_STRINGS, lambda value: isinstance(value, str), "a String"),
        (_LISTS, lambda value: isinstance(value, list), "an Array"),
        (_OBJECTS, lambda value: isinstance(value, dict), "an Object"),
    )
    for names, is_right, noun in checks:
        for name in names:
            if body.get(name) is not None and not is_right(body[name]):
                return f"{name} must be {noun}"
    for name, (low, high) in _RANGES.items():
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"{name} must be a Number"
        if isinstance(value, float) and name not in _FRACTIONS:
            return f"{name} must be an Integer"
        if not low <= value <= high:
            return f"{name} must be between {low} and {high}"
    known = {*_BOOLEANS, *_STRINGS, *_LISTS, *_OBJECTS, *_RANGES}
    for name in body:
        if name not in known and name not in ("audio_url", "speech_models", "speech_model"):
            return f"{name} is not a known parameter"
    return None


def _languages(body: dict[str, Any]) -> str | None:
    if body.get("language_code") is not None and body.get("language_detection"):
        return "language_code and language_detection cannot be used together"
    if body.get("language_detection") is False and not (
        body.get("language_code") or body.get("language_codes")
    ):
        return "language_detection cannot be false without a language_code"
    return None


def _webhook(body: dict[str, Any]) -> str | None:
    names = ("webhook_url", "webhook_auth_header_name", "webhook_auth_header_value")
    url, *auth = (body.get(name) for name in names)
    if url is not None and not url.startswith("http"):
        return "webhook_url should start with http"
    if any(auth) and not (url and all(auth)):
        return "webhook_auth_header_name and webhook_auth_header_value need each other"
    if any(value is not None and not 1 <= len(value) <= 1000 for value in auth):
        return "webhook_auth_header_name must have 1 to 1000 characters, and so its value"
    return None


def _combinations(body: dict[str, Any]) -> str | None:
    for name, needed in _NEEDS.items():
        if body.get(name) and body.get(needed) is False:
            return f"{name} requires {needed}"
    if body.get("speakers_expected") is not None:
        if not body.get("speaker_labels"):
            return "speakers_expected requires speaker_labels"
        if body.get("speaker_options"):
            return "speakers_expected and speaker_options cannot be used together"
    if body.get("redact_pii_audio") and not body.get("redact_pii"):
        return "redact_pii_audio requires redact_pii"
    if body.get("auto_chapters") and body.get("summarization"):
        return "auto_chapters and summarization cannot be used together"
    start, end = body.get("audio_start_from"), body.get("audio_end_at")
    if start is not None and end is not None and start >= end:
        return "audio_start_from must be less than audio_end_at"
    return None
