"""
A month of nights on a moved clock: every recording accounted for, nothing paid twice, caps held to
the cent, and reports that add up.

From 3 March to 1 April 2026, in Berlin: over the change to daylight saving time and the end of a
month. Each evening brings recordings, and most nights trouble. After each one the books of the
program are held against those of the service, in whole micro-dollars and seconds.
"""

import json
import math
import signal
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from pipeline.errors import ExitCode
from pipeline.events import Skipped, Summary, encode
from pipeline.report import words
from tests.support.clock import MovableLoop, advance
from tests.support.machine import Machine, Point, machine
from tests.support.nights import PRICES, ZONE, Night, Nights, at, micro_usd, nights, sound
from tests.support.service import Fault
from tests.support.service_account import Transcript

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

HOUR = timedelta(hours=1)
FIRST, LAST = date(2026, 3, 3), date(2026, 4, 1)
SOURCES = ("calls", "meetings", "phone")
ENDS = ("written", "already_written", "kept", "failed", "skipped", "parked")

RATION_H = 1.0
LONGEST_S = 2_400
BACKLOG = 36
MAX_COST, MAX_COST_MONTH = 1.5, 15.35
DEAREST = 140_000
"""Micro-dollars, of what a day brings."""
UPLOAD_LIMIT = 300_000
TOO_SHORT = "ERROR:Audio duration is too short.\n"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """A loop whose time the tests can move."""
    return "asyncio", {"loop_factory": MovableLoop}


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Nights]:
    """Three sources; what is new in one of them is asked for with another model."""
    sources: list[dict[str, Any]] = [
        {"folder": str(tmp_path / "recordings" / name)} for name in SOURCES
    ]
    sources[2]["transcript"] = {"speech_models": ["universal-2"]}
    async with nights(
        tmp_path,
        source=sources,
        backlog={"hours_per_night": RATION_H},
        max_cost=MAX_COST,
        max_cost_month=MAX_COST_MONTH,
        uploads=1,  # so that the order of uploads is that of turns
    ) as archive:
        archive.service.upload_limit_bytes = UPLOAD_LIMIT
        for name in SOURCES:
            (archive.recordings / name).mkdir(parents=True)
        yield archive


# --- the books ------------------------------------------------------------------------------------


def asked_for(transcript: Transcript) -> tuple[str, str]:
    """What may be paid for once."""
    return transcript.content, json.dumps(transcript.options, sort_keys=True)


def evening(moment: datetime) -> date:
    """The evening of the night that a moment belongs to."""
    return (moment.replace(tzinfo=None) - timedelta(hours=12)).date()


def in_micro_usd(amount_usd: float | None) -> int:
    assert amount_usd is not None
    return round(amount_usd * 1e6)


