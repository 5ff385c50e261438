"""The packaged model, loaded once: it takes a second and 300 MB."""

from pathlib import Path

import pytest

from pipeline.engine.speech import Whisper
from tests.engine import sounds


@pytest.fixture(scope="session")
def whisper() -> Whisper:
    """The engine's own recogniser, two calls at a time."""
    return Whisper(workers=2)


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    """A file with two sounds in it: a second of silence, of tone, of silence, of tone."""
    pattern = [sounds.silence(1), sounds.tone(1)] * 2
    return sounds.write(tmp_path / "sound.wav", sounds.after(*pattern))
