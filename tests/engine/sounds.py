"""Media files for tests, made here: tones, silence, and every container a person has."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Planes = NDArray[np.int16]
"""Shape (channels, samples)."""

RATE_HZ = 16_000


@dataclass(frozen=True)
class Format:
    """A container and codec that PyAV can write."""

    container: str
    codec: str
    rate_hz: int
    sample_format: str


FORMATS = {
    "wav": Format("wav", "pcm_s16le", 16_000, "s16"),
    "wav-24bit": Format("wav", "pcm_s24le", 48_000, "s32"),
    "wav-float": Format("wav", "pcm_f32le", 44_100, "flt"),
    "wav-telephone": Format("wav", "pcm_mulaw", 8_000, "s16"),
    "aiff": Format("aiff", "pcm_s16be", 22_050, "s16"),
    "flac": Format("flac", "flac", 44_100, "s16"),
    "mp3": Format("mp3", "libmp3lame", 44_100, "fltp"),
    "m4a": Format("ipod", "aac", 44_100, "fltp"),
    "mov": Format("mov", "aac", 48_000, "fltp"),
    "opus": Format("ogg", "libopus", 48_000, "s16"),
    "webm": Format("webm", "libopus", 48_000, "s16"),
    "mkv": Format("matroska", "ac3", 48_000, "fltp"),
    "wma": Format("asf", "wmav2", 44_100, "fltp"),
}


def tone(seconds: float, hz: float = 440.0) -> Planes:
    """One channel of a tone, half as loud as can be."""
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (np.sin(2 * np.pi * hz * times) * 16_000).astype(np.int16)[np.newaxis]


def silence(seconds: float) -> Planes:
    """One channel of nothing."""
    return np.zeros((1, round(seconds * RATE_HZ)), np.int16)


def after(*parts: Planes) -> Planes:
    """Parts one after another."""
    return np.concatenate(parts, axis=1)


def beside(*channels: Planes) -> Planes:
    """A channel each, all as long as the longest."""
    longest = max(channel.shape[1] for channel in channels)
    return np.concatenate(
        [np.pad(channel, ((0, 0), (0, longest - channel.shape[1]))) for channel in channels]
    )


def write(path: Path, planes: Planes, format_: str = "wav", layout: str | None = None) -> Path:
    """Encode sound into a file; the name of the file is not looked at."""
    wanted = FORMATS[format_]
    layout = layout or {1: "mono", 2: "stereo"}[planes.shape[0]]
    with av.open(str(path), "w", format=wanted.container) as container:
        stream = container.add_stream(wanted.codec, rate=wanted.rate_hz, layout=layout)
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = 96_000
        resampler = av.AudioResampler(wanted.sample_format, layout, wanted.rate_hz)
        for start in range(0, planes.shape[1], 1600):
            packed = planes[:, start : start + 1600].T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(packed), "s16", layout)
            frame.sample_rate = RATE_HZ
            frame.pts = start
            for converted in resampler.resample(frame):
                container.mux(stream.encode(converted))
        for converted in resampler.resample(None):
            container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
    return path


def write_video_only(path: Path) -> Path:
    """A second of black pictures without a sound track."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10, width=64, height=64)
        assert isinstance(stream, av.VideoStream)
        stream.pix_fmt = "yuv420p"
        for _ in range(10):
            picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def damage(path: Path, places: Sequence[float], length: int = 40) -> Path:
    """Overwrite some bytes at each place, a fraction of the file."""
    content = bytearray(path.read_bytes())
    for place in places:
        at = int(len(content) * place)
        content[at : at + length] = bytes(byte ^ 0xFF for byte in content[at : at + length])
    path.write_bytes(content)
    return path


def read(path: Path) -> Planes:
    """A file as 16 kHz channels: for recordings of speech that tests build others from."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("s16p", "mono", RATE_HZ)
        chunks = [
            converted.to_ndarray()
            for frame in [*container.decode(audio=0), None]
            for converted in resampler.resample(frame)
        ]
    return np.concatenate(chunks, axis=1).astype(np.int16)
