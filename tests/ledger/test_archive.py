"""Which recordings are meant: each thing that may be asked of them, and all of it at once."""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec import structs

from pipeline.ledger import Ledger, Redo, read_only
from pipeline.ledger.archive import (
    Selected,
    Selection,
    Told,
    is_put_aside,
    known_state,
    roots,
    select,
    unsettled,
    versions,
)
from pipeline.models import Completion, Root, request_key
from pipeline.options import parse_assignment
from pipeline.settings import glob_pattern
from tests.ledger.ledgers import HERE, Clock, entry, ledger_at, reading

pytestmark = pytest.mark.anyio

BEGAN = Clock().now
DAY = 86400.0
LATER = replace(HERE, run_id="run-2", redo=Redo(changed=True, promote="never"))

# Options, model, seconds, confidence and language of each, a day apart.
WRITTEN: dict[bytes, tuple[dict[str, Any], str, float, float | None, str | None]] = {
    b"calls/a.wav": ({}, "universal-2", 60.0, 0.95, "en_us"),
    b"calls/late/b.wav": ({"punctuate": False}, "universal-2", 600.0, 0.5, "de"),
    b"c.wav": ({"speaker_options": {"min_speakers_expected": 2}}, "slam-1", 3600.0, None, None),
}


@pytest.fixture
async def archive(tmp_path: Path) -> Path:
    """Three written recordings of two runs, one that failed, and one that was only found."""
    clock = Clock()
    async with ledger_at(tmp_path, clock=clock) as ledger:
        await ledger.record_roots([Root("root", b"/somewhere", b"")])
        for name, facts in WRITTEN.items():
            await write(ledger, name, *facts)
            clock.now += DAY
        claim = await claimed(ledger, b"failed.wav", {})
        await ledger.refuse_upload(claim, reading(b"failed"), "It is no Audio at all.")
        await ledger.record_found("root", [entry(b"parked.wav")], lambda _: None, ())
    return tmp_path


def nothing(_: Selected) -> None:
    """No saved answer can be read."""


async def claimed(ledger: Ledger, name: bytes, options: dict[str, Any]) -> Any:
    found = entry(name, options=json.dumps(options, separators=(",", ":")))
    await ledger.record_found("root", [found], lambda _: None, ())
    (claim,) = await ledger.claim(1)
    return claim


async def write(
    ledger: Ledger,
    name: bytes,
    options: dict[str, Any],
    model: str,
    duration_s: float,
    confidence: float | None,
    language_code: str | None,
) -> None:
    """A recording with its result."""
    claim = await claimed(ledger, name, options)
    attempt_id = claim.attempt_id
    assert await ledger.record_uploaded(claim, reading(name), f"upload:{attempt_id}")
    assert await ledger.claim_submit(attempt_id, None)
    assert await ledger.record_accepted(attempt_id, f"id-{attempt_id}")
    done = Completion(model, duration_s, 0.1, confidence, language_code)
    await ledger.record_written(attempt_id, [claim.recording_id], 10, "f" * 64, done)


async def redo(ledger: Ledger) -> None:
    """The first of them once more, with other options."""
    found = entry(b"calls/a.wav", size=len(b"calls/a.wav"), options='{"punctuate":true}')
    await ledger.record_found("root", [found], lambda _: 10, ())
    (claim,) = await ledger.claim(1)
    assert await ledger.record_uploaded(claim, reading(b"calls/a.wav"), "upload:later")
    assert await ledger.claim_submit(claim.attempt_id, None)
    assert await ledger.record_accepted(claim.attempt_id, "id-later")
    done = Completion("universal-3", 60.0, 0.2, 0.99, "en")
    await ledger.record_written(claim.attempt_id, [claim.recording_id], 9, "e" * 64, done)


async def chosen(folder: Path, told: Callable[[Selected], Told | None] = nothing, **of: Any) -> str:
    """The names of what is selected, without their suffix."""

    def look() -> str:
        with closing(read_only(folder / "ledger.sqlite3")) as db:
            found = select(db, Selection(**of), told)
            return " ".join(each.path.decode().removesuffix(".wav") for each in found)

    return await anyio.to_thread.run_sync(look)


def globs(*texts: str) -> dict[str, Any]:
    return {text: glob_pattern(text) for text in texts}


A, B, C = "calls/a", "calls/late/b", "c"


