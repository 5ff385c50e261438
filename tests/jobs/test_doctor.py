"""The doctor: what it finds in order, what not, and what it never says."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from jobs.checks import Check
from jobs.doctor import examine
from pipeline.errors import ExitCode
from pipeline.settings import Settings, key_fingerprint, load_settings, origins
from pipeline.speech_models import AS_OF, LASTS_DAYS, SOURCE

KEY = "a-key-of-this-test"


@contextmanager
def service(status: int, body: bytes) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A server that gives one answer to everything: its address, and what it was asked for."""
    seen: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers["Authorization"]))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


LIST = b"""{"page_details": {"limit": 1, "result_count": 0, "current_url": "u", "prev_url": null,
"next_url": null}, "transcripts": []}"""


def findings(settings: Settings, **environ: str) -> dict[str, list[Check]]:
    """What is found, by subject."""
    found: dict[str, list[Check]] = {}
    for finding in examine(settings, {}, environ):
        found.setdefault(finding.subject, []).append(finding)
    return found


def test_service_that_takes_the_key_is_in_order(tmp_path: Path) -> None:
    """One request, with the key, finds that the service answers; the key is named by no finding."""
    with service(200, LIST) as (url, seen):
        found = findings(Settings(provider=url, output=tmp_path), ASSEMBLYAI_API_KEY=KEY)

    assert seen == [("/v2/transcript?limit=1", KEY)]
    assert found["service"][0].exit_code is ExitCode.DONE
    assert key_fingerprint(KEY) in found["key"][0].what
    assert KEY not in str(found)


def test_refused_key_is_exit_code_4() -> None:
    """A service that refuses the key is found so."""
    with service(401, b'{"error": "Authentication error, API token missing/invalid"}') as (url, _):
        (finding,) = findings(Settings(provider=url), ASSEMBLYAI_API_KEY=KEY)["service"]

    assert finding.exit_code is ExitCode.REFUSED
    assert finding.state == "failure"


def test_service_that_is_not_there_is_exit_code_5() -> None:
    """An address where nobody listens is found so."""
    with service(200, LIST) as (url, _):
        pass
    (finding,) = findings(Settings(provider=url), ASSEMBLYAI_API_KEY=KEY)["service"]

    assert finding.exit_code is ExitCode.TRY_LATER
    assert url in finding.what


@pytest.mark.parametrize("status", [200, 404])
def test_a_server_that_is_not_the_service_is_named_so(status: int) -> None:
    """Another server at the address is told from a service that is down, in one short line."""
    page = (
        b"<!DOCTYPE html>\n<title>Welcome to nginx!</title>" + b"<p>If you see this page</p>" * 99
    )
    with service(status, page) as (url, _):
        (finding,) = findings(Settings(provider=url), ASSEMBLYAI_API_KEY=KEY)["service"]

    assert finding.exit_code is ExitCode.TRY_LATER
    assert f"{url} is reached, but does not speak the API" in finding.what
    assert finding.what.endswith("a page that says 'Welcome to nginx!'")


def test_no_key_asks_nothing() -> None:
    """Without a key no request is sent."""
    with service(200, LIST) as (url, seen):
        found = findings(Settings(provider=url))

    assert seen == []
    assert found["key"][0].exit_code is ExitCode.REFUSED
    assert "service" not in found


def test_local_provider_needs_no_key() -> None:
    """With the embedded engine there is nothing to ask and no key to miss."""
    found = findings(Settings(provider="local"))

    assert "key" not in found
    assert found["service"][0].exit_code is ExitCode.DONE


def test_output_that_cannot_be_written_is_exit_code_2(tmp_path: Path) -> None:
    """A file where the output folder should be is found before a run pays for results."""
    (tmp_path / "file").touch()
    found = findings(Settings(provider="local", output=tmp_path / "file"))

    assert found["output"][0].exit_code is ExitCode.USAGE


def test_looking_leaves_nothing_behind(tmp_path: Path) -> None:
    """An output folder that is not there yet is not made, and nothing is left where it would be."""
    found = findings(Settings(provider="local", output=tmp_path / "a" / "b"))

    assert found["output"][0].exit_code is ExitCode.DONE
    assert list(tmp_path.iterdir()) == []


