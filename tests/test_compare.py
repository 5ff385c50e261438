"""The promises of `pipeline.compare`: edits that add up, and a score that others agree with."""

import itertools
import json
import pickle
import sys
from collections.abc import Sequence
from typing import Any

import jiwer
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compare import MOVED_MS, Comparison, compare
from pipeline.errors import AnswerUnusable


def answer(words: Sequence[dict[str, Any]] | None = None, **fields: Any) -> bytes:
    """A completed transcript."""
    return json.dumps({"status": "completed", "words": words, **fields}).encode()


def said(text: str, speaker: str | None = None, start: int = 0) -> list[dict[str, Any]]:
    """Words as the service gives them: one every half second."""
    return [
        {"text": word, "start": start + at * 500, "end": start + at * 500 + 400, "speaker": speaker}
        for at, word in enumerate(text.split())
    ]


def told(old: str, new: str) -> Comparison:
    """The comparison of two texts that came with words."""
    return compare(answer(said(old)), answer(said(new)))


def shown(comparison: Comparison) -> list[tuple[str, str, str]]:
    """The edits, without counts and times."""
    return [(edit.kind, edit.old, edit.new) for edit in comparison.edits]


# ---------------------------------------------------------------- by hand


def test_each_kind_of_edit_by_hand() -> None:
    """What was dropped, added, replaced and respelled stands in order, each with its start."""
    made = told(
        "well the pump was um noisy until two then it settled",
        "Well, the pump was noisy until half past two then it subtled",
    )

    assert shown(made) == [
        ("respelled", "well", "Well,"),
        ("equal", "the pump was", "the pump was"),
        ("delete", "um", ""),
        ("equal", "noisy until", "noisy until"),
        ("insert", "", "half past"),
        ("equal", "two then it", "two then it"),
        ("substitute", "settled", "subtled"),
    ]
    assert [edit.start for edit in made.edits] == [0, 500, 2000, 2500, 3000, 3500, 5000]
    assert (made.insertions, made.deletions, made.substitutions) == (2, 1, 1)
    assert (made.old.words, made.new.words, made.respelled) == (11, 12, 1)
    assert made.wer == 4 / 11


def test_words_that_stand_against_words_are_one_edit() -> None:
    """Dropped words beside added ones are a substitution, whatever their numbers."""
    made = told("we saw a lighthouse there", "we saw the light house there")

    (edit,) = [edit for edit in made.edits if edit.kind != "equal"]
    assert (edit.kind, edit.old, edit.new) == ("substitute", "a lighthouse", "the light house")
    assert (edit.old_words, edit.new_words) == (2, 3)
    assert (made.insertions, made.deletions, made.substitutions) == (1, 0, 2)


