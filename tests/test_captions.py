"""The promises of `pipeline.captions`: where they break, when they show, and all is in them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.captions import Caption, captions, in_lines, shown_name
from pipeline.phrases import Turn, Word

MIN_CAPTION_MS = 833
MAX_CAPTION_MS = 7_000
GAP_MS = 80
CHAIN_MS = 500


def _texts(sentence: str, pauses_ms: dict[str, int] | None = None) -> list[str]:
    """The captions of an evenly spoken sentence, with silences after some of its words."""
    words: list[Word] = []
    at = 0
    for text in sentence.split():
        words.append(Word(" " if words else "", text, at, at + 60 * len(text)))
        at += 60 * len(text) + 60 + (pauses_ms or {}).get(text, 0)
    return [_said(caption) for caption in captions([Turn("", words)])]


def test_captions_end_with_sentences() -> None:
    """A caption ends where a sentence does rather than when it is full."""
    first = "The lamp was lit at dusk and burned until the morning."
    second = "Nobody saw the keeper leave his post that night."

    assert _texts(f"{first} {second}") == [first, second]


def test_captions_end_with_clauses() -> None:
    """Where a sentence is too long, a caption ends with a clause rather than anywhere."""
    first = "When the wind turned to the north and the sea began to rise,"
    second = "the keeper of the light climbed the narrow stairs once again."

    assert _texts(f"{first} {second}") == [first, second]


def test_captions_share_what_has_no_marks() -> None:
    """Without any mark to break at, captions are of like length, with no word left alone."""
    counts = [len(text) for text in _texts("word " * 18)]

    assert counts == [44, 44]


def test_captions_end_at_pauses() -> None:
    """No caption spans a silence of 0.8 s; a shorter one may stand within."""
    assert _texts("one two three", {"one": 739}) == ["one two three"]
    assert _texts("one two three", {"one": 740}) == ["one", "two three"]


def test_titles_before_names_end_no_sentence() -> None:
    """`Dr.` stays with the name that follows it."""
    first = "In the spring of that year a letter came from Dr. Lindqvist,"
    second = "who asked for nothing but a little oil and a little time."

    assert _texts(f"{first} {second}") == [first, second]


def test_sentences_too_quick_to_read_join_another() -> None:
    """A sentence of less than 0.83 s shares a caption rather than pass unseen."""
    first = "Yes. When the wind turned north we all stayed,"
    second = "and when it fell we sailed for home."

    assert _texts(f"{first} {second}") == [first, second]


def test_no_caption_outlasts_seven_seconds() -> None:
    """A word that is said to last longer is taken from the screen after 7 s."""
    (caption,) = captions([Turn("", [Word("", "Om.", 1_000, 31_000)])])

    assert (caption.start, caption.end) == (1_000, 8_000)


@pytest.mark.parametrize(
    ("next_ms", "end_ms"), [(2_100, 2_020), (2_499, 2_419), (2_500, 2_000), (2_050, 1_970)]
)
def test_no_gap_is_a_flicker(next_ms: int, end_ms: int) -> None:
    """A caption stays until 80 ms before the next if less than half a second would be empty."""
    first = Turn("A", [Word("", "x" * 20, 0, 2_000)])
    second = Turn("B", [Word("", "y" * 20, next_ms, next_ms + 2_000)])

    assert captions([first, second])[0].end == end_ms


def test_a_caption_waits_for_the_one_that_is_read() -> None:
    """When two talk at once, the later caption comes up to a second late, so the other is read."""
    long = Turn("1", [Word("", "x" * 40, 0, 5_000)])
    short = Turn("2", [Word("", "Right.", 500, 900)])

    first, second = captions([long, short])

    assert (first.start, first.end, second.start) == (0, 1_420, 1_500)


def test_two_lines_at_the_most() -> None:
    """Words that fit one line stay on it; of more, each line has a part, in their order."""
    words = [Word(" " if at else "", "x" * 9, at, at + 1) for at in range(8)]

    assert in_lines(words[:4]) == [" ".join(["x" * 9] * 4)]
    assert in_lines(words) == [" ".join(["x" * 9] * 4)] * 2


@pytest.mark.parametrize(
    ("speaker", "shown"),
    [("A", "Ann"), ("B", "Speaker B"), ("2B", "Speaker 2B"), ("Michel", "Michel"), ("", "")],
)
def test_speakers_have_names(speaker: str, shown: str) -> None:
    """A speaker has the name that is given, else the service's own, made readable."""
    assert shown_name(speaker, {"A": "Ann"}) == shown


# ---------------------------------------------------------------- whatever is said


@st.composite
def _turns(draw: st.DrawFn) -> list[Turn]:
    """Turns as they are after reading: words in order, times that never run back."""
    turns = []
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, 20_000))
        words = []
        for number in range(draw(st.integers(1, 30))):
            text = draw(st.text("ab,.世🙂", min_size=1, max_size=draw(st.sampled_from([5, 5, 60]))))
            end = at + draw(st.integers(0, 1_500))
            words.append(Word(" " if number else "", text, at, end))
            at = draw(st.integers(at, end + 1_500))
        turns.append(Turn(draw(st.sampled_from(["", "A", "B", "Michel Martin"])), words))
    return turns


def _said(caption: Caption) -> str:
    return "".join(word.lead + word.text for word in caption.words).strip()


def _lasts_longest(caption: Caption) -> bool:
    return caption.end - caption.start == MAX_CAPTION_MS


@given(_turns())
def test_captions_never_overlap(turns: list[Turn]) -> None:
    """Captions follow one another in time, each at least 1 ms and at most 7 s long."""
    timed = captions(turns)

    for caption in timed:
        assert 0 <= caption.start < caption.end <= caption.start + MAX_CAPTION_MS
    for before, after in itertools.pairwise(timed):
        assert before.end <= after.start


@given(_turns())
def test_captions_hold_every_word_once(turns: list[Turn]) -> None:
    """Each turn's words stand in its speaker's captions, once and in their order."""
    shown = [word for caption in captions(turns) for word in caption.words]

    assert sorted(map(id, shown)) == sorted(id(word) for turn in turns for word in turn.words)
    place = {id(word): at for at, word in enumerate(shown)}
    for turn in turns:
        places = [place[id(word)] for word in turn.words]
        assert places == sorted(places)


@given(_turns())
def test_captions_can_be_read(turns: list[Turn]) -> None:
    """A caption is cut short only by the next one, and only then stays under 0.83 s."""
    timed = captions(turns)

    for caption, following in itertools.zip_longest(timed, timed[1:]):
        if following is None or following.start - caption.start >= MIN_CAPTION_MS:
            assert caption.end - caption.start >= MIN_CAPTION_MS
        if following is None or following.start - caption.start >= MAX_CAPTION_MS + GAP_MS:
            assert caption.end - caption.start >= min(len(_said(caption)) / 17, 7) * 1_000
        if following is not None and following.start - caption.start >= MIN_CAPTION_MS + GAP_MS:
            gap_ms = following.start - caption.end
            assert gap_ms == GAP_MS or gap_ms >= CHAIN_MS or _lasts_longest(caption)


@given(_turns())
def test_speech_that_does_not_overlap_is_shown_when_it_is_heard(turns: list[Turn]) -> None:
    """A single turn's captions come up with their first words, unless two begin at one time."""
    for turn in turns:
        for caption in captions([turn]):
            late_ms = caption.start - caption.words[0].start

            assert 0 <= late_ms <= 1_000 + MIN_CAPTION_MS * len(turn.words)
            if all(b.start >= max(a.end, a.start + 1) for a, b in itertools.pairwise(turn.words)):
                assert late_ms == 0
