"""Durations are right or too long, whatever a recording is, and nothing is decoded for them."""

import os
import random
import struct
import wave
from array import array
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import anyio
import av
import psutil
import pytest

from jobs.folder import sample_folder
from pipeline.durations import (
    LONGEST_S,
    Duration,
    by_header,
    by_size,
    certain_s,
    duration_of,
    identity_of,
    is_as_long,
)
from pipeline.stages.scan import MEDIA_SUFFIXES
from tests.engine.sounds import write_video_only
from tests.support.audio import RATE_HZ, numbered_wav, silence, sparse_wav, tone

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def one_loop() -> AsyncIterator[None]:
    """All tests share a loop, hence the other process: it takes longer to start than to look."""
    yield  # noqa: PT022 - the loop goes on while there is a fixture to be ended


SECONDS = 12.5
LOUD = tone(SECONDS)
SPEECH = LOUD[: 6 * RATE_HZ] + silence(6.5)
"""Loud, then silent: what its beginning promises of a variable bit rate is wrong."""

SAMPLES = [
    path
    for path in sorted(sample_folder().rglob("*"))
    if path.suffix[1:].encode() in MEDIA_SUFFIXES
]


@dataclass(frozen=True)
class Kind:
    """A way to write sound that people have recordings of."""

    suffix: str
    container: str
    codec: str
    rate_hz: int = RATE_HZ
    bit_rate: int | None = None
    muxing: dict[str, str] = field(default_factory=dict)
    encoding: dict[str, str] = field(default_factory=dict)


WAV = Kind("wav", "wav", "pcm_s16le")
FLAC = Kind("flac", "flac", "flac")
M4A = Kind("m4a", "ipod", "aac", bit_rate=32_000)
MP3 = Kind("mp3", "mp3", "libmp3lame", encoding={"q": "4"})
KINDS = {
    "wav": WAV,
    "wav of a telephone": Kind("wav", "wav", "pcm_mulaw", 8000),
    "adpcm": Kind("wav", "wav", "adpcm_ima_wav"),
    "aiff": Kind("aiff", "aiff", "pcm_s16be"),
    "au": Kind("au", "au", "pcm_s16be"),
    "caf": Kind("caf", "caf", "pcm_s16be"),
    "w64": Kind("w64", "w64", "pcm_s16le"),
    "flac": FLAC,
    "wavpack": Kind("wv", "wv", "wavpack"),
    "m4a": M4A,
    "m4a for streaming": Kind("m4a", "ipod", "aac", muxing={"movflags": "faststart"}),
    "mp4 in fragments": Kind(
        "mp4", "mp4", "aac", muxing={"movflags": "empty_moov", "frag_duration": "1000000"}
    ),
    "mov": Kind("mov", "mov", "aac"),
    "mp3 of variable rate": MP3,
    "mp3 that counts nothing": Kind(
        "mp3", "mp3", "libmp3lame", muxing={"write_xing": "0"}, encoding={"q": "4"}
    ),
    "mp3 of constant rate": Kind("mp3", "mp3", "libmp3lame", bit_rate=64_000),
    "mp2": Kind("mp2", "mp2", "mp2"),
    "ogg": Kind("ogg", "ogg", "libopus", 48_000),
    "webm": Kind("webm", "webm", "libopus", 48_000),
    "webm of a browser": Kind("webm", "webm", "libopus", 48_000, muxing={"live": "1"}),
    "mka": Kind("mka", "matroska", "libopus", 48_000),
    "raw aac": Kind("aac", "adts", "aac", bit_rate=32_000),
    "raw ac3": Kind("ac3", "ac3", "ac3", 48_000),
    "amr": Kind("amr", "amr", "libopencore_amrnb", 8000, bit_rate=12_200),
    "wma": Kind("wma", "asf", "wmav2", 44_100, bit_rate=64_000),
    "ts": Kind("ts", "mpegts", "aac"),
    "mpg": Kind("mpg", "mpeg", "mp2"),
    "flv": Kind("flv", "flv", "aac", 44_100),
    "avi": Kind("avi", "avi", "libmp3lame"),
}


