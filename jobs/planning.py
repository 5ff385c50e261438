"""
What a reprocess would do: in, settings, and what is to hold of the recordings; out, a plan.

    ledger -> selection -> those that are there as they were -> hours, cost, and what would change

Reads only, and asks nobody: a plan costs nothing. Of each recording that is meant a path is held,
and of each that would be paid for its identity.
"""

import heapq
import os
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from typing import Any

import msgspec

from jobs.shelf import whole
from jobs.transcribe import with_model
from pipeline.allowance import amount_of
from pipeline.durations import Duration, by_header, by_size
from pipeline.errors import SettingsError
from pipeline.events import label
from pipeline.files import regular
from pipeline.ledger import evidence
from pipeline.ledger.accounts import Reader
from pipeline.ledger.archive import (
    Selected,
    Selection,
    Told,
    is_put_aside,
    known_state,
    roots,
    select,
    unknown_paths,
    unsettled,
)
from pipeline.ledger.books import Promote
from pipeline.ledger.uploads import knows_id
from pipeline.lines import visible
from pipeline.models import Root, request_key, signed
from pipeline.options import canonical
from pipeline.report.words import count, hours, usd
from pipeline.settings import Settings
from pipeline.wire import Head

__all__ = ["Plan", "plan", "settings_by_root"]

_NAMED = 10
_HEAD_BYTES = 1 << 16
_LEFT_OUT = {
    "as_asked": "already as asked for; `--force` asks for them again",
    "gone": "not where they were",
    "changed": "changed since, which `overnight run` looks at",
    "skipped": "not to be sent",
    "put_aside": "made already, and put aside; `--promote always` lets the new one stay",
    "unknown": "where a transcript lies that is not known here: `--adopt` takes it, `--force` pays",
    "missing": "gone at the service; `--force` asks for them again",
    "limit": "left by `--limit`",
}


@dataclass(frozen=True, slots=True)
class _Change:
    """What results were made with, and what new ones would be."""

    provider: str | None
    model: str | None
    options: str | None
    new_provider: str
    new_options: str

    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "provider": self.provider,
            "model": self.model,
            "options": None if self.options is None else msgspec.json.decode(self.options),
            "new_provider": self.new_provider,
            "new_options": msgspec.json.decode(self.new_options),
        }

    def __str__(self) -> str:
        old = " ".join(filter(None, (self.provider, self.model, self.options)))
        return f"{old} -> {self.new_provider} {self.new_options}"


@dataclass(slots=True)
class Plan:
    """What a reprocess would do."""

    again: int = 0
    """Recordings that have a result, and would be transcribed again."""
    new: int = 0
    """Recordings without one."""
    fetched: int = 0
    """Recordings whose new result is paid for, or under way: fetched at no cost."""
    unsettled: int = 0
    """Results of which an interrupted run has not said yet which one stays: done for nothing."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Recordings that are meant and would not be transcribed, by why."""
    named: list[tuple[str, str]] = field(default_factory=list)
    """The first of those that are gone or changed: why, and which."""
    hours: float = 0.0
    """Of audio that would be paid for; of equal recordings once."""
    unprobed: int = 0
    """Recordings whose duration is not known, and is counted by size."""
    cost_usd: float | None = 0.0
    """At the dearest of the models that may do the work; None where one has no price."""
    changes: Counter[_Change] = field(default_factory=Counter)
    """How many results would change from what to what."""
    listed: dict[bytes, str] = field(default_factory=dict)
    """What would be transcribed or fetched: absolute paths, and how they are called."""
    sample: list[bytes] = field(default_factory=list)
    """Those that were drawn as a sample of what would be paid for."""
    roots: list[Root] = field(default_factory=list)
    """Where they are found."""

    @property
    def recordings(self) -> int:
        """How many would be transcribed or fetched."""
        return self.again + self.new + self.fetched

    @property
    def question(self) -> str:
        """What has to be agreed to."""
        again = "" if self.new else " again"
        return f"Transcribe {count(self.recordings, 'recording')}{again}, {self._cost}?"

    @property
    def _cost(self) -> str:
        cost = "at an unknown cost" if self.cost_usd is None else f"about {usd(self.cost_usd)}"
        return f"{hours(self.hours)}, {cost}"

    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "type": "plan",
            "recordings": self.recordings,
            "again": self.again,
            "new": self.new,
            "fetched": self.fetched,
            "unsettled": self.unsettled,
            "left_out": {why: self.left_out[why] for why in _LEFT_OUT},
            "hours": round(self.hours, 4),
            "unprobed": self.unprobed,
            "cost_usd": None if self.cost_usd is None else round(self.cost_usd, 4),
            "changes": [
                change.facts() | {"recordings": number}
                for change, number in self.changes.most_common()
            ],
            "listed": list(self.listed.values()),
            "sample": [self.listed[where] for where in self.sample],
        }

    def __str__(self) -> str:
        if not (self.recordings or self.unsettled or self.left_out):
            return "no recording is meant\nhint: `overnight list` shows those that there are"
        lines = [f"{count(self.recordings, 'recording')} to be transcribed, {self._cost}"]
        if self.new:
            lines.append(f"  {count(self.new, 'recording')} for the first time")
        if self.fetched:
            lines.append(f"  {count(self.fetched, 'recording')} at no cost: paid for before")
        if self.unsettled:
            interrupted = count(self.unsettled, "older result")
            lines.append(
                f"  {interrupted} of an interrupted run to be put back or left, at no cost"
            )
        if self.unprobed:
            lines.append(f"  {count(self.unprobed, 'duration')} counted by size, rather too long")
        for change, number in self.changes.most_common(_NAMED):
            lines.append(f"  {number:,}  {change}")
        if len(self.changes) > _NAMED:
            lines.append(f"  and {len(self.changes) - _NAMED} other changes")
        lines += [f"  {name}" for name in islice(self.listed.values(), _NAMED)]
        if len(self.listed) > _NAMED:
            lines.append(f"  and {len(self.listed) - _NAMED:,} others, as `--json` names them")
        for why, words in _LEFT_OUT.items():
            if number := self.left_out[why]:
                lines.append(f"{count(number, 'recording')} left out: {words}")
                lines += [f"  {name}" for reason, name in self.named if reason == why]
        return "\n".join(map(visible, lines))


