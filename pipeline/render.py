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
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

__all__ = ["FORMATS", "Caption", "RenderError", "Turn", "Word", "captions", "render", "render_file"]

FORMATS: Final = ("txt", "srt", "vtt", "md", "tsv")
"""What `render` can make; each is also the suffix of the file."""

# Sources of the caption rules:
# Netflix: Timed Text Style Guide, https://partnerhelp.netflixstudios.com/hc/en-us/articles/
#   215758617 (General Requirements), 217350977 (English), 360051554394 (Subtitle Timing)
# BBC: Subtitle Guidelines, https://www.bbc.co.uk/accessibility/forproducts/guides/subtitles/
_LINE_WIDTH: Final = 42
"""Characters in a line; one of a wide script (Chinese, Japanese, Korean) takes the room of two.
Source: Netflix, English. The BBC (3.1) takes 37 for teletext, and online a width on the screen."""
_LINES: Final = 2
"""Source: Netflix, General Requirements 4; BBC 3.3."""
_MIN_CAPTION_MS: Final = 833
"""Source: Netflix, General Requirements 1: five sixths of a second."""
_MAX_CAPTION_MS: Final = 7_000
"""Source: Netflix, General Requirements 1."""
_GAP_MS: Final = 80
"""Between one caption and the next. Source: Netflix, Subtitle Timing: two frames, here of 40 ms."""
_CHAIN_MS: Final = 500
"""A gap this short would flicker, so the caption before it stays. Source: Netflix, Subtitle Timing:
half a second. The BBC (4.5) wants none below a whole one."""
_READING_CHARS_PER_S: Final = 17
"""Source: BBC 4: 160 to 180 words a minute, which are 16 to 18 characters a second in English.
Netflix allows 20 to adults and 17 to children."""
_CAPTION_PAUSE_MS: Final = 800
"""A silence that no caption spans. Ours: about what a reader takes for the end of a thought."""
_WAIT_MS: Final = 1_000
"""How late a caption may come for the sake of one that is still being read. Ours; the BBC (5.4)
bears two seconds."""
_PARAGRAPH_PAUSE_MS: Final = 2_000
"""A silence that no paragraph spans. Ours."""
_PARAGRAPH_CHARS: Final = 800
"""A paragraph this long ends with its sentence. Ours: some ten lines, a minute of speech."""

_UNSPACED: Final = frozenset({"zh", "yue", "ja", "th", "lo", "my", "km", "bo"})
"""Languages that write no space between words. Source: Unicode Standard Annex 14, section 3."""
_SENTENCE_END: Final = re.compile(r"[.!?…。！？｡؟۔।॥။։።]['\"”’»)\]」』）]*$")
_CLAUSE_END: Final = re.compile(r"[,;:–—،؛、，；：]['\"”’»)\]」』）]*$")
_BINDING: Final = {
    language: frozenset(words.split())
    for language, words in {
        "en": "a an the my your his its our their i he she we they will would could should must "
        "and & or but nor if that because when while about after as at before by for from in into "
        "of on over than through to under until with without",
        "de": "der die das den dem des ein eine einen einem einer eines kein keine ich er wir "
        "und oder aber denn dass weil wenn ob als wie an am auf aus bei bis für gegen im in mit "
        "nach ohne über um unter vom von vor zu zum zur",
        "fr": "le la les un une des du de au aux ce cet cette ces mon ma mes son sa ses notre nos "
        "votre vos leur leurs je tu il ils et ou mais donc car que qui si comme quand à avec chez "
        "dans en par pour sans sous sur",
        "es": "el la los las un una unos unas mi mis su sus del al y e o u pero que si como cuando "
        "porque a con de desde en entre hasta para por sin sobre",
    }.items()
}
"""Articles, pronouns, auxiliaries, conjunctions, prepositions: a phrase begins with them, and is
not torn after them. Source: Netflix, General Requirements 4; BBC 3.4."""
_ABBREVIATION: Final = re.compile(r"(mr|mrs|ms|dr|prof|st|vs|e\.g|i\.e|[a-z])\.", re.IGNORECASE)


