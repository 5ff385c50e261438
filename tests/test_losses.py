"""What is a loss, and what two scans have to have in common to be compared."""

from typing import Any

import pytest

from pipeline.losses import Held, Loss, filters_of, loss_of
from pipeline.models import Root
from pipeline.settings import Settings

ROOT = Root("nas", b"/mnt/nas", b"")


def held(recordings: int) -> Held:
    """A scan of 2 March 2026, UTC."""
    return Held("nas", "all", recordings, 1_772_450_000.0)


@pytest.mark.parametrize(
    ("before", "now", "is_loss"),
    [
        *((4, 2, False), (5, 2, True), (5, 3, False), (3, 1, True), (1, 0, True), (2, 1, False)),
        *((10, 0, True), (10, 10, False), (10, 20, False), (1_000_000, 499_999, True)),
    ],
)
def test_more_than_half_is_a_loss(before: int, now: int, is_loss: bool) -> None:
    """Half of the recordings may go, and no more; all that there was is more than half."""
    assert (loss_of(held(now), held(before)) is not None) is is_loss


def test_what_was_never_seen_has_lost_nothing() -> None:
    """Without a scan before there is nothing to be missed, not in an empty folder either."""
    assert loss_of(held(0), None) is None


def test_a_loss_in_words() -> None:
    """Cause and message name the source and both numbers; the message says what may be done."""
    empty = loss_of(held(0), held(1200))
    shrunk = loss_of(held(3), held(1200))

    assert empty == Loss("nas", 1200, 0, "2026-03-02")
    assert empty.cause == "source nas is empty: it held 1,200"
    assert empty.message.startswith(
        "nas: none of the 1,200 recordings of 2026-03-02 there any more"
    )
    assert shrunk is not None
    assert shrunk.cause == "source nas has lost more than half: 3 of 1,200 left"
    assert shrunk.message.startswith("nas: only 3 of the 1,200 recordings")
    assert "`shrink = false`" in shrunk.message


@pytest.mark.parametrize(
    "given",
    [
        *({"include": ["*.dat"]}, {"exclude": ["old/"]}, {"exclude": ["old/", "*.tmp"]}),
        {"follow_links": True},
    ],
)
def test_other_filters_are_not_compared(given: dict[str, Any]) -> None:
    """What takes or leaves out other recordings makes another count."""
    assert filters_of(Settings(**given), ROOT, ()) != filters_of(Settings(), ROOT, ())


@pytest.mark.parametrize(
    "given",
    [
        *({"min_age": 60}, {"max_size": "1GB"}, {"limit": 1}, {"order": "newest"}),
        *({"formats": ["srt"]}, {"transcript": {"punctuate": False}}, {"shrink": False}),
    ],
)
def test_what_changes_no_count_is_no_filter(given: dict[str, Any]) -> None:
    """Recordings that are skipped or come later are there, whatever they are asked for with."""
    assert filters_of(Settings(**given), ROOT, ()) == filters_of(Settings(), ROOT, ())


def test_the_order_of_filters_does_not_count() -> None:
    """Two lists of the same globs leave out the same."""
    one, other = Settings(exclude=("a", "b")), Settings(exclude=("b", "a"))

    assert filters_of(one, ROOT, ()) == filters_of(other, ROOT, ())


def test_folders_that_are_left_out_count_by_their_place_in_the_root() -> None:
    """A source within another one is a filter of it, wherever both lie; one beside it is none."""
    moved, plain = Root("nas", b"/srv/nas", b""), Settings()

    inside = filters_of(plain, ROOT, [b"/mnt/nas/calls"])

    assert inside == filters_of(plain, moved, [b"/srv/nas/calls"])
    assert inside != filters_of(plain, ROOT, [b"/mnt/nas/phone"])
    assert filters_of(plain, ROOT, [b"/mnt/nas2", b"/mnt/nas"]) == filters_of(plain, ROOT, ())
