"""The packaged model hears what was said, when, and in which language."""

import subprocess
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from pipeline.engine import DEFAULT_MODEL, EngineUnavailable, serve
from pipeline.engine.audio import RATE_HZ, Recording
from pipeline.engine.speech import Stopped, Whisper
from tests.engine import sounds
from tests.engine.client import KEY, engine

HUMAN = "moonshine_voice"
"""The package of the test extra whose recordings of human speech are used."""


def recording(name: str) -> Path:
    spec = find_spec(HUMAN)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{HUMAN} is not installed")
    return Path(spec.submodule_search_locations[0]) / "assets" / name


@pytest.fixture
def cities() -> Path:
    """The first sentence of A Tale of Two Cities, 44 s, read by one voice."""
    return recording("two_cities.wav")


@pytest.fixture
def keeper() -> Path:
    """Three sentences of a lighthouse keeper, 11 s, by another voice: one of the samples."""
    return Path(str(files("jobs").joinpath("samples", "interviews", "lighthouse.mp3")))


def text(whisper: Whisper, path: Path, language: str = "en") -> str:
    return " ".join(
        word.text
        for block in Recording(path, whisper.find_speech).blocks()
        for word in whisper.transcribe(block.samples, language, lambda: False)
    )


def test_packaged_model_is_whisper_base(whisper: Whisper) -> None:
    """It names itself, and knows the languages of the service."""
    assert whisper.name == "whisper-base"
    assert {"en", "de", "es", "fr", "it", "ja", "zh", "hi", "no", "jw"} <= set(whisper.languages)


def test_words_have_times_and_confidences(whisper: Whisper, keeper: Path) -> None:
    """Every word lies where it is spoken, to half a second, and the model is sure of most."""
    [block] = Recording(keeper, whisper.find_speech).blocks()
    words = whisper.transcribe(block.samples, "en", lambda: False)
    said = " ".join(word.text.strip(".,").lower() for word in words)
    spans = [(first * 1000 // RATE_HZ, last * 1000 // RATE_HZ) for first, last in block.spans]

    assert "my name is margaret hill i kept the lighthouse for" in said
    assert "every ship that passed" in said
    assert [word.start for word in words] == sorted(word.start for word in words)
    assert all(word.start < word.end for word in words)
    assert all(0 < word.confidence <= 1 for word in words)
    assert sum(word.confidence for word in words) / len(words) > 0.7
    assert all(
        any(first - 500 <= word.start and word.end <= last + 500 for first, last in spans)
        for word in words
    )


def test_language_is_told(whisper: Whisper, keeper: Path) -> None:
    """English is heard as English, with probabilities that make one."""
    [block] = Recording(keeper, whisper.find_speech).blocks()
    probabilities = whisper.detect_language(block.samples)

    assert max(probabilities, key=lambda code: probabilities[code]) == "en"
    assert probabilities["en"] > 0.8
    assert sum(probabilities.values()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("sound", ["silence", "tone", "noise"])
def test_no_speech_is_found_where_nobody_speaks(
    whisper: Whisper, tmp_path: Path, sound: str
) -> None:
    """Silence, tones and noise are no speech, so no words are invented for them."""
    noise = np.random.default_rng(3).normal(0, 3000, (1, 10 * RATE_HZ)).astype(np.int16)
    planes = {"silence": sounds.silence(10), "tone": sounds.tone(10), "noise": noise}[sound]
    path = sounds.write(tmp_path / "upload", planes)

    assert list(Recording(path, whisper.find_speech).blocks()) == []


def test_damaged_mp3_keeps_its_text(whisper: Whisper, cities: Path, tmp_path: Path) -> None:
    """Flipped bytes cost a word or two where they are, and nothing after them."""
    path = sounds.write(tmp_path / "upload", sounds.read(cities)[:, : 20 * RATE_HZ], "mp3")
    sounds.damage(path, [0.02, 0.5])
    found = text(whisper, path).lower()

    for phrase in ("age of wisdom", "age of foolishness", "season of light", "of darkness"):
        assert phrase in found


def test_stopping_ends_a_block(whisper: Whisper, cities: Path) -> None:
    """A block is given up at its next window once the engine stops."""
    [block] = Recording(cities, whisper.find_speech).blocks()
    with pytest.raises(Stopped):
        whisper.transcribe(block.samples, "en", lambda: True)


@pytest.mark.anyio
async def test_two_voices_on_two_channels(
    whisper: Whisper, cities: Path, keeper: Path, tmp_path: Path
) -> None:
    """People who speak at once on channels of their own are both understood."""
    both = sounds.beside(sounds.read(keeper), sounds.read(cities)[:, : 11 * RATE_HZ])
    path = sounds.write(tmp_path / "call.m4a", both, "m4a")
    async with engine(tmp_path / "state", whisper) as client:
        transcript = await client.transcribed(path, multichannel=True)
    said = {"1": "", "2": ""}
    for turn in transcript["utterances"]:
        said[turn["speaker"]] += turn["text"].lower() + " "

    for phrase in ("margaret hill", "kept the lighthouse", "every ship"):
        assert phrase in said["1"]
    for phrase in ("best of times", "worst of times", "age of wisdom"):
        assert phrase in said["2"]
    assert transcript["language_code"] == "en"


@pytest.mark.anyio
@pytest.mark.parametrize("model", ["no-such-model", "EMPTY"])
async def test_model_that_is_none_is_told(tmp_path: Path, model: str) -> None:
    """A name that is no model, or a folder without one, stops the start and says what to do."""
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(EngineUnavailable, match="cannot be loaded"):
        async with serve(tmp_path / "state", keys=[KEY], model=model.replace("EMPTY", str(folder))):
            pass


def test_import_is_light() -> None:
    """Importing the engine's package loads neither model, nor decoder, nor server."""
    code = (
        "import sys, pipeline.engine;"
        "print({'faster_whisper', 'av', 'numpy', 'aiohttp', 'ctranslate2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert (done.stdout.strip(), DEFAULT_MODEL) == ("set()", "base")


MISSING = """
import sys
from pathlib import Path
import anyio
sys.modules["av"] = None
from pipeline.engine import EngineUnavailable, serve

async def main():
    try:
        async with serve(Path(sys.argv[1]), keys=["k"]):
            pass
    except EngineUnavailable as error:
        print(error)

anyio.run(main)
"""


def test_missing_extra_is_told(tmp_path: Path) -> None:
    """Without its packages the engine says how to install them."""
    done = subprocess.run(
        [sys.executable, "-c", MISSING, str(tmp_path)], capture_output=True, text=True, check=True
    )

    assert "`pip install '.[engine]'` in a checkout of overnight" in done.stdout
