"""Logs: who gets which line, in which form, and what never stands in one."""

import io
import json
import logging
import threading
from pathlib import Path

import pytest
import structlog
from rich.console import Console

from pipeline.errors import SettingsError
from pipeline.logs import LineWriter, configure_logs, hide


@pytest.fixture
def console() -> Console:
    """A console that is no terminal, with its text in `file`."""
    return Console(file=io.StringIO(), width=40)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("verbose", "quiet", "expected"),
    [
        (0, False, ["warning", "error"]),
        (1, False, ["info", "warning", "error"]),
        (2, False, ["debug", "info", "warning", "error"]),
        (2, True, ["error"]),
    ],
)
def test_console_shows_what_was_asked_for(
    console: Console, verbose: int, quiet: bool, expected: list[str]
) -> None:
    """Each `-v` shows one level more, and `-q` errors only."""
    with configure_logs(verbose=verbose, quiet=quiet, log_file=None, console=console):
        for level in ("debug", "info", "warning", "error"):
            structlog.get_logger().log(getattr(logging, level.upper()), "test.told")

    assert expected == [line.split("level=")[1].split()[0] for line in shown(console).splitlines()]


def test_lines_elsewhere_than_on_a_terminal_are_whole_and_plain(console: Console) -> None:
    """A line is logfmt, without colours, and is not broken where the console ends."""
    with configure_logs(verbose=1, quiet=False, log_file=None, console=console):
        structlog.get_logger().info("upload.done", recording="a b [red]c[/red].wav", size=3)

    (line,) = shown(console).splitlines()
    assert line.endswith('level=info event=upload.done recording="a b [red]c[/red].wav" size=3')


def test_lines_on_a_terminal_have_colours_unless_unwanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets colours, and none with `NO_COLOR`."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    said = []
    for no_color in (False, True):
        console = Console(
            file=io.StringIO(), force_terminal=True, no_color=no_color, color_system="standard"
        )
        with configure_logs(verbose=0, quiet=False, log_file=None, console=console):
            structlog.get_logger().warning("upload.stalled")
        said.append(shown(console))

    assert all("upload.stalled" in text for text in said)
    assert ["\x1b[" in text for text in said] == [True, False]


def test_file_gets_json_lines_of_all_that_happens(console: Console, tmp_path: Path) -> None:
    """The file is appended to, tells more than the console, and holds tracebacks."""
    path = tmp_path / "overnight.log"
    for _ in range(2):
        with configure_logs(verbose=0, quiet=True, log_file=path, console=console):
            log = structlog.get_logger()
            log.debug("not.told")
            log.info("poll.swept", pending=3)
            try:
                raise ValueError("why")
            except ValueError:
                log.exception("poll.failed")

    first, second = (json.loads(line) for line in path.read_text().splitlines()[:2])
    assert len(path.read_text().splitlines()) == 4
    assert (first["event"], first["level"], first["pending"]) == ("poll.swept", "info", 3)
    assert "ValueError: why" in second["exception"]


def test_hidden_text_stands_in_no_line(console: Console, tmp_path: Path) -> None:
    """A secret is masked in values, nested or not, and in tracebacks, wherever lines go."""
    secret = 'k3y-"of-this-test'
    hide(secret)
    path = tmp_path / "overnight.log"
    with configure_logs(verbose=1, quiet=False, log_file=path, console=console):
        log = structlog.get_logger()
        log.info("request.sent", headers={"authorization": secret}, text=f"a {secret} b")
        try:
            raise ValueError(secret)
        except ValueError:
            log.exception("request.failed")

    for text in (shown(console), path.read_text()):
        assert "of-this-test" not in text
        assert text.count("***") >= 3


def test_short_words_are_not_hidden(console: Console) -> None:
    """A text too short to be a key does not eat words: hiding nothing hides nothing."""
    hide("")
    hide("a")
    with configure_logs(verbose=1, quiet=False, log_file=None, console=console):
        structlog.get_logger().info("scan.began")

    assert "scan.began" in shown(console)


def test_standard_library_warnings_come_out_the_same_way(console: Console) -> None:
    """What asyncio and other libraries warn of is a line among ours."""
    with configure_logs(verbose=0, quiet=False, log_file=None, console=console):
        logging.getLogger("some.library").warning("%d things", 3)

    assert 'level=warning event=some.library message="3 things"' in shown(console)


def test_what_is_configured_ends_with_the_run(console: Console) -> None:
    """Afterwards nothing writes to this run's console any more."""
    handlers = list(logging.getLogger().handlers)
    with configure_logs(verbose=0, quiet=False, log_file=None, console=console):
        pass

    assert logging.getLogger().handlers == handlers
    assert not structlog.is_configured()


def test_unwritable_file_is_a_settings_error(console: Console, tmp_path: Path) -> None:
    """A log file that cannot be opened is said before the run begins."""
    with (
        pytest.raises(SettingsError, match="`log_file` cannot be written"),
        configure_logs(verbose=0, quiet=False, log_file=tmp_path, console=console),
    ):
        pass


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
