"""Captions, sentences, paragraphs and word search, from a completed transcript.

In: the document of a transcript. Out: SubRip and WebVTT text, and the service's JSON.
"""

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.engine.options import whisper_language
from pipeline.engine.wording import bare, joined

__all__ = ["CHARS_PER_CAPTION", "paragraphs", "sentences", "srt", "vtt", "word_search"]

CHARS_PER_CAPTION = 70
"""About what the captions in the service's examples have. Two lines on a screen."""

PARAGRAPH_PAUSE_MS = 2000
"""A pause this long between sentences begins a paragraph."""

PARAGRAPH_WORDS = 120
"""A paragraph of so many words ends with its sentence."""

_Words = Sequence[Mapping[str, Any]]

_ENDS = (".", "!", "?", "…", "。", "！", "？")
_CLOSING = "\"'”’»)]"
_ABBREVIATIONS = frozenset(
    {"mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "vs.", "e.g.", "i.e.", "etc.", "no.", "inc."}
)


def srt(document: Mapping[str, Any], chars_per_caption: int = CHARS_PER_CAPTION) -> str:
    """The transcript as SubRip captions. Source: AssemblyAI, SrtSubtitlesResponse."""
    return "".join(
        f"{number}\n{_clock(cue, ',')}\n{_text(document, cue)}\n\n"
        for number, cue in enumerate(_cues(document, chars_per_caption), start=1)
    )


def vtt(document: Mapping[str, Any], chars_per_caption: int = CHARS_PER_CAPTION) -> str:
    """The transcript as WebVTT captions. Source: https://www.w3.org/TR/webvtt1/"""
    return "WEBVTT\n\n" + "".join(
        f"{_clock(cue, '.')}\n{html.escape(_text(document, cue), quote=False)}\n\n"
        for cue in _cues(document, chars_per_caption)
    )


def sentences(document: Mapping[str, Any]) -> dict[str, Any]:
    """The transcript by sentence. A change of channel ends one, too."""
    return {
        **_head(document),
        "sentences": [
            {
                **_stretch(document, words),
                "speaker": words[0]["speaker"],
                **({"channel": words[0]["channel"]} if "channel" in words[0] else {}),
            }
            for words in _sentences(document)
        ],
    }


def paragraphs(document: Mapping[str, Any]) -> dict[str, Any]:
    """The transcript by paragraph: whole sentences, ended by pauses, length or channel."""
    groups: list[list[Mapping[str, Any]]] = []
    for words in _sentences(document):
        last = groups[-1] if groups else None
        if (
            last is None
            or len(last) >= PARAGRAPH_WORDS
            or words[0]["start"] - last[-1]["end"] >= PARAGRAPH_PAUSE_MS
            or words[0]["speaker"] != last[-1]["speaker"]
        ):
            groups.append([])
        groups[-1].extend(words)
    return {**_head(document), "paragraphs": [_stretch(document, words) for words in groups]}


def word_search(document: Mapping[str, Any], phrases: Sequence[str]) -> dict[str, Any]:
    """
    Where phrases of one to five words were said, without regard to case and punctuation.

    Phrases that were not said are left out. `indexes` are those of first words.
    """
    said = [bare(word["text"]) for word in document["words"]]
    matches: list[dict[str, Any]] = []
    for phrase in phrases:
        wanted = [bare(part) for part in phrase.split()]
        indexes = [
            index
            for index in range(len(said) - len(wanted) + 1)
            if said[index : index + len(wanted)] == wanted
        ]
        if not indexes:
            continue
        found = [document["words"][index : index + len(wanted)] for index in indexes]
        matches.append(
            {
                "text": phrase,
                "count": len(indexes),
                "timestamps": [[words[0]["start"], words[-1]["end"]] for words in found],
                "indexes": indexes,
            }
        )
    return {
        "id": document["id"],
        "total_count": sum(match["count"] for match in matches),
        "matches": matches,
    }


def _turns(document: Mapping[str, Any]) -> list[_Words]:
    """The words of one voice after another; words of channels are interleaved otherwise."""
    if document["utterances"]:
        return [utterance["words"] for utterance in document["utterances"]]
    return [document["words"]]


def _sentences(document: Mapping[str, Any]) -> Iterator[_Words]:
    for turn in _turns(document):
        sentence: list[Mapping[str, Any]] = []
        for word in turn:
            sentence.append(word)
            if _ends_sentence(word["text"]):
                yield sentence
                sentence = []
        if sentence:
            yield sentence


def _ends_sentence(text: str) -> bool:
    return text.rstrip(_CLOSING).endswith(_ENDS) and text.casefold() not in _ABBREVIATIONS


def _cues(document: Mapping[str, Any], limit: int) -> Iterator[_Words]:
    """As many words as fit, within a sentence. A longer word stands alone, and whole."""
    for sentence in _sentences(document):
        cue: list[Mapping[str, Any]] = []
        for word in sentence:
            if cue and len(_text(document, [*cue, word])) > limit:
                yield cue
                cue = []
            cue.append(word)
        yield cue


def _head(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: document[name] for name in ("id", "confidence", "audio_duration")}


def _stretch(document: Mapping[str, Any], words: _Words) -> dict[str, Any]:
    confidences = [word["confidence"] for word in words]
    return {
        "text": _text(document, words),
        "start": words[0]["start"],
        "end": words[-1]["end"],
        "confidence": round(sum(confidences) / len(confidences), 5),
        "words": words,
    }


def _text(document: Mapping[str, Any], words: _Words) -> str:
    return joined((word["text"] for word in words), whisper_language(document["language_code"]))


def _clock(cue: _Words, decimal: str) -> str:
    return " --> ".join(
        f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{decimal}{ms % 1000:03}"
        for ms in (cue[0]["start"], cue[-1]["end"])
    )
