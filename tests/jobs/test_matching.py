"""Documents and recordings: matched by name where that leaves no doubt, else left."""

import pytest

from jobs.matching import Document, Match, Names, decided

PATHS = [b"a.wav", b"calls/b.wav", b"calls/b.mp3", b"old/b.wav", b"c.tar.gz", b"D.WAV", b"e"]


def document(name: str, transcript_id: str = "") -> Document:
    return Document(name.encode(), transcript_id or name, "0" * 64, None)


@pytest.mark.parametrize(
    ("name", "closeness", "found"),
    [
        ("a.wav.json", 0, {0}),
        ("a.wav.aai.json", 0, {0}),
        ("a.json", 1, {0}),
        ("A.wav.json", 4, set()),
        ("x/y/a.wav.json", 2, {0}),
        ("x/a.json", 3, {0}),
        ("calls/b.wav.json", 0, {1}),
        ("calls/b.json", 1, {1, 2}),
        ("b.wav.json", 2, {1, 3}),
        ("b.mp3.json", 2, {2}),
        ("b.json", 3, {1, 2, 3}),
        ("c.tar.json", 4, set()),
        ("c.tar.gz.json", 0, {4}),
        ("D.json", 1, {5}),
        ("e.json", 0, {6}),
        ("named/a.wav.json", 0, {0}),
        (".json", 4, set()),
    ],
)
def test_names_lead_to_recordings(name: str, closeness: int, found: set[int]) -> None:
    """The closest name counts: with its folder before without, with its suffix before without."""
    names = Names((number, (path, b"named/" + path)) for number, path in enumerate(PATHS))

    assert names.of(name.encode()) == (closeness, found)


def test_the_closest_document_is_taken() -> None:
    """A document that is farther than another one is left, and told of that one."""
    near, far = Match(document("a.wav.json"), 1, 0), Match(document("x/a.json"), 1, 3)

    assert decided([far, near]) == ([near], [(far, near.document)])


def test_nobody_chooses_between_equals() -> None:
    """Of two that are as close none is taken, nor a third one that is farther."""
    first, second = (Match(document(name), 1, 0) for name in ("a.wav.aai.json", "a.wav.json"))
    third, other = Match(document("a.json"), 1, 1), Match(document("b.wav.json"), 2, 0)

    chosen, left = decided([third, second, first, other])

    assert chosen == [other]
    assert {match for match, _ in left} == {first, second, third}
    assert all(match.document != rival for match, rival in left)


def test_copies_are_no_rivals() -> None:
    """Of several copies of one answer the first is taken, and nothing is said of the rest."""
    copies = [Match(document(name, "same"), 1, 0) for name in ("b.json", "a.json")]

    assert decided(copies) == ([copies[1]], [])
