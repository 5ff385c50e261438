"""Grammar: what durations, sizes, rates, timetables, addresses, globs mean; nothing else is one."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.settings import (
    Address,
    Rate,
    Timetable,
    Window,
    glob_pattern,
    parse_duration,
    parse_names,
    parse_size,
)
from pipeline.settings.grammar import parse_texts, parse_url

_LABEL = st.text("ABC123", min_size=1)
_NAME = st.text(st.characters(exclude_characters=",", exclude_categories=("Cs", "Cc"))).filter(
    lambda name: name.strip() != ""
)


@given(st.dictionaries(_LABEL, _NAME, min_size=1))
def test_names_of_speakers_mean_the_same_in_every_form(names: dict[str, str]) -> None:
    """A text, several texts and a table with the same names are the same table."""
    parts = [f" {label.lower()} ={name}" for label, name in names.items()]
    expected = {label: name.strip() for label, name in names.items()}

    assert parse_names(",".join(parts)) == parse_names(parts) == expected
    assert parse_names(expected) == expected


@given(
    st.tuples(*[st.integers(0, 10_000)] * 5),
    st.sampled_from(["", " "]),
)
def test_durations_add_up(counts: tuple[int, ...], around: str) -> None:
    """A duration written in several units is the sum of its parts."""
    written = "".join(f"{n}{unit}" for n, unit in zip(counts, "dhms", strict=False))
    expected = sum(n * s for n, s in zip(counts, (86400, 3600, 60, 1), strict=False))

    assert expected == parse_duration(around + written + around)
    assert expected == parse_duration(str(expected)) == parse_duration(expected)
    assert counts[4] == pytest.approx(1000 * parse_duration(f"{counts[4]}ms"))


@given(st.text() | st.floats() | st.booleans())
def test_durations_are_finite_or_refused(value: Any) -> None:
    """Whatever is written, a duration is 0 s or more, or refused."""
    try:
        seconds = parse_duration(value)
    except ValueError:
        return
    assert 0 <= seconds < float("inf")


@given(st.integers(0, 2**60), st.sampled_from(["", "k", "MB", "GB", "t", "KiB", "mib", "GiB", "B"]))
def test_sizes_are_exact(count: int, unit: str) -> None:
    """A whole number of units is exactly so many bytes: `k` is 1000, `Ki` is 1024."""
    power = " kmgt".index(unit[0].lower()) if unit and unit != "B" else 0

    assert count * (1024 if "i" in unit else 1000) ** power == parse_size(f"{count}{unit}")


@given(st.text() | st.floats() | st.booleans())
def test_sizes_are_whole_or_refused(value: Any) -> None:
    """Whatever is written, a size is a whole number of bytes, or refused."""
    try:
        size = parse_size(value)
    except ValueError:
        return
    assert isinstance(size, int)
    assert size >= 0


@given(st.integers(1, 10**9), st.integers(1, 10**6))
def test_rates_are_read_as_they_are_shown(count: int, window_s: int) -> None:
    """A rate in its written form is the same rate."""
    assert Rate(count, window_s) == Rate.parse(f"{count}/{window_s}s")
    assert Rate(20_000, 300.0) == Rate.parse(str(Rate(20_000, 300.0))) == Rate.parse("20000/5m")


@pytest.mark.parametrize(
    ("glob", "taken", "left"),
    [
        ("*.wav", ["a.wav", "x/y/a.wav", ".wav"], ["a.wavx", "a.wav/b"]),
        ("x/*.wav", ["x/a.wav"], ["a.wav", "x/y/a.wav", "z/x/a.wav"]),
        ("x/**", ["x/a", "x/y/a"], ["x", "a", "yx/a"]),
        ("**/x/*", ["x/a", "z/x/a"], ["x", "x/y/a"]),
        ("x/**/a", ["x/a", "x/y/a", "x/y/z/a"], ["xa", "x/ya"]),
        ("**", ["a", "x/a"], []),
        ("?.wav", ["a.wav", "x/é.wav"], ["ab.wav", "/.wav"]),
        ("[a-c]*", ["apple", "x/c"], ["d", "A"]),
        ("[!a]", ["b", "x/b"], ["a", "ab"]),
        ("[]]", ["]"], ["[", "a"]),
        ("[+--]", ["+", ",", "-"], ["*", "."]),
        ("[!-a]", ["b", "A", "5"], ["-", "a"]),
        ("[+-9]x", ["+x", "9x"], ["/x", "ax"]),
        ("[!]", ["[!]"], ["!", "a"]),
        ("a[", ["a["], ["a"]),
        ("x/a.b+(c)", ["x/a.b+(c)"], ["x/aXb+(c)", "x/a.bb(c)"]),
        ("/a", ["a"], ["x/a", "/a"]),
        ("/x/*.wav", ["x/a.wav"], ["z/x/a.wav"]),
        ("two\nlines*", ["two\nlines\nthree"], ["two lines"]),
    ],
)
def test_globs(glob: str, taken: list[str], left: list[str]) -> None:
    """A glob takes just the paths that it is documented to take."""
    pattern = glob_pattern(glob)

    assert (taken, []) == (
        [path for path in taken if pattern.fullmatch(path)],
        [path for path in left if pattern.fullmatch(path)],
    )


@given(st.text(st.sampled_from("ab/*?[]!.-^\\"), max_size=12), st.text("ab/.-", max_size=12))
def test_any_glob_means_something_or_is_refused(glob: str, path: str) -> None:
    """No glob, however odd, ends in anything but an answer or a `ValueError`."""
    try:
        glob_pattern(glob).fullmatch(path)
    except ValueError:
        assert "[" in glob


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8787", "127.0.0.1", 8787),
        (" localhost:1 ", "localhost", 1),
        ("[::1]:65535", "::1", 65535),
        ("[2001:db8::7]:80", "2001:db8::7", 80),
        ("a-b.example.org:8787", "a-b.example.org", 8787),
    ],
)
def test_addresses_are_a_host_and_a_port(text: str, host: str, port: int) -> None:
    """A host and a port are read from what they are written as, and written so again."""
    assert Address.parse(text) == Address(host, port)
    assert str(Address(host, port)) == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        *("", ":8787", "8787", "host", "host:", "host:0", "host:65536", "::1:80", "[::1]", "[]:1"),
        *("http://host:1", "a b:1", "h\u00f6st:1", "host:1/x", "host:+1", "host:\u0661"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """Half an address, a port that is none, and names of other alphabets are refused."""
    with pytest.raises(ValueError, match="HOST:PORT"):
        Address.parse(text)


# ---------------------------------------------------------------- timetables

MONDAY = datetime(2026, 11, 23)


def limits(written: str, *times: str) -> list[int | None]:
    """The limits at moments of a week, such as `0 08:00` on its Monday."""
    table = Timetable.parse(written)
    found = []
    for time in times:
        day, _, clock = time.partition(" ")
        hour, minute = map(int, clock.split(":"))
        found.append(table.limit_at(MONDAY + timedelta(days=int(day), hours=hour, minutes=minute)))
    return found


@pytest.mark.parametrize(
    ("written", "expected"),
    [("10M", 10_000_000), ("512KiB", 524_288), (2000, 2000), (1e6, 1_000_000), ("off", None)],
)
def test_a_limit_alone_holds_always(written: str | float, expected: int | None) -> None:
    """A size is the limit of every minute of the week, in the suffixes of all sizes; or none is."""
    table = Timetable.parse(written)

    minutes = range(0, 7 * 24 * 60, 7)
    assert {expected} == {table.limit_at(MONDAY + timedelta(minutes=each)) for each in minutes}


def test_a_timetable_by_the_hour() -> None:
    """From each time on its limit holds; before the first of a day that of the evening before."""
    night, day, evening = 9_000_000, 512_000, 10_000_000

    assert limits(
        "08:00,512k 19:00,10M 23:00,9M",
        *("0 00:00", "0 07:59", "0 08:00", "3 18:59", "3 19:00", "6 22:59", "6 23:00"),
    ) == [night, night, day, day, evening, evening, night]


def test_a_timetable_by_the_day() -> None:
    """A time with a day counts once a week, until the next of any day, over the week's end too."""
    written = "Mon-00:00,512k Fri-23:59,10M saturday-10:00,1M Sun-20:00,off"

    assert limits(written, "0 00:00", "4 23:58", "4 23:59", "5 09:59", "5 10:00", "6 20:00") == [
        *(512_000, 512_000, 10_000_000, 10_000_000, 1_000_000, None)
    ]
    assert limits("Wed-12:00,1M", "0 00:00", "2 11:00", "6 23:59") == [1_000_000] * 3
    assert limits("09:00,1M Sun-12:00,off", "5 10:00", "6 11:00", "6 13:00", "0 08:00") == [
        *(1_000_000, 1_000_000, None, None)
    ]


