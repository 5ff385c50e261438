"""
`overnight reprocess`: in, what is to hold of recordings; out, a plan, a question, what it came to.
"""

import os
import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter, validators

from jobs.commands.archive import adopt_archive, render_again
from jobs.console import agreed, run_listeners, say, tell, teller
from jobs.flags import WORK, Switch, Text, Work
from jobs.leaving import run_stoppable
from pipeline.errors import ExitCode, SettingsError

if TYPE_CHECKING:
    from jobs.planning import Plan
    from pipeline.ledger.archive import Selection
    from pipeline.settings import Settings

__all__ = ["reprocess"]

_WHICH = Group("Which recordings, all of it", sort_key=0)
_THEN = Group("What becomes of it", sort_key=0)
_FREE = Group("For nothing, and nothing is sent", sort_key=0)
_AtLeastOne = Annotated[int, Parameter(validator=validators.Number(gte=1))]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Which:
    """What is to hold of the recordings that are meant; None is "whatever it is"."""

    only: Annotated[str | None, Parameter(group=_WHICH)] = None
    """In this state: written, kept, failed, skipped, parked or given-up."""
    since: Annotated[str | None, Parameter(group=_WHICH)] = None
    """Transcribed at this date or later: 2026-01-31, or 7d for seven days ago."""
    until: Annotated[str | None, Parameter(group=_WHICH)] = None
    """Transcribed before this date."""
    model: Annotated[str | None, Parameter(group=_WHICH)] = None
    """Transcribed by this model."""
    language: Annotated[str | None, Parameter(group=_WHICH)] = None
    """In this language: en, or en_us."""
    option: Annotated[list[str] | None, Text, Parameter(group=_WHICH)] = None
    """Made with this option, KEY=VALUE; null for not set; repeatable."""
    confidence_below: Annotated[
        float | None, Parameter(group=_WHICH, validator=validators.Number(gte=0, lte=1))
    ] = None
    """With less confidence than this, 0 to 1."""
    longer_than: Annotated[str | None, Parameter(group=_WHICH)] = None
    """Longer than this: 90s, 1h30m."""
    shorter_than: Annotated[str | None, Parameter(group=_WHICH)] = None
    """Shorter than this."""
    reason: Annotated[str | None, Text, Parameter(group=_WHICH)] = None
    """Without a result for a reason that has this text in it."""
    from_run: Annotated[str | None, Parameter(group=_WHICH)] = None
    """Written by this run, named as in runs/."""
    limit: Annotated[_AtLeastOne | None, Parameter(group=_WHICH)] = None
    """So many of them at most."""


WHICH = Which()


def reprocess(
    *paths: str,
    which: Which = WHICH,
    promote: Annotated[Literal["always", "better", "never"] | None, Parameter(group=_THEN)] = None,
    sample: Annotated[_AtLeastOne | None, Parameter(group=_THEN)] = None,
    seed: Annotated[int | None, Parameter(group=_THEN)] = None,
    yes: Annotated[int, Switch, Parameter(name=("--yes", "-y"), count=True, group=_THEN)] = 0,
    rollback: Annotated[str | None, Parameter(group=_THEN)] = None,
    render: Annotated[list[str] | None, Parameter(group=_FREE)] = None,
    adopt: Annotated[Path | None, Parameter(group=_FREE)] = None,
    work: Work = WORK,
) -> int:
    """
    Transcribe again what was transcribed before, with other options or by another provider.

    Says first what that comes to, and asks. Older results are kept in versions/.

    Parameters
    ----------
    paths
        Folders or globs of recordings, within a source or from its name on; all, if none is given.
    promote
        Which new results take the place of the older ones: always (if not said), better or never.
    sample
        Transcribe so many first, drawn at random, and show what differs before the rest.
    seed
        Draw others.
    yes
        Do not ask; with --sample once for the sample, twice for the rest as well.
    rollback
        Put back whatever this run replaced; costs nothing.
    render
        Make these derived files of all results anew: txt, srt, vtt, md, tsv, a comma list, or all.
    adopt
        Folder of JSON results that other tools left, to be taken for results of the folders.
    """
    others = {"--rollback": rollback, "--render": render, "--adopt": adopt}
    apart = [flag for flag, value in others.items() if value is not None]
    chosen = which != WHICH or any(each is not None for each in (promote, sample, seed))
    if len(apart) > 1 or (apart and chosen):
        raise SettingsError(f"`{apart[0]}` goes with no other choice: say it alone")
    if seed is not None and sample is None:
        raise SettingsError("`--seed` says which sample is drawn: say `--sample` as well")
    if adopt is not None:
        return adopt_archive(adopt, [Path(path) for path in paths], work.settings())
    if apart and paths:
        raise SettingsError(f"`{apart[0]}` is for all that it finds: name no recordings")
    if render is not None:
        return render_again(work.settings(formats=render))
    settings = work.settings()
    if settings.output is None:
        raise SettingsError("where are the results? Name their folder with `--output`")
    if rollback is not None:
        if settings.dry_run:
            raise SettingsError(
                "`--rollback` has no dry run: it costs nothing, and can be rolled back"
            )
        return _roll_back(settings, rollback)
    selection = _selection(paths, which, settings)
    plans = _Work(settings, selection, which.limit, promote or "always", seed or 0, yes)
    return plans.run(sample or 0)


