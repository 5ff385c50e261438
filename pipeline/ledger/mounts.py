"""
Which file system a folder is on: in, a path and the table of mounts; out, its type if it is remote.

SQLite's write-ahead log needs memory that all who open the file share: no network file system has
it, and some do not say so. Source: https://www.sqlite.org/wal.html#overview, disadvantage 2.
"""

import os
import re
from pathlib import Path

__all__ = ["mount_table", "remote_file_system"]

_REMOTE = frozenset(
    {
        *("afs", "beegfs", "ceph", "cifs", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs"),
        *("nfs", "nfs4", "smb3", "smbfs"),
        *("fuse.ceph", "fuse.cephfs", "fuse.davfs", "fuse.gcsfuse", "fuse.glusterfs"),
        *("fuse.goofys", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    }
)


def mount_table() -> str:
    """What is mounted where, as Linux tells it; empty elsewhere. Source: proc(5)."""
    try:
        return Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return ""


def remote_file_system(folder: Path, mounts: str) -> str | None:
    """The type of the network file system that a folder is on, None when it is on none."""
    place = Path(os.path.realpath(folder))
    kinds: dict[Path, str] = {}
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) > 4 and after:  # the last mount at a place hides those before it
            kinds[Path(_unescaped(fields[4]))] = after.split(" ")[0]
    mounted = [at for at in (place, *place.parents) if at in kinds]
    kind = kinds[mounted[0]] if mounted else ""
    return kind if kind in _REMOTE else None


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
