"""The promises of `pipeline.render`: exact files, valid captions, and nothing said is lost."""

import html
import io
import itertools
import json
import pickle
import re
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pysubs2
import pytest
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from pipeline.render import FORMATS, RenderError, render, render_file
from tests.engine import sounds
from tests.engine.client import engine
from tests.engine.scripted import ScriptedRecognizer
from tests.engine.sounds import silence, tone

GOLDEN = Path(__file__).parent / "golden"
ANSWERS = sorted(path.stem for path in GOLDEN.glob("*.json"))

LINE_WIDTH = 42

NAMES = {"channels_and_speakers": {"1a": "Ann", "1B": "Sveinn & Sons", "2A": "Control"}}
"""Who is named in the exact files."""


# ---------------------------------------------------------------- what others read


class Cue(NamedTuple):
    """A caption as a parser reads it: ms, and text as it is shown."""

    start: int
    end: int
    text: str


def _webvtt(made: str, file_format: str) -> list[Cue]:
    """The captions of a file as webvtt-py reads them."""
    if not made:  # it takes no empty file
        return []
    read = webvtt.from_buffer(io.StringIO(made), format=file_format).captions
    # It takes tags out of SubRip that no player takes for tags.
    texts = [cue.text if file_format == "vtt" else cue.raw_text for cue in read]
    return [
        Cue(_ms(cue.start), _ms(cue.end), _shown(text, file_format))
        for cue, text in zip(read, texts, strict=True)
    ]


def _pysubs2(made: str, file_format: str) -> list[Cue]:
    """The captions of a file as pysubs2 reads them."""
    if not made:
        return []
    read = pysubs2.SSAFile.from_string(made, file_format)
    return [Cue(e.start, e.end, _shown(e.text.replace("\\N", "\n"), file_format)) for e in read]


def _ms(clock: str) -> int:
    hours, minutes, seconds = clock.replace(",", ".").split(":")
    return round(1000 * (3600 * int(hours) + 60 * int(minutes) + float(seconds)))


def _shown(text: str, file_format: str) -> str:
    """What a player makes of it: neither parser resolves what is escaped."""
    return html.unescape(text) if file_format == "vtt" else text.replace("\u2060", "")


# ---------------------------------------------------------------- exact files


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("name", ANSWERS)
def test_files_are_exact(name: str, file_format: str) -> None:
    """Each answer in `golden/` makes each format byte for byte as it is kept there."""
    transcript = (GOLDEN / f"{name}.json").read_bytes()

    made = render(transcript, file_format, f"{name}.wav", NAMES.get(name, {}))

    assert made == (GOLDEN / f"{name}.{file_format}").read_bytes()


def test_every_kind_of_answer_is_kept() -> None:
    """The exact files cover speakers, names, channels, no spaces, no words and nothing said."""
    expected = [
        *("channels_and_speakers", "dialogue", "identified", "japanese"),
        *("monologue", "silence", "text_only", "two_channels"),
    ]

    assert expected == ANSWERS


@pytest.mark.parametrize("name", ANSWERS)
def test_two_parsers_read_the_same_captions(name: str) -> None:
    """Each kept `srt` and `vtt` is read alike by both parsers, with all words, in order of time."""
    transcript = (GOLDEN / f"{name}.json").read_bytes()
    srt, vtt = ((GOLDEN / f"{name}.{suffix}").read_text() for suffix in ("srt", "vtt"))

    cues = _webvtt(vtt, "vtt")

    assert cues == _pysubs2(vtt, "vtt")
    assert _webvtt(srt, "srt") == _pysubs2(srt, "srt")
    assert [cue[:2] for cue in _webvtt(srt, "srt")] == [cue[:2] for cue in cues]
    assert cues == sorted(cues)
    _assert_whole([cue.text.split("\n") for cue in cues], transcript)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "transcript",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"id": "1"}',
        b'{"status": "completed", "words": "many"}',
        b'{"status": "completed", "text": null, "words": null}',
        b'{"status": "error", "error": "Audio duration is too short.", "text": null}',
        b'{"status": "processing", "text": null}',
        b'{"status": "completed", "text": "\xff"}',
        b'{"status": "completed", "text": "Deleted by user.", "audio_url": "http://deleted_by_user"}',
        b'{"status": "completed", "text": "Deleted by user.", "is_deleted": true}',
    ],
)
def test_what_is_no_completed_transcript_is_refused(transcript: bytes) -> None:
    """Anything but a completed transcript that still has its text is a `RenderError`."""
    with pytest.raises(RenderError):
        render(transcript, "txt")


