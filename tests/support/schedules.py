"""
Random schedules of bad nights: in, a draw of numbers; out, what a schedule came to, or `Violation`.

    schedule = draw(Random(7).randint)
    async with machine() as m, service_process() as service:
        tally = await play(schedule, m, service, folder)

A schedule is an archive of 20 recordings or more, many of them equal, and nights: runs of the real
command against the scripted service, each with troubles of its own, most of them ended by SIGKILL
at a named point. When all troubles are over, clean runs follow until nothing is parked. Then the
service's own account, the results on disk and the summaries have to agree; `play` says in what
they do not.

The clock of the program runs `SPEED` times as fast as that of the service. What the program relies
on is kept all the same: what is accepted at all is accepted within `_LATE_S` and listed `_LAG_S`
later, which is well within `settle`. Where the service was slower, since the machine was busy, to
pay twice is no violation but `Unsound`.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import anyio
from anyio import to_thread

from tests.support.machine import Ended, Machine, Point
from tests.support.service_process import ServiceProcess

__all__ = [
    "SETTLE_S",
    "SILENCE_S",
    "SPEED",
    "TIMEOUTS",
    "Night",
    "Number",
    "Schedule",
    "Silence",
    "Tally",
    "Trouble",
    "Unsound",
    "Violation",
    "death",
    "digest",
    "draw",
    "must",
    "play",
    "trouble",
    "while_",
]

T = TypeVar("T")

Number = Callable[[int, int], int]
"""Draws a number from the first to the second, both included; the smaller, the simpler."""

SPEED = 30.0
"""Seconds of the program in one of the service."""

SETTLE_S = 45.0  # of the program: 1.5 s
_LATE_S, _LAG_S, SILENCE_S = 0.8, 0.2, 0.3
TIMEOUTS = '[timeouts]\nconnect = "20s"\nstall = "20s"\nanswer = "20s"\n'

_KEYS = ("scripted-key", "second-key")
_CLEAN_RUNS = 8
_FOREIGN = 230
_DEATHS = 2
"""So many nights at the least end in death."""

_SERVER_FAULT = "Server error, developers have been alerted."
_PERMANENT = "Audio duration is too short."
_HTML = "<html><body>Bad gateway</body></html>"
_REVOKED = '{"error": "Authentication error, API token missing/invalid"}'

_ANY = ("submit", "upload", "submit", "list", "get")  # twice what costs money


def _answer(status: int, **more: Any) -> dict[str, Any]:
    return {"action": "answer", "status": status, **more}


_TROUBLES: dict[str, tuple[Sequence[str], dict[str, Any]]] = {
    "lost before acceptance": (_ANY, {"action": "drop_before"}),
    "lost after acceptance": (_ANY, {"action": "drop_after"}),
    "idle connection closed": (_ANY, {"action": "close_before"}),
    "500": (_ANY, _answer(500)),
    "502": (_ANY, _answer(502, body=_HTML, content_type="text/html")),
    "503": (_ANY, _answer(503)),
    "504": (_ANY, _answer(504, body=_HTML, content_type="text/html")),
    "408": (("submit",), _answer(408)),
    "503 after acceptance": (("submit", "upload"), {"action": "effect_then_answer"}),
    "truncated body": (_ANY, {"action": "truncate"}),
    "HTML with 200": (_ANY, {"action": "garbage"}),
    "HTML with 200, not accepted": (
        ("submit",),
        _answer(200, body=_HTML, content_type="text/html"),
    ),
    "stall": (("upload", "list", "get"), {"action": "hold_before"}),
    "accepted late": (("submit",), {"action": "late", "seconds": _LATE_S}),
    "accepted, never answered": (("submit", "get"), {"action": "hold"}),
    "429": (_ANY, _answer(429)),
    "429, seconds": (_ANY, _answer(429, headers={"Retry-After": "1"})),
    "429, date": (_ANY, _answer(429, headers={"Retry-After": "date"})),
    "row says error": (("list",), {"action": "list_says_error"}),
    "list down": (("list",), {"action": "list_down"}),
    "upload_url again": (("upload",), {"action": "reuse_spent_upload_url"}),
    "crossed answers": (("submit", "get"), {"action": "cross_answers"}),
    "id unknown for a while": (("get",), {"action": "unknown_while_young", "seconds": 0.4}),
    "negative balance": (("submit",), {"action": "negative_balance"}),
    "key revoked": (("*",), _answer(401, body=_REVOKED)),
}

_DEATHS_AT = (
    "request submit",
    "answer submit",
    "commit",
    "journal",
    "commit",
    "answer submit",
    "request upload",
    "answer upload",
    "rename",
    "fsync",
    "write",
    "unlink",
    "answer get",
    "request list",
    "mkdir",
)


class Violation(AssertionError):
    """A promise was broken; `kind` says which."""

    def __init__(self, kind: str, said: str) -> None:
        super().__init__(f"{kind}: {said}")
        self.kind = kind


class Unsound(Exception):
    """The machine was too busy for the service to keep what the program may rely on."""


# --- schedules ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trouble:
    """Some requests of one kind that go wrong."""

    name: str
    on: str
    times: int | None
    skip: int

    def fault(self) -> dict[str, Any]:
        """As the service takes it."""
        fault = dict(_TROUBLES[self.name][1])
        if fault.get("headers") == {"Retry-After": "date"}:
            again = format_datetime(datetime.now(UTC) + timedelta(seconds=5), usegmt=True)
            fault["headers"] = {"Retry-After": again}
        return fault | {"on": self.on, "times": self.times, "skip": self.skip}


@dataclass(frozen=True)
class Night:
    """One run, and what happens before it and to it."""

    die: Point | None = None
    troubles: tuple[Trouble, ...] = ()
    key: int = 0
    """Which of the two keys of the project it has."""
    skew_h: int = 0
    """How far ahead the program's clock is, hours."""
    list_lags: bool = False
    together: int = 0
    """So many uploads are held, then released at once; 0 for none."""
    expires: bool = False
    """Whether what was uploaded before is too old by now."""
    foreign: bool = False
    """Whether another program had `_FOREIGN` transcripts made since."""
    foreign_amid: bool = False
    """The same, while a page of the list is on its way."""
    replaced: tuple[tuple[int, int], ...] = ()
    """Recordings that hold another content since the night before."""

    def had(self) -> Counter[str]:
        """Its troubles but those of single requests, by name."""
        return +Counter(
            {
                "night: list lags": self.list_lags,
                "night: program's clock off by hours": bool(self.skew_h),
                "night: another key of the project": bool(self.key),
                "night: uploads held, then released together": bool(self.together),
                "night: uploads of earlier nights expired": self.expires,
                "night: 230 rows of another program": self.foreign,
                "night: 230 rows of another program, amid a walk": self.foreign_amid,
                "night: recordings replaced": len(self.replaced),
            }
        )


