"""
The `overnight` command: in, a command line; out, results, and an exit code for a scheduler.

    overnight run FOLDER… -o OUTPUT     transcribe          overnight engine    serve the model
    overnight status|list -o OUTPUT     what has been done  overnight doctor    what is in place
    overnight verify -o OUTPUT          is it all there     overnight init      a settings file
    overnight audit -o OUTPUT           what it came to     overnight report    the morning after

Data goes to stdout, everything else to stderr. Whatever a command imports it imports when it
runs, so that `--help` is there at once. This is where errors end: each is reported once, with
what to do next, and becomes an exit code (`pipeline.errors.ExitCode`).
"""

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter, validators

from pipeline import __version__
from pipeline.errors import BatchError, ExitCode, SettingsError

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from rich.console import Console

    from pipeline.events import Emit
    from pipeline.settings import Settings

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

_WHAT = Group("What is taken", sort_key=1)
_HOW = Group("How it is transcribed", sort_key=2)
_PACE = Group("How fast", sort_key=3)
_AGAIN = Group("What is done again", sort_key=4)
_SAID = Group("What is said", sort_key=5)

_Switch = Parameter(negative="")
_Text = Parameter(allow_leading_hyphen=True)
_Output = Annotated[Path | None, Parameter(name=("--output", "-o"))]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Flags:
    """What `run` takes. Names are the keys of the settings file, None is "not given"."""

    output: _Output = None
    """Folder for the results."""
    state: Path | None = None
    """Folder for ledger, lock and runs (OUTPUT/.overnight)."""
    config: Path | None = None
    """Settings file, instead of ./overnight.toml."""

    provider: Annotated[str | None, Parameter(group=_HOW)] = None
    """assemblyai, assemblyai-eu, local, or a base URL."""
    api_key_file: Annotated[Path | None, Parameter(group=_HOW)] = None
    """File that holds the API key, before ASSEMBLYAI_API_KEY."""
    api_key_command: Annotated[str | None, Parameter(group=_HOW)] = None
    """Command that prints the API key."""
    set: Annotated[list[str] | None, _Text, Parameter(group=_HOW)] = None
    """An option of the request, KEY=VALUE; repeatable."""
    formats: Annotated[list[str] | None, Parameter(name=("--format", "-f"), group=_HOW)] = None
    """json, txt, srt, vtt, md, tsv, a comma list, or all; repeatable."""
    delete_remote: Annotated[bool | None, _Switch, Parameter(group=_HOW)] = None
    """Delete the service's copy once the result is saved."""
    engine_model: Annotated[str | None, Parameter(group=_HOW)] = None
    """Speech model of the embedded engine: a name, or a folder."""

    include: Annotated[list[str] | None, _Text, Parameter(group=_WHAT)] = None
    """Glob of files to take besides media files; repeatable."""
    exclude: Annotated[list[str] | None, _Text, Parameter(group=_WHAT)] = None
    """Glob of files to leave out; repeatable."""
    files_from: Annotated[str | None, _Text, Parameter(group=_WHAT)] = None
    """File that lists the recordings to take; - is stdin."""
    follow_links: Annotated[bool | None, _Switch, Parameter(group=_WHAT)] = None
    """Follow symbolic links."""
    min_age: Annotated[str | None, Parameter(group=_WHAT)] = None
    """Leave out files changed more recently: 500ms, 3s, 5m, 1h30m."""
    max_age: Annotated[str | None, Parameter(group=_WHAT)] = None
    """Leave out files changed longer ago."""
    min_size: Annotated[str | None, Parameter(group=_WHAT)] = None
    """Leave out smaller files: 500k, 10MB, 1GiB."""
    max_size: Annotated[str | None, Parameter(group=_WHAT)] = None
    """Leave out larger files."""
    order: Annotated[str | None, Parameter(group=_WHAT)] = None
    """Which come first: path, largest, smallest, newest, oldest."""
    limit: Annotated[int | None, Parameter(group=_WHAT)] = None
    """Take in so many new recordings at most."""

    concurrency: Annotated[int | None, Parameter(group=_PACE)] = None
    """Transcripts that the account works on at once (200)."""
    uploads: Annotated[int | None, Parameter(group=_PACE)] = None
    """Uploads at once, at most (16)."""
    bwlimit: Annotated[str | None, Parameter(group=_PACE)] = None
    """Bytes per second of all uploads: 10M, off, or "08:00,512k 19:00,off"."""
    requests: Annotated[str | None, Parameter(group=_PACE)] = None
    """Requests that the account may send (20000/300s)."""
    share: Annotated[float | None, Parameter(group=_PACE)] = None
    """Our part of them (0.9)."""
    poll_interval: Annotated[str | None, Parameter(group=_PACE)] = None
    """Longest time between two looks at the service (3s)."""
    settle: Annotated[str | None, Parameter(group=_PACE)] = None
    """Time until an accepted transcript is sure to be listed (2m); never."""
    ramp: Annotated[bool | None, Parameter(group=_PACE)] = None
    """Start slowly, as the vendor asks for."""
    webhook_listen: Annotated[str | None, Parameter(group=_PACE)] = None
    """Take notifications of the service at this HOST:PORT."""
    webhook_url: Annotated[str | None, Parameter(group=_PACE)] = None
    """URL under which the service reaches it."""

    dry_run: Annotated[bool | None, _Switch, Parameter(group=_AGAIN)] = None
    """Say what would be done, send nothing."""
    force: Annotated[bool | None, _Switch, Parameter(group=_AGAIN)] = None
    """Transcribe everything anew; pays again."""
    redo_changed: Annotated[bool | None, _Switch, Parameter(group=_AGAIN)] = None
    """Transcribe anew what has other options now; pays again."""
    retry_failed: Annotated[bool | None, _Switch, Parameter(group=_AGAIN)] = None
    """Try again what failed before."""
    checksum: Annotated[bool | None, _Switch, Parameter(group=_AGAIN)] = None
    """Read every recording to see if it has changed."""
    wait_lock: Annotated[bool | None, _Switch, Parameter(group=_AGAIN)] = None
    """Wait for a run that is under way."""
    break_lock: Annotated[bool | None, _Switch, Parameter(group=_AGAIN)] = None
    """Take over from a run on another machine that has ended."""

    json_lines: Annotated[bool | None, _Switch, Parameter(name="--json", group=_SAID)] = None
    """One JSON object a line on stdout."""
    quiet: Annotated[bool | None, _Switch, Parameter(name=("--quiet", "-q"), group=_SAID)] = None
    """Only what went wrong."""
    verbose: Annotated[int | None, Parameter(name=("--verbose", "-v"), count=True, group=_SAID)] = (
        None
    )
    """What happens; twice: everything."""
    log_file: Annotated[Path | None, Parameter(group=_SAID)] = None
    """Append the log to this file, as JSON lines."""

    def given(self) -> dict[str, Any]:
        """Keys and values for `load_settings`, those not given among them as None."""
        return {key: value for key, value in asdict(self).items() if key != "config"}


