"""Names of results fit, differ, and stay where they belong, whatever recordings are called."""

import os
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.names import (
    MAX_NAME_BYTES,
    derived,
    distinct,
    fold,
    is_temporary,
    result_name,
    temporary,
    version,
)

FORMATS = ["txt", "srt", "vtt", "md", "tsv", "redacted.mp3"]

# What a file system may call a file: any bytes but these two, 1 to 255 of them.
byte_names = st.binary(min_size=1, max_size=MAX_NAME_BYTES).map(
    lambda name: name.replace(b"/", b"_").replace(b"\0", b"_")
)
# Long ones, so that a cut falls among characters of several bytes.
long_names = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=85
).map(lambda name: (name + "éß日🎧" * 30).encode()[:MAX_NAME_BYTES])
long_text_names = long_names.map(lambda name: name.decode("utf-8", "ignore").encode())
names = (byte_names | long_names | long_text_names).filter(lambda name: name not in (b".", b".."))
paths = st.lists(names, min_size=1, max_size=4).map(b"/".join)
tags = st.text("0123456789abcdef-", min_size=1, max_size=64)


def made_from(path: bytes, tag: str) -> list[bytes]:
    """Every name that the output folder can hold on account of a recording."""
    results = [result_name(path), result_name(path, b"calls/"), distinct(path, b"calls/" + path)]
    made = [derived(result, suffix) for result in results for suffix in FORMATS]
    made += [version(result, tag) for result in results]
    return results + made + [temporary(name) for name in results + made]


@given(paths, tags)
def test_every_name_fits(path: bytes, tag: str) -> None:
    """No part of any name is longer than a file system takes."""
    for made in made_from(path, tag):
        assert all(1 <= len(part) <= MAX_NAME_BYTES for part in made.split(b"/")), made


@given(paths, tags)
def test_no_name_leaves_its_folder(path: bytes, tag: str) -> None:
    """What is made of a path lies in the folder of that path, never above or beside it."""
    folders = {os.path.dirname(path), os.path.dirname(b"calls/" + path)}
    for made in made_from(path, tag):
        assert os.path.dirname(made) in folders
        assert os.path.basename(made) not in (b"", b".", b"..")


@given(paths)
def test_a_short_name_is_kept_whole(path: bytes) -> None:
    """Where there is room, a result is called as its recording, and `.json`."""
    if len(os.path.basename(path)) <= 250:
        assert result_name(path) == path + b".json"
        assert result_name(path, b"calls/") == b"calls/" + path + b".json"


@given(st.sets(paths, min_size=2, max_size=6))
def test_no_two_recordings_share_a_result(recordings: set[bytes]) -> None:
    """Different paths have different results, also where only their endings differ."""
    assert len({result_name(path) for path in recordings}) == len(recordings)


@given(st.sets(st.integers(0, 10**6), min_size=2, max_size=6), st.sampled_from(FORMATS))
def test_long_names_that_begin_alike_differ(numbers: set[int], suffix: str) -> None:
    """Names cut at the same place are told apart: results, what is made of them, temporaries."""
    results = {result_name(b"x" * 248 + b"%07d" % number) for number in numbers}

    assert len(results) == len(numbers)
    assert len({derived(result, suffix) for result in results}) == len(numbers)
    assert len({temporary(result) for result in results}) == len(numbers)


@given(paths, st.binary(), st.binary())
def test_distinct_names_differ_by_identity(path: bytes, one: bytes, other: bytes) -> None:
    """Two recordings that would have one name get two; the same one gets the same again."""
    assert (distinct(path, one) == distinct(path, other)) == (one == other)


@given(paths, tags)
def test_a_temporary_is_known_and_lies_beside(path: bytes, tag: str) -> None:
    """What is not whole yet is hidden, in the same folder, and never taken for a result."""
    for made in [result_name(path), version(result_name(path), tag)]:
        assert os.path.dirname(temporary(made)) == os.path.dirname(made)
        assert is_temporary(os.path.basename(temporary(made)))
        assert not is_temporary(os.path.basename(made))
        assert temporary(made) == temporary(made)


@given(st.lists(long_text_names, min_size=1, max_size=3).map(b"/".join), tags)
def test_no_character_is_cut_in_half(path: bytes, tag: str) -> None:
    """Names that were text stay text, wherever they are cut."""
    for made in made_from(path, tag):
        made.decode()


def test_versions_are_told_apart_by_their_tag() -> None:
    """Two older results of one recording do not take each other's place."""
    assert version(b"a/call.wav.json", "01ab") == b"a/call.wav~01ab.json"
    assert version(b"a/call.wav.json", "01ab") != version(b"a/call.wav.json", "01ac")


def test_derived_names_replace_the_last_suffix_alone() -> None:
    """`call.wav.json` becomes `call.wav.srt`: same stems with two suffixes never collide."""
    assert derived(b"2026/call.wav.json", "srt") == b"2026/call.wav.srt"
    assert derived(b"2026/call.json.json", "srt") == b"2026/call.json.srt"


@given(st.text())
def test_both_normal_forms_fold_alike(text: str) -> None:
    """A name and the same name decomposed, as macOS may spell it, are one."""
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))

    assert fold(composed.encode()) == fold(decomposed.encode()) == fold(text.encode())


def test_all_cases_of_a_character_fold_alike() -> None:
    """A character and what it is in a file system that ignores case are one, all of Unicode."""
    cased = [c for c in map(chr, range(sys.maxunicode + 1)) if c.casefold() != c]

    assert len(cased) > 1000
    for character in cased:
        assert fold(character.encode()) == fold(character.casefold().encode()), hex(ord(character))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Été.WAV", "e\u0301te\u0301.wav"),
        ("STRASSE.mp3", "straße.MP3"),
        ("\u0399\u0308\u0301", "\u0390"),  # composed, it has no capital of one character
    ],
)
def test_case_and_form_fold_together(one: str, other: str) -> None:
    """Names that differ in case and in form at once are one."""
    assert fold(one.encode()) == fold(other.encode())


def test_bytes_that_are_not_text_are_kept_apart() -> None:
    """Two names that differ in a byte that is not UTF-8 stay two."""
    assert fold(b"caf\xe9.wav") != fold(b"caf\xe8.wav")
    assert fold(b"\xff") != fold(b"\xfe")
