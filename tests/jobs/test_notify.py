"""Hooks and the heartbeat: who is told what, and that no trouble of theirs is one of the run."""

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import anyio
import psutil
import pytest
from aiohttp import encode_basic_auth, web
from aiohttp.test_utils import TestServer
from anyio import to_thread
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.notify import Moment, moment_of, notify
from pipeline.errors import ExitCode
from pipeline.events import Event, Summary, Warned, encode
from pipeline.lines import hide
from pipeline.settings import Hooks
from tests.support.clock import MovableLoop, advance

pytestmark = pytest.mark.anyio

SUMMARY = encode(Summary(run_id="run-1", exit_code=3)) + b"\n"
SECRET = "s3cr3t-0f-th3-h00k"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """A loop whose time the tests can move."""
    return "asyncio", {"loop_factory": MovableLoop}


async def told(
    moment: Moment = Moment.FAILURE,
    *,
    body: bytes = SUMMARY,
    report: Path | None = None,
    environ: dict[str, str] | None = None,
    **hooks: Any,
) -> list[str]:
    """What is warned of as hooks are told."""
    events: list[Event] = []
    await notify(
        Hooks(**hooks),
        moment,
        body,
        report=report,
        environ=dict(os.environ) if environ is None else environ,
        emit=events.append,
    )
    assert all(isinstance(event, Warned) for event in events)
    return [event.message for event in events if isinstance(event, Warned)]


def sh(script: str) -> str:
    """A command that runs lines of shell."""
    return f"sh -c {quote(script)}"


# --- moments --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ExitCode)
def test_planned_ends_are_successes(code: ExitCode) -> None:
    """What ended as it should, at a cap or at the end of a window is no failure; all else is."""
    expected = Moment.SUCCESS if code in (0, 8, 10) else Moment.FAILURE

    assert moment_of(Summary(run_id="x", exit_code=code)) is expected
    assert moment_of(Summary(run_id="x", exit_code=code, missed_window=True)) is Moment.FAILURE


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (Moment.START, {"on_start", "GET /beat/start"}),
        (Moment.SUCCESS, {"on_success", "on_finish", "GET /beat"}),
        (Moment.FAILURE, {"on_failure", "on_finish", "GET /beat/fail"}),
    ],
)
async def test_each_moment_has_its_hooks(
    tmp_path: Path, moment: Moment, expected: set[str]
) -> None:
    """Those of the moment are told, once each, and no others."""
    keys = ("on_start", "on_success", "on_failure", "on_finish")
    hooks = {key: sh(f"echo >> {tmp_path}/{key}") for key in keys}
    async with listening() as server:
        warned = await told(moment, **hooks, heartbeat=server.url("/beat"))
    ran = {key: (tmp_path / key).read_text() for key in keys if (tmp_path / key).exists()}

    assert warned == []
    assert {*ran, *(f"{each.method} {each.path}" for each in server.asked)} == expected
    assert set(ran.values()) == {"\n"}


async def test_without_hooks_nothing_is_done() -> None:
    """No hooks, no trouble."""
    assert [await told(moment) for moment in Moment] == [[], [], []]


async def test_hooks_of_a_moment_run_side_by_side(tmp_path: Path) -> None:
    """Two commands that wait for each other both come to their end, beside a third that fails."""
    os.mkfifo(tmp_path / "fifo")
    warned = await told(
        on_failure=[
            sh(f"echo > {tmp_path}/fifo"),
            sh(f"read line < {tmp_path}/fifo"),
            sh("exit 7"),
        ]
    )

    assert [message.partition(";")[0] for message in warned] == [
        "hook on_failure, 3 of 3, ended with exit code 7"
    ]


# --- commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 65_536, 65_537, 1_000_000])
async def test_a_command_reads_the_summary(tmp_path: Path, size: int) -> None:
    """What comes on stdin are the bytes of the summary, however many, and then its end."""
    body = json.dumps({"type": "summary", "reason": "x" * size}).encode()

    assert await told(on_failure=sh(f"cat > {tmp_path}/a"), body=body) == []
    assert (tmp_path / "a").read_bytes() == body