_DEFAULTS = Flags()


@app.command
def run(*folders: Path, sample: Annotated[bool, _Switch] = False, flags: Flags = _DEFAULTS) -> int:
    """
    Transcribe every recording under the folders, each once.

    Parameters
    ----------
    folders
        Folders of recordings, or single recordings.
    sample
        Transcribe the recordings that come with the program, on this machine.
    """
    from pipeline.settings import load_settings

    given = flags.given()
    if sample:
        if folders:
            raise SettingsError("`--sample` takes no folder: its recordings are in the program")
        given["provider"] = given["provider"] or "local"
    settings = load_settings(given, config=flags.config)
    if not folders and not sample and settings.files_from is None:
        raise SettingsError(
            "which recordings? Name their folder\n"
            "hint: `overnight run FOLDER -o OUTPUT`, or try `overnight run --sample`"
        )
    if settings.output is None:
        if not sample:
            raise SettingsError("where should results go? Name a folder with `--output`")
        settings = settings.model_copy(update={"output": Path("transcripts")})
    return _run(folders, settings, sample=sample)


def _run(folders: Sequence[Path], settings: "Settings", *, sample: bool) -> int:
    from functools import partial

    import anyio

    from jobs.folder import run_folder
    from pipeline.progress import render_summary

    environ = dict(os.environ)
    with _listeners(settings) as emit:
        os.environ.pop("ASSEMBLYAI_API_KEY", None)  # no child of ours needs it
        summary = anyio.run(
            partial(run_folder, folders, settings, sample=sample, emit=emit, environ=environ)
        )
    if not (settings.json_lines or settings.quiet):
        _say(render_summary(summary))
    return summary.exit_code


