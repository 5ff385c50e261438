"""Options that change words change only what they name."""

import pytest

from pipeline.engine.speech import Word
from pipeline.engine.wording import joined, turns, worded


def words(text: str, start: int = 0) -> list[Word]:
    """Words of a tenth of a second each, one after another."""
    return [
        Word(part, start + 100 * n, start + 100 * n + 80, 0.5)
        for n, part in enumerate(text.split())
    ]


def text(found: list[Word]) -> str:
    return " ".join(word.text for word in found)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Well, \"yes\": it's 9 o'clock!", "Well yes it's 9 o'clock"),
        ("At 3.5 % and $1,000.00, e.g. cold-hearted.", "At 3.5 % and $1,000.00 e.g cold-hearted"),
        ("Wait — what? …", "Wait what"),
        ("你好。 ¿Qué?", "你好 Qué"),
    ],
)
def test_without_punctuation(said: str, expected: str) -> None:
    """Marks around words go, marks inside of words and numbers stay, empty words go."""
    assert text(worded(words(said), {"punctuate": False})) == expected


def test_without_formatting() -> None:
    """Words are in lower case; with both off nothing is left but words."""
    said = words("Good evening, Mr. Ó Dálaigh.")

    assert text(worded(said, {"format_text": False})) == "good evening, mr. ó dálaigh."
    assert (
        text(worded(said, {"format_text": False, "punctuate": False}))
        == "good evening mr ó dálaigh"
    )


def test_spelling_replaces_words_and_phrases() -> None:
    """Whatever their case and the marks around them; the marks stay, and so does other text."""
    rules = [{"from": ["sequel", "s q l"], "to": "SQL"}, {"from": ["dicarlo"], "to": "Decarlo"}]
    said = words("Sequel, or (S Q L)? DiCarlo's sequels: DICARLO.")
    found = worded(said, {"custom_spelling": rules})

    assert text(found) == "SQL, or (SQL)? DiCarlo's sequels: Decarlo."
    assert (found[2].start, found[2].end, found[2].confidence) == (200, 480, 0.5)


def test_spelling_is_not_changed_by_the_other_options() -> None:
    """`to` keeps its case where everything else is put in lower case."""
    options = {
        "custom_spelling": [{"from": ["aws"], "to": "AWS"}],
        "format_text": False,
        "punctuate": False,
    }

    assert text(worded(words("On AWS, Really."), options)) == "on AWS really"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Oh shit, that fucking thing!", "Oh s***, that f****** thing!"),
        ("Bullshit.", "B*******."),
        ("Scunthorpe's shiitake assessed Dick", "Scunthorpe's shiitake assessed Dick"),
    ],
)
def test_profanity_keeps_its_first_letter(said: str, expected: str) -> None:
    """Profane words are masked, and words that only look like them are not."""
    assert text(worded(words(said), {"filter_profanity": True})) == expected
    assert text(worded(words(said), {})) == said


def test_turns_end_at_pauses_and_follow_each_other_by_start() -> None:
    """Two people who speak at once are not shuffled word by word."""
    left = [*words("rain fell", 0), *words("wind rose", 2000)]
    right = words("and Mr. John", 50)
    found = turns([left, right])

    assert [(channel, text(spoken)) for channel, spoken in found] == [
        (0, "rain fell"),
        (1, "and Mr. John"),
        (0, "wind rose"),
    ]


def test_text_is_joined_as_the_language_is_written() -> None:
    """With spaces, but not in languages that have none."""
    assert joined(["今日", "は"], "ja") == "今日は"
    assert joined(["to", "day"], "en") == "to day"
