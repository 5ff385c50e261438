"""Any media file → blocks of speech, 16 kHz, at most two minutes each, cut at silences.

In: the path of an upload. Out: `Block`s in the order of time, read as they are asked
for, so that ten hours need no more memory than ten minutes.

Decoding is our own because the recogniser's stops at the first bad packet without
a word: here a bad packet costs only itself, and silence of its length takes its place,
which keeps all later times right.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

__all__ = ["RATE_HZ", "Block", "Recording", "Samples", "Span", "Unusable"]

RATE_HZ = 16_000
"""Samples a second of all audio inside the engine. Source: Whisper works at 16 kHz."""

BLOCK_S = 120
"""Longest block. Features of a whole hour would take 3.9 GB, of two minutes 130 MB."""

_QUIETEST_S = 10
"""How far from its end a block may be cut where nobody pauses."""

_GAP_MS = 200
"""A silence this long is a pause between words. Shorter ones are within them."""

_TAIL_MS = 500
"""Kept of a window without speech: it may hold the first sound of a word."""

_DAMAGES = 1000
"""Damaged places between packets after which the rest of a file is given up."""

_LONGEST_PACKET_S = 10.0
"""A packet that claims to be longer is damaged; resampled, it could take gigabytes."""

_SNIFFED_BYTES = 4096

_PRINTABLE = bytes(range(0x20, 0x7F)) + b"\t\r\n"

SHORTEST_MS = 160
"""Source: AssemblyAI FAQ, what is the minimum audio duration that the API can transcribe."""

LONGEST_S = 10 * 3600
"""Source: AssemblyAI FAQ, are there any limits on file size or file duration."""

Samples = NDArray[np.int16]
"""Mono, 16 kHz, shape (samples,)."""

Span = tuple[int, int]
"""Where speech is: first sample and the one after the last."""


class Unusable(Exception):
    """The recording cannot be transcribed; the text is the service's own sentence."""


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of one channel that holds speech."""

    channel: int
    """0-based; 0 where channels are mixed."""
    offset: int
    """Samples from the start of the file to the first of this block."""
    samples: Samples
    spans: Sequence[Span]
    """Speech in it, in samples from the start of the block."""


@dataclass(slots=True)
class Recording:
    """
    A media file as blocks of speech.

    `blocks` can be read once; the figures below it are true when it has ended.
    All of it blocks: call it in a thread.
    """

    path: Path
    find_speech: Callable[[Samples], list[Span]]
    split_channels: bool = False
    """Each channel alone, rather than all of them mixed."""
    start_ms: int = 0
    end_ms: int | None = None
    """Only what lies between these is searched for speech. Times stay those of the file."""

    channels: int = field(default=0, init=False)
    """Channels searched: those of the file, or one where they are mixed."""
    samples: int = field(default=0, init=False)
    """Length of the file, in samples of one channel."""
    searched: int = field(default=0, init=False)
    """Samples between start and end, of one channel."""
    speech: int = field(default=0, init=False)
    """Samples of speech found, added up over all channels searched."""

    def blocks(self) -> Generator[Block, None, None]:
        """
        The stretches that hold speech, in the order of time within each channel.

        Raises:
            Unusable: Not media, no audio track, shorter than 160 ms or longer than 10 h.
            FileNotFoundError: The file is gone.
        """
        start = _samples(self.start_ms)
        end = _samples(self.end_ms) if self.end_ms is not None else LONGEST_S * RATE_HZ
        cutters: list[_Cutter] = []
        with closing(_decode(self.path, self.split_channels)) as decoded:
            for planes in decoded:
                if not cutters:
                    self.channels = planes.shape[0]
                    cutters = [
                        _Cutter(channel, start, self.find_speech)
                        for channel in range(self.channels)
                    ]
                first = self.samples
                self.samples += planes.shape[1]
                if self.samples > LONGEST_S * RATE_HZ:
                    raise Unusable("Audio duration is too long")
                wanted = slice(max(start - first, 0), max(end - first, 0))
                self.searched += planes[0, wanted].size
                for cutter, plane in zip(cutters, planes, strict=True):
                    yield from cutter.feed(plane[wanted])
            if self.searched < _samples(SHORTEST_MS):
                raise Unusable("Audio duration is too short.")
            for cutter in cutters:
                yield from cutter.finish()
        self.speech = sum(cutter.speech for cutter in cutters)


def _samples(ms: int) -> int:
    return ms * RATE_HZ // 1000


# --- cutting -----------------------------------------------------------------------------


@dataclass(slots=True)
class _Cutter:
    """Holds one channel until there is a block's worth, and cuts it where nobody speaks."""

    channel: int
    offset: int
    find_speech: Callable[[Samples], list[Span]]
    speech: int = 0
    _held: list[Samples] = field(default_factory=list)
    _held_samples: int = 0

    def feed(self, samples: Samples) -> Iterator[Block]:
        self._held.append(samples)
        self._held_samples += samples.size
        while self._held_samples >= BLOCK_S * RATE_HZ:
            window = self._take()
            head, self._held = window[: BLOCK_S * RATE_HZ], [window[BLOCK_S * RATE_HZ :]]
            spans = self.find_speech(head)
            cut = _cut(head, spans)
            self._held.insert(0, head[cut:])
            yield from self._emit(head[:cut], spans)

    def finish(self) -> Iterator[Block]:
        window = self._take()
        if window.size:
            yield from self._emit(window, self.find_speech(window))

    def _take(self) -> Samples:
        window = np.concatenate(self._held) if self._held else np.zeros(0, np.int16)
        self._held = []
        return window

    def _emit(self, samples: Samples, spans: Sequence[Span]) -> Iterator[Block]:
        inside = [(first, min(last, samples.size)) for first, last in spans if first < samples.size]
        self.speech += sum(last - first for first, last in inside)
        offset, self.offset = self.offset, self.offset + samples.size
        self._held_samples -= samples.size
        if inside:
            yield Block(self.channel, offset, samples, inside)


