"""
Where the `overnight` command begins: in, nothing; out, its exit code.

The imports take a moment, in which a Ctrl-C may come: until they are over it ends the process at
once, since Python may lose an interrupt while it imports.
"""

import ctypes
import os
import signal
import sys
from contextlib import suppress

__all__ = ["main"]

_INTERRUPTED = 130
_M_ARENA_MAX = -8  # of mallopt(3)


def main() -> int:
    """Run the command line of this process, and return its exit code."""
    _open_what_is_closed()
    # A heap for each thread, as glibc makes them, holds 10 of 70 MB that nobody uses; one is as
    # quick, since the interpreter lets one thread at a time ask for memory.
    with suppress(AttributeError):  # other C libraries
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        from jobs.cli import main as run
        from jobs.leaving import begin, is_leaving, leave

        begin()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run()
    except KeyboardInterrupt:
        return _INTERRUPTED
    if is_leaving():  # Python would wait for threads that may never return
        leave(code)
    return code


def _open_what_is_closed() -> None:
    """
    Descriptors 0 to 2 lead to /dev/null where nobody has opened them.

    Else the next file that is opened, the ledger say, would be what warnings are written to.
    """
    for name, descriptor in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:  # as Python leaves it then
            mode = "w" if descriptor else "r"
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


if __name__ == "__main__":
    sys.exit(main())
