"""
Where log lines go: in, events with keys; out, lines on stderr and, if asked for, in a file.

An event is a dotted name with keys, `log(WARNING, "upload.stalled", recording=…, stall_s=60)`,
never a sentence. On a terminal lines are coloured and scroll above the live block, since one
rich console writes both; elsewhere they are logfmt. The file gets JSON lines. All leave here
without secrets. structlog does the work, from the first line on that anybody wants: most runs have
none, and are spared its 10 MB and 50 ms.

Source: https://www.structlog.org/en/stable/logging-best-practices.html
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import SettingsError
from pipeline.events import Event, as_dict
from pipeline.lines import LineWriter, masked

if TYPE_CHECKING:
    from rich.console import Console
    from structlog.typing import EventDict, WrappedLogger

__all__ = ["configure_logs", "log", "log_event"]

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
_NOBODY = logging.CRITICAL + 1


@dataclass(frozen=True, slots=True)
class _Outlet:
    level: int
    render: Callable[["WrappedLogger", str, "EventDict"], str | bytes]
    write: Callable[[str], None]


class _Listeners:
    """Who wants which lines."""

    lowest = _NOBODY
    """Level of the least important line that anybody wants."""
    prepare: Callable[[], None] | None = None
    """What is to be done before the first of them."""


@contextmanager
def configure_logs(
    *, verbose: int, quiet: bool, log_file: Path | None, console: "Console | None"
) -> Iterator[None]:
    """
    Log lines go to the console and to `log_file` until this is left; then the file is complete.

    The console shows warnings, with `verbose` 1 also what happens, with 2 everything, and with
    `quiet` errors only; None stands for a stderr that is no terminal. The file always tells what
    happens. Warnings of the standard library's `logging` come out the same way. Enter and leave it
    outside the event loop.

    Raises:
        SettingsError: the file cannot be opened for appending.
    """
    with ExitStack() as stack:
        shown = logging.ERROR if quiet else _LEVELS[min(verbose, 2)]
        made = [partial(_console_outlet, console, shown)]
        lowest = shown
        if log_file is not None:
            try:
                stream = stack.enter_context(log_file.open("ab", buffering=0))
            except OSError as error:
                raise SettingsError(f"`log_file` cannot be written: {error}") from error
            lines = stack.enter_context(LineWriter(stream))
            filed = _LEVELS[max(min(verbose, 2), 1)]
            made.append(partial(_file_outlet, lines, filed))
            lowest = min(shown, filed)
        _Listeners.lowest = lowest
        _Listeners.prepare = partial(_configure, made, lowest)
        stack.callback(_reset)
        handler = _StandardLibrary(logging.WARNING)
        logging.getLogger().addHandler(handler)
        stack.callback(logging.getLogger().removeHandler, handler)
        yield


def _configure(made: Iterable[Callable[[], _Outlet]], lowest: int) -> None:
    import structlog

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            partial(_fan_out, [outlet() for outlet in made]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        cache_logger_on_first_use=False,  # a cached logger would outlive its outlets
    )


def _reset() -> None:
    _Listeners.lowest, _Listeners.prepare = _NOBODY, None
    if "structlog" in sys.modules:
        import structlog

        structlog.reset_defaults()


def log(level: int, event: str, **facts: Any) -> None:
    """Tell whoever wants lines of this level of the `logging` module."""
    if level < _Listeners.lowest:
        return
    prepare, _Listeners.prepare = _Listeners.prepare, None
    if prepare is not None:
        prepare()
    import structlog

    structlog.get_logger().log(level, event, **facts)


def log_event(event: Event) -> None:
    """A listener: every fact of a run, as what happens."""
    if _Listeners.lowest <= logging.INFO:
        facts = as_dict(event)
        del facts["time"]  # the log has its own
        log(logging.INFO, f"run.{facts.pop('type')}", **facts)


def _console_outlet(console: "Console | None", level: int) -> _Outlet:
    import structlog

    if console is not None and console.is_terminal:
        from rich.text import Text

        colors = not console.no_color
        render: Any = structlog.dev.ConsoleRenderer(colors=colors, force_colors=colors)
        return _Outlet(
            level, render, lambda line: console.print(Text.from_ansi(line), soft_wrap=True)
        )
    render = structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"])
    return _Outlet(level, render, partial(_print, console))


def _print(console: "Console | None", line: str) -> None:
    with suppress(OSError, ValueError):  # nobody is left to read it
        stream = sys.stderr if console is None else console.file
        stream.write(line + "\n")  # at once: others may be writing
        stream.flush()


def _file_outlet(lines: LineWriter, level: int) -> _Outlet:
    import structlog

    return _Outlet(
        level, structlog.processors.JSONRenderer(), lambda line: lines(line.encode("utf-8"))
    )


def _fan_out(
    outlets: Iterable[_Outlet], logger: "WrappedLogger", method: str, event: "EventDict"
) -> "EventDict":
    """Every outlet that wants the event gets its line, without what is to stay secret."""
    import structlog

    for outlet in outlets:
        if _LEVEL_OF[method] >= outlet.level:
            outlet.write(masked(str(outlet.render(logger, method, dict(event)))))
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
        # As a loop ends, anyio kills each process of its pool twice, and asyncio warns if the
        # first time was enough.
        if record.name == "asyncio" and record.getMessage().endswith("will report returncode 255"):
            return
        log(record.levelno, record.name, message=record.getMessage(), exc_info=record.exc_info)