@contextmanager
def _listeners(settings: "Settings") -> "Iterator[Emit]":
    """Everybody who listens to a run, on a terminal, in a log of a scheduler, or in a pipe."""
    from pipeline.logs import log_event
    from pipeline.progress import JsonLines, PlainProgress, WarningLines

    console, say = _terminal()
    is_live = console is not None and console.is_terminal and not console.is_dumb_terminal
    with _logs(settings, console), ExitStack() as stack:
        listeners: list[Emit] = [log_event]
        if settings.json_lines:
            listeners.append(stack.enter_context(JsonLines(sys.stdout.buffer)))
        if not settings.quiet:
            listeners.append(WarningLines(say))
            if console is not None and is_live:
                from pipeline.terminal import TerminalProgress

                listeners.append(stack.enter_context(TerminalProgress(console)))
            else:
                listeners.append(stack.enter_context(PlainProgress(sys.stderr)))

        def emit(event: Any) -> None:
            for listener in listeners:
                listener(event)

        yield emit


def _terminal() -> "tuple[Console | None, Callable[[str], None]]":
    """The terminal that stderr is, None if it is none, and how a line is said there."""
    if not sys.stderr.isatty():  # rich is needed for nothing then
        return None, _tell
    from functools import partial

    from rich.console import Console

    from pipeline.terminal import say_above

    console = Console(stderr=True)
    return console, partial(say_above, console)


@contextmanager
def _logs(settings: "Settings", console: "Console | None") -> Iterator[None]:
    from pipeline.lines import hide
    from pipeline.logs import configure_logs

    hide(os.environ.get("ASSEMBLYAI_API_KEY", ""))
    with configure_logs(
        verbose=settings.verbose,
        quiet=settings.quiet,
        log_file=settings.log_file,
        console=console,
    ):
        yield


@app.command
def status(
    *,
    output: _Output = None,
    state: Path | None = None,
    config: Path | None = None,
    json: Annotated[bool, _Switch] = False,
) -> int:
    """
    How many recordings are in which state, what is under way, what the last run came to.

    Parameters
    ----------
    output
        Folder of the results.
    state
        Folder of ledger, lock and runs (OUTPUT/.overnight).
    config
        Settings file, instead of ./overnight.toml.
    json
        As one JSON object.
    """
    from json import dumps

    from pipeline.report import status_json, status_text

    folder = _state_dir(output, state, config)
    _say(dumps(status_json(folder), ensure_ascii=False) if json else status_text(folder))
    return ExitCode.DONE


@app.command(name="list")
def list_recordings(
    *,
    output: _Output = None,
    state: Path | None = None,
    config: Path | None = None,
    only: str | None = None,
    json: Annotated[bool, _Switch] = False,
) -> int:
    """
    Every recording and what has become of it, one a line.

    Parameters
    ----------
    output
        Folder of the results.
    state
        Folder of ledger, lock and runs (OUTPUT/.overnight).
    config
        Settings file, instead of ./overnight.toml.
    only
        Only those in this state, for example failed.
    json
        As one JSON object a line.
    """
    from pipeline.report import list_lines

    for line in list_lines(_state_dir(output, state, config), state_filter=only, as_json=json):
        _say(line)
    return ExitCode.DONE


