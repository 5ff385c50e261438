"""Whatever the service calls an upload, however spelled, it is paid for once, and saved."""

import json
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from jobs.audit import audit_remote
from jobs.finding import Finding
from jobs.rebuild import claim, rebuild
from pipeline.errors import ExitCode, SettingsError
from pipeline.events import Warned
from tests.support.runs import Archive, Outcome, opened
from tests.support.service import Fault
from tests.support.service_account import UPLOADS
from tests.support.service_faults import Kind

pytestmark = pytest.mark.anyio

ONE, TWO = b"one", b"two"
HOST = UPLOADS.removesuffix("/upload/")

SPELLINGS: dict[str, Callable[[str], Any]] = {
    "http": lambda url: url.replace("https://", "http://"),
    "host in capitals": lambda url: url.replace(HOST, HOST.upper()),
    "port": lambda url: url.replace(HOST, f"{HOST}:443"),
    "percent-encoded": lambda url: url.replace("/upload/", "/%75pl%6Fad/").replace("-", "%2d"),
    "signed": lambda url: f"{url}?X-Expires=60&X-Signature=a%2Fb+c",
    "fragment": lambda url: f"{url}#t=0",
    "slash behind": lambda url: f"{url}/",
    "slashes": lambda url: url.replace("/upload/", "//upload//"),
    "proxy": lambda url: url.replace(HOST, "http://proxy.internal:8080"),
    "all at once": lambda url: url.replace(HOST + "/upload", "http://P:81/%75pload") + "/?a=b#c",
}
"""What a service behind proxies makes of the address that it gave."""

NAMELESS: dict[str, Callable[[str], Any]] = {
    "none": lambda _: None,
    "empty": lambda _: "",
    "a number": lambda _: 7,
    "a list": lambda url: [url],
    "no address": lambda _: "stream",
    "brackets": lambda _: "http://[",
    "of nobody": lambda _: "https://storage.invalid/tmp/1.wav",
    "deleted": lambda _: "http://deleted_by_user",
}
"""Echoes that name no upload of ours."""


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        archive.add("a.wav", ONE)
        archive.add("b.wav", TWO)
        yield archive


def spell(archive: Archive, how: Callable[[str], Any], *calls: Kind) -> None:
    """From here on the service calls uploads so, in its answers to these calls."""
    for call in calls:
        archive.service.faults.add(
            Fault(on=call, action="patch", times=None, patch={"audio_url": how})
        )


async def nights(archive: Archive, count: int = 3) -> list[Outcome]:
    """What so many runs after one another told."""
    return [await archive.run() for _ in range(count)]


def paid_once_and_saved(archive: Archive) -> None:
    """One job for each content, and its answer lies on disk."""
    assert archive.service.requests["submit"] == 2
    assert archive.service.billable == {sha256(each).hexdigest(): 1 for each in (ONE, TWO)}
    for name, content in (("a.wav.json", ONE), ("b.wav.json", TWO)):
        (transcript,) = archive.service.accepted(content)
        assert json.loads(archive.results()[name])["id"] == transcript.id


# --- answers to our own request ------------------------------------------------------------------


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_another_spelling_everywhere(archive: Archive, spelling: str) -> None:
    """Spelled otherwise in every answer, each content is asked for once, and told once a run."""
    spell(archive, SPELLINGS[spelling], "submit", "list", "get")

    first, *later = await nights(archive)

    paid_once_and_saved(archive)
    assert (first.summary.written, first.summary.exit_code) == (2, ExitCode.DONE)
    assert len([each for each in first.of(Warned) if "taken for the same" in each.message]) == 1
    assert all(each.summary.already_written == 2 for each in later)


@pytest.mark.parametrize("echo", SPELLINGS | NAMELESS)
@pytest.mark.parametrize("call", ["submit", "list"])
async def test_another_spelling_in_one_place(archive: Archive, call: Kind, echo: str) -> None:
    """Whatever one call calls the upload, an id from our own request is ours."""
    spell(archive, (SPELLINGS | NAMELESS)[echo], call)

    await nights(archive, 2)

    paid_once_and_saved(archive)


@pytest.mark.parametrize("echo", [*SPELLINGS, "none", "empty", "no address", "of nobody"])
async def test_another_spelling_in_the_result(archive: Archive, echo: str) -> None:
    """Whatever a result calls its upload, it is saved, as long as it names no other of ours."""
    spell(archive, (SPELLINGS | NAMELESS)[echo], "get")

    await nights(archive, 2)

    paid_once_and_saved(archive)


async def test_how_it_is_spelled_is_told_without_its_secrets(archive: Archive) -> None:
    """The warning shows both addresses, and nothing of a query, which may be a signature."""
    spell(archive, lambda url: f"{url}?token=hunter22".replace("https", "http"), "submit")

    (first,) = await nights(archive, 1)

    (told,) = [each.message for each in first.of(Warned) if "taken for the same" in each.message]
    assert UPLOADS in told
    assert UPLOADS.replace("https", "http") in told
    assert "hunter22" not in told


