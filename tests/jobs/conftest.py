"""What tests of the command line get."""

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty working directory."""
    (tmp_path / "here").mkdir()
    return tmp_path / "here"
