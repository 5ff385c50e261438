"""Memory depends on settings, not on how large a recording is: measured on the real command."""

import os
import re
import sys
from pathlib import Path
from subprocess import PIPE

import anyio
import pytest

from tests.support.runs import COMMAND
from tests.support.service_process import service_process

pytestmark = pytest.mark.anyio

MB = 1_000_000
MOST_MORE_BYTES = 10 * MB

# The wrapper's only child is the command, so the peak of its children is the command's.
WRAPPER = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
sys.stdout.write(f"exit={code} peak={peak * (1 if sys.platform == 'darwin' else 1024)}")
"""


async def peak_bytes(folder: Path, size: int) -> int:
    """The peak resident size of a run that uploads one sparse recording of this size."""
    recordings = folder / "in"
    recordings.mkdir(parents=True)
    (recordings / "a.wav").write_bytes(b"%d" % size)
    os.truncate(recordings / "a.wav", size)
    async with service_process(transcript_seconds=0.1) as service:
        command = [
            *(sys.executable, "-c", WRAPPER, COMMAND, "run", str(recordings)),
            *("-o", str(folder / "out"), "--provider", service.url, "--poll-interval", "100ms"),
        ]
        environ = {"PATH": os.environ["PATH"], "ASSEMBLYAI_API_KEY": service.key}
        with anyio.fail_after(100):
            ended = await anyio.run_process(command, stdout=PIPE, env=environ)
        oracle = await service.oracle()
    assert list(oracle["billable"].values()) == [1]
    told = re.fullmatch(rb"exit=0 peak=(\d+)", ended.stdout)
    assert told, ended.stdout
    return int(told[1])


async def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    """Uploading 1 GB takes at most 10 MB more memory at its peak than uploading 50 MB does."""
    small = await peak_bytes(tmp_path / "small", 50 * MB)
    large = await peak_bytes(tmp_path / "large", 1000 * MB)

    assert large - small < MOST_MORE_BYTES