async def test_a_cap_holds_whatever_the_spelling(archive: Archive) -> None:
    """Runs under a cap ask for no more than it allows, though no answer is spelled as ours."""
    spell(archive, lambda url: url.replace(HOST, "http://proxy"), "submit", "list", "get")

    for _ in range(3):
        await archive.run(limit=1)

    paid_once_and_saved(archive)


# --- lost answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_a_lost_answer_is_found_in_another_spelling(archive: Archive, spelling: str) -> None:
    """A row of the list, and the GET of its id, that are ours by their path are adopted."""
    archive.service.faults.add(Fault(on="submit", action="drop_after", times=2))
    spell(archive, SPELLINGS[spelling], "list", "get")

    first, _ = await nights(archive, 2)

    assert first.summary.written == 2
    paid_once_and_saved(archive)


@pytest.mark.parametrize("echo", ["none", "of nobody", "no address"])
async def test_a_row_alone_is_not_enough(archive: Archive, echo: str) -> None:
    """A row in another spelling whose GET says otherwise is neither saved nor paid again."""
    archive.service.faults.add(Fault(on="submit", action="drop_after", times=2))
    spell(archive, SPELLINGS["proxy"], "list")
    spell(archive, NAMELESS[echo], "get")

    first, second = await nights(archive, 2)

    assert archive.service.requests["submit"] == 2
    assert (first.summary.parked, second.summary.parked) == (2, 2)
    assert second.summary.exit_code == ExitCode.PARTIAL
    archive.service.faults.clear()
    await nights(archive, 1)
    paid_once_and_saved(archive)


async def test_an_exact_row_is_looked_at_before_it_is_taken(archive: Archive) -> None:
    """A row that is spelled as ours, whose GET speaks of another upload, proves nothing."""
    archive.service.faults.add(Fault(on="submit", action="drop_after", times=2))
    spell(archive, lambda _: f"{HOST}/upload/somebody-elses", "get")

    (first,) = await nights(archive, 1)

    assert archive.service.requests["submit"] == 2
    assert first.summary.parked == 2
    archive.service.faults.clear()
    await nights(archive, 1)
    paid_once_and_saved(archive)


def as_query(url: str) -> str:
    """An address whose uploads differ by their query alone."""
    return f"{HOST}/upload?key=1&id={url.rpartition('/')[2]}"


@pytest.mark.parametrize("is_lost", [False, True])
async def test_uploads_that_share_a_path(archive: Archive, is_lost: bool) -> None:
    """Where uploads differ by their query alone, each is found by that, in any spelling."""
    spell_upload = Fault(on="upload", action="patch", times=None, patch={"upload_url": as_query})
    archive.service.faults.add(spell_upload)
    if is_lost:
        archive.service.faults.add(Fault(on="submit", action="drop_after", times=2))
    spell(archive, lambda url: f"{url}&x=1".replace(HOST, "http://p:81"), "submit", "list", "get")

    first, _ = await nights(archive, 2)

    assert first.summary.written == 2
    assert archive.service.requests["submit"] == 2
    uploads = await archive.rows("SELECT transcript_id, upload_url FROM attempts")
    assert sorted(uploads) == sorted((each.id, each.audio_url) for each in archive.service)


# --- ids that may be another's --------------------------------------------------------------------


async def say(archive: Archive, *claims: str, disclaim: str = "") -> None:
    """The user's word on an id."""
    disclaims = [disclaim] if disclaim else []
    await claim(archive.settings(), claims, disclaims, emit=lambda _: None)


async def in_doubt(archive: Archive, has_echo: bool, is_accepted: bool) -> str:
    """A run whose second request is answered with the answer of the first; the id that it gives."""
    (archive.recordings / "b.wav").rename(archive.root / "b.wav")
    await archive.run()
    (archive.root / "b.wav").rename(archive.recordings / "b.wav")
    (first,) = archive.service.accepted(ONE)
    stale = {"id": first.id, "status": "queued"}
    if has_echo:
        stale["audio_url"] = first.audio_url.replace("https", "http")
    action = "effect_then_answer" if is_accepted else "answer"
    archive.service.faults.add(
        Fault(on="submit", action=action, status=200, body=json.dumps(stale))
    )
    await archive.run()
    return first.id


@pytest.mark.parametrize("has_echo", [False, True])
async def test_anothers_id_decides_nothing(archive: Archive, has_echo: bool) -> None:
    """An id of another upload, or one that was given before, is never read as not accepted."""
    transcript_id = await in_doubt(archive, has_echo, is_accepted=False)

    for outcome in await nights(archive, 3):
        assert outcome.summary.exit_code == ExitCode.PARTIAL
        (reason,) = outcome.summary.reasons["parked"]
        assert f"--claim {transcript_id}=PATH" in reason
        assert f"--disclaim {transcript_id}" in reason
    assert archive.service.requests["submit"] == 2

    with pytest.raises(SettingsError, match="can only be disclaimed"):
        await say(archive, f"{transcript_id}={archive.recordings / 'b.wav'}")
    with pytest.raises(SettingsError, match="other bytes"):
        await say(archive, f"{transcript_id}={archive.recordings / 'a.wav'}")
    await say(archive, disclaim="all")
    assert (await archive.run()).summary.parked == 1
    await say(archive, disclaim=transcript_id)
    assert (await archive.run()).summary.written == 1
    assert archive.service.requests["submit"] == 3
    assert set(archive.service.billable.values()) == {1}