@pytest.mark.parametrize(
    ("of", "names"),
    [
        ({}, f"{C} {A} {B} failed parked"),
        ({"paths": globs("calls/*")}, A),
        ({"paths": globs("calls/**", "failed*")}, f"{A} {B} failed"),
        ({"paths": globs("root/calls/*")}, A),
        ({"paths": globs("other/**")}, ""),
        ({"state": "written"}, f"{C} {A} {B}"),
        ({"state": "failed"}, "failed"),
        ({"state": "parked"}, "parked"),
        ({"since": BEGAN + DAY}, f"{C} {B}"),
        ({"until": BEGAN + DAY}, A),
        ({"model": "universal-2"}, f"{A} {B}"),
        ({"model": "universal"}, ""),
        ({"language": "en"}, A),
        ({"language": "en_us"}, A),
        ({"language": "en_uk"}, ""),
        ({"options": (parse_assignment("punctuate=false"),)}, B),
        ({"options": (parse_assignment("punctuate=null"),)}, f"{C} {A}"),
        ({"options": (parse_assignment("speaker_options.min_speakers_expected=2"),)}, C),
        ({"confidence_below": 0.95}, B),
        ({"longer_than_s": 60.0}, f"{C} {B}"),
        ({"shorter_than_s": 600.0}, A),
        ({"reason": "no audio"}, "failed"),
        ({"run_id": "run-1"}, f"{C} {A} {B}"),
        ({"run_id": "run-2"}, ""),
        ({"paths": globs("calls/**"), "longer_than_s": 60.0, "state": "written"}, B),
    ],
)
async def test_each_thing_that_may_be_asked(archive: Path, of: dict[str, Any], names: str) -> None:
    """What is selected is what all of it holds of, in the order of the paths."""
    assert await chosen(archive, **of) == names


async def test_what_the_ledger_does_not_know_is_read(archive: Path) -> None:
    """The saved answer is asked where the ledger has nothing, of no other recording."""
    asked = []

    def told(each: Selected) -> Told:
        asked.append(each.path)
        return Told("another", "fr", 0.1)

    assert await chosen(archive, told, language="fr", confidence_below=0.2) == C
    assert asked == [b"c.wav"]
    assert await chosen(archive, told, model="another") == ""


async def test_what_cannot_be_read_is_not_meant(archive: Path) -> None:
    """Where nobody can say it, a recording is not one of those of which it holds."""
    assert await chosen(archive, language="fr") == ""
    assert await chosen(archive, confidence_below=1.0) == f"{A} {B}"


async def test_more_than_a_page_of_them(tmp_path: Path) -> None:
    """All recordings come, each once, by root and path, however many there are."""
    names = [b"%04d.wav" % number for number in range(1234)]
    async with ledger_at(tmp_path) as ledger:
        for root in ("b", "a"):
            entries = [structs.replace(entry(n), result=root.encode() + b"/" + n) for n in names]
            await ledger.record_found(root, entries, lambda _: None, ())

    found = (await chosen(tmp_path)).split()

    assert found == [name.decode().removesuffix(".wav") for name in names] * 2


async def test_roots_and_known_transcripts(archive: Path) -> None:
    """A root is known by its folder and by what leads its results, a transcript by its state."""
    async with ledger_at(archive) as ledger:
        await ledger.record_roots([Root("calls", b"/calls", b"of/the/calls/")])
        found = structs.replace(entry(b"x.wav"), result=b"of/the/calls/x.wav.json")
        await ledger.record_found("calls", [found], lambda _: None, ())
    key = request_key(reading(b"calls/a.wav").content, "{}", HERE.provider_kind)

    def look() -> None:
        with closing(read_only(archive / "ledger.sqlite3")) as db:
            assert roots(db) == {
                "root": Root("root", b"/somewhere", b""),
                "calls": Root("calls", b"/calls", b"of/the/calls/"),
            }
            assert known_state(db, key) == "written"
            assert known_state(db, "unknown") is None

    await anyio.to_thread.run_sync(look)


async def test_versions_say_what_they_are(archive: Path) -> None:
    """A replaced result is listed with its file, what it was made with, and what replaced it."""
    async with ledger_at(archive, LATER) as ledger:
        await redo(ledger)

    def look() -> None:
        with closing(read_only(archive / "ledger.sqlite3")) as db:
            (each,) = versions(db)
            assert unsettled(db) == 1
        assert (each["path"], each["run_id"], each["written_run"]) == (
            *(b"calls/a.wav", "run-2"),
            "run-1",
        )
        assert (each["options"], each["model_used"], each["confidence"]) == (
            *("{}", "universal-2"),
            0.95,
        )
        assert (each["transcript_id"], each["result_sha256"]) == ("id-1", "f" * 64)

    await anyio.to_thread.run_sync(look)


async def test_what_a_run_put_aside_itself(archive: Path) -> None:
    """Only a result that the run which wrote it let lie is one that was put aside."""
    made = request_key(reading(b"calls/a.wav").content, '{"punctuate":true}', HERE.provider_kind)
    async with ledger_at(archive, LATER) as ledger:
        await redo(ledger)
        (each,) = await ledger.unsettled(0, 1)
        await ledger.record_back(each.version_id)

    def look() -> bool:
        with closing(read_only(archive / "ledger.sqlite3")) as db:
            older = request_key(reading(b"calls/a.wav").content, "{}", HERE.provider_kind)
            assert not is_put_aside(db, each.recording_id, older)
            return is_put_aside(db, each.recording_id, made)

    assert await anyio.to_thread.run_sync(look)