async def test_what_a_command_finds_in_its_environment(tmp_path: Path) -> None:
    """It inherits all but the key and where to find it, and learns of the run."""
    (tmp_path / "report.html").touch()
    out = tmp_path / "out"
    environ = {
        **{"PATH": os.environ["PATH"], "HOME": "/h", "OVERNIGHT_SHARE": "0.5"},
        **{
            "ASSEMBLYAI_API_KEY": "k",
            "OVERNIGHT_API_KEY_FILE": "f",
            "overnight_api_key_command": "c",
        },
        **{
            "OVERNIGHT_RUN_ID": "another",
            "OVERNIGHT_EXIT_CODE": "9",
            "OVERNIGHT_REPORT": "another",
        },
    }
    code = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"
    write = f"{sys.executable} -Ic {quote(code)} {out}"
    kept = {"HOME": "/h", "OVERNIGHT_SHARE": "0.5"}

    async def found(body: bytes, report: Path) -> dict[str, str]:
        assert await told(on_failure=write, environ=environ, body=body, report=report) == []
        made = json.loads(out.read_text())
        return {name: made[name] for name in made if name not in ("PATH", "LC_CTYPE")}

    at_the_end = await found(SUMMARY, tmp_path / "report.html")
    at_the_start = await found(b'{"type": "run_started", "run_id": "run-2"}', tmp_path / "none")
    without_a_run = await found(encode(Summary(run_id="", exit_code=0)), tmp_path / "none")

    assert at_the_end == {
        **kept,
        "OVERNIGHT_RUN_ID": "run-1",
        "OVERNIGHT_EXIT_CODE": "3",
        "OVERNIGHT_REPORT": str(tmp_path / "report.html"),
    }
    assert at_the_start == {**kept, "OVERNIGHT_RUN_ID": "run-2"}
    assert without_a_run == {**kept, "OVERNIGHT_EXIT_CODE": "0"}


async def test_a_command_is_words_and_no_shell(tmp_path: Path) -> None:
    """Quotes hold words together; nothing in them is expanded."""
    out = tmp_path / "a b"

    assert await told(on_failure=f"cp /dev/stdin '{out}'") == []
    assert out.read_bytes() == SUMMARY
    assert len(await told(on_failure=f"test '$HOME' = \"{os.environ.get('HOME', '/')}\"")) == 1


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("true", None),
        ("false", "ended with exit code 1;"),
        (sh("echo out; echo err >&2; exit 22"), "ended with exit code 22 (`out`);"),
        (
            sh("echo; printf 'a\\033[31m\\tb\\377' >&2; exit 1"),
            "exit code 1 (`a\ufffd[31m b\ufffd`);",
        ),
        (sh("kill -9 $$"), "was ended by signal 9;"),
        ("/nowhere/to/be/found", "cannot be run: No such file or directory;"),
        ("/", "cannot be run: Permission denied;"),
        ("a\0b", "cannot be run: no command has such a name;"),
    ],
)
async def test_what_went_wrong_is_said(command: str, expected: str | None) -> None:
    """A failure is a warning that names the hook, how it ended and the first thing that it said."""
    warned = await told(on_finish=command)

    assert len(warned) == (expected is not None)
    assert all(message.startswith("hook on_finish ") for message in warned)
    assert expected is None or expected in warned[0]


@pytest.mark.parametrize("code", [0, 1])
async def test_a_command_says_nothing_on_our_outputs(
    capfd: pytest.CaptureFixture[str], code: int
) -> None:
    """Whatever a hook writes, to either of its outputs, stdout and stderr of the run stay clean."""
    await told(on_failure=sh(f"echo out; echo err >&2; exit {code}"))

    assert capfd.readouterr() == ("", "")


async def test_a_command_may_write_more_than_is_kept() -> None:
    """Megabytes of output hold up no hook; the beginning of them is what is shown, cut short."""
    long = sh("yes first-line | head -c 4000000 | tr -d '\\n'; exit 1")
    (message,) = await told(on_failure=long)

    assert "first-linefirst-line" in message
    assert len(message) < 1000