def test_a_timetable_goes_by_the_local_clock() -> None:
    """Where clocks are put on or back, a limit begins when they show its time, and never fails."""
    table, zone = Timetable.parse("02:30,1M 04:00,off"), ZoneInfo("Europe/Berlin")
    for first in (datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)):
        for minute in range(0, 24 * 60):
            local = (first + timedelta(minutes=minute)).astimezone(zone)
            expected = 1_000_000 if "02:30" <= f"{local:%H:%M}" < "04:00" else None
            assert expected == table.limit_at(local)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("", "write `10M`"),
        ("10 parsecs", "write `10M`"),
        ("10M:1M", "write `10M`"),
        ("8,10M", "`8,10M` is no time with a limit"),
        ("08:00,10M 19:00", "`19:00` is no time with a limit"),
        ("24:00,10M", "no time of a day"),
        ("08:60,10M", "no time of a day"),
        ("Mun-08:00,10M", "`mun` is no day"),
        ("08:00,none", "`none` is no limit"),
        ("08:00,10M 8:00,1M", "given a limit before"),
        ("Mon-08:00,10M 08:00,1M", "given a limit before"),
        ("0", "`off` is none"),
        ("999", "1k per second or more"),
    ],
)
def test_what_is_no_timetable_is_refused(written: str, words: str) -> None:
    """What cannot be meant is refused, with the words that help to mend it."""
    with pytest.raises(ValueError, match=words.replace("`", "[`]")):
        Timetable.parse(written)


