"""Lines of text on their way out: in order, without waiting, without secrets."""

import io
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.lines import LineWriter, hide, masked, plain, visible


def test_what_is_hidden_is_masked_wherever_it_stands() -> None:
    """A secret leaves as three stars, also as JSON spells it; words too short for one stay."""
    hide('k3y-"of-lines')
    hide("")
    hide("a")

    assert masked('a k3y-"of-lines b') == "a *** b"
    assert masked('{"key": "k3y-\\"of-lines"}') == '{"key": "***"}'


class Blocked(io.BytesIO):
    """A stream that takes nothing until it is opened, and then fails, or not."""

    def __init__(self, *, fails: bool) -> None:
        super().__init__()
        self.opened = threading.Event()
        self.fails = fails

    def write(self, line: object) -> int:
        self.opened.wait()
        if self.fails:
            raise BrokenPipeError
        return super().write(line)  # type: ignore[arg-type]


def test_lines_are_written_in_order_and_nobody_waits() -> None:
    """Writing returns while the stream is stuck; when left, every line is there, in order."""
    stream = Blocked(fails=False)
    with LineWriter(stream) as write:
        for number in range(1000):
            write(b"%d" % number)
        stream.opened.set()

    assert stream.getvalue().split() == [b"%d" % number for number in range(1000)]


def test_lines_that_cannot_be_written_are_counted() -> None:
    """A reader that went away ends nothing; what it misses is counted."""
    stream = Blocked(fails=True)
    stream.opened.set()
    with LineWriter(stream) as write:
        write(b"one")
        write(b"two")

    assert write.lost == 2


@given(st.text())
def test_what_is_visible_is_one_line(text: str) -> None:
    """Whatever a text holds, it is one line that can be encoded, and clean text stays as it is."""
    shown = visible(text)

    assert shown.encode().decode() == shown
    assert len(shown.splitlines()) <= 1
    assert shown == text or any(not each.isprintable() for each in text)
    assert visible(shown) == shown
    assert plain(f"{text}\n{text}").replace("\n", "\\n") == f"{shown}\\n{shown}"


@given(st.dictionaries(st.text(), st.text() | st.lists(st.text())))
def test_json_says_the_same_when_it_is_visible(facts: dict[str, object]) -> None:
    """What is JSON can be shown to a terminal, and read by a program, as one and the same."""
    assert json.loads(visible(json.dumps(facts, ensure_ascii=False))) == facts


@pytest.mark.parametrize(
    "text", ["Ünïcode", "日本語", "👩\u200d👩\u200d👧", "a\u00a0b", "שלום", "می\u200cروم"]
)
def test_names_of_people_stay_as_they_are(text: str) -> None:
    """What no terminal obeys is shown as it is, also where its parts are joined or kept apart."""
    assert visible(text) == text
