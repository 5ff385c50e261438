"""Lines of text on their way out: in order, without waiting, without secrets."""

import io
import threading

from pipeline.lines import LineWriter, hide, masked


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
