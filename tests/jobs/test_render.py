"""`overnight reprocess --render`: derived files of a whole archive, offline and free."""

import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import BrokenWorkerProcess, to_process
from anyio.abc import Process

from jobs.finding import Finding
from jobs.render import Rendered, render_archive
from pipeline.errors import ExitCode, Locked, SettingsError
from pipeline.ledger.lock import lock
from pipeline.names import is_temporary
from pipeline.render import render
from tests.support.dead_disk import hangs
from tests.support.runs import Archive, opened, until

pytestmark = pytest.mark.anyio

LONGEST_S = 30.0
CONTENTS = {"a.wav": b"WORDS:30\none", "b/b.wav": b"WORDS:0\n", "c.mp3": b"three"}


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        for name, content in CONTENTS.items():
            archive.add(name, content)
        yield archive


async def rendered(
    archive: Archive, formats: Sequence[str] = ("srt", "md"), **given: Any
) -> tuple[Rendered, list[Finding]]:
    """What it came to; nobody answers at the address of the service, and there is no key."""
    told: list[Finding] = []
    settings = archive.settings(**given).model_copy(update={"api_key_file": None})
    done = await render_archive(settings, formats, told.append, workers=2, emit=lambda _: None)
    return done, told


def derived(archive: Archive) -> dict[str, bytes]:
    """What lies beside the JSON."""
    return {name: body for name, body in archive.results().items() if not name.endswith(".json")}


async def test_every_result_is_rendered(archive: Archive) -> None:
    """Each format of each result is made from its JSON; the service hears nothing of it."""
    await archive.run()
    results, requests = archive.results(), archive.service.requests.total()

    done, told = await rendered(archive)

    assert (done.results, done.made, done.replaced, done.unchanged) == (3, 6, 0, 0)
    assert told == []
    assert done.exit_code == ExitCode.DONE
    assert derived(archive) == {
        f"{name}.{suffix}": render(results[f"{name}.json"], suffix, Path(name).name)
        for name in CONTENTS
        for suffix in ("srt", "md")
    }
    assert archive.service.requests.total() == requests
    assert (await archive.run(formats=["srt", "md"])).summary.rendered == 0


async def test_again_is_for_nothing(archive: Archive) -> None:
    """What is as it is to be stays; what was changed by hand is made anew, and kept."""
    await archive.run(formats=["srt"])
    (archive.output / "a.wav.srt").write_bytes(b"by hand")

    first, _ = await rendered(archive)
    second, _ = await rendered(archive)

    assert (first.made, first.replaced, first.unchanged) == (3, 1, 2)
    assert (second.made, second.replaced, second.unchanged) == (0, 0, 6)
    assert list(archive.versions().values()) == [b"by hand"]


async def test_a_damaged_result_is_named(archive: Archive) -> None:
    """A result that is cut or gone is told, and the others are rendered."""
    await archive.run()
    torn = archive.output / "a.wav.json"
    torn.write_bytes(torn.read_bytes()[:-1])
    (archive.output / "c.mp3.json").unlink()

    done, told = await rendered(archive)

    assert {(each.kind, each.path) for each in told} == {
        ("damaged", "a.wav.json"),
        ("damaged", "c.mp3.json"),
    }
    assert (done.results, done.made, done.findings["damaged"]) == (3, 2, 2)
    assert done.exit_code == ExitCode.PARTIAL


async def test_what_the_ledger_does_not_know_is_not_touched(archive: Archive) -> None:
    """Strangers below the output folder are no results, whatever they hold."""
    await archive.run()
    (archive.output / "stranger.wav.json").write_bytes(archive.results()["a.wav.json"])

    done, _ = await rendered(archive)

    assert done.results == 3
    assert "stranger.wav.srt" not in archive.results()


async def test_a_dry_run_makes_nothing(archive: Archive) -> None:
    """With `--dry-run` the same is counted, and the output folder stays as it is."""
    await archive.run()
    before = archive.results()

    done, _ = await rendered(archive, dry_run=True)

    assert (done.made, done.facts()["dry_run"]) == (6, True)
    assert archive.results() == before


async def test_a_run_beside_is_left_alone(archive: Archive) -> None:
    """While another run holds the state folder nothing is rendered."""
    await archive.run()
    async with lock(archive.state / "lock"):
        with pytest.raises(Locked):
            await rendered(archive)

    assert derived(archive) == {}


async def test_formats_have_to_be_named(archive: Archive) -> None:
    """With nothing but `json`, which is there anyhow, the command says what there is."""
    with pytest.raises(SettingsError, match="srt"):
        await rendered(archive, ["json"])


async def test_a_process_that_dies_takes_nothing_along(archive: Archive) -> None:
    """Where a worker is lost, what it held is rendered by another one."""
    await archive.run()
    with pytest.raises(BrokenWorkerProcess):  # the pool is this loop's: the next one is new
        await to_process.run_sync(os._exit, 1)

    done, told = await rendered(archive)

    assert (done.made, told) == (6, [])


# --- signals --------------------------------------------------------------------------------------


async def says(process: Process, text: bytes) -> None:
    """Waits until the program has said so on stderr."""
    assert process.stderr is not None
    said = b""
    with anyio.fail_after(LONGEST_S):
        while text not in said:
            said += await process.stderr.receive()


def leftovers(archive: Archive) -> list[str]:
    return [str(path) for path in archive.output.rglob("*") if is_temporary(os.fsencode(path.name))]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
async def test_a_signal_ends_it_soon(archive: Archive, number: signal.Signals) -> None:
    """What is in hand is finished, the summary is told, and the next time goes on with the rest."""
    count = 14 * ((os.cpu_count() or 1) + 2)  # 4 MiB for each process, and some more
    for at in range(count):
        archive.add(f"many/{at:04}.wav", b"SECONDS:3000\nWORDS:3000\n%d" % at)
    await archive.run()
    line = ["reprocess", "--render", "md", "-o", archive.output, "--json"]

    async with archive.started(*line) as process:
        await until(lambda: bool(derived(archive)))
        process.send_signal(number)
        ended = await archive.ended(process)

    assert ended.exit_code == 128 + number
    assert 0 < ended.summary["results"] < 3 + count
    assert ended.summary["made"] == len(derived(archive)) == ended.summary["results"]
    assert leftovers(archive) == []

    done, _ = await rendered(archive, ["md"])

    assert (done.unchanged, done.made) == (ended.summary["made"], 3 + count - done.unchanged)


async def test_a_second_signal_ends_it_at_once(archive: Archive) -> None:
    """A worker that hangs, here at a result that cannot be read, is ended by the second signal."""
    await archive.run()
    mark = hangs(archive, "a.wav.json", "open")

    async with archive.started("reprocess", "--render", "srt", "-o", archive.output) as process:
        await until(mark.exists)
        process.send_signal(signal.SIGINT)
        await says(process, b"SIGINT: finishing what is in hand")
        process.send_signal(signal.SIGINT)
        ended = await archive.ended(process)

    assert ended.exit_code == ExitCode.INTERRUPTED