@dataclass
class Month:
    """The nights so far, and what is true of them."""

    archive: Nights
    machine: Machine
    kinds: dict[str, str] = field(default_factory=dict)
    """Recording → `good`, `bad` (fails each time), or `left out` (skipped each time)."""
    contents: dict[str, str] = field(default_factory=dict)
    """Recording → sha256 of its bytes."""
    changed: dict[str, datetime] = field(default_factory=dict)
    """Recording → its last change."""
    nights: list[Night] = field(default_factory=list)
    paid: dict[str, int] = field(default_factory=dict)
    """Transcript → micro-dollars, of those whose completion the program knows of."""
    failed: set[str] = field(default_factory=set)
    """Contents that failed before."""

    def put(self, name: str, content: bytes, changed: datetime, kind: str = "good") -> None:
        """One more recording."""
        self.archive.put(name, content, changed)
        self.kinds[name], self.contents[name] = kind, sha256(content).hexdigest()
        self.changed[name] = changed

    def there(self) -> list[str]:
        """The recordings whose source is there."""
        return [name for name in self.kinds if (self.archive.recordings / name).exists()]

    async def night(
        self,
        began: datetime,
        meanwhile: Callable[[Night], Awaitable[None]] | None = None,
        **given: Any,
    ) -> Night:
        """A night in this loop, and its books."""
        night = await self.archive.night(began, meanwhile=meanwhile, **given)
        await self.close(night, **given)
        return night

    async def plain(self, began: datetime, **given: Any) -> Night:
        """A night on which nothing is left that could be done."""
        night = await self.night(began, **given)
        assert night.summary is not None
        kinds = Counter(self.kinds[name] for name in self.there())
        late = sum(self.is_late(name, began) for name in self.there())
        backlog = {c for name, c in self.contents.items() if name.startswith("calls/archive/")}
        waiting = backlog - {t.content for t in self.archive.service if t.is_billed}
        assert night.summary.failed == kinds["bad"]
        assert night.summary.skipped == kinds["left out"] + late
        assert night.summary.parked == len(waiting)
        alarms = night.summary.failed - night.summary.given_up
        assert night.code == (ExitCode.PARTIAL if alarms else ExitCode.DONE)
        if waiting:
            hours = sum(t.audio_duration for t in night.asked if t.content in backlog) / 3600
            assert hours >= RATION_H
        return night

    def waiting(self) -> list[str]:
        """Good recordings that nothing was paid for."""
        had = {t.content for t in self.archive.service if t.id in self.paid}
        good = (name for name, kind in self.kinds.items() if kind == "good")
        return [name for name in good if self.contents[name] not in had]

    def has_result(self, name: str) -> bool:
        """Whether its result is there, and that of its own content."""
        path = self.archive.output / f"{name}.json"
        if not path.exists():
            return False
        transcript = self.archive.service.transcripts[json.loads(path.read_bytes())["id"]]
        return transcript.content == self.contents[name]

    def is_late(self, name: str, now: datetime) -> bool:
        """Whether a good recording may still be written."""
        return self.kinds[name] == "good" and now - self.changed[name] < timedelta(seconds=60)

    # --- the books --------------------------------------------------------------------------------

    async def close(self, night: Night, **given: Any) -> None:
        """Hold all books against each other, after a night of which there is a summary."""
        assert night.summary is not None
        self.nights.append(night)
        self._require_order(night)
        completed = self._require_paid_once(night, self.archive.usual | given)
        self._require_accounts(night.summary, completed)
        folder = self.archive.state / "runs" / night.summary.run_id
        await self._require_told(night, night.summary, folder)
        report = json.loads(await anyio.Path(folder / "report.json").read_bytes())
        page = await anyio.Path(folder / "report.html").read_text("utf-8")
        self._require_report(night, night.summary, report)
        self._require_chart(night, report, page)
        await self._require_ledger()

    def _require_order(self, night: Night) -> None:
        """New ones come before those that failed, and those before the backlog and its ration."""
        backlog = {c for name, c in self.contents.items() if name.startswith("calls/archive/")}
        turns = [
            2 if c in backlog else 1 if c in self.failed else 0 for c in dict.fromkeys(night.sent)
        ]
        assert turns == sorted(turns)
        lengths = [t.audio_duration for t in night.asked if t.content in backlog]
        assert sum(lengths[:-1]) < RATION_H * 3600
        bad = {self.contents[name] for name, kind in self.kinds.items() if kind == "bad"}
        self.failed |= bad.intersection(night.sent)

    def _require_paid_once(self, night: Night, told: dict[str, Any]) -> list[Transcript]:
        """Nothing twice, no cap exceeded; the transcripts that the program has now seen finish."""
        alive = [t for t in self.archive.service if t.status != "error"]
        assert set(Counter(map(asked_for, alive)).values()) <= {1}
        cost = {t.id: micro_usd(t, night.prices) for t in alive} | self.paid
        spent = Counter[str]()
        for each in self.nights:
            of_night = sum(cost.get(t.id, 0) for t in each.asked)
            spent[f"{each.began:%Y-%m}"] += of_night
        assert of_night <= in_micro_usd(told["max_cost"])
        assert spent[f"{night.began:%Y-%m}"] <= in_micro_usd(told["max_cost_month"])
        completed = [t for t in alive if t.is_billed and t.id not in self.paid]
        self.paid |= {t.id: cost[t.id] for t in completed}
        return completed

    def _require_accounts(self, summary: Summary, completed: list[Transcript]) -> None:
        """Each recording has one outcome, and what was paid is what finished."""
        assert summary.found == len(self.there()) == sum(getattr(summary, end) for end in ENDS)
        for end in ("found", *ENDS):
            assert getattr(summary, end) == sum(getattr(each, end) for each in summary.sources)
        for end in ("failed", "skipped", "parked"):
            assert getattr(summary, end) == sum(summary.reasons.get(end, {}).values())
        assert in_micro_usd(summary.cost_usd) == sum(self.paid[t.id] for t in completed)
        assert round(summary.audio_hours * 3600) == sum(t.audio_duration for t in completed)

    async def _require_told(self, night: Night, summary: Summary, folder: Path) -> None:
        """Who listens is told of the beginning and the end, the latter as its file has it."""
        is_well = summary.exit_code in (0, 8, 10)
        end, beat = ("success", "beat") if is_well else ("failure", "beat/fail")
        assert sorted(each.moment for each in night.told) == sorted(
            ["start", "beat/start", end, beat]
        )
        (body,) = (each.body for each in night.told if each.moment == end)
        assert body == encode(summary)
        assert body + b"\n" == await anyio.Path(folder / "summary.json").read_bytes()

    def _require_report(self, night: Night, summary: Summary, report: dict[str, Any]) -> None:
        """The report says what the summary does, and the line as well."""
        told = ("run_id", "found", *ENDS, "exit_code", "audio_hours", "cost_usd", "reason")
        for name in told:
            assert report[name] == getattr(summary, name), name
        for each, source in zip(report["sources"], summary.sources, strict=True):
            for name in ("name", "found", *ENDS):
                assert each[name] == getattr(source, name), name
        assert night.began <= datetime.fromisoformat(report["began_time"]) <= night.began + HOUR
        assert report["zone"] == ZONE.key
        assert summary.run_id in night.line
        given_up = f" ({summary.given_up:,} given up before)" if summary.given_up else ""
        counts = f"{summary.failed:,} failed{given_up}, {summary.skipped:,} skipped"
        assert counts in night.line
        assert f"exit code {summary.exit_code}" in night.line

    def _require_chart(self, night: Night, report: dict[str, Any], page: str) -> None:
        """Month and nights, in both forms of the report, come to what the service billed."""
        of_evening, of_month = defaultdict[str, list[Transcript]](list), list[Transcript]()
        for each in self.nights:
            billed = [t for t in each.asked if t.id in self.paid]
            of_evening[evening(each.began).isoformat()] += billed
            of_month += billed if each.began.month == night.began.month else []
        assert report["month"] == f"{night.began:%Y-%m}"
        assert in_micro_usd(report["month_cost_usd"]) == sum(self.paid[t.id] for t in of_month)
        assert round(report["month_audio_hours"] * 3600) == sum(t.audio_duration for t in of_month)
        assert report["nights"][-1]["night"] == evening(night.began).isoformat()
        for day in report["nights"]:
            billed = of_evening.pop(day["night"], [])
            seconds = sum(t.audio_duration for t in billed)
            cost = sum(self.paid[t.id] for t in billed)
            assert round(day["audio_hours"] * 3600) == seconds, day
            assert in_micro_usd(day["cost_usd"]) == cost, day
            shown = (
                f"{words.hours(seconds / 3600)}, {words.count(day['transcripts'], 'transcript')}"
            )
            assert f"{words.day(date.fromisoformat(day['night']))}: {shown}, " in page
        assert not any(of_evening.values())
        total = sum(t.audio_duration for t in self.archive.service if t.id in self.paid)
        assert f"over 30 nights: {words.hours(total / 3600)} in all" in page

    async def _require_ledger(self) -> None:
        """The ledger has what the service billed, to the second and the micro-dollar."""
        rows = await self.archive.rows(
            "SELECT transcript_id, duration_s, price_usd FROM attempts WHERE outcome = 'completed'"
        )
        service = self.archive.service
        assert {row[0]: in_micro_usd(row[2]) for row in rows} == self.paid
        assert {row[0]: row[1] for row in rows} == {
            each: service.transcripts[each].audio_duration for each in self.paid
        }


