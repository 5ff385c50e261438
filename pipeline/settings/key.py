"""
The API key: read where the settings say, shown nowhere.

In go `Settings` and the variables; out comes the key, or an error that never holds it. It is no
setting itself, so that neither a file of settings nor a list of them can give it away.
"""

import shlex
import stat
import subprocess
from collections.abc import Mapping
from hashlib import sha256

from pipeline.errors import KeyRefused, SettingsError
from pipeline.settings.grammar import plain_text
from pipeline.settings.model import Settings

__all__ = [
    "API_KEY_COMMAND_TIMEOUT_S",
    "exposed",
    "key_fingerprint",
    "read_api_key",
    "require_key",
]

API_KEY_COMMAND_TIMEOUT_S = 60.0
"""A password manager may ask its user first."""


def read_api_key(settings: Settings, environ: Mapping[str, str]) -> str | None:
    """
    The API key: from `api_key_file` or `api_key_command`, else `ASSEMBLYAI_API_KEY`, else None.

    Blocks for as long as the command asks its user, a minute at most: call it in a thread.

    Raises:
        SettingsError: the file or command gives none, or what was given cannot be a key. The
            message never holds what was given.
    """
    if settings.api_key_file is not None:
        source = f"`api_key_file` {settings.api_key_file}"
        try:
            text = plain_text(settings.api_key_file.read_bytes()).decode()
        except OSError as error:
            raise SettingsError(f"{source} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError:
            raise SettingsError(f"{source} is not text") from None
        except ValueError as error:
            raise SettingsError(f"{source} cannot be read: {error}") from None
    elif settings.api_key_command is not None:
        source = "`api_key_command`"
        text = _output_of(settings.api_key_command, environ)
    else:
        source = "`ASSEMBLYAI_API_KEY`"
        text = environ.get("ASSEMBLYAI_API_KEY", "")
        if not text.strip():
            return None
    key = text.strip().removeprefix("\ufeff").strip()
    # What a header cannot carry would fail much later, with the key in the message.
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(f"{source} gives {'no key' if not key else 'more than one key'}")
    return key


def _output_of(command: str, environ: Mapping[str, str]) -> str:
    # Not shown in any message: a command line can hold a secret of its own.
    try:
        argv = shlex.split(command)
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={name: text for name, text in environ.items() if name != "ASSEMBLYAI_API_KEY"},
            timeout=API_KEY_COMMAND_TIMEOUT_S,
            check=False,
        )
        text = done.stdout.decode()
    except subprocess.TimeoutExpired:
        raise SettingsError(
            f"`api_key_command` said nothing for {API_KEY_COMMAND_TIMEOUT_S:g} s"
        ) from None
    except (OSError, IndexError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no command, or not text"
        raise SettingsError(f"`api_key_command` cannot be run: {reason}") from None
    if done.returncode:
        raise SettingsError(f"`api_key_command` ended with exit code {done.returncode}")
    return text


def require_key(settings: Settings, environ: Mapping[str, str]) -> str:
    """
    The API key, without which a service cannot be asked. Blocks as `read_api_key` does.

    Raises:
        KeyRefused: there is none; the message says how to give one, or do without.
        SettingsError: as `read_api_key`.
    """
    key = read_api_key(settings, environ)
    if key is None:
        raise KeyRefused(
            "no API key: set `ASSEMBLYAI_API_KEY`, or name a file with `--api-key-file`",
            "hint: `--provider local` needs none and transcribes on this machine",
            cause="no key",
        )
    return key


def exposed(settings: Settings) -> str | None:
    """
    What is to be said of a key file that others than its owner can read; None where there is none.

    Blocks: call it in a thread.
    """
    place = settings.api_key_file
    try:
        if place is None or not (mode := stat.S_IMODE(place.stat().st_mode)) & 0o077:
            return None
    except OSError:
        return None  # which is told when it is read
    return f"`api_key_file` {place} has the mode {mode:04o}: others can read it; `chmod 600` helps"


def key_fingerprint(key: str) -> str:
    """What tells keys apart in ledger and reports and leads back to none: 12 hex digits."""
    return sha256(key.encode()).hexdigest()[:12]
