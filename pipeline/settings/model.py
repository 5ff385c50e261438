"""
Every setting with its unit, default, range and reason.

In go values by key, as the sources spell them; out comes one frozen `Settings`, or pydantic's
`ValidationError`. Attribute names are the keys of the TOML file. Constructing `Settings(...)`
directly reads neither environment nor files.
"""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from pipeline.addresses import PROVIDERS, canonical_base_url, is_url, provider_kind
from pipeline.errors import SettingsError
from pipeline.models import NIGHTS
from pipeline.options import asked_models, merge
from pipeline.settings.grammar import (
    Address,
    Rate,
    Timetable,
    Window,
    address_in,
    glob_pattern,
    nearest,
    parse_duration,
    parse_names,
    parse_size,
    parse_texts,
    parse_url,
)
from pipeline.settings.hooks import Hooks
from pipeline.speech_models import PRICES

__all__ = [
    "FORMATS",
    "PROVIDERS",
    "Backlog",
    "Bytes",
    "Globs",
    "HomePath",
    "Rule",
    "Seconds",
    "Settings",
    "Source",
    "Texts",
    "Timeouts",
    "Uploads",
]

FORMATS = ("json", "txt", "srt", "vtt", "md", "tsv")
"""What a result can be saved as; `json` always is."""

_LEAST_SETTLE_S = 5.0
"""Where transcripts cost money, lists are given as long at the least to show one."""


def _json_text(value: object) -> object:
    """A list or table that came as the text of one variable."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("not JSON") from None


def _formats(value: Sequence[str]) -> tuple[str, ...]:
    """Known formats, each once, `json` first: from names and comma lists of names."""
    names = {name.strip().lower() for text in value for name in text.split(",") if name.strip()}
    for name in sorted(names - {*FORMATS, "all"}):
        raise ValueError(
            f"`{name}` is no format{nearest(name, FORMATS) or '.'} They are {', '.join(FORMATS)}"
        )
    return FORMATS if "all" in names else tuple(f for f in FORMATS if f in {"json", *names})


def _provider(value: str) -> str:
    """A name of ours, or a base URL in its one spelling."""
    text = value.strip()
    if text in PROVIDERS or text == "local":
        return text
    base = canonical_base_url(text)
    if not is_url(base):
        names = [*PROVIDERS, "local"]
        raise ValueError(
            f"unknown provider{nearest(text, names) or '.'} "
            f"It is one of {', '.join(names)}, or a URL that begins with http:// or https://"
        )
    said = urlsplit(text if "://" in text else f"https://{text}")
    if said.username or said.password or said.query or said.fragment:
        raise ValueError("a base URL has no user, password, `?` or `#`")
    # The vendor's own address is the vendor, so that naming it does not pay for an archive anew.
    return next((name for name, known in PROVIDERS.items() if base == known), base)


def _rate(value: object) -> object:
    return Rate.parse(value) if isinstance(value, str) else value


def _address(value: object) -> object:
    return Address.parse(value) if isinstance(value, str) else value


def _webhook_url(value: str) -> str:
    """A URL as the internet sees it, with the path that is listened at where it has none."""
    url = parse_url(value)
    if url.username or url.password or "#" in value:
        raise ValueError("a webhook URL has no user, password or `#`")
    return urlunsplit(url._replace(path=url.path if url.path not in ("", "/") else "/overnight"))


def _timetable(value: object) -> object:
    return Timetable.parse(value) if isinstance(value, str | int | float) else value


def _window(value: object) -> object:
    return Window.parse(value) if isinstance(value, str) else value


def _zone_name(value: str) -> str:
    """The name of a time zone that is known here."""
    try:
        ZoneInfo(value)
    except (LookupError, OSError, ValueError):  # not there, a folder, or no name at all
        raise ValueError(
            "not a time zone that is known here; write one as `Europe/Berlin`"
        ) from None
    return value


def _at_most(value: object) -> object:
    """A number is the most; of a table that says it all, the least as well."""
    return value if isinstance(value, dict | Uploads) else {"max": value}


def _on_failure(value: object) -> object:
    """Whom to tell, without a word of when, is told of failures."""
    return value if isinstance(value, dict | Hooks) else {"on_failure": value}


def _settle(value: object) -> object:
    return None if value is None or value == "never" else value


def _globs(value: tuple[str, ...]) -> tuple[str, ...]:
    for glob in value:
        glob_pattern(glob)
    return value


def _here(value: Path) -> Path:
    """A path on this machine, though it begins with `~`."""
    if address := address_in(str(value)):
        raise ValueError(f"`{address}`: addresses are not supported yet; name a folder or file")
    try:
        return value.expanduser()
    except RuntimeError:
        raise ValueError(
            f"`{value.parts[0]}` stands for no home that is known here; set `HOME`, or write the"
            " whole path"
        ) from None


Seconds = Annotated[float, BeforeValidator(parse_duration)]
Bytes = Annotated[int, BeforeValidator(parse_size)]
HomePath = Annotated[Path, AfterValidator(_here)]
Texts = Annotated[tuple[str, ...], BeforeValidator(parse_texts)]
Globs = Annotated[Texts, AfterValidator(_globs)]


@dataclass(frozen=True)
class Rule:
    """Options for the recordings whose path matches: one `[[rules]]` table."""

    match: str
    """A glob, as `glob_pattern` takes it."""
    options: Mapping[str, Any]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The glob, compiled."""
        return glob_pattern(self.match)