@given(st.text(alphabet="MonTue0123456789:,-kof ") | st.floats() | st.integers())
def test_a_timetable_is_whole_or_refused(value: str | float) -> None:
    """Whatever is written, there is a limit for each moment, or it is refused."""
    try:
        table = Timetable.parse(value)
    except ValueError:
        return
    limit = table.limit_at(MONDAY)
    assert limit is None or limit >= 1000


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a,b", ("a,b",)),
        ('["a", "b"]', ["a", "b"]),
        ("[a-z]*", ("[a-z]*",)),
        (["a"], ["a"]),
        (7, 7),
    ],
)
def test_texts_are_one_or_a_list(given: object, expected: object) -> None:
    """A text is a list of itself, unless it is a JSON list; what is no text is left for others."""
    assert parse_texts(given) == expected


@pytest.mark.parametrize("text", ["http://h", " https://u:p@h.example:1/p?q#f ", "HTTP://[::1]/"])
def test_urls_are_taken_apart(text: str) -> None:
    """A URL of the web is one with blanks around it, too."""
    assert parse_url(text) == urlsplit(text.strip())


@pytest.mark.parametrize(
    "text",
    [
        *("", "s3cret", "ftp://s3cret", "http:s3cret", "http:///s3cret", "http://h:s3cret/"),
        *("http://h:0/s3cret", "http://[s3cret", "http://h/s3cret\n/x", "http://h/ s3cret"),
        *("http://h/\u00fcs3cret", "s3cret http://h"),
    ],
)
def test_what_is_no_url_is_not_repeated(text: str) -> None:
    """Anything else is refused, in words that hold nothing of it."""
    with pytest.raises(ValueError, match=r"not a URL that begins with http:// or https://") as said:
        parse_url(text)
    assert "s3cret" not in str(said.value)


# ---------------------------------------------------------------- windows

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo = BERLIN) -> float:
    """Unix seconds of a time on a wall."""
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


@pytest.mark.parametrize(
    ("window", "now", "closes"),
    [
        ("22:00-06:00", "2026-03-10T21:59:59", None),
        ("22:00-06:00", "2026-03-10T22:00", "2026-03-11T06:00"),
        ("22:00-06:00", "2026-03-11T05:59:59", "2026-03-11T06:00"),
        ("22:00-06:00", "2026-03-11T06:00", None),
        ("08:30-17:00", "2026-03-11T12:00", "2026-03-11T17:00"),
        ("08:30-17:00", "2026-03-11T18:00", None),
        ("0:00-23:59", "2026-03-11T23:58", "2026-03-11T23:59"),
        ("20:00-00:00", "2026-03-11T23:59", "2026-03-12T00:00"),
    ],
)
def test_windows_are_read_off_a_wall(window: str, now: str, closes: str | None) -> None:
    """A window is open from its first minute until its last, also over midnight."""
    closes_at = Window.parse(window).closes_at(at(now), BERLIN)

    assert closes_at == (closes and at(closes))


@pytest.mark.parametrize(("day", "length_h"), [("2026-03-28", 7), ("2026-10-24", 9)])
def test_a_night_of_change_is_an_hour_shorter_or_longer(day: str, length_h: int) -> None:
    """Where clocks change the window keeps to the wall, and its length changes."""
    opened = at(f"{day}T22:00")

    assert Window.parse("22:00-06:00").closes_at(opened, BERLIN) == opened + length_h * 3600


