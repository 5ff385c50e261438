"""Which upload an address names: the exact one, else the only one of that form."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.ledger import Ledger
from pipeline.ledger.adoptions import Adoption
from pipeline.models import AttemptState, Completion
from tests.ledger.ledgers import Steps, ledger_at, reading

pytestmark = pytest.mark.anyio

FORMS = {
    "paths": ["https://h/u/1", "https://h/u/2", "https://h/u/3"],
    "queries": ["https://h/u?id=1", "https://h/u?id=2", "https://h/u?id=3"],
    "hosts": ["https://1.h/u", "https://2.h/u", "https://3.h/u"],
}


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with ledger_at(tmp_path) as ledger:
        yield ledger


async def uploaded(ledger: Ledger, urls: list[str]) -> list[int]:
    """Attempts with these uploads."""
    attempts = []
    for number, url in enumerate(urls):
        content = b"%d" % number
        claim = await Steps(ledger, b"%d.wav" % number, content).claim()
        assert await ledger.record_uploaded(claim, reading(content), url)
        attempts.append(claim.attempt_id)
    return attempts


@pytest.mark.parametrize("form", FORMS)
async def test_the_exact_address_names_its_upload(ledger: Ledger, form: str) -> None:
    """An address that is spelled as it was given is that of one upload, whatever others share."""
    attempts = await uploaded(ledger, FORMS[form])

    assert [await ledger.named_by(url) for url in FORMS[form]] == [[each] for each in attempts]


@pytest.mark.parametrize("form", ["paths", "queries"])
async def test_another_spelling_names_the_only_one(ledger: Ledger, form: str) -> None:
    """Spelled otherwise, an address is that of the upload whose path and query it has."""
    attempts = await uploaded(ledger, FORMS[form])

    for url, attempt_id in zip(FORMS[form], attempts, strict=True):
        spelled = url.replace("https://h", "http://proxy:81")
        spelled += "&x=1" if "?" in spelled else "?x=1"
        others = [each for each in attempts if each != attempt_id]
        assert await ledger.named_by(spelled) == [attempt_id]
        assert not await ledger.is_of_another(attempt_id, spelled)
        assert all([await ledger.is_of_another(each, spelled) for each in others])


async def test_what_several_uploads_may_be_is_none_for_certain(ledger: Ledger) -> None:
    """Where more than one upload has the form of an address, it may be each of them."""
    attempts = await uploaded(ledger, FORMS["hosts"])

    assert sorted(await ledger.named_by("http://proxy/u")) == attempts
    assert not any([await ledger.is_of_another(each, "http://proxy/u") for each in attempts])


async def test_a_transcript_that_is_known_is_nobody_elses(ledger: Ledger) -> None:
    """An address that several may have says nothing of them where its transcript is one's own."""
    attempts = await uploaded(ledger, FORMS["hosts"])
    assert await ledger.claim_submit(attempts[0], None)
    assert await ledger.record_accepted(attempts[0], "known")

    assert await ledger.named_by("http://proxy/u", "known") == []
    assert sorted(await ledger.named_by("http://proxy/u", "another")) == attempts
    assert await ledger.named_by(FORMS["hosts"][0], "known") == attempts[:1]


@pytest.mark.parametrize("url", ["", "http://deleted_by_user", "https://h/u", "upload", "http://["])
async def test_what_is_nobodys_names_nobody(ledger: Ledger, url: str) -> None:
    """An address of another path, or none at all, is that of no upload."""
    attempts = await uploaded(ledger, FORMS["paths"])

    assert await ledger.named_by(url) == []
    assert not await ledger.is_of_another(attempts[0], url)


@pytest.mark.parametrize("claimed_id", [None, "claimed"])
@pytest.mark.parametrize("state", AttemptState)
async def test_what_is_not_adopted_for_its_address_says_why(
    ledger: Ledger, state: AttemptState, claimed_id: str | None
) -> None:
    """A document of an upload of ours is refused in words, also where no transcript is known."""
    attempt_id = await Steps(ledger).reach(state)
    if claimed_id and state is AttemptState.SUBMITTING:
        await ledger.record_ambiguous(attempt_id, "lost", claimed_id)
    done = Completion("model", 1.0, None)
    adoption = Adoption(
        *(2, reading(b"two"), "other", f"upload:{attempt_id}", "{}", "custom", "http://here"),
        *("", 0.0, done, 1, "digest"),
    )

    said = await ledger.why_not_adopted(adoption)

    if state is AttemptState.UPLOADING:
        assert said is None
    else:
        assert said is not None
        assert "None" not in said
        assert (claimed_id in said) is (state is AttemptState.SUBMITTING) if claimed_id else True
