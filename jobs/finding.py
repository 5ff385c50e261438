"""
What a job has found: in, what is not as it should be; out, a line for people or programs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.lines import visible

__all__ = ["Finding", "Tell"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be."""

    kind: str
    """One word; docs/output.md has them all."""
    path: str | None
    """Of a result, relative to the output folder; of anything else, as it is called."""
    what: str
    """One sentence."""
    transcript_id: str | None = None
    created_at: float | None = None
    """When a transcript of the account was asked for, Unix seconds, as its list tells."""
    audio_duration: float | None = None
    """Seconds of it, where that is known."""

    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "type": "finding",
            "kind": self.kind,
            "path": self.path,
            "what": self.what,
            "transcript_id": self.transcript_id,
            "created_at": self.created_at,
            "audio_duration": self.audio_duration,
        }

    def __str__(self) -> str:
        about = self.path or self.transcript_id
        return visible(f"{self.kind:9}  {about}  {self.what}")


Tell = Callable[[Finding], object]