def write(folder: Path, kind: Kind, *tracks: "array[int]") -> Path:
    """A recording of that kind, with a track for each of the sounds."""
    path = folder / f"recording.{kind.suffix}"
    with av.open(str(path), "w", format=kind.container, options=kind.muxing) as file:
        streams = []
        for _ in tracks:
            stream = file.add_stream(
                kind.codec, rate=kind.rate_hz, layout="mono", options=kind.encoding
            )
            assert isinstance(stream, av.AudioStream)
            if kind.bit_rate:
                stream.bit_rate = kind.bit_rate
            streams.append(stream)
        for stream, sound in zip(streams, tracks, strict=True):
            frame = av.AudioFrame(format="s16", layout="mono", samples=len(sound))
            frame.planes[0].update(sound.tobytes())
            frame.sample_rate = RATE_HZ
            resampler = av.AudioResampler(
                stream.format, "mono", kind.rate_hz, stream.frame_size or None
            )
            for source in (frame, None):
                for cut in resampler.resample(source):
                    file.mux(stream.encode(cut))
            file.mux(stream.encode(None))
    return path


def halve(path: Path) -> Path:
    """The same, without its second half."""
    os.truncate(path, path.stat().st_size // 2)
    return path


async def look(path: Path, **limit: float) -> Duration:
    """What is said of a recording."""
    return await duration_of(os.fsencode(path), (await anyio.Path(path).stat()).st_size, **limit)


def probed(seconds: float, *, slack_s: float = 0.2, channels: int = 1) -> object:
    """Equal to what was probed to be so long, and never 20 ms too short."""
    return _Probed(seconds, slack_s, channels)


@dataclass(frozen=True)
class _Probed:
    seconds: float
    slack_s: float
    channels: int

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Duration)
            and other.is_probed
            and other.channels == self.channels
            and self.seconds - 0.02 <= other.seconds <= self.seconds + self.slack_s
        )


# --- what recordings say --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_every_kind_is_right(tmp_path: Path, kind: Kind) -> None:
    """A recording in any usual container is as long as its sound, and never shorter."""
    path = write(tmp_path, kind, SPEECH)

    slack_s = 0.6 if kind.suffix == "mpg" else 0.15
    assert await look(path) == probed(SECONDS, slack_s=slack_s)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"avi"}))  # its length is at its end
async def test_half_a_recording_is_not_too_short(tmp_path: Path, kind: str) -> None:
    """Of a recording that is cut, what is left is counted, or what it was to be, or its size."""
    path = halve(write(tmp_path, KINDS[kind], LOUD))

    assert (await look(path)).seconds >= heard(path) - 0.02


def heard(path: Path) -> float:
    """Seconds of sound that can be decoded."""
    try:
        with av.open(str(path)) as file:
            seconds = 0.0
            try:
                for frame in file.decode(audio=0):
                    seconds += frame.samples / frame.sample_rate
            except av.FFmpegError:
                pass
            return seconds
    except av.FFmpegError:
        return 0.0


async def test_channels(tmp_path: Path) -> None:
    """Who pays for each channel is told how many there are."""
    path = tmp_path / "call.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(4 * 8000 * 3))

    assert await look(path) == Duration(3.0, 2, is_probed=True)


async def test_the_longest_of_several_tracks(tmp_path: Path) -> None:
    """A recording with several sound tracks is as long as the longest, wherever it stands."""
    behind = write(tmp_path, Kind("mka", "matroska", "pcm_s16le"), tone(1), tone(4))
    before = write(tmp_path, Kind("mov", "mov", "pcm_s16le"), tone(4), tone(1))

    assert await look(behind) == probed(4)
    assert await look(before) == probed(4)


async def test_the_sound_counts_not_the_picture(tmp_path: Path) -> None:
    """A film is as long as its sound where that goes on after the last picture."""
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as file:
        pictures = file.add_stream("mpeg4", rate=10, width=64, height=64)
        sound = file.add_stream("aac", rate=RATE_HZ, layout="mono")
        assert isinstance(pictures, av.VideoStream)
        assert isinstance(sound, av.AudioStream)
        pictures.pix_fmt = "yuv420p"
        for _ in range(10):
            file.mux(pictures.encode(av.VideoFrame(64, 64, "yuv420p")))
        file.mux(pictures.encode(None))
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.planes[0].update(bytes(4096))
        for number in range(64):
            frame.sample_rate, frame.pts = RATE_HZ, number * 1024
            file.mux(sound.encode(frame))
        file.mux(sound.encode(None))

    assert await look(path) == probed(64 * 1024 / RATE_HZ)


async def test_pictures_without_sound_are_as_long_as_they_are(tmp_path: Path) -> None:
    """A film without a sound track is no archive of its size."""
    found = await look(write_video_only(tmp_path / "silent.mp4"))

    assert found == Duration(1.0, None, is_probed=True)


