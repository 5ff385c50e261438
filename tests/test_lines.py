"""Lines of text on their way out: in order, without waiting, without secrets."""

import io
import os
import threading
from errno import EPIPE
from io import TextIOWrapper

from pipeline.lines import Aside, LineWriter, Outlet, hide, masked


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


def test_a_reader_that_stalls_keeps_nobody() -> None:
    """Leaving waits for a reader that takes nothing no longer than it is said; the rest is lost."""
    stream = Blocked(fails=False)
    write = LineWriter(stream, patience_s=0.01)
    with write:
        write(b"one")

    assert stream.getvalue() == b""
    stream.opened.set()


def test_a_reader_that_is_slow_gets_all() -> None:
    """As long as it takes some of the lines it is waited for, however much there is."""
    ours, theirs = os.pipe()
    got = bytearray()

    def read() -> None:
        while chunk := os.read(ours, 100_000):
            got.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    with LineWriter(Outlet(theirs), patience_s=30.0) as write:
        for number in range(20_000):
            write(b"%d" % number)
    os.close(theirs)
    reader.join()
    os.close(ours)

    assert bytes(got).split() == [b"%d" % number for number in range(20_000)]
    assert write.lost == 0


def test_only_so_many_lines_wait() -> None:
    """What a reader that stalls is told is bounded: the rest is dropped and counted."""
    stream = Blocked(fails=False)
    write = LineWriter(stream)
    for _ in range(100_010):
        write(b"")
    stream.opened.set()
    with write:
        pass

    assert write.lost == 10
    assert len(stream.getvalue()) == 100_000


def test_an_outlet_fails_nobody() -> None:
    """What a pipe without a reader does not take is dropped, and the trouble kept."""
    ours, theirs = os.pipe()
    os.close(ours)
    outlet = Outlet(theirs)

    assert outlet.write(b"unheard") == 7
    assert outlet.trouble is not None
    assert outlet.trouble.errno == EPIPE
    os.close(theirs)


def test_an_outlet_waits_for_a_pipe_that_says_later() -> None:
    """A pipe that somebody has made non-blocking gets all, in order."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    got = list[bytes]()

    def read() -> None:
        while chunk := os.read(ours, 4096):
            got.append(chunk)

    reader = threading.Thread(target=read)
    with LineWriter(Outlet(theirs)) as write:
        for number in range(50_000):
            write(b"%d" % number)
        reader.start()
    os.close(theirs)
    reader.join()
    os.close(ours)

    assert b"".join(got).split() == [b"%d" % number for number in range(50_000)]


def test_what_is_said_aside_comes_out_as_the_stream_would_write_it() -> None:
    """Lines and parts of them come in order, in the encoding of the stream, names of any bytes."""
    below = io.BytesIO()
    stream = TextIOWrapper(io.BytesIO(), "latin-1")
    with LineWriter(below) as lines:
        aside = Aside(stream, lines)
        print("zwölf", "\udcff\u20ac", file=aside, flush=True)
        aside.write("end")

    assert below.getvalue() == b"zw\xf6lf \\udcff\\u20ac\nend"
    assert (aside.encoding, aside.isatty()) == ("latin-1", False)
