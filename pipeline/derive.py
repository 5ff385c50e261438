"""
Saved results -> the files made from them: in, results and formats; out, files, whole and durable.

Everything here blocks, and is made for a process of its own: to read and render holds the
interpreter. So only names and counts travel between processes, never what was said.
"""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from pipeline.events import printable
from pipeline.files import put, regular
from pipeline.models import Stored
from pipeline.names import derived, temporary, version
from pipeline.render import RenderError, render

__all__ = ["Derived", "Shelf", "derive", "derive_apart"]


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where results lie, and how they are rendered; both folders are absolute."""

    output: bytes
    versions: bytes
    """Where files go that others take the place of."""
    speaker_names: Mapping[str, str] = field(default_factory=dict)
    """As `render` takes them."""


@dataclass(slots=True)
class Derived:
    """What became of some results."""

    made: int = 0
    """Files that were not there."""
    replaced: int = 0
    """Files that were another one, which is kept."""
    unchanged: int = 0
    """Files that were as they are to be."""
    problems: list[tuple[str, bytes, str]] = field(default_factory=list)
    """Results that went wrong: `damaged` or `unrendered`, their path, and why."""

    def add(self, other: "Derived") -> None:
        """Count what became of others as well."""
        self.made += other.made
        self.replaced += other.replaced
        self.unchanged += other.unchanged
        self.problems += other.problems


def derive(
    results: Sequence[Stored], formats: Sequence[str], shelf: Shelf, *, dry_run: bool = False
) -> Derived:
    """
    Make the derived files of some results, where what lies there is not just that already.

    What goes wrong with one result ends nothing but itself. A dry run writes nothing.
    """
    done = Derived()
    for stored in results:
        try:
            with open(shelf.output + b"/" + stored.result, "rb", opener=regular) as file:
                body = file.read()
            if sha256(body).hexdigest() != stored.digest:
                raise RenderError("it is not what was saved")
        except (OSError, RenderError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            done.problems.append(("damaged", stored.result, str(why)))
            continue
        for suffix in formats:
            try:
                _derive(stored.result, body, suffix, shelf, done, dry_run=dry_run)
            except (OSError, RenderError) as error:
                why = error.strerror if isinstance(error, OSError) else str(error)
                done.problems.append(("unrendered", stored.result, f"{suffix}: {why}"))
    return done


def _derive(
    result: bytes, body: bytes, suffix: str, shelf: Shelf, done: Derived, *, dry_run: bool
) -> None:
    title = printable(result.rpartition(b"/")[2].removesuffix(b".json"))
    made = render(body, suffix, title, shelf.speaker_names)
    name = derived(result, suffix)
    place = shelf.output + b"/" + name
    standing = _standing(place)
    if standing == made:
        done.unchanged += 1
        return
    if not dry_run:
        put(
            made,
            temporary(place),
            place,
            sha256(made).hexdigest(),
            lambda digest: shelf.versions + b"/" + version(name, digest[:12]),
        )
    done.made += standing is None
    done.replaced += standing is not None


def _standing(place: bytes) -> bytes | None:
    try:
        with open(place, "rb", opener=regular) as file:
            return file.read()
    except FileNotFoundError:
        return None


def derive_apart(
    results: Sequence[Stored], formats: Sequence[str], shelf: Shelf, dry_run: bool
) -> Derived:
    """
    The same in a process of its own: a Ctrl-C reaches that too, and is its parent's to heed.

    It is for the main thread of such a process, and stays in force there.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return derive(results, formats, shelf, dry_run=dry_run)