@dataclass(frozen=True)
class Schedule:
    """An archive, the account that it is sent to, and its nights."""

    contents: tuple[int, ...]
    """What each recording holds at the beginning."""
    failing: frozenset[int] = frozenset()
    """Contents that the service can never transcribe."""
    shaky: frozenset[int] = frozenset()
    """Contents that it fails at once, by its own fault."""
    uploads: int = 4
    concurrency: int = 8
    seconds: float = 0.0
    """How long a transcript takes."""
    nights: tuple[Night, ...] = ()


def draw(number: Number) -> Schedule:
    """A schedule from numbers."""
    recordings, kinds = number(20, 28), number(3, 16)
    nights = number(_DEATHS, 5)
    some = range(kinds)
    return Schedule(
        contents=tuple(number(0, kinds - 1) for _ in range(recordings)),
        failing=frozenset(kind for kind in some if number(0, 11) == 11),
        shaky=frozenset(kind for kind in some if number(0, 11) == 11),
        uploads=number(1, 6),
        concurrency=number(2, 12),
        seconds=number(0, 4) / 40,
        nights=tuple(
            _night(number, recordings, kinds, is_first=not night, dies=night < _DEATHS)
            for night in range(nights)
        ),
    )


def _night(number: Number, recordings: int, kinds: int, *, is_first: bool, dies: bool) -> Night:
    replaced: list[tuple[int, int]] = []
    if not is_first and number(0, 2) == 2:
        # Also contents that nobody has heard of yet.
        replaced = [(number(0, recordings - 1), number(0, kinds + 2)) for _ in range(number(1, 4))]
    return Night(
        die=death(number) if dies or number(0, 2) == 2 else None,
        troubles=tuple(trouble(number) for _ in range(number(0, 6))),
        key=number(0, 3) // 3,
        skew_h=(0, 0, 0, 5, -5, 30)[number(0, 5)],
        list_lags=bool(number(0, 1)),
        together=(0, 0, 2, 4)[number(0, 3)],
        expires=not is_first and number(0, 7) == 7,
        foreign=number(0, 7) == 7,
        foreign_amid=number(0, 7) == 7,
        replaced=tuple(replaced),
    )