_NAMELESS: Final[Mapping[str, str]] = MappingProxyType({})


class RenderError(ValueError):
    """A document that is not a completed transcript, or a format that nothing is known of."""


class Word(NamedTuple):
    """A word with what stands before it, so that texts and widths are plain sums."""

    lead: str
    """A space, or nothing: at the start of a turn and in languages without spaces."""
    text: str
    start: int
    """ms from the start of the recording, never before the word before."""
    end: int
    """ms, not before `start`."""
    binds: bool = False
    """Whether it belongs with the word after it, as an article does."""


class Turn(NamedTuple):
    """What one speaker says before another does."""

    speaker: str
    """As the service names them (`A`, `1`, `1A`, `Michel`), or empty."""
    words: Sequence[Word]


class Caption(NamedTuple):
    """What stands on the screen at one time: words of one speaker, for two lines."""

    start: int
    """ms from the start of the recording."""
    end: int
    """ms, after `start` and not after the start of the next caption."""
    speaker: str
    words: Sequence[Word]


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
    with open(result, "rb") as file:
        return render(file.read(), file_format, title, speaker_names)


def captions(turns: Iterable[Turn], names: Mapping[str, str] = _NAMELESS) -> list[Caption]:
    """
    Captions for the turns, in order of time, none overlapping another.

    Every word stands in exactly one caption and those of a turn in their order. A caption fits
    two lines of 42 characters with the speaker's name before it, or is one word. It ends at a
    pause or the end of a sentence where it can, then of a clause, then of a phrase. It stays for
    0.83 to 7 s, long enough to be read at 17 characters/s where what follows leaves the time, and
    until 80 ms before the next one if that comes within half a second. Where speakers talk at
    once, the later caption waits for the earlier to be read, up to a second.

    Args:
        turns: in any order; their words in theirs.
        names: of speakers who are shown by another name than theirs.

    Source: Netflix Timed Text Style Guide; BBC Subtitle Guidelines.
    """
    spoken = [
        Caption(words[0].start, words[-1].end, turn.speaker, words)
        for turn in turns
        for words in _cut(turn.words, _label(turn.speaker, names))
    ]
    spoken.sort(key=lambda caption: caption.start)

    starts = list(_starts(spoken))

    timed = []
    for caption, start, limit in itertools.zip_longest(spoken, starts, starts[1:]):
        end = max(caption.end, start + _MIN_CAPTION_MS, start + _reading_ms(caption.words))
        if limit is not None:
            if limit - end < _CHAIN_MS:
                end = limit
            # The gap gives way before the caption becomes too short to be seen.
            end = min(end, max(limit - _GAP_MS, min(limit, start + _MIN_CAPTION_MS)))
        end = min(end, start + _MAX_CAPTION_MS)
        timed.append(caption._replace(start=start, end=end))
    return timed


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


class _Speech(NamedTuple):
    title: str
    verbatim: str
    """The text of an answer that has no words, line breaks and all; else empty."""
    turns: Sequence[Turn]
    names: Mapping[str, str]
    """By the speakers of the turns, for those who have one."""


_DECODER: Final = msgspec.json.Decoder(_Answer)


def _completed(transcript: bytes) -> _Answer:
    try:
        answer = _DECODER.decode(transcript)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RenderError(f"this is not the JSON of a transcript: {error}") from error
    if answer.status != "completed":
        raise RenderError(f"the transcript is `{answer.status}`, not `completed`")
    # A deleted transcript says `completed` too, with a sentence for a text.
    # Source: AssemblyAI openapi.yml, deleteTranscript, example.
    if answer.audio_url == "http://deleted_by_user":
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
        ms_per_letter = 1000 / _READING_CHARS_PER_S
    times = itertools.accumulate((len(word) * ms_per_letter for word in words), initial=start)
    return [
        _AnswerWord(word, begins, ends)
        for word, (begins, ends) in zip(words, itertools.pairwise(times), strict=True)
    ]


