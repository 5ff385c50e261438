"""Runs of the program on the engine: its uploads go when they may, and what needs one gets it."""

from pathlib import Path

import anyio
import pytest
from anyio import create_task_group

from tests.engine import sounds
from tests.engine.client import KEY, engine
from tests.engine.scripted import ScriptedRecognizer
from tests.support.runs import Archive, Outcome, opened

pytestmark = pytest.mark.anyio


def recordings(archive: Archive, count: int) -> None:
    """So many that differ."""
    archive.recordings.mkdir()
    for number in range(1, count + 1):
        sounds.write(archive.recordings / f"{number}.wav", sounds.tone(number))


async def test_a_run_leaves_no_uploads(tmp_path: Path) -> None:
    """Once all is saved, the engine holds no recording for a second time."""
    async with (
        opened(tmp_path) as archive,
        engine(tmp_path / "state", ScriptedRecognizer(), keys=[archive.service.key]) as client,
    ):
        recordings(archive, 3)
        outcome = await archive.run(provider=client.url)
    left = list((tmp_path / "state/uploads").iterdir())

    assert (outcome.summary.written, left) == (3, [])


async def test_an_upload_that_is_gone_is_made_again(tmp_path: Path) -> None:
    """
    An accepted transcript whose upload is gone before its turn ends in an error that the run takes
    for what it is: it uploads again, and saves the result.
    """
    recognizer = ScriptedRecognizer()
    recognizer.gate.clear()
    outcomes: list[Outcome] = []
    async with (
        opened(tmp_path) as archive,
        engine(
            tmp_path / "state", recognizer, workers=1, keys=[KEY, archive.service.key]
        ) as client,
    ):
        recordings(archive, 1)
        sounds.write(tmp_path / "before.wav", sounds.tone(1))
        await client.submit(await client.upload(tmp_path / "before.wav"))
        await anyio.to_thread.run_sync(recognizer.started.wait)
        async with create_task_group() as group:

            async def work() -> None:
                outcomes.append(await archive.run(provider=client.url))

            group.start_soon(work)
            with anyio.fail_after(30):
                while len((await client.list())["transcripts"]) < 2:
                    pass
            for path in (tmp_path / "state/uploads").iterdir():
                path.unlink()
            recognizer.gate.set()
        attempts = await archive.rows("SELECT outcome FROM attempts ORDER BY attempt_id")

    assert outcomes[0].summary.written == 1
    assert attempts == [("error",), ("completed",)]