def test_unknown_formats_are_named() -> None:
    """A format that does not exist is refused with those that do."""
    with pytest.raises(RenderError, match="`doc` is not a format; choose from txt, srt"):
        render(_answer([]), "doc")


def test_refusals_cross_processes() -> None:
    """A `RenderError` keeps its message on the way back from a worker process."""
    with pytest.raises(RenderError) as refused:
        render(b'{"status": "queued"}', "srt")

    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)


# ---------------------------------------------------------------- leniency


@pytest.mark.parametrize("odd", [b'"x"', b"[1]", b"{}", b"true", b"NaN", b'"\\ud800"'])
@pytest.mark.parametrize("field", [b"words", b"utterances", b"audio_duration", b"language_code"])
def test_what_was_saved_as_odd_is_rendered(field: bytes, odd: bytes) -> None:
    """A field that cannot be read is left out, and what was said is there in every format."""
    body = b'\xef\xbb\xbf{"status":"completed","text":"Hello there.","%s":%s}\n\0' % (field, odd)

    assert all(b"Hello there." in render(body, each) for each in FORMATS)


def test_half_a_character_stands_for_one() -> None:
    """Of what no encoding knows the place is kept, and whole characters beside it are."""
    body = b'{"status":"completed","text":"a \\ud83d b \\ud83d\\ude00 c \\\\ud83d"}'

    assert render(body, "txt").decode() == "a \ufffd b \U0001f600 c \\ud83d\n"


def test_missing_and_unknown_fields_do_no_harm() -> None:
    """Words without times, speakers that are numbers and fields never heard of are rendered."""
    transcript = {
        "status": "completed",
        "novelty": [{"deep": 1}],
        "words": [
            {"text": "One", "start": 0.4, "end": 310.6, "speaker": 1},
            {"text": None, "start": None},
            {"text": "two.", "speaker": 1, "confidence": "high"},
        ],
    }

    made = render(json.dumps(transcript).encode(), "srt")

    assert made == b"1\n00:00:00,000 --> 00:00:00,833\nSpeaker 1: One two.\n"


def test_utterances_without_words_keep_their_time() -> None:
    """An utterance that came as mere text is spread over the time it has."""
    utterance = {"speaker": "A", "start": 2_000, "end": 4_000, "text": "Good morning."}
    transcript = {"status": "completed", "text": "Good morning.", "utterances": [utterance]}

    made = render(json.dumps(transcript).encode(), "tsv")

    assert made == b"start\tend\tspeaker\ttext\n2000\t4000\tA\tGood morning.\n"


def test_text_without_words_or_duration_is_shown_to_be_read() -> None:
    """Where nothing tells a time, captions last as long as reading them takes."""
    transcript = {"status": "completed", "text": "a" * 17 + " " + "b" * 17}

    made = render(json.dumps(transcript).encode(), "tsv")

    assert made.splitlines()[1:] == [b"0\t2059\t\t" + b"a" * 17 + b" " + b"b" * 17]


@pytest.mark.parametrize(
    ("speaker", "label"),
    [
        ("A", "Speaker A"),
        ("1", "Speaker 1"),
        ("2B", "Speaker 2B"),
        ("Michel Martin", "Michel Martin"),
    ],
)
def test_speakers_are_named(speaker: str, label: str) -> None:
    """Letters and channel numbers become `Speaker A`; names and roles stay as they are."""
    transcript = _answer([{"text": "Hi.", "start": 0, "end": 900, "speaker": speaker}])

    assert render(transcript, "txt") == f"{label}: Hi.\n".encode()


@pytest.mark.parametrize("file_format", FORMATS)
def test_speakers_have_the_names_that_are_given(tmp_path: Path, file_format: str) -> None:
    """A name stands for a speaker in every format, whatever it is and in either case of letters."""
    words = [
        {"text": "First.", "start": 0, "end": 900, "speaker": "A"},
        {"text": "Second.", "start": 1_000, "end": 1_900, "speaker": "1b"},
        {"text": "Third.", "start": 2_000, "end": 2_900, "speaker": "C"},
    ]
    names = {"a": "JD", "1B": "Ben\nNevis", "D": "Nobody", "C": " "}

    made = render(_answer(words), file_format, "", names).decode()

    assert re.findall("Speaker|JD|Ben Nevis|Nobody", made) == [
        *("JD", "Ben Nevis"),
        *(["Speaker"] if file_format != "tsv" else []),
    ]
    saved = tmp_path / "a.wav.json"
    saved.write_bytes(_answer(words))
    assert render_file(saved.as_posix().encode(), file_format, "", names).decode() == made


