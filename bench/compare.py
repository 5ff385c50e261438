"""
This program beside others: the same recordings, one service, one machine, a table each.

    python bench/compare.py                            # all of it, about half an hour
    python bench/compare.py --only small limited       # some workloads
    python bench/compare.py --only million --count 20000
    python bench/compare.py --plots bench              # draws the figures of the README as well

Prints Markdown for bench/README.md. Each contender is a process of its own on the first core, the
service (`bench/service.py`) one on the last, new for each run; contenders take turns. Elapsed
times are from the start of a process to its end, imports included; CPU time and memory are what
the kernel counted for it. Every recording has a content of its own, its number in front, which
comes back in the text of its transcript: a result is right if that is there, and if its file is
called after the right recording where it is called after one.

The ideal is the least that the account lets anybody take: the sum of the service times over its
concurrency, or as many windows as three requests a recording fill beyond the first, whichever is
more.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from plots import Series, chart  # noqa: E402  (a bench is run as a script)
from service import KINDS, NUMBER_BYTES, number_said  # noqa: E402

_KEY = "bench-key"
_OURS = "overnight"
_LONGEST_S = 1800.0
_OLD_S = 3600.0
_IN_A_FOLDER = 500
_STOPPED = 143
_LEAST_REQUESTS = 3
"""For one recording: upload, submit, and the answer."""
_FLAT_AFTER = 50_000

_MEASURED = """
import json, os, sys, time
began = time.time()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
print(pid, flush=True)
_, status, used = os.wait4(pid, 0)
print(json.dumps({
    "exit_code": os.waitstatus_to_exitcode(status),
    "began_at": began,
    "elapsed_s": time.time() - began,
    "cpu_s": used.ru_utime + used.ru_stime,
    "peak_mb": used.ru_maxrss / 1024,
}))
"""
"""Runs a command from a small process: the peak of a child is at least its parent's size."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is to be transcribed, at which account, by whom."""

    name: str
    title: str
    """With `{count:,}` where the number of recordings is to stand."""
    count: int
    """Recordings."""
    size_bytes: int = 100_000
    seconds: float = 2.0
    """Of each transcript."""
    spread: float = 0.0
    """Which part of `seconds` it may be more or less, evenly; 0 to 1."""
    concurrency: int = 200
    poll_s: float = 0.5
    limit: tuple[int, int] | None = None
    """Requests and seconds of the account's window, None for no limit."""
    flags: tuple[str, ...] = ()
    """Of this program."""
    contenders: tuple[str, ...] = (_OURS,)
    repeat: int = 3
    longest_s: float = _LONGEST_S
    is_sampled: bool = False
    """Whether it is about memory over the number of recordings."""

    @property
    def ideal_s(self) -> float:
        """The least that the account lets anybody take."""
        bounds = [self.count * self.seconds / self.concurrency]
        if self.limit:
            requests, window_s = self.limit
            bounds.append((_LEAST_REQUESTS * self.count - 1) // requests * window_s)
        return max(bounds)


_TUNED = ("--no-ramp", "--requests", "1000000/300s", "--poll-interval", "0.5s")
_ALL = (_OURS, "aiohttp", "sdk-group", "sdk-pool", "sdk-async")
WORKLOADS = [
    Workload(name="small", title="{count:,} recordings", count=1000, flags=_TUNED, contenders=_ALL),
    Workload(
        name="varied",
        title="{count:,} recordings, from 1 to 3 s a transcript",
        count=1000,
        spread=0.5,
        flags=_TUNED,
        contenders=_ALL,
    ),
    Workload(
        name="defaults",
        title="{count:,} recordings, no flags of ours: a poll every 3 s, 18,000 requests in 300 s",
        count=1000,
        poll_s=3.0,
    ),
    Workload(
        name="limited",
        title="{count:,} recordings at an account of 2,000 requests in 30 s",
        count=1000,
        limit=(2000, 30),
        flags=("--no-ramp", "--share", "1", "--requests", "2000/30s", "--poll-interval", "0.5s"),
        contenders=_ALL,
    ),
    Workload(
        name="many",
        title="{count:,} recordings",
        count=10_000,
        flags=_TUNED,
        contenders=(_OURS, "aiohttp", "sdk-pool"),
        repeat=1,
    ),
    Workload(
        name="million",
        title="{count:,} recordings, answered at once",
        count=1_000_000,
        size_bytes=64,
        seconds=0.0,
        concurrency=400,
        flags=_TUNED,
        repeat=1,
        longest_s=600.0,
        is_sampled=True,
    ),
]
LABELS = {
    _OURS: "overnight",
    "aiohttp": "plain aiohttp, 20 lines",
    "sdk-group": "SDK `transcribe_group`",
    "sdk-pool": "SDK, a pool of threads",
    "sdk-async": "SDK `AsyncTranscriber`",
}


@dataclass(frozen=True)
class Sample:
    """What a run had come to at one moment."""

    at_s: float
    done: int
    resident_mb: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run of one contender came to."""

    exit_code: int
    began_at: float
    elapsed_s: float
    cpu_s: float
    peak_mb: float
    oracle: dict[str, Any]
    saved: dict[int, float]
    """By the numbers of the recordings that have a right result: when it was there."""
    samples: list[Sample] = field(default_factory=list)

    @property
    def lag_s(self) -> float | None:
        """The median time from completed at the service to saved."""
        completed = {row[0]: row[3] for row in self.oracle.get("transcripts", ())}
        lags_s = [at - completed[number] for number, at in self.saved.items()]
        return statistics.median(lags_s) if lags_s else None

    @property
    def paid(self) -> int:
        """Transcripts that were completed, whatever became of them."""
        return sum(int(times) * count for times, count in self.oracle["paid"].items())

    @property
    def paid_twice(self) -> int:
        """Contents that were paid more than once."""
        return sum(count for times, count in self.oracle["paid"].items() if int(times) > 1)

    @property
    def service_busy(self) -> float:
        """Which part of its core's time the service had work, 0 to 1."""
        return float(self.oracle["cpu_s"] / self.oracle["elapsed_s"])


def make_recordings(folder: Path, count: int, size_bytes: int) -> None:
    """Recordings of distinct contents, last changed an hour ago."""
    body = os.urandom(size_bytes)[NUMBER_BYTES:]
    changed = time.time() - _OLD_S
    for number in range(count):
        inside = folder / f"{number // _IN_A_FOLDER:04d}"
        if number % _IN_A_FOLDER == 0:
            inside.mkdir(parents=True)
        path = f"{inside}/call-{number:07d}.wav"
        with open(path, "wb", buffering=0) as file:
            file.write(number.to_bytes(NUMBER_BYTES, "big") + body)
        os.utime(path, (changed, changed))
    os.sync()


@contextmanager
def service(workload: Workload, core: int | None) -> Iterator[str]:
    """A fresh service; its base URL."""
    command = [
        *(sys.executable, str(HERE / "service.py"), "--key", _KEY),
        *("--seconds", str(workload.seconds), "--concurrency", str(workload.concurrency)),
        *("--spread", str(workload.spread)),
        *(("--core", str(core)) if core is not None else ()),
        *(("--requests", "{}/{}s".format(*workload.limit)) if workload.limit else ()),
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def command_of(
    contender: str, workload: Workload, url: str, folder: Path, output: Path
) -> list[str]:
    """How a contender is called."""
    concurrency = ("--concurrency", str(workload.concurrency))
    if contender == _OURS:
        program = str(Path(sys.executable).with_name("overnight"))
        command = [program, "run", str(folder), "-o", str(output), "--provider", url, "--quiet"]
        return [*command, *concurrency, *workload.flags]
    command = [sys.executable, str(HERE / "peers.py"), contender, str(folder), str(output)]
    return [*command, "--url", url, *concurrency, "--poll-s", str(workload.poll_s)]


def play(contender: str, workload: Workload, folder: Path, output: Path, core: int | None) -> Run:
    """One run of a contender over these recordings."""
    with service(workload, core) as url, tempfile.TemporaryDirectory() as home:
        command = command_of(contender, workload, url, folder, output)
        environ = {"PATH": os.environ["PATH"], "HOME": home, "ASSEMBLYAI_API_KEY": _KEY}
        with open(f"{home}/stderr", "w+", encoding="utf-8") as said:
            process = subprocess.Popen(
                [sys.executable, "-S", "-E", "-c", _MEASURED, *command],
                stdout=subprocess.PIPE,
                stderr=said,
                env=environ,
                cwd=home,
                text=True,
            )
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            try:
                samples = _watch(process, pid, workload, url)
            finally:
                if process.poll() is None:
                    os.kill(pid, signal.SIGKILL)
            measured = json.loads(process.stdout.readlines()[-1])
            process.stdout.close()
            said.seek(0)
            told = said.read().strip()
        if measured["exit_code"] and told:
            print(f"{contender}: {told.splitlines()[-1]}", file=sys.stderr)
        brief = "?brief" if workload.is_sampled else ""
        oracle = json.loads(_get(f"{url}/_control/oracle{brief}"))
    saved = {} if workload.is_sampled else judge(output, workload.count)
    run = Run(**measured, oracle=oracle, saved=saved, samples=samples)
    is_stopped = run.elapsed_s > workload.longest_s and run.exit_code == _STOPPED
    if contender == _OURS and (run.paid_twice or not (is_stopped or run.exit_code == 0)):
        raise SystemExit(f"a run of ours went wrong: {measured}, {oracle['paid']}, {told}")
    return run


def _watch(process: subprocess.Popen[str], pid: int, workload: Workload, url: str) -> list[Sample]:
    """Waits for the process, samples it where asked to, stops it when it takes too long."""
    samples: list[Sample] = []
    began, stops = time.monotonic(), 0
    while True:
        try:
            process.wait(1.0 if workload.is_sampled else 5.0)
            return samples
        except subprocess.TimeoutExpired:
            pass
        at_s = time.monotonic() - began
        if workload.is_sampled and (used := _used(pid)):
            samples.append(Sample(at_s, int(_get(f"{url}/_control/done")), *used))
        if at_s > workload.longest_s + 60 * stops:
            stops += 1
            os.kill(pid, signal.SIGTERM if stops == 1 else signal.SIGKILL)


def _used(pid: int) -> tuple[float, float] | None:
    """What the process has in memory, in MB, and its CPU seconds so far; None if it is gone."""
    try:
        resident_pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        ticks = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return None
    cpu_s = (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
    return resident_pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), cpu_s


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        body: bytes = answer.read()
        return body


def judge(output: Path, count: int) -> dict[int, float]:
    """The numbers of the recordings that have a right result, and when each of them was there."""
    saved: dict[int, float] = {}
    for path in output.rglob("*.json"):
        if ".overnight" in path.parts:
            continue
        number = number_said(json.loads(path.read_bytes())["text"])
        if number is None or number >= count:
            continue
        if not path.name.startswith("call-") or path.name == f"call-{number:07d}.wav.json":
            saved[number] = path.stat().st_ctime  # of the rename, where there is one
    return saved


def table(workload: Workload, runs: dict[str, list[Run]]) -> Iterable[str]:
    """The lines of a workload's table: medians of the runs of each contender."""
    yield (
        "| | elapsed s | × ideal | CPU ms each | requests each | upload/submit/list/get | 429s "
        "| peak MB | lag s | right | paid | paid twice | service's core |"
    )
    yield "|---" * 13 + "|"
    yield f"| *ideal* | {workload.ideal_s:.1f} | 1.00 " + "| " * 10 + "|"
    for contender, of in runs.items():
        requests = [_median(of, _each(workload, kind)) for kind in KINDS[:4]]
        lags_s = [run.lag_s for run in of if run.lag_s is not None]
        elapsed_s = _median(of, lambda run: run.elapsed_s)
        right = min(len(run.saved) for run in of)
        is_whole = right == workload.count  # what gives up halfway is soon done
        yield (
            f"| {LABELS[contender]} | {elapsed_s:.1f} "
            f"| {f'{elapsed_s / workload.ideal_s:.2f}' if is_whole else '–'} "
            f"| {_median(of, lambda run: 1000 * run.cpu_s / workload.count):.1f} "
            f"| {sum(requests):.2f} | {'/'.join(f'{each:.2f}' for each in requests)} "
            f"| {_median(of, lambda run: sum(run.oracle['refused'].values())):,.0f} "
            f"| {_median(of, lambda run: run.peak_mb):.0f} "
            f"| {f'{statistics.median(lags_s):.2f}' if lags_s else '–'} "
            f"| {right:,} | {_median(of, lambda run: run.paid):,.0f} "
            f"| {max(run.paid_twice for run in of)} "
            f"| {100 * _median(of, lambda run: run.service_busy):.0f} % |"
        )


def _times(repeat: int) -> str:
    return "one run" if repeat == 1 else f"medians of {repeat} runs each"


def _median(runs: Sequence[Run], figure: Callable[[Run], float]) -> float:
    return statistics.median(map(figure, runs))


def _each(workload: Workload, kind: str) -> Callable[[Run], float]:
    return lambda run: run.oracle["requests"].get(kind, 0) / workload.count


def memory_table(run: Run) -> Iterable[str]:
    """The memory of a run, about ten moments of it."""
    yield "| s | done | resident MB | CPU ms each since the line above |"
    yield "|---|---|---|---|"
    step = max(1, len(run.samples) // 10)
    done, cpu_s = 0, 0.0
    for sample in run.samples[step - 1 :: step]:
        each_ms = 1000 * (sample.cpu_s - cpu_s) / max(1, sample.done - done)
        done, cpu_s = sample.done, sample.cpu_s
        yield f"| {sample.at_s:.0f} | {done:,} | {sample.resident_mb:.1f} | {each_ms:.1f} |"
    yield ""
    late = [sample.resident_mb for sample in run.samples if sample.done >= _FLAT_AFTER]
    grown = f", {late[-1] - late[0]:+.1f} MB after the first {_FLAT_AFTER:,}" if late else ""
    yield (
        f"{run.oracle['fetched']:,} done in {run.elapsed_s:.0f} s, exit code {run.exit_code}, "
        f"{1000 * run.cpu_s / max(1, run.oracle['fetched']):.1f} ms CPU each, "
        f"peak {run.peak_mb:.0f} MB{grown}. Paid twice: {run.paid_twice}."
    )


def plot_throughput(path: Path, workload: Workload, runs: dict[str, list[Run]]) -> None:
    """What was saved over time, in the middle run of each contender."""
    series = [Series("ideal", [(0, 0), (workload.ideal_s, workload.count)], is_reference=True)]
    for contender, of in runs.items():
        run = sorted(of, key=lambda run: run.elapsed_s)[len(of) // 2]
        times = sorted(at - run.began_at for at in run.saved.values())
        marks = [step / 4 for step in range(int(4 * run.elapsed_s) + 2)]
        points = [(mark, float(bisect_right(times, mark))) for mark in marks]
        series.append(Series(LABELS[contender].replace("`", ""), points))
    title = f"Results on disk, of {workload.count:,} recordings"
    chart(path, title, "seconds since the start", "results", series)


def plot_memory(path: Path, workload: Workload, run: Run) -> None:
    """Resident memory over the number of recordings done."""
    points = [(sample.done / 1000, sample.resident_mb) for sample in run.samples]
    title = f"Memory of a run over {workload.count:,} recordings"
    chart(path, title, "thousand recordings done", "resident MB", [Series(_OURS, points)])


def machine() -> str:
    """What all of it ran on."""
    cpus = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(": ")[2] for line in cpus if line.startswith("model name")), "")
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("overnight", "assemblyai", "aiohttp")
    )
    load = f"{os.getloadavg()[0]:.1f}"
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} × {model or platform.machine()}, "
        f"{platform.system()}, Python {platform.python_version()}, {packages}; "
        f"load average {load} before it began."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="WORKLOAD")
    parser.add_argument("--against", nargs="*", choices=_ALL[1:], help="of the others, only these")
    parser.add_argument("--repeat", type=int, help="runs of each, instead of 3 or 1")
    parser.add_argument("--count", type=int, help="recordings, instead of those of the workload")
    parser.add_argument("--seconds", type=float, help="of each transcript")
    parser.add_argument("--concurrency", type=int, help="of the account")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw into it")
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    core = cores[-1] if len(cores) > 1 else None
    if core is not None:
        os.sched_setaffinity(0, cores[:1])  # what is started here stays there, but for the service
    print(machine())
    for workload in WORKLOADS:
        if workload.name in given.only:
            changed = {
                name: getattr(given, name)
                for name in ("repeat", "count", "seconds", "concurrency")
                if getattr(given, name) is not None
            }
            if given.against is not None:
                kept = (_OURS, *given.against)
                changed["contenders"] = tuple(c for c in workload.contenders if c in kept)
            compare(replace(workload, **changed), core, given.plots)