@pytest.mark.parametrize(
    ("old", "new", "is_equal"),
    [
        ("Hello", "hello!", True),
        ("don't", "don’t", True),
        ("don't", "don`t", True),
        ("straße", "STRASSE", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("हिंदी", "हदी", False),
        ("1.5", "15", False),
        ("50%", "50", False),
        ("word", "ward", False),
    ],
)
def test_what_counts_as_another_word(old: str, new: str, is_equal: bool) -> None:
    """Case, punctuation and composition do not count; vowel signs, decimals and percents do."""
    assert (told(old, new).wer == 0) is is_equal


def test_marks_that_stand_alone_are_no_words() -> None:
    """A dash between words is shown with the one before, a quote at the start with the next."""
    made = told("“ so it — was it", "so it was — it")

    assert shown(made) == [
        ("respelled", "“ so it — was", "so it was —"),
        ("equal", "it", "it"),
    ]
    assert (made.wer, made.old.words, made.new.words) == (0, 4, 4)


def test_long_equal_stretches_are_folded() -> None:
    """Of what stays the same only some words beside a change are kept; the rest is a number."""
    text = " ".join(f"w{number}" for number in range(100))

    made = told(text, text.replace("w50", "x"))

    assert [(edit.kind, edit.old_words, edit.folded) for edit in made.edits] == [
        ("equal", 42, True),
        ("equal", 8, False),
        ("substitute", 1, False),
        ("equal", 8, False),
        ("equal", 41, True),
    ]
    assert [edit.old for edit in made.edits if edit.folded] == ["", ""]
    assert made.edits[1].old.startswith("w42 w43")
    assert made.edits[3].start == 51 * 500


def test_no_spaces_means_characters() -> None:
    """Japanese is compared by character, with foreign words whole and marks beside them."""
    old = answer(language_code="ja", text="東京でGPTを使う。")
    new = answer(
        [
            {"text": "東京", "start": 0, "end": 400},
            {"text": "で", "start": 400, "end": 600},
            {"text": "GTP", "start": 600, "end": 900},
            {"text": "を", "start": 900, "end": 1000},
            {"text": "使う", "start": 1000, "end": 1400},
        ],
        language_code="ja",
    )

    made = compare(old, new)

    assert made.unit == "character"
    assert shown(made) == [
        ("equal", "東京で", "東京で"),
        ("substitute", "GPT", "GTP"),
        ("equal", "を使", "を使"),
        ("respelled", "う。", "う"),
    ]
    assert made.wer == 1 / 7


def test_a_wrong_language_is_all_wrong() -> None:
    """Where one language has no spaces, both texts are cut alike, and spaced words stay whole."""
    made = compare(
        answer(language_code="en_us", text="good morning everyone"),
        answer(language_code="zh", text="大家早上好"),
    )

    assert (made.unit, made.old.words, made.new.words) == ("character", 3, 5)
    assert shown(made) == [("substitute", "good morning everyone", "大家早上好")]


def test_thai_vowels_stay_with_their_consonant() -> None:
    """A sign that cannot stand alone is part of what it is written on, and counts."""
    made = compare(
        answer(language_code="th", text="กิน"),
        answer(language_code="th", text="กัน"),
    )

    assert shown(made) == [("substitute", "กิ", "กั"), ("equal", "น", "น")]


def test_foreign_words_keep_their_space() -> None:
    """Two Latin words in a Chinese text are shown with a space, as renderings show them."""
    words = [{"text": text} for text in ("Visual", "Studio", "很好")]

    made = compare(answer(words, language_code="zh"), answer(words, language_code="zh"))

    assert (made.old.words, made.wer) == (4, 0)
    changed = compare(answer(words, language_code="zh"), answer([], language_code="zh"))
    assert shown(changed) == [("delete", "Visual Studio很好", "")]


@pytest.mark.parametrize(
    ("old", "new", "wer"),
    [("", "", 0), ("", "three new words", 3), ("all is gone", "", 1), ("...", "?!", 0)],
)
def test_empty_texts_have_a_score(old: str, new: str, wer: float) -> None:
    """Nothing against nothing is 0; each new word where there was none is 1; all lost is 1."""
    for make in (lambda text: answer(said(text)), lambda text: answer(text=text)):
        assert compare(make(old), make(new)).wer == wer


def test_words_of_the_text_where_there_are_none() -> None:
    """An answer without words is compared by its text, in which nothing has a time or speaker."""
    made = compare(answer(text="all is\nwell"), answer(said("all was well", "A")))

    assert shown(made)[1] == ("substitute", "is", "was")
    assert made.edits[0].start is None
    assert made.moved.words == made.speakers.words == 0


def test_sides_say_what_they_are() -> None:
    """Model, language and confidence of both are handed on, null where they are not known."""
    made = compare(
        answer(said("one two", "A"), confidence=0.9, speech_model_used="universal-2"),
        answer(said("one"), language_code="fr", audio_duration=7.5, confidence=None),
    )

    assert made.audio_duration == 7.5
    assert (made.old.speech_model_used, made.new.speech_model_used) == ("universal-2", None)
    assert (made.old.language_code, made.new.language_code) == (None, "fr")
    assert (made.old.confidence, made.new.confidence) == (0.9, None)
    assert (made.old.speakers, made.new.speakers) == (1, 0)


# ---------------------------------------------------------------- times and speakers


def test_moved_times_have_a_bound() -> None:
    """Only words farther than the bound from where they were have moved, in either direction."""
    old = said("a b c d e f", start=5_000)
    new = said("a b c d e f", start=5_000)
    for word, shift in zip(new, [0, MOVED_MS, MOVED_MS + 1, -2000, 900, 0], strict=True):
        word["start"] += shift

    moved = compare(answer(old), answer(new)).moved

    assert (moved.words, moved.median_ms, moved.largest_ms) == (3, 501, -2000)


def test_other_labels_are_no_other_speakers() -> None:
    """Labels are given anew each time: swapped names change nothing, one word of another does."""
    turns = [("good morning all", "A"), ("good morning to you", "B"), ("let us begin", "A")]
    old = [word for text, speaker in turns for word in said(text, speaker)]
    new = [{**word, "speaker": {"A": "B", "B": "A"}[word["speaker"]]} for word in old]
    new[3]["speaker"] = "B"

    speakers = compare(answer(old), answer(new)).speakers

    assert speakers.partners == {"A": "B", "B": "A"}
    assert (speakers.words, speakers.changed) == (10, 1)


def test_a_label_has_one_partner() -> None:
    """Two speakers who became one are a change for the words of one of them."""
    old = [*said("one two three", "A"), *said("four five", "B")]
    new = [{**word, "speaker": 0} for word in old]

    speakers = compare(answer(old), answer(new)).speakers

    assert speakers.partners == {"A": "0"}
    assert speakers.changed == 2


labels = st.lists(st.tuples(st.sampled_from("ABCD"), st.sampled_from("WXYZ")), max_size=40)


@given(labels)
def test_labels_are_matched_as_well_as_can_be(pairs: list[tuple[str, str]]) -> None:
    """No other way to give each label a partner leaves more words with their speaker."""
    old = [{"text": f"w{at}", "speaker": label} for at, (label, _) in enumerate(pairs)]
    new = [{"text": f"w{at}", "speaker": label} for at, (_, label) in enumerate(pairs)]

    speakers = compare(answer(old), answer(new)).speakers

    best = max(
        sum(dict(zip("ABCD", order, strict=True))[before] == after for before, after in pairs)
        for order in itertools.permutations("WXYZ")
    )
    assert speakers.words - speakers.changed == best
    assert len(set(speakers.partners.values())) == len(speakers.partners)


def test_a_label_for_each_word_does_no_harm() -> None:
    """However many labels there are, those with most words are matched, in bounded time."""
    old = [{"text": f"w{at}", "speaker": at} for at in range(3_000)]

    speakers = compare(answer(old), answer(old)).speakers

    assert len(speakers.partners) == 64
    assert speakers.changed == 3_000 - 64


# ---------------------------------------------------------------- whatever the words

vocabulary = st.sampled_from(["the", "The", "cat", "cat,", "sat", "on", "mat", "Mat.", "a", "1.5"])
texts = st.lists(vocabulary, max_size=60).map(" ".join)
any_text = st.lists(st.text(max_size=6), max_size=30).map(" ".join)


@given(texts, texts)
def test_edits_make_the_new_text_of_the_old(old: str, new: str) -> None:
    """Equal words of the old text and what the edits bring, in their order, are the new text."""
    made = told(old, new)

    words = iter(old.split())
    result: list[str] = []
    for edit in made.edits:
        taken = list(itertools.islice(words, edit.old_words))
        assert edit.folded or edit.old == " ".join(taken)
        result += taken if edit.kind == "equal" else edit.new.split()
    assert result == new.split()
    assert not list(words)


@given(any_text, st.sampled_from(["en", "ja"]))
def test_nothing_differs_from_itself(text: str, language: str) -> None:
    """A transcript compared with itself has a score of 0 and one equal stretch at the most."""
    same = answer(text=text, language_code=language)

    made = compare(same, same)

    assert (made.wer, made.respelled, made.distance) == (0, 0, 0)
    assert [edit.kind for edit in made.edits] in ([], ["equal"])


@given(any_text, any_text, st.sampled_from(["en", "th"]))
def test_the_distance_is_the_same_both_ways(old: str, new: str, language: str) -> None:
    """What is inserted one way is deleted the other way, and the counts are those of the edits."""
    before, after = (answer(text=text, language_code=language) for text in (old, new))

    forth, back = compare(before, after), compare(after, before)

    assert forth.distance == back.distance
    assert forth.new.words - forth.old.words == forth.insertions - forth.deletions
    for made in (forth, back):
        assert sum(edit.old_words for edit in made.edits) == made.old.words
        assert sum(edit.new_words for edit in made.edits) == made.new.words


letters = st.lists(st.text("abC,.", min_size=1, max_size=3), min_size=1, max_size=30)


@given(letters, letters)
def test_jiwer_agrees(old: list[str], new: list[str]) -> None:
    """The score and its parts are those of another program, given words without case and marks."""

    def bare(words: list[str]) -> str:
        return " ".join(word.lower().replace(",", "").replace(".", "") for word in words)

    made = told(" ".join(old), " ".join(new))

    if bare(old).split():
        theirs = jiwer.process_words(" ".join(bare(old).split()), " ".join(bare(new).split()))
        assert made.wer == pytest.approx(theirs.wer)
        assert made.distance == theirs.insertions + theirs.deletions + theirs.substitutions


# ---------------------------------------------------------------- size and hostility


def test_work_grows_with_the_words() -> None:
    """Ten times the words, up to 50,000, make at most some ten times the calls."""

    def calls(number: int) -> int:
        old = answer(said(" ".join(f"w{at % 997}" for at in range(number))))
        new = answer(said(" ".join(f"w{at % 991}" for at in range(number)), start=700))
        counted = 0

        def count(*_: object) -> None:
            nonlocal counted
            counted += 1

        sys.setprofile(count)
        try:
            compare(old, new)
        finally:
            sys.setprofile(None)
        return counted

    few, many = calls(5_000), calls(50_000)

    assert few < 5_000 * 150
    assert many < 15 * few


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
hostile_words = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "text": st.text(max_size=9) | st.none(),
            "start": st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
            "end": st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
            "speaker": st.none() | st.text(max_size=2) | st.integers(0, 3),
            "confidence": json_values,
            "novelty": json_values,
        },
    ),
    max_size=12,
)


