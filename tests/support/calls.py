"""
Whom a command calls: in, the environment that it is to run in; out, every process of it, and
every name and address beyond this machine that one of them asked for. Nothing gets through.

It needs Linux and a C compiler, since only what is preloaded sees what native code does.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

__all__ = ["Calls"]

SOURCE = Path(__file__).with_name("calls.c")


class Calls:
    """What is preloaded into a command, and what it noted."""

    def __init__(self, folder: Path) -> None:
        """Build it in a folder, where that can be done here."""
        self.is_heard = sys.platform == "linux" and shutil.which("cc") is not None
        self._library = folder / "calls.so"
        self._file = folder / "calls"
        if self.is_heard:
            build = ["cc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]
            subprocess.run([*build, self._library, SOURCE, "-ldl"], check=True)

    def require(self) -> None:
        """Skip this test where nobody can listen, or fail it where somebody has to."""
        if not self.is_heard:
            if os.environ.get("TESTS_COMPILER") == "required":
                pytest.fail("there is no C compiler `cc` on Linux here, and one has to be")
            pytest.skip("what native code connects to is seen on Linux with a C compiler only")

    @property
    def environment(self) -> Mapping[str, str]:
        """What the command needs to be listened to."""
        if not self.is_heard:
            return {}
        return {"LD_PRELOAD": str(self._library), "CALLS": str(self._file)}

    @property
    def processes(self) -> list[str]:
        """The programs that were begun, in order."""
        return [whom for what, whom in self._noted() if what == "process"]

    @property
    def far(self) -> list[str]:
        """Names that were looked up, and addresses but loopback, in order."""
        return [whom for what, whom in self._noted() if what != "process"]

    def _noted(self) -> list[tuple[str, str]]:
        lines = self._file.read_text().splitlines()
        return [(what, whom) for what, _, whom in (line.partition(" ") for line in lines)]