@pytest.mark.parametrize("has_echo", [False, True])
async def test_a_row_resolves_an_id_in_doubt(archive: Archive, has_echo: bool) -> None:
    """Where the list shows what became of the request, nobody has to be asked."""
    await in_doubt(archive, has_echo, is_accepted=True)

    await nights(archive, 1)

    paid_once_and_saved(archive)


async def test_a_claimed_id_is_fetched(archive: Archive) -> None:
    """An id that came with another's address, and that no list shows, is the user's to say."""
    (archive.recordings / "b.wav").rename(archive.root / "b.wav")
    await archive.run()
    (archive.root / "b.wav").rename(archive.recordings / "b.wav")
    (first,) = archive.service.accepted(ONE)
    archive.service.list_lag_s = 3600.0
    spell(archive, lambda _: first.audio_url, "submit", "get")
    parked = await archive.run()
    (second,) = archive.service.accepted(TWO)

    await say(archive, f"{second.id}={archive.recordings / 'b.wav'}")
    await nights(archive, 1)

    assert parked.summary.parked == 1
    paid_once_and_saved(archive)


async def test_a_rebuilt_ledger_knows_what_was_said(archive: Archive) -> None:
    """What the user said of an id in doubt holds after a rebuild: its result is known again."""
    (archive.recordings / "b.wav").rename(archive.root / "b.wav")
    await archive.run()
    (archive.root / "b.wav").rename(archive.recordings / "b.wav")
    (first,) = archive.service.accepted(ONE)
    archive.service.list_lag_s = 3600.0
    spell(archive, lambda _: first.audio_url, "submit", "get")
    await archive.run()
    (second,) = archive.service.accepted(TWO)
    await say(archive, f"{second.id}={archive.recordings / 'b.wav'}")
    await nights(archive, 1)
    for path in archive.state.glob("ledger.sqlite3*"):
        path.unlink()

    rebuilt = await rebuild(archive.settings(), lambda _: None, emit=lambda _: None)
    (after,) = await nights(archive, 1)

    assert (rebuilt.written, rebuilt.to_fetch, rebuilt.unclaimed) == (2, 0, 0)
    assert after.summary.already_written == 2
    paid_once_and_saved(archive)


@pytest.mark.parametrize("has_echo", [False, True])
async def test_a_rebuilt_ledger_knows_the_doubt(archive: Archive, has_echo: bool) -> None:
    """A ledger that is made anew asks for nothing whose answer gave an id that is another's."""
    transcript_id = await in_doubt(archive, has_echo, is_accepted=False)
    for path in archive.state.glob("ledger.sqlite3*"):
        path.unlink()

    rebuilt = await rebuild(archive.settings(), lambda _: None, emit=lambda _: None)
    (after,) = await nights(archive, 1)

    assert (rebuilt.unclaimed, rebuilt.written) == (0, 1)
    assert after.summary.parked == 1
    assert archive.service.requests["submit"] == 2
    await say(archive, disclaim=transcript_id)
    assert (await archive.run()).summary.written == 1
    assert set(archive.service.billable.values()) == {1}


# --- what is held against the account -------------------------------------------------------------


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_an_audit_knows_an_upload_in_another_spelling(
    archive: Archive, spelling: str
) -> None:
    """A second transcript of an upload of ours is told as such, however the list spells it."""
    await archive.run()
    (first,) = archive.service.accepted(ONE)
    second = archive.service.submit(first.project, {"audio_url": first.audio_url})
    spell(archive, SPELLINGS[spelling], "list")
    told: list[Finding] = []

    audit = await audit_remote(archive.settings(), told.append)

    assert [(each.kind, each.transcript_id) for each in told] == [("twice", second.id)]
    assert audit.exit_code == ExitCode.PARTIAL


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_a_rebuild_knows_results_in_another_spelling(archive: Archive, spelling: str) -> None:
    """What lies on disk is known again, whatever the answers call their uploads."""
    spell(archive, SPELLINGS[spelling], "submit", "list", "get")
    await archive.run()
    for path in archive.state.glob("ledger.sqlite3*"):
        path.unlink()

    rebuilt = await rebuild(archive.settings(), lambda _: None, emit=lambda _: None)
    (after,) = await nights(archive, 1)

    assert (rebuilt.written, rebuilt.to_fetch, rebuilt.unclaimed) == (2, 0, 0)
    assert after.summary.already_written == 2
    paid_once_and_saved(archive)