# --- what comes -----------------------------------------------------------------------------------


def fill(month: Month) -> None:
    """The archive that lies there when the month begins."""
    for number in range(BACKLOG):
        name = f"calls/archive/{number:02}.wav"
        month.put(name, sound(LONGEST_S, name), at("2025-11-01", "12:00") + timedelta(number))


def arrive(month: Month, number: int, today: date) -> None:
    """What a day brings: in each source one recording at least, and every few days a bad one."""
    changed = at(today, "18:00")
    for source in SOURCES:
        name = f"{source}/{today}.wav"
        month.put(name, sound(300 + 37 * number, name), changed)
    if number % 3 == 0:  # equal in two sources, and with other options in a third
        for source in SOURCES if number % 2 else SOURCES[:2]:
            month.put(f"{source}/{today}-equal.wav", sound(450, f"equal {today}"), changed)
    if number % 5 == 1:
        bad = f"{TOO_SHORT}{today}".encode()
        month.put(f"meetings/{today}-short.wav", bad, changed, "bad")
    if number % 7 == 2:
        month.put(f"calls/{today}-empty.wav", b"", changed, "left out")
    if number % 4 == 3:
        month.put(f"phone/{today}-late.wav", sound(90, f"late {today}"), at(today, "22:29:30"))
    if number == 4:
        refused = sound(40, "refused", rate_hz=UPLOAD_LIMIT // 40)
        month.put(f"phone/{today}-refused.wav", refused, changed, "bad")
    if number == 6:
        costly = sound(16_000, "costly")
        month.put(f"calls/{today}-costly.wav", costly, changed, "left out")


# --- what happens ---------------------------------------------------------------------------------

Plan = Callable[[Month, date], Awaitable[None]]


async def plain(month: Month, today: date) -> None:
    await month.plain(at(today, "22:30"))


async def answers_lost(month: Month, today: date) -> None:
    """Answers to submits are lost, one before and one after its effect."""
    month.archive.service.faults.add(Fault(on="submit", action="drop_after"))
    month.archive.service.faults.add(Fault(on="submit", action="drop_before"))
    await month.plain(at(today, "22:30"))


async def no_network(month: Month, today: date) -> None:
    """Nothing listens at the service's address for longer than is waited for it."""
    async with month.archive.unreachable():
        night = await month.night(at(today, "22:30"), wait_network="300ms")

    assert night.code == ExitCode.TRY_LATER
    assert night.asked == []


async def source_missing(month: Month, today: date) -> None:
    """A source is not there: the others have their night."""
    folder = month.archive.recordings / "meetings"
    folder.rename(folder.with_name("elsewhere"))
    night = await month.night(at(today, "22:30"))
    folder.with_name("elsewhere").rename(folder)

    assert night.code == ExitCode.PARTIAL
    assert night.summary is not None
    calls, meetings, phone = night.summary.sources
    assert (meetings.name, meetings.found) == ("meetings", 0)
    assert str(folder) in (meetings.reason or "")
    assert calls.written
    assert phone.written


async def killed(month: Month, today: date) -> None:
    """The process is killed as the service has taken its second request."""
    began = at(today, "22:30")
    with month.archive.noted(began) as night:
        point = Point("answer submit", 2, "before")
        ended = await month.archive.process(month.machine, began, die=point)

    assert ended.exit_code == -signal.SIGKILL
    assert len(night.asked) >= 2
    assert night.moments == ["start"]
    month.nights.append(night)
    rows = await month.archive.rows("SELECT transcript_id FROM attempts WHERE outcome IS NOT NULL")
    known = {row[0] for row in rows}
    month.paid |= {t.id: micro_usd(t, PRICES) for t in night.asked if t.id in known}


async def two_at_once(month: Month, today: date) -> None:
    """A second timer fires while the night is under way."""
    archive, began = month.archive, at(today, "22:30")
    ended = {}

    async def first() -> None:
        ended["first"] = await archive.process(month.machine, began)

    with archive.noted(began) as night:
        archive.service.faults.add(Fault(on="list", action="hold"))
        async with anyio.create_task_group() as group:
            group.start_soon(first)
            await archive.service.held("list")
            second = await archive.process(month.machine, began)
            archive.service.release()

    assert second.exit_code == ExitCode.LOCKED
    assert night.moments.count("start") == 1
    runs = sorted((archive.state / "runs").iterdir())
    summary = await anyio.Path(runs[-1] / "summary.json").read_bytes()
    night.summary = msgspec.json.decode(summary, type=Summary)
    night.code, night.line = ended["first"].exit_code, ended["first"].stdout.decode()
    assert night.code == night.summary.exit_code
    await month.close(night)


def require_planned(night: Night, planned: ExitCode, cause: str) -> None:
    """The night ended with a planned cause, which hides no recording that failed."""
    assert night.summary is not None
    alarms = night.summary.failed - night.summary.given_up
    assert night.code == (ExitCode.PARTIAL if alarms else planned), night.summary.why
    assert night.summary.why[-1] == cause
    assert night.line.endswith(cause)


async def cap_of_a_run(month: Month, today: date) -> None:
    """What one run may spend is less than what there is to do."""
    night = await month.night(at(today, "22:30"), max_cost=0.15)

    require_planned(night, ExitCode.CAP_REACHED, "cap of $0.15 reached")
    assert night.asked


async def other_prices(month: Month, today: date) -> None:
    """Prices rise for a night."""
    prices = {model: 2 * price for model, price in PRICES.items()}
    night = await month.plain(at(today, "22:30"), prices=prices)

    assert night.prices == prices


async def disk_full(month: Month, today: date) -> None:
    """There is less room than has to be free."""
    night = await month.night(at(today, "22:30"), min_free="1000000TB")

    assert night.code == ExitCode.TRY_LATER
    assert night.asked == []


async def daylight_saving(month: Month, today: date) -> None:
    """The clock is put forward amid the night: the window closes by it, and nothing is lost."""
    service, tomorrow = month.archive.service, today + timedelta(1)
    began, shut = at(tomorrow, "01:50"), at(tomorrow, "06:00")
    due = {month.contents[f"{source}/{today}.wav"] for source in SOURCES}

    def at_work() -> set[str]:
        return {t.content for t in service if t.status in ("queued", "processing")}

    def is_all_seen(night: Night) -> bool:
        """Nothing is being probed any more: a clock that is put forward would end that."""
        skipped = [event.recording for event in night.events if isinstance(event, Skipped)]
        return at_work() == due and any("costly" in recording for recording in skipped)

    async def meanwhile(night: Night) -> None:
        await service.until(lambda: is_all_seen(night))
        await advance(shut.timestamp() - began.timestamp() - 60)
        looks = service.requests["list"]
        await service.until(lambda: service.requests["list"] > looks + 1)
        await advance(60)

    service.transcript_seconds = math.inf
    night = await month.night(began, meanwhile=meanwhile)

    assert shut.timestamp() - began.timestamp() == 3 * 3600 + 600
    require_planned(night, ExitCode.WINDOW_CLOSED, "outside of the window 22:00-06:00")
    assert night.summary is not None
    assert night.summary.parked == len(due)
    for transcript in night.asked:
        service.complete(transcript.id)
    service.transcript_seconds = 0.0


async def month_spent(month: Month, today: date) -> None:
    """What may be spent in a month is spent, but for less than one more recording costs."""
    night = await month.night(at(today, "22:30"))
    spent = sum(month.paid[t.id] for each in month.nights for t in each.asked if t.id in month.paid)
    missing = [name for name in month.waiting() if str(today) in name]

    require_planned(night, ExitCode.CAP_REACHED, f"cap of ${MAX_COST_MONTH:.2f} for March reached")
    assert missing
    assert 0 <= in_micro_usd(MAX_COST_MONTH) - spent < DEAREST


SPECIAL: dict[date, Plan] = {
    date(2026, 3, 5): answers_lost,
    date(2026, 3, 8): no_network,
    date(2026, 3, 10): source_missing,
    date(2026, 3, 12): killed,
    date(2026, 3, 14): two_at_once,
    date(2026, 3, 16): cap_of_a_run,
    date(2026, 3, 20): other_prices,
    date(2026, 3, 22): disk_full,
    date(2026, 3, 28): daylight_saving,
    date(2026, 3, 30): month_spent,
    date(2026, 3, 31): month_spent,
}


async def test_a_month_of_nights(archive: Nights) -> None:
    """Whatever a night brings, each recording ends once, is paid once, and the books agree."""
    async with machine() as started:
        month = Month(archive, started)
        fill(month)
        for number in range((LAST - FIRST).days + 1):
            today = FIRST + timedelta(number)
            arrive(month, number, today)
            await SPECIAL.get(today, plain)(month, today)
        written = {name for name in month.kinds if month.has_result(name)}

    assert month.waiting() == []
    assert written == {name for name, kind in month.kinds.items() if kind == "good"}