def test_given_names_win_over_those_that_were_found() -> None:
    """The service's names stand in utterances or for labels, until the caller has another one."""
    understood = {"speaker_identification": {"mapping": {"A": "Agent", "B": "QA", "C": None}}}
    words = [
        {"text": text, "start": start, "end": start + 900, "speaker": speaker}
        for start, (text, speaker) in enumerate(zip("abcd", ("A", "B", "C", "QA"), strict=True))
    ]
    transcript = {
        **json.loads(_answer(words)),
        "speech_understanding": {"request": {}, "response": understood},
    }

    def speakers(names: dict[str, str]) -> list[str]:
        made = render(json.dumps(transcript).encode(), "txt", "", names).decode()
        return [paragraph.partition(":")[0] for paragraph in made.split("\n\n")]

    assert speakers({}) == ["Agent", "QA", "Speaker C", "QA"]
    assert speakers({"A": "Ann", "qa": "Quentin"}) == ["Ann", "QA", "Speaker C", "Quentin"]


def test_a_long_name_takes_a_line_of_its_own() -> None:
    """A name that leaves no room beside it is shown whole, with what is said below it."""
    name = "The Keeper of the Light at the End of the Long Mole"
    words = [{"text": "Who goes there?", "start": 0, "end": 900, "speaker": "A"}]

    lines = render(_answer(words), "srt", "", {"A": name}).decode().splitlines()

    assert lines[2:] == [f"{name}:", "Who goes there?"]


def test_a_name_is_shown_when_the_speaker_changes() -> None:
    """In `srt` a speaker is named with the first of their captions in a row, not the next."""
    words = [
        {"text": "First.", "start": 0, "end": 900, "speaker": "A"},
        {"text": "Second.", "start": 2_000, "end": 2_900, "speaker": "A"},
        {"text": "Third.", "start": 3_000, "end": 3_900, "speaker": "B"},
    ]

    lines = render(_answer(words), "srt").decode().splitlines()

    assert lines[2::4] == ["Speaker A: First.", "Second.", "Speaker B: Third."]


def test_long_recordings_have_long_clocks() -> None:
    """Hours go on past two digits."""
    word = {"text": "Late.", "start": 360_000_000, "end": 360_001_000}

    assert b"100:00:00,000 --> 100:00:01,000" in render(_answer([word]), "srt")


def test_paragraphs_end_at_long_silences_and_after_many_words() -> None:
    """A silence of 2 s begins a paragraph, and so does a sentence end after 800 characters."""
    sentence = ["word"] * 9 + ["end."]
    times = [(300 * at, 300 * at + 250) for at in range(250)]
    words: list[dict[str, object]] = [
        {"text": text, "start": start, "end": end}
        for text, (start, end) in zip(sentence * 25, times, strict=True)
    ]
    last_ms = times[-1][1]
    words.append({"text": "After.", "start": last_ms + 2_000, "end": last_ms + 3_000})

    paragraphs = render(_answer(words), "txt").decode().rstrip().split("\n\n")

    assert [len(paragraph.split()) for paragraph in paragraphs] == [200, 50, 1]


def test_markdown_shows_the_text_as_it_was_said() -> None:
    """What Markdown would take for markup is escaped, in the heading too."""
    word = {"text": "*a*_b_<c>[d](e)`f`&amp;$1$", "start": 0, "end": 900}

    made = render(_answer([word]), "md", "take_1\n# <draft>")

    assert made.decode() == (
        "# take\\_1 \\# \\<draft\\>\n\n"
        "[00:00:00] \\*a\\*\\_b\\_\\<c\\>\\[d\\](e)\\`f\\`\\&amp;\\$1\\$\n"
    )


def test_titles_that_are_not_unicode_are_rendered() -> None:
    """A file name of bytes that are no UTF-8 still makes a heading."""
    assert render(_answer([]), "md", "call\udcff.wav") == "# call\ufffd.wav\n".encode()


