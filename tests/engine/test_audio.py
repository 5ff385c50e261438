"""Any media file becomes blocks of speech; what is no recording is refused as the service does."""

import shutil
import wave
from pathlib import Path

import numpy as np
import pytest

from pipeline.engine.audio import BLOCK_S, RATE_HZ, Block, Recording, Samples, Span, Unusable
from tests.engine import sounds
from tests.engine.scripted import loud

SOUND = sounds.after(sounds.silence(1), sounds.tone(2), sounds.silence(1.5), sounds.tone(1))


def edges_s(blocks: list[Block]) -> list[float]:
    """Start and end of each sound, one after another."""
    return [
        (block.offset + edge) / RATE_HZ for block in blocks for span in block.spans for edge in span
    ]


def write_wave(path: Path, planes: sounds.Planes, rate_hz: int = RATE_HZ) -> Path:
    """A plain wave file, with as many channels and samples as there are, also none."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(planes.shape[0])
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(planes.T.tobytes())
    return path


@pytest.mark.parametrize("format_", sounds.FORMATS)
def test_every_container_gives_the_same_sounds(tmp_path: Path, format_: str) -> None:
    """Whatever a recording is stored in, its sounds are found where they are, within 0.1 s."""
    recording = Recording(sounds.write(tmp_path / "upload", SOUND, format_), loud)
    found = edges_s(list(recording.blocks()))

    assert found == pytest.approx([1.0, 3.0, 4.5, 5.5], abs=0.1)
    assert pytest.approx(recording.samples / RATE_HZ, abs=0.05) == 5.5


@pytest.mark.parametrize("format_", ["wav", "mp3", "m4a", "opus"])
def test_channels_are_kept_apart_on_request(tmp_path: Path, format_: str) -> None:
    """Split, each channel holds its own sounds only; mixed, one holds the sounds of both."""
    both = sounds.beside(
        sounds.after(sounds.tone(1), sounds.silence(1)),
        sounds.after(sounds.silence(1.5), sounds.tone(1, hz=600)),
    )
    path = sounds.write(tmp_path / "upload", both, format_)
    split = list(Recording(path, loud, split_channels=True).blocks())
    mixed = list(Recording(path, loud).blocks())

    assert [block.channel for block in split] == [0, 1]
    assert edges_s(split) == pytest.approx([0.0, 1.0, 1.5, 2.5], abs=0.05)
    assert [block.channel for block in mixed] == [0]
    assert edges_s(mixed) == pytest.approx([0.0, 1.0, 1.5, 2.5], abs=0.05)


@pytest.mark.parametrize("channels", [1, 3, 6, 8, 9, 16])
@pytest.mark.parametrize("split", [False, True])
def test_any_number_of_channels_is_read(tmp_path: Path, channels: int, split: bool) -> None:
    """A file with many channels is mixed or split, also where its layout has no name."""
    path = write_wave(tmp_path / "upload", np.repeat(sounds.tone(1), channels, axis=0))
    blocks = list(Recording(path, loud, split_channels=split).blocks())

    assert len(blocks) == (channels if split else 1)
    assert {RATE_HZ} == {block.samples.size for block in blocks}
    assert all(np.abs(block.samples).max() > 15_000 for block in blocks)


def test_mp3_with_flipped_bytes_keeps_what_is_whole(tmp_path: Path) -> None:
    """Damage in the middle costs only itself: what follows is there, and at its time."""
    whole = sounds.after(
        *[part for _ in range(10) for part in (sounds.tone(0.5), sounds.silence(0.5))]
    )
    path = sounds.write(tmp_path / "upload", whole, "mp3")
    sounds.damage(path, [0.31, 0.33, 0.52])
    recording = Recording(path, loud)
    found = edges_s(list(recording.blocks()))
    starts, ends = found[::2], found[1::2]

    assert recording.samples / RATE_HZ == pytest.approx(10, abs=0.3)
    assert found[-2:] == pytest.approx([9.0, 9.5], abs=0.3)
    assert sum(ends) - sum(starts) == pytest.approx(10 * 0.5, abs=0.7)


@pytest.mark.parametrize("format_", ["wav", "mp3", "opus", "flac"])
def test_half_a_file_gives_its_half(tmp_path: Path, format_: str) -> None:
    """A recording that was cut off is read as far as it goes."""
    whole = sounds.write(tmp_path / "whole", sounds.tone(8), format_).read_bytes()
    (tmp_path / "upload").write_bytes(whole[: len(whole) // 2])
    recording = Recording(tmp_path / "upload", loud)
    blocks = list(recording.blocks())

    assert len(blocks) == 1
    assert pytest.approx(recording.samples / RATE_HZ, abs=0.5) == 4


NOT_AUDIO = {
    "text": (b"this is a letter, not a recording\n" * 40, "text/plain (text)"),
    "page": (b"<!DOCTYPE html><html><body>404</body></html>", "text/html (HTML document)"),
    "noise": (bytes(np.random.default_rng(1).integers(0, 256, 30_000, np.uint8)), "octet-stream"),
    "nothing": (b"", "empty"),
    # Players would follow these; the last one made FFmpeg listen on a port of this machine.
    "playlist": (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/hostname\n", "text"),
    "list": (b"ffconcat version 1.0\nfile '/etc/hostname'\n", "text"),
    "session": (b"v=0\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n", "text"),
}


@pytest.mark.parametrize("name", NOT_AUDIO)
def test_what_is_not_audio_is_refused_in_the_services_words(tmp_path: Path, name: str) -> None:
    """Text, web pages, noise and playlists are no recordings, and nothing they name is opened."""
    content, kind = NOT_AUDIO[name]
    (tmp_path / "upload").write_bytes(content)
    with pytest.raises(Unusable) as refusal:
        list(Recording(tmp_path / "upload", loud).blocks())

    assert str(refusal.value).startswith("File does not appear to contain audio. File type is ")
    assert kind in str(refusal.value)


def test_playlist_beside_its_recording_is_refused(tmp_path: Path) -> None:
    """An uploaded list cannot make the engine read another file, though it is a good one."""
    sounds.write(tmp_path / "other.wav", sounds.tone(1))
    (tmp_path / "upload").write_text("ffconcat version 1.0\nfile 'other.wav'\n")

    with pytest.raises(Unusable, match="does not appear to contain audio"):
        list(Recording(tmp_path / "upload", loud).blocks())


def test_video_without_sound_is_refused(tmp_path: Path) -> None:
    """Pictures alone are no recording, and the sentence says what is missing."""
    path = sounds.write_video_only(tmp_path / "upload")

    with pytest.raises(Unusable, match=r"mp4.*without an audio track"):
        list(Recording(path, loud).blocks())


def test_m4a_without_its_index_is_refused(tmp_path: Path) -> None:
    """An m4a that was cut off holds no index, and cannot be read at all."""
    whole = sounds.write(tmp_path / "whole", sounds.tone(4), "m4a").read_bytes()
    (tmp_path / "upload").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(Unusable, match="does not appear to contain audio"):
        list(Recording(tmp_path / "upload", loud).blocks())


@pytest.mark.parametrize(("seconds", "is_enough"), [(0, False), (0.15, False), (0.17, True)])
def test_under_160_ms_is_too_short(tmp_path: Path, seconds: float, is_enough: bool) -> None:
    """The service's least duration is ours; a header without samples is below it."""
    path = write_wave(tmp_path / "upload", sounds.tone(seconds))
    if is_enough:
        assert len(list(Recording(path, loud).blocks())) == 1
    else:
        with pytest.raises(Unusable, match=r"^Audio duration is too short\.$"):
            list(Recording(path, loud).blocks())