@given(hostile_words, hostile_words, st.sampled_from(["en", "zh", None]))
def test_odd_words_do_no_harm(
    old: list[dict[str, Any]], new: list[dict[str, Any]], language: str | None
) -> None:
    """Missing fields, nulls and impossible times give a comparison that JSON can hold."""
    made = compare(answer(old, language_code=language), answer(new, language_code=language))

    assert msgspec.json.decode(msgspec.json.encode(made), type=Comparison) == made


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            [
                "status",
                "text",
                "words",
                "audio_url",
                "audio_duration",
                "confidence",
                "language_code",
            ],
            json_values | st.just("completed"),
        ),
    )
)
def test_any_document_is_compared_or_refused(document: dict[str, Any]) -> None:
    """Whatever JSON holds, it is a transcript or an `AnswerUnusable`, and never another error."""
    try:
        made = compare(json.dumps(document).encode(), answer(text="a"))
    except AnswerUnusable:
        return

    assert document["status"] == "completed"
    assert made.new.words == 1


def test_comparisons_cross_processes() -> None:
    """What a worker process found, or why it could not, comes back as it was."""
    made = told("a b c", "a x c")

    assert pickle.loads(pickle.dumps(made)) == made
    with pytest.raises(AnswerUnusable) as refused:
        compare(b"", b"")
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)


