"""What the engine says about transcripts: the JSON of the service, key by key.

In: rows of the store, and what was heard. Out: the bodies of GET, DELETE and the list.

Keys that are null are there as nulls, as the service has them; `error` is there in
failed transcripts only. Source: AssemblyAI openapi.yml, schemas Transcript,
TranscriptListItem and examples/DeleteTranscriptResponse.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.engine.listen import Heard
from pipeline.engine.options import DEFAULT_SPEECH_MODELS, whisper_language
from pipeline.engine.speech import Word
from pipeline.engine.store import DELETED_URL, Row, Status, Transcript
from pipeline.engine.wording import joined, turns

__all__ = ["completed", "deleted", "failed", "list_item", "unfinished"]

_DEFAULTS: Mapping[str, Any] = {
    # options that are echoed, as they are when not given
    "language_code": None,
    "language_codes": None,
    "language_detection_options": None,
    "language_confidence_threshold": None,
    "speech_model": None,
    "speech_models": [*DEFAULT_SPEECH_MODELS],
    "punctuate": True,
    "format_text": True,
    "disfluencies": False,
    "filter_profanity": False,
    "multichannel": None,
    "speaker_labels": False,
    "speakers_expected": None,
    "speaker_options": None,
    "audio_start_from": None,
    "audio_end_at": None,
    "speech_threshold": None,
    "custom_spelling": None,
    "keyterms_prompt": None,
    "prompt": None,
    "temperature": None,
    "remove_audio_tags": None,
    "domain": None,
    "webhook_url": None,
    "webhook_auth_header_name": None,
    "auto_highlights": False,
    "auto_chapters": False,
    "content_safety": False,
    "iab_categories": False,
    "entity_detection": False,
    "sentiment_analysis": False,
    "summarization": False,
    "summary_model": None,
    "summary_type": None,
    "redact_pii": False,
    "redact_pii_audio": False,
    "redact_pii_audio_options": None,
    "redact_pii_audio_quality": None,
    "redact_pii_policies": None,
    "redact_pii_sub": None,
    "speech_understanding": None,
    "custom_topics": None,
    "topics": None,
    "dual_channel": None,
    "speed_boost": None,
}

_NO_RESULTS: Mapping[str, Any] = {
    "text": None,
    "words": None,
    "utterances": None,
    "confidence": None,
    "audio_duration": None,
    "language_confidence": None,
    "speech_model_used": None,
    "webhook_auth": False,
    "webhook_status_code": None,
    "throttled": None,
    "auto_highlights_result": None,
    "content_safety_labels": {},
    "iab_categories_result": {},
    "chapters": None,
    "entities": None,
    "sentiment_analysis_results": None,
    "summary": None,
    "translated_texts": None,
    "is_deleted": None,
}

_UNAVAILABLE: Mapping[str, Any] = {"status": "unavailable", "results": [], "summary": {}}


def unfinished(transcript: Transcript) -> dict[str, Any]:
    """A transcript that is queued or being worked on: its options, and no results."""
    return _body(transcript, transcript.status)


def failed(transcript: Transcript, error: str) -> dict[str, Any]:
    """A transcript that ended in `error`, which is one of the service's sentences."""
    return _body(transcript, "error", throttled=False, error=error)


def completed(transcript: Transcript, heard: Heard, model: str) -> dict[str, Any]:
    """
    A transcript with its results.

    Times are in ms from the start of the file, `audio_start_from` or not. With
    `multichannel`, words and turns say their channel, and text is the turns in order.
    """
    options, language = transcript.options, whisper_language(heard.language_code)
    results: dict[str, Any] = {}
    if options.get("multichannel"):
        utterances = [
            _utterance(words, str(channel + 1), language)
            for channel, words in turns(heard.channels)
        ]
        words = sorted(
            (word for utterance in utterances for word in utterance["words"]),
            key=lambda word: (word["start"], word["channel"]),
        )
        results["utterances"] = utterances
        results["audio_channels"] = len(heard.channels)
        text = joined((utterance["text"] for utterance in utterances), language)
    else:
        words = [_word(word, None) for word in heard.channels[0]]
        text = joined((word["text"] for word in words), language)
    return _body(
        transcript,
        "completed",
        text=text,
        words=words,
        confidence=_mean([word["confidence"] for word in words]),
        audio_duration=heard.audio_duration,
        language_code=heard.language_code,
        language_confidence=heard.language_confidence,
        speech_model_used=model,
        throttled=False,
        content_safety_labels=_UNAVAILABLE,
        iab_categories_result=_UNAVAILABLE,
        **results,
    )


def deleted(document: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of a final transcript once it was deleted."""
    kept = ("id", "status", "audio_duration", "language_model", "acoustic_model")
    return {
        **dict.fromkeys(document),
        **dict.fromkeys(_ALWAYS_BOOLEAN, False),
        **{name: document[name] for name in kept},
        "error": None,
        "text": "Deleted by user.",
        "audio_url": DELETED_URL,
        "webhook_url": DELETED_URL,
        "is_deleted": True,
    }


_ALWAYS_BOOLEAN = (
    "webhook_auth",
    "auto_highlights",
    "redact_pii",
    "summarization",
    "language_detection",
    "multichannel",
    "entity_detection",
    "sentiment_analysis",
)
"""Never null in a deleted transcript, in the service's example of one."""


def list_item(row: Row, base_url: str) -> dict[str, Any]:
    """A transcript as the list has it; `base_url` is that of the request."""
    return {
        "id": row.id,
        "resource_url": f"{base_url}/v2/transcript/{row.id}",
        "status": row.status,
        "created": row.created,
        "completed": row.finished if row.status == "completed" else None,
        "audio_url": row.audio_url,
        "error": row.error,
    }


def _body(transcript: Transcript, status: Status, **results: Any) -> dict[str, Any]:
    return {
        "id": transcript.id,
        "status": status,
        "audio_url": transcript.audio_url,
        "language_model": "assemblyai_default",
        "acoustic_model": "assemblyai_default",
        "language_detection": "language_code" not in transcript.options,
        **_DEFAULTS,
        **transcript.options,
        **_NO_RESULTS,
        **results,
    }


def _word(word: Word, channel: str | None) -> dict[str, Any]:
    body: dict[str, Any] = {
        "text": word.text,
        "start": word.start,
        "end": word.end,
        "confidence": round(word.confidence, 5),
        "speaker": channel,
    }
    return body if channel is None else {**body, "channel": channel}


def _utterance(words: Sequence[Word], channel: str, language: str) -> dict[str, Any]:
    """Source: AssemblyAI, multichannel transcription: `speaker` is the channel, from 1."""
    return {
        "speaker": channel,
        "channel": channel,
        "start": words[0].start,
        "end": max(word.end for word in words),
        "confidence": _mean([word.confidence for word in words]),
        "text": joined((word.text for word in words), language),
        "words": [_word(word, channel) for word in words],
    }


def _mean(confidences: Sequence[float]) -> float:
    """The service's confidence of several words; 0 for none.

    Source: AssemblyAI FAQ, how are word and transcript level confidence scores calculated.
    """
    return round(sum(confidences) / len(confidences), 5) if confidences else 0.0