@app.command
def verify(
    *,
    output: _Output = None,
    state: Path | None = None,
    config: Path | None = None,
    provider: str | None = None,
    api_key_file: Path | None = None,
    api_key_command: str | None = None,
    repair: Annotated[bool, _Switch] = False,
    rebuild: Annotated[bool, _Switch] = False,
    claim: Annotated[list[str] | None, _Text] = None,
    disclaim: Annotated[list[str] | None, _Text] = None,
    json: Annotated[bool, _Switch] = False,
) -> int:
    """
    Whether every result is there as it was saved, and every recording as it was transcribed.

    Parameters
    ----------
    output
        Folder of the results.
    state
        Folder of ledger, lock and runs (OUTPUT/.overnight).
    config
        Settings file, instead of ./overnight.toml.
    provider
        For all but a look: assemblyai, assemblyai-eu, local, or a base URL.
    api_key_file
        File that holds the API key, before ASSEMBLYAI_API_KEY.
    api_key_command
        Command that prints the API key.
    repair
        Bring back what is missing or damaged, by its id; costs nothing.
    rebuild
        Make a lost or damaged ledger anew, and put the old one aside; costs nothing.
    claim
        After a rebuild, ID=PATH: that transcript of the account is of this recording; repeatable.
    disclaim
        After a rebuild, ID or all: that transcript is another program's; repeatable.
    json
        As one JSON object a line.
    """
    from functools import partial

    import anyio

    from jobs import rebuild as remake
    from jobs import verify as job

    if sum(map(bool, (repair, rebuild, claim or disclaim))) > 1:
        raise SettingsError("`--repair`, `--rebuild` and `--claim` or `--disclaim` go one by one")
    settings = _settings(output, state, config, provider, api_key_file, api_key_command)
    tell, environ = _teller(json), dict(os.environ)
    if not (repair or rebuild or claim or disclaim):
        verified = job.verify(settings, tell)
        tell(verified)
        return verified.exit_code
    work: Callable[..., Any] = partial(remake.claim, settings, claim or (), disclaim or ())
    if repair:
        work = partial(job.repair, settings, tell)
    elif rebuild:
        work = partial(remake.rebuild, settings, tell)
    with _warnings(settings) as emit:
        done = anyio.run(partial(work, emit=emit, environ=environ))
    tell(done)
    return int(done.exit_code)


@app.command
def audit(
    *,
    output: _Output = None,
    state: Path | None = None,
    config: Path | None = None,
    provider: str | None = None,
    api_key_file: Path | None = None,
    api_key_command: str | None = None,
    remote: Annotated[bool, _Switch] = False,
    json: Annotated[bool, _Switch] = False,
) -> int:
    """
    What was asked for, what it came to, and whether anything was paid for in vain.

    Parameters
    ----------
    output
        Folder of the results.
    state
        Folder of ledger, lock and runs (OUTPUT/.overnight).
    config
        Settings file, instead of ./overnight.toml.
    provider
        For the account: assemblyai, assemblyai-eu, or a base URL.
    api_key_file
        File that holds the API key, before ASSEMBLYAI_API_KEY.
    api_key_command
        Command that prints the API key.
    remote
        Compare with the account's own list; costs nothing.
    json
        As one JSON object a line.
    """
    import anyio

    from jobs import audit as job

    settings = _settings(output, state, config, provider, api_key_file, api_key_command)
    tell = _teller(json)
    if remote:
        found = anyio.run(job.audit_remote, settings, tell, dict(os.environ))
    else:
        found = job.audit(settings, tell)
    tell(found)
    return found.exit_code


def _settings(
    output: Path | None,
    state: Path | None,
    config: Path | None,
    provider: str | None,
    api_key_file: Path | None,
    api_key_command: str | None,
) -> "Settings":
    """Settings of a command that pays for nothing, whatever the settings file says of runs."""
    from pipeline.settings import load_settings

    return load_settings(
        {
            "output": output,
            "state": state,
            "provider": provider,
            "api_key_file": api_key_file,
            "api_key_command": api_key_command,
            "dry_run": False,
        },
        config=config,
    )


def _teller(json: bool) -> "Callable[[Any], None]":
    """Says a finding, or what it came to, as a line for people or for programs."""
    from json import dumps

    return lambda said: _say(dumps(said.facts(), ensure_ascii=False) if json else str(said))


@contextmanager
def _warnings(settings: "Settings") -> "Iterator[Emit]":
    """Who listens to a repair: the log, and the terminal for what went wrong."""
    from pipeline.logs import log_event
    from pipeline.progress import WarningLines

    console, say = _terminal()
    warn = WarningLines(say)

    def emit(event: Any) -> None:
        log_event(event)
        warn(event)

    with _logs(settings, console):
        os.environ.pop("ASSEMBLYAI_API_KEY", None)  # no child of ours needs it
        yield emit


