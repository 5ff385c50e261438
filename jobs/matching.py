"""
Which document is of which recording: in, both by name and by content; out, pairs, and what is left.

    calls/a.wav.json, calls/a.wav.aai.json   the same path and name      }
    calls/a.json                             the same, without a suffix  }  calls/a.wav
    a.wav.json                               the name alone, if it is    }
    a.json                                   that of one recording only  }

The first of these that names a recording counts. Where it names two, or where two documents are as
close to one recording, nobody can say: both are left. Pure: no I/O.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.stages.scan import MEDIA_SUFFIXES

__all__ = ["Document", "Match", "Names", "decided"]

_MEDIA = tuple(b"." + suffix for suffix in sorted(MEDIA_SUFFIXES))
_SIDECAR = b".aai"
"""What the vendor's command line puts before `.json`.

Source: https://github.com/AssemblyAI/cli, `aai_cli/app/transcribe/batch.py`, `sidecar_path`.
"""


@dataclass(frozen=True, slots=True)
class Document:
    """A file that holds a completed transcript."""

    name: bytes
    """Relative to its folder."""
    transcript_id: str
    digest: str
    """sha256 of the answer in it, hex."""
    content: str | None
    """sha256 of the audio, hex, where somebody noted it."""


@dataclass(frozen=True, slots=True)
class Match:
    """A document that may be of a recording."""

    document: Document
    recording_id: int
    closeness: int
    """0 for the same path, more for less."""


class Names:
    """Recordings by all that documents may call them."""

    def __init__(self, recordings: Iterable[tuple[int, Sequence[bytes]]]) -> None:
        """Of each recording its id and its path, and that again as results are called."""
        self._ids: tuple[defaultdict[bytes, set[int]], ...] = tuple(
            defaultdict(set) for _ in range(4)
        )
        for recording_id, paths in recordings:
            for path in paths:
                for ids, name in zip(self._ids, _names(path), strict=True):
                    ids[name].add(recording_id)

    def of(self, document: bytes) -> tuple[int, set[int]]:
        """How close a document is to the recordings that its name means, and their ids."""
        stem = document.removesuffix(b".json").removesuffix(_SIDECAR)
        base = stem.rpartition(b"/")[2]
        for closeness, (ids, name) in enumerate(
            zip(self._ids, (stem, stem, base, base), strict=True)
        ):
            if found := ids.get(name):
                return closeness, found
        return len(self._ids), set()


def _names(path: bytes) -> Iterator[bytes]:
    bare = path
    if path.lower().endswith(_MEDIA):
        bare = path.rpartition(b".")[0]
    yield path
    yield bare
    yield path.rpartition(b"/")[2]
    yield bare.rpartition(b"/")[2]


def decided(matches: Iterable[Match]) -> tuple[list[Match], list[tuple[Match, Document]]]:
    """
    The one document of each recording; and those that are not it, each with one that is in its way.

    The closest is. Copies of one answer are as good as one another: the first in order is taken,
    and nothing is said of the rest.
    """
    of_recording: defaultdict[int, list[Match]] = defaultdict(list)
    for match in matches:
        of_recording[match.recording_id].append(match)
    chosen: list[Match] = []
    left: list[tuple[Match, Document]] = []
    for rivals in of_recording.values():
        rivals.sort(key=lambda match: (match.closeness, match.document.name))
        first, transcript_id = rivals[0], rivals[0].document.transcript_id
        others = [match for match in rivals if match.document.transcript_id != transcript_id]
        if others and others[0].closeness == first.closeness:
            left += [(first, others[0].document), *((match, first.document) for match in others)]
        else:
            chosen.append(first)
            left += [(match, first.document) for match in others]
    return chosen, left
