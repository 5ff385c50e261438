"""The key: where it is read, and that nothing said about it holds it."""

import os
import re
import stat
from pathlib import Path

import pytest

from pipeline.errors import ExitCode, KeyRefused, SettingsError
from pipeline.settings import Settings, exposed, key_fingerprint, read_api_key, require_key


def test_key_is_read_from_the_file_before_the_variable(tmp_path: Path) -> None:
    """The file wins over `ASSEMBLYAI_API_KEY`, and white space around a key is none of it."""
    (tmp_path / "key").write_text("  from-file\n")
    environ = {"ASSEMBLYAI_API_KEY": " from-variable\n"}

    assert read_api_key(Settings(api_key_file=tmp_path / "key"), environ) == "from-file"
    assert read_api_key(Settings(), environ) == "from-variable"
    assert read_api_key(Settings(), {"ASSEMBLYAI_API_KEY": " "}) is None


@pytest.mark.parametrize("text", ["\ufeffmine", "\ufeff mine\r\n", "mine\r\n"], ids=ascii)
def test_a_key_that_was_written_on_windows(tmp_path: Path, text: str) -> None:
    """A byte order mark and CRLF are no part of a key, wherever it comes from."""
    (tmp_path / "key").write_bytes(text.encode())
    by_command = Settings(api_key_command=f"cat '{tmp_path / 'key'}'")

    assert read_api_key(Settings(api_key_file=tmp_path / "key"), {}) == "mine"
    assert read_api_key(by_command, os.environ) == "mine"
    assert read_api_key(Settings(), {"ASSEMBLYAI_API_KEY": text}) == "mine"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_key_file_in_utf_16_is_named(tmp_path: Path, encoding: str) -> None:
    """UTF-16 is said to be what it is, and the key is not said."""
    (tmp_path / "key").write_bytes("hunter22\r\n".encode(encoding))

    with pytest.raises(SettingsError, match="UTF-16") as raised:
        read_api_key(Settings(api_key_file=tmp_path / "key"), {})
    assert "hunter" not in str(raised.value)


def test_key_command_runs_without_a_shell_and_without_the_key(tmp_path: Path) -> None:
    """The command gets its words as they are, and not the key that it does not need."""
    script = tmp_path / "print key"
    script.write_text('#!/bin/sh\necho "$1-${ASSEMBLYAI_API_KEY:-unset}"\n')
    script.chmod(stat.S_IRWXU)
    settings = Settings(api_key_command=f"'{script}' '$HOME;key'")

    assert (
        read_api_key(settings, {**os.environ, "ASSEMBLYAI_API_KEY": "other"}) == "$HOME;key-unset"
    )


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sh -c 'echo hunter22; exit 3'", "exit code 3"),
        ("no-such-program hunter22", "cannot be run"),
        ("'hunter22", "cannot be run"),
        ("", "cannot be run"),
        ("echo hunter22 hunter33", "more than one key"),
        ("true", "no key"),
        (r"printf '\377\376hunter22'", "cannot be run"),
    ],
)
def test_key_commands_that_fail_say_why_and_no_more(command: str, words: str) -> None:
    """A command that gives no key is an error that holds neither its words nor its output."""
    with pytest.raises(SettingsError, match=words) as raised:
        read_api_key(Settings(api_key_command=command), os.environ)
    assert "hunter" not in str(raised.value)


def test_missing_key_file_is_named(tmp_path: Path) -> None:
    """A key file that is not there is named."""
    with pytest.raises(SettingsError, match="none cannot be read: No such file"):
        read_api_key(Settings(api_key_file=tmp_path / "none"), {})


def test_without_a_key_the_way_without_one_is_named() -> None:
    """No key is exit code 4, and the message names `--provider local`."""
    with pytest.raises(KeyRefused, match=r"hint: `--provider local`") as raised:
        require_key(Settings(), {})
    assert ExitCode.REFUSED is raised.value.exit_code
    assert require_key(Settings(), {"ASSEMBLYAI_API_KEY": "k"}) == "k"


def test_fingerprints_tell_keys_apart() -> None:
    """Equal keys have equal fingerprints, others do not, and none holds its key."""
    assert key_fingerprint("a-key") == key_fingerprint("a-key") != key_fingerprint("b-key")
    assert re.fullmatch("[0-9a-f]{12}", key_fingerprint("a-key"))


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_a_key_for_its_owner_alone_is_in_order(tmp_path: Path, mode: int) -> None:
    """Of a file that only its owner can read there is nothing to be said, nor of none."""
    (tmp_path / "key").touch()
    (tmp_path / "key").chmod(mode)

    assert exposed(Settings(api_key_file=tmp_path / "key")) is None
    assert exposed(Settings(api_key_file=tmp_path / "nowhere")) is None
    assert exposed(Settings()) is None


@pytest.mark.parametrize("mode", [0o640, 0o644, 0o604, 0o660, 0o601])
def test_a_key_that_others_can_reach_is_said(tmp_path: Path, mode: int) -> None:
    """A file with any right of others is named, with its mode and what helps."""
    (tmp_path / "key").touch()
    (tmp_path / "key").chmod(mode)

    said = exposed(Settings(api_key_file=tmp_path / "key"))

    assert said is not None
    assert str(tmp_path / "key") in said
    assert f"{mode:04o}" in said
    assert "chmod 600" in said
