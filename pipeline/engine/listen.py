"""One recording: an upload in, what was said out.

In: a path and the options of a request. Out: `Heard`, or the sentence that the
transcript fails with.

Reading, finding speech and transcribing run side by side, but only a block or two
ahead of each other: that bounds the memory, and lets a short recording through while
a long one is being worked on.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anyio import (
    CancelScope,
    CapacityLimiter,
    create_memory_object_stream,
    create_task_group,
    to_thread,
)
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pipeline.engine.audio import RATE_HZ, Block, Recording, Samples, Span, Unusable
from pipeline.engine.groups import first_failure
from pipeline.engine.options import whisper_language
from pipeline.engine.speech import Recognizer, Stopped, Word
from pipeline.engine.wording import worded

__all__ = ["Heard", "listen"]


_PADDING_S = 0.025
"""Codecs fill their last frame: so much more than a whole second is none begun."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What was said in a recording."""

    channels: list[list[Word]]
    """Words of each channel, in the order of time; one list where channels are mixed."""
    audio_duration: int
    """Length of the file in seconds, rounded up."""
    language_code: str
    """As requested, or the recogniser's code of what was detected."""
    language_confidence: float | None
    """0..1; null if the language was given."""


async def listen(
    path: Path,
    options: Mapping[str, Any],
    recognizer: Recognizer,
    *,
    cores: CapacityLimiter,
    cancelled: Callable[[], bool],
) -> Heard:
    """
    What is said in a recording, as the options of the request want it.

    Args:
        cores: The threads that work may take, shared with other recordings.
        cancelled: Asked now and then from these threads.

    Raises:
        Unusable: The recording cannot be transcribed as requested.
        FileNotFoundError: There is no such file.
        RecognitionError: The model failed.
        Stopped: `cancelled` became true.
    """
    listener = _Listener(options, recognizer, cores, cancelled)
    recording = Recording(
        path,
        listener.find_speech,
        split_channels=bool(options.get("multichannel")),
        start_ms=options.get("audio_start_from", 0),
        end_ms=options.get("audio_end_at"),
    )
    with first_failure():
        async with create_task_group() as group:
            sender, receiver = create_memory_object_stream[Block]()
            group.start_soon(listener.read, recording, sender)
            for _ in range(int(cores.total_tokens)):
                group.start_soon(listener.transcribe, receiver.clone())
            receiver.close()
    return await to_thread.run_sync(listener.heard, recording, limiter=cores)


@dataclass(slots=True)
class _Listener:
    options: Mapping[str, Any]
    recognizer: Recognizer
    cores: CapacityLimiter
    cancelled: Callable[[], bool]
    language: str = ""
    confidence: float | None = None
    words: dict[tuple[int, int], list[Word]] = field(default_factory=dict)
    """By channel and offset of their block."""

    def __post_init__(self) -> None:
        self.language = self.options.get("language_code", "")

    def find_speech(self, samples: Samples) -> list[Span]:
        # Hours of silence are read without a block coming out: this is where to stop then.
        if self.cancelled():
            raise Stopped
        return self.recognizer.find_speech(samples)

    async def read(self, recording: Recording, sender: MemoryObjectSendStream[Block]) -> None:
        """Send on the blocks of a recording; the first of them tells the language."""
        blocks = recording.blocks()
        async with sender:
            try:
                while block := await to_thread.run_sync(next, blocks, None, limiter=self.cores):
                    if not self.language:
                        await to_thread.run_sync(self._detect, block, limiter=self.cores)
                    await sender.send(block)
            finally:
                with CancelScope(shield=True):
                    await to_thread.run_sync(blocks.close, limiter=self.cores)

    async def transcribe(self, receiver: MemoryObjectReceiveStream[Block]) -> None:
        """Note the words of each block that comes."""
        async with receiver:
            async for block in receiver:
                self.words[block.channel, block.offset] = await to_thread.run_sync(
                    self.recognizer.transcribe,
                    block.samples,
                    whisper_language(self.language),
                    self.cancelled,
                    limiter=self.cores,
                )

    def heard(self, recording: Recording) -> Heard:
        """All words in their places, once every block is done."""
        share = recording.speech / (recording.searched * recording.channels)
        if share < (wanted := self.options.get("speech_threshold", 0)):
            raise Unusable(
                f"Audio speech threshold {share:.4f} is below the requested "
                f"speech threshold value {wanted}"
            )
        if not self.language:
            self.language = self._language_of_silence()
        channels: list[list[Word]] = [[] for _ in range(recording.channels)]
        for (channel, offset), words in sorted(self.words.items()):
            _place(words, offset * 1000 // RATE_HZ, channels[channel])
        return Heard(
            channels=[worded(words, self.options) for words in channels],
            audio_duration=math.ceil(recording.samples / RATE_HZ - _PADDING_S),
            language_code=self.language,
            language_confidence=self.confidence,
        )

    # --- language ------------------------------------------------------------------------

    @property
    def _detection(self) -> Mapping[str, Any]:
        asked: Mapping[str, Any] = self.options.get("language_detection_options", {})
        return asked

    @property
    def _expected(self) -> list[str]:
        codes: list[str] = self._detection.get("expected_languages") or []
        return [] if "all" in codes else codes

    @property
    def _fallback(self) -> str | None:
        code: str = self._detection.get("fallback_language") or "auto"
        return None if code == "auto" else code

    def _detect(self, block: Block) -> None:
        """
        Choose the language of the recording.

        One that is not expected gives way to `fallback_language`, or to the likeliest of
        those expected. Source: AssemblyAI openapi.yml, language_detection_options.
        """
        probabilities = self.recognizer.detect_language(block.samples)

        def probability(code: str) -> float:
            return probabilities.get(whisper_language(code), 0.0)

        language = max(probabilities, key=probability)
        if self._expected and language not in map(whisper_language, self._expected):
            language = self._fallback or max(self._expected, key=probability)
        confidence = probability(language)
        threshold = self.options.get("language_confidence_threshold", 0)
        if confidence < threshold:
            if self._detection.get("on_low_language_confidence") != "fallback":
                raise Unusable(
                    f"detected language '{language}', confidence {confidence:.4f}, is below "
                    f"the requested confidence threshold value of '{threshold}'"
                )
            language = self._fallback or language
        self.language, self.confidence = language, confidence

    def _language_of_silence(self) -> str:
        if self._detection.get("on_no_speech_detected") != "fallback":
            raise Unusable("language_detection cannot be performed on files with no spoken audio.")
        return self._fallback or next(iter(self._expected), "en")


def _place(words: list[Word], offset_ms: int, channel: list[Word]) -> None:
    """Append the words of a block; none starts before the one that it follows."""
    for word in words:
        start = max(word.start + offset_ms, channel[-1].start if channel else 0)
        end = max(word.end + offset_ms, start + 1)
        channel.append(replace(word, start=start, end=end))
