"""
`overnight audit`: what was asked for, what it came to, and whether anybody uses it.

    ledger [, the account's list] -> findings, one at a time -> counts, and one sentence

In: settings. Out: what can be shown to whoever pays. Reads only: a run may be under way.
"""

import os
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from anyio import to_thread

from jobs.account import account, whole_list
from jobs.finding import Finding, Tell
from jobs.shelf import replaced_ids
from pipeline.errors import ExitCode
from pipeline.events import printable
from pipeline.ledger import evidence
from pipeline.ledger.accounts import Reader
from pipeline.report.words import billed_lines
from pipeline.settings import Settings
from pipeline.wire import DELETED_AUDIO_URL

__all__ = ["Audit", "audit", "audit_remote"]

_LISTED_FOR_S = 89 * 86400.0  # a day less than the list goes back: clocks differ


@dataclass(slots=True)
class Audit:
    """What it came to."""

    recordings: dict[str, int]
    """By outcome."""
    spent: dict[str, Any]
    """What `pipeline.ledger.evidence.spending` counts."""
    findings: Counter[str] = field(default_factory=Counter)
    """How many of each kind."""
    account: dict[str, int] | None = None
    """What `pipeline.ledger.evidence.compare` counts, None without `--remote`."""

    @property
    def exit_code(self) -> ExitCode:
        """Whether all adds up."""
        spent = self.spent
        faults = self.findings.total() - self.findings["suspicious"]
        doubts = spent["duplicates"], spent["unknown"], spent["unclaimed"], faults
        return ExitCode.PARTIAL if any(doubts) else ExitCode.DONE

    @property
    def sentence(self) -> str:
        """For whoever pays."""
        spent, also = self.spent, ""
        for count, words in (
            (spent["other_options"], "with other options"),
            (spent["asked_again"], "asked for again"),
            (spent["duplicates"] + self.findings["twice"], "paid twice"),
            (spent["unknown"], "unknown"),
        ):
            also += f", {count} {words}" if count else ""
        return (
            f"{spent['contents']} contents, {spent['transcripts']} transcripts,"
            f" {self.findings['orphan']} orphans{also}"
        )

    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "type": "audit",
            "exit_code": int(self.exit_code),
            "recordings": self.recordings,
            **self.spent,
            "orphans": self.findings["orphan"],
            "findings": dict(self.findings),
            "account": self.account,
        }

    def __str__(self) -> str:
        spent, deletions = self.spent, self.spent["deletions"]
        lines = [
            "recordings   " + _counted(self.recordings),
            "transcripts  " + _counted(spent["outcomes"]),
            *billed_lines("billed", spent),
            f"deletions    {deletions['due']} due, {deletions['done']} done",
        ]
        if suspects := self.findings["suspicious"]:
            lines.append(f"suspicious   {suspects}, saved as they came")
        if spent["unclaimed"]:
            lines.append(f"unclaimed    {spent['unclaimed']}; see `overnight verify --claim`")
        if self.account is not None:
            listed = dict(self.account)
            lines.append(
                f"account      {listed['listed']} listed: {listed['ours']} ours,"
                f" {listed['others']} of others, {listed['deleted']} deleted;"
                f" {listed['unlisted']} of ours not in the list (it goes back 90 days)"
            )
        return "\n".join([*lines, self.sentence])


def audit(settings: Settings, tell: Tell) -> Audit:
    """
    Count, and tell what nobody uses. Blocks.

    Raises:
        SettingsError: nothing was ever run there.
        LedgerUnusable: the ledger cannot be read.
    """
    with evidence.opened(settings.state_dir) as db:
        return _audit(db, settings, tell)


async def audit_remote(
    settings: Settings, tell: Tell, environ: Mapping[str, str] = os.environ
) -> Audit:
    """
    The same, and what the account's list says of it.

    Raises:
        ServiceUnusable: the list cannot be read to its end.
        BatchError: as `audit`, `account` and the client do.
    """
    async with account(settings, environ) as client:
        with ExitStack() as stack:
            ledger = evidence.opened(settings.state_dir)
            db = await to_thread.run_sync(stack.enter_context, ledger)
            await to_thread.run_sync(evidence.listed_anew, db)
            async for rows in whole_list(client):
                page = [(row.id, row.status, row.audio_url) for row in rows if row.id]
                await to_thread.run_sync(evidence.mark_listed, db, page)
            return await to_thread.run_sync(_audit_listed, db, settings, tell)


def _audit_listed(db: Reader, settings: Settings, tell: Tell) -> Audit:
    found = _audit(db, settings, tell)
    found.account, contradictions = evidence.compare(
        db, settings.base_url or "", DELETED_AUDIO_URL, time.time() - _LISTED_FOR_S
    )
    for kind, transcript_id, what in contradictions:
        found.findings[kind] += 1
        tell(Finding(kind, None, what, transcript_id))
    return found


def _audit(db: Reader, settings: Settings, tell: Tell) -> Audit:
    found = Audit(evidence.outcomes(db), evidence.spending(db, settings.prices))
    for transcript_id, root, path, _, _ in evidence.orphans(db, replaced_ids(settings.state_dir)):
        found.findings["orphan"] += 1
        what = f"transcript {transcript_id} was paid for, and its result lies nowhere"
        tell(Finding("orphan", f"{root}/{printable(path)}", what, transcript_id))
    for transcript_id, root, path, odd in evidence.suspects(db):
        found.findings["suspicious"] += 1
        tell(Finding("suspicious", f"{root}/{printable(path)}", odd, transcript_id))
    return found


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