def _state_dir(output: Path | None, state: Path | None, config: Path | None) -> Path:
    from pipeline.settings import load_settings

    return load_settings({"output": output, "state": state}, config=config).state_dir


@app.command
def engine(
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))] = 8765,
    state: Path | None = None,
    api_key_file: Path | None = None,
    engine_model: str | None = None,
    config: Path | None = None,
) -> int:
    """
    Serve the embedded engine, for the vendor's SDKs and other clients of the API.

    Parameters
    ----------
    host
        Address to listen at.
    port
        Port to listen at; 0 takes a free one.
    state
        Folder of uploads, transcripts and key.
    api_key_file
        File that holds the key that clients have to send, before ASSEMBLYAI_API_KEY.
    engine_model
        Speech model: a name, or a folder.
    config
        Settings file, instead of ./overnight.toml.
    """
    import anyio

    from pipeline.engine import EngineUnavailable
    from pipeline.settings import load_settings, read_api_key

    settings = load_settings(
        {"api_key_file": api_key_file, "engine_model": engine_model}, config=config
    )
    folder = state or _engine_state(os.environ)
    key = read_api_key(settings, os.environ)
    try:
        with _logs(settings, _terminal()[0]):
            anyio.run(_serve, folder, host, port, key, settings.engine_model)
    except* EngineUnavailable as group:
        raise SettingsError("\n".join(str(error) for error in _leaves(group))) from group
    return ExitCode.DONE


async def _serve(folder: Path, host: str, port: int, key: str | None, model: str) -> None:
    """Serve until a signal says so; what is unfinished then stays queued for the next start."""
    from signal import SIGINT, SIGTERM

    from anyio import open_signal_receiver, to_thread

    from pipeline.engine import serve, stored_key

    shown = "the one you gave"
    if key is None:
        is_new = not (folder / "key").exists()
        try:
            key = await to_thread.run_sync(stored_key, folder)
        except OSError as error:
            raise SettingsError(f"{folder} cannot hold the key: {error.strerror}") from error
        shown = key if is_new else f"in {folder / 'key'}"
    with open_signal_receiver(SIGINT, SIGTERM) as signals:
        async with serve(folder, host=host, port=port, keys=[key], model=model) as running:
            _tell(f"{running.model} at {running.url}, state in {folder}")
            _tell(f"key: {shown}")
            _tell(f"SDK: assemblyai.settings.base_url = {running.url!r}, .api_key = the key")
            _tell(f"CLI: overnight run FOLDER -o OUTPUT --provider {running.url}")
            if host not in ("127.0.0.1", "::1", "localhost"):
                _tell(
                    f"warning: {host} is not only this machine, and what is sent there, the key "
                    "included, is not encrypted"
                )
            async for _ in signals:
                return


def _engine_state(environ: Mapping[str, str]) -> Path:
    """Where the engine keeps what it has. Source: XDG Base Directory Specification."""
    base = environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "overnight" / "engine"


@app.command
def doctor(
    *,
    output: _Output = None,
    state: Path | None = None,
    provider: str | None = None,
    api_key_file: Path | None = None,
    api_key_command: str | None = None,
    config: Path | None = None,
) -> int:
    """
    What is in place, what is not, and where each setting comes from. Costs nothing.

    Parameters
    ----------
    output
        Folder for the results.
    state
        Folder for ledger, lock and runs (OUTPUT/.overnight).
    provider
        assemblyai, assemblyai-eu, local, or a base URL.
    api_key_file
        File that holds the API key, before ASSEMBLYAI_API_KEY.
    api_key_command
        Command that prints the API key.
    config
        Settings file, instead of ./overnight.toml.
    """
    from jobs.doctor import examine
    from pipeline.settings import load_settings, origins

    given: dict[str, object] = {
        "output": output,
        "state": state,
        "provider": provider,
        "api_key_file": api_key_file,
        "api_key_command": api_key_command,
    }
    settings = load_settings(given, config=config)
    worst = ExitCode.DONE
    for finding in examine(settings, origins(given, config=config), os.environ):
        _say(str(finding))
        worst = ExitCode.worst(worst, finding.exit_code)
    return worst