def plan(
    settings: Settings,
    selection: Selection,
    *,
    promote: Promote = "always",
    limit: int | None = None,
    sample: int = 0,
    seed: int = 0,
    only: Collection[bytes] | None = None,
) -> Plan:
    """
    What would be done with the recordings of which all of the selection holds. Reads only; blocks.

    `limit` is for what would be transcribed or fetched. A sample of the same seed has the same
    recordings, as long as they are among them. `only` are absolute paths.

    Raises:
        SettingsError: nothing was ever run there, or a path names none of what was.
        LedgerUnusable: the ledger cannot be read.
    """
    with evidence.opened(settings.state_dir) as db:
        if only is None and (unknown := unknown_paths(db, selection)):
            raise SettingsError(
                *(f"`{said}` matches no recording that is known here" for said in unknown),
                "hint: `overnight list` names them; a new one is for `overnight run`",
            )
        chosen = None if only is None else frozenset(only)
        planning = _Planning(settings, db, promote, sample, seed)
        for each in select(db, selection, planning.told):
            where = planning.where(each)
            if chosen is not None and where not in chosen:
                continue
            if limit is not None and planning.plan.recordings >= limit:
                planning.plan.left_out["limit"] += 1
            else:
                planning.add(each, where)
        return planning.concluded()


