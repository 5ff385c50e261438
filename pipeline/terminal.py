"""
Events -> a terminal: in, the facts of a run; out, one live block, and lines that scroll above it.

Apart from the other listeners of `pipeline.progress`, since rich is needed on terminals only.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.events import Event
from pipeline.lines import plain, visible
from pipeline.progress import Tally, pace, phases

__all__ = ["TerminalProgress", "say_above"]

_FRAMES_PER_S = 3
"""Seen as live, and under a twentieth of a core."""


def say_above(console: Console, line: str) -> None:
    """
    Print a line above the live block.

    As it is: a file name is no markup, and a line that is broken cannot be searched for.
    """
    console.print(plain(line), markup=False, highlight=False, soft_wrap=True)


class TerminalProgress:
    """
    One block on a terminal, redrawn a few times a second; gone when this is left.

    Lines that are printed to the same console scroll above it.
    """

    def __init__(self, console: Console) -> None:
        self._tally = Tally()
        self._live = Live(
            console=console,
            get_renderable=self.block,
            refresh_per_second=_FRAMES_PER_S,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        self._tally(event)

    def block(self) -> RenderableType:
        """What is shown now."""
        tally, now = self._tally, datetime.now(UTC)
        head = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(tally.total, 1), completed=tally.done, width=20)
        head.add_row(bar, _line(pace(tally, now)))
        trouble = tally.trouble(now)
        return Group(head, _line(phases(tally)), *([_line([visible(trouble)])] if trouble else []))


def _line(words: Iterable[str]) -> Text:
    return Text(" · ".join(words), no_wrap=True, overflow="ellipsis")
