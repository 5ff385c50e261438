"""The JSON and captions of the scripted service: a transcript of the account in, its bodies out.

What is said depends on the content's sha256 and nothing else, so equal contents give equal
bodies but for `id` and `audio_url`.

Source: AssemblyAI openapi.yml, schemas Transcript, TranscriptListItem, SentencesResponse,
ParagraphsResponse, WordSearchResponse; operation getSubtitles.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from tests.support.service_account import Refused, Transcript

Json = dict[str, Any]

DELETED_URL = "http://deleted_by_user"
DELETED_TEXT = "Deleted by user."


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_VOCABULARY = _names(
    "amber bridge candle distant evening forest gentle harbour island journey kettle lantern "
    "meadow narrow orchard pebble quiet river silver timber under valley winter yellow"
)
_WORDS_A_SENTENCE = 6
_SENTENCES_A_PARAGRAPH = 4
_SLOWEST_PACE_MS = 360

_ECHOED = _names(
    "punctuate format_text disfluencies filter_profanity speaker_labels multichannel auto_chapters "
    "content_safety iab_categories entity_detection sentiment_analysis custom_topics "
    "language_detection redact_pii_audio language_code language_codes language_detection_options "
    "language_confidence_threshold speech_models speakers_expected speaker_options "
    "speech_threshold speech_understanding custom_spelling keyterms_prompt prompt temperature "
    "remove_audio_tags domain redact_pii_policies redact_pii_sub redact_pii_audio_quality "
    "redact_pii_audio_options summary_model summary_type audio_start_from audio_end_at topics "
    "webhook_url webhook_auth_header_name"
)
_ECHO_DEFAULTS: Json = {
    "punctuate": True,
    "format_text": True,
    "disfluencies": False,
    "filter_profanity": False,
    "speaker_labels": False,
    "auto_chapters": False,
    "content_safety": False,
    "iab_categories": False,
    "entity_detection": False,
    "sentiment_analysis": False,
    "language_detection": False,
    "redact_pii_audio": False,
}
_RESULTS = _names(
    "text words utterances confidence audio_duration language_confidence speech_model_used "
    "auto_highlights_result chapters entities sentiment_analysis_results summary translated_texts "
    "webhook_status_code throttled is_deleted"
)
_LEGACY = _names(
    "speech_model dual_channel speed_boost word_boost boost_param custom_topics_results"
)


def transcript_json(transcript: Transcript, status: str | None = None) -> Json:
    """The whole resource, with every key the service sends; `status` instead of its own."""
    options = {} if transcript.is_deleted else _ECHO_DEFAULTS | transcript.options
    body: Json = {
        "id": transcript.id,
        "status": status or transcript.status,
        "audio_url": DELETED_URL if transcript.is_deleted else transcript.audio_url,
        "language_model": "assemblyai_default",
        "acoustic_model": "assemblyai_default",
        **{name: options.get(name) for name in _ECHOED},
        **dict.fromkeys(_RESULTS),
        **dict.fromkeys(_LEGACY),
        "auto_highlights": bool(options.get("auto_highlights", False)),
        "redact_pii": bool(options.get("redact_pii", False)),
        "summarization": bool(options.get("summarization", False)),
        "webhook_auth": options.get("webhook_auth_header_name") is not None,
        "webhook_status_code": transcript.webhook_status_code,
        "content_safety_labels": {},
        "iab_categories_result": {},
        "throttled": transcript.throttled,
        "project_id": 1,
        "token_id": 1,
        "x_unlisted": {"kept": True},
    }
    if transcript.is_deleted:
        body |= {
            "text": DELETED_TEXT,
            "webhook_url": DELETED_URL,
            "audio_duration": transcript.audio_duration,
            "is_deleted": True,
        }
    elif body["status"] == "completed":
        body |= _results(transcript)
    elif body["status"] == "error":
        body |= {"error": transcript.error, "audio_duration": transcript.audio_duration}
    return body


def list_row(transcript: Transcript, base_url: str) -> Json:
    """The row of the list: no options, no results."""
    return {
        "id": transcript.id,
        "resource_url": f"{base_url}/v2/transcript/{transcript.id}",
        "status": transcript.status,
        "created": _moment(transcript.created),
        "completed": None if transcript.completed is None else _moment(transcript.completed),
        "audio_url": DELETED_URL if transcript.is_deleted else transcript.audio_url,
        "error": transcript.error or None if transcript.status == "error" else None,
    }


def words_of(transcript: Transcript) -> list[Json]:
    """Every word that is said, with times in ms, a new sentence every six words."""
    chance = random.Random(transcript.content)
    is_two_channels = bool(transcript.options.get("multichannel"))
    is_labelled = bool(transcript.options.get("speaker_labels"))
    said = max(1, transcript.script.words)
    pace_ms = min(_SLOWEST_PACE_MS, transcript.audio_duration * 1000 // said)
    words: list[Json] = []
    for index in range(transcript.script.words):
        sentence, place = divmod(index, _WORDS_A_SENTENCE)
        text = chance.choice(_VOCABULARY)
        if place == 0:
            text = text.capitalize()
        if place == _WORDS_A_SENTENCE - 1 or index == transcript.script.words - 1:
            text += "."
        start = index * pace_ms
        word: Json = {
            "text": text,
            "start": start,
            "end": start + pace_ms * 5 // 6,
            "confidence": round(chance.uniform(0.5, 1.0), 5),
            "speaker": None,
        }
        if is_two_channels:
            word["channel"] = word["speaker"] = str(1 + sentence % 2)
        if is_labelled:
            word["speaker"] = (word["speaker"] or "") + "AB"[sentence % 2]
        words.append(word)
    return words


def captions(transcript: Transcript, suffix: str, chars_per_caption: int | None) -> str:
    """The transcript as `srt` or `vtt`. Raises `Refused` 400 before it is completed."""
    if transcript.status != "completed":
        raise Refused(
            400,
            f"This transcript has a status of '{transcript.status}'. Transcripts must have a "
            "status of 'completed' before requesting captions.",
        )
    mark = "," if suffix == "srt" else "."
    blocks = [] if suffix == "srt" else ["WEBVTT"]
    for number, line in enumerate(_caption_lines(transcript, chars_per_caption), start=1):
        times = f"{_clock(line[0]['start'], mark)} --> {_clock(line[-1]['end'], mark)}"
        text = " ".join(word["text"] for word in line)
        blocks.append(f"{number}\n{times}\n{text}" if suffix == "srt" else f"{times}\n{text}")
    return "\n\n".join(blocks) + "\n"


def sentences(transcript: Transcript) -> Json:
    """The answer of `/sentences`."""
    spoken = [
        _stretch(words) | {"speaker": words[0]["speaker"]} for words in _sentences(transcript)
    ]
    return _export(transcript) | {"sentences": spoken}


def paragraphs(transcript: Transcript) -> Json:
    """The answer of `/paragraphs`."""
    spoken = list(_sentences(transcript))
    groups = [
        [word for sentence in spoken[i : i + _SENTENCES_A_PARAGRAPH] for word in sentence]
        for i in range(0, len(spoken), _SENTENCES_A_PARAGRAPH)
    ]
    return _export(transcript) | {"paragraphs": [_stretch(words) for words in groups]}


def word_search(transcript: Transcript, wanted: list[str]) -> Json:
    """The answer of `/word-search`: phrases of up to five words, whatever their case."""
    _refuse_incomplete(transcript)
    words = words_of(transcript)
    plain = [word["text"].strip(".,").lower() for word in words]
    matches: list[Json] = []
    for phrase in wanted:
        parts = phrase.lower().split()
        found = [i for i in range(len(words)) if parts and plain[i : i + len(parts)] == parts]
        if found:
            times = [[words[i]["start"], words[i + len(parts) - 1]["end"]] for i in found]
            matches.append(
                {"text": phrase, "count": len(found), "timestamps": times, "indexes": found}
            )
    total = sum(match["count"] for match in matches)
    return {"id": transcript.id, "total_count": total, "matches": matches}


def redacted_audio(transcript: Transcript) -> Json:
    """The answer of `/redacted-audio`. Raises `Refused` 400 where there is none."""
    if not transcript.options.get("redact_pii_audio") or transcript.status == "error":
        raise Refused(
            400,
            "A redacted audio file for this transcript ID doesn't exist. Try submitting the "
            "transcript again with `redact_pii_audio` set to `true`.",
        )
    if transcript.status != "completed":
        raise Refused(
            400,
            "Transcription is still in progress. Redacted audio will be available after it has "
            "completed.",
        )
    return {
        "status": "redacted_audio_ready",
        "redacted_audio_url": f"https://redacted.scripted.invalid/{transcript.id}.mp3",
    }


def _results(transcript: Transcript) -> Json:
    words = words_of(transcript)
    options = transcript.options
    is_detected = not options.get("language_code")
    unavailable = {"status": "unavailable", "results": [], "summary": {}}
    has_turns = options.get("speaker_labels") or options.get("multichannel")
    turns = [_stretch(spoken) | _voice(spoken[0]) for spoken in _sentences(transcript)]
    return {
        "text": " ".join(word["text"] for word in words),
        "words": words,
        "utterances": turns if has_turns else None,
        "confidence": _mean(words),
        "audio_duration": transcript.audio_duration,
        "audio_channels": 2 if options.get("multichannel") else 1,
        "language_code": transcript.language,
        "language_confidence": 0.98 if is_detected else None,
        "speech_model_used": transcript.model_used,
        "content_safety_labels": unavailable,
        "iab_categories_result": unavailable,
    }


def _sentences(transcript: Transcript) -> Iterator[list[Json]]:
    words = words_of(transcript)
    for start in range(0, len(words), _WORDS_A_SENTENCE):
        yield words[start : start + _WORDS_A_SENTENCE]


def _stretch(words: list[Json]) -> Json:
    return {
        "text": " ".join(word["text"] for word in words),
        "start": words[0]["start"],
        "end": words[-1]["end"],
        "confidence": _mean(words),
        "words": words,
    }


def _voice(word: Json) -> Json:
    return {name: word[name] for name in ("speaker", "channel") if name in word}


def _refuse_incomplete(transcript: Transcript) -> None:
    if transcript.status != "completed" or transcript.is_deleted:
        raise Refused(400, "This transcript is not completed, or it was deleted")


def _export(transcript: Transcript) -> Json:
    _refuse_incomplete(transcript)
    return {
        "id": transcript.id,
        "confidence": _mean(words_of(transcript)),
        "audio_duration": transcript.audio_duration,
    }


def _caption_lines(transcript: Transcript, chars_per_caption: int | None) -> Iterator[list[Json]]:
    if transcript.is_deleted:
        return
    for words in _sentences(transcript):
        line: list[Json] = []
        for word in words:
            length = sum(len(w["text"]) + 1 for w in line) + len(word["text"])
            if line and chars_per_caption is not None and length > chars_per_caption:
                yield line
                line = []
            line.append(word)
        yield line


def _mean(words: list[Json]) -> float:
    return round(sum(word["confidence"] for word in words) / len(words), 5) if words else 0.0


def _clock(at_ms: int, mark: str) -> str:
    seconds, ms = divmod(at_ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{mark}{ms:03}"


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