def _words(answer_words: Iterable[_AnswerWord], language: str) -> Iterator[Word]:
    """The words in their order, with times that never run back."""
    is_spaced = language not in _UNSPACED
    binding = _BINDING.get(language, ())
    before = ""
    at = 0
    for word in answer_words:
        text = _cleaned(word.text or "")
        at = max(at, round(word.start or 0))
        end = max(at, round(word.end or 0))
        lead = " " if before and (is_spaced or _are_latin(before, text)) else ""
        yield Word(lead, text, at, end, text.lower() in binding)
        before = text


def _are_latin(left: str, right: str) -> bool:
    """Whether two words would run into one, as foreign names do in Chinese text."""
    return f"{left[-1]}{right[0]}".isascii() and left[-1].isalnum() and right[0].isalnum()


def _cleaned(text: str) -> str:
    """The text on one line, with U+FFFD for what ends lines or files or has no UTF-8."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", " ".join(text.split()))


# ---------------------------------------------------------------- cutting


def _joined(words: Sequence[Word]) -> str:
    return "".join([word.lead + word.text for word in words])[len(words[0].lead) :]


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _reading_ms(words: Sequence[Word]) -> int:
    return math.ceil(_width(_joined(words)) * 1000 / _READING_CHARS_PER_S)


def _ends_sentence(word: Word) -> bool:
    return bool(_SENTENCE_END.search(word.text)) and not _ABBREVIATION.fullmatch(word.text)


def _is_pause(before: Word, after: Word, pause_ms: int) -> bool:
    return after.start - before.end >= pause_ms


def _strain(before: Word, after: Word) -> int:
    """How much it hurts to break between two words: 0 after a sentence to 4 within a phrase."""
    if _ends_sentence(before):
        return 0
    if _CLAUSE_END.search(before.text):
        return 1
    if before.binds:
        return 4
    return 2 if after.binds else 3


def _cut(words: Sequence[Word], label: str) -> Iterator[Sequence[Word]]:
    """
    The words of a turn, cut into captions at the least cost.

    `costs[n]` is the least that the first n words can cost, `begins[n]` where the last caption of
    that cut begins. A caption holds a handful of words, so the time grows with their number only.
    """
    widths = [_width(word.text) for word in words]
    label_width = _width(f"{label}: ") if label else 0
    costs = [0.0] + [math.inf] * len(words)
    begins = [0] * len(costs)
    for first, word in enumerate(words):
        # Room for the name is kept in each: any may come after a caption of another speaker.
        width = label_width
        lines, line = (1, label_width) if label_width else (0, _LINE_WIDTH)
        for last in range(first, len(words)):
            lead = len(words[last].lead) if last > first else 0
            width += lead + widths[last]
            line += lead + widths[last]
            if line > _LINE_WIDTH:
                lines, line = lines + 1, widths[last]
            is_long = lines > _LINES or words[last].end - word.start > _MAX_CAPTION_MS
            is_broken = last > first and _is_pause(words[last - 1], words[last], _CAPTION_PAUSE_MS)
            if last > first and (is_long or is_broken):
                break
            cost = costs[first] + _caption_cost(words, first, last, width)
            if cost < costs[last + 1]:
                costs[last + 1], begins[last + 1] = cost, first

    cuts = [len(words)]
    while cuts[-1]:
        cuts.append(begins[cuts[-1]])
    for first, end in itertools.pairwise(reversed(cuts)):
        yield words[first:end]


def _caption_cost(words: Sequence[Word], first: int, last: int, width: int) -> float:
    """
    What a caption of these words costs, in captions.

    One for being there, up to one more for being full (the square makes neighbours alike), and
    what is lost by where it ends or by passing too quickly.
    """
    fullness = width / (_LINES * _LINE_WIDTH)
    cost = 1 + fullness * fullness
    ends_turn = last + 1 == len(words)
    if ends_turn or _is_pause(words[last], words[last + 1], _CAPTION_PAUSE_MS):
        return cost
    if words[last].end - words[first].start < _MIN_CAPTION_MS:
        cost += 2
    return cost + _strain(words[last], words[last + 1])


def _lines(words: Sequence[Word]) -> list[str]:
    """One line if the words fit it, else two, cut where it hurts least, and of like length."""
    whole = _joined(words)
    if _width(whole) <= _LINE_WIDTH or len(words) == 1:
        return [whole]

    def cost(at: int) -> tuple[bool, int]:
        top, bottom = (_width(_joined(part)) for part in (words[:at], words[at:]))
        is_too_wide = (top > _LINE_WIDTH and at > 1) or (
            bottom > _LINE_WIDTH and at + 1 < len(words)
        )
        # A break after a clause is worth lines that differ by half a line more than after any
        # word, and the longer line is rather the lower one.
        # Source: BBC 3.4, sense before shape; Netflix, General Requirements 4.
        unlike = abs(top - bottom) + 2 * (top > bottom)
        return is_too_wide, unlike + _LINE_WIDTH // 4 * _strain(words[at - 1], words[at])

    at = min(range(1, len(words)), key=cost)
    return [_joined(words[:at]), _joined(words[at:])]


def _paragraphs(turns: Iterable[Turn]) -> Iterator[Turn]:
    """The turns, cut where a speaker pauses for long or has gone on for long."""
    for speaker, words in turns:
        first = chars = 0
        for at, word in enumerate(words):
            chars += len(word.text)
            if (
                at + 1 == len(words)
                or _is_pause(word, words[at + 1], _PARAGRAPH_PAUSE_MS)
                or (chars >= _PARAGRAPH_CHARS and _ends_sentence(word))
            ):
                yield Turn(speaker, words[first : at + 1])
                first, chars = at + 1, 0


def _starts(spoken: Iterable[Caption]) -> Iterator[int]:
    """When captions come up: as they are spoken, or once the one before has had its time."""
    due = wished = 0
    for caption in spoken:
        start = max(caption.start, due, min(wished, caption.start + _WAIT_MS))
        yield start
        length_ms = max(caption.end - caption.start, 1)
        due = start + min(length_ms, _MIN_CAPTION_MS)
        wished = start + min(length_ms, _reading_ms(caption.words))


# ---------------------------------------------------------------- the formats


def _label(speaker: str, names: Mapping[str, str]) -> str:
    """A name if there is one, else `Speaker A` for the letters and channels of the service."""
    if not speaker or speaker in names:
        return names.get(speaker, "")
    return f"Speaker {speaker}" if re.fullmatch(r"\d*[A-Z]{0,2}", speaker) else speaker


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
        f"{_label(speaker, speech.names)}: {_joined(words)}" if speaker else _joined(words)
        for speaker, words in _paragraphs(speech.turns)
    )


def _md(speech: _Speech) -> str:
    """
    A heading, then paragraphs with the time they begin and who speaks.

    Source: CommonMark 0.31, section 2.4, backslash escapes.
    """
    blocks = [f"# {_escaped_md(speech.title)}"] if speech.title else []
    for speaker, words in _paragraphs(speech.turns):
        name = f"**{_escaped_md(_label(speaker, speech.names))}:** " if speaker else ""
        time = _hms(words[0].start // 1000)
        blocks.append(f"[{time}] {name}{_escaped_md(_joined(words))}")
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
            label = Word("", f"{_label(speaker, speech.names)}:", start, start)
            words = [label, first._replace(lead=" "), *others]
        spoke = speaker
        times = f"{_clock(start, ',')} --> {_clock(end, ',')}"
        blocks.append(f"{number}\n{times}\n{_escaped_srt(_lines(words))}")
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
        voice = f"<v {_escaped_vtt(_label(speaker, speech.names))}>" if speaker else ""
        text = _escaped_vtt("\n".join(_lines(words)))
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
        rows.append(f"{start}\t{end}\t{name}\t{_joined(words)}")
    return "\n".join(rows)


_WRITERS: Final[dict[str, Callable[[_Speech], str]]] = {
    "txt": _txt,
    "srt": _srt,
    "vtt": _vtt,
    "md": _md,
    "tsv": _tsv,
}
