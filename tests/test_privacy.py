"""Nothing leaves this machine with the embedded engine, nor is anything left behind on it."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.calls import Calls
from tests.support.typed import environment

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_spec("faster_whisper") is None, reason="the engine is not installed"),
]

ROOT = Path(__file__).parent.parent

TEMPTED = {"ORT_DISABLE_TELEMETRY": "0", "HF_HUB_DISABLE_TELEMETRY": "0", "DO_NOT_TRACK": "0"}
"""What somebody else may have set: it brings nothing back."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """A machine that nobody has used: what was run on it, and what it left where."""

    home: Path
    here: Path
    temporary: Path
    calls: Calls

    def run(self, *command: str, **variables: str) -> None:
        """A command of this Python that has to succeed, with nothing of ours in its environment."""
        places = {"HOME": str(self.home), "TMPDIR": str(self.temporary), "PYTHONWARNINGS": ""}
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.here,
            env={**environment(self.here), **places, **self.calls.environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr


def fresh(folder: Path) -> Fresh:
    places = [folder / name for name in ("home", "here", "temporary", "calls")]
    for place in places:
        place.mkdir()
    return Fresh(places[0], places[1], places[2], Calls(places[3]))


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """What the first command of the README leaves, with captions, which other processes make."""
    machine = fresh(tmp_path_factory.mktemp("sampled"))
    machine.run("-m", "jobs.start", "run", "--sample", "-f", "srt")
    return machine


def test_a_sample_leaves_nothing_but_its_output(sampled: Fresh) -> None:
    """No file is made outside the output folder, and none stays in that for temporary ones."""
    assert os.listdir(sampled.home) == []
    assert os.listdir(sampled.temporary) == []
    assert os.listdir(sampled.here) == ["transcripts"]


def test_a_sample_calls_nobody(sampled: Fresh) -> None:
    """No process looks a name up or connects to an address but loopback, in native code neither."""
    sampled.calls.require()

    assert len(sampled.calls.processes) > 1
    assert sampled.calls.far == []


LISTEN = """
import numpy as np
from pipeline.engine.speech import Whisper

whisper = Whisper()
noise = (np.random.default_rng(0).normal(0, 3000, 48_000)).astype(np.int16)
whisper.find_speech(noise)
whisper.transcribe(noise, "en", lambda: False)
"""


def test_the_model_alone_is_quiet(tmp_path: Path) -> None:
    """Whoever loads the model leaves nothing and calls nobody, whatever the environment says."""
    machine = fresh(tmp_path)
    machine.run("-c", LISTEN, **TEMPTED)

    assert os.listdir(machine.home) == os.listdir(machine.temporary) == []
    machine.calls.require()
    assert machine.calls.far == []


FOLDER = """
from pathlib import Path
from tempfile import TemporaryDirectory
from pipeline.engine import EngineUnavailable
from pipeline.engine.speech import Whisper
from pipeline.engine.weights import packaged

with TemporaryDirectory() as folder:
    for name, content in packaged()[1].items():
        if name != "tokenizer.json":
            Path(folder, name).write_bytes(content)
    try:
        Whisper(folder)
    except EngineUnavailable as error:
        assert "tokenizer.json" in str(error), error
    else:
        raise AssertionError("it was loaded")
"""


def test_a_folder_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    """What a model in a folder lacks is told, and fetched from nowhere."""
    machine = fresh(tmp_path)
    machine.run("-c", FOLDER)
    machine.calls.require()

    assert machine.calls.far == []


NAMED = """
import os
from pathlib import Path
from pipeline.engine.speech import Whisper
from pipeline.engine.weights import packaged

cached = Path(os.environ["HF_HOME"], "hub", "models--somebody--faster-whisper-ours")
(cached / "refs").mkdir(parents=True)
(cached / "refs" / "main").write_text("0" * 40)
snapshot = cached / "snapshots" / ("0" * 40)
snapshot.mkdir(parents=True)
for name, content in packaged()[1].items():
    (snapshot / name).write_bytes(content)
try:
    assert Whisper("somebody/faster-whisper-ours").name == "whisper-ours"
finally:
    (snapshot / "model.bin").unlink()
"""


def test_a_model_that_was_fetched_is_not_asked_for_again(tmp_path: Path) -> None:
    """The hub does not hear of each start of an engine whose model, chosen by name, is here."""
    machine = fresh(tmp_path)
    machine.run("-c", NAMED, HF_HOME=str(tmp_path / "hub"))
    machine.calls.require()

    assert machine.calls.far == []


CALL = """
import ctypes, socket, subprocess, sys

if sys.argv[1:]:
    libc = ctypes.CDLL(None)
    libc.getaddrinfo(b"native.invalid", None, None, ctypes.byref(ctypes.c_void_p()))
    libc.gethostbyname(b"old.invalid")
else:
    for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family) as stream:
            assert stream.connect_ex((address, 9))
        with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
            try:
                datagrams.sendto(b"?", (address, 53))
            except OSError:
                pass
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    subprocess.run([sys.executable, sys.argv[0], "native"], check=True)
"""


def test_calls_are_heard(tmp_path: Path) -> None:
    """Names and addresses are seen whoever asks for them, also a child; loopback is let through."""
    machine = fresh(tmp_path)
    machine.calls.require()
    script = tmp_path / "call.py"
    script.write_text(CALL)
    machine.run(str(script))

    assert machine.calls.processes == [sys.executable] * 2
    assert machine.calls.far == [
        *["192.0.2.1"] * 2,
        *["2001:db8::1"] * 2,
        *["native.invalid", "old.invalid"],
    ]


IMPORTED = re.compile(
    r"""^\s*(?:import|from)\s+{0}\b|\bimport(?:orskip|_module)\(["']{0}\b""".format(
        "(?:ctranslate2|faster_whisper|hf_xet|huggingface_hub|onnxruntime|tokenizers)"
    ),
    re.MULTILINE,
)


def test_the_model_is_imported_below_the_engine_only() -> None:
    """Nothing of ours, tests and benches included, loads these libraries before they are quiet."""
    sources = [
        path
        for name in ("pipeline", "jobs", "tests", "bench")
        for path in ROOT.glob(f"{name}/**/*.py")
    ]
    importing = {
        path.relative_to(ROOT).parent for path in sources if IMPORTED.search(path.read_text())
    }

    assert importing == {Path("pipeline/engine")}
