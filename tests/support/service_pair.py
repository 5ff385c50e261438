"""Both servers of the API that this project has, behind one face: the scripted and the engine.

What a test asks of both, both must do as the vendor's pages say; that is what keeps the
stand-in and the engine from agreeing on a mistake.
"""

from __future__ import annotations

import io
import math
import random
import threading
import wave
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tests.support.service import ScriptedService

if TYPE_CHECKING:
    from pipeline.engine.audio import Samples, Span
    from pipeline.engine.speech import Word

Kind = Literal["scripted", "engine"]
KINDS: tuple[Kind, ...] = ("scripted", "engine")

KEY = "pair-key"
SECONDS = 3.5


def recording(seed: int = 0, *, channels: int = 1, seconds: float = SECONDS) -> bytes:
    """A WAV file of noise at 16 kHz; one content for each seed."""
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(random.Random(seed).randbytes(int(seconds * 16_000) * 2 * channels))
    return written.getvalue()


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs."""

    kind: Kind
    url: str
    key: str
    hold: Callable[[], None]
    """From now on no transcript ends."""
    release: Callable[[], None]
    """Lets all transcripts end."""


@asynccontextmanager
async def served(kind: Kind, state: Path) -> AsyncIterator[Served]:
    """A fresh server of this kind; neither needs a speech model."""
    if kind == "scripted":
        async with ScriptedService(keys={KEY: "p", "foreign": "q"}) as service:

            def hold() -> None:
                service.transcript_seconds = math.inf

            def release() -> None:
                service.transcript_seconds = 0
                for transcript in service:
                    service.complete(transcript.id)

            yield Served("scripted", service.url, KEY, hold, release)
    else:
        from pipeline import engine

        said = Said()
        async with engine.serve(state, keys=[KEY], workers=1, recognizer=said) as running:
            try:
                yield Served("engine", running.url, KEY, said.may_end.clear, said.may_end.set)
            finally:
                said.may_end.set()


class Said:
    """A recognizer that hears the same eight words in everything, when it may."""

    name = "said"
    languages: Collection[str] = frozenset({"en", "de"})
    text = "Quiet rivers carry amber lanterns. Distant bridges listen."

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.may_end.set()

    def find_speech(self, samples: Samples) -> list[Span]:
        return [(0, len(samples))]

    def detect_language(self, samples: Samples) -> Mapping[str, float]:
        return {"en": 0.97, "de": 0.03}

    def transcribe(
        self, samples: Samples, language: str, cancelled: Callable[[], bool]
    ) -> list[Word]:
        from pipeline.engine.speech import Word

        while not self.may_end.wait(0.05):
            if cancelled():
                raise InterruptedError
        return [
            Word(word, start=400 * index, end=400 * index + 300, confidence=0.9 + index / 100)
            for index, word in enumerate(self.text.split())
        ]
