"""Surroundings: what machines and clusters put around the program ends in no traceback."""

import pwd
from pathlib import Path

import pytest

from pipeline.errors import SettingsError
from pipeline.settings import Settings, home_of, load_settings, odd_variables
from tests.support.runs import Archive, opened

PLACES = ("output", "state", "api_key_file", "log_file")


# ---------------------------------------------------------------- variables of a cluster


@pytest.mark.parametrize("port", ["", "_HTTP", "_GRPC_WEB"])
@pytest.mark.parametrize("service", ["OVERNIGHT", "OVERNIGHT_ENGINE", "OVERNIGHT_UPLOADS"])
@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
def test_variables_of_a_cluster_are_no_settings(
    tmp_path: Path, service: str, port: str, protocol: str
) -> None:
    """What Kubernetes makes of a service of our name is passed over and named, whatever is set."""
    where = f"{service}_PORT_8080_{protocol}"
    environ = {
        f"{service}_SERVICE_HOST": "10.0.0.7",
        f"{service}_SERVICE_PORT": "8080",
        f"{service}_SERVICE_PORT{port}": "8080",
        f"{service}_PORT": "tcp://10.0.0.7:8080",
        where: "tcp://10.0.0.7:8080",
        f"{where}_PROTO": protocol.lower(),
        f"{where}_PORT": "8080",
        f"{where}_ADDR": "10.0.0.7",
    }

    assert load_settings({}, environ=environ, cwd=tmp_path) == Settings()
    (told,) = odd_variables(environ)
    assert all(name in told for name in environ)
    assert "enableServiceLinks: false" in told


def test_other_variables_are_settings_or_errors(tmp_path: Path) -> None:
    """A setting beside them counts, and a misspelled one is still an error."""
    cluster = {"OVERNIGHT_PORT": "tcp://10.0.0.7:8080"}
    settings = load_settings({}, environ=cluster | {"OVERNIGHT_UPLOADS": "3"}, cwd=tmp_path)

    assert settings.uploads.max == 3
    with pytest.raises(SettingsError, match="OVERNIGHT_EXPORT"):
        load_settings({}, environ=cluster | {"OVERNIGHT_EXPORT": "1"}, cwd=tmp_path)
    assert list(odd_variables({"OVERNIGHT_UPLOADS": "3", "SUPPORT_PORT": "1"})) == []


# ---------------------------------------------------------------- certificates


def test_certificates_that_are_not_there_are_told(tmp_path: Path) -> None:
    """A file or folder of certificates that OpenSSL passes over in silence is named."""
    (tmp_path / "empty.pem").touch()
    nowhere = str(tmp_path / "nowhere")

    assert list(odd_variables({"SSL_CERT_FILE": nowhere})) == [
        f"`SSL_CERT_FILE` {nowhere} is not used: No such file or directory"
    ]
    assert "no certificates" in str([*odd_variables({"SSL_CERT_FILE": f"{tmp_path}/empty.pem"})])
    (told,) = odd_variables({"SSL_CERT_DIR": f"{tmp_path}:{nowhere}"})
    assert told == f"`SSL_CERT_DIR` {nowhere} is not used: there is no such folder"


@pytest.mark.anyio
async def test_a_run_tells_of_them(tmp_path: Path) -> None:
    """A run warns once of each, and goes on."""
    async with opened(tmp_path) as archive:
        archive.add("a.wav", b"a")
        archive.environ["SSL_CERT_FILE"] = "/nowhere/ca.pem"
        archive.environ["OVERNIGHT_SERVICE_HOST"] = "10.0.0.7"

        ended = await archive.command(*archive.run_line())

    assert ended.exit_code == 0
    assert ended.stderr.count("/nowhere/ca.pem") == 1
    assert ended.stderr.count("OVERNIGHT_SERVICE_HOST") == 1


# ---------------------------------------------------------------- no home


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container whose user is in no file, without `HOME`."""

    def unknown(_: int) -> pwd.struct_passwd:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize("home", ["~", "~no-such-user"])
@pytest.mark.usefixtures("homeless")
def test_a_home_that_nobody_knows(tmp_path: Path, key: str, home: str) -> None:
    """`~` that stands for nothing is an error of the settings, in every place that takes it."""
    (tmp_path / "overnight.toml").write_text(f'{key} = "{home}/x"\n')

    with pytest.raises(SettingsError, match=f"`{home}` stands for no home") as raised:
        load_settings({}, environ={}, cwd=tmp_path)
    assert f"`{key}`" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("homeless")
def test_a_home_that_is_needed() -> None:
    """Where the home itself is looked for, it is an error that says what to set."""
    with pytest.raises(SettingsError, match="set `HOME`"):
        home_of({})
    assert home_of({"HOME": "/home/me"}) == Path("/home/me")


# ---------------------------------------------------------------- addresses


ADDRESSES = ("s3://bucket/calls", "https://example.org/a.wav", "gs://b", "sftp://me@host/calls")


@pytest.fixture
def _nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("key", PLACES)
@pytest.mark.usefixtures("_nothing")
def test_an_address_is_no_place_of_this_machine(address: str, key: str) -> None:
    """An address in the place of a folder or file is refused as what it is, and nothing is made."""
    with pytest.raises(SettingsError, match=f"`{address}`: addresses are not supported yet"):
        load_settings({key: Path(address)}, environ={})


@pytest.mark.parametrize("table", ['folder = "{}"', 'folder = "/srv"\noutput = "{}"'])
@pytest.mark.usefixtures("_nothing")
def test_a_source_is_of_this_machine(table: str) -> None:
    """Nor is it a source, or the place of one's results."""
    Path("overnight.toml").write_text("[[source]]\n" + table.format("s3://bucket/calls"))

    with pytest.raises(SettingsError, match="addresses are not supported yet"):
        load_settings({}, environ={})


@pytest.mark.usefixtures("_nothing")
def test_a_folder_that_is_called_like_an_address() -> None:
    """A folder that is there is one, though its name looks like the beginning of an address."""
    Path("s3:").mkdir()

    assert load_settings({"output": Path("s3://bucket")}, environ={}).output == Path("s3:/bucket")


@pytest.mark.anyio
@pytest.mark.parametrize("address", ADDRESSES)
async def test_an_address_for_recordings(tmp_path: Path, address: str) -> None:
    """An address where a folder of recordings is meant is refused as what it is, exit code 2."""
    archive: Archive
    async with opened(tmp_path) as archive:
        line = archive.run_line()
        line[1] = address

        ended = await archive.command(*line)

    assert ended.exit_code == 2
    assert f"`{address}`: addresses are not supported yet" in ended.stderr