def test_over_ten_hours_is_refused_before_work_begins(tmp_path: Path) -> None:
    """A recording of more than ten hours fails at once, not after ten hours of work."""
    path = tmp_path / "upload"
    write_wave(path, np.zeros((1, 1000 * 3600 * 10 + 2000), np.int16), rate_hz=1000)
    searched = []

    def find_speech(samples: Samples) -> list[Span]:
        searched.append(samples.size)
        return []

    with pytest.raises(Unusable, match=r"^Audio duration is too long$"):
        list(Recording(path, find_speech).blocks())
    assert searched == []


def test_header_that_claims_too_much_is_not_believed(tmp_path: Path) -> None:
    """A recording written to a pipe claims the longest length there is, and is read anyway."""
    path = sounds.write(tmp_path / "upload", sounds.tone(2))
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = b"\xff\xff\xff\xff"
    content[4:8] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    recording = Recording(path, loud)

    assert len(list(recording.blocks())) == 1
    assert recording.samples == 2 * RATE_HZ


def test_long_recordings_are_cut_in_their_pauses(tmp_path: Path) -> None:
    """No block is longer than two minutes, and none ends within a sound if there are pauses."""
    sound = sounds.after(*[part for _ in range(9) for part in (sounds.tone(30), sounds.silence(1))])
    blocks = list(Recording(sounds.write(tmp_path / "upload", sound), loud).blocks())

    assert len(blocks) >= 3
    assert all(block.samples.size <= BLOCK_S * RATE_HZ for block in blocks)
    assert edges_s(blocks) == pytest.approx([31.0 * n + edge for n in range(9) for edge in (0, 30)])