async def test_a_command_that_does_not_read_breaks_nothing(tmp_path: Path) -> None:
    """One that closes its stdin, or ends before it has read a summary of 1 MB, is no failure."""
    body = json.dumps({"run_id": "1", "filler": "x" * 1_000_000}).encode()
    closing = sh(f"exec <&-; touch {tmp_path}/closed")

    assert await told(on_failure=["true", closing, sh("head -c 1")], body=body) == []
    assert (tmp_path / "closed").exists()


async def test_the_key_is_in_no_warning() -> None:
    """A key that a command has found elsewhere and prints is masked."""
    hide(SECRET)
    (message,) = await told(on_failure=sh(f"echo key {SECRET}; exit 1"))

    assert SECRET not in message
    assert "(`key ***`)" in message


# --- commands that do not end ---------------------------------------------------------------------


@asynccontextmanager
async def written(fifo: Path) -> AsyncIterator[Callable[[], Awaitable[list[psutil.Process]]]]:
    """Gives what waits for a line of process ids, which a command writes to a FIFO."""
    os.mkfifo(fifo)

    def read() -> list[psutil.Process]:
        return [psutil.Process(int(pid)) for pid in fifo.read_text().split()]

    yield lambda: to_thread.run_sync(read)


async def gone(processes: list[psutil.Process]) -> bool:
    """Whether these have ended, given some time for it."""
    _, alive = await to_thread.run_sync(lambda: psutil.wait_procs(processes, timeout=20))
    return not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


async def test_a_hanging_command_is_ended_with_all_it_has_started(tmp_path: Path) -> None:
    """After the timeout its whole group is asked to end, and has time to say goodbye."""
    script = f"""
        sleep 1000 & child=$!
        trap 'echo bye > {tmp_path}/bye; exit 0' TERM
        echo $$ $child > {tmp_path}/fifo
        wait
    """
    warned: list[str] = []
    async with written(tmp_path / "fifo") as pids, anyio.create_task_group() as group:

        async def tell() -> None:
            warned.extend(await told(on_failure=sh(script)))

        group.start_soon(tell)
        processes = await pids()
        await advance(31)

    assert warned == ["hook on_failure was ended after 30 s; allow it more with `hooks.timeout`"]
    assert (tmp_path / "bye").read_text() == "bye\n"
    assert await gone(processes)


async def test_what_does_not_heed_is_killed(tmp_path: Path) -> None:
    """A group that ignores SIGTERM gets SIGKILL, 2 s later."""
    script = f"trap '' TERM; sleep 1000 & echo $$ $! > {tmp_path}/fifo; sleep 1000; sleep 1000"
    async with written(tmp_path / "fifo") as pids, anyio.create_task_group() as group:
        done = anyio.Event()

        async def tell() -> None:
            assert len(await told(on_failure=sh(script))) == 1
            done.set()

        group.start_soon(tell)
        processes = await pids()
        await advance(31)
        while not done.is_set():
            await advance(0.1)

    assert await gone(processes)


async def test_a_cancelled_hook_leaves_nothing_behind(tmp_path: Path) -> None:
    """Who stops the run a second time stops its hooks too, and is held up by none."""
    script = f"sleep 1000 & echo $$ $! > {tmp_path}/fifo; wait"
    async with written(tmp_path / "fifo") as pids, anyio.create_task_group() as group:
        group.start_soon(lambda: told(on_failure=sh(script)))
        processes = await pids()
        group.cancel_scope.cancel()

    assert await gone(processes)


async def test_what_a_command_leaves_in_the_background_goes_on(tmp_path: Path) -> None:
    """A hook is over when its own process is, though another still holds its stdin and stdout."""
    script = f"sleep 1000 & echo $! > {tmp_path}/pid; echo said; exit 5"
    body = json.dumps({"filler": "x" * 1_000_000}).encode()
    (message,) = await told(on_failure=sh(script), body=body)
    left = psutil.Process(int((tmp_path / "pid").read_text()))

    assert "exit code 5 (`said`)" in message
    assert left.is_running()
    os.kill(left.pid, signal.SIGKILL)


# --- URLs -----------------------------------------------------------------------------------------


