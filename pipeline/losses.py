"""
What a folder has lost: in, how many recordings it holds and held; out, words for whoever runs it.

A disk that is not mounted is an empty folder: nothing of it fails, and a run over it comes to its
end. So it is held against the last scan of the same root with the same filters that saw all of it.
Pure.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import tzinfo
from hashlib import sha256

from pipeline.events import moment
from pipeline.models import Root
from pipeline.settings import Settings

__all__ = ["Held", "Loss", "filters_of", "loss_of"]

_LEFT = 0.5
"""Part of the recordings that has to be left."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a scan saw that saw all of a root."""

    root: str
    """Its name: a folder that has moved is the same root, as its recordings are the same."""
    filters: str
    """What leaves recordings out, as `filters_of` gives it."""
    recordings: int
    scanned_at: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A root that is empty, or has lost more than half of its recordings."""

    root: str
    before: int
    """Recordings that it held."""
    now: int
    """Recordings that it holds."""
    day: str
    """When it held them, `YYYY-MM-DD`."""

    @property
    def cause(self) -> str:
        """It in a few words."""
        if not self.now:
            return f"source {self.root} is empty: it held {self.before:,}"
        return f"source {self.root} has lost more than half: {self.now:,} of {self.before:,} left"

    @property
    def message(self) -> str:
        """It in a sentence, and what to do."""
        gone = "none" if not self.now else f"only {self.now:,}"
        return (
            f"{self.root}: {gone} of the {self.before:,} recordings of {self.day} there any more;"
            " is its disk mounted? `shrink = false` in the settings says that they may go"
        )


def loss_of(now: Held, before: Held | None, zone: tzinfo | None = None) -> Loss | None:
    """What is lost between two scans; None where that is half of it at the most, or not known."""
    if before is None or now.recordings >= before.recordings * _LEFT:
        return None
    day = f"{moment(before.scanned_at, zone):%Y-%m-%d}"
    return Loss(now.root, before.recordings, now.recordings, day)


def filters_of(settings: Settings, root: Root, apart: Iterable[bytes]) -> str:
    """
    What leaves recordings of a root out, as a sha256: two scans with the same one can be compared.

    What is only skipped, by age or size, is counted by both. `apart` are absolute folders that are
    never entered: those that lie in the root count by where they lie there.
    """
    inside = os.path.join(root.folder, b"")
    filters = {
        "include": sorted(settings.include),
        "exclude": sorted(settings.exclude),
        "follow_links": settings.follow_links,
        "apart": sorted(
            each.removeprefix(inside).hex() for each in apart if each.startswith(inside)
        ),
    }
    return sha256(json.dumps(filters).encode()).hexdigest()
