"""One run at a time: who has the lock, who is told so, and who may wait."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest
from anyio import to_thread
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ExitCode, Locked
from pipeline.ledger.lock import holder, lock

pytestmark = pytest.mark.anyio


async def test_the_second_is_told_who_has_it(tmp_path: Path) -> None:
    """The text of the lock names the machine and the process that holds it, and what to do."""
    async with lock(tmp_path / "lock"):
        with pytest.raises(Locked, match="--wait-lock") as caught:
            async with lock(tmp_path / "lock"):
                pytest.fail("two hold one lock")

    assert f"{socket.gethostname()} {os.getpid()}" in str(caught.value)
    assert caught.value.exit_code == ExitCode.LOCKED


async def test_it_is_free_again(tmp_path: Path) -> None:
    """A lock that was left can be taken, and names nobody meanwhile."""
    async with lock(tmp_path / "lock"):
        pass

    assert (tmp_path / "lock").read_text() == ""
    async with lock(tmp_path / "lock"):
        pass


async def test_waiting_ends_when_it_is_free(tmp_path: Path) -> None:
    """Who waits gets it once the holder has left."""
    order: list[str] = []

    async def wait_for_it() -> None:
        async with lock(tmp_path / "lock", wait=True):
            order.append("waited")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group, lock(tmp_path / "lock"):
            group.start_soon(wait_for_it)
            await anyio.wait_all_tasks_blocked()
            order.append("held")

    assert order == ["held", "waited"]


async def test_it_dies_with_its_holder(tmp_path: Path) -> None:
    """A process that was killed holds nothing: no stale lock has to be cleaned up by hand."""
    program = (
        "import anyio, sys\n"
        "from pathlib import Path\n"
        "from pipeline.ledger.lock import lock\n"
        "async def hold():\n"
        "    async with lock(Path(sys.argv[1])):\n"
        "        sys.stdout.write('held'); sys.stdout.flush()\n"
        "        await anyio.sleep_forever()\n"
        "anyio.run(hold)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "lock")]
    async with await anyio.open_process(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        with anyio.fail_after(20):
            assert await holder.stdout.receive() == b"held"
        with pytest.raises(Locked, match=str(holder.pid)):
            async with lock(tmp_path / "lock"):
                pass
        holder.send_signal(signal.SIGKILL)
        await holder.wait()

        async with lock(tmp_path / "lock"):
            pass


ELSEWHERE = "another-machine 4711 2026-11-20T22:00:00+00:00 5eb1f00d\n"


async def test_a_holder_elsewhere_is_never_presumed_dead(tmp_path: Path) -> None:
    """No kernel tells whether a run on another machine lives: its name in the file is enough."""
    (tmp_path / "lock").write_text(ELSEWHERE)

    with pytest.raises(Locked, match=r"another-machine 4711.*--break-lock"):
        async with lock(tmp_path / "lock"):
            pytest.fail("taken from a run that may be alive")

    assert (tmp_path / "lock").read_text() == ELSEWHERE


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not tell who locks what")
async def test_another_process_of_the_same_number_holds_nothing(tmp_path: Path) -> None:
    """
    A killed run whose number somebody else has, as in each new container, is not under way; a run
    that holds the lock is.
    """
    path = tmp_path / "lock"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    path.write_text(f"{socket.gethostname()} {os.getppid()} {now} 5eb1f00d\n")

    left = await to_thread.run_sync(holder, path)
    async with lock(path):
        held = await to_thread.run_sync(holder, path)

    assert left is None
    assert held is not None


def rubbish() -> Iterator[bytes]:
    """What crashes, other programs and people leave in a file."""
    yield from (b"\0" * 64, b"\xff\xfe\x80", b"\x1b[2J\n", b"4711", b"a b c d", b"x" * (3 << 20))
    yield from (b"another-machine", b"another-machine 4711", b"another-machine x y z")
    yield b"another-machine 4711 not-a-time 5eb1f00d\n"
    yield b"another-machine 99999999999999999999 2026-11-20T22:00:00+00:00 5eb1f00d\n"
    yield b"another-machine -1 2026-11-20T22:00:00+00:00 5eb1f00d\n"
    yield ELSEWHERE.encode()[:30] + b"\xff"


@pytest.mark.parametrize("text", [*rubbish()], ids=lambda text: repr(text[:20]))
async def test_rubbish_is_nobody(tmp_path: Path, text: bytes) -> None:
    """What names no holder holds nothing: a run begins, however the text came there."""
    (tmp_path / "lock").write_bytes(text)
    assert await to_thread.run_sync(holder, tmp_path / "lock") is None

    async with lock(tmp_path / "lock") as held:
        await to_thread.run_sync(held.check)
        with pytest.raises(Locked, match=str(os.getpid())):
            async with lock(tmp_path / "lock"):
                pass

    assert (tmp_path / "lock").read_text() == ""


@given(st.binary(max_size=500))
@settings(deadline=None)
def test_no_text_of_a_lock_is_an_error(text: bytes) -> None:
    """Whatever lies in the file, somebody holds the lock or nobody does."""
    with TemporaryDirectory() as folder:
        Path(folder, "lock").write_bytes(text)

        assert holder(Path(folder, "lock")) is None


async def test_a_holder_elsewhere_can_be_replaced_by_word_of_the_user(tmp_path: Path) -> None:
    """`--break-lock` takes the folder over, and then it is held and left as any other."""
    (tmp_path / "lock").write_text(ELSEWHERE)

    async with lock(tmp_path / "lock", break_=True) as held:
        await to_thread.run_sync(held.check)
        with pytest.raises(Locked, match=str(os.getpid())):
            async with lock(tmp_path / "lock"):
                pytest.fail("two hold one lock")

    assert (tmp_path / "lock").read_text() == ""


async def test_a_live_holder_here_cannot_be_broken(tmp_path: Path) -> None:
    """`--break-lock` is for other machines: of this one the kernel knows who lives."""
    async with lock(tmp_path / "lock") as held:
        with pytest.raises(Locked):
            async with lock(tmp_path / "lock", break_=True):
                pytest.fail("taken from a run that is alive")

        await to_thread.run_sync(held.check)


async def test_who_lost_the_lock_finds_out(tmp_path: Path) -> None:
    """A holder whose folder was taken over by another machine learns who has it, and lets it be."""
    async with lock(tmp_path / "lock") as held:
        (tmp_path / "other").write_text(ELSEWHERE)
        (tmp_path / "other").replace(tmp_path / "lock")

        with pytest.raises(Locked, match="another-machine 4711"):
            await to_thread.run_sync(held.check)

    assert (tmp_path / "lock").read_text() == ELSEWHERE