@app.command
def report(
    *,
    output: _Output = None,
    state: Path | None = None,
    config: Path | None = None,
    run: str | None = None,
    format: Literal["html", "json", "line"] = "html",  # noqa: A002 - what the flag is called
    json: Annotated[bool, _Switch] = False,
    zone: str | None = None,
) -> int:
    """
    The morning after a run: what became of its recordings, what it cost, what is worth a look.

    Parameters
    ----------
    output
        Folder of the results.
    state
        Folder of ledger, lock and runs (OUTPUT/.overnight).
    config
        Settings file, instead of ./overnight.toml.
    run
        Id of the run, the name of its folder; the newest if not given.
    format
        html writes a page beside the run and prints its path; json, line: prints.
    json
        As one JSON object: the same as `--format json`.
    zone
        Time zone of the report, for example Europe/Berlin; that of this machine if not given.
    """
    from pipeline.report.morning import morning
    from pipeline.report.page import as_json, as_line, save

    settings = _settings(output, state, config, None, None, None)
    found = morning(settings, run, zone=_zone(zone))
    match "json" if json else format:
        case "html":
            _say(str(save(found, settings.state_dir / "runs" / found.run_id)))
        case "json":
            _say(as_json(found).decode())
        case "line":
            _say(as_line(found))
    return ExitCode.DONE


def _zone(name: str | None) -> "ZoneInfo | None":
    """The zone of that name; None for that of the machine."""
    from zoneinfo import ZoneInfo

    try:
        return None if name is None else ZoneInfo(name)
    except (OSError, ValueError, LookupError) as error:
        raise SettingsError(f"`{name}` is no time zone: write it as Europe/Berlin") from error


@app.command
def init() -> int:
    """Write overnight.toml, all settings with their defaults, into this folder."""
    example = next(place for place in _EXAMPLES if place.is_file())
    target = Path("overnight.toml")
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(example.read_text(encoding="utf-8"))
    except FileExistsError:
        raise SettingsError(f"`{target}` is there already, and is left as it is") from None
    except OSError as error:
        raise SettingsError(f"`{target}` cannot be written: {error.strerror}") from error
    _tell(f"wrote {target}")
    return ExitCode.DONE


_EXAMPLES = (
    Path(__file__).parent / "config.example.toml",  # in the wheel
    Path(__file__).parent.parent / "config.example.toml",  # in a source tree
)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line, by default this process's own, and return its exit code.

    Whatever went wrong has been reported on stderr by then.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names in the input can be any bytes
    try:
        _refuse_empty(sys.argv[1:] if argv is None else argv)
        result = app(argv, exit_on_error=False, print_error=False)
        code = result if isinstance(result, int) else ExitCode.DONE
    except CycloptsError as error:
        _tell(f"error: {str(error).strip()}")
        code = ExitCode.USAGE
    except BaseExceptionGroup as group:
        code = ExitCode.worst(*[_report(error) for error in _leaves(group)])
    except (Exception, KeyboardInterrupt) as error:
        code = _report(error)
    _say("")
    return code


def _refuse_empty(argv: Sequence[str]) -> None:
    """An empty argument is a variable of the shell that is not set; as a path it would be `.`."""
    if any(not text or re.fullmatch("--[a-z-]+=", text) for text in argv):
        raise SettingsError("one of the arguments is empty: is a variable of the shell not set?")


def _report(error: BaseException) -> ExitCode:
    match error:
        case BatchError():
            _tell(f"error: {error}")
            return error.exit_code
        case KeyboardInterrupt():
            return ExitCode.INTERRUPTED
    traceback.print_exception(error)
    return ExitCode.UNEXPECTED


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The errors of a group and of those within, each message once."""
    found: dict[str, BaseException] = {}
    for error in group.exceptions:
        inner = _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
        found |= {repr(leaf): leaf for leaf in inner}
    return list(found.values())


def _say(text: str) -> None:
    """Data, and with "" what others have left to be written, on stdout."""
    try:
        sys.stdout.write(text and text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read it has enough; Python would complain once more when it ends.
        # Source: https://docs.python.org/3/library/signal.html#note-on-sigpipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(text: str) -> None:
    """Anything that is not data, on stderr, if anybody reads it."""
    with suppress(OSError, ValueError):
        sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