def test_settings_are_shown_with_their_origin(tmp_path: Path) -> None:
    """What is not a default is shown with where it comes from, but for key commands and hooks."""
    (tmp_path / "overnight.toml").write_text(
        "[timeouts]\nstall = 9\n[prices]\nmine = 1\n'a model' = 2\n"
        "[hooks]\non_start = 'hunter22'\nheartbeat = 'http://127.0.0.1:1/hunter22'\ntimeout = 9\n"
    )
    flags = {"api_key_command": "echo hunter22", "set": ["punctuate=true"], "provider": "local"}
    settings = load_settings(flags, environ={}, cwd=tmp_path)
    lines = [
        str(check)
        for check in examine(settings, origins(flags, environ={}, cwd=tmp_path), {})
        if check.subject == "setting"
    ]

    file = tmp_path / "overnight.toml"
    for shown in (
        f"timeouts.stall = 9.0  # {file}",
        f"prices.mine = 1.0  # {file}",
        f'prices."a model" = 2.0  # {file}',
        f"# hooks.on_start is set, and not shown  # {file}",
        f"# hooks.heartbeat is set, and not shown  # {file}",
        f"hooks.timeout = 9.0  # {file}",
        "transcript.punctuate = true  # --set",
        'provider = "local"  # --provider',
        "# api_key_command is set, and not shown  # --api-key-command",
    ):
        assert any(line.endswith(f" {shown}") for line in lines), shown
    assert "hunter22" not in "".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        'settle = "never"\nprovider = "http://127.0.0.1:9"\n',
        'output = "a \\"b\\" \\u007f"\nformats = "all"\nretry_failed = 2\nfollow_links = true\n',
        'window = "22:00-06:00"\nbwlimit = "08:00,512k 19:00,off"\nrequests = "9/5m"\n',
        "uploads = 8\nbacklog.older_than = '3d'\nprices.'a.b' = 0.5\nspeaker_names.a = 'Ann'\n",
        "[[source]]\nfolder = '/a'\nrules = [{match = 'b/**', punctuate = false}]\n",
        "[[rules]]\nmatch = 'b/**'\nkeyterms_prompt = ['x', 'ü']\n[transcript]\npunctuate = true\n",
    ],
)
def test_settings_are_shown_as_a_file_has_them(tmp_path: Path, text: str) -> None:
    """What is shown is TOML: put into a file, it makes the same settings again."""
    (tmp_path / "overnight.toml").write_text(text)
    settings = load_settings({}, environ={}, cwd=tmp_path)
    shown = [
        check.what
        for check in examine(settings, origins({}, environ={}, cwd=tmp_path), {})
        if check.subject == "setting"
    ]

    (tmp_path / "overnight.toml").write_text("\n".join(shown[:-1]))

    assert load_settings({}, environ={}, cwd=tmp_path) == settings


def test_password_of_a_proxy_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy in use is named by its address alone."""
    monkeypatch.setenv("http_proxy", "http://me:hunter22@127.0.0.1:9")
    found = findings(Settings(provider="http://service.invalid"))

    assert found["proxy"][0].what == "http://127.0.0.1:9"
    assert "hunter22" not in str(found)


def test_what_a_run_would_warn_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SOCKS proxy is told with the exit code of a run, odd variables as warnings."""
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:9")
    settings = Settings(provider="http://service.invalid")
    found = findings(settings, SSL_CERT_FILE="/nowhere/ca", OVERNIGHT_PORT="tcp://10.0.0.7:80")

    assert found["proxy"][0].exit_code is ExitCode.USAGE
    assert "SOCKS5" in found["proxy"][0].what
    assert [each.is_warning for each in found["variable"]] == [True, True]


@pytest.mark.parametrize(
    ("folder", "ledger", "told"),
    [
        (0o700, 0o644, []),
        (0o700, 0o600, []),
        (0o755, 0o600, [""]),
        (0o755, 0o644, ["", "ledger.sqlite3"]),
        (0o710, 0o640, ["", "ledger.sqlite3"]),
    ],
)
def test_what_others_can_read_is_a_warning(
    tmp_path: Path, folder: int, ledger: int, told: list[str]
) -> None:
    """A state folder or ledger that others can reach is marked, and no reason not to run."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state/ledger.sqlite3").touch()
    (tmp_path / "state/ledger.sqlite3").chmod(ledger)
    (tmp_path / "state").chmod(folder)

    found = findings(Settings(provider="local", state=tmp_path / "state")).get("rights", [])

    assert [each.what.partition(" has")[0] for each in found] == [
        str(tmp_path / "state" / name) for name in told
    ]
    assert {each.state for each in found} <= {"warning"}


def test_a_key_file_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    """The mode of the file is said beside the fingerprint of the key."""
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "key").chmod(0o644)
    with service(200, LIST) as (url, _):
        found = findings(Settings(provider=url, api_key_file=tmp_path / "key"))["key"]

    assert [each.exit_code for each in found] == [ExitCode.DONE, ExitCode.DONE]
    assert "0644" in str(found[1])
    assert found[1].state == "warning"


# --- speech models -------------------------------------------------------------------------------

DAY_S = 86400.0
ON_THE_DAY = datetime.combine(AS_OF, time(12), UTC).timestamp()


@pytest.mark.parametrize(("days", "is_old"), [(0, False), (LASTS_DAYS, False), (181, True)])
def test_an_old_table_of_models_is_told(days: int, is_old: bool) -> None:
    """What names and prices a run goes by is said, and told to be old after half a year."""
    settings, now = Settings(), ON_THE_DAY + days * DAY_S
    found = [each for each in examine(settings, {}, {}, lambda: now) if each.subject == "models"]

    (finding,) = found
    assert (finding.exit_code, finding.is_warning) == (ExitCode.DONE, is_old)
    assert str(AS_OF) in finding.what
    assert SOURCE in finding.what


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, []),
        ({"transcript": {"speech_models": ["universal-3-5-pro"]}}, ["universal-3-5-pro"]),
        (
            {"source": [{"folder": "/a", "transcript": {"speech_models": ["universal-3-pro"]}}]},
            ["universal-3-pro"],
        ),
    ],
)
def test_models_that_are_going_are_told(given: dict[str, Any], told: list[str]) -> None:
    """Deprecated and retired names that a run would ask for are found, those of sources as well."""
    warned = [
        each.what
        for each in examine(Settings(**given), {}, {}, lambda: ON_THE_DAY)
        if each.subject == "models" and each.is_warning
    ]

    assert len(warned) == len(told)
    assert all(f"`{name}`" in text for name, text in zip(told, warned, strict=True))


def test_the_engine_has_no_use_for_the_vendors_models() -> None:
    """Of the embedded engine no names, prices or ages are told: it has its own model, for free."""
    old = {"speech_models": ["universal-3-5-pro"]}
    settings = Settings(provider="local", transcript=old)

    assert not any(each.subject == "models" for each in examine(settings, {}, {}, lambda: 1e11))