# ---------------------------------------------------------------- where lines break


@pytest.mark.parametrize(
    ("language", "lines"),
    [
        ("en_us", ["They carried the last of the oil", "to the lamp before dark."]),
        ("de", ["Wir trugen den Rest des Öls noch", "vor der Nacht zu der Lampe hinauf."]),
        ("fr", ["Nous avons porté le reste", "de cette huile à la lampe du phare."]),
        ("es", ["Llevamos el resto del aceite", "para la lámpara antes de la noche."]),
    ],
)
def test_lines_do_not_tear_phrases(language: str, lines: list[str]) -> None:
    """A line breaks before an article or a preposition, never after one that another word needs."""
    transcript = {"status": "completed", "language_code": language, "text": " ".join(lines)}

    made = render(json.dumps(transcript).encode(), "srt").decode()

    assert made.splitlines()[2:4] == lines


def test_captions_do_not_tear_phrases() -> None:
    """Where no mark helps, a caption too ends before an article or a preposition, not after it."""
    text = "he climbed all two hundred steps of the tower every night with the oil for the lamp"
    transcript = {"status": "completed", "language_code": "en", "text": text}

    first, second = _webvtt(render(json.dumps(transcript).encode(), "srt").decode(), "srt")

    assert first.text.split()[-1] not in ("the", "of", "with", "for")
    assert second.text.split()[0] in ("of", "every", "with", "for")


def test_the_longer_line_is_the_lower_one() -> None:
    """Of two breaks that are about as good, the one that leaves more below is taken."""
    texts = ["a" * 13, "b" * 14, "c" * 14]
    words = [{"text": text, "start": 0, "end": 3_000} for text in texts]

    lines = render(_answer(words), "vtt").decode().splitlines()

    assert lines[3:] == [texts[0], " ".join(texts[1:])]


# ---------------------------------------------------------------- whatever is said

_SYNTAX = ["-->", "--", ">", "<b>", "</v>", "&amp;", "&", "{\\an8}", "1", "NOTE", "WEBVTT"]
_TIMINGS = ["00:00:01.000 --> 00:00:02.000", "00:00:01,000"]
_BREAKS = ["\n\n", "\r", "\0", "\u2028", "\u202e", "a\tb"]
_SCRIPTS = ["שלום", "🙂", "世界", "Dr."]
_HOSTILE = st.sampled_from(_SYNTAX + _TIMINGS + _BREAKS + _SCRIPTS)
_ANY = st.text(st.characters(codec="utf-8", exclude_characters="\u2060"), max_size=60)
_TEXT = st.one_of(_HOSTILE, _ANY, st.text("ab,.", min_size=1, max_size=9))
_TIME = st.one_of(
    st.none(), st.integers(-5_000, 100_000), st.floats(-1e3, 1e5), st.integers(0, 36_000_000)
)
_SPEAKER = st.sampled_from([None, "A", "B", "1A", "Michel\nMartin", "<v>", "a-->b"])
_WORD = st.fixed_dictionaries({"text": _TEXT, "start": _TIME, "end": _TIME, "speaker": _SPEAKER})
_UTTERANCE = st.fixed_dictionaries(
    {
        "speaker": _SPEAKER,
        "start": _TIME,
        "end": _TIME,
        "text": _TEXT,
        "words": st.lists(_WORD, max_size=12),
    }
)
_TRANSCRIPT = st.fixed_dictionaries(
    {
        "status": st.just("completed"),
        "text": _TEXT,
        "words": st.none() | st.lists(_WORD, max_size=40),
        "utterances": st.none() | st.lists(_UTTERANCE, max_size=6),
        "audio_duration": st.none() | st.integers(0, 36_000) | st.floats(0, 100),
        "language_code": st.sampled_from([None, "en_us", "ja", "zh", "th", "he"]),
    }
).map(lambda transcript: json.dumps(transcript).encode())


def _answer(words: list[dict[str, object]]) -> bytes:
    text = " ".join(str(word["text"]) for word in words)
    return json.dumps({"status": "completed", "text": text, "words": words}).encode()


def _letters(text: str) -> str:
    return "".join(text.split())