@dataclass
class Asked:
    """A request that has come."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]


@dataclass
class Listener:
    """A server that answers a path that begins with a number with that status."""

    asked: list[Asked] = field(default_factory=list)
    port: int = 0

    def url(self, path: str, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.port}{path}"

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.asked.append(Asked(request.method, request.path_qs, body, {**request.headers}))
        first = request.path.strip("/").partition("/")[0]
        if first == "hang":
            await anyio.sleep_forever()
        if first == "once":  # a 503 once, then well
            return web.Response(status=503 if len(self.asked) == 1 else 204)
        if first == "drop":
            assert request.transport is not None
            request.transport.abort()
        status = int(first) if first.isdecimal() else 200
        return web.Response(status=status, headers={"Location": "/elsewhere"})


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    """A listener on loopback."""
    listener = Listener()
    app = web.Application(client_max_size=10_000_000)
    app.router.add_route("*", "/{path:.*}", listener.answer)
    async with TestServer(app) as server:
        listener.port = server.port or 0
        yield listener


async def moved(moment: Moment = Moment.FAILURE, **hooks: Any) -> list[str]:
    """What is warned of, while the clock moves ahead to whatever is waited for."""
    warned: list[str] = []
    done = anyio.Event()

    async def tell() -> None:
        warned.extend(await told(moment, timeout="100d", **hooks))
        done.set()

    async with anyio.create_task_group() as group:
        group.start_soon(tell)
        while not done.is_set():
            await advance(0.001)
    return warned


@pytest.mark.parametrize("size", [0, 1_000_000])
async def test_a_url_is_posted_the_summary(size: int) -> None:
    """It gets the bytes of the summary once, as JSON, with its user and password, without a key."""
    body = encode(Summary(run_id="x" * size, exit_code=0)) + b"\n"
    environ = {"ASSEMBLYAI_API_KEY": SECRET}
    async with listening() as server:
        url = server.url("/a/b%2Fc?d=e%20f", user="us:pa%21ss@")
        assert await told(on_failure=url, body=body, environ=environ) == []
    (asked,) = server.asked

    assert (asked.method, asked.path, asked.body) == ("POST", "/a/b%2Fc?d=e%20f", body)
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.headers["Authorization"] == encode_basic_auth("us", "pa!ss")
    assert SECRET not in str(asked)


async def test_a_heartbeat_is_a_get_without_a_body() -> None:
    """A monitor learns that a run goes on, and nothing of it."""
    async with listening() as server:
        heartbeat = {"fail": server.url("/ping?status=down")}
        assert (
            await told(heartbeat=heartbeat) == await told(Moment.START, heartbeat=heartbeat) == []
        )
    (asked,) = server.asked

    assert (asked.method, asked.path, asked.body) == ("GET", "/ping?status=down", b"")


@pytest.mark.parametrize(
    ("path", "requests", "words"),
    [
        ("/204", 1, None),
        ("/once", 2, None),
        ("/404", 1, "answered 404; see whether its URL in the settings is right"),
        ("/500", 2, "answered 500, twice; see what ails that server"),
        ("/429", 2, "answered 429, twice; see what ails that server"),
        ("/301", 1, "answered 301, a redirect; name the URL that it leads to"),
        ("/307", 1, "answered 307, a redirect; name the URL that it leads to"),
        ("/drop", 2, "gave no answer, twice; see whether it is up, and speaks HTTP"),
    ],
)
@pytest.mark.parametrize("hook", ["on_failure", "heartbeat"])
async def test_a_url_is_asked_again_where_that_may_help(
    hook: str, path: str, requests: int, words: str | None
) -> None:
    """What a server may get over is tried twice, all else once; no redirect is followed."""
    async with listening() as server:
        target: Any = server.url(path)
        if hook == "heartbeat":
            target = {"fail": target}
        warned = await moved(**{hook: target})
    name = "heartbeat" if hook == "heartbeat" else "hook on_failure"

    assert warned == ([f"{name} at 127.0.0.1 {words}"] if words else [])
    assert Counter(each.path for each in server.asked) == {path: requests}


async def test_who_is_not_there_is_said() -> None:
    """A closed port, a name of no host and a server without TLS are said to be the trouble."""
    too_long = f"http://{'x.' * 150}example/"  # which a resolver knows by itself
    async with listening() as server:
        plain, gone_port = f"https://127.0.0.1:{server.port}/x", server.url("/x")
        (no_tls,) = await moved(on_failure=plain)
    (refused,) = await moved(on_failure=gone_port)
    (unknown,) = await moved(on_failure=too_long)
    (no_name,) = await moved(on_failure=f"http://a..b/{SECRET}")

    assert "at 127.0.0.1 cannot be spoken to by TLS;" in no_tls
    assert "at 127.0.0.1 was not reached: Connection refused, twice;" in refused
    assert "example was not reached: no such host;" in unknown
    assert no_name.startswith("hook on_failure at a..b ")
    assert SECRET not in no_name


async def test_a_server_that_hangs_is_given_up() -> None:
    """The time of a hook counts for all of its requests, and others are told meanwhile."""
    events: list[Any] = []
    async with listening() as server, anyio.create_task_group() as group:
        hooks = Hooks(on_failure=(server.url("/hang"), server.url("/404")), timeout=40)

        async def tell() -> None:
            await notify(hooks, Moment.FAILURE, SUMMARY, environ={}, emit=events.append)

        group.start_soon(tell)
        while len(server.asked) < 2 or not events:
            await anyio.lowlevel.checkpoint()
        await advance(41)

    assert [event.message for event in events] == [
        "hook on_failure, 2 of 2, at 127.0.0.1 answered 404;"
        " see whether its URL in the settings is right",
        "hook on_failure, 1 of 2, at 127.0.0.1 was ended after 40 s;"
        " allow it more with `hooks.timeout`",
    ]


async def test_the_proxy_of_the_system_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is not this machine is asked by way of `HTTP_PROXY`, and its answer counts."""
    async with listening() as server:
        monkeypatch.setenv("http_proxy", server.url(""))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        warned = await told(on_failure="http://hooks.example/404/x")
    (asked,) = server.asked

    assert asked.headers["Host"] == "hooks.example"
    assert warned == [
        "hook on_failure at hooks.example answered 404;"
        " see whether its URL in the settings is right"
    ]