def _rules(value: object) -> object:
    made = []
    for table in value if isinstance(value, list | tuple) else [value]:
        if isinstance(table, Rule):
            made.append(table)
        elif isinstance(table, dict) and isinstance(table.get("match"), str):
            options = {key: value for key, value in table.items() if key != "match"}
            glob_pattern(table["match"])
            made.append(Rule(table["match"], options))
        else:
            raise ValueError('a rule is a table with `match = "glob"` and options')
    return tuple(made)


class Timeouts(BaseModel):
    """How long each wait may take: seconds. A whole upload has no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    connect: Annotated[Seconds, Field(gt=0)] = 30.0
    """Seconds until a connection stands, TLS included; slow proxies need most of it."""
    stall: Annotated[Seconds, Field(gt=0)] = 60.0
    """Seconds without a byte moving before a transfer is given up and tried again."""
    answer: Annotated[Seconds, Field(gt=0)] = 120.0
    """Seconds from the end of a request to its answer. Short, and a slow answer to a submit
    becomes an ambiguous one."""


class Uploads(BaseModel):
    """How many uploads go on at once: as many as bring more, between these."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: Annotated[int, Field(ge=1, le=64)] = 1
    """However little they bring, and whatever the service says."""
    max: Annotated[int, Field(ge=1, le=64)] = 16
    """However much more would bring. Each holds a chunk or two in memory, and with 64 of them the
    event loop stalls for a tenth of a second."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min > self.max:
            raise ValueError("`min` is above `max`")
        return self


class Backlog(BaseModel):
    """What of an archive a night takes on, beside what is new."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hours_per_night: Annotated[float, Field(ge=0)] | None = None
    """Hours of audio of the backlog that one night begins; the recording that reaches it is the
    last. No limit if not set."""
    older_than: Seconds = 7 * 86400.0
    """Seconds since the last change of a recording from which on it is backlog, and comes after
    all that is newer."""