def _expected_words(transcript: bytes) -> list[str]:
    """What every format must hold: what was said by utterance, else by word, else as text."""
    answer = msgspec.json.decode(transcript)
    by_utterance = [
        text
        for utterance in answer["utterances"] or []
        for text in _spoken(utterance["words"]) or utterance["text"].split()
    ]
    words = by_utterance or _spoken(answer["words"] or []) or answer["text"].split()
    return [re.sub(r"[\x00-\x1f\x7f-\x9f]", "\ufffd", " ".join(word.split())) for word in words]


def _spoken(words: list[dict[str, str]]) -> list[str]:
    return [word["text"] for word in words if word["text"].strip()]


@given(_TRANSCRIPT)
def test_webvtt_is_valid_whatever_is_said(transcript: bytes) -> None:
    """Two WebVTT parsers read back every caption, whole, in order, and in short lines."""
    made = render(transcript, "vtt").decode()

    cues = _webvtt(made, "vtt")
    assert made.startswith("WEBVTT\n")
    assert made.count("-->") == len(cues) == max(len(made.rstrip().split("\n\n")) - 1, 0)
    assert cues == sorted(cues, key=lambda cue: cue.start)
    _assert_whole([cue.text.split("\n") for cue in cues], transcript)
    if not _confuses_pysubs2(made):
        assert [_compared(cue) for cue in cues] == [_compared(cue) for cue in _pysubs2(made, "vtt")]


@given(_TRANSCRIPT)
def test_subrip_is_valid_whatever_is_said(transcript: bytes) -> None:
    """Two SubRip parsers read back every caption, numbered from 1, whole and in short lines."""
    made = render(transcript, "srt").decode()
    blocks = [block.split("\n") for block in made.rstrip("\n").split("\n\n") if block]

    assert [block[0] for block in blocks] == [str(at) for at in range(1, len(blocks) + 1)]
    assert made.count("-->") == len(blocks)
    cues = _webvtt(made, "srt")
    if not _confuses_pysubs2(made):
        assert [_compared(cue) for cue in cues] == [_compared(cue) for cue in _pysubs2(made, "srt")]
    bodies = [[line.replace("\u2060", "") for line in block[2:]] for block in blocks]
    assert bodies == [cue.text.split("\n") for cue in cues]
    _assert_whole([_without_label(body) for body in bodies], transcript)


@given(_TRANSCRIPT)
def test_no_tag_of_subrip_is_made_of_speech(transcript: bytes) -> None:
    """What looks like a tag or an override is shown by players, not obeyed."""
    made = render(transcript, "srt").decode()

    assert not re.search(r"<\s*/?\s*[A-Za-z]|\{\\", made)


@given(_TRANSCRIPT, st.text(max_size=20))
def test_every_format_ends_in_one_newline(transcript: bytes, title: str) -> None:
    """Files are UTF-8 and end in one newline, or are empty; rendering again changes nothing."""
    for file_format in FORMATS:
        made = render(transcript, file_format, title)

        assert made == render(transcript, file_format, title)
        assert not made or (made.endswith(b"\n") and not made.endswith(b"\n\n"))
        made.decode()


@given(_TRANSCRIPT)
def test_tables_have_four_columns(transcript: bytes) -> None:
    """Every row of a `tsv` has a start, an end, a speaker and a text, whatever is said."""
    header, *rows = render(transcript, "tsv").decode().removesuffix("\n").split("\n")

    assert header == "start\tend\tspeaker\ttext"
    for row in rows:
        start, end, _speaker, text = row.split("\t")
        assert 0 <= int(start) <= int(end)
        assert text


@pytest.mark.parametrize(
    "said",
    [
        *("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", '"=1+1"', "'=1+1", "- yes", "=", "-"),
        *("\uff1d1+1", "\uff0b1", "\uff0d2+3", "\uff20SUM(A1)", "+1 (555) 010-99 or so"),
    ],
)
def test_no_cell_of_a_table_is_run(said: str) -> None:
    """What a spreadsheet would take for a formula, of speech or of a name, has an apostrophe."""
    utterance = {"speaker": "A", "start": 0, "end": 1_000, "text": said}
    transcript = {"status": "completed", "text": said, "utterances": [utterance]}

    made = render(json.dumps(transcript).encode(), "tsv", "", {"A": said}).decode()

    assert made.splitlines()[1:] == [f"0\t1000\t'{said}\t'{said}"]