def death(number: Number) -> Point:
    """An instant to be killed at."""
    name = _DEATHS_AT[number(0, len(_DEATHS_AT) - 1)]
    most = 40 if name in ("commit", "write", "fsync", "journal", "rename") else 12
    return Point(name, number(1, most), ("after", "before")[number(0, 1)])


def trouble(number: Number) -> Trouble:
    """Some requests that go wrong."""
    name = list(_TROUBLES)[number(0, len(_TROUBLES) - 1)]
    on = _TROUBLES[name][0]
    times: int | None = number(1, 6)
    if name in ("list down", "key revoked", "row says error", "id unknown for a while"):
        times = None
    return Trouble(name, on[number(0, len(on) - 1)], times, number(0, 4) * number(0, 2))


# --- playing --------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What a schedule came to."""

    runs: int = 0
    deaths: int = 0
    clean_runs: int = 0
    """How many runs without trouble it took until nothing was parked."""
    met: Counter[str] = field(default_factory=Counter)
    """Troubles that requests met, and those that nights had."""
    paid: int = 0
    """Contents that were transcribed."""
    paid_most: int = 0
    """The most that one of them was paid for."""


async def play(schedule: Schedule, machine: Machine, service: ServiceProcess, root: Path) -> Tally:
    """
    Runs a schedule from the beginning, in a folder that is not there yet.

    Raises:
        Violation: a promise was broken.
        Unsound: the service did not keep what the program may rely on, and nobody knows.
    """
    await service.clear_faults()
    await service.control("reset")
    player = _Player(schedule, machine, service, root)
    silence = Silence(service)
    try:
        await while_(player.play, silence.watch)
    except TimeoutError as error:
        raise _told(Violation("does not end", f"{error}"), player) from error
    except Violation as error:
        if error.kind == "paid once" and silence.longest_s > SILENCE_S:
            raise Unsound(f"the service was silent for {silence.longest_s:.2f} s") from error
        raise _told(error, player) from None
    finally:
        await service.clear_faults()
        await service.control("release")
    return player.tally


def _told(violation: Violation, player: _Player) -> Violation:
    """The same, with all that was done before."""
    violation.add_note("\n".join([f"{player.schedule}", *player.told]))
    return violation


async def while_(
    call: Callable[[], Awaitable[T]], *others: Callable[[], Coroutine[Any, Any, None]]
) -> T:
    """What a call returns or raises; the others are under way meanwhile, and then cancelled."""
    async with anyio.create_task_group() as group:
        for other in others:
            group.start_soon(other)
        try:
            outcome: T | Violation | TimeoutError = await call()
        except (Violation, TimeoutError) as error:  # by itself, not in a group
            outcome = error
        group.cancel_scope.cancel()
    if isinstance(outcome, Violation | TimeoutError):
        raise outcome
    return outcome


class Silence:
    """How long a service took to answer at the worst."""

    def __init__(self, service: ServiceProcess) -> None:
        self.longest_s = 0.0
        self._service = service

    async def watch(self) -> None:
        while True:
            asked = time.monotonic()
            await self._service.control("release", on="nothing")
            self.longest_s = max(self.longest_s, time.monotonic() - asked)
            await anyio.sleep(0.1)


