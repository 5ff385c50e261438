"""Recordings for tests, from the standard library: what they hold in, bytes of media out.

Thousands of small ones that all differ, large ones that take no room on the disk, and sounds
that are not speech. Only `encode` needs PyAV, and imports it when it is called.
"""

import math
import random
import struct
from array import array
from io import BytesIO
from pathlib import Path

__all__ = [
    "RATE_HZ",
    "encode",
    "noise",
    "numbered_wav",
    "silence",
    "sparse_wav",
    "tone",
    "wav_bytes",
]

RATE_HZ = 16_000
"""Samples a second where nothing else is said."""

_PEAK = 32_767


def silence(seconds: float, rate_hz: int = RATE_HZ) -> "array[int]":
    """One channel of nothing, 16 bits a sample."""
    return array("h", bytes(2 * round(seconds * rate_hz)))


def tone(
    seconds: float, hz: float = 440.0, rate_hz: int = RATE_HZ, level: float = 0.5
) -> "array[int]":
    """One channel of a tone, 16 bits a sample; level 0..1."""
    step = 2 * math.pi * hz / rate_hz
    peak = level * _PEAK
    return array("h", (round(peak * math.sin(step * n)) for n in range(round(seconds * rate_hz))))


def noise(
    seconds: float, seed: int = 0, rate_hz: int = RATE_HZ, level: float = 0.5
) -> "array[int]":
    """One channel of white noise, 16 bits a sample, the same for the same seed; level 0..1."""
    source = random.Random(seed)
    peak = round(level * _PEAK)
    return array("h", (source.randint(-peak, peak) for _ in range(round(seconds * rate_hz))))


def wav_bytes(samples: "array[int]", rate_hz: int = RATE_HZ, channels: int = 1) -> bytes:
    """A WAV file of 16-bit samples, those of several channels interleaved."""
    pcm = samples.tobytes()
    return _wav_header(len(pcm), rate_hz, channels) + pcm


def numbered_wav(number: int, seconds: float = 0.2) -> bytes:
    """
    A small WAV file that no other number has; 6.4 kB, silent to the ear.

    Its first samples are the number, 15 bits in each: quick enough for tens of thousands.
    """
    samples = silence(seconds)
    for place in range(3):
        samples[place] = number >> 15 * place & 0x7FFF
    return wav_bytes(samples)


def sparse_wav(path: Path, size_bytes: int, rate_hz: int = RATE_HZ) -> Path:
    """
    A WAV file of silence of exactly that size, which takes a few kB of the disk.

    Args:
        size_bytes: Even, at least 44 (the header alone), below 4 GiB.
    """
    header = _wav_header(size_bytes - 44, rate_hz, 1)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(size_bytes)
    return path


def encode(
    samples: "array[int]", container: str, codec: str, rate_hz: int = RATE_HZ, channels: int = 1
) -> bytes:
    """
    A media file in any container and codec that PyAV writes.

    Args:
        samples: 16 bits each, those of several channels interleaved.
        container: FFmpeg's name: `mp3`, `ipod` (m4a), `flac`, `ogg`, `webm`, `asf` (wma), `wav`.
        codec: FFmpeg's name: `libmp3lame`, `aac`, `flac`, `libopus`, `wmav2`, `pcm_mulaw`.
        rate_hz: Of the samples. The file has it too, except that Opus always has 48 kHz.
        channels: 1 or 2.

    Raises:
        ValueError: The container or the codec is not known, or the one cannot hold the other.
        av.error.FFmpegError: The codec does not take that rate.
    """
    import av

    layout = {1: "mono", 2: "stereo"}[channels]
    written = BytesIO()
    with av.open(written, "w", format=container) as file:
        rate_out_hz = 48_000 if codec == "libopus" else rate_hz
        stream = file.add_stream(codec, rate=rate_out_hz, layout=layout)
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = 64_000 * channels
        frame = av.AudioFrame(format="s16", layout=layout, samples=len(samples) // channels)
        frame.planes[0].update(samples.tobytes())
        frame.sample_rate = rate_hz
        # Encoders take frames of one length each, which the resampler cuts.
        resampler = av.AudioResampler(stream.format, layout, rate_out_hz, stream.frame_size or None)
        for source in (frame, None):
            for cut in resampler.resample(source):
                file.mux(stream.encode(cut))
        file.mux(stream.encode(None))
    return written.getvalue()


def _wav_header(pcm_bytes: int, rate_hz: int, channels: int) -> bytes:
    """The 44 bytes before the samples: sixteen bits each, no extensions."""
    block = 2 * channels
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", 36 + pcm_bytes, b"WAVE"),
        *(b"fmt ", 16, 1, channels, rate_hz, rate_hz * block, block, 16),
        *(b"data", pcm_bytes),
    )
