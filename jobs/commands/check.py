"""
`overnight verify` and `overnight audit`: in, ledger, results and account; out, what does not fit.
"""

import os
from collections.abc import Callable
from typing import Annotated, Any

from jobs.console import repair_listeners, teller
from jobs.flags import ACCESS, Access, Switch, Text
from jobs.leaving import run_stoppable
from pipeline.errors import SettingsError

__all__ = ["audit", "verify"]

_MOST_SAID = 20


def verify(
    *,
    access: Access = ACCESS,
    repair: Annotated[bool, Switch] = False,
    rebuild: Annotated[bool, Switch] = False,
    details: Annotated[bool, Switch] = False,
    claim: Annotated[list[str] | None, Text] = None,
    disclaim: Annotated[list[str] | None, Text] = None,
    json: Annotated[bool, Switch] = False,
) -> int:
    """
    Whether every result is there as it was saved, and every recording as it was transcribed.

    A look alone asks no service.

    Parameters
    ----------
    repair
        Bring back what is missing or damaged, by its id; costs nothing.
    rebuild
        Make a lost or damaged ledger anew, and put the old one aside; costs nothing.
    details
        With `--rebuild`: ask how long each transcript is that nobody knows; costs nothing.
    claim
        ID=PATH: a transcript nobody knows, or an id in doubt, is of that recording; repeatable.
    disclaim
        ID, or all of those that a rebuild found: that transcript is another's; repeatable.
    json
        As one JSON object a line.
    """
    from functools import partial

    from jobs import rebuild as remake
    from jobs import verify as job

    if sum(map(bool, (repair, rebuild, claim or disclaim))) > 1:
        raise SettingsError("`--repair`, `--rebuild` and `--claim` or `--disclaim` go one by one")
    if details and not rebuild:
        raise SettingsError("`--details` is of what `--rebuild` finds")
    settings = access.settings(dry_run=False)  # whatever the settings file says of runs
    tell, environ = teller(json), dict(os.environ)
    if not (repair or rebuild or claim or disclaim):
        verified = job.verify(settings, tell)
        tell(verified)
        return verified.exit_code
    work: Callable[..., Any] = partial(remake.claim, settings, claim or (), disclaim or ())
    if repair:
        work = partial(job.repair, settings, tell)
    elif rebuild:
        first = tell if json else _first(tell)
        work = partial(remake.rebuild, settings, first, details=details)
    with repair_listeners(settings) as emit:
        done = run_stoppable(partial(work, emit=emit, environ=environ))
    tell(done)
    return int(done.exit_code)


def _first(tell: Callable[[Any], None]) -> Callable[[Any], None]:
    """The first findings, for people; where there are more of them is told in the end."""
    left = iter(range(_MOST_SAID))
    return lambda finding: tell(finding) if next(left, None) is not None else None


def audit(
    *,
    access: Access = ACCESS,
    remote: Annotated[bool, Switch] = False,
    json: Annotated[bool, Switch] = False,
) -> int:
    """
    What was asked for, what it came to, and whether anything was paid for in vain.

    Parameters
    ----------
    remote
        Compare with the account's own list; costs nothing.
    json
        As one JSON object a line.
    """
    from functools import partial

    from jobs import audit as job

    settings = access.settings(dry_run=False)  # whatever the settings file says of runs
    tell = teller(json)
    if remote:
        found = run_stoppable(partial(job.audit_remote, settings, tell, dict(os.environ)))
    else:
        found = job.audit(settings, tell)
    tell(found)
    return found.exit_code
