"""What to ask next: pages that cover what is due, ids where a page would say less, no hammering."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models import Pending
from pipeline.schedule import Page, Questions, Schedule, Sight, pages_for, questions
from pipeline.wire import PAGE_ROWS, Row

NOW = 1_000_000.0
INTERVAL_S = 1.0
EVERY_S = 5.0


def pending(number: int, *, age_s: float = 60.0, completed: bool = False) -> Pending:
    return Pending(
        attempt_id=number,
        transcript_id=f"id-{number}",
        audio_url=f"upload:{number}",
        completed=completed,
        accepted_at=NOW - age_s,
        finished_at=None,
        result=b"a.wav.json",
    )


def archive(count: int, *, apart_s: float = 0.01) -> list[Pending]:
    """Transcripts that were asked for one after the other, the last one just now."""
    return [pending(n, age_s=(count - 1 - n) * apart_s) for n in range(count)]


def asked_for(all_of_them: Sequence[Pending]) -> list[tuple[float, str]]:
    return [(each.accepted_at, each.transcript_id) for each in all_of_them]


def asked(
    waiting: Sequence[Pending],
    *,
    sights: dict[str, Sight] | None = None,
    first_look_s: float = 0.0,
    share: float = 1.0,
) -> Questions:
    return questions(
        waiting,
        sights or {},
        asked_for(waiting),
        NOW,
        interval_s=INTERVAL_S,
        first_look_s=first_look_s,
        share=share,
    )


def ids(looks: Sequence[Pending]) -> list[int]:
    return [each.attempt_id for each in looks]


# --- pages and ids --------------------------------------------------------------------------------


def test_one_page_watches_two_hundred() -> None:
    """What lies on one page is asked for with one page, and nothing by its id."""
    found = asked(archive(200))

    assert [page.before_id for page in found.pages] == [None]
    assert found.looks == []


def test_a_page_begins_just_above_the_newest_that_is_due() -> None:
    """Those that were asked for a moment ago cost no page: it begins below them."""
    waiting = archive(400)

    (page,) = asked(waiting, first_look_s=2.2).pages

    assert page.shows == {each.transcript_id for each in waiting if NOW - each.accepted_at >= 2.2}
    assert page.before_id is not None
    above = int(page.before_id.removeprefix("id-"))
    newest_due = max(int(each.removeprefix("id-")) for each in page.shows)
    assert newest_due < above <= newest_due + 20


@given(
    st.lists(st.floats(0.0, 10_000.0), max_size=700, unique=True),
    st.floats(0.0, 100.0),
    st.floats(1 / PAGE_ROWS, 1.0),
)
def test_whatever_is_due_is_asked_for_once(
    ages_s: list[float], first_look_s: float, share: float
) -> None:
    """Each that is due is on one page or asked for by its id, and none that is not."""
    waiting = [pending(n, age_s=age) for n, age in enumerate(sorted(ages_s, reverse=True))]
    due = [each for each in waiting if NOW - each.accepted_at >= first_look_s]

    pages, alone = pages_for(due, asked_for(waiting), share)

    shown = [each for page in pages for each in page.shows]
    assert sorted(shown + [each.transcript_id for each in alone]) == sorted(
        each.transcript_id for each in due
    )
    assert all(len(page.shows) > 1 for page in pages)


def test_few_old_ids_under_rows_of_others_are_asked_for_directly() -> None:
    """Where a page of the list would show one of ours at the most, a GET says more."""
    found = asked([pending(n, age_s=3600.0 * (5 - n)) for n in range(5)], share=1 / PAGE_ROWS)

    assert found.pages == []
    assert sorted(ids(found.looks)) == [0, 1, 2, 3, 4]


def test_a_single_one_is_asked_for_by_its_id() -> None:
    """One transcript costs one GET an interval, which brings the result as well."""
    waiting = [pending(1)]

    assert asked(waiting).pages == []
    assert ids(asked(waiting).looks) == [1]
    just_asked = {"id-1": Sight(asked_at=NOW - 0.5)}
    assert asked(waiting, sights=just_asked).looks == []


def test_what_a_page_did_not_show_is_asked_for_some_at_a_time() -> None:
    """Ids that the list lacks are asked for directly, not at once, not often, not all together."""
    waiting = [pending(n) for n in range(100)]
    missed = {each.transcript_id: Sight(missed_at=NOW - EVERY_S) for each in waiting}
    missed_just_now = {each.transcript_id: Sight(missed_at=NOW - 1.0) for each in waiting}

    assert 0 < len(asked(waiting, sights=missed).looks) <= 40
    assert asked(waiting, sights=missed_just_now) == Questions([], [])


def test_a_list_that_lacks_many_is_tried_again() -> None:
    """An outage of the list does not make a hundred GETs of what one page shows again."""
    waiting = [pending(n) for n in range(100)]
    missed = {each.transcript_id: Sight(missed_at=NOW - EVERY_S) for each in waiting}

    assert len(asked(waiting, sights=missed).pages) == 1


def test_who_has_waited_longest_is_asked_for_first() -> None:
    """Of more than can be asked for at a time none is left out: all have their turn."""
    waiting = [pending(n, age_s=3600.0 * (201 - n)) for n in range(200)]
    for missed_at in (None, NOW - 1000.0):
        sights = {each.transcript_id: Sight(missed_at=missed_at) for each in waiting}
        asked_ids = set[int]()
        for sweep in range(30):
            now = NOW + sweep * EVERY_S
            found = questions(
                waiting, sights, asked_for(waiting), now, interval_s=INTERVAL_S, share=1 / PAGE_ROWS
            )
            for look in found.looks:
                asked_ids.add(look.attempt_id)
                sights[look.transcript_id].asked_at = now

        assert asked_ids == set(range(200))


def test_what_is_paid_is_looked_at_first() -> None:
    """Completed in the ledger is looked at whatever the list shows, before what is only unseen."""
    waiting = [pending(1), pending(2, completed=True)]

    assert ids(asked(waiting).looks) == [2, 1]


@pytest.mark.parametrize("ahead_s", [0.0, 3600.0, -3600.0])
def test_a_clock_that_is_set_stops_no_looks(ahead_s: float) -> None:
    """After the clock jumped either way what is pending is asked for all the same."""
    waiting = [pending(1, age_s=60.0 + ahead_s)]

    assert ids(asked(waiting, sights={"id-1": Sight(asked_at=NOW - 30.0 - ahead_s)}).looks) == [1]


# --- what was seen --------------------------------------------------------------------------------


def rows(*statuses: str, first: int = 0) -> list[Row]:
    return [Row(f"id-{n}", status) for n, status in enumerate(statuses, first)]


def watched(waiting: Sequence[Pending], **given: bool) -> Schedule:
    schedule = Schedule(INTERVAL_S, **given)
    schedule.remember(waiting)
    return schedule


def page_of(waiting: Sequence[Pending]) -> Page:
    return Page(None, frozenset(each.transcript_id for each in waiting))


def test_rows_that_say_the_end_are_looked_at() -> None:
    """`completed` and `error` are worth a look, `queued`, `processing` and new words are not."""
    waiting = [pending(n) for n in range(5)]
    said = rows("queued", "completed", "processing", "error", "dreaming")

    finished = watched(waiting).saw(page_of(waiting), said, waiting, NOW)

    assert ids(finished) == [1, 3]


def test_a_row_that_is_wrong_is_not_looked_at_again_at_once() -> None:
    """Where a look did not show what the row says, the next look has to wait."""
    waiting = [pending(0)]
    schedule = watched(waiting)

    assert ids(schedule.saw(page_of(waiting), rows("error"), waiting, NOW - 2.0)) == [0]
    schedule.asked(waiting[0], NOW - 2.0)
    assert schedule.saw(page_of(waiting), rows("error"), waiting, NOW) == []
    assert ids(schedule.saw(page_of(waiting), rows("error"), waiting, NOW + 4.0)) == [0]


def test_the_end_is_looked_at_however_short_the_last_look_is_ago() -> None:
    """A look that came too early makes nobody wait once a row says the end."""
    waiting = [pending(0)]
    schedule = watched(waiting)

    schedule.asked(waiting[0], NOW - 0.5)
    assert ids(schedule.saw(page_of(waiting), rows("completed"), waiting, NOW)) == [0]


def test_what_is_missed_and_shown_again_is_no_longer_missed() -> None:
    """A page that shows an id makes up for one that did not."""
    waiting = [pending(n) for n in range(3)]
    schedule = watched(waiting)

    schedule.saw(page_of(waiting), [], waiting, NOW)
    assert schedule.questions(waiting, NOW) == Questions([], [])
    schedule.saw(page_of(waiting), rows("queued", "queued", "queued"), waiting, NOW)
    assert len(schedule.questions(waiting, NOW).pages) == 1


def test_first_looks_come_when_something_can_be_finished() -> None:
    """Once it is known how long the service takes, what is younger costs no request."""
    done = [pending(n, age_s=8.0) for n in range(10)]
    schedule = watched(done)
    schedule.saw(page_of(done), rows(*["processing"] * 10), done, NOW - 1.0)
    schedule.saw(page_of(done), rows(*["completed"] * 10), done, NOW)
    fresh = [pending(n, age_s=5.0) for n in range(10, 20)]
    schedule.remember(fresh)

    assert schedule.questions(fresh, NOW) == Questions([], [])
    assert len(schedule.questions(fresh, NOW + 2.0).pages) == 1


def test_leftovers_teach_nothing_about_how_long_it_takes() -> None:
    """What has waited since last night says how long the night was, not how long to wait."""
    left = [pending(n, age_s=30_000.0) for n in range(10)]
    schedule = watched(left)
    schedule.saw(page_of(left), rows(*["completed"] * 10), left, NOW)
    fresh = [pending(n, age_s=1.0) for n in range(10, 20)]
    schedule.remember(fresh)

    assert len(schedule.questions(fresh, NOW).pages) == 1


def test_rows_of_others_make_pages_reach_less_far() -> None:
    """Beside a busy program more pages are read, each for fewer of ours; alone again, fewer."""
    waiting = archive(200)
    schedule = watched(waiting)
    busy = [Row(f"other-{n}", "completed") for n in range(400)]
    busy[::4] = [Row(each.transcript_id, "processing") for each in waiting[:100]]
    for _ in range(5):
        schedule.saw(Page(None, frozenset()), busy, waiting, NOW)
    among_others = len(schedule.questions(waiting, NOW).pages)
    alone = [Row(each.transcript_id, "processing") for each in waiting]
    for _ in range(5):
        schedule.saw(Page(None, frozenset()), alone, waiting, NOW)

    assert among_others >= 3
    assert len(schedule.questions(waiting, NOW).pages) <= 2


def test_an_outage_of_the_list_says_nothing_of_what_it_holds() -> None:
    """Once the list can be read again, pages do as much as before."""
    waiting = archive(200)
    schedule = watched(waiting)
    for _ in range(10):
        schedule.saw(page_of(waiting), [], waiting, NOW)

    schedule.saw(page_of(waiting), rows(*["queued"] * 200), waiting, NOW)

    assert len(schedule.questions(waiting, NOW).pages) == 1


def test_others_that_have_gone_make_room_for_pages_again() -> None:
    """Where no page was worth its request for a while, one is tried again."""
    waiting = archive(200)
    schedule = watched(waiting)
    others = [Row(f"other-{n}", "completed") for n in range(200)]
    for _ in range(20):
        schedule.saw(Page(None, frozenset()), others, waiting, NOW)
    assert schedule.questions(waiting, NOW).pages == []

    sweeps = next(n for n in range(1000) if schedule.questions(waiting, NOW).pages)

    assert sweeps < 100


def test_sweeps_slow_down_when_nothing_is_young() -> None:
    """Young transcripts are looked at twice as often as asked, old ones just as often."""
    schedule = watched([])

    assert schedule.pace_s([pending(1, age_s=3.0)], NOW) == INTERVAL_S / 2
    assert schedule.pace_s([pending(1, age_s=3600.0)], NOW) == INTERVAL_S
    assert schedule.pace_s([], NOW) == INTERVAL_S


def test_sweeps_keep_up_with_a_service_that_takes_seconds() -> None:
    """Where all are done in moments, sweeps are as near as that is worth, and never hectic."""
    for took_s, expected_s in ((4.0, 0.5), (0.4, 0.25), (40.0, 3.0)):
        done = [pending(n, age_s=took_s) for n in range(10)]
        schedule = Schedule(6.0)
        schedule.remember(done)
        schedule.saw(page_of(done), rows(*["processing"] * 10), done, NOW - 0.1)
        schedule.saw(page_of(done), rows(*["completed"] * 10), done, NOW)

        assert schedule.pace_s([pending(77, age_s=1.0)], NOW) == expected_s


def test_where_notices_come_sweeps_are_rare() -> None:
    """Notices do most of the work; sweeps only make up for those that got lost."""
    schedule = watched([], is_noticed=True)

    assert schedule.pace_s([pending(1, age_s=3.0)], NOW) == 10 * INTERVAL_S


def test_who_is_spoken_of_is_looked_at_not_too_often() -> None:
    """A notice names an attempt or a transcript; the same one again within a second is no news."""
    waiting = [pending(n) for n in range(4)]
    schedule = watched(waiting)

    assert ids(schedule.noted(waiting, {1, "id-2", 77}, NOW)) == [1, 2]
    schedule.asked(waiting[1], NOW - 0.5)
    assert ids(schedule.noted(waiting, {1, "id-2"}, NOW)) == [2]


def test_the_newest_of_ours_is_known() -> None:
    """A row of ours that is newer than another is told apart from older and foreign ones."""
    schedule = watched(archive(3))

    assert schedule.is_newer("id-2", "id-1")
    assert not schedule.is_newer("id-0", "id-1")
    assert not schedule.is_newer("other", "id-1")
    assert not schedule.is_newer("id-2", "other")
    assert schedule.is_newer("id-0", None)


def test_what_is_remembered_is_bounded() -> None:
    """However many transcripts a run has asked for, only the newest are remembered."""
    schedule = Schedule(INTERVAL_S)
    for start in range(0, 20_000, 100):
        schedule.remember([pending(n, age_s=30_000.0 - n) for n in range(start, start + 100)])

    assert not schedule.is_newer("id-100", None)
    assert schedule.is_newer("id-19999", "id-19000")


@given(st.integers(2, 400), st.integers(0, 3000))
def test_a_sweep_costs_less_than_asking_for_each(count: int, others: int) -> None:
    """By pages or by ids, watching takes fewer requests than one for each that is pending."""
    waiting = archive(count)
    share = count / (count + others)

    found = asked(waiting, share=share)

    assert len(found.pages) <= max(1, math.ceil(count / 2))
    assert len(found.pages) + len(found.looks) <= count
