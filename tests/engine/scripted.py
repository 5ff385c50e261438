"""A recogniser that says what it is told to: for tests of everything around the model."""

from collections.abc import Callable, Mapping, Sequence
from threading import Event, Lock

import numpy as np

from pipeline.engine.audio import RATE_HZ, Samples, Span
from pipeline.engine.speech import RecognitionError, Stopped, Word

WINDOW = RATE_HZ // 50
"""20 ms: loudness is looked at window by window."""


class ScriptedRecognizer:
    """Takes every sound for speech, and puts `texts` one after another where sound is."""

    name = "scripted"
    languages = frozenset({"en", "de", "fr", "ja"})

    def __init__(
        self,
        *texts: str,
        probabilities: Mapping[str, float] | None = None,
        fails: bool = False,
        crashes: bool = False,
    ) -> None:
        self.texts: Sequence[str] = texts or ("Hello", "there.")
        self.probabilities = probabilities or {"en": 0.9, "de": 0.06, "fr": 0.04}
        self.fails = fails
        self.crashes = crashes
        self.gate = Event()
        """Transcribing waits for it; set it in the beginning where nothing is to wait."""
        self.gate.set()
        self.started = Event()
        """Set when the first block has come to be transcribed."""
        self.blocks: list[tuple[int, str]] = []
        """Samples and language of each block, as they came."""
        self.searched: list[int] = []
        """Samples of each stretch in which speech was looked for."""
        self.most_at_once = 0
        self._at_once = 0
        self._lock = Lock()

    def find_speech(self, samples: Samples) -> list[Span]:
        """Where it is not silent."""
        self.searched.append(samples.size)
        return loud(samples)

    def detect_language(self, samples: Samples) -> Mapping[str, float]:
        """What the test said."""
        return self.probabilities

    def transcribe(
        self, samples: Samples, language: str, cancelled: Callable[[], bool]
    ) -> list[Word]:
        """`texts`, spread over the sounds; after `gate`, or until cancelled."""
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.blocks.append((samples.size, language))
        try:
            self.started.set()
            while not self.gate.wait(0.01):
                if cancelled():
                    raise Stopped
            if self.fails:
                raise RecognitionError("the model was told to fail")
            if self.crashes:
                raise ZeroDivisionError("nobody foresaw this")
            return self._words(samples)
        finally:
            with self._lock:
                self._at_once -= 1

    def _words(self, samples: Samples) -> list[Word]:
        words: list[Word] = []
        for first, last in loud(samples):
            step = (last - first) / len(self.texts)
            for number, text in enumerate(self.texts):
                start, end = first + number * step, first + (number + 0.8) * step
                words.append(
                    Word(text, round(start * 1000 / RATE_HZ), round(end * 1000 / RATE_HZ), 0.9)
                )
        return words


def loud(samples: Samples) -> list[Span]:
    """Stretches of sound, to 20 ms."""
    windows = samples[: samples.size // WINDOW * WINDOW].reshape(-1, WINDOW)
    is_loud = np.abs(windows.astype(np.int32)).max(axis=1, initial=0) > 1000
    edges = np.flatnonzero(np.diff(is_loud, prepend=False, append=False))
    return [
        (int(first) * WINDOW, int(last) * WINDOW)
        for first, last in zip(edges[::2], edges[1::2], strict=True)
    ]