def test_sound_without_a_pause_is_cut_all_the_same(tmp_path: Path) -> None:
    """Where nobody ever pauses blocks still end, and not a sample between them is lost."""
    sound = sounds.tone(250)
    blocks = list(Recording(sounds.write(tmp_path / "upload", sound), loud).blocks())

    assert len(blocks) == 3
    assert all(block.samples.size <= BLOCK_S * RATE_HZ for block in blocks)
    assert np.array_equal(sound[0], np.concatenate([block.samples for block in blocks]))


def test_speech_after_a_long_silence_is_not_torn(tmp_path: Path) -> None:
    """A block ends in the silence before a sound that its window would cut."""
    sound = sounds.after(sounds.silence(110), sounds.tone(20))
    blocks = list(Recording(sounds.write(tmp_path / "upload", sound), loud).blocks())

    assert edges_s(blocks) == pytest.approx([110, 130])


def test_silence_gives_no_block(tmp_path: Path) -> None:
    """Minutes of silence are passed over; sound after them is found where it is."""
    sound = sounds.after(sounds.silence(300), sounds.tone(1), sounds.silence(200))
    recording = Recording(sounds.write(tmp_path / "upload", sound), loud)
    blocks = list(recording.blocks())

    assert edges_s(blocks) == pytest.approx([300, 301])
    assert (recording.samples, recording.speech) == (501 * RATE_HZ, RATE_HZ)


@pytest.mark.parametrize(
    ("start_ms", "end_ms", "expected"),
    [
        (0, 3500, [1, 3]),
        (2000, None, [2, 3, 4.5, 5.5]),
        (2000, 5000, [2, 3, 4.5, 5]),
        (0, 99_000, [1, 3, 4.5, 5.5]),
    ],
)
def test_only_what_was_asked_for_is_searched(
    tmp_path: Path, start_ms: int, end_ms: int | None, expected: list[float]
) -> None:
    """Between start and end only, with times of the file; its length is that of all of it."""
    path = sounds.write(tmp_path / "upload", SOUND)
    recording = Recording(path, loud, start_ms=start_ms, end_ms=end_ms)

    assert edges_s(list(recording.blocks())) == pytest.approx(expected)
    assert int(5.5 * RATE_HZ) == recording.samples


def test_start_after_the_end_is_too_short(tmp_path: Path) -> None:
    """What begins when the recording is over holds nothing to transcribe."""
    path = sounds.write(tmp_path / "upload", SOUND)

    with pytest.raises(Unusable, match="too short"):
        list(Recording(path, loud, start_ms=60_000).blocks())


def test_missing_file_is_told_from_a_bad_one(tmp_path: Path) -> None:
    """An upload that is gone is not called a bad recording."""
    with pytest.raises(FileNotFoundError):
        list(Recording(tmp_path / "gone", loud).blocks())


def test_damage_anywhere_never_gets_out_as_another_error(tmp_path: Path) -> None:
    """Whatever bytes are changed in a file, it is read or refused: no other error, no crash."""
    random = np.random.default_rng(20_261_122)
    whole = {name: sounds.write(tmp_path / name, SOUND, name) for name in sounds.FORMATS}
    outcomes = set()
    for round_ in range(150):
        name = list(whole)[round_ % len(whole)]
        path = Path(shutil.copy(whole[name], tmp_path / "upload"))
        content = bytearray(path.read_bytes())
        reach = min(len(content), int(random.choice([64, 512, len(content)])))
        for at in random.integers(0, reach, int(random.choice([1, 5, 50]))):
            content[at] = random.integers(0, 256)
        path.write_bytes(content)
        recording = Recording(path, loud, end_ms=60_000)
        try:
            list(recording.blocks())
            outcomes.add("read")
        except Unusable:
            outcomes.add("refused")

    assert {"read", "refused"} == outcomes
