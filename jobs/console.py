"""
What a command says, and to whom: in, lines, findings and events; out, stdout, stderr and the log.

Data goes to stdout, everything else to stderr. Neither gets what a terminal would obey.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pipeline.lines import plain

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.events import Emit
    from pipeline.settings import Settings

__all__ = [
    "agreed",
    "logs",
    "repair_listeners",
    "run_listeners",
    "say",
    "tell",
    "teller",
    "terminal",
]


def say(text: str) -> None:
    """Data, and with "" what others have left to be written, on stdout."""
    try:
        sys.stdout.write(text and plain(text) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read it has enough; Python would complain once more when it ends.
        # Source: https://docs.python.org/3/library/signal.html#note-on-sigpipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(text: str) -> None:
    """Anything that is not data, on stderr, if anybody reads it."""
    with suppress(OSError, ValueError):
        sys.stderr.write(plain(text) + "\n")


def agreed(question: str) -> bool:
    """Whether somebody at the terminal says yes; False where there is none."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    sys.stderr.write(f"{plain(question)} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def teller(json: bool) -> "Callable[[Any], None]":
    """Says a finding, or what it came to, as a line for people or for programs."""
    from json import dumps

    return lambda said: say(dumps(said.facts(), ensure_ascii=False) if json else str(said))


@contextmanager
def run_listeners(settings: "Settings") -> "Iterator[Emit]":
    """Everybody who listens to a run, on a terminal, in a log of a scheduler, or in a pipe."""
    from pipeline.logs import log_event
    from pipeline.progress import JsonLines, PlainProgress, WarningLines

    console, say = terminal()
    is_live = console is not None and console.is_terminal and not console.is_dumb_terminal
    with logs(settings, console), ExitStack() as stack:
        listeners: list[Emit] = [log_event]
        if settings.json_lines:
            listeners.append(stack.enter_context(JsonLines(sys.stdout.buffer)))
        if not settings.quiet:
            listeners.append(WarningLines(say))
            if console is not None and is_live:
                from pipeline.terminal import TerminalProgress

                listeners.append(stack.enter_context(TerminalProgress(console)))
            else:
                listeners.append(stack.enter_context(PlainProgress(sys.stderr)))

        def emit(event: Any) -> None:
            for listener in listeners:
                listener(event)

        yield emit


@contextmanager
def repair_listeners(settings: "Settings") -> "Iterator[Emit]":
    """Who listens to a repair: the log, and the terminal for what went wrong."""
    from pipeline.logs import log_event
    from pipeline.progress import WarningLines

    console, say = terminal()
    warn = WarningLines(say)

    def emit(event: Any) -> None:
        log_event(event)
        warn(event)

    with logs(settings, console):
        os.environ.pop("ASSEMBLYAI_API_KEY", None)  # no child of ours needs it
        yield emit


def terminal() -> "tuple[Console | None, Callable[[str], None]]":
    """The terminal that stderr is, None if it is none, and how a line is said there."""
    if not sys.stderr.isatty():  # rich is needed for nothing then
        return None, tell
    from functools import partial

    from rich.console import Console

    from pipeline.terminal import say_above

    console = Console(stderr=True)
    return console, partial(say_above, console)


@contextmanager
def logs(settings: "Settings", console: "Console | None") -> Iterator[None]:
    """The log while the block lasts, where and how the settings say, without the key."""
    from pipeline.lines import hide
    from pipeline.logs import configure_logs

    hide(os.environ.get("ASSEMBLYAI_API_KEY", ""))
    with configure_logs(
        verbose=settings.verbose,
        quiet=settings.quiet,
        log_file=settings.log_file,
        console=console,
    ):
        yield
