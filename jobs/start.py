"""
Where the `overnight` command begins: in, nothing; out, its exit code.

The imports take a moment, in which a Ctrl-C may come: until they are over it ends the process at
once, since Python may lose an interrupt while it imports.
"""

import ctypes
import signal
import sys
from contextlib import suppress

__all__ = ["main"]

_INTERRUPTED = 130
_M_ARENA_MAX = -8  # of mallopt(3)


def main() -> int:
    """Run the command line of this process, and return its exit code."""
    # A heap for each thread, as glibc makes them, holds 10 of 70 MB that nobody uses; one is as
    # quick, since the interpreter lets one thread at a time ask for memory.
    with suppress(AttributeError):  # other C libraries
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        from jobs.cli import main as run

        signal.signal(signal.SIGINT, signal.default_int_handler)
        return run()
    except KeyboardInterrupt:
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
