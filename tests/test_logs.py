"""Logs: who gets which line, in which form, and what never stands in one."""

import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
from rich.console import Console

from pipeline.errors import SettingsError
from pipeline.lines import hide
from pipeline.logs import configure_logs, log


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
            log(getattr(logging, level.upper()), "test.told")

    assert expected == [line.split("level=")[1].split()[0] for line in shown(console).splitlines()]


def test_lines_elsewhere_than_on_a_terminal_are_whole_and_plain(console: Console) -> None:
    """A line is logfmt, without colours, and is not broken where the console ends."""
    with configure_logs(verbose=1, quiet=False, log_file=None, console=console):
        log(logging.INFO, "upload.done", recording="a b [red]c[/red].wav", size=3)

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
            log(logging.WARNING, "upload.stalled")
        said.append(shown(console))

    assert all("upload.stalled" in text for text in said)
    assert ["\x1b[" in text for text in said] == [True, False]


def test_file_gets_json_lines_of_all_that_happens(console: Console, tmp_path: Path) -> None:
    """The file is appended to, tells more than the console, and holds tracebacks."""
    path = tmp_path / "overnight.log"
    for _ in range(2):
        with configure_logs(verbose=0, quiet=True, log_file=path, console=console):
            log(logging.DEBUG, "not.told")
            log(logging.INFO, "poll.swept", pending=3)
            try:
                raise ValueError("why")
            except ValueError:
                log(logging.ERROR, "poll.failed", exc_info=True)

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
        log(logging.INFO, "request.sent", headers={"authorization": secret}, text=f"a {secret} b")
        try:
            raise ValueError(secret)
        except ValueError:
            log(logging.ERROR, "request.failed", exc_info=True)

    for text in (shown(console), path.read_text()):
        assert "of-this-test" not in text
        assert text.count("***") >= 3


def test_short_words_are_not_hidden(console: Console) -> None:
    """A text too short to be a key does not eat words: hiding nothing hides nothing."""
    hide("")
    hide("a")
    with configure_logs(verbose=1, quiet=False, log_file=None, console=console):
        log(logging.INFO, "scan.began")

    assert "scan.began" in shown(console)


def test_standard_library_warnings_come_out_the_same_way(console: Console) -> None:
    """What asyncio and other libraries warn of is a line among ours."""
    with configure_logs(verbose=0, quiet=False, log_file=None, console=console):
        logging.getLogger("some.library").warning("%d things", 3)

    assert 'level=warning event=some.library message="3 things"' in shown(console)


@pytest.mark.parametrize(
    "said",
    [
        "Unknown child process pid %d, will report returncode 255",
        "child process pid %d exit status already read:  will report returncode 255",
    ],
)
def test_a_worker_that_ended_in_two_ways_is_no_warning(console: Console, said: str) -> None:
    """Of a process that is killed as all ends, who saw it end first is nobody's business."""
    with configure_logs(verbose=0, quiet=False, log_file=None, console=console):
        logging.getLogger("asyncio").warning(said, 4711)
        logging.getLogger("asyncio").warning("something else")

    assert shown(console).count("level=warning") == 1


def test_what_is_configured_ends_with_the_run(console: Console) -> None:
    """Afterwards nothing writes to this run's console any more."""
    handlers = list(logging.getLogger().handlers)
    with configure_logs(verbose=0, quiet=False, log_file=None, console=console):
        pass

    assert logging.getLogger().handlers == handlers
    assert not structlog.is_configured()


def test_without_a_line_that_anybody_wants_structlog_is_not_imported() -> None:
    """Most runs say nothing in their log, and do not pay for the means to say it."""
    script = (
        "import logging, sys; from pipeline.logs import configure_logs, log\n"
        "with configure_logs(verbose=0, quiet=False, log_file=None, console=None):\n"
        "    log(logging.INFO, 'not.told')\n"
        "    print('structlog' in sys.modules)\n"
        "    logging.getLogger('some.library').warning('%d things', 3)\n"
        "    print('structlog' in sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert ended.stdout.split() == ["False", "True"]
    assert 'level=warning event=some.library message="3 things"' in ended.stderr


def test_unwritable_file_is_a_settings_error(console: Console, tmp_path: Path) -> None:
    """A log file that cannot be opened is said before the run begins."""
    with (
        pytest.raises(SettingsError, match="`log_file` cannot be written"),
        configure_logs(verbose=0, quiet=False, log_file=tmp_path, console=console),
    ):
        pass


@pytest.mark.parametrize("is_terminal", [False, True])
def test_no_value_forges_a_line_or_reaches_a_terminal(is_terminal: bool) -> None:
    """Names and exceptions of any kind are told on lines of ours, without what a terminal obeys."""
    console = Console(file=io.StringIO(), force_terminal=is_terminal, no_color=True, width=40)
    nasty = "x\x1b[2J\nlevel=error event=forged\r\x9b\u202e\x07\udc80"
    with configure_logs(verbose=2, quiet=False, log_file=None, console=console):
        log(logging.INFO, f"said.{nasty}", recording=nasty, odd=[nasty], path=Path("/" + nasty))
        try:
            raise ValueError(nasty)
        except ValueError:
            log(logging.ERROR, "broken", exc_info=True)

    said = shown(console)
    assert not set(said) & set("\x1b\r\x9b\u202e\x07\udc80")
    assert not any(line.startswith("level=error event=forged") for line in said.splitlines())
    if not is_terminal:
        assert len(said.splitlines()) == 2