def compare(workload: Workload, core: int | None, plots: Path | None) -> None:
    """Runs a workload by all its contenders in turn, and prints what it came to."""
    runs: dict[str, list[Run]] = {contender: [] for contender in workload.contenders}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name, "recordings")
        make_recordings(folder, workload.count, workload.size_bytes)
        for turn in range(workload.repeat):
            for contender in workload.contenders:
                output = Path(name, "transcripts")
                run = play(contender, workload, folder, output, core)
                shutil.rmtree(output)
                runs[contender].append(run)
                so_far = f"{workload.name} {turn + 1}: {contender} {run.elapsed_s:.1f} s, "
                idle = f"{run.oracle['idle_slot_s']:.0f} slot-seconds idle"
                print(so_far + idle, file=sys.stderr, flush=True)
    print(f"\n### {workload.title.format(count=workload.count)}\n")
    size = f"{workload.size_bytes / 1000:g} KB"
    print(
        f"Each of {size}, {workload.seconds:g} s a transcript, "
        f"{workload.concurrency} at once; {_times(workload.repeat)}.\n"
    )
    if workload.is_sampled:
        run = runs[_OURS][-1]
        print(*memory_table(run), sep="\n", flush=True)
        if plots:
            plot_memory(plots / "memory.svg", workload, run)
        return
    print(*table(workload, runs), sep="\n", flush=True)
    if plots and workload.name == "small":
        plot_throughput(plots / "throughput.svg", workload, runs)


if __name__ == "__main__":
    main()