async def test_a_proxy_that_speaks_no_http_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SOCKS proxy keeps a hook from being asked, and is a warning like other trouble."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("https_proxy", f"socks5://me:{SECRET}@127.0.0.1:9")
    (message,) = await moved(on_failure=f"https://hooks.example/{SECRET}")

    assert "SOCKS5, which is not supported" in message
    assert SECRET not in message


async def test_trouble_with_the_proxy_is_told_from_that_of_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proxy that refuses, and one that is not there, are named as what is in the way."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with listening() as server:
        monkeypatch.setenv("https_proxy", server.url("", user=f"me:{SECRET}@"))
        refused = await moved(on_failure=f"https://hooks.example/{SECRET}")
    gone = await moved(on_failure=f"https://hooks.example/{SECRET}")

    assert [message.partition(";")[0] for message in refused + gone] == [
        "hook on_failure at hooks.example was not reached: the proxy answered 404",
        "hook on_failure at hooks.example was not reached, nor was the proxy",
    ]
    assert SECRET not in str(refused + gone)


# --- secrets --------------------------------------------------------------------------------------

word = st.text("abcXYZ0189-_.~", min_size=4, max_size=24).map(lambda text: "q7" + text + "Zk")


@settings(max_examples=10)
@given(user=word, password=word, path=st.lists(word, min_size=1, max_size=3), query=word)
@pytest.mark.parametrize("moment", Moment)
def test_what_is_secret_in_a_url_is_said_nowhere(
    moment: Moment, user: str, password: str, path: list[str], query: str
) -> None:
    """User, password, path and query are in no warning, whether we ask a URL or a command does."""
    url = f"http://{user}:{password}@127.0.0.1:1/{'/'.join(path)}?token={query}"
    loud = sh(f"echo cannot reach '{url}', {user}, {password}, {' '.join(path)}, {query}; exit 1")
    keys = ("on_start", "on_success", "on_failure")
    hooks = {key: [url, loud, f"/none/{query} {url}"] for key in keys}

    async def tell() -> list[str]:
        return await moved(moment, **hooks, heartbeat=url)

    warned = anyio.run(tell, backend_options={"loop_factory": MovableLoop})

    assert len(warned) == 4
    for secret in (user, password, *path, query):
        assert secret not in "\n".join(warned)
