"""
Random lives of an archive: in, a draw of numbers; out, what a life came to, or `Violation`.

    life = draw(Random(7).randint)
    async with machine() as m, service_process() as service:
        tally = await live(life, m, service, folder)

A life is an archive of a few recordings and what befalls it over weeks: recordings are added,
edited in place, copied, renamed and removed; results get lost; and between that the real command
runs, with other options and back, with every flag that asks again, deletes, promotes, rolls back,
adopts or repairs, under troubles of the service, and killed amid it. Then clean runs follow.

The oracle is the service's own account and the bytes on disk. After each step: no request key is
paid for more often than the user asked for it, what was paid lies whole on disk or can be fetched,
and every recording is accounted for. At the end each recording has the transcript of its own bytes,
with the options that were asked for last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyio import to_thread

from tests.support.machine import Ended, Machine, Point
from tests.support.schedules import (
    SETTLE_S,
    SILENCE_S,
    SPEED,
    TIMEOUTS,
    Number,
    Silence,
    Tally,
    Trouble,
    Unsound,
    Violation,
    death,
    digest,
    must,
    trouble,
    while_,
)
from tests.support.service_process import ServiceProcess

__all__ = ["Life", "Step", "draw", "live"]

_OPTIONS: tuple[dict[str, Any], ...] = ({}, {"punctuate": False}, {"speaker_labels": True})
_PROMOTES = ("always", "better", "never")
_KINDS = 5
_HOPELESS = 4  # the last kind: the service can never transcribe it
_CLEAN_RUNS = 6

_RUNS: tuple[tuple[str, ...], ...] = (
    (),
    (),
    ("--redo-changed",),
    ("--redo-changed",),
    ("--force",),
    ("--checksum",),
    ("--retry-failed",),
)
_ON_DISK = ("add", "edit", "edit unseen", "copy", "rename", "remove")
_ON_RESULTS = ("lose", "cut", "spoil", "lose versions")
_VERBS = (
    *("run", "run", "run", "reprocess", "reprocess", "rollback", "repair", "adopt"),
    *(*_ON_DISK, *_ON_RESULTS),
)
_OFTEN_AFTER: dict[str, tuple[str, ...]] = {
    "run": ("run", "reprocess", "edit", "lose"),
    "reprocess": ("run", "edit", "edit unseen", "rollback"),
    "rollback": ("run", "rollback", "edit"),
    "edit": ("run", "rollback", "reprocess"),
    "edit unseen": ("run", "rollback", "reprocess"),
    "lose versions": ("run",),
}
"""What is likely to go wrong with what came right before."""


@dataclass(frozen=True)
class Step:
    """One thing that befalls an archive."""

    verb: str
    number: int = 0
    """Which recording it befalls."""
    other: int = 0
    """Which other one, or what it holds from now on."""
    options: int = 0
    flags: tuple[str, ...] = ()
    die: Point | None = None
    troubles: tuple[Trouble, ...] = ()


@dataclass(frozen=True)
class Life:
    """What an archive holds at first, and its steps."""

    contents: tuple[int, ...]
    deletes: bool
    """Whether all runs have the service delete its copies."""
    steps: tuple[Step, ...]


def draw(number: Number) -> Life:
    """A life from numbers."""
    recordings = number(2, 5)
    contents = tuple(number(0, _KINDS - 1) for _ in range(recordings))
    steps = [Step("run")]
    for _ in range(number(3, 9)):
        steps.append(_step(number, recordings, after=steps[-1].verb))
    return Life(contents, bool(number(0, 2)), tuple(steps))


def _step(number: Number, recordings: int, after: str) -> Step:
    verbs = _OFTEN_AFTER.get(after, _VERBS) if number(0, 1) else _VERBS
    verb = verbs[number(0, len(verbs) - 1)]
    step = Step(verb, number(0, recordings), number(0, _KINDS - 1))
    if verb in (*_ON_DISK, *_ON_RESULTS):
        return step
    flags: tuple[str, ...] = ()
    if verb == "run":
        flags = _RUNS[number(0, len(_RUNS) - 1)]
    elif verb == "reprocess":
        flags = ("--promote", _PROMOTES[number(0, 2)])
    return Step(
        verb,
        step.number,
        step.other,
        options=number(0, len(_OPTIONS) - 1),
        flags=flags,
        die=death(number) if number(0, 2) == 2 else None,
        troubles=tuple(trouble(number) for _ in range(number(0, 2))),
    )


async def live(life: Life, machine: Machine, service: ServiceProcess, root: Path) -> Tally:
    """
    Play a life from the beginning, in a folder that is not there yet.

    Raises:
        Violation: a promise was broken.
        Unsound: the service did not keep what the program may rely on, and nobody knows.
    """
    await service.clear_faults()
    await service.control("reset")
    player, silence = _Player(life, machine, service, root), Silence(service)
    try:
        await while_(player.play, silence.watch)
    except (TimeoutError, Violation) as error:
        violation = error if isinstance(error, Violation) else Violation("does not end", f"{error}")
        if violation.kind == "paid once" and silence.longest_s > SILENCE_S:
            raise Unsound(f"the service was silent for {silence.longest_s:.2f} s") from error
        violation.add_note("\n".join([f"{life}", *player.told]))
        raise violation from None
    finally:
        await service.clear_faults()
        await service.control("release")
    return player.tally


class _Player:
    def __init__(self, life: Life, machine: Machine, service: ServiceProcess, root: Path) -> None:
        self.tally = Tally()
        self.told: list[str] = []
        """What was done, for whoever has to find out why it went wrong."""
        self._life = life
        self._machine = machine
        self._service = service
        self._root = root
        self._recordings = root / "recordings"
        self._output = root / "transcripts"
        self._holds: dict[str, int] = {}
        """What each recording holds, by its name."""
        self._asked_again: Counter[int] = Counter()
        """How often all was asked for anew, by options."""
        self._spoiled: set[str] = set()
        """Transcripts of which the user lost or spoiled a copy."""
        self._run_ids: list[str] = []

    async def play(self) -> None:
        self._recordings.mkdir(parents=True)
        (self._root / "overnight.toml").write_text(TIMEOUTS)
        for number, kind in enumerate(self._life.contents):
            self._put(f"{number}.wav", kind)
        for step in self._life.steps:
            await self._step(step)
            await self._check()
        for flags in ((), ("--redo-changed",)):
            last = await self._clean(flags)
        await self._judge(last)

    async def _clean(self, flags: tuple[str, ...]) -> Ended:
        """Run without trouble until nothing is parked."""
        for _ in range(_CLEAN_RUNS):
            ended = await self._run(Step("run", flags=flags))
            self.tally.clean_runs += 1
            if ended.exit_code in (0, 3) and not ended.summary["parked"]:
                break
        return ended

    async def _step(self, step: Step) -> None:
        self.tally.met[step.verb] += 1
        self.told.append(f"--- {step}")
        if step.verb in _ON_DISK:
            await to_thread.run_sync(self._change, step)
        elif step.verb in _ON_RESULTS:
            await to_thread.run_sync(self._damage, step)
        else:
            for each in sorted(step.troubles, key=lambda trouble: trouble.on != "*"):
                await self._service.add_fault(**each.fault())
            await self._run(step)
            await self._service.clear_faults()
            await self._service.control("release")

    # --- commands -----------------------------------------------------------------------------

    async def _run(self, step: Step) -> Ended:
        if "--force" in step.flags:
            self._asked_again[step.options] += 1
        ended = await self._machine.run(
            *self._command(step),
            environ={"ASSEMBLYAI_API_KEY": "scripted-key"},
            cwd=self._root,
            die=step.die,
            speed=SPEED,
        )
        self.tally.runs += 1
        self.tally.deaths += ended.exit_code < 0
        self.told.append(f"exit code {ended.exit_code}")
        self.told += [line.decode() for line in ended.stdout.splitlines()]
        self.told.append(ended.stderr)
        self._must_be_sound(step, ended)
        if step.verb == "run" and ended.exit_code == 0:
            await self._must_be_their_own()
        return ended

    def _command(self, step: Step) -> list[str | Path]:
        where: list[str | Path] = ["--output", self._output, "--provider", self._service.url]
        where += ["--config", self._root / "overnight.toml"]
        asked = [f"{key}={json.dumps(value)}" for key, value in _OPTIONS[step.options].items()]
        work = [*where, "--settle", f"{SETTLE_S}s", "--json"]
        work += [word for each in asked for word in ("--set", each)]
        work += ["--delete-remote"] * self._life.deletes
        match step.verb:
            case "run":
                return ["run", self._recordings, *work, *step.flags]
            case "reprocess":
                return ["reprocess", *work, *step.flags, "--yes"]
            case "rollback":
                run_id = self._run_ids[-1 - step.number % 2] if self._run_ids[1:] else "none"
                return ["reprocess", *work, "--rollback", run_id]
            case "adopt":
                return ["reprocess", self._recordings, *work, "--adopt", self._documents()]
            case "repair":
                return ["verify", *where, "--repair", "--json"]
        raise AssertionError(step.verb)

    def _documents(self) -> Path:
        """Copies of the results, as another tool may have left them."""
        documents = self._root / "documents"
        documents.mkdir(exist_ok=True)
        for result in self._output.glob("*.json"):
            shutil.copy(result, documents / result.name)
        return documents

    def _must_be_sound(self, step: Step, ended: Ended) -> None:
        if ended.exit_code < 0:
            return
        is_bug = "Traceback" in ended.stderr or ended.exit_code not in (0, 2, 3, 4, 5)
        must("a bug", not is_bug, f"exit code {ended.exit_code}\n{ended.stderr}")
        self._run_ids += [
            line["run_id"]
            for line in ended.lines
            if line["type"] == "run_started" and step.verb in ("run", "reprocess")
        ]
        if step.verb != "run" or not ended.stdout:
            return
        summary = ended.summary
        outcomes = ("written", "already_written", "kept", "failed", "skipped", "parked")
        counts = {outcome: summary[outcome] for outcome in outcomes}
        found = len(self._holds) if ended.exit_code in (0, 3) else summary["found"]
        must(
            "accounted",
            sum(counts.values()) == summary["found"] == found,
            f"{found} recordings, in the summary {summary['found']}: {counts}",
        )

    # --- recordings and results ---------------------------------------------------------------

    def _change(self, step: Step) -> None:
        names = sorted(self._holds)
        name = names[step.number % len(names)] if names else "0.wav"
        path, fresh = self._recordings / name, f"{step.number}-{len(self.told)}.wav"
        match step.verb:
            case "add":
                self._put(fresh, step.other)
            case "edit":
                self._put(name, step.other)
            case "edit unseen" if names:
                before = path.stat()
                self._put(name, step.other)
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            case "copy" if names:
                self._put(fresh, self._holds[name])
            case "rename" if names:
                path.rename(self._recordings / fresh)
                self._holds[fresh] = self._holds.pop(name)
            case "remove" if len(names) > 1:
                path.unlink()
                del self._holds[name]

    def _put(self, name: str, kind: int) -> None:
        self._holds[name] = kind
        path = self._recordings / name
        path.write_bytes(_bytes(kind))
        changed = path.stat().st_mtime - 3600 - len(self.told)
        os.utime(path, (changed, changed))

    def _damage(self, step: Step) -> None:
        versions = self._output / ".overnight" / "versions"
        where = versions if step.verb == "lose versions" else self._output
        results = sorted(where.glob("*.json"))
        for result in results if step.verb == "lose versions" else results[step.number :][:1]:
            body = result.read_bytes()
            self._spoiled.add(_id_of(body))
            match step.verb:
                case "cut":
                    result.write_bytes(body[: len(body) // 2])
                case "spoil":
                    result.write_bytes(body[:-2] + b"  ")
                case _:
                    result.unlink()

    # --- promises -----------------------------------------------------------------------------

    async def _check(self) -> None:
        """What holds after each step."""
        oracle = await self._service.oracle()
        paid = Counter(_request(row) for row in oracle["transcripts"] if row["is_billed"])
        for (content, options), times in paid.items():
            unasked = times - self._asked_again[options]
            must("paid once", unasked <= 1, f"{content} with {_OPTIONS[options]}: {times} times")
            self.tally.paid_most = max(self.tally.paid_most, unasked)
        self.tally.paid = paid.total()
        there = await to_thread.run_sync(self._ids_on_disk)
        for row in oracle["transcripts"]:
            if row["is_billed"] and row["is_deleted"] and row["id"] not in self._spoiled:
                must("lost", row["id"] in there, f"{row} is deleted, and nowhere")

    def _ids_on_disk(self) -> set[str]:
        found: set[str] = set()
        versions = self._output / ".overnight" / "versions"
        for result in (*self._output.glob("*.json"), *versions.glob("*.json")):
            body = result.read_bytes()
            if body.endswith(b"}"):  # neither cut nor spoiled by us
                found.add(_id_of(body))
        return found

    async def _judge(self, last: Ended) -> None:
        """What holds once all troubles are over."""
        oracle = await self._service.oracle()
        rows: Mapping[str, dict[str, Any]] = {row["id"]: row for row in oracle["transcripts"]}
        summary = last.summary
        must("nothing parked", not summary["parked"], f"{summary['reasons']}")
        must("nothing kept", not summary["kept"], f"{summary}")
        excused = {_request(rows[each]) for each in self._spoiled if rows[each]["is_deleted"]}
        for name, kind in self._holds.items():
            content, result = digest(_bytes(kind)), self._output / f"{name}.json"
            if kind == _HOPELESS or (content, 0) in excused:
                continue
            must("lost", result.exists(), f"{name} has no result: {summary['reasons']}")
            row = rows[_id_of(result.read_bytes())]
            must("its own", row["content"] == content, f"{name} has the result of other bytes")
            must("as asked", _request(row)[1] == 0, f"{name} has the result of other options")

    async def _must_be_their_own(self) -> None:
        """Whatever a run calls well done is the transcript of the bytes that are there now."""
        oracle = await self._service.oracle()
        contents = {row["id"]: row["content"] for row in oracle["transcripts"]}
        for name, kind in self._holds.items():
            result = self._output / f"{name}.json"
            must("lost", result.exists(), f"{name} has no result, and the exit code is 0")
            held = contents[_id_of(result.read_bytes())]
            must("its own", held == digest(_bytes(kind)), f"{name} has the result of other bytes")


def _bytes(kind: int) -> bytes:
    script = "ERROR:Audio duration is too short.\n" if kind == _HOPELESS else "WORDS:9\n"
    return (script + f"the content {kind}\n" * 20).encode()


def _request(row: Mapping[str, Any]) -> tuple[str, int]:
    """The content of a transcript, and which options it was asked for with."""
    said = {
        key: row["options"][key] for key in ("punctuate", "speaker_labels") if key in row["options"]
    }
    return row["content"], _OPTIONS.index(said)


def _id_of(result: bytes) -> str:
    """Also of one that was cut."""
    return result.partition(b'"id"')[2].split(b'"')[1].decode()