def _cut(window: Samples, spans: Sequence[Span]) -> int:
    """
    Where to end a block: the middle of the longest silence of its second half.

    Without a silence there, the quietest tenth of a second of the last ten.
    """
    if not spans:
        # What is left may hold the first breath of a word that the next window completes.
        return window.size - _samples(_TAIL_MS)
    edges = [(0, 0), *spans, (window.size, window.size)]
    half = window.size // 2
    gaps = [
        (after - max(before, half), max(before, half), after)
        for (_, before), (after, _) in pairwise(edges)
        if after > half
    ]
    longest, before, after = max(gaps, default=(0, 0, 0))
    if longest >= _samples(_GAP_MS):
        return (before + after) // 2
    step = RATE_HZ // 10
    tail = window[-_QUIETEST_S * RATE_HZ :].astype(np.float32).reshape(-1, step)
    quietest = int(np.argmin(np.square(tail).mean(axis=1)))
    return window.size - tail.size + quietest * step + step // 2


# --- decoding ----------------------------------------------------------------------------


_Planes = NDArray[np.int16]
"""16 kHz, shape (channels, samples); one channel where they are mixed."""


def _decode(path: Path, split_channels: bool) -> Generator[_Planes, None, None]:
    with path.open("rb") as file:
        try:
            container = _open(file)
        except av.FFmpegError as error:
            raise _not_audio(path, "application/octet-stream (data)") from error
        with container:
            kind = f"{container.format.name} ({container.format.long_name})"
            stream = container.streams.best("audio")
            if not isinstance(stream, av.AudioStream):
                raise _not_audio(path, f"{kind}, without an audio track")
            if (container.duration or 0) > LONGEST_S * av.time_base:
                _refuse_longer(path)
            converter = _Converter(split_channels)
            damaged = False
            for packet in _packets(container, stream):
                try:
                    for frame in packet.decode():
                        if frame.samples > _LONGEST_PACKET_S * frame.sample_rate:
                            damaged = True
                            continue
                        yield from converter.convert(frame)
                except av.FFmpegError:
                    damaged = True
                    yield from converter.silence(packet.duration, packet.time_base)
            with suppress(av.FFmpegError):
                yield from converter.flush()
            if damaged and not converter.channels:
                raise _not_audio(path, kind)