@pytest.mark.parametrize("length", [0, 1000, 0x7FFFFFFF, 0xFFFFFFFF])
async def test_a_wav_is_as_long_as_it_is(tmp_path: Path, length: int) -> None:
    """The length in the header of what was written to a pipe means nothing: the size does."""
    path = write(tmp_path, WAV, LOUD)
    content = path.read_bytes()
    said = struct.pack("<I", round(2 * RATE_HZ * SECONDS))
    path.write_bytes(content.replace(b"data" + said, b"data" + struct.pack("<I", length)))

    assert await look(path) == probed(SECONDS)


async def test_a_second_mp3_behind_the_first_counts(tmp_path: Path) -> None:
    """Two MP3 files in one are as long as both, though the header knows of the first only."""
    path = write(tmp_path, MP3, SPEECH)
    path.write_bytes(path.read_bytes() * 2)

    assert await look(path) == probed(2 * SECONDS, slack_s=0.3)


async def test_a_second_ogg_behind_the_first_counts(tmp_path: Path) -> None:
    """An Ogg of several streams, one after another, is as long as all of them."""
    first = write(tmp_path, KINDS["ogg"], LOUD)
    both = tmp_path / "both.ogg"
    both.write_bytes(first.read_bytes() + write(tmp_path, KINDS["ogg"], SPEECH).read_bytes())

    assert await look(both) == probed(2 * SECONDS)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
async def test_the_samples(sample: Path) -> None:
    """The recordings that come along are probed, and no shorter than what can be heard."""
    found, heard_s = await look(sample), heard(sample)

    assert found.is_probed
    assert heard_s - 0.02 <= found.seconds <= heard_s + 0.1


# --- what says nothing ----------------------------------------------------------------------------

JUNK = {
    "noise.mp3": random.Random(1).randbytes(200_000),
    "noise.wav": random.Random(2).randbytes(200_000),
    "zeros.m4a": bytes(200_000),
    "text.wav": b"What is this, I wonder.\n" * 5000,
    "playlist.mp3": b"#EXTM3U\n#EXTINF:3600,\nhttp://127.0.0.1:9/a.mp3\n",
    "listed.wav": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "heading.wav": numbered_wav(1)[:44],
    "begun.flac": b"fLaC",
    "begun.mp3": b"ID3\x04\0\0\x7f\x7f\x7f\x7f",
    "begun.m4a": struct.pack(">I4s4sI", 16, b"ftyp", b"M4A ", 0) + b"\xff" * 64,
}


@pytest.mark.parametrize("name", JUNK)
async def test_junk_is_counted_by_size(tmp_path: Path, name: str) -> None:
    """What is no recording raises nothing: it is counted by size, and says so."""
    path = tmp_path / name
    path.write_bytes(JUNK[name])

    assert await look(path) == by_size(os.fsencode(path), len(JUNK[name]))


async def test_a_header_cannot_claim_years(tmp_path: Path) -> None:
    """A small recording that claims to be long is counted by what is in it, or by size."""
    path = write(tmp_path, FLAC, tone(1))
    content = bytearray(path.read_bytes())
    content[21:26] = b"\xff" * 5  # the number of samples, in STREAMINFO
    path.write_bytes(content)

    assert 1 <= (await look(path)).seconds < 60


async def test_an_empty_recording_is_nothing(tmp_path: Path) -> None:
    """A recording of no bytes takes no time."""
    path = tmp_path / "empty.mp3"
    path.touch()

    assert await look(path) == Duration(0, None, is_probed=False)


@pytest.mark.parametrize(
    ("name", "bit_rate"),
    [
        ("a.wav", 64_000),
        ("a.AIFF", 128_000),
        ("a.flac", 60_000),
        ("a.mp3", 16_000),
        ("a.mp3", 128_000),
        ("a.m4a", 32_000),
        ("a.opus", 16_000),
        ("a.amr", 5_200),
        ("a.gsm", 13_200),
        ("film.mp4", 500_000),
        ("nothing", 64_000),
    ],
)
async def test_size_counts_for_too_much_not_too_little(name: str, bit_rate: int) -> None:
    """What is counted by size is no shorter than it would be at the rates that are in use."""
    for hour in (0.01, 1, 9.9):
        size = round(hour * 3600 * bit_rate / 8)

        assert by_size(name.encode(), size).seconds >= hour * 3600


