"""
Saved JSON to text, captions and tables, at no cost and as often as wanted.

In: the bytes of a completed transcript as the service sent it. Out: the bytes of a `txt`, `srt`,
`vtt`, `md` or `tsv` file. Pure: no I/O, the same bytes for the same bytes.

    answer ──► turns ──┬──► paragraphs ──► txt, md
              (words   └──► captions ────► srt, vtt, tsv
             by speaker)

Turns are the service's utterances where it made any, else its words by speaker. A text that came
without words is spread evenly over the recording, so that every format holds all that was said.
Speakers have the names that the caller gives, else those that the service has found.
Summaries, chapters and other results beside the words stay in the JSON.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from pipeline.captions import READING_CHARS_PER_S, Caption, captions, in_lines, shown_name
from pipeline.files import regular
from pipeline.parsing import UNREADABLE, decoded
from pipeline.phrases import Turn, Word, binds, ends_sentence, is_pause, is_spaced, joined
from pipeline.wire import is_deleted

__all__ = ["FORMATS", "RenderError", "render", "render_file"]

FORMATS: Final = ("txt", "srt", "vtt", "md", "tsv")
"""What `render` can make; each is also the suffix of the file."""

_PARAGRAPH_PAUSE_MS: Final = 2_000
"""A silence that no paragraph spans. Ours."""
_PARAGRAPH_CHARS: Final = 800
"""A paragraph this long ends with its sentence. Ours: some ten lines, a minute of speech."""

_NAMELESS: Final[Mapping[str, str]] = MappingProxyType({})


class RenderError(ValueError):
    """A document that is not a completed transcript, or a format that nothing is known of."""


def render(
    transcript: bytes,
    file_format: str,
    title: str = "",
    speaker_names: Mapping[str, str] = _NAMELESS,
) -> bytes:
    """
    The transcript as a file of the format: UTF-8, ending in one newline.

    A transcript in which nothing is said makes empty `txt` and `srt` files, and the heading alone
    of the others.

    Args:
        transcript: the service's JSON answer.
        file_format: one of `FORMATS`.
        title: the heading of `md`, which has none if empty; unused by the others.
        speaker_names: names by what the service calls the speakers (`A`, `1`, `2B`, `Agent`), in
            upper or lower case. Who is not there has the name that the service has found, if it
            was asked to, or is `Speaker A`.

    Raises:
        RenderError: not JSON of a transcript, not completed, deleted at the service, without any
            text field, or no such format.
    """
    if file_format not in _WRITERS:
        raise RenderError(f"`{file_format}` is not a format; choose from {', '.join(FORMATS)}")
    speech = _speech(_completed(transcript), title, speaker_names)
    text = _WRITERS[file_format](speech).rstrip("\n")
    return f"{text}\n".encode() if text else b""


def render_file(
    result: bytes,
    file_format: str,
    title: str = "",
    speaker_names: Mapping[str, str] = _NAMELESS,
) -> bytes:
    """
    The same of a saved answer, by its path: what is large is not passed between processes.

    Raises:
        RenderError: as `render`.
        OSError: it cannot be read.
    """
    with open(result, "rb", opener=regular) as file:
        return render(file.read(), file_format, title, speaker_names)


# ---------------------------------------------------------------- what the service said


class _AnswerWord(msgspec.Struct):
    text: str | None = None
    start: float | None = None
    end: float | None = None
    speaker: str | int | None = None


class _AnswerUtterance(_AnswerWord):
    words: list[_AnswerWord] | None = None


class _Identification(msgspec.Struct):
    mapping: dict[str, str | None] | None = None


class _Understood(msgspec.Struct):
    speaker_identification: _Identification | None = None


class _Understanding(msgspec.Struct):
    response: _Understood | None = None


class _Answer(msgspec.Struct):
    status: str
    text: str | None = None
    words: list[_AnswerWord] | None = None
    utterances: list[_AnswerUtterance] | None = None
    audio_url: str | None = None
    audio_duration: float | None = None
    language_code: str | None = None
    speech_understanding: _Understanding | None = None
    is_deleted: bool | None = None


class _Speech(NamedTuple):
    title: str
    verbatim: str
    """The text of an answer that has no words, line breaks and all; else empty."""
    turns: Sequence[Turn]
    names: Mapping[str, str]
    """By the speakers of the turns, for those who have one."""


def _completed(transcript: bytes) -> _Answer:
    try:
        answer, _ = decoded(transcript, _Answer)
    except UNREADABLE as error:
        raise RenderError(f"this is not the JSON of a transcript: {error}") from error
    if answer.status != "completed":
        raise RenderError(f"the transcript is `{answer.status}`, not `completed`")
    # It says `completed` too, with a sentence for a text.
    if is_deleted(answer.audio_url, answer.is_deleted):
        raise RenderError("the transcript was deleted at the service; its text is gone")
    if answer.text is None and not answer.words and not answer.utterances:
        raise RenderError("the transcript has neither text nor words")
    return answer


def _speech(answer: _Answer, title: str, speaker_names: Mapping[str, str]) -> _Speech:
    language = re.split("[-_]", answer.language_code or "")[0].lower()
    timed = _utterance_turns(answer) or _word_turns(answer)
    text = answer.text or ""
    spoken = timed or [(None, _spread(text, 0, (answer.audio_duration or 0) * 1000))]
    turns = [
        Turn(_cleaned("" if speaker is None else str(speaker)), list(_words(words, language)))
        for speaker, words in spoken
        if words
    ]
    known = _names(answer) | _by_label(speaker_names)
    speakers = {turn.speaker for turn in turns}
    names = {each: known[each.upper()] for each in speakers if each.upper() in known}
    return _Speech(_cleaned(title), "" if timed else text.strip(), turns, names)


def _names(answer: _Answer) -> dict[str, str]:
    """
    What the service found out when it was asked to identify speakers.

    It names them in the utterances, and says which label each had: words keep theirs.

    Source: AssemblyAI docs, "Speaker Identification", response;
    openapi.yml, SpeakerIdentificationResponse.
    """
    understood = answer.speech_understanding and answer.speech_understanding.response
    identified = understood and understood.speaker_identification
    found = (identified and identified.mapping) or {}
    # A name is itself, else a role of `QA` would be shown as a `Speaker QA`.
    return _by_label({name: name for name in found.values() if name} | found)


def _by_label(names: Mapping[str, str | None]) -> dict[str, str]:
    return {
        _cleaned(label).upper(): _cleaned(name)
        for label, name in names.items()
        if name and not name.isspace()
    }


_AnswerTurn = tuple[str | int | None, list[_AnswerWord]]


def _utterance_turns(answer: _Answer) -> list[_AnswerTurn]:
    turns: list[_AnswerTurn] = []
    for utterance in answer.utterances or []:
        words = _spoken(utterance.words) or _spread(
            utterance.text or "", utterance.start or 0, utterance.end or 0
        )
        if words:
            turns.append((utterance.speaker, words))
    return turns


def _word_turns(answer: _Answer) -> list[_AnswerTurn]:
    by_speaker = itertools.groupby(_spoken(answer.words), lambda word: word.speaker)
    return [(speaker, list(words)) for speaker, words in by_speaker]


def _spoken(words: Iterable[_AnswerWord] | None) -> list[_AnswerWord]:
    return [word for word in words or [] if word.text and not word.text.isspace()]


def _spread(text: str, start: float, end: float) -> list[_AnswerWord]:
    """Words for a text that came without, over its time; unknown time is that of reading."""
    words = text.split()
    letters = sum(map(len, words))
    ms_per_letter = (end - start) / max(letters, 1)
    if ms_per_letter <= 0:
        ms_per_letter = 1000 / READING_CHARS_PER_S
    times = itertools.accumulate((len(word) * ms_per_letter for word in words), initial=start)
    return [
        _AnswerWord(word, begins, ends)
        for word, (begins, ends) in zip(words, itertools.pairwise(times), strict=True)
    ]


def _words(answer_words: Iterable[_AnswerWord], language: str) -> Iterator[Word]:
    """The words in their order, with times that never run back."""
    spaced = is_spaced(language)
    before = ""
    at = 0
    for word in answer_words:
        text = _cleaned(word.text or "")
        at = max(at, round(word.start or 0))
        end = max(at, round(word.end or 0))
        lead = " " if before and (spaced or _are_latin(before, text)) else ""
        yield Word(lead, text, at, end, binds(text, language))
        before = text


def _are_latin(left: str, right: str) -> bool:
    """Whether two words would run into one, as foreign names do in Chinese text."""
    return f"{left[-1]}{right[0]}".isascii() and left[-1].isalnum() and right[0].isalnum()


def _cleaned(text: str) -> str:
    """The text on one line, with U+FFFD for what ends lines or files or has no UTF-8."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", " ".join(text.split()))


