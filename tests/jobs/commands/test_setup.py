"""A file of settings, written where somebody starts; `tests/jobs/test_doctor.py` has the doctor."""

import tomllib
from pathlib import Path

from tests.support.typed import overnight


def test_init_writes_settings_that_change_nothing(folder: Path) -> None:
    """`init` writes a file of comments, with no table open, and a second one leaves it as it is."""
    assert overnight(folder, "init").returncode == 0
    written = (folder / "overnight.toml").read_text()
    assert tomllib.loads(written) == {}

    (folder / "overnight.toml").write_text("limit = 1\n")
    done = overnight(folder, "init")

    assert done.returncode == 2
    assert "is there already" in done.stderr
    assert (folder / "overnight.toml").read_text() == "limit = 1\n"