async def test_size_counts_for_ten_hours_at_most() -> None:
    """The service refuses what is longer, so no size is counted for more."""
    assert by_size(b"a.mp4", 1 << 40) == Duration(LONGEST_S, None, is_probed=False)


# --- where it lies --------------------------------------------------------------------------------


async def test_names_are_bytes(tmp_path: Path) -> None:
    """A name that is no UTF-8 is one like any other."""
    path = tmp_path / os.fsdecode(b"Gespr\xe4ch.wav")
    path.write_bytes(numbered_wav(1))

    assert await look(path) == Duration(0.2, 1, is_probed=True)


async def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A folder, a pipe that nobody writes to and a name without a file raise at once."""
    os.mkfifo(tmp_path / "pipe.wav")

    with pytest.raises(IsADirectoryError):
        await look(tmp_path)
    with pytest.raises(OSError, match="not a regular file"):
        await look(tmp_path / "pipe.wav")
    with pytest.raises(FileNotFoundError):
        await duration_of(os.fsencode(tmp_path / "gone.wav"), 1)


# --- the other process ----------------------------------------------------------------------------


def workers() -> Sequence[psutil.Process]:
    """Processes that this one has started to look into recordings."""
    return [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "anyio.to_process" in child.cmdline()
    ]


def end_workers() -> None:
    """The next recording is looked at by a new process."""
    for worker in workers():
        worker.kill()


async def test_several_at_once(tmp_path: Path) -> None:
    """Whoever asks gets the duration of what was asked for, and one process works for all."""
    found: dict[int, float] = {}

    async def look_at(number: int) -> None:
        path = tmp_path / f"{number}.wav"
        path.write_bytes(numbered_wav(number, seconds=number / 8))
        found[number] = (await look(path)).seconds

    async with anyio.create_task_group() as group:
        for number in range(1, 33):
            group.start_soon(look_at, number)

    assert found == {number: number / 8 for number in range(1, 33)}
    assert len(workers()) == 1


async def test_a_process_that_was_killed_is_replaced(tmp_path: Path) -> None:
    """When the process is killed between two recordings, the second is probed all the same."""
    path = write(tmp_path, WAV, tone(1))
    await look(path)
    (worker,) = workers()
    worker.kill()

    assert await look(path) == probed(1)
    assert workers() != [worker]


async def test_a_process_that_dies_at_work_costs_nothing(tmp_path: Path) -> None:
    """When the process is killed while it looks at a recording, another looks at it."""
    path = write(tmp_path, WAV, tone(1))
    await look(path)
    (worker,) = workers()
    worker.suspend()
    found: list[Duration] = []

    async def look_again() -> None:
        found.append(await look(path))

    async with anyio.create_task_group() as group:
        group.start_soon(look_again)
        await anyio.wait_all_tasks_blocked()
        worker.kill()

    assert found == [probed(1)]


async def test_a_process_that_hangs_costs_one_recording(tmp_path: Path) -> None:
    """A recording that takes too long is counted by size; the next one is probed."""
    path = write(tmp_path, WAV, tone(1))
    await look(path)
    (worker,) = workers()
    worker.suspend()

    assert await look(path, within_s=0.2) == by_size(os.fsencode(path), path.stat().st_size)
    assert await look(path) == probed(1)


async def test_nothing_is_decoded(tmp_path: Path) -> None:
    """Of hours of silence in FLAC, and of gigabytes of WAV, the beginning is read."""
    long = tmp_path / "long.flac"
    with av.open(str(long), "w") as file:
        stream = file.add_stream("flac", rate=8000, layout="mono")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame(format="s16", layout="mono", samples=4000)
        frame.planes[0].update(bytes(8000))
        frame.sample_rate = 8000
        for number in range(3 * 3600 * 2):
            frame.pts = number * 4000
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    large = sparse_wav(tmp_path / "large.wav", 44 + 32_000 * 36_000)
    await look(large)
    (worker,) = workers()
    before = worker.io_counters().read_chars

    assert await look(long) == probed(3 * 3600)
    assert await look(large) == probed(36_000)
    assert worker.io_counters().read_chars - before < 1_000_000


# --- without FFmpeg -------------------------------------------------------------------------------


@pytest.fixture
def without_av(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The other process finds no PyAV, as where `media` is not installed."""
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "av.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(shadow)
    end_workers()
    yield tmp_path
    end_workers()