@dataclass(frozen=True, slots=True)
class _Source:
    """A file as FFmpeg reads it: a seek to nowhere is an answer, not an exception."""

    file: BinaryIO

    def read(self, size: int) -> bytes:
        return self.file.read(size)

    def seek(self, offset: int, whence: int) -> int:
        try:
            return self.file.seek(offset, whence)
        except (OSError, ValueError):
            return -1

    def tell(self) -> int:
        return self.file.tell()


def _open(file: BinaryIO) -> InputContainer:
    # Not by its path, and with no protocol allowed: a playlist or a session description
    # uploaded as a recording must not make FFmpeg open other files, addresses or ports.
    # Latin-1 tags are common, and reading them strictly would refuse the file.
    return av.open(
        _Source(file),
        "r",
        metadata_errors="ignore",
        container_options={"protocol_whitelist": "none"},
    )


def _refuse_longer(path: Path) -> None:
    """
    Count the packets of a file whose header claims more than ten hours.

    Headers lie, most of all those of files that were written to a pipe, and packets
    are counted in seconds where transcribing them takes an hour.
    """
    with path.open("rb") as file, _open(file) as container:
        track = container.streams.best("audio")
        length_s = sum(
            float(packet.duration * packet.time_base)
            for packet in container.demux(track)
            if packet.duration and packet.time_base
        )
    if length_s > LONGEST_S:
        raise Unusable("Audio duration is too long")


def _packets(
    container: InputContainer, stream: av.AudioStream
) -> "Iterator[av.Packet[av.AudioStream]]":
    """The packets of a track; damage between packets is passed over, not the end."""
    damages = 0
    while damages <= _DAMAGES:
        try:
            yield from container.demux(stream)
        except av.EOFError:
            return
        except av.FFmpegError:
            damages += 1
        else:
            return


class _Converter:
    """Frames of any format, rate and layout → 16 kHz planes."""

    def __init__(self, split_channels: bool) -> None:
        self._split_channels = split_channels
        self._layout = ""
        self._format: tuple[str, str, int] | None = None
        self._resampler: av.AudioResampler | None = None
        self.channels = 0

    def convert(self, frame: av.AudioFrame) -> Iterator[_Planes]:
        # Some files change format on the way, and a resampler knows but one.
        format_ = (frame.format.name, frame.layout.name, frame.sample_rate)
        if format_ != self._format:
            yield from self.flush()
            if not self.channels:
                self._layout, self.channels = frame.layout.name, frame.layout.nb_channels
            self._format = format_
            # Interleaved, and mixed by us: reading planes of eight channels crashes PyAV,
            # and mixing a layout without a name is more than FFmpeg does.
            self._resampler = av.AudioResampler("s16", self._layout, RATE_HZ)
        # Broken time stamps are common, and the resampler would fill or drop to follow them.
        frame.pts = None
        yield from self._resample(frame)

    def silence(self, duration: int | None, time_base: Fraction | None) -> Iterator[_Planes]:
        """Silence as long as a lost packet, once there is a track that it is missing from."""
        if self.channels and duration and time_base:
            lost_s = min(float(duration * time_base), _LONGEST_PACKET_S)
            planes = self.channels if self._split_channels else 1
            yield np.zeros((planes, int(lost_s * RATE_HZ)), np.int16)

    def flush(self) -> Iterator[_Planes]:
        yield from self._resample(None)

    def _resample(self, frame: av.AudioFrame | None) -> Iterator[_Planes]:
        if self._resampler is None:
            return
        try:
            resampled = self._resampler.resample(frame)
        except av.FFmpegError:
            # It would raise this again and again: what comes next gets another one.
            self._resampler = self._format = None
            raise
        for converted in resampled:
            planes = np.asarray(converted.to_ndarray(), np.int16).reshape(-1, self.channels).T
            if not self._split_channels:
                planes = planes.mean(axis=0, keepdims=True, dtype=np.float32).astype(np.int16)
            yield planes


def _not_audio(path: Path, kind: str) -> Unusable:
    """Source: AssemblyAI cookbook, common errors and solutions."""
    with path.open("rb") as file:
        head = file.read(_SNIFFED_BYTES).lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        kind = "text/html (HTML document)"
    elif not head:
        kind = "inode/x-empty (empty)"
    elif b"\0" not in head and not head.strip(_PRINTABLE):
        kind = "text/plain (text)"
    return Unusable(f"File does not appear to contain audio. File type is {kind}.")