@dataclass
class _Work:
    """One command, from its plan to its end."""

    settings: "Settings"
    selection: "Selection"
    limit: int | None
    promote: Literal["always", "better", "never"]
    seed: int
    yes: int
    """Questions that are answered already."""
    environ: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    """Where the API key may be, also for the second of two runs."""

    def run(self, sample: int) -> int:
        """The exit code."""
        made = self._plan(sample=sample)
        self._tell(made)
        if self.settings.dry_run:
            return ExitCode.DONE
        if not made.recordings:
            return self._settle() if made.unsettled else ExitCode.DONE
        if len(made.sample) in (0, made.recordings):  # none was asked for, or there is no rest
            return self._do(made) if self._agreed(made) else self._not_agreed()
        drawn = self._plan(only=made.sample)
        if not self._agreed(drawn):
            return self._not_agreed()
        code = self._do(drawn)
        rest = self._plan(only=made.listed.keys() - set(made.sample))
        if code != ExitCode.DONE or not rest.recordings:
            return code
        self._tell(rest, "the rest: ")
        if self._agreed(rest):
            return self._do(rest)
        tell("hint: the same without `--sample` transcribes it")
        return code

    def _plan(self, *, sample: int = 0, only: Collection[bytes] | None = None) -> "Plan":
        from jobs.planning import plan

        return plan(
            self.settings,
            self.selection,
            promote=self.promote,
            limit=self.limit,
            sample=sample,
            seed=self.seed,
            only=only,
        )

    def _tell(self, made: "Plan", which: str = "") -> None:
        """The plan is what a dry run is for; before work it is there for whoever is asked."""
        if self.settings.json_lines:
            teller(True)(made)
        elif self.settings.dry_run:
            say(str(made))
        elif not (self.settings.quiet and self.yes):
            tell(f"{which}{made}")

    def _agreed(self, made: "Plan") -> bool:
        self.yes -= 1
        return self.yes >= 0 or agreed(made.question)

    def _not_agreed(self) -> int:
        tell("nothing was sent\nhint: `--yes` agrees to it, `--dry-run` only says what it would be")
        return ExitCode.USAGE

    def _settle(self) -> int:
        """What an interrupted run has left between two results; costs nothing."""
        from functools import partial

        from jobs.console import repair_listeners
        from jobs.reprocess import finish

        with repair_listeners(self.settings) as emit:
            return run_stoppable(partial(finish, self.settings, emit=emit))

    def _do(self, made: "Plan") -> int:
        from functools import partial

        from jobs.reprocess import reprocess
        from pipeline.progress import render_summary

        with run_listeners(self.settings) as emit:
            os.environ.pop("ASSEMBLYAI_API_KEY", None)  # no child of ours needs it
            work = partial(
                reprocess,
                self.settings,
                made,
                promote=self.promote,
                emit=emit,
                environ=self.environ,
            )
            done = run_stoppable(work)
        if self.settings.json_lines:
            teller(True)(done)
        elif not self.settings.quiet:
            say("\n".join(filter(None, (render_summary(done.summary), str(done)))))
        return done.exit_code


def _roll_back(settings: "Settings", run_id: str) -> int:
    from functools import partial

    from jobs.console import repair_listeners
    from jobs.reprocess import roll_back

    with repair_listeners(settings) as emit:
        done = run_stoppable(
            partial(roll_back, settings, run_id, emit=emit, environ=dict(os.environ))
        )
    teller(settings.json_lines)(done)
    return done.exit_code


def _selection(paths: tuple[str, ...], which: Which, settings: "Settings") -> "Selection":
    """
    What was said of the recordings, as the ledger takes it.

    Raises:
        SettingsError: something of it cannot be meant.
    """
    from pipeline.ledger.accounts import GIVEN_UP, OUTCOMES
    from pipeline.ledger.archive import Selection
    from pipeline.ledger.books import Patience
    from pipeline.options import parse_assignment
    from pipeline.settings import parse_duration

    if which.only not in (None, *OUTCOMES):
        raise SettingsError(f"`{which.only}` is no state: they are {', '.join(OUTCOMES)}")
    zone, patience = settings.zone, None
    if which.only == GIVEN_UP:
        patience = Patience(settings.gives_up_after, time(), zone)
    longer, shorter = which.longer_than, which.shorter_than
    try:
        return Selection(
            paths={path: _below(path.rstrip("/")) for path in paths},
            state="failed" if which.only == GIVEN_UP else which.only,
            patience=patience,
            since=_when(which.since, zone),
            until=_when(which.until, zone),
            model=which.model,
            language=which.language,
            options=tuple(map(parse_assignment, which.option or ())),
            confidence_below=which.confidence_below,
            longer_than_s=None if longer is None else parse_duration(longer),
            shorter_than_s=None if shorter is None else parse_duration(shorter),
            reason=which.reason,
            run_id=which.from_run,
        )
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _below(glob: str) -> re.Pattern[str]:
    """What matches the recordings of a glob, and those in folders of it."""
    from pipeline.settings import glob_pattern

    return re.compile(
        f"{glob_pattern(glob).pattern}|{glob_pattern(f'{glob}/**').pattern}", re.DOTALL
    )


def _when(text: str | None, zone: tzinfo | None) -> float | None:
    """
    A date, a time, or how long ago it was, as Unix seconds.

    Raises:
        ValueError: it is none of these.
    """
    from pipeline.settings import parse_duration

    if text is None:
        return None
    if not text.isdigit():  # `20260131` is a day
        with suppress(ValueError):
            return time() - parse_duration(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"`{text}` is no date: write `2026-01-31`, or `7d` for a week ago"
        ) from None
    return (at if at.tzinfo else at.replace(tzinfo=zone)).timestamp()
