"""
The `overnight` command: in, a command line; out, results, and an exit code for a scheduler.

    overnight run FOLDER… -o OUTPUT     transcribe          overnight engine    serve the model
    overnight nightly                   the same, unattended
    overnight status|list -o OUTPUT     what has been done  overnight doctor    what is in place
    overnight report -o OUTPUT          the morning after   overnight init      a settings file
    overnight verify|audit -o OUTPUT    is it all there, and what it came to
    overnight reprocess -o OUTPUT       the archive again, or more made of it

Data goes to stdout, everything else to stderr. This is where errors end: each is reported once,
with what to do next, and becomes an exit code (`pipeline.errors.ExitCode`).
"""

import re
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

from jobs.commands.check import audit, verify
from jobs.commands.engine import engine
from jobs.commands.look import list_recordings, status
from jobs.commands.nightly import nightly
from jobs.commands.report import report
from jobs.commands.reprocess import reprocess
from jobs.commands.run import run
from jobs.commands.setup import doctor, init
from jobs.console import streams, tell
from jobs.leaving import LAST_S, leave_within
from pipeline import __version__
from pipeline.errors import BatchError, ExitCode, SettingsError, leaves

__all__ = ["app", "main"]


app = App(
    name="overnight",
    help="Transcribe folders of recordings through the AssemblyAI API, paying once.",
    version=__version__,
    version_flags=["--version"],
    help_format="plaintext",
    default_parameter=Parameter(negative_iterable=(), show_default=False),
    result_action="return_value",
)
app.command(run)
app.command(nightly)
app.command(status)
app.command(list_recordings, name="list")
app.command(report)
app.command(reprocess)
app.command(verify)
app.command(audit)
app.command(engine)
app.command(doctor)
app.command(init)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line, by default this process's own, and return its exit code.

    Whatever went wrong has been reported on stderr by then.
    """
    with streams():
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    try:
        _refuse_empty(sys.argv[1:] if argv is None else argv)
        result = app(argv, exit_on_error=False, print_error=False)
        code = result if isinstance(result, int) else ExitCode.DONE
    except CycloptsError as error:
        tell(f"error: {str(error).strip()}")
        code = ExitCode.USAGE
    except BaseExceptionGroup as group:
        code = ExitCode.worst(*[_report(error) for error in leaves(group)])
    except (Exception, KeyboardInterrupt) as error:
        code = _report(error)
    return code


def _refuse_empty(argv: Sequence[str]) -> None:
    """An empty argument is a variable of the shell that is not set; as a path it would be `.`."""
    if any(not text or re.fullmatch("--[a-z-]+=", text) for text in argv):
        raise SettingsError("one of the arguments is empty: is a variable of the shell not set?")


def _report(error: BaseException) -> ExitCode:
    match error:
        case BatchError():
            tell(f"error: {error}")
            return error.exit_code
        case KeyboardInterrupt():
            leave_within(LAST_S, ExitCode.INTERRUPTED)
            return ExitCode.INTERRUPTED
    traceback.print_exception(error)
    return ExitCode.UNEXPECTED


if __name__ == "__main__":
    sys.exit(main())
