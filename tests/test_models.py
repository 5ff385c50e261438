"""The words and the identity of what flows."""

import dataclasses
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import models
from pipeline.models import (
    AttemptState,
    Delivery,
    RecordingState,
    TranscriptState,
    request_key,
    signed,
)

CONTENT = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

parts = st.tuples(
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.dictionaries(st.text(), st.booleans() | st.text() | st.integers()).map(json.dumps),
    st.sampled_from(["assemblyai", "local", "custom"]),
)


def test_the_states_are_those_of_the_design() -> None:
    """The ledger's words are these, spelt like this: they stand in databases."""
    assert list(RecordingState) == ["found", "skipped", "written"]
    assert list(TranscriptState) == [
        *("wanted", "open", "submitted", "completed", "written", "failed", "missing"),
    ]
    assert list(AttemptState) == [
        *("uploading", "uploaded", "submitting", "accepted", "refused"),
        *("ambiguous", "not_accepted"),
    ]


@pytest.mark.parametrize(
    ("options", "provider_kind", "expected"),
    [
        ("{}", "assemblyai", "aa0ed28bf4102255f827513b5fdaf5b2f24e431dc5362eddb0da611b989b1905"),
        (
            '{"speaker_labels":true}',
            "local",
            "5964990297583916f789ae444f1ab28d9013041298841ef71a2b0eb7b3b2b1f8",
        ),
    ],
)
def test_a_request_key_never_changes(options: str, provider_kind: str, expected: str) -> None:
    """A new release has the keys of the old one: otherwise it would pay for every archive again."""
    assert request_key(CONTENT, options, provider_kind) == expected


@given(parts, parts)
def test_equal_requests_alone_have_equal_keys(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    """Content, options and provider kind each make another request, and nothing else does."""
    assert (request_key(*one) == request_key(*other)) == (one == other)


def test_what_flows_cannot_be_changed() -> None:
    """Each thing that is passed from stage to stage is frozen: no stage changes another's."""
    flowing = [
        thing
        for thing in vars(models).values()
        if isinstance(thing, type)
        if dataclasses.is_dataclass(thing)
    ]

    assert len(flowing) == 12
    for thing in flowing:
        assert vars(thing)["__dataclass_params__"].frozen, thing


def test_deliveries_share_nothing() -> None:
    """A delivery that was given no recipients has a list of its own."""
    assert Delivery().recipients is not Delivery().recipients


@given(st.integers(-(2**63), 2**64 - 1), st.integers(-(2**63), 2**64 - 1))
def test_numbers_of_file_systems_fit_into_the_ledger(one: int, other: int) -> None:
    """Whatever a file system says fits, what fitted stays as it is, and a change still shows."""
    assert -(2**63) <= signed(one) < 2**63
    assert signed(one) == one or one >= 2**63
    assert (signed(one) == signed(other)) == (abs(one - other) in (0, 2**64))


NOW, DAY_S = 1_800_000_000.0, 86_400.0


@pytest.mark.parametrize(
    ("mtime", "ctime", "age"),
    [
        (NOW - 5, NOW - 5, 5.0),
        (NOW - 5 * DAY_S, NOW - 5, 5 * DAY_S),
        (1.0, NOW - 5, NOW - 1),
        (NOW + 40 * DAY_S, NOW - 5, 5.0),
        (NOW + 60, NOW + 60, 0.0),
        (NOW + 40 * DAY_S, NOW + 60, 0.0),
        (NOW + 40 * DAY_S, NOW + 2 * DAY_S, None),
    ],
)
def test_an_age_is_one_that_can_be_believed(mtime: float, ctime: float, age: float | None) -> None:
    """A time ahead gives way to when it was noted; one that will never come gives no age at all."""
    found = os.stat_result((0o100644, 1, 1, 1, 0, 0, 3, 0, mtime, ctime))

    assert models.age_s(found, NOW) == age
    assert models.is_settled(found, NOW) == (age != 0.0)
