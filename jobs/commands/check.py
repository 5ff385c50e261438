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


def verify(
    *,
    access: Access = ACCESS,
    repair: Annotated[bool, Switch] = False,
    rebuild: Annotated[bool, Switch] = False,
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
    claim
        After a rebuild, ID=PATH: that transcript of the account is of this recording; repeatable.
    disclaim
        After a rebuild, ID or all: that transcript is another program's; repeatable.
    json
        As one JSON object a line.
    """
    from functools import partial

    from jobs import rebuild as remake
    from jobs import verify as job

    if sum(map(bool, (repair, rebuild, claim or disclaim))) > 1:
        raise SettingsError("`--repair`, `--rebuild` and `--claim` or `--disclaim` go one by one")
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
        work = partial(remake.rebuild, settings, tell)
    with repair_listeners(settings) as emit:
        done = run_stoppable(partial(work, emit=emit, environ=environ))
    tell(done)
    return int(done.exit_code)


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