# ---------------------------------------------------------------- the formats


def _paragraphs(turns: Iterable[Turn]) -> Iterator[Turn]:
    """The turns, cut where a speaker pauses for long or has gone on for long."""
    for speaker, words in turns:
        first = chars = 0
        for at, word in enumerate(words):
            chars += len(word.text)
            if (
                at + 1 == len(words)
                or is_pause(word, words[at + 1], _PARAGRAPH_PAUSE_MS)
                or (chars >= _PARAGRAPH_CHARS and ends_sentence(word))
            ):
                yield Turn(speaker, words[first : at + 1])
                first, chars = at + 1, 0


def _clock(ms: int, point: str) -> str:
    seconds, ms = divmod(ms, 1000)
    return f"{_hms(seconds)}{point}{ms:03}"


def _hms(seconds: int) -> str:
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}:{second:02}"


def _txt(speech: _Speech) -> str:
    """Paragraphs with an empty line between them, speakers before what they say."""
    if speech.verbatim:
        return speech.verbatim
    return "\n\n".join(
        f"{shown_name(speaker, speech.names)}: {joined(words)}" if speaker else joined(words)
        for speaker, words in _paragraphs(speech.turns)
    )


def _md(speech: _Speech) -> str:
    """
    A heading, then paragraphs with the time they begin and who speaks.

    Source: CommonMark 0.31, section 2.4, backslash escapes.
    """
    blocks = [f"# {_escaped_md(speech.title)}"] if speech.title else []
    for speaker, words in _paragraphs(speech.turns):
        name = f"**{_escaped_md(shown_name(speaker, speech.names))}:** " if speaker else ""
        time = _hms(words[0].start // 1000)
        blocks.append(f"[{time}] {name}{_escaped_md(joined(words))}")
    return "\n\n".join(blocks)


def _escaped_md(text: str) -> str:
    return re.sub(r"([\\`*_~\[\]<>&|$#])", r"\\\1", text)


def _srt(speech: _Speech) -> str:
    """SubRip, with the speaker's name where another begins to speak."""
    blocks = []
    spoke = ""
    timed = captions(speech.turns, speech.names)
    for number, (start, end, speaker, words) in enumerate(timed, 1):
        if speaker != spoke and speaker:
            first, *others = words
            label = Word("", f"{shown_name(speaker, speech.names)}:", start, start)
            words = [label, first._replace(lead=" "), *others]
        spoke = speaker
        times = f"{_clock(start, ',')} --> {_clock(end, ',')}"
        blocks.append(f"{number}\n{times}\n{_escaped_srt(in_lines(words))}")
    return "\n\n".join(blocks)


def _escaped_srt(lines: Iterable[str]) -> str:
    """
    SubRip has no escape, so a word joiner, which shows as nothing, is put into what players
    would take for an arrow, a tag or an override.
    """
    return re.sub(r"(--(?=>)|<(?=\s*/?\s*[A-Za-z])|\{(?=\\))", "\\1\u2060", "\n".join(lines))


def _vtt(speech: _Speech) -> str:
    """
    WebVTT, with each caption in the voice of its speaker.

    Source: https://www.w3.org/TR/webvtt1/#syntax
    """
    blocks = ["WEBVTT"]
    for start, end, speaker, words in captions(speech.turns, speech.names):
        times = f"{_clock(start, '.')} --> {_clock(end, '.')}"
        voice = f"<v {_escaped_vtt(shown_name(speaker, speech.names))}>" if speaker else ""
        text = _escaped_vtt("\n".join(in_lines(words)))
        blocks.append(f"{times}\n{voice}{text}")
    return "\n\n".join(blocks)


def _escaped_vtt(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _tsv(speech: _Speech) -> str:
    """A row for each turn of a speaker, or each caption where none is known; times in ms."""
    rows = ["start\tend\tspeaker\ttext"]
    pieces = (
        [Caption(words[0].start, words[-1].end, speaker, words) for speaker, words in speech.turns]
        if any(turn.speaker for turn in speech.turns)
        else captions(speech.turns)
    )
    for start, end, speaker, words in pieces:
        name = speech.names.get(speaker, speaker)
        rows.append(f"{start}\t{end}\t{_cell(name)}\t{_cell(joined(words))}")
    return "\n".join(rows)


_FORMULA = re.compile("[\"'\\s]*[=+\\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?\d+(?:[.,:/]\d+)*\s?%?", re.ASCII)


def _cell(text: str) -> str:
    """
    A text that a spreadsheet shows and does not run: an apostrophe leads what may be a formula.

    Source: https://owasp.org/www-community/attacks/CSV_Injection. Quotes that lead it are taken
    away by a spreadsheet first, and full-width characters count where keyboards have them.
    """
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text


_WRITERS: Final[dict[str, Callable[[_Speech], str]]] = {
    "txt": _txt,
    "srt": _srt,
    "vtt": _vtt,
    "md": _md,
    "tsv": _tsv,
}
