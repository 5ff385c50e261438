"""Folders on network file systems are known as such, whatever is mounted over what."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.ledger.mounts import mount_table, remote_file_system

MOUNTS = r"""
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:31 / /mnt/nas rw,relatime shared:1 - nfs4 nas:/export rw
31 30 8:2 / /mnt/nas/local rw - xfs /dev/sdb1 rw
32 22 0:33 / /mnt/two\040words rw - cifs //nas/share rw
33 22 0:34 / /mnt/hidden rw - nfs nas:/old rw
34 22 8:3 / /mnt/hidden rw - ext4 /dev/sdc1 rw
35 22 0:35 / /mnt/sshfs rw - fuse.sshfs host:/ rw
36 22 8:4 / /mnt/usb rw - fuseblk /dev/sdd1 rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/me/transcripts", None),
        ("/mnt/nas", "nfs4"),
        ("/mnt/nas/a/b", "nfs4"),
        ("/mnt/nas/local/a", None),
        ("/mnt/nasty", None),
        ("/mnt/two words/a", "cifs"),
        ("/mnt/hidden/a", None),
        ("/mnt/sshfs/a", "fuse.sshfs"),
        ("/mnt/usb/a", None),
    ],
)
def test_the_innermost_mount_counts(folder: str, kind: str | None) -> None:
    """A folder is where its innermost mount is, and of two in one place the last."""
    assert remote_file_system(Path(folder), MOUNTS) == kind


@pytest.mark.parametrize("mounts", ["", "nonsense", "1 2 3 - ", " - nfs", "a b c d e f"])
def test_a_table_that_says_nothing_refuses_nothing(mounts: str) -> None:
    """Where the system does not tell its mounts, or tells them otherwise, no folder is refused."""
    assert remote_file_system(Path("/anywhere"), mounts) is None


def test_this_machine_tells() -> None:
    """The table of a running Linux has at least its root, which is on no network here."""
    if sys.platform != "linux":
        pytest.skip("only Linux has this table")

    assert " / " in mount_table()


def test_a_ledger_on_a_network_is_refused(tmp_path: Path) -> None:
    """A ledger is not opened where its log cannot be shared; the message names `--state`."""
    program = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "private, bind, own_mounts = 1 << 18 | 1 << 14, 1 << 12, 0x00020000\n"
        "table = '/proc/self/mountinfo'\n"
        "if libc.unshare(own_mounts) or libc.mount(None, b'/', None, private, None) or \\\n"
        "        libc.mount(sys.argv[1].encode(), table.encode(), None, bind, None):\n"
        "    sys.exit(77)\n"
        "from pathlib import Path\n"
        "from pipeline.errors import LedgerUnusable\n"
        "from pipeline.ledger.store import Store\n"
        "import anyio\n"
        "async def main():\n"
        "    async with Store(Path(sys.argv[2])):\n"
        "        pass\n"
        "try:\n"
        "    anyio.run(main)\n"
        "except LedgerUnusable as error:\n"
        "    print(error)\n"
    )
    (tmp_path / "mounts").write_text(f"30 22 0:31 / {tmp_path} rw - nfs4 nas:/export rw\n")
    command = [sys.executable, "-c", program, str(tmp_path / "mounts"), str(tmp_path / "ledger")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if ended.returncode == 77:
        pytest.skip("needs a mount table of its own")

    assert "nfs4" in ended.stdout, ended.stderr
    assert "--state" in ended.stdout
    assert not (tmp_path / "ledger").exists()