class _Planning:
    """A plan while it is made."""

    def __init__(
        self, settings: Settings, db: Reader, promote: Promote, sample: int, seed: int
    ) -> None:
        self.plan = Plan(unsettled=unsettled(db))
        self._db = db
        self._output = os.fsencode(settings.output or "")
        self._roots = roots(db)
        self._settings = settings_by_root(settings, self._roots)
        self._force, self._promote = settings.force, promote
        self._canonical: dict[str, str] = {}
        self._to_be_paid: set[bytes] = set()
        self._size = sample
        self._seed = seed
        self._drawn: list[tuple[int, bytes]] = []  # the last of them by rank on top

    def told(self, each: Selected) -> Told | None:
        """What the saved answer of a recording says of itself."""
        head = self._standing(each)
        if head is None:
            return None
        return Told(head.speech_model_used, head.language_code, head.confidence)

    def _standing(self, each: Selected) -> Head | None:
        """The whole answer that lies where the result of a recording goes."""
        with suppress(OSError):
            return whole(os.path.join(self._output, each.result)).head
        return None

    def where(self, each: Selected) -> bytes:
        """The absolute path of a recording; empty where no run has noted its root."""
        root = self._roots.get(each.root)
        return b"" if root is None else os.path.join(root.folder, each.path)

    def add(self, each: Selected, where: bytes) -> None:
        """One more recording of the selection."""
        settings = self._settings.get(each.root)
        if settings is None:
            self._left_out("gone", each)
            return
        options = self._options(settings, each)
        key = each.content and request_key(each.content, options, settings.provider_kind)
        why = self._why_not(settings, each, where, key)
        if why is not None:
            self._left_out(why, each)
            return
        known = known_state(self._db, key) if key else None
        is_redone = self._force and key == each.result_key
        is_fetched = known in ("open", "submitted", "completed", "written") and not is_redone
        if not is_fetched and self._is_left(each):
            self._left_out("unknown", each)
            return
        self.plan.listed[where] = label(self._roots, each.root, each.path)
        if is_fetched:
            self.plan.fetched += 1
            return
        if each.has_result:
            self.plan.again += 1
            change = _Change(
                *(each.provider, each.model_used, each.made_with, settings.provider_kind, options)
            )
            self.plan.changes[change] += 1
        else:
            self.plan.new += 1
        self._pay(settings, each, key or sha256(where).hexdigest())
        self._draw(each, where)

    def concluded(self) -> Plan:
        """The whole of it."""
        made = self.plan
        made.sample = sorted(where for _, where in self._drawn)
        folders = [(os.path.join(root.folder, b""), root) for root in self._roots.values()]
        made.roots = [
            root for inside, root in folders if any(w.startswith(inside) for w in made.listed)
        ]
        return made

    def _options(self, settings: Settings, each: Selected) -> str:
        if settings.rules:
            return canonical(settings.options_for(os.fsdecode(each.path)))
        if each.root not in self._canonical:
            self._canonical[each.root] = canonical(settings.transcript)
        return self._canonical[each.root]

    def _why_not(
        self, settings: Settings, each: Selected, where: bytes, key: str | None
    ) -> str | None:
        """Why a recording is not to be transcribed, None if it is."""
        if each.state == "skipped":
            return "skipped"
        if each.state == "written" and key == each.result_key and not self._force:
            return "as_asked"
        if key and not self._force:
            if known_state(self._db, key) == "missing":
                return "missing"
            if self._promote != "always" and is_put_aside(self._db, each.recording_id, key):
                return "put_aside"
        try:
            found = os.stat(where, follow_symlinks=settings.follow_links)
        except OSError:
            return "gone"
        is_same = (found.st_size, signed(found.st_mtime_ns)) == (each.size, each.mtime_ns)
        return None if is_same or not each.has_result else "changed"

    def _is_left(self, each: Selected) -> bool:
        """Whether a run would leave a recording to be adopted, as `stages.upload.is_left` does."""
        if self._force or each.has_result:
            return False
        head = self._standing(each)
        return head is not None and head.is_result and not knows_id(self._db, head.id)

    def _left_out(self, why: str, each: Selected) -> None:
        plan = self.plan
        plan.left_out[why] += 1
        if why in ("gone", "changed") and plan.left_out[why] <= _NAMED:
            plan.named.append((why, label(self._roots, each.root, each.path)))

    def _pay(self, settings: Settings, each: Selected, key: str) -> None:
        identity = bytes.fromhex(key)
        if identity in self._to_be_paid:
            return
        self._to_be_paid.add(identity)
        options = settings.options_for(os.fsdecode(each.path))
        duration = by_size(each.path, each.size)
        if each.duration_s is not None:  # as the service has billed it
            channels = self._channels(each) if options.get("multichannel") else 1
            duration = Duration(each.duration_s, channels, is_probed=True)
        amount, plan = amount_of(duration, options, settings), self.plan
        plan.unprobed += not amount.is_probed
        plan.hours += amount.duration_s / 3600
        is_known = amount.price_usd is not None and plan.cost_usd is not None
        plan.cost_usd = (plan.cost_usd or 0.0) + (amount.price_usd or 0.0) if is_known else None

    def _channels(self, each: Selected) -> int | None:
        """Its channels by its first bytes, else by its last answer; None where nobody knows."""
        with suppress(OSError), open(self.where(each), "rb", opener=regular) as file:
            if channels := by_header(each.path, file.read(_HEAD_BYTES), each.size).channels:
                return channels
        head = self._standing(each) if each.has_result else None
        return head.audio_channels if head is not None and head.multichannel else None

    def _draw(self, each: Selected, where: bytes) -> None:
        """Take a recording for the sample if it is among the first as the seed ranks them."""
        if not self._size:
            return
        identity = b"%d\0%s\0%s" % (self._seed, each.root.encode(), each.path)
        rank = -int.from_bytes(sha256(identity).digest())
        take = heapq.heappush if len(self._drawn) < self._size else heapq.heappushpop
        take(self._drawn, (rank, where))


def settings_by_root(settings: Settings, names: Iterable[str]) -> dict[str, Settings]:
    """What counts for the recordings of each root, by its name."""
    own = {source.root_name: settings.of_source(source) for source in settings.source}
    return {name: with_model(own.get(name, settings)) for name in names}
