"""
Where log lines go: in, structlog events; out, lines on stderr and, if asked for, in a file.

An event is a dotted name with keys, `log.warning("upload.stalled", recording=…, stall_s=60)`,
never a sentence. On a terminal lines are coloured and scroll above the live block, since one
rich console writes both; elsewhere they are logfmt. The file gets JSON lines. A secret that was
named to `hide` leaves here masked, wherever in a line it stands.

Source: https://www.structlog.org/en/stable/logging-best-practices.html
"""

import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO, Self

import structlog
from rich.console import Console
from rich.text import Text
from structlog.typing import EventDict, WrappedLogger

from pipeline.errors import SettingsError
from pipeline.events import Event, as_dict

__all__ = ["LineWriter", "configure_logs", "hide", "log_event"]

_SHORTEST_SECRET = 6
"""Characters. No service gives out a shorter key, and masking one would eat ordinary words."""

_secrets: set[str] = set()


def hide(secret: str) -> None:
    """From here on `***` stands for this text in every log line of the process."""
    if len(secret) >= _SHORTEST_SECRET:
        _secrets.update((secret, json.dumps(secret)[1:-1]))


class LineWriter:
    """
    Appends lines to a stream from a thread of its own, each flushed, so that no caller waits.

    What cannot be written, to a closed pipe or a full disk, is dropped and counted in `lost`:
    who tells a fact is not to fail for who listens. When left, all lines are written.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.lost = 0
        self._stream = stream
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="line-writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits until all lines are written, or dropped."""
        self._lines.put(None)
        self._thread.join()

    def __call__(self, line: bytes) -> None:
        """Takes one line, without its newline, and returns at once."""
        self._lines.put(line + b"\n")

    def _write(self) -> None:
        lines: list[bytes | None] = []
        while None not in lines:
            lines = [self._lines.get()]
            while not self._lines.empty():
                lines.append(self._lines.get())
            self._write_all([line for line in lines if line is not None])

    def _write_all(self, lines: list[bytes]) -> None:
        try:
            self._stream.write(b"".join(lines))
            self._stream.flush()
        except OSError:
            self.lost += len(lines)


@contextmanager
def configure_logs(
    *, verbose: int, quiet: bool, log_file: Path | None, console: Console
) -> Iterator[None]:
    """
    Log lines go to the console and to `log_file` until this is left; then the file is complete.

    The console shows warnings, with `verbose` 1 also what happens, with 2 everything, and with
    `quiet` errors only. The file always tells what happens. Warnings of the standard library's
    `logging` come out the same way. Enter and leave it outside the event loop.

    Raises:
        SettingsError: the file cannot be opened for appending.
    """
    with ExitStack() as stack:
        outlets = [_console_outlet(console, logging.ERROR if quiet else _LEVELS[min(verbose, 2)])]
        if log_file is not None:
            try:
                stream = stack.enter_context(log_file.open("ab", buffering=0))
            except OSError as error:
                raise SettingsError(f"`log_file` cannot be written: {error}") from error
            lines = stack.enter_context(LineWriter(stream))
            outlets.append(_file_outlet(lines, _LEVELS[max(min(verbose, 2), 1)]))
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                partial(_fan_out, outlets),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(min(o.level for o in outlets)),
            cache_logger_on_first_use=False,  # a cached logger would outlive its outlets
        )
        stack.callback(structlog.reset_defaults)
        handler = _StandardLibrary(logging.WARNING)
        logging.getLogger().addHandler(handler)
        stack.callback(logging.getLogger().removeHandler, handler)
        yield


_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


def log_event(event: Event) -> None:
    """Tell a fact of a run to the log, if the log tells what happens."""
    log = structlog.get_logger()
    if log.is_enabled_for(logging.INFO):
        facts = as_dict(event)
        del facts["time"]  # the log has its own
        log.info(f"run.{facts.pop('type')}", **facts)


@dataclass(frozen=True, slots=True)
class _Outlet:
    level: int
    render: Callable[[WrappedLogger, str, EventDict], str | bytes]
    write: Callable[[str], None]


def _console_outlet(console: Console, level: int) -> _Outlet:
    if console.is_terminal:
        colors = not console.no_color
        render: Any = structlog.dev.ConsoleRenderer(colors=colors, force_colors=colors)
    else:
        render = structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"])

    def write(line: str) -> None:
        console.print(Text.from_ansi(line), soft_wrap=True)

    return _Outlet(level, render, write)


def _file_outlet(lines: LineWriter, level: int) -> _Outlet:
    return _Outlet(
        level, structlog.processors.JSONRenderer(), lambda line: lines(line.encode("utf-8"))
    )


def _fan_out(
    outlets: Iterable[_Outlet], logger: WrappedLogger, method: str, event: EventDict
) -> EventDict:
    """Every outlet that wants the event gets its line, without what is to stay secret."""
    for outlet in outlets:
        if _LEVEL_OF[method] >= outlet.level:
            line = str(outlet.render(logger, method, dict(event)))
            for secret in _secrets:
                line = line.replace(secret, "***")
            outlet.write(line)
    raise structlog.DropEvent


_LEVEL_OF = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "exception": logging.ERROR,
    "critical": logging.CRITICAL,
}


class _StandardLibrary(logging.Handler):
    """Lines of libraries, asyncio's among them, on their way to ours."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, record.name, message=record.getMessage(), exc_info=record.exc_info
        )
