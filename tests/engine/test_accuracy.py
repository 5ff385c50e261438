"""What the engine writes is what was said: word error rates of real speech, over HTTP.

The bounds leave room for what differs between processors: the same model rounds in another
way on each, and a word or two comes out differently. A decoder, a resampler, a cutter or a
language that is wrong costs far more than that.
"""

from collections.abc import AsyncIterator
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.speech import Whisper
from tests.engine import sounds
from tests.engine.client import Client, engine
from tests.support.wer import Heard, word_error_rate

# On a machine with other work the model takes several times its usual 20 s.
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

SAMPLES = Path(__file__).parents[2] / "jobs" / "samples"

DIALOGUE = SAMPLES / "calls" / "night-desk.m4a"
"""Two voices, a channel each, taking turns: the first, the second, the first, the second."""

FOREIGN = {"fisherman.ogg": "de", "island.webm": "es"}
"""The samples that are not in English, and their languages."""

TWO_CITIES = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age"
    " of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the"
    " season of Light, it was the season of Darkness, it was the spring of hope, it was the winter"
    " of despair, we had everything before us, we had nothing before us, we were all going direct"
    " to Heaven, we were all going direct the other way -- in short, the period was so far like"
    " the present period, that some of its noisiest authorities insisted on its being received,"
    " for good or for evil, in the superlative degree of comparison only."
)
"""Source: Charles Dickens, A Tale of Two Cities (1859), its first sentence."""


@pytest.fixture
async def client(whisper: Whisper, tmp_path: Path) -> AsyncIterator[Client]:
    """A client of an engine with the packaged model."""
    async with engine(tmp_path / "state", whisper) as client:
        yield client


@pytest.fixture
def human() -> Path:
    """A sentence of 119 words, read by a person in 44 s."""
    spec = find_spec("moonshine_voice")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("moonshine_voice, whose recording this is, is not installed")
    return Path(spec.submodule_search_locations[0]) / "assets" / "two_cities.wav"


def recordings() -> list[Path]:
    """The samples, without what is said in them."""
    return sorted(path for path in SAMPLES.glob("[!._]*/*") if path.suffix != ".txt")


def said(recording: Path) -> list[str]:
    """What is said in a sample, a text a channel."""
    return recording.with_suffix(".txt").read_text(encoding="utf-8").splitlines()


async def transcribed(client: Client, *paths: Path, **options: Any) -> list[dict[str, Any]]:
    """The completed transcripts of recordings, worked on side by side."""
    submitted = [await client.submit(await client.upload(path), **options) for path in paths]
    transcripts = [await client.finished(transcript_id) for transcript_id in submitted]
    assert [one["error"] for one in transcripts if one["status"] != "completed"] == []
    return transcripts


def by_speaker(transcript: dict[str, Any]) -> list[str]:
    """All words of each speaker, in the order of the transcript."""
    words = sorted(transcript["words"], key=lambda word: word["speaker"])
    return [
        " ".join(word["text"] for word in group)
        for _, group in groupby(words, key=lambda word: word["speaker"])
    ]


async def test_samples_are_heard_as_they_were_said(client: Client) -> None:
    """The program's own recordings, whatever container and language: one word in 20 is wrong."""
    paths = [path for path in recordings() if path != DIALOGUE]
    transcripts = await transcribed(client, *paths, language_detection=True)
    [dialogue] = await transcribed(client, DIALOGUE, multichannel=True)
    heard = [
        Heard(said(path)[0], transcript["text"], FOREIGN.get(path.name, "en"))
        for path, transcript in zip(paths, transcripts, strict=True)
    ]
    channels = [Heard(*pair) for pair in zip(said(DIALOGUE), by_speaker(dialogue), strict=True)]
    turns = [speaker for speaker, _ in groupby(one["speaker"] for one in dialogue["utterances"])]

    assert len(recordings()) == 7
    assert word_error_rate(*heard, *channels) <= 0.05, (heard, channels)
    for path, transcript, one in zip(paths, transcripts, heard, strict=True):
        assert transcript["language_code"] == FOREIGN.get(path.name, "en")
        assert transcript["language_confidence"] > 0.5
        assert word_error_rate(one) <= 0.20, one
    assert dialogue["audio_channels"] == 2
    assert {word["speaker"] for word in dialogue["words"]} == {"1", "2"}
    assert all(word["channel"] == word["speaker"] for word in dialogue["words"])
    assert turns == ["1", "2", "1", "2"]
    for one in channels:
        assert word_error_rate(one) <= 0.10, one


async def test_human_speech_is_heard(client: Client, human: Path, tmp_path: Path) -> None:
    """A long sentence read by a person, over the telephone: at most one word in 10 is wrong."""
    path = sounds.write(tmp_path / "recording", sounds.read(human), "wav-telephone")
    [transcript] = await transcribed(client, path)

    assert transcript["audio_duration"] == 45
    assert word_error_rate(Heard(TWO_CITIES, transcript["text"])) <= 0.10, transcript["text"]


async def test_louder_voice_is_heard_over_another(client: Client, tmp_path: Path) -> None:
    """Two voices at once, one 10 dB softer: at most one word in four of the louder is wrong."""
    front = SAMPLES / "interviews" / "lighthouse.mp3"
    louder = sounds.read(front)
    softer = sounds.read(SAMPLES / "interviews" / "night-shift.flac")
    together = louder + softer[:, : louder.shape[1]] // 2
    path = sounds.write(tmp_path / "together.wav", together)
    [transcript] = await transcribed(client, path)
    heard = Heard(said(front)[0], transcript["text"])

    assert word_error_rate(heard) <= 0.25, heard