class _Player:
    def __init__(
        self, schedule: Schedule, machine: Machine, service: ServiceProcess, root: Path
    ) -> None:
        self.schedule = schedule
        self.tally = Tally()
        self.told: list[str] = []
        """What was done, for whoever has to find out why it went wrong."""
        self._machine = machine
        self._service = service
        self._root = root
        self._output = root / "transcripts"
        self._holds = dict(enumerate(schedule.contents))

    async def play(self) -> None:
        schedule = self.schedule
        await self._service.control(
            "settings",
            concurrency=schedule.concurrency,
            transcript_seconds=schedule.seconds,
            upload_life_s=1e9,
        )
        for kind in schedule.shaky:
            content = digest(self._bytes(kind))
            await self._service.control("fail_content", content=content, sentence=_SERVER_FAULT)
        for number, kind in self._holds.items():
            await to_thread.run_sync(self._put, number, kind)
        (self._root / "overnight.toml").write_text(TIMEOUTS)
        for night in schedule.nights:
            await self._night(night)
        while self.tally.deaths < _DEATHS:  # whoever was not reached is caught here
            await self._night(Night(die=Point("commit", 2 + self.tally.deaths, "after")))
        ended = None
        for number in range(_CLEAN_RUNS):
            # What was asked for with one key only may be looked for with that key alone.
            ended = await self._night(Night(key=number % 2))
            self.tally.clean_runs += 1
            is_over = not ended.summary["parked"] and ended.exit_code in (0, 3)
            if is_over and number + 1 >= len(_KEYS):
                break
        assert ended is not None
        await self._judge(ended)

    # One night.

    async def _night(self, night: Night) -> Ended:
        for number, kind in night.replaced:
            await to_thread.run_sync(self._put, number, kind)
        if night.expires:
            await self._service.control("expire")
        if night.foreign:
            await self._service.control("foreign", count=_FOREIGN)
        await self._service.control("settings", list_lag_s=_LAG_S if night.list_lags else 0.0)
        # A refused key comes first: it spares no request that would meet something else.
        for each in sorted(night.troubles, key=lambda trouble: trouble.on != "*"):
            await self._service.add_fault(**each.fault())
        others: list[Callable[[], Coroutine[Any, Any, None]]] = []
        if night.together:
            others.append(partial(self._hold_uploads, night.together))
        if night.foreign_amid:
            others.append(self._crowd_the_list)
        ended = await while_(partial(self._run, night), *others)
        await self._service.clear_faults()
        await self._service.control("release")
        await self._check(night, ended)
        return ended

    async def _run(self, night: Night) -> Ended:
        ended = await self._machine.run(
            *("run", self._root / "recordings", "--output", self._output),
            *("--provider", self._service.url, "--config", self._root / "overnight.toml"),
            *("--settle", f"{SETTLE_S}s", "--json"),
            *("--uploads", str(self.schedule.uploads)),
            *("--concurrency", str(self.schedule.concurrency)),
            environ={"ASSEMBLYAI_API_KEY": _KEYS[night.key]},
            cwd=self._root,
            die=night.die,
            speed=SPEED,
            skew_s=3600 * night.skew_h,
        )
        self.tally.runs += 1
        self.tally.met += night.had()
        self.tally.deaths += ended.exit_code < 0
        self.told.append(f"--- {night}: exit code {ended.exit_code}")
        self.told += [line.decode() for line in ended.stdout.splitlines()]
        self.told.append(ended.stderr)
        return ended

    async def _hold_uploads(self, count: int) -> None:
        await self._service.add_fault(on="upload", action="hold_before", times=count)
        with anyio.move_on_after(0.5):
            await self._service.held("upload", count)
        await self._service.control("release", on="upload")

    async def _crowd_the_list(self) -> None:
        await self._service.add_fault(on="list", action="hold", skip=2)
        await self._service.held("list")
        await self._service.control("foreign", count=_FOREIGN)
        await self._service.control("release", on="list")

    # Recordings.

    def _bytes(self, kind: int) -> bytes:
        script = f"ERROR:{_PERMANENT}\n" if kind in self.schedule.failing else "WORDS:9\n"
        return (script + f"the content {kind}\n" * 20).encode()

    def _path(self, number: int) -> Path:
        return self._root / "recordings" / f"{number % 3}" / f"{number:02}.wav"

    def _put(self, number: int, kind: int) -> None:
        self._holds[number] = kind
        path = self._path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._bytes(kind))
        changed = time.time() - 3600
        os.utime(path, (changed, changed))

    # Promises.

    async def _check(self, night: Night, ended: Ended) -> None:
        """What holds after each run."""
        oracle = await self._service.oracle()
        self._must_be_paid_once(oracle)
        must(
            "bounded",
            oracle["peak_uploads"] <= self.schedule.uploads,
            f"{oracle['peak_uploads']} uploads at once",
        )
        if ended.exit_code < 0:
            return
        must(
            "a bug",
            ended.exit_code in (0, 3, 4, 5) and "Traceback" not in ended.stderr,
            f"exit code {ended.exit_code}\n{ended.stderr}",
        )
        summary = ended.summary
        outcomes = ("written", "already_written", "kept", "failed", "skipped", "parked")
        counts = {outcome: summary[outcome] for outcome in outcomes}
        must(
            "accounted",
            sum(counts.values()) == summary["found"] == len(self._holds),
            f"{len(self._holds)} recordings, in the summary {summary['found']}: {counts}",
        )
        for outcome in ("failed", "skipped", "parked"):
            reasons = summary["reasons"].get(outcome, {})
            must(
                "accounted",
                sum(reasons.values()) == counts[outcome],
                f"{counts[outcome]} {outcome}, by reason {reasons}",
            )
        unfinished = [str(path) for path in self._output.rglob("*~overnight")]
        must("whole", not unfinished, f"left behind: {unfinished}")

    def _must_be_paid_once(self, oracle: Mapping[str, Any]) -> None:
        twice = {content: paid for content, paid in oracle["billable"].items() if paid > 1}
        must("paid once", not twice, f"{twice} of {oracle['transcripts']}")

    async def _judge(self, last: Ended) -> None:
        """What holds once all troubles are over."""
        oracle = await self._service.oracle()
        log = await self._service.log()
        self._count(oracle, log)
        # Of another program a transcript has no content but its address.
        ours = [row for row in oracle["transcripts"] if not row["content"].startswith("https://")]
        errors = Counter(row["content"] for row in ours if row["status"] == "error")
        must("asked once more", max(errors.values(), default=0) <= 2, f"{errors}")
        wanted = [digest(self._bytes(kind)) for kind in self._holds.values()]
        hopeless = {digest(self._bytes(kind)) for kind in self.schedule.failing}
        hopeless |= {content for content, times in errors.items() if times > 1}
        failed = sum(content in hopeless for content in wanted)
        summary = last.summary
        must("nothing parked", not summary["parked"], f"{summary['reasons']}")
        must("nothing skipped", not summary["skipped"], f"{summary['reasons']}")
        must("failed", summary["failed"] == failed, f"{failed} are hopeless: {summary}")
        await self._judge_results(ours, hopeless)
        doubts = 8 * self.tally.deaths + sum(bool(c["fault"]) for c in log if c["kind"] == "submit")
        in_flight = -(-5 * self.schedule.concurrency // 4)
        must(
            "bounded",
            oracle["peak_open"] <= in_flight + doubts,
            f"{oracle['peak_open']} transcripts at once, with {doubts} lost answers",
        )

    async def _judge_results(self, ours: list[dict[str, Any]], hopeless: set[str]) -> None:
        results = await to_thread.run_sync(_read_results, self._output)
        versions = await to_thread.run_sync(_read_results, self._output / ".overnight" / "versions")
        contents = {row["id"]: row["content"] for row in ours}
        saved = [*results.items(), *versions.items()]
        said = await self._said({_id_of(body) for _, body in saved})
        for name, body in saved:
            must("whole", said[_id_of(body)] == body, f"{name} is not what the service says")
        for number, kind in self._holds.items():
            content, path = digest(self._bytes(kind)), self._path(number)
            name = f"{path.relative_to(self._root / 'recordings')}.json"
            if content not in hopeless:
                must("lost", name in results, f"{name} is not there")
                held = contents.get(_id_of(results[name]))
                must("lost", held == content, f"{name} is the result of another content")
        for row in ours:
            if row["is_billed"]:
                must("lost", row["id"] in said, f"{row} was paid for and is nowhere")

    async def _said(self, ids: Iterable[str]) -> dict[str, bytes]:
        """What the service says of each id."""
        said = {}
        async with aiohttp.ClientSession(headers={"Authorization": _KEYS[0]}) as http:
            for each in ids:
                async with http.get(f"{self._service.url}/v2/transcript/{each}") as answer:
                    said[each] = await answer.read()
        return said

    def _count(self, oracle: Mapping[str, Any], log: Iterable[Mapping[str, Any]]) -> None:
        tally = self.tally
        billable = oracle["billable"]
        tally.paid, tally.paid_most = len(billable), max(billable.values(), default=0)
        for call in log:
            if call["fault"]:
                status = f" {call['status']}" if call["fault"] == "answer" else ""
                tally.met[f"{call['kind']} {call['fault']}{status}"] += 1


def must(kind: str, holds: bool, said: str) -> None:
    """Raise `Violation` unless it holds."""
    if not holds:
        raise Violation(kind, said)


def digest(content: bytes) -> str:
    """The sha256, hex."""
    return sha256(content).hexdigest()


def _id_of(result: bytes) -> str:
    try:
        return str(json.loads(result)["id"])
    except (ValueError, KeyError, TypeError):
        raise Violation("whole", f"a result is no whole JSON: {result[:80]!r}") from None


def _read_results(folder: Path) -> dict[str, bytes]:
    """Every result below a folder by its name; not what a state folder in it holds."""
    return {
        name: path.read_bytes()
        for path in sorted(folder.rglob("*.json"))
        if not (name := str(path.relative_to(folder))).startswith(".overnight")
    }
