"""
Where the `overnight` command begins: in, nothing; out, its exit code.

It imports nothing by itself, so that a Ctrl-C during the imports of the command is one as well.
"""

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> int:
    """Run the command line of this process, and return its exit code."""
    try:
        from jobs.cli import main as run

        return run()
    except KeyboardInterrupt:
        return _INTERRUPTED
