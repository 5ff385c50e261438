"""
How long recordings are: in, a path and a size; out, seconds and channels, with nothing decoded.

What a recording says of itself is read in another process: anybody may have written it, and a
parser that hangs or dies of it takes nothing else along. What cannot be read is counted by size.
Wherever one has to choose, the longer is taken, since caps on spending are held by these figures.
"""

import errno
import io
import os
import re
import stat
import struct
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
from anyio import BrokenWorkerProcess, CapacityLimiter, to_process
from anyio.lowlevel import RunVar

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

__all__ = [
    "LONGEST_S",
    "Duration",
    "by_header",
    "by_size",
    "certain_s",
    "duration_of",
    "identity_of",
    "is_as_long",
]

LONGEST_S = 10 * 3600
"""What the service transcribes at most; longer recordings are refused, and cost nothing.

Source: AssemblyAI FAQ, are there any limits on file size or file duration.
"""

_TRIES = 2
_WITHIN_S = 30.0
"""Most take 1 ms; with what anyio grants a new process to start, 20 s."""

_READ_BYTES = 256 << 20
_READ_PACKETS = 500_000
"""Three hours of AAC, in 5 s. More is not read of recordings that do not tell their length."""

_LEAST_BYTES_PER_S = 8
"""Silence in FLAC or Opus takes more: a header that claims less is wrong."""

_MOST_BYTES_PER_S = 1_500_000
"""Two channels with 192,000 samples of 32 bits a second: what tinytag finds less in is no sound."""

_PLAUSIBLE_S = 100 * 3600

_BYTES_PER_S = {
    # One channel at 8 kHz and 8 bits, the least of what is in use.
    8000: "aif aifc aiff au caf snd voc w64 wav",
    # AMR at 4.75 kbit/s, and others made for the telephone. Source: RFC 4867, 3.1.
    600: "3g2 3ga 3gp amr dss gsm qcp spx",
}
_COMPRESSED_BYTES_PER_S = 2000
"""Speech at 16 kbit/s, the least that is usual in MP3, AAC and Opus."""

_PLAIN = frozenset({"aiff", "au", "caf", "wav", "w64"})
"""Containers of nothing but samples, as FFmpeg calls them."""

_UNTOLD = frozenset(
    ("aac", "ac3", "amr", "amrnb", "amrwb", "dts", "dtshd", "eac3", "gsm", "loas", "truehd")
)
"""Formats without a length, which FFmpeg guesses from the first bit rate: 31 s for 61 s of AAC."""

_LAST_PACK_S = 0.5
"""Of a program stream FFmpeg tells when the last pack begins, not how long it is."""

_HEADER_BYTES = 512
"""What usually stands beside the samples of a WAV, and is no sound."""

_FORM_BYTES = 24
_SAMPLES = frozenset((1, 3, 6, 7, 0xFFFE))
"""PCM, float, A-law, mu-law, and PCM of more channels or bits. Source: RFC 2361."""

_MEDIA = re.compile(
    rb"RIFF|RF64|FORM|fLaC|OggS|ID3|caff|riff|wvpk|#!AMR|\.snd|FLV|\xff[\xe2-\xff]|....ftyp"
    rb"|\x0b\x77|\x1a\x45\xdf\xa3|\x30\x26\xb2\x75|\x00\x00\x01\xba|\x47.{187}\x47",
    re.DOTALL,
)
"""How files of sound begin that packets can be counted in: all else is not worth a process."""

_TOLERANCE_S = 2.0
_TOLERANCE = 0.02
"""Lengths of one recording differ by so much. Ours: the service rounds up, containers pad."""

_FIRST_FRAME_BYTES = 4096
_PAGE_BYTES = 65_307

_limiter: RunVar[CapacityLimiter] = RunVar("_durations_limiter")


@dataclass(frozen=True, slots=True)
class Duration:
    """How long a recording is, and how that is known."""

    seconds: float
    """Not rounded; the longest of several sound tracks. 0 only for what is empty."""
    channels: int | None
    """At least 1; None where it is not known."""
    is_probed: bool
    """It was read from the recording; otherwise it is counted by size, and too much on purpose."""
    is_certain: bool = False
    """Its samples or packets were counted, and nothing in it says otherwise."""


