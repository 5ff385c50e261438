"""
The flags that commands take: in, a command line; out, settings.

    Where        where results, state and settings file are
    Access       and how the service is reached
    Work         and how and how fast it transcribes
    Flags        and everything else that `overnight run` takes
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

if TYPE_CHECKING:
    from pipeline.settings import Settings

__all__ = [
    "ACCESS",
    "FLAGS",
    "WHERE",
    "WORK",
    "Access",
    "Flags",
    "Switch",
    "Text",
    "Where",
    "Work",
]

Switch = Parameter(negative="")
"""A flag that is given or not, with no `--no-`."""
Text = Parameter(allow_leading_hyphen=True)
"""A value that may begin with a hyphen."""

_WHO = Group("Which service", sort_key=1)
_WHAT = Group("What is taken", sort_key=2)
_HOW = Group("How it is transcribed", sort_key=3)
_PACE = Group("How fast", sort_key=4)
_AGAIN = Group("What is done again", sort_key=5)
_SAID = Group("What is said", sort_key=6)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Where:
    """Where a command looks. Names are the keys of the settings file, None is "not given"."""

    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None
    """Folder for the results."""
    state: Path | None = None
    """Folder for ledger, lock and runs (OUTPUT/.overnight)."""
    config: Path | None = None
    """Settings file, instead of ./overnight.toml."""

    def given(self) -> dict[str, Any]:
        """Keys and values for `load_settings`, those not given among them as None."""
        return {key: value for key, value in asdict(self).items() if key != "config"}

    def settings(
        self, *, defaults: Mapping[str, object] | None = None, **others: object
    ) -> "Settings":
        """
        The settings, of which `others` win over what was given; `defaults` are the command's own.

        Raises:
            SettingsError: as `load_settings`.
        """
        from pipeline.settings import load_settings

        return load_settings(self.given() | others, config=self.config, defaults=defaults)

    def told(self) -> "Settings":
        """Whom to tell where the settings are wrong, as `load_told`."""
        from pipeline.settings import load_told

        return load_told(self.given(), config=self.config)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Access(Where):
    """Where a command looks, and the service that it may ask."""

    provider: Annotated[str | None, Parameter(group=_WHO)] = None
    """assemblyai, assemblyai-eu, local, or a base URL."""
    api_key_file: Annotated[Path | None, Parameter(group=_WHO)] = None
    """File that holds the API key, before ASSEMBLYAI_API_KEY."""
    api_key_command: Annotated[str | None, Parameter(group=_WHO)] = None
    """Command that prints the API key."""
    trust_key: Annotated[str | None, Parameter(group=_WHO)] = None
    """Fingerprint of an older key of the same project."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Work(Access):
    """What every command takes that transcribes."""

    set: Annotated[list[str] | None, Text, Parameter(group=_HOW)] = None
    """An option of the request, KEY=VALUE; repeatable."""
    formats: Annotated[list[str] | None, Parameter(name=("--format", "-f"), group=_HOW)] = None
    """json, txt, srt, vtt, md, tsv, a comma list, or all; repeatable."""
    speaker_names: Annotated[list[str] | None, Text, Parameter(group=_HOW)] = None
    """Names of speakers in captions and texts: A=Ann,B=Ben; repeatable."""
    delete_remote: Annotated[bool | None, Switch, Parameter(group=_HOW)] = None
    """Delete the service's copy once the result is saved."""
    engine_model: Annotated[str | None, Parameter(group=_HOW)] = None
    """Speech model of the embedded engine: a name, or a folder."""

    max_hours: Annotated[
        float | None, Parameter(name=("--max-hours", "--max-audio"), group=_WHAT)
    ] = None
    """Hours of audio to ask for, at most."""
    max_cost: Annotated[float | None, Parameter(group=_WHAT)] = None
    """USD to spend, at most, by the prices of the settings."""
    max_hours_month: Annotated[float | None, Parameter(group=_WHAT)] = None
    """Hours of audio in a calendar month, at most, over all runs."""
    max_cost_month: Annotated[float | None, Parameter(group=_WHAT)] = None
    """USD in a calendar month, at most, over all runs."""

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

    window: Annotated[str | None, Parameter(group=_PACE)] = None
    """Part of the day in which to work: 22:00-06:00."""
    time_zone: Annotated[str | None, Parameter(group=_PACE)] = None
    """Where the clock of window and calendar hangs: Europe/Berlin."""
    min_free: Annotated[str | None, Parameter(group=_PACE)] = None
    """Bytes that have to stay free on the disks of results and ledger: 1GB."""
    wait_network: Annotated[str | None, Parameter(group=_PACE)] = None
    """How long to wait for the service to be reached when a run begins."""
    outage_patience: Annotated[str | None, Parameter(group=_PACE)] = None
    """How long to wait for the service to come back once it was reached: 30m."""
    transcript_patience: Annotated[str | None, Parameter(group=_PACE)] = None
    """How long a transcript may take, beside twice its length: 2h."""

    dry_run: Annotated[bool | None, Switch, Parameter(group=_AGAIN)] = None
    """Say what would be done, send nothing."""
    force: Annotated[bool | None, Switch, Parameter(group=_AGAIN)] = None
    """Transcribe everything anew; pays again."""
    wait_lock: Annotated[bool | None, Switch, Parameter(group=_AGAIN)] = None
    """Wait for a run that is under way."""
    break_lock: Annotated[bool | None, Switch, Parameter(group=_AGAIN)] = None
    """Take over from a run on another machine that has ended."""

    json_lines: Annotated[bool | None, Switch, Parameter(name="--json", group=_SAID)] = None
    """One JSON object a line on stdout."""
    quiet: Annotated[bool | None, Switch, Parameter(name=("--quiet", "-q"), group=_SAID)] = None
    """Only what went wrong."""
    verbose: Annotated[int | None, Parameter(name=("--verbose", "-v"), count=True, group=_SAID)] = (
        None
    )
    """What happens; twice: everything."""
    log_file: Annotated[Path | None, Parameter(group=_SAID)] = None
    """Append the log to this file, as JSON lines."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Flags(Work):
    """What `run` takes."""

    include: Annotated[list[str] | None, Text, Parameter(group=_WHAT)] = None
    """Glob of files to take besides media files; repeatable."""
    exclude: Annotated[list[str] | None, Text, Parameter(group=_WHAT)] = None
    """Glob of files or folders to leave out; repeatable."""
    files_from: Annotated[str | None, Text, Parameter(group=_WHAT)] = None
    """File that lists the recordings to take; - is stdin."""
    follow_links: Annotated[bool | None, Switch, Parameter(group=_WHAT)] = None
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

    redo_changed: Annotated[bool | None, Switch, Parameter(group=_AGAIN)] = None
    """Transcribe anew what has other options now; pays again."""
    retry_failed: Annotated[bool | None, Switch, Parameter(group=_AGAIN)] = None
    """Try again what failed before."""
    checksum: Annotated[bool | None, Switch, Parameter(group=_AGAIN)] = None
    """Read every recording to see if it has changed."""


WHERE = Where()
ACCESS = Access()
WORK = Work()
FLAGS = Flags()