@pytest.mark.parametrize(
    "kind", ["wav", "aiff", "flac", "m4a", "mp3 of variable rate", "ogg", "wma"]
)
async def test_usual_kinds_without_ffmpeg(without_av: Path, kind: str) -> None:
    """What most archives hold is probed with what is always installed."""
    assert await look(write(without_av, KINDS[kind], SPEECH)) == probed(SECONDS)


@pytest.mark.parametrize("kind", ["raw aac", "mp4 in fragments", "webm", "raw ac3"])
async def test_other_kinds_without_ffmpeg(without_av: Path, kind: str) -> None:
    """What cannot be read without FFmpeg is counted by size, not for next to nothing."""
    found = await look(write(without_av, KINDS[kind], SPEECH))

    assert not found.is_probed
    assert found.seconds >= SECONDS


@pytest.mark.parametrize(
    "name", sorted(JUNK.keys() - {"heading.wav"})
)  # no sound, and probed as such
async def test_junk_without_ffmpeg(without_av: Path, name: str) -> None:
    """What is no recording raises nothing here either."""
    path = without_av / name
    path.write_bytes(JUNK[name])

    assert await look(path) == by_size(os.fsencode(path), len(JUNK[name]))


# --- by the beginning alone -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_header_is_never_too_short(tmp_path: Path, kind: str) -> None:
    """What the first bytes tell is what there is, or more: in which format does not matter."""
    path = write(tmp_path, KINDS[kind], LOUD)
    told = by_header(bytes(path), path.read_bytes()[:65_536], path.stat().st_size)

    assert told.seconds > SECONDS - 0.1
    if KINDS[kind].container == "wav" and KINDS[kind].codec.startswith("pcm_"):
        assert told.is_probed
        assert told.seconds < SECONDS + 0.2


@pytest.mark.parametrize("channels", [1, 2, 6])
async def test_a_wav_tells_its_channels(channels: int) -> None:
    """Each channel is counted where channels are transcribed one by one."""
    made = BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * channels * 8000 * 5 // 2))

    assert by_header(b"a.wav", made.getvalue(), len(made.getvalue())) == Duration(
        2.5, channels, True, True
    )


@pytest.mark.parametrize("cut", [0, 3, 11, 12, 20, 30, 35, 43, 44])
async def test_half_a_header_tells_nothing(cut: int) -> None:
    """A header that is cut, of zeros or of anything else leaves it to the size."""
    head = numbered_header()[:cut]

    assert by_header(b"a.wav", head, 80_000).seconds >= 10 - 44 / 8000
    for byte in (b"\0", b"\xff"):
        assert by_header(b"a.wav", head.ljust(44, byte), 80_000).seconds > 0


def numbered_header() -> bytes:
    """Of a WAV with one channel, 8000 bytes a second."""
    made = BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(b"")
    return made.getvalue()


# --- of what is sent, not of what lies there by now -----------------------------------------------


async def test_another_file_tells_nothing(tmp_path: Path) -> None:
    """Of a file that is not the one that was opened the size of that one counts."""
    path = tmp_path / "a.wav"
    path.write_bytes(numbered_header())
    opened = identity_of(path.stat())
    path.write_bytes(write(tmp_path, WAV, LOUD).read_bytes())

    now = identity_of(path.stat())
    assert await duration_of(bytes(path), 80_000, identity=opened) == by_size(bytes(path), 80_000)
    assert (await duration_of(bytes(path), 80_000, identity=now)).is_probed


@pytest.mark.parametrize("changes", ["mode", "bytes and time put back"])
async def test_an_identity_notices_what_times_do_not_show(tmp_path: Path, changes: str) -> None:
    """Other bytes with the old time are another file's; in doubt it is another file."""
    path = tmp_path / "a.wav"
    path.write_bytes(b"one")
    before = path.stat()
    os.utime(path, ns=(0, 0))
    if changes == "mode":
        path.chmod(0o600)
    else:
        path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert identity_of(path.stat()) != identity_of(before)


# --- what is certain ------------------------------------------------------------------------------


async def certain(path: Path, near_s: float) -> float | None:
    """How long a recording certainly is, if somebody heard so much of it."""
    head = await anyio.Path(path).read_bytes()
    identity = identity_of(await anyio.Path(path).stat())
    return await certain_s(os.fsencode(path), head[:65536], len(head), near_s, identity=identity)