async def duration_of(
    path: bytes,
    size: int,
    *,
    identity: tuple[int, ...] | None = None,
    within_s: float = _WITHIN_S,
) -> Duration:
    """
    How long a recording is, whatever is in it: what cannot be read is counted by size.

    One recording is looked at at a time, in a process that is kept for the next one, and replaced
    when it dies or takes too long. May be called by several at once.

    Args:
        path: Where it lies.
        size: Its bytes, as whoever asks knows them.
        identity: What `identity_of` says of it; what lies there with another one tells nothing.
        within_s: Seconds after which it is counted by size; waiting for others is not in them.

    Raises:
        OSError: It cannot be opened or read, or is no regular file.
    """
    return await _probed(path, identity, None, within_s) or by_size(path, size)


async def certain_s(
    path: bytes, head: bytes, size: int, near_s: float, *, identity: tuple[int, ...]
) -> float | None:
    """
    How long a recording certainly is, seconds; None where that cannot be said.

    A WAV of plain samples is as long as these. Of all else a header counts where it agrees with
    `near_s`; where it does not it may be of more than was written, or than there is sound. Then all
    packets are counted, which needs PyAV, and is not certain of gaps and of tracks that differ.

    Args:
        path: Where it lies.
        head: Some of its first bytes.
        size: All of its bytes.
        near_s: How long it is taken to be.
        identity: As for `duration_of`.

    Raises:
        OSError: It cannot be opened or read, or is no regular file.
    """
    told = by_header(path, head, size)
    if told.is_certain:
        return told.seconds
    if not _MEDIA.match(head):
        return None
    counted = await _probed(path, identity, near_s, _WITHIN_S)
    return None if counted is None else counted.seconds


def is_as_long(seconds: float, other_s: float) -> bool:
    """Whether two lengths of one recording are the same, but for rounding and padding."""
    return abs(seconds - other_s) <= max(_TOLERANCE_S, _TOLERANCE * seconds)


async def _probed(
    path: bytes, identity: tuple[int, ...] | None, near_s: float | None, within_s: float
) -> Duration | None:
    """What the other process says of a recording; None if that is nothing, or takes too long."""
    async with _one_at_a_time():
        for _ in range(_TRIES):
            with anyio.move_on_after(within_s):
                try:
                    # A limiter nobody waits for: the time of others is not this recording's.
                    return await to_process.run_sync(
                        _probe, path, identity, near_s, cancellable=True, limiter=CapacityLimiter(1)
                    )
                except (BrokenWorkerProcess, KeyboardInterrupt):
                    continue  # the worker's end, and perhaps not by this recording
            break
    return None


def identity_of(found: os.stat_result) -> tuple[int, ...]:
    """What is another one as soon as a file holds other bytes."""
    times = found.st_mtime_ns, found.st_ctime_ns
    return found.st_dev, found.st_ino, found.st_size, *times


def by_header(path: bytes, head: bytes, size: int) -> Duration:
    """
    How long a recording is by its first bytes, where these tell it; else `by_size`.

    Args:
        path: Its suffix tells what is usual.
        head: Some of its first bytes.
        size: All of its bytes.
    """
    told = _by_wave(head, size)
    return told if told and _is_plausible(told.seconds, size) else by_size(path, size)


def _by_wave(head: bytes, size: int) -> Duration | None:
    """As many samples as there are bytes for, whatever the header says of their number."""
    if head[:4] not in (b"RIFF", b"RF64") or head[8:12] != b"WAVE":
        return None
    form, samples = head.find(b"fmt ", 12), head.find(b"data", 12)
    if form < 0 or samples - form < _FORM_BYTES:
        return None
    kind, channels, rate_hz, bytes_per_s, block_bytes = struct.unpack_from("<HHIIH", head, form + 8)
    if kind in _SAMPLES:  # else it is compressed, and a block holds more than one sample
        bytes_per_s = rate_hz * block_bytes
    if not bytes_per_s:
        return None
    seconds = (size - samples - 8) / bytes_per_s
    # Of one that was cut it says too much, of one that was written to a pipe 0 or too much. Where
    # it says too little, what follows may be something else.
    said_s = int.from_bytes(head[samples + 4 : samples + 8], "little") / bytes_per_s
    is_certain = kind in _SAMPLES and (not said_s or is_as_long(seconds, min(said_s, seconds)))
    return Duration(seconds, channels or None, is_probed=True, is_certain=is_certain)


def by_size(path: bytes, size: int) -> Duration:
    """
    The longest that a recording of so many bytes usually is, at most what the service takes.

    Args:
        path: Its suffix tells what is usual.
        size: In bytes.
    """
    suffix = os.fsdecode(os.path.splitext(path)[1][1:].lower())
    usual = (rate for rate, suffixes in _BYTES_PER_S.items() if suffix in suffixes.split())
    seconds = size / next(usual, _COMPRESSED_BYTES_PER_S)
    return Duration(min(seconds, LONGEST_S), None, is_probed=False)


