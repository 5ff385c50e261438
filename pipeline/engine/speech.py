"""Speech → words: the Whisper model behind the engine.

In: blocks of 16 kHz audio. Out: words with times and confidences, the probability of
each language, and where speech is.

`Recognizer` is what the engine asks of a model; `Whisper` is the one it comes with.
All calls block and may be made from several threads at once.
"""

import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.vad import VadOptions, get_speech_timestamps
from numpy.typing import NDArray

from pipeline.engine import DEFAULT_MODEL, EngineUnavailable
from pipeline.engine.audio import Samples, Span
from pipeline.engine.weights import packaged

__all__ = ["NO_SPACES", "RecognitionError", "Recognizer", "Stopped", "Whisper", "Word"]

NO_SPACES = frozenset({"zh", "yue", "ja", "th", "lo", "my", "km", "bo"})
"""Languages written without spaces between words."""

_DETECTION_WINDOWS = 3
"""Windows of 30 s of speech heard to tell the language, unless the first is clear.
Source: AssemblyAI FAQ, how does language detection work for transcriptions."""

_GRID_MS = 20
"""Resolution of Whisper's word times, and the shortest word."""


class RecognitionError(Exception):
    """The model failed on a block. The recording may be good: trying again can help."""


class Stopped(Exception):
    """The engine is stopping; the block is to be done again by the next one."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it was said."""

    text: str
    """With the punctuation that belongs to it, without spaces around it."""
    start: int
    """ms from the start of the block, later from the start of the file."""
    end: int
    """ms, after `start`."""
    confidence: float
    """0..1"""


class Recognizer(Protocol):
    """What the engine asks of a speech model."""

    @property
    def name(self) -> str:
        """What transcripts name as `speech_model_used`."""

    @property
    def languages(self) -> Collection[str]:
        """Codes of the languages it knows, such as `en`."""

    def find_speech(self, samples: Samples) -> list[Span]:
        """Where somebody speaks, in the order of time."""

    def detect_language(self, samples: Samples) -> Mapping[str, float]:
        """Probability, 0..1, of each language."""

    def transcribe(
        self, samples: Samples, language: str, cancelled: Callable[[], bool]
    ) -> list[Word]:
        """
        The words of a block, in the order of time.

        Raises:
            Stopped: `cancelled` became true; asked every few seconds of work.
            RecognitionError: The model failed.
        """


class Whisper:
    """A Whisper model on the CPU, one core a call."""

    def __init__(self, model: str = DEFAULT_MODEL, workers: int = 1) -> None:
        """
        Load a model.

        Args:
            model: `base` for the packaged weights, or a name, a hub name or a folder
                that faster-whisper knows.
            workers: Calls that run side by side. One thread each: more make a call of
                a small model slower, more calls make it all quicker.

        Raises:
            EngineUnavailable: The weights are missing, not the pinned ones or not found.
        """
        files: dict[str, bytes] | None = None
        if model == DEFAULT_MODEL:
            model, files = packaged()
        load = partial(
            WhisperModel,
            model,
            device="cpu",
            compute_type="int8",
            cpu_threads=1,
            num_workers=workers,
        )
        try:
            if files is not None:
                self._model = load(files=files)
            elif os.path.isdir(model):
                # What a folder lacks would be looked for at the hub.
                os.stat(os.path.join(model, "tokenizer.json"))
                self._model = load()
            else:
                # The hub would be asked at each start whether there is a newer one.
                try:
                    self._model = load(local_files_only=True)
                except Exception:  # not here, or not all of it
                    self._model = load()
        # Names that are none, hubs that are out of reach and folders without a model
        # come as a dozen types from three libraries.
        except Exception as error:
            raise EngineUnavailable(
                f"the speech model `{model}` cannot be loaded ({error}): a name must be on this "
                "machine already or the hub in reach, a folder must hold a CTranslate2 model "
                "and its `tokenizer.json`; without `--engine-model` the packaged model is used"
            ) from error
        size = Path(model).name.removeprefix("faster-").removeprefix("whisper-")
        self.name = f"whisper-{size}"
        self.languages: Collection[str] = frozenset(self._model.supported_languages)

    def find_speech(self, samples: Samples) -> list[Span]:
        """
        Where somebody speaks, in the order of time, by the Silero detector.

        Raises:
            RecognitionError: The detector failed.
        """
        with _failures():
            spans = get_speech_timestamps(_float(samples), _SPEECH)
        return [(int(span["start"]), int(span["end"])) for span in spans]

    def detect_language(self, samples: Samples) -> dict[str, float]:
        """
        Probability, 0..1, of each language, the likeliest first.

        Raises:
            RecognitionError: The model failed.
        """
        if len(self.languages) == 1:
            return dict.fromkeys(self.languages, 1.0)
        with _failures():
            _, _, probabilities = self._model.detect_language(
                _float(samples),
                vad_filter=True,
                vad_parameters=_VAD,
                language_detection_segments=_DETECTION_WINDOWS,
            )
        return {language: float(probability) for language, probability in probabilities}

    def transcribe(
        self, samples: Samples, language: str, cancelled: Callable[[], bool]
    ) -> list[Word]:
        """
        The words of a block, in the order of time.

        Raises:
            Stopped: `cancelled` became true; asked every 30 s of audio.
            RecognitionError: The model failed.
        """
        words: list[Word] = []
        with _failures():
            segments, _ = self._model.transcribe(
                _float(samples),
                language=language,
                beam_size=5,
                # Times are wanted, and seeking is three times worse without them.
                word_timestamps=True,
                vad_filter=True,
                vad_parameters=_VAD,
                # With it, one wrong window drags the next ones along: 17 % errors, not 6 %.
                condition_on_previous_text=False,
            )
            # The work is done here, a window at a time.
            for segment in segments:
                if cancelled():
                    raise Stopped
                for piece in segment.words or ():
                    _add(words, piece.word, piece.start, piece.end, piece.probability, language)
        return words


@contextmanager
def _failures() -> Iterator[None]:
    # CTranslate2, onnxruntime and numpy raise what they like. It is this block's
    # trouble, and must not become that of the other recordings.
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        raise RecognitionError(f"the speech model failed: {error}") from error


_SPEECH = VadOptions(min_silence_duration_ms=200, speech_pad_ms=0)
_VAD = VadOptions(min_silence_duration_ms=500)

# Its notes on every block are nothing to a reader of our log.
logging.getLogger("faster_whisper").setLevel(logging.WARNING)


def _float(samples: Samples) -> NDArray[np.float32]:
    return samples.astype(np.float32) / np.float32(32768)


def _add(
    words: list[Word], piece: str, start_s: float, end_s: float, probability: float, language: str
) -> None:
    """Append a piece of text; one that no space leads belongs to the word before it."""
    text = piece.strip()
    if not text:
        return
    start = max(round(start_s * 1000), words[-1].start if words else 0)
    end = max(round(end_s * 1000), start + _GRID_MS)
    confidence = min(max(float(probability), 0.0), 1.0)
    # "o" + "'clock", "28" + ".8", "cold" + "-hearted"
    if words and not piece.startswith(" ") and language not in NO_SPACES:
        head = words.pop()
        text, start = head.text + text, head.start
        confidence = min(confidence, head.confidence)
    words.append(Word(text, start, end, confidence))