@pytest.mark.parametrize(
    ("seconds", "other_s", "is_alike"),
    [
        *((10, 12, True), (10, 12.1, False), (10, 8, True), (10, 7.9, False), (0, 2, True)),
        *((3600, 3672, True), (3600, 3673, False), (3600, 3528, True), (3600, 3527, False)),
    ],
)
def test_lengths_that_are_alike(seconds: float, other_s: float, is_alike: bool) -> None:
    """Two seconds or two in a hundred make no other length of a recording."""
    assert is_as_long(seconds, other_s) is is_alike


@pytest.mark.parametrize("heard_s", [SECONDS, SECONDS / 2, 0.0])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_what_is_certain_is_right(tmp_path: Path, kind: Kind, heard_s: float) -> None:
    """Whatever somebody says that was heard of it, a recording is as long as its sound."""
    path = write(tmp_path, kind, SPEECH)

    found = await certain(path, heard_s)

    assert found == pytest.approx(SECONDS, abs=0.6)


@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_what_is_certain_of_half_a_recording(tmp_path: Path, kind: str) -> None:
    """Of a recording that is cut, what is left is certain, or nothing is; never the whole of it."""
    path = halve(write(tmp_path, KINDS[kind], LOUD))
    left_s = heard(path)

    for near_s in (left_s, 0.0):
        found = await certain(path, near_s)

        assert found is None or is_as_long(found, left_s)


async def test_a_wav_that_says_less_than_it_holds(tmp_path: Path) -> None:
    """What follows the samples that are counted may be something else: it is no part of them."""
    path = tmp_path / "a.wav"
    whole = numbered_wav(1, 10.0)
    path.write_bytes(whole + bytes(len(whole)))

    assert await certain(path, 10.0) == await certain(path, 5.0) == pytest.approx(10.0)


@pytest.mark.parametrize("claimed", [0, 1 << 31, (1 << 32) - 1])
async def test_a_wav_that_was_written_to_a_pipe(tmp_path: Path, claimed: int) -> None:
    """It cannot say how many samples there are: they are as many as there are bytes for."""
    path = tmp_path / "a.wav"
    whole = bytearray(numbered_wav(1, 10.0))
    struct.pack_into("<I", whole, 40, claimed)
    path.write_bytes(whole)

    assert await certain(path, 5.0) == pytest.approx(10.0)


async def test_tracks_that_differ_are_not_certain(tmp_path: Path) -> None:
    """Nobody knows which of them is heard."""
    path = write(tmp_path, KINDS["mka"], LOUD, tone(6.0))

    assert await certain(path, 6.0) is None


async def test_gaps_are_not_certain(tmp_path: Path) -> None:
    """A recording that leaves out silence is longer than its sound: both may be heard."""
    path = tmp_path / "a.webm"
    with av.open(str(path), "w", format="webm") as file:
        stream = file.add_stream("libopus", rate=48_000, layout="mono")
        assert isinstance(stream, av.AudioStream)
        for at_s in (0, 6):
            frame = av.AudioFrame(format="s16", layout="mono", samples=48_000)
            frame.planes[0].update(bytes(2 * 48_000))
            frame.sample_rate, frame.pts = 48_000, at_s * 48_000
            resampler = av.AudioResampler(stream.format, "mono", 48_000, stream.frame_size)
            for cut in resampler.resample(frame):
                file.mux(stream.encode(cut))
        file.mux(stream.encode(None))

    assert await certain(path, 2.0) is None
    assert await certain(path, 7.0) == pytest.approx(7.0, abs=0.2)


@pytest.mark.parametrize("content", [b"", b"x" * 1000, b"RIFF", b"fLaC" + bytes(100), b"#EXTM3U"])
async def test_of_what_is_no_sound_nothing_is_certain(tmp_path: Path, content: bytes) -> None:
    """Neither a size nor the first bytes of a container are a length."""
    path = tmp_path / "a.wav"
    path.write_bytes(content)

    assert await certain(path, 1.0) is None


async def test_what_is_another_by_now_is_not_certain(tmp_path: Path) -> None:
    """What lies there with other bytes tells nothing of what did before."""
    path = write(tmp_path, FLAC, LOUD)
    head = await anyio.Path(path).read_bytes()
    identity = identity_of(await anyio.Path(path).stat())
    os.utime(path, (1, 1))

    found = await certain_s(os.fsencode(path), head, len(head), 1.0, identity=identity)

    assert found is None