def _one_at_a_time() -> CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        limiter = CapacityLimiter(1)
        _limiter.set(limiter)
        return limiter


# --- in the other process -------------------------------------------------------------------------


def _probe(path: bytes, identity: tuple[int, ...] | None, near_s: float | None) -> Duration | None:
    """
    What a recording says of itself; None if that is nothing, cannot be, or is of another.

    If that is not near to `near_s`, where this is given, it is counted, or not known.
    """
    # Nobody may ever write to a pipe that somebody called a recording.
    with open(path, "rb", buffering=0, opener=_without_waiting) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        try:
            probed = _read(file, found.st_size)
            if near_s is not None and probed and not is_as_long(probed.seconds, near_s):
                probed = _count(file)
        except OSError:
            raise
        except Exception:  # of a parser that was led astray: there is no list of them
            return None
        if identity and {identity_of(found), identity_of(os.stat(path))} != {identity}:
            return None
    return probed if probed and _is_plausible(probed.seconds, found.st_size) else None


def _read(file: io.FileIO, size: int) -> Duration | None:
    try:
        import av
    except ImportError:
        return _by_tags(file, size)
    try:
        return _by_container(file, size)
    except av.FFmpegError:  # some of these are OSErrors, too
        return None


def _count(file: io.FileIO) -> Duration | None:
    """By all of its packets; None where these say two things, and where nothing can read them."""
    try:
        import av
    except ImportError:
        return None
    file.seek(0)
    try:
        with _opened(file) as container:
            return _by_all_packets(container)
    except av.FFmpegError:
        return None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _is_plausible(seconds: float, size: int) -> bool:
    return 0 < seconds <= min(size / _LEAST_BYTES_PER_S, _PLAUSIBLE_S)


@dataclass(frozen=True, slots=True)
class _Source:
    """A file as FFmpeg reads it: a seek to nowhere is an answer, not an exception."""

    file: io.FileIO

    def read(self, size: int) -> bytes:
        return self.file.read(size)

    def seek(self, offset: int, whence: int) -> int:
        try:
            return self.file.seek(offset, whence)
        except (OSError, ValueError):
            return -1

    def tell(self) -> int:
        return self.file.tell()


def _opened(file: io.FileIO) -> "InputContainer":
    import av

    return av.open(
        _Source(file),
        "r",
        metadata_errors="ignore",
        container_options={
            # A playlist must not make FFmpeg open other files or addresses.
            "protocol_whitelist": "none",
            # Else it looks for other codecs in the samples of each WAV, which takes 3 ms.
            "max_probe_packets": "1",
        },
    )


def _by_container(file: io.FileIO, size: int) -> Duration | None:
    """By FFmpeg: from the header, or from the packets where no header tells."""
    with _opened(file) as container:
        # Pictures without a sound are refused for free, but who knows what was overlooked.
        streams = container.streams.audio or container.streams.video
        if not streams:
            return None
        seconds = _told(container, streams, file, size)
        if not _is_plausible(seconds, size) and size <= _READ_BYTES:
            seconds = _by_packets(container, streams)
        counts = [sound.codec_context.channels or 1 for sound in container.streams.audio]
        return Duration(seconds, max(counts, default=None), is_probed=True)


def _told(
    container: "InputContainer",
    streams: "Iterable[av.AudioStream | av.VideoStream]",
    file: io.FileIO,
    size: int,
) -> float:
    """What the header says; 0 if it says nothing that can be relied on."""
    name = container.format.name
    if (
        name in _UNTOLD
        or (name == "mp3" and not _counts_frames(file, size))
        or (name == "ogg" and not _ends_as_it_begins(file, size))
    ):
        return 0
    whole_s = (container.duration or 0) / 1e6
    told_s = max(
        float(stream.duration * stream.time_base)
        if stream.duration and stream.time_base
        else whole_s
        for stream in streams
    )
    if name == "mpeg":
        return told_s + _LAST_PACK_S
    (first, *others) = streams
    codec = first.codec_context
    if name in _PLAIN and not others and codec.name.startswith("pcm_") and codec.bit_rate:
        # The length of a recording that was written to a pipe, or cut, is any number.
        real_s = size * 8 / codec.bit_rate
        of_header_s = max(1.0, _HEADER_BYTES * 8 / codec.bit_rate)
        return min(told_s, real_s) if abs(told_s - real_s) < of_header_s else real_s
    return told_s