@pytest.mark.parametrize(
    "said", ["-5", "+3.5", "-1,000.50", "-5 %", "5", "a=b", "Yes - no.", "«@»"]
)
def test_numbers_and_words_of_a_table_stay(said: str) -> None:
    """A number with a sign stays a number, and what is no formula stays what was said."""
    utterance = {"speaker": "A", "start": 0, "end": 1_000, "text": said}
    transcript = {"status": "completed", "text": said, "utterances": [utterance]}

    made = render(json.dumps(transcript).encode(), "tsv").decode()

    assert made.splitlines()[1:] == [f"0\t1000\tA\t{said}"]


def _confuses_pysubs2(made: str) -> bool:
    """It takes any line with two times for the head of a caption."""
    timestamp = pysubs2.time.TIMESTAMP
    bodies = [line for line in made.split("\n") if "-->" not in line]
    return any(len(timestamp.findall(line)) > 1 for line in bodies)


def _compared(cue: Cue) -> tuple[int, int, str]:
    """Times and letters, but for what only pysubs2 reads: breaks, overrides, numbers at the end."""
    text = re.sub(r"\n+ *\d+ *$", "", cue.text.replace("\\N", "\n"))
    return cue.start, cue.end, _letters(text)


def _without_label(lines: list[str]) -> list[str]:
    labels = "Speaker A: |Speaker B: |Speaker 1A: |Michel Martin: |<v>: |a-->b: "
    whole = re.sub(f"^({labels})", "", "\n".join([f"{lines[0]} ", *lines[1:]])).split("\n")
    return [line.strip(" ") for line in whole if line.strip(" ")]


def _assert_whole(bodies: list[list[str]], transcript: bytes) -> None:
    words = _expected_words(transcript)
    for lines in bodies:
        assert 1 <= len(lines) <= 2
        for line in lines:
            assert line.strip()
            assert len(line) <= LINE_WIDTH or line in words
    shown = "".join(itertools.chain.from_iterable(bodies))
    assert sorted(_letters(shown)) == sorted(_letters("".join(words)))


# ---------------------------------------------------------------- what the service exports


@pytest.mark.anyio
@pytest.mark.parametrize("file_format", ["srt", "vtt"])
@pytest.mark.parametrize("options", [{}, {"multichannel": True}], ids=["mono", "channels"])
async def test_captions_say_what_the_exports_say(
    tmp_path: Path, file_format: str, options: dict[str, Any]
) -> None:
    """
    Ours hold what the service's own captions of the transcript hold: every word once, those of a
    voice in their order, from the same first start to the same last end.

    They differ where the rules do: the service fills captions by characters alone, takes them away
    with the last word, lets those of channels overlap, and names nobody. So a last end of ours may
    be later, by what it takes to read the caption.
    """
    spoken = ("The", "lamp", "was", "lit", "&", "burned,", "all", "night.", "Nobody", "slept.")
    sound = sounds.after(silence(0.5), tone(4), silence(1.5), tone(4), silence(1))
    if options:
        sound = sounds.beside(sound, sounds.after(silence(3), tone(3)))
    async with engine(tmp_path / "state", ScriptedRecognizer(*spoken)) as client:
        transcript = await client.transcribed(sounds.write(tmp_path / "a.wav", sound), **options)
        path = f"/v2/transcript/{transcript['id']}/{file_format}"
        exported = {
            limit: (await client.call("GET", f"{path}?chars_per_caption={limit}"))[1]
            for limit in (16, 42, 84)
        }
    made = render(
        json.dumps(transcript).encode(), file_format, "", {"1": "Ann", "2": "Ben"}
    ).decode()
    ours = _webvtt(made, file_format)

    assert len(transcript["words"]) == len(spoken) * (3 if options else 2)
    for text in exported.values():
        theirs = _webvtt(text, file_format)
        assert theirs == _pysubs2(text, file_format)
        assert min(ours).start == min(theirs).start
        last_ms = max(cue.end for cue in theirs)
        assert last_ms <= max(cue.end for cue in ours) <= last_ms + 84 / 17 * 1_000
        said, expected = (re.sub("Ann: |Ben: ", "", _text(cues)) for cues in (ours, theirs))
        assert sorted(said.split()) == sorted(expected.split())
        if not options:
            assert said == expected == transcript["text"]


def _text(cues: list[Cue]) -> str:
    return " ".join(cue.text for cue in cues).replace("\n", " ")
