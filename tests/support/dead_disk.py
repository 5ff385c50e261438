"""
A disk that does not answer: in, an archive and a call; out, commands in which that call hangs.
"""

from pathlib import Path

from tests.support.runs import Archive

__all__ = ["hangs"]

_DEAD = '''
"""Stands in for the kernel: calls on what lies in a folder never return, once there is a mark."""
import os, threading

ends, call = os.environ["TEST_DEAD"].split(":")
usual = getattr(os, call)

def hanging(*args, **kwargs):
    path = args[0] if args else "."
    if isinstance(path, int):
        path = os.readlink(f"/proc/self/fd/{path}")
    if os.fsencode(path).rstrip(b"/").endswith(os.fsencode(ends)):
        os.close(os.open(os.environ["TEST_MARK"], os.O_CREAT | os.O_WRONLY))
        threading.Event().wait()
    return usual(*args, **kwargs)

setattr(os, call, hanging)
'''


def hangs(archive: Archive, ends: str, call: str) -> Path:
    """Has a call on what is called so hang; the file that is there as soon as it does."""
    site, mark = archive.root / "site", archive.root / "hangs"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_DEAD)
    archive.environ |= {
        "PYTHONPATH": str(site),
        "TEST_DEAD": f"{ends}:{call}",
        "TEST_MARK": str(mark),
    }
    return mark
