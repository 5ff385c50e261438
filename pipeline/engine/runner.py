"""The queue: transcripts that were asked for, one after another, several at a time.

In: what the store has queued, oldest first. Out: transcripts that are completed or
failed, written down. The store is the queue: what a killed engine was working on is
queued again when the next one opens the folder.
"""

import json
import logging
from collections.abc import Mapping
from functools import partial
from threading import Event as Flag
from typing import Any

import anyio
from anyio import CapacityLimiter, Event, create_task_group, to_thread

from pipeline.engine import answers
from pipeline.engine.audio import Unusable
from pipeline.engine.listen import listen
from pipeline.engine.speech import Recognizer, Stopped
from pipeline.engine.store import Store, Transcript

__all__ = ["Runner", "dumped"]

_SWEEP_S = 3600.0

_log = logging.getLogger(__name__)


class Runner:
    """Works on what is queued."""

    def __init__(self, store: Store, recognizer: Recognizer, workers: int) -> None:
        """
        Args:
            workers: Transcripts worked on at a time, and threads that they share.
        """
        self._store = store
        self._recognizer = recognizer
        self._workers = workers
        self._cores = CapacityLimiter(workers)
        self._queued = Event()
        self._stopped = Flag()

    def wake(self) -> None:
        """Say that something was queued."""
        # A new event for those that will wait: the old one stays set for those that
        # looked at the queue just before.
        self._queued.set()
        self._queued = Event()

    def stop(self) -> None:
        """Let threads end at their next segment, then cancel `run`."""
        self._stopped.set()

    async def run(self) -> None:
        """Work until cancelled. What is unfinished then stays in the store."""
        async with create_task_group() as group:
            group.start_soon(self._sweep)
            for _ in range(self._workers):
                group.start_soon(self._work)

    async def _work(self) -> None:
        while not self._stopped.is_set():
            queued = self._queued
            transcript = await self._store.claim()
            if transcript is None:
                await queued.wait()
            else:
                await self._transcribe(transcript)

    async def _transcribe(self, transcript: Transcript) -> None:
        path = self._store.upload_path(transcript.audio_url)
        error: str
        try:
            if path is None:
                raise FileNotFoundError(transcript.audio_url)
            heard = await listen(
                path,
                transcript.options,
                self._recognizer,
                cores=self._cores,
                cancelled=self._stopped.is_set,
            )
        except Stopped:
            return
        except Unusable as unusable:
            error = str(unusable)
        except FileNotFoundError:
            error = (
                f"Download error, unable to download {transcript.audio_url}. "
                "Please make sure the file exists and is accessible from the internet."
            )
        # RecognitionError, a full disk, what a decoder or model raised that nobody foresaw:
        # it is this recording's trouble, and must not end the engine for all others.
        except Exception:
            _log.exception("transcript %s failed", transcript.id)
            error = "Server error, developers have been alerted."
        else:
            make = partial(answers.completed, transcript, heard, self._recognizer.name)
            document = await to_thread.run_sync(lambda: dumped(make()), limiter=self._cores)
            await self._store.finish(transcript.id, "completed", document)
            return
        document = dumped(answers.failed(transcript, error))
        await self._store.finish(transcript.id, "error", document, error)

    async def _sweep(self) -> None:
        while True:
            await self._store.sweep()
            await anyio.sleep(_SWEEP_S)


def dumped(body: Mapping[str, Any]) -> str:
    """The JSON text of an answer."""
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
