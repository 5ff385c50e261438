"""The queue: oldest first, several at a time, one failure alone, nothing lost by any stop."""

import subprocess
import sys
from pathlib import Path

import aiohttp
import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from pipeline.engine.audio import BLOCK_S, RATE_HZ
from tests.engine import sounds
from tests.engine.client import KEY, Client, engine
from tests.engine.scripted import ScriptedRecognizer

pytestmark = pytest.mark.anyio

BLOCK = sounds.after(sounds.tone(60), sounds.silence(1))
"""Two of them are more than a block may hold."""


async def test_work_is_done_in_the_order_of_submission(tmp_path: Path, upload: Path) -> None:
    """With one worker, transcripts are finished first come, first served."""
    recognizer = ScriptedRecognizer()
    recognizer.gate.clear()
    async with engine(tmp_path / "state", recognizer, workers=1) as client:
        upload_url = await client.upload(upload)
        submitted = [await client.submit(upload_url) for _ in range(5)]
        recognizer.gate.set()
        for transcript_id in submitted:
            await client.finished(transcript_id)
        rows = (await client.list())["transcripts"]

    assert [row["id"] for row in sorted(rows, key=lambda row: row["completed"])] == submitted


@pytest.mark.parametrize("workers", [1, 3])
async def test_blocks_of_one_recording_run_side_by_side(tmp_path: Path, workers: int) -> None:
    """A long recording uses all workers and no more, and its words come out in order."""
    path = sounds.write(tmp_path / "long.wav", sounds.after(*[BLOCK] * 8))
    recognizer = ScriptedRecognizer("word")
    recognizer.gate.clear()
    async with engine(tmp_path / "state", recognizer, workers=workers) as client:
        transcript_id = await client.submit(await client.upload(path))
        with anyio.fail_after(30):
            while recognizer.most_at_once < workers:
                await client.list()
        recognizer.gate.set()
        transcript = await client.finished(transcript_id)

    assert recognizer.most_at_once == workers
    assert len(recognizer.blocks) > workers
    assert [word["start"] for word in transcript["words"]] == [n * 61_000 for n in range(8)]


async def test_only_a_few_blocks_are_read_ahead(tmp_path: Path) -> None:
    """While nothing is transcribed nothing more is read: memory does not grow with length."""
    path = sounds.write(tmp_path / "long.wav", sounds.after(*[BLOCK] * 20))
    recognizer = ScriptedRecognizer("word")
    recognizer.gate.clear()
    async with engine(tmp_path / "state", recognizer, workers=2) as client:
        transcript_id = await client.submit(await client.upload(path))
        with anyio.fail_after(30):
            while recognizer.most_at_once < 2:
                await client.list()
        read_ahead_s = sum(recognizer.searched) / RATE_HZ
        recognizer.gate.set()
        await client.finished(transcript_id)

    assert read_ahead_s <= 4 * BLOCK_S
    assert sum(recognizer.searched) / RATE_HZ >= 20 * 61


async def test_short_recording_passes_a_long_one(tmp_path: Path, upload: Path) -> None:
    """A long recording does not keep the others waiting until it is done."""
    path = sounds.write(tmp_path / "long.wav", sounds.after(*[BLOCK] * 10))
    recognizer = ScriptedRecognizer("word")
    recognizer.gate.clear()
    async with engine(tmp_path / "state", recognizer, workers=2) as client:
        long = await client.submit(await client.upload(path))
        await anyio.to_thread.run_sync(recognizer.started.wait)
        short = await client.submit(await client.upload(upload))
        recognizer.gate.set()
        await client.finished(short)
        await client.finished(long)
        rows = {row["id"]: row for row in (await client.list())["transcripts"]}

    assert rows[short]["completed"] < rows[long]["completed"]


@pytest.mark.parametrize("how", ["fails", "crashes"])
async def test_failure_of_the_model_is_a_server_error(
    tmp_path: Path, upload: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What the model cannot do is the service's own fault: its sentence, and a note in the log."""
    recognizer = ScriptedRecognizer(fails=how == "fails", crashes=how == "crashes")
    async with engine(tmp_path / "state", recognizer) as client:
        transcript = await client.transcribed(upload)
        recognizer.fails = recognizer.crashes = False
        other = await client.transcribed(upload)

    assert transcript["status"] == "error"
    assert transcript["error"] == "Server error, developers have been alerted."
    assert transcript["id"] in caplog.text
    assert other["status"] == "completed"


async def test_bad_recording_does_not_touch_the_others(tmp_path: Path, upload: Path) -> None:
    """What is no audio ends in `error` with the service's sentence; the next one completes."""
    (tmp_path / "letter.mp3").write_text("this is a letter\n" * 100)
    async with engine(tmp_path / "state", ScriptedRecognizer()) as client:
        bad = await client.transcribed(tmp_path / "letter.mp3")
        good = await client.transcribed(upload)

    assert (bad["status"], bad["text"], bad["audio_duration"]) == ("error", None, None)
    assert bad["error"] == (
        "File does not appear to contain audio. File type is text/plain (text)."
    )
    assert good["status"] == "completed"


async def test_stopped_engine_leaves_its_work_to_the_next(tmp_path: Path, upload: Path) -> None:
    """Leaving in the middle of a transcript loses neither it nor those that wait."""
    recognizer = ScriptedRecognizer()
    recognizer.gate.clear()
    async with engine(tmp_path / "state", recognizer, workers=1) as client:
        upload_url = await client.upload(upload)
        first, second = await client.submit(upload_url), await client.submit(upload_url)
        await anyio.to_thread.run_sync(recognizer.started.wait)
    recognizer.gate.set()
    async with engine(tmp_path / "state", recognizer, workers=1) as client:
        transcripts = [await client.finished(first), await client.finished(second)]

    assert [transcript["status"] for transcript in transcripts] == ["completed"] * 2
    assert [transcript["audio_url"] for transcript in transcripts] == [upload_url] * 2


ENGINE = """
import sys
from pathlib import Path
import anyio
from pipeline.engine import serve
from tests.engine.scripted import ScriptedRecognizer

async def main():
    recognizer = ScriptedRecognizer("Hello", "there.")
    recognizer.gate.clear()
    async with serve(Path(sys.argv[1]), keys=[sys.argv[2]], recognizer=recognizer) as engine:
        print(engine.url, flush=True)
        await anyio.to_thread.run_sync(recognizer.started.wait)
        print("at work", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


async def test_killed_engine_finishes_its_work_when_started_again(
    tmp_path: Path, upload: Path
) -> None:
    """`kill -9` in the middle of a transcript: the next engine on the folder completes it."""
    state = tmp_path / "state"
    process = await anyio.open_process(
        [sys.executable, "-c", ENGINE, str(state), KEY], stderr=None, stdin=subprocess.DEVNULL
    )
    async with process, aiohttp.ClientSession() as session:
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)
        client = Client(session, (await lines.receive_until(b"\n", 200)).decode())
        upload_url = await client.upload(upload)
        at_work = await client.submit(upload_url)
        waiting = [await client.submit(upload_url) for _ in range(3)]
        assert await lines.receive_until(b"\n", 200) == b"at work"
        assert (await client.get(at_work))["status"] == "processing"
        process.kill()
    recognizer = ScriptedRecognizer()
    async with engine(state, recognizer) as client:
        transcripts = [await client.finished(name) for name in (at_work, *waiting)]

    assert [transcript["text"] for transcript in transcripts] == ["Hello there. Hello there."] * 4
    assert len(recognizer.blocks) == 4
