"""
What other tools left of the service's answers: in, the bytes of a JSON file; out, the answer in it.

    the answer alone               as a script saved it: these bytes
    with keys of the tool's own    a dump, a result of ours: these bytes as well
    inside another object          as the vendor's command line writes it: cut out as it stands

An answer is never written anew, so that nothing of it is lost. Nothing here reads or writes files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from pipeline.errors import AnswerUnusable, ServiceUnavailable
from pipeline.parsing import UNREADABLE
from pipeline.wire import Head, parse_head

__all__ = ["Answer", "answer_in", "made_with"]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # as tools of Windows begin a file

_CONTENT_KEY = "source_sha256"
"""Where the vendor's command line notes the sha256 of the audio, beside `transcript`.

Source: https://github.com/AssemblyAI/cli, `aai_cli/app/transcribe/batch.py`, the sidecar.
"""

# What is done where nothing is asked for, as far as that does not depend on the day.
# Source: AssemblyAI openapi.yml, TranscriptOptionalParams, `default`.
_DEFAULTS = {
    "audio_end_at": None,
    "audio_start_from": None,
    "auto_chapters": False,
    "auto_highlights": False,
    "content_safety": False,
    "custom_spelling": None,
    "disfluencies": False,
    "entity_detection": False,
    "filter_profanity": False,
    "format_text": True,
    "iab_categories": False,
    "keyterms_prompt": None,
    "language_codes": None,
    "multichannel": False,
    "prompt": None,
    "punctuate": True,
    "redact_pii": False,
    "redact_pii_audio": False,
    "redact_pii_policies": None,
    "sentiment_analysis": False,
    "speaker_labels": False,
    "speaker_options": None,
    "speakers_expected": None,
    "summarization": False,
    "summary_model": None,
    "summary_type": None,
}

_RESULTS_TOO = frozenset({"speech_understanding"})
"""What comes back changed, as the same key holds the results."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A completed transcript as the service sent it, or as a tool has it."""

    body: bytes
    head: Head
    parts: Mapping[str, msgspec.Raw]
    """Its values by key, unread."""
    content: str | None
    """sha256 of the audio, hex, if the tool noted it."""


def answer_in(document: bytes) -> Answer:
    """
    The answer that a document is or holds.

    Raises:
        AnswerUnusable: it has none, or more than one, or one that is not a completed transcript.
    """
    around = _parts(document)
    content = _value(around.get(_CONTENT_KEY))
    head, refusal = _head(document)
    if head is not None and head.text is not None:
        return _answer(document, head, around, content)
    inside = [bytes(part) for part in around.values() if bytes(memoryview(part)[:1]) == b"{"]
    answers = [
        (body, head) for body in inside if (head := _head(body)[0]) and head.text is not None
    ]
    if len(answers) > 1:
        raise AnswerUnusable("it holds more than one transcript")
    if answers:
        body, head = answers[0]
        return _answer(body, head, _parts(body), content)
    if head is None:
        raise AnswerUnusable(refusal)
    _require_completed(head)
    raise AnswerUnusable("it has no text")


def made_with(asked: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
    """
    The options that an answer was made with: those asked for now, but for what it says otherwise.

    What it does not tell is taken to be as asked for: so is anything that the service decides by
    itself where it is not told, as models and languages are.

    Args:
        asked: as they passed `check_options`.
        answer: what was made, by whomever.
    """
    made: dict[str, Any] = {}
    for key in sorted(asked.keys() | _DEFAULTS.keys()):
        echoed, default = _value(answer.parts.get(key)), _DEFAULTS.get(key)
        if key in asked and (
            echoed is None or key in _RESULTS_TOO or _is_echo(key, asked[key], echoed)
        ):
            made[key] = asked[key]
        elif echoed not in (None, default) and (echoed or default is not None):
            made[key] = echoed
    return made


def _answer(body: bytes, head: Head, parts: Mapping[str, msgspec.Raw], content: object) -> Answer:
    _require_completed(head)
    return Answer(body, head, parts, content if isinstance(content, str) else None)


def _require_completed(head: Head) -> None:
    if head.is_deleted:
        raise AnswerUnusable("the transcript was deleted at the service")
    if head.status != "completed":
        raise AnswerUnusable(f"the transcript is `{head.status[:40]}`, not `completed`")


def _head(body: bytes) -> tuple[Head | None, str]:
    """What a transcript says; if it is none, why not."""
    try:
        head = parse_head(body)
    except (AnswerUnusable, ServiceUnavailable) as error:
        return None, str(error)
    return (head, "") if head.status else (None, "it is no whole transcript (no `status`)")


def _parts(body: bytes) -> dict[str, msgspec.Raw]:
    """The values of an object, unread; none where it is no sound one."""
    try:
        return msgspec.json.decode(body.removeprefix(_BYTE_ORDER_MARK), type=dict[str, msgspec.Raw])
    except UNREADABLE:
        return {}


def _value(part: msgspec.Raw | None) -> Any:
    try:
        return None if part is None else msgspec.json.decode(part)
    except UNREADABLE:
        return None


def _is_echo(key: str, asked: object, echoed: object) -> bool:
    """Whether the service says of an option what it was asked for."""
    if key == "language_code":  # `en` may come back as the `en_us` that it stands for
        ours, theirs = (str(code).lower().replace("-", "_") for code in (asked, echoed))
        return ours == theirs or theirs.startswith(f"{ours}_")
    if isinstance(asked, Mapping) and isinstance(echoed, Mapping):  # which may tell of defaults
        return all(_is_echo("", value, echoed.get(name, value)) for name, value in asked.items())
    return asked == echoed
