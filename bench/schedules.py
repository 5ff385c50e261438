"""
What thousands of bad nights come to: random schedules of crashes and faults, played to their end.

    python bench/schedules.py [--lives] [--schedules 2000] [--seed 1] [--workers 2]

Each schedule has a seed of its own, from `--seed` on: `--seed N --schedules 1` plays one again.
With `--lives` each is the life of an archive over weeks. What they are made of, and what is asked
of them, is in `tests/support/schedules.py` and `tests/support/lives.py`. Prints a Markdown table
for bench/README.md, and each broken promise in full to stderr; then its exit code is 1.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import anyio

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.support import lives, schedules  # noqa: E402  (a bench is run as a script)
from tests.support.machine import Machine, machine  # noqa: E402
from tests.support.schedules import Tally, Unsound, Violation  # noqa: E402
from tests.support.service_process import ServiceProcess, service_process  # noqa: E402

_BATCH = 20  # a fork server and a service of its own for so many
_TRIES = 3  # of a schedule that the machine was too busy for


@dataclass
class Report:
    """What some schedules came to."""

    tallies: list[Tally] = field(default_factory=list)
    broken: list[tuple[int, str, str]] = field(default_factory=list)
    """Seed, kind and what was said."""
    unsound: list[int] = field(default_factory=list)

    def add(self, other: "Report") -> None:
        """What others came to, too."""
        self.tallies += other.tallies
        self.broken += other.broken
        self.unsound += other.unsound

    def count(self, kind: str) -> int:
        """How many schedules broke a promise in this way."""
        return sum(each == kind for _, each, _ in self.broken)


async def _played(
    seed: int, is_life: bool, running: Machine, service: ServiceProcess, root: Path
) -> Tally:
    number = Random(seed).randint
    if is_life:
        return await lives.live(lives.draw(number), running, service, root)
    return await schedules.play(schedules.draw(number), running, service, root)


async def _play(seeds: Sequence[int], is_life: bool) -> Report:
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        async with machine() as running, service_process() as service:
            for seed in seeds:
                for again in range(_TRIES):
                    root = Path(folder, f"{seed}-{again}")
                    try:
                        tally = await _played(seed, is_life, running, service, root)
                    except Unsound:
                        if again + 1 == _TRIES:
                            report.unsound.append(seed)
                        continue
                    except Violation as violation:
                        said = "\n".join([str(violation), *getattr(violation, "__notes__", ())])
                        report.broken.append((seed, violation.kind, said))
                    else:
                        report.tallies.append(tally)
                    break
    return report


def play_batch(is_life: bool, seeds: Sequence[int]) -> Report:
    """Plays the schedules, or lives, of these seeds, one after the other."""
    return anyio.run(_play, seeds, is_life)


def table(report: Report, elapsed_s: float) -> Iterable[str]:
    """The lines of the tables."""
    tallies = report.tallies
    met = sum((tally.met for tally in tallies), Counter[str]())
    yield "| schedules | runs | kills | troubles met | contents paid | most for one | lost |" + (
        " paid twice | broken in all | undecided | minutes |"
    )
    yield "|---" * 11 + "|"
    yield (
        f"| {len(tallies) + len(report.broken):,} | {sum(t.runs for t in tallies):,} "
        f"| {sum(t.deaths for t in tallies):,} | {met.total():,} "
        f"| {sum(t.paid for t in tallies):,} | {max((t.paid_most for t in tallies), default=0)} "
        f"| {report.count('lost')} | {report.count('paid once')} | {len(report.broken)} "
        f"| {len(report.unsound)} | {elapsed_s / 60:.0f} |"
    )
    yield ""
    yield "| trouble | requests or nights that met it |"
    yield "|---|---|"
    for name, count in met.most_common():
        yield f"| {name} | {count:,} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--lives", action="store_true", help="of archives, over weeks")
    parser.add_argument("--schedules", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1, help="of the first schedule")
    parser.add_argument("--workers", type=int, default=2, help="processes that play them")
    given = parser.parse_args()
    seeds = range(given.seed, given.seed + given.schedules)
    batches = [seeds[at : at + _BATCH] for at in range(0, len(seeds), _BATCH)]
    report, began = Report(), time.monotonic()
    with ProcessPoolExecutor(given.workers) as pool:
        for played in pool.map(partial(play_batch, given.lives), batches):
            report.add(played)
            for seed, _, said in played.broken:
                print(f"--- seed {seed}: {said}\n", file=sys.stderr, flush=True)
            so_many = len(report.tallies) + len(report.broken) + len(report.unsound)
            so_far = f"{so_many:,} played, {len(report.broken)} broken"
            print(so_far, file=sys.stderr, flush=True)
    for line in table(report, time.monotonic() - began):
        print(line)
    sys.exit(bool(report.broken))
    if report.unsound:
        print(f"undecided, since the machine was too busy: {report.unsound}", file=sys.stderr)
    raise SystemExit(1 if report.broken else 0)


if __name__ == "__main__":
    main()