@pytest.mark.parametrize("huge", ["x" * 2_000_000, "x" + " —" * 200_000], ids=["word", "marks"])
def test_a_huge_word_is_a_word(huge: str) -> None:
    """A word of megabytes is compared like any other, and kept whole."""
    made = compare(answer(text=f"a {huge} b"), answer(text=f"a y{huge} b"))

    assert (made.old.words, made.substitutions) == (3, 1)
    assert made.edits[1].new == f"y{huge}"


@pytest.mark.parametrize(
    ("unusable", "reason"),
    [
        (b"", "not the JSON of a transcript"),
        (b"\xff", "not the JSON of a transcript"),
        (b"[]", "not the JSON of a transcript"),
        (b"{}", "not the JSON of a transcript"),
        (b'{"status": "completed", "words": ' + b"[" * 100_000, "not the JSON of a transcript"),
        (b'{"status": "completed", "words": [{"start": 1e999}]}', "not the JSON of a transcript"),
        (b'{"status": "error", "text": null}', "is `error`"),
        (
            b'{"status": "completed", "text": "x", "audio_url": "http://deleted_by_user"}',
            "was deleted",
        ),
    ],
)
def test_what_is_no_transcript_is_refused(unusable: bytes, reason: str) -> None:
    """What cannot be compared is refused, and it is said which of the two it was."""
    with pytest.raises(AnswerUnusable, match=f"old .*{reason}"):
        compare(unusable, answer(text="a"))
    with pytest.raises(AnswerUnusable, match=f"new .*{reason}"):
        compare(answer(text="a"), unusable)
