"""Speech models over the life of an archive: new defaults, old names, unknown prices, refusals."""

import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import anyio
import pytest

from pipeline.errors import ExitCode
from pipeline.speech_models import DEFAULT_SPEECH_MODELS
from tests.support.runs import Archive, opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

OLD = "universal-3-5-pro"
CONTENTS = {"a.wav": b"SECONDS:3600\none", "b/b.wav": b"SECONDS:1800\ntwo"}


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        for name, content in CONTENTS.items():
            archive.add(name, content)
        yield archive


def did_the_work(model: str | None) -> Fault:
    """From now on the service says of what is finished that this model did it."""
    return Fault(on="get", action="patch", patch={"speech_model_used": model}, times=None)


def used(archive: Archive) -> dict[str, str]:
    """The model of each result, by its recording."""
    return {
        name.removesuffix(".json"): json.loads(result)["speech_model_used"]
        for name, result in archive.results().items()
    }


# --- a new default --------------------------------------------------------------------------------


async def test_the_default_models_are_asked_for_by_name(archive: Archive) -> None:
    """What the account's own default is does not matter: each request names its models."""
    archive.service.default_models = (OLD, "universal-2")

    await archive.run()

    for content in CONTENTS.values():
        (transcript,) = archive.service.accepted(content)
        assert transcript.options["speech_models"] == list(DEFAULT_SPEECH_MODELS)
    assert used(archive) == dict.fromkeys(CONTENTS, DEFAULT_SPEECH_MODELS[0])


@pytest.mark.parametrize("is_finished", [True, False])
async def test_a_new_default_pays_for_nothing_again(archive: Archive, is_finished: bool) -> None:
    """What was made or asked for while another model was the default is as asked for still."""
    archive.service.faults.add(did_the_work(OLD))
    if is_finished:
        await archive.run()
    else:
        archive.service.transcript_seconds = 1e9
        async with anyio.create_task_group() as group:
            group.start_soon(archive.run)
            while len(archive.service.transcripts) < len(CONTENTS):
                await archive.service.changed.wait()
            group.cancel_scope.cancel()
        for transcript_id in archive.service.transcripts:
            archive.service.complete(transcript_id)
    before, asked = archive.results(), archive.service.requests["submit"]

    outcome = await archive.run(redo_changed=True)

    assert archive.service.requests["submit"] == asked == len(CONTENTS)
    assert (outcome.summary.kept, outcome.summary.exit_code) == (0, ExitCode.DONE)
    assert used(archive) == dict.fromkeys(CONTENTS, OLD)
    assert before in (archive.results(), {})
    # As every release had it: the bytes, what the user set, and the kind of provider.
    keys = {key for (key,) in await archive.rows("SELECT request_key FROM recordings")}
    assert keys == {
        sha256(f"{sha256(content).hexdigest()}\n{{}}\ncustom".encode()).hexdigest()
        for content in CONTENTS.values()
    }