def _counts_frames(file: io.FileIO, size: int) -> bool:
    """
    Whether an MP3 says in its first frame how many there are, and goes on for no longer.

    Source: the tag that LAME and others write, `Xing` or `Info`, flags, frames, bytes.
    """
    head = os.pread(file.fileno(), 10, 0)
    start = 0
    if head[:3] == b"ID3":  # four times seven bits. Source: ID3v2.4.0, 3.1
        start = 10 + sum((byte & 0x7F) << 7 * place for place, byte in enumerate(head[:5:-1]))
    frame = os.pread(file.fileno(), _FIRST_FRAME_BYTES, start)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0:
        return False
    flags: int
    counted_bytes: int
    _, flags, _, counted_bytes = struct.unpack_from(">4sIII", frame, at)
    # What comes after what was counted are tags at most; FFmpeg draws the line there, too.
    return flags & 3 == 3 and size - start <= counted_bytes * 17 / 16


def _ends_as_it_begins(file: io.FileIO, size: int) -> bool:
    """
    Whether an Ogg ends with the stream that it begins with: FFmpeg tells the length of the last.

    Source: RFC 3533, 4 (one stream after another), 6 (a page: its stream, its length).
    """
    head = os.pread(file.fileno(), 18, 0)
    end = os.pread(file.fileno(), _PAGE_BYTES, max(0, size - _PAGE_BYTES))
    last = end.rpartition(head[:4])[2]
    return last[10:14] == head[14:18]


def _by_packets(
    container: "InputContainer", streams: "Iterable[av.AudioStream | av.VideoStream]"
) -> float:
    """All packets, one after another, of the longest stream; 0 if there are too many."""
    lengths: dict[int, float] = {}
    starts: dict[int, float] = {}
    longest_s = 0.0
    for number, packet in enumerate(container.demux(*streams)):
        if number >= _READ_PACKETS:
            return 0.0
        unit, index = packet.time_base, packet.stream_index
        if not unit:
            continue
        duration_s = float((packet.duration or 0) * unit)
        lengths[index] = lengths.get(index, 0.0) + duration_s
        longest_s = max(longest_s, lengths[index])
        if packet.pts is not None:
            begins_s = float(packet.pts * unit)
            start_s = starts.setdefault(index, begins_s)
            longest_s = max(longest_s, begins_s + duration_s - start_s)
    return longest_s


def _by_all_packets(container: "InputContainer") -> Duration | None:
    """
    The sum of all packets of each track, None unless all are as long, from first to last as well.

    Of a gap, which a decoder may leave out or fill, nobody knows how much of it is heard.
    """
    sums: defaultdict[int, float] = defaultdict(float)
    firsts, lasts = dict[int, float](), dict[int, float]()
    for packet in container.demux(*container.streams.audio):
        if packet.pts is None or packet.time_base is None:
            continue
        unit_s, index = float(packet.time_base), packet.stream_index
        begins_s, takes_s = packet.pts * unit_s, (packet.duration or 0) * unit_s
        sums[index] += takes_s
        firsts[index] = min(begins_s, firsts.get(index, begins_s))
        lasts[index] = max(begins_s + takes_s, lasts.get(index, 0.0))
    lengths = [*sums.values(), *(lasts[index] - firsts[index] for index in firsts)]
    if not lengths or not is_as_long(max(lengths), min(lengths)):
        return None
    return Duration(min(lengths), None, is_probed=True, is_certain=True)


def _by_tags(file: io.FileIO, size: int) -> Duration | None:
    """By tinytag, which knows fewer formats, and is installed with everything."""
    from tinytag import TinyTag

    head = os.pread(file.fileno(), 4, 0)
    if head[:1] == b"\xff" and head[1:2] in (b"\xf0", b"\xf1", b"\xf8", b"\xf9"):
        return None  # raw AAC, which it takes for MP3 of a third of a second
    with io.BufferedReader(file) as buffered:
        tag = TinyTag.get(file_obj=buffered, tags=False)
    seconds = tag.duration or 0.0
    if head in (b"RIFF", b"FORM") and tag.bitrate:
        seconds = min(seconds, size / (tag.bitrate * 125))  # a header may say anything
    if not size / _MOST_BYTES_PER_S <= seconds:
        return None
    return Duration(seconds, tag.channels, is_probed=True)
