"""Whose fault refusals are, by what was refused and taken before and after."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.breaker import ALIKE, Breaker, Cause, shape

CAUSE = Cause("upload", 403, "no")
OTHER = Cause("upload", 413, "no")
OPTIONS = Cause("submit", 400, "no", '{"punctuate":true}')


def refused(
    breaker: Breaker, contents: Sequence[str], cause: Cause = CAUSE, *, before: bool = False
) -> list[list[int]]:
    """What is said of refusals one after the other, of the attempts 0, 1, 2 ..."""
    return [
        breaker.refused(breaker.began(), cause, content, number, before=before)
        for number, content in enumerate(contents)
    ]


def test_the_fourth_refusal_alike_is_the_cause_of_all() -> None:
    """After three alike one more is tried; refused as well, the attempts of all four are told."""
    breaker = Breaker()

    assert refused(breaker, "abc") == [[], [], []]
    assert breaker.is_suspected("upload")
    assert refused(breaker, "d") == [[0, 1, 2, 0]]
    assert not breaker.is_suspected("upload")
    assert refused(breaker, "e") == [[0]]


def test_one_that_is_taken_shows_that_the_others_are_to_blame() -> None:
    """If the one that is tried alone is taken, nothing is suspected any more."""
    breaker = Breaker()
    refused(breaker, "abc")
    breaker.took(breaker.began(), "upload")

    assert not breaker.is_suspected("upload")
    assert refused(breaker, "def") == [[], [], []]
    assert breaker.conclude(is_cut_short=False) == {}


def test_one_that_was_sent_before_shows_nothing() -> None:
    """A long upload that began before the refusals says nothing of what came after."""
    breaker = Breaker()
    early = breaker.began()
    refused(breaker, "abc")
    breaker.took(early, "upload")

    assert breaker.is_suspected("upload")
    assert refused(breaker, "d") != [[]]


def test_one_that_was_sent_among_them_frees_all() -> None:
    """Taken between the refusals, it leaves too few behind it: three alike it takes once more."""
    breaker = Breaker()
    refused(breaker, "a")
    among = breaker.began()
    refused(breaker, "bc")
    breaker.took(among, "upload")

    assert not breaker.is_suspected("upload")
    assert refused(breaker, "d") == [[]]
    assert breaker.is_suspected("upload")


def test_one_that_was_sent_beside_them_shows_nothing() -> None:
    """Of requests that were under way together, one that is taken does not excuse the service."""
    breaker = Breaker()
    *numbers, last = [breaker.began() for _ in range(4)]
    for number in numbers:
        breaker.refused(number, CAUSE, f"{number}", number)
    breaker.took(last, "upload")

    assert breaker.is_suspected("upload")


def test_two_are_no_cause_at_the_end() -> None:
    """What is not suspected when a run ends failed by itself, however the run ended."""
    breaker = Breaker()
    refused(breaker, "ab")

    assert breaker.conclude(is_cut_short=False) == {}
    assert breaker.conclude(is_cut_short=True) == {}


def test_one_that_was_sent_before_the_third_is_no_trial() -> None:
    """What comes back refused alike meanwhile goes with the others, and proves nothing."""
    breaker = Breaker()
    early = breaker.began()
    refused(breaker, "abc")

    assert breaker.refused(early, CAUSE, "e", 9) == []
    assert refused(breaker, "d") == [[0, 1, 2, 9, 0]]


def test_a_trial_stays_one_whatever_comes_back_meanwhile() -> None:
    """A late refusal of one that was sent before does not make the trial one of those."""
    breaker = Breaker()
    early = breaker.began()
    refused(breaker, "abc")
    trial = breaker.began()
    breaker.refused(early, CAUSE, "e", 9)

    assert breaker.refused(trial, CAUSE, "d", 3) == [0, 1, 2, 9, 3]


@pytest.mark.parametrize("contents", ["aaaa", "abab", "aabb"])
def test_the_same_bytes_count_once(contents: str) -> None:
    """Refused again and again, one recording or two are no sign of anything else."""
    breaker = Breaker()
    refused(breaker, contents)

    assert not breaker.is_suspected("upload")


def test_the_trial_has_other_bytes() -> None:
    """One of the three that comes again is no trial."""
    breaker = Breaker()
    refused(breaker, "abc")

    assert refused(breaker, "abc") == [[], [], []]
    assert refused(breaker, "d") != [[]]


@pytest.mark.parametrize(
    "other", [OTHER, Cause("upload", 403, "never"), Cause("submit", 403, "no")]
)
def test_refusals_that_differ_are_counted_apart(other: Cause) -> None:
    """Another call, status or sentence is another cause."""
    breaker = Breaker()
    refused(breaker, "ab")
    refused(breaker, "cd", other)

    assert not breaker.is_suspected("upload")
    assert not breaker.is_suspected("submit")


def test_options_are_suspected_by_themselves() -> None:
    """Requests with other options go on, and say nothing of these; those with the same do."""
    breaker = Breaker()
    refused(breaker, "abc", OPTIONS)
    breaker.took(breaker.began(), "submit", "{}")

    assert breaker.is_suspected("submit", OPTIONS.options)
    assert not breaker.is_suspected("submit", "{}")
    breaker.took(breaker.began(), "submit", OPTIONS.options)
    assert not breaker.is_suspected("submit", OPTIONS.options)


def test_what_failed_before_is_to_blame_where_others_are_taken() -> None:
    """A recording that is refused in a later run as well is no sign, unless nothing is taken."""
    breaker = Breaker()
    assert refused(breaker, "abcd", before=True)[-1] == [0, 1, 2, 3]

    breaker = Breaker()
    breaker.took(breaker.began(), "upload")
    assert refused(breaker, "abcdef", before=True) == [[]] * 6
    assert not breaker.is_suspected("upload")


@pytest.mark.parametrize(
    ("is_taken", "is_cut_short", "is_told"),
    [(False, False, True), (True, False, False), (False, True, True), (True, True, True)],
)
def test_what_is_suspected_at_the_end(is_taken: bool, is_cut_short: bool, is_told: bool) -> None:
    """With nothing left to try, what the run had taken before speaks against a common cause."""
    breaker = Breaker()
    if is_taken:
        breaker.took(breaker.began(), "upload")
    refused(breaker, "abc")

    told = breaker.conclude(is_cut_short=is_cut_short)

    assert told == ({CAUSE: [0, 1, 2]} if is_told else {})


@given(st.lists(st.sampled_from("rt"), max_size=60))
def test_so_many_in_a_row_are_the_cause(answers: list[str]) -> None:
    """One after the other, it is the fourth refusal in a row that ends it, and no other."""
    breaker, in_a_row = Breaker(), 0
    for number, answer in enumerate(answers):
        began = breaker.began()
        if answer == "t":
            breaker.took(began, "upload")
            in_a_row = 0
            continue
        told = breaker.refused(began, CAUSE, str(number), number)
        in_a_row += 1
        assert bool(told) == (in_a_row > ALIKE)
        if told:
            return


ALIKE_SENTENCES = [
    ("Blocked. Request 8f3a-11", "blocked. Request 77b1-9c"),
    ('"a.wav" is not allowed (ref 12)', '"b.wav" is not allowed (ref 9999)'),
    ("policy of deadbeefcafe", "policy of feedfacebead"),
    ("see https://a.example/x?y for more", "see https://b.example for more"),
    ("id 0b9f6a52-0c6a-4a3e-8a43-6d3f8e7f3a11 refused", "id ffffffff-0c6a refused"),
    ("<p id=a>Blocked</p>", "<p id='b'>Blocked</p>"),
    ("the file `x` can't be taken, it isn't ours", "the file `y` can't be taken, it isn't ours"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE_SENTENCES)
def test_sentences_are_alike_but_for_what_differs_each_time(one: str, other: str) -> None:
    """Ids, numbers, addresses and what stands in quotes are no part of what is said."""
    assert shape(one) == shape(other) != ""


def test_other_words_are_another_sentence() -> None:
    """What is said in other words has another shape."""
    assert shape("The file is too large") != shape("The file is not yours")


@given(st.text(max_size=400))
def test_any_sentence_has_a_shape(said: str) -> None:
    """Whatever is said, the shape is short, and that of a shape is the same."""
    assert len(shape(said)) <= 100
    assert shape(shape(said)) == shape(said).strip() or len(shape(said)) == 100
