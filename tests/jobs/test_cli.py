"""The command line, as a user runs it: a process, its two outputs and its exit code."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.typed import environment, overnight

COMMANDS = ("run", "status", "list", "engine", "doctor", "init")


def test_help_names_every_command(folder: Path) -> None:
    """`--help` goes to stdout, exits 0 and names all commands; no argument at all does the same."""
    for arguments in ([], ["--help"]):
        done = overnight(folder, *arguments)

        assert (done.returncode, done.stderr) == (0, "")
        for command in COMMANDS:
            assert re.search(rf"^│ {command} ", done.stdout, re.MULTILINE), command


def test_version_is_one_line(folder: Path) -> None:
    """`--version` prints the version, and nothing else."""
    done = overnight(folder, "--version")

    assert (done.returncode, done.stderr, len(done.stdout.split())) == (0, "", 1)


def test_help_imports_nothing_heavy(folder: Path) -> None:
    """`--help` is there at once, since it imports no HTTP, no settings and no log library."""
    code = (
        "import sys; from jobs.cli import main; main(['run', '--help']); "
        "print(*sorted({'aiohttp', 'pydantic', 'structlog', 'msgspec', 'numpy'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rum"], 'Did you mean "run"?'),
        (["run", "a", "--dry-runn"], "Did you mean --dry-run?"),
        (["run", "a", "--limit", "x"], "--limit"),
        (["run", "a", "--output"], "requires an argument"),
        (["run"], "hint: `overnight run FOLDER -o OUTPUT`"),
        (["run", "a"], "`--output`"),
        (["run", "--sample", "a"], "takes no folder"),
        (["run", "a", "-o", "o", "--provider", "asemblyai"], "did you mean `assemblyai`?"),
        (["run", "a", "-o", "o", "-f", "srt,vt"], "did you mean `vtt`?"),
        (["run", "a", "-o", "o", "--set", "speaker_label=true"], "did you mean `speaker_labels`?"),
        (["run", "a", "-o", "o", "--config", "none.toml"], "none.toml cannot be read"),
        (["run", "a", "-o", "o", "--requests", "5"], "requests/duration"),
        (["run", "a", "-o", "o", "--log-file", "."], "`log_file` cannot be written"),
        (["engine", "--port", "80808"], "--port"),
        (["engine", "--state", "/dev/null/x"], "cannot hold the key"),
        (["engine", "--port", "0", "--state", "e", "--engine-model", "./none"], "./none"),
        (["status"], "`--output`"),
        (["status", "-o", "nothing"], "no ledger"),
        (["list", "-o", "nothing"], "no ledger"),
        (["list", "-o", "nothing", "--only", "lost"], "written, kept, failed, skipped, parked"),
        (["run", "a", "-o", ""], "one of the arguments is empty"),
        (["run", "a", "-o", "o", "--state="], "one of the arguments is empty"),
    ],
)
def test_usage_errors_exit_2_and_say_what_to_do(
    folder: Path, arguments: list[str], words: str
) -> None:
    """What cannot be meant is one error on stderr, nothing on stdout, and exit code 2."""
    (folder / "a").mkdir()
    done = overnight(folder, *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_config_typo_names_the_nearest_key(folder: Path) -> None:
    """A typo in the settings file or a variable is an error that names what was meant."""
    (folder / "overnight.toml").write_text("concurency = 3\n")
    done = overnight(folder, "run", "a", "-o", "o", OVERNIGHT_POLL_INTERVAL_="3")

    assert done.returncode == 2
    assert (
        "`concurency` from overnight.toml is not a setting; did you mean `concurrency`?"
        in done.stderr
    )
    assert "did you mean `poll_interval`?" in done.stderr


def test_without_a_key_the_way_without_one_is_named(folder: Path) -> None:
    """No key is exit code 4, nothing is made, and the message names `--provider local`."""
    (folder / "recordings").mkdir()
    done = overnight(folder, "run", "recordings", "-o", "transcripts")

    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("error: no API key")
    assert "hint: `--provider local`" in done.stderr
    assert not (folder / "transcripts").exists()


def test_a_reader_that_has_enough_is_no_error(folder: Path) -> None:
    """Output into a pipe that is closed ends without a word, and with the command's exit code."""
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "doctor", "--provider", "local", "-o", "out"],
        cwd=folder,
        env=environment(folder),
        stdout=theirs,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(theirs)

    assert (done.returncode, done.stderr) == (0, b"")


def test_run_in_an_empty_folder_is_done(folder: Path) -> None:
    """Nothing to do is exit code 0, a warning on stderr, and a summary that says so."""
    (folder / "recordings").mkdir()
    done = overnight(
        folder,
        *("run", "recordings", "-o", "transcripts", "--provider", "http://127.0.0.1:9"),
        ASSEMBLYAI_API_KEY="a-key-of-this-test",
    )

    assert done.returncode == 0
    assert done.stdout.startswith("0 recordings: 0 written\n")
    assert "warning: " in done.stderr


def test_json_is_all_that_is_on_stdout(folder: Path) -> None:
    """With `--json` every line is an object with a type, and the last is the summary."""
    (folder / "recordings").mkdir()
    done = overnight(
        folder,
        *("run", "recordings", "-o", "transcripts", "--json", "--quiet"),
        *("--provider", "http://127.0.0.1:9"),
        ASSEMBLYAI_API_KEY="a-key-of-this-test",
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]

    assert done.returncode == 0
    assert lines[0]["type"] == "run_started"
    assert lines[-1]["type"] == "summary"
    assert [line["type"] for line in lines].count("summary") == 1


def test_quiet_says_nothing_when_nothing_is_wrong(folder: Path) -> None:
    """`-q` leaves both outputs empty."""
    (folder / "recordings").mkdir()
    done = overnight(
        folder,
        *("run", "recordings", "-o", "transcripts", "-q", "--provider", "http://127.0.0.1:9"),
        ASSEMBLYAI_API_KEY="a-key-of-this-test",
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
