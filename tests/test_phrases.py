"""The promises of `pipeline.phrases`: what belongs together, in the languages that it knows."""

import pytest

from pipeline.phrases import Word, binds, ends_sentence, is_pause, is_spaced, joined, strain, width


@pytest.mark.parametrize(
    ("code", "spaced"),
    [("ja", False), ("zh_tw", False), ("TH-th", False), ("en_us", True), ("", True), (None, True)],
)
def test_languages_are_spaced_or_not(code: str | None, spaced: bool) -> None:
    """Regions and case do not matter; a language that is not known has spaces."""
    assert is_spaced(code) is spaced


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("dusk.", True),
        ("what?”", True),
        ("。", True),
        ("Dr.", False),
        ("e.g.", False),
        ("so,", False),
    ],
)
def test_where_sentences_end(text: str, ends: int) -> None:
    """A mark ends a sentence, in quotes too and in any script; that of an abbreviation does not."""
    assert ends_sentence(Word("", text, 0, 1)) == bool(ends)


def test_where_words_are_parted_at_least_harm() -> None:
    """Rather after a sentence, then a clause, before a phrase, anywhere, and last within one."""
    after = Word(" ", "lamp", 2, 3)
    breaks = [
        (Word("", "lit.", 0, 1), after),
        (Word("", "lit,", 0, 1), after),
        (Word("", "lit", 0, 1), after._replace(binds=True)),
        (Word("", "lit", 0, 1), after),
        (Word("", "the", 0, 1, binds=True), after),
    ]

    assert [strain(*pair) for pair in breaks] == [0, 1, 2, 3, 4]


def test_which_words_bind() -> None:
    """Articles and the like, in their own language only, in any case."""
    assert binds("The", "en")
    assert binds("der", "de")
    assert not binds("lamp", "en")
    assert not binds("the", "xx")


def test_texts_and_widths_are_sums() -> None:
    """Words are joined as they were led, but for the first; a wide character takes two columns."""
    words = [Word(" ", "a", 0, 1), Word(" ", "b", 1, 2), Word("", "世", 2, 3)]

    assert joined(words) == "a b世"
    assert [width(text) for text in ("", "ab", "世", "a世")] == [0, 2, 2, 3]


def test_a_pause_is_a_silence() -> None:
    """Two words are parted by a pause if at least so much time is between them."""
    before, after = Word("", "a", 0, 100), Word(" ", "b", 900, 950)

    assert is_pause(before, after, 800)
    assert not is_pause(before, after, 801)
