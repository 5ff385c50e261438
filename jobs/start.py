"""
Where the `overnight` command begins: in, nothing; out, its exit code.

The imports take a moment, in which a Ctrl-C may come: until they are over it ends the process at
once, since Python may lose an interrupt while it imports.
"""

import signal

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> int:
    """Run the command line of this process, and return its exit code."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        from jobs.cli import main as run

        signal.signal(signal.SIGINT, signal.default_int_handler)
        return run()
    except KeyboardInterrupt:
        return _INTERRUPTED
