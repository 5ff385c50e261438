"""
How much of a recording was heard: in, what was sent and how long its transcript says it is; out,
how long it certainly is.

The recording is looked at where it lies, and only if it is what was sent: nothing of it is noted
before, since it takes longer to ask than to upload some.
"""

import os
import stat
from io import FileIO

from pipeline.durations import certain_s, identity_of
from pipeline.files import in_thread
from pipeline.models import Sent, signed

__all__ = ["certain_length_s"]

_HEAD_BYTES = 64 * 1024


async def certain_length_s(where: bytes, sent: Sent, near_s: float) -> float | None:
    """
    Seconds of audio that was sent, None where it is not certain, or does not lie there any more.

    `near_s` is how long it is said to be: if a recording says the same, it is not looked at closer.
    """
    try:
        found = await _beginning(where, sent)
        if found is None:
            return None
        head, identity = found
        return await certain_s(where, head, sent.size, near_s, identity=identity)
    except OSError:
        return None


@in_thread
def _beginning(where: bytes, sent: Sent) -> tuple[bytes, tuple[int, ...]] | None:
    """The first bytes of a recording and what it is, None if that is not what was sent."""
    with FileIO(os.open(where, os.O_RDONLY | os.O_NONBLOCK)) as file:
        found = os.fstat(file.fileno())
        times = signed(found.st_mtime_ns), signed(found.st_ctime_ns)
        is_same = (found.st_size, *times, signed(found.st_ino)) == (
            *(sent.size, sent.mtime_ns, sent.ctime_ns, sent.inode),
        )
        if not (is_same and stat.S_ISREG(found.st_mode)):
            return None
        return os.pread(file.fileno(), _HEAD_BYTES, 0), identity_of(found)