class Source(BaseModel):
    """One `[[source]]`: a folder that `overnight nightly` transcribes, and what is its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: HomePath
    """Folder of recordings, or a single one."""
    name: Annotated[str, Field(min_length=1)] | None = None
    """What the ledger and reports call it; the name of the folder if not set. A source that moves
    keeps its name."""
    output: HomePath | None = None
    """Folder for its results, in the output folder; its name if not set."""
    formats: Annotated[Texts, AfterValidator(_formats)] | None = None
    """As in the settings, instead of what stands there."""
    transcript: dict[str, Any] = {}
    """Options of its requests: added to those of the settings, key by key."""
    rules: Annotated[tuple[Rule, ...], BeforeValidator(_rules)] = ()
    """Options by path below its folder: after the rules of the settings."""
    include: Globs | None = None
    """As in the settings, instead of what stands there."""
    exclude: Globs | None = None
    """As in the settings, instead of what stands there."""
    follow_links: bool | None = None
    """As in the settings, instead of what stands there."""
    min_age: Seconds | None = None
    """As in the settings, instead of what stands there."""
    max_age: Seconds | None = None
    """As in the settings, instead of what stands there."""
    min_size: Bytes | None = None
    """As in the settings, instead of what stands there."""
    max_size: Bytes | None = None
    """As in the settings, instead of what stands there."""
    shrink: bool | None = None
    """As in the settings, instead of what stands there."""

    @model_validator(mode="after")
    def _contained(self) -> Self:
        output = self.output
        if output is not None and (output.is_absolute() or ".." in output.parts):
            raise ValueError("`output` of a source is a folder in the output folder of them all")
        if "/" in self.root_name or self.root_name.startswith("."):
            raise ValueError("`name` of a source has no `/`, and no `.` at its beginning")
        return self

    @property
    def root_name(self) -> str:
        """What the ledger calls it."""
        return self.name or Path(os.path.realpath(self.folder)).name or "root"

    @property
    def prefix(self) -> bytes:
        """What the paths of its results begin with: nothing, or a folder with its `/`."""
        folder = os.path.normpath(self.root_name if self.output is None else self.output)
        return b"" if folder == "." else os.fsencode(folder) + b"/"


_OF_A_SOURCE = (
    *("formats", "include", "exclude", "follow_links"),
    *("min_age", "max_age", "min_size", "max_size", "shrink"),
)
"""Settings that a source may have for itself."""


class Settings(BaseModel):
    """What a run is told; every attribute is a key of the TOML file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    output: HomePath | None = None
    """Folder for the results. Has no default: results cost money, their place is chosen."""
    state: HomePath | None = None
    """Folder for ledger, lock and runs; `.overnight` in the output folder if not set. On a local
    disk, since the ledger needs shared memory."""
    provider: Annotated[str, AfterValidator(_provider)] = "assemblyai"
    """`assemblyai`, `assemblyai-eu`, `local` (the embedded engine), or the base URL of a server
    that speaks the same protocol. `ASSEMBLYAI_BASE_URL` counts when nothing else says."""
    api_key_file: HomePath | None = None
    """File that holds the API key, before `ASSEMBLYAI_API_KEY`."""
    api_key_command: Annotated[str | None, Field(repr=False)] = None
    """Command that prints the API key, run without a shell, before `ASSEMBLYAI_API_KEY`."""
    trust_key: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")] | None = None
    """Fingerprint of an older key of the same project: what it asked for is ours, and what the
    service does not know of it is gone. Remembered by the ledger."""
    formats: Annotated[Texts, AfterValidator(_formats)] = ("json",)
    """What to save: names, comma lists, or `all`. `json` always is, the others are made from it
    on this machine and can be added later at no cost."""
    speaker_names: Annotated[
        dict[str, Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]],
        BeforeValidator(parse_names),
    ] = {}
    """Names of speakers in the files made from the JSON, by what the service calls them: `A`, `1`.
    No part of what is asked for or paid."""
    transcript: Annotated[dict[str, Any], BeforeValidator(_json_text)] = {}
    """Options of the transcription request, by the service's own names."""
    rules: Annotated[tuple[Rule, ...], BeforeValidator(_rules), BeforeValidator(_json_text)] = ()
    """Options by path: `match` is a glob, every other key an option. Later rules win."""

    include: Globs = ()
    """Globs of files to take besides those with a media suffix."""
    exclude: Globs = ()
    """Globs of files and folders to leave out; wins over `include`."""
    files_from: str | None = None
    """File that lists the recordings to take, `-` for stdin; separated by newline or NUL."""
    follow_links: bool = False
    """Whether symbolic links are followed. Off, since a link can lead anywhere."""
    min_age: Seconds | None = None
    """Seconds since the last change of a file, at least: younger ones may still be written."""
    max_age: Seconds | None = None
    """Seconds since the last change of a file, at most."""
    min_size: Bytes | None = None
    """Bytes, at least."""
    max_size: Bytes | None = None
    """Bytes, at most."""
    shrink: bool = True
    """Whether it is told when a folder is empty that was not, or has lost more than half of its
    recordings. Off for one out of which they are moved."""
    order: Literal["path", "largest", "smallest", "newest", "oldest"] = "path"
    """Which new recordings come first: by root and path, by size, or by last change. With any but
    `path` nothing new is sent before the scan is over."""
    limit: Annotated[int, Field(ge=0)] | None = None
    """New recordings sent by one run, at most; 0 only collects what is under way. What cannot or
    need not be sent does not count."""
    max_hours: Annotated[float, Field(ge=0)] | None = None
    """Hours of audio that one run asks for, at most. What a recording comes to is estimated before
    it is sent, and settled by what the service says."""
    max_cost: Annotated[float, Field(ge=0)] | None = None
    """USD that one run spends, at most, by the prices below: estimated and settled alike."""
    max_hours_month: Annotated[float, Field(ge=0)] | None = None
    """Hours of audio that all runs of a state folder ask for in a calendar month, at most."""
    max_cost_month: Annotated[float, Field(ge=0)] | None = None
    """USD that all runs of a state folder spend in a calendar month, at most."""
    window: Annotated[Window | None, BeforeValidator(_window)] = None
    """Part of the day in which a run may work, `22:00-06:00`. Nothing is asked for that could not
    finish in it; what is not finished is fetched by the next run, at no cost."""
    time_zone: Annotated[str, AfterValidator(_zone_name)] | None = None
    """Where the clock of `window` and the calendar of months and nights hang, as `Europe/Berlin`;
    this machine's own if not set."""
    min_free: Bytes | None = None
    """Bytes that have to be free where results and ledger are, or nothing more is asked for. 1 GB
    in `nightly` if not set."""
    wait_network: Seconds | None = None
    """Seconds to wait for the service to be reached when a run begins: a machine that has just
    woken has no network yet. 10 minutes in `nightly` if not set."""
    outage_patience: Seconds | None = None
    """Seconds to wait for an outage to be over, once the service was reached. If not set 30
    minutes, in `nightly` until the window closes, or 6 hours without one."""
    transcript_patience: Seconds = 7200.0
    """Seconds, and twice the length of the recording, after which a transcript that is not finished
    takes no place of others, and holds up no end of a run."""
    source: Annotated[tuple[Source, ...], BeforeValidator(_json_text)] = ()
    """Folders that `nightly` transcribes, each with what is its own."""
    backlog: Annotated[Backlog, BeforeValidator(_json_text)] = Backlog()
    """What of an archive `nightly` takes on, beside what is new."""

    concurrency: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    """Transcripts that the account works on at once. Source: AssemblyAI docs, "Concurrency": 200
    for paid accounts, 5 for free ones."""
    uploads: Annotated[Uploads, BeforeValidator(_at_most)] = Uploads()
    """Uploads at once. A number is the most of them."""
    upload_chunk: Annotated[Bytes, Field(ge=64 * 1024, le=4 * 1024 * 1024)] = 1024 * 1024
    """Bytes read and sent at a time. Smaller ones cost more CPU, larger ones memory, and stall the
    loop."""
    bwlimit: Annotated[Timetable | None, BeforeValidator(_timetable)] = None
    """Bytes per second of all uploads together: a size, `off`, or a timetable by the local
    clock."""
    requests: Annotated[Rate, BeforeValidator(_rate)] = Rate(20_000, 300.0)
    """Requests that the account may send. Source: AssemblyAI docs, "Concurrency": 20,000 in any
    5 minutes."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Our part of `requests`, more than 0 up to 1; the rest is for others on the account."""
    ramp: bool | None = None
    """Whether submissions start slowly. If not set: at the vendor's own hosts only."""
    poll_interval: Annotated[Seconds, Field(ge=0.001)] = 3.0
    """Seconds between two looks at what the service has finished, at the most; while some of it was
    asked for within a minute they come twice as often."""
    settle: Annotated[Seconds | None, BeforeValidator(_settle)] = 120.0
    """Seconds after which a transcript whose answer was lost shows in the service's list, if it
    was accepted; `never` leaves it for the user to decide. 5 s at least at the vendor's hosts."""
    webhook_listen: Annotated[Address | None, BeforeValidator(_address)] = None
    """Address on this machine, HOST:PORT, at which the service's notifications are taken, so that
    what has finished is looked at sooner. With `webhook_url`, or not at all."""
    webhook_url: Annotated[str, AfterValidator(_webhook_url)] | None = None
    """URL under which the service reaches `webhook_listen`, through a proxy that has TLS. Its
    query is kept, and results show it."""
    timeouts: Timeouts = Timeouts()
    """How long each wait may take."""
    stop_grace: Seconds = 10.0
    """Seconds that a stopped run takes to note what is under way, at most."""
    max_answer: Annotated[Bytes, Field(ge=1024)] = 256_000_000
    """Bytes of one answer, at most. Ten hours of speech come to about 20 MB."""

    dry_run: bool = False
    """Say what would be done, send nothing."""
    force: bool = False
    """Ask for every recording anew, also for those written: pays again. A flag only."""
    redo_changed: bool = False
    """Ask anew for what was written with other options or by another provider: pays again. A flag
    only."""
    retry_failed: bool | Annotated[int, Field(ge=1)] = False
    """Try again what failed in earlier runs; nothing of it was paid. A number is for how many
    nights, dates of `time_zone`, it may fail and still be tried; 3 in `nightly` if not set."""
    checksum: bool = False
    """Read every recording to see if it changed, instead of going by size and times."""
    delete_remote: bool = False
    """Delete the service's copy of a transcript and its audio once all that was asked for is
    saved."""
    break_lock: bool = False
    """Take the state folder over from a run on another machine that is known to have ended."""
    wait_lock: bool = False
    """Wait for the run that holds the state folder, instead of leaving at once."""

    engine_model: str = "base"
    """Speech model of the embedded engine: a name or folder that faster-whisper knows."""
    prices: Annotated[
        dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]],
        AfterValidator(lambda given: {**PRICES, **given}),
        BeforeValidator(_json_text),
    ] = dict(PRICES)
    """USD per hour of audio by model, for estimates; what is named here adds to the defaults."""

    hooks: Annotated[Hooks, BeforeValidator(_on_failure), Field(repr=False)] = Hooks()
    """Whom a run tells of its start and end. A command or URL, or a list of them, is told of
    failures. No flag, since everybody on a machine sees its command lines."""

    json_lines: bool = False
    """Write one JSON object a line to stdout (`--json`) instead of the summary."""
    quiet: bool = False
    """No progress and no summary, only what went wrong."""
    verbose: Annotated[int, Field(ge=0, le=2)] = 0
    """How much the log tells: 0 warnings, 1 what happens, 2 everything."""
    log_file: HomePath | None = None
    """File to append the log to, as JSON lines."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for unit in ("age", "size"):
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if low is not None and high is not None and low > high:
                raise ValueError(f"`min_{unit}` is above `max_{unit}`: nothing would be taken")
        names = [each.root_name for each in self.source]
        for name in {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two sources are called `{name}`: give one another `name`")
        if (self.webhook_listen is None) != (self.webhook_url is None):
            raise ValueError("`webhook_listen` and `webhook_url` need each other: set both or none")
        if self.webhook_url is not None and self.provider == "local":
            raise ValueError(
                "the embedded engine sends no webhooks: leave out `webhook_listen` and"
                " `webhook_url` with `provider = local`"
            )
        is_hasty = self.settle is not None and self.settle < _LEAST_SETTLE_S
        if is_hasty and self.provider_kind == "assemblyai":
            raise ValueError(
                f"`settle` at the vendor's hosts is {_LEAST_SETTLE_S:.0f}s at least: what its list"
                " does not show yet would be paid for twice"
            )
        if self.api_key_file and self.api_key_command:
            raise ValueError("`api_key_file` and `api_key_command` exclude each other")
        return self

    @property
    def state_dir(self) -> Path:
        """
        Where ledger, lock and runs are.

        Raises:
            SettingsError: neither `state` nor `output` is set.
        """
        if self.state is not None:
            return self.state
        if self.output is not None:
            return self.output / ".overnight"
        raise SettingsError("where are the results? Name their folder with `--output`")

    @property
    def gives_up_after(self) -> int:
        """On how many nights something fails until it is given up."""
        return NIGHTS if isinstance(self.retry_failed, bool) else self.retry_failed

    @property
    def provider_kind(self) -> str:
        """What of the provider is part of a request's identity: `assemblyai local custom`."""
        return provider_kind(self.base_url or self.provider)

    @property
    def base_url(self) -> str | None:
        """Where requests go, without a trailing `/`; None for `local`, whose port is free yet."""
        return None if self.provider == "local" else PROVIDERS.get(self.provider, self.provider)

    @property
    def in_flight(self) -> int:
        """
        Transcripts at the service at once, those it has queued included.

        A quarter more than it works on: a client that holds exactly that many leaves slots idle
        for as long as it takes to notice that one is free.
        """
        return math.ceil(1.25 * self.concurrency)

    def cost_usd(
        self, model: str | None, duration_s: float | None, channels: int | None = 1
    ) -> float | None:
        """
        What so much audio comes to, USD, each of so many channels for itself.

        None when the model has no price, or one of these is not said.
        """
        price = 0.0 if self.provider == "local" else self.prices.get(model or "")
        if price is None or duration_s is None or channels is None:
            return None
        return price * duration_s * channels / 3600

    def counted_usd(self, model: str, duration_s: float) -> float:
        """What so much audio counts for under a cap, USD: without a price, at the dearest known."""
        known = self.cost_usd(model, duration_s)
        return max(self.prices.values()) * duration_s / 3600 if known is None else known

    @property
    def zone(self) -> ZoneInfo | None:
        """Where the clock hangs; None for this machine's own zone."""
        return None if self.time_zone is None else ZoneInfo(self.time_zone)

    @property
    def is_capped(self) -> bool:
        """Whether what a recording comes to has to be known before it is sent."""
        caps = self.max_hours, self.max_cost, self.max_hours_month, self.max_cost_month
        return any(cap is not None for cap in caps)

    def highest_price(self, options: Mapping[str, Any]) -> float | None:
        """
        USD per hour at the dearest of the models that may do the work; None where one has no price.

        Source: AssemblyAI docs, "Models": the price is that of the model that was used.
        """
        return max(prices) if (prices := self._prices_of(options)) else None

    def lowest_price(self, options: Mapping[str, Any]) -> float | None:
        """The same at the cheapest of them."""
        return min(prices) if (prices := self._prices_of(options)) else None

    def _prices_of(self, options: Mapping[str, Any]) -> list[float]:
        """Those of the models that may do the work; none where one has no price."""
        if self.provider == "local":
            return [0.0]
        models = asked_models(options)
        prices = [self.prices[model] for model in models if model in self.prices]
        return prices if len(prices) == len(models) else []

    def of_source(self, source: Source) -> "Settings":
        """The same for one source: what it says itself stands in place of what all say."""
        own = {key: getattr(source, key) for key in _OF_A_SOURCE}
        return self.model_copy(
            update={
                **{key: value for key, value in own.items() if value is not None},
                "transcript": merge(self.transcript, source.transcript),
                "rules": (*self.rules, *source.rules),
            }
        )

    @property
    def asked_models(self) -> tuple[tuple[str, ...], ...]:
        """The lists of speech models that recordings may be asked for with, each once."""
        ruled = (merge(self.transcript, rule.options) for rule in self.rules)
        return tuple(dict.fromkeys(map(asked_models, [self.transcript, *ruled])))

    @property
    def ramps(self) -> bool:
        """Whether submissions start slowly in this run."""
        return self.provider_kind == "assemblyai" if self.ramp is None else self.ramp

    def options_for(self, path: str) -> dict[str, Any]:
        """The options that the user set for the recording at `path`, relative to its root."""
        options = dict(self.transcript)
        for rule in self.rules:
            if rule.pattern.fullmatch(path):
                options = merge(options, rule.options)
        return options
