"""`overnight nightly`: what it takes from the settings, what it says, and how it ends."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.errors import ExitCode
from tests.support.runs import Archive, opened

pytestmark = pytest.mark.anyio


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    """A source that the settings name, with one recording."""
    async with opened(tmp_path) as archive:
        archive.add("a.wav", b"SECONDS:3600\none")
        (tmp_path / "overnight.toml").write_text(
            f'output = "transcripts"\nprovider = "{archive.service.url}"\npoll_interval = "50ms"\n'
            'settle = "1s"\nmin_free = 0\n[[source]]\nfolder = "recordings"\n'
        )
        yield archive


async def test_the_settings_say_it_all(archive: Archive) -> None:
    """Without a word more the sources are transcribed, and one line is what is said."""
    ended = await archive.command("nightly")

    (run,) = (archive.state / "runs").iterdir()
    assert ended.exit_code == ExitCode.DONE
    assert ended.stdout.decode().startswith(f"{run.name}: 1 done, 0 failed")
    assert ended.stdout.count(b"\n") == 1
    assert (archive.output / "recordings/a.wav.json").exists()
    assert (run / "report.html").exists()


async def test_programs_read_events(archive: Archive) -> None:
    """With `--json` the last line is the summary, as it lies in its file."""
    ended = await archive.command("nightly", "--json")

    (run,) = (archive.state / "runs").iterdir()
    assert ended.summary == json.loads((run / "summary.json").read_bytes())
    assert ended.summary["type"] == "summary"


async def test_quiet_is_quiet(archive: Archive) -> None:
    """With `--quiet` a night that went well says nothing."""
    ended = await archive.command("nightly", "--quiet")

    assert (ended.exit_code, ended.stdout, ended.stderr) == (ExitCode.DONE, b"", "")


async def test_a_hook_is_not_given_the_key(archive: Archive) -> None:
    """What a hook inherits has no key in it, and the summary is what it reads."""
    variables, summary = archive.root / "variables", archive.root / "summary"
    command = f"sh -c 'env >{variables}; cat >{summary}'"
    archive.environ["OVERNIGHT_HOOKS__ON_SUCCESS"] = command

    ended = await archive.command("nightly")

    assert ended.exit_code == ExitCode.DONE
    assert archive.service.key not in variables.read_text()
    assert json.loads(summary.read_bytes())["written"] == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("", "`--output`"),
        ('output = "out"', "`[[source]]`"),
        ('output = "out"\n[[source]]\nfolder = "nowhere"', "no source is there"),
    ],
)
async def test_what_is_missing_is_named(archive: Archive, settings: str, said: str) -> None:
    """Without a place for results, or a source, it ends with exit code 2 and says what to add."""
    (archive.root / "overnight.toml").write_text(settings)

    ended = await archive.command("nightly")

    assert ended.exit_code == ExitCode.USAGE
    assert said in ended.stderr