def test_a_time_that_is_left_out_still_ends_a_window() -> None:
    """02:30 in the night to summer time, which no clock shows, is 03:30 there."""
    window = Window.parse("22:00-02:30")

    assert window.closes_at(at("2026-03-29T01:59"), BERLIN) == at("2026-03-29T03:30")
    assert window.closes_at(at("2026-03-29T03:30"), BERLIN) is None


LORD_HOWE, APIA = ZoneInfo("Australia/Lord_Howe"), ZoneInfo("Pacific/Apia")


@pytest.mark.parametrize(
    ("window", "zone", "opens", "closes"),
    [
        ("02:00-03:00", BERLIN, "2026-03-29T03:00", "2026-03-29T04:00"),
        ("02:15-02:45", BERLIN, "2026-03-29T03:00", "2026-03-29T03:30"),
        ("02:00-02:01", BERLIN, "2026-03-29T03:00", "2026-03-29T03:01"),
        ("02:30-03:30", BERLIN, "2026-03-29T03:00", "2026-03-29T03:30"),
        ("02:30-06:00", BERLIN, "2026-03-29T03:00", "2026-03-29T06:00"),
        ("02:30-02:00", BERLIN, "2026-03-29T03:00", "2026-03-30T02:00"),
        ("03:00-04:00", BERLIN, "2026-03-29T03:00", "2026-03-29T04:00"),
        ("02:00-02:30", LORD_HOWE, "2026-10-04T02:30", "2026-10-04T03:00"),  # half an hour
        ("10:00-12:00", APIA, "2011-12-31T00:00", "2011-12-31T02:00"),  # a whole day
    ],
)
def test_a_window_that_clocks_skip_opens_after(
    window: str, zone: ZoneInfo, opens: str, closes: str
) -> None:
    """It is open from the first moment after what is left out, for its length if that is all."""
    parsed, opened, closed = Window.parse(window), at(opens, zone), at(closes, zone)

    assert parsed.closes_at(opened - 1, zone) != closed
    assert parsed.closes_at(opened, zone) == closed
    assert parsed.closes_at(closed - 1, zone) == closed
    assert parsed.closes_at(closed, zone) != closed
    assert parsed.latest(closed, zone) == (opened, closed)


@given(
    st.integers(0, 1439),
    st.integers(0, 1439),
    st.integers(0, 26),
    st.sampled_from([BERLIN, LORD_HOWE]),
)
def test_no_window_is_left_out(opens: int, closes: int, before_h: int, zone: ZoneInfo) -> None:
    """On each day, those of a change among them, a window opens, and is open for a while."""
    if opens == closes:
        return
    first, last = (f"{minute // 60:02}:{minute % 60:02}" for minute in (opens, closes))
    window = Window.parse(f"{first}-{last}")
    for change in ("2026-03-29T03:00", "2026-10-04T02:30", "2026-10-25T03:00", "2026-04-05T02:00"):
        now = at(change, zone) + 26 * 3600 - before_h * 3600
        opened, closed = window.latest(now, zone)

        assert 0 < closed - opened <= 25 * 3600
        assert 0 <= now - opened <= 25 * 3600
        assert window.closes_at(now, zone) == (closed if now < closed else None)


@given(st.integers(0, 1439), st.integers(0, 1439), st.integers(1_700_000_000, 1_900_000_000))
def test_a_window_that_is_open_closes_within_a_day(opens: int, closes: int, now: int) -> None:
    """Whenever one looks, a window is closed or closes within 25 hours, and the other one not."""
    if opens == closes:
        return
    first, last = (f"{minute // 60:02}:{minute % 60:02}" for minute in (opens, closes))
    one, other = Window.parse(f"{first}-{last}"), Window.parse(f"{last}-{first}")
    ends = [window.closes_at(now, ZoneInfo("UTC")) for window in (one, other)]

    assert ends.count(None) == 1
    assert all(end is None or now < end <= now + 25 * 3600 for end in ends)
    assert Window.parse(str(one)) == one


@pytest.mark.parametrize("text", ["", "22:00", "22-06", "22:00-22:00", "24:00-06:00", "1:60-2:00"])
def test_what_is_no_window_is_refused(text: str) -> None:
    """A window that is not written as one, or is never open, is an error."""
    with pytest.raises(ValueError, match="window"):
        Window.parse(text)
