"""
What a command says, and to whom: in, lines, findings and events; out, stdout, stderr and the log.

Data goes to stdout, everything else to stderr. Neither gets what a terminal would obey. Neither
fails a command, as a closed pipe or a full disk would (`streams`), nor holds up a run, whose lines
leave from another thread (`aside`).
"""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedWriter, RawIOBase, TextIOWrapper
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.lines import plain

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.events import Emit
    from pipeline.settings import Settings

__all__ = [
    "agreed",
    "aside",
    "is_attended",
    "logs",
    "refusal_told",
    "repair_listeners",
    "run_listeners",
    "say",
    "streams",
    "tell",
    "teller",
    "terminal",
]


_DATA_S = 60.0
_WORDS_S = 1.0
"""How long a reader may take nothing until the rest of a run's output is dropped."""


def say(text: str) -> None:
    """Data on stdout."""
    sys.stdout.write(plain(text) + "\n")
    sys.stdout.flush()


def tell(text: str) -> None:
    """Anything that is not data, on stderr."""
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()


@contextmanager
def streams() -> Iterator[None]:
    """
    stdout and stderr fail nobody while the block lasts, and take names of any bytes.

    That stdout did not take all is told in the end, unless its reader just had enough.
    """
    before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    for name, stream in before.items():
        setattr(sys, name, _lenient(stream))
    try:
        yield
    finally:
        trouble: OSError | None = getattr(raw(sys.stdout), "trouble", None)
        if trouble is not None and trouble.errno != errno.EPIPE:
            tell(f"warning: stdout did not take everything: {trouble.strerror}")
        for name, stream in before.items():
            getattr(sys, name).flush()
            setattr(sys, name, stream)


def _lenient(stream: TextIO) -> TextIO:
    """The same where it is a descriptor, by an `Outlet`."""
    from pipeline.lines import Outlet

    if not isinstance(stream, TextIOWrapper):
        return stream
    stream.flush()
    try:
        outlet: RawIOBase = Outlet(stream.fileno())
    except OSError:
        return stream
    return TextIOWrapper(
        BufferedWriter(outlet),
        stream.encoding,
        "backslashreplace",
        line_buffering=stream.line_buffering,
    )


@contextmanager
def aside() -> Iterator[None]:
    """
    Whoever writes to stdout or stderr while the block lasts does not wait for who reads it.

    In the end that is made up for: as long as a reader takes something, of data for longer.
    """
    from pipeline.lines import Aside, LineWriter

    with ExitStack() as stack:
        for name, patience_s in (("stdout", _DATA_S), ("stderr", _WORDS_S)):
            stream = getattr(sys, name)
            lines = stack.enter_context(LineWriter(raw(stream), patience_s=patience_s))
            stack.callback(setattr, sys, name, stream)
            setattr(sys, name, Aside(stream, lines))
        yield


def raw(stream: TextIO) -> Any:
    """What is below a stream and its buffer, where nobody else's write holds one up."""
    stream.flush()
    return getattr(stream.buffer, "raw", stream.buffer)


def is_attended() -> bool:
    """Whether there is a terminal, and so somebody who can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def agreed(question: str) -> bool:
    """Whether somebody at the terminal says yes; False where there is none."""
    if not is_attended():
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

    data = raw(sys.stdout)
    with aside(), ExitStack() as stack:
        console, say = terminal()
        is_live = console is not None and console.is_terminal and not console.is_dumb_terminal
        stack.enter_context(logs(settings, console))
        listeners: list[Emit] = [log_event]
        if settings.json_lines:
            listeners.append(stack.enter_context(JsonLines(data)))
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

    with aside():
        console, say = terminal()
        warn = WarningLines(say)

        def emit(event: Any) -> None:
            log_event(event)
            warn(event)

        with logs(settings, console):
            os.environ.pop("ASSEMBLYAI_API_KEY", None)  # no child of ours needs it
            yield emit


@contextmanager
def refusal_told(
    readable: "Callable[[], Settings]", is_told: "Callable[[Settings], bool]"
) -> Iterator[None]:
    """
    Hooks hear of settings with which no run begins, if `is_told` by those that are `readable`.
    """
    from pipeline.errors import SettingsError

    try:
        yield
    except SettingsError as error:
        from functools import partial

        from jobs.leaving import run_stoppable
        from jobs.telling import tell_refusal
        from pipeline.progress import WarningLines

        if is_told(told := readable()):
            emit, environ = WarningLines(tell), dict(os.environ)
            run_stoppable(partial(tell_refusal, error, told.hooks, emit=emit, environ=environ))
        raise


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
