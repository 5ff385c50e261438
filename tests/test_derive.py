"""Derived files: made where they are not just that already, and what they replace is kept."""

import json
import os
import signal
from hashlib import sha256
from pathlib import Path

import pytest
from anyio import to_process

from pipeline.derive import Derived, Shelf, derive, derive_apart
from pipeline.models import Stored
from pipeline.render import render


def transcript(text: str = "One. Two.") -> bytes:
    words = [
        {"text": word, "start": at * 500, "end": at * 500 + 400, "confidence": 1, "speaker": None}
        for at, word in enumerate(text.split())
    ]
    return json.dumps(
        {"id": "t", "status": "completed", "text": text, "words": words, "audio_duration": 9}
    ).encode()


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    (tmp_path / "output").mkdir()
    return Shelf(os.fsencode(tmp_path / "output"), os.fsencode(tmp_path / "versions"))


def stored(shelf: Shelf, name: str, body: bytes) -> Stored:
    """A result on the shelf."""
    place = Path(os.fsdecode(shelf.output), name)
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(body)
    return Stored(1, os.fsencode(name), len(body), sha256(body).hexdigest())


def files(folder: bytes) -> dict[str, bytes]:
    top = Path(os.fsdecode(folder))
    return {str(each.relative_to(top)): each.read_bytes() for each in top.rglob("*.*")}


def test_files_are_made_beside_results(shelf: Shelf) -> None:
    """Each format of each result is what `render` makes of it, under the name that a run gives."""
    results = [stored(shelf, name, transcript(name)) for name in ("a.wav.json", "b/c.wav.json")]

    done = derive(results, ["txt", "md"], shelf)

    assert done == Derived(made=4)
    assert files(shelf.output) == {
        "a.wav.json": transcript("a.wav.json"),
        "a.wav.txt": render(transcript("a.wav.json"), "txt"),
        "a.wav.md": render(transcript("a.wav.json"), "md", "a.wav"),
        "b/c.wav.json": transcript("b/c.wav.json"),
        "b/c.wav.txt": render(transcript("b/c.wav.json"), "txt"),
        "b/c.wav.md": render(transcript("b/c.wav.json"), "md", "c.wav"),
    }
    assert files(shelf.versions) == {}


def test_what_is_right_is_not_touched(shelf: Shelf) -> None:
    """A file that is what would be made keeps its inode and its time; another one is kept."""
    result = stored(shelf, "a.wav.json", transcript())
    derive([result], ["txt", "srt"], shelf)
    text, srt = (Path(os.fsdecode(shelf.output), f"a.wav.{suffix}") for suffix in ("txt", "srt"))
    srt.write_bytes(b"by hand")
    before = text.stat()

    done = derive([result], ["txt", "srt"], shelf)

    assert done == Derived(replaced=1, unchanged=1)
    after = text.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert srt.read_bytes() == render(transcript(), "srt")
    assert list(files(shelf.versions).values()) == [b"by hand"]


def test_a_dry_run_only_counts(shelf: Shelf) -> None:
    """The same is counted, and nothing is written."""
    result = stored(shelf, "a.wav.json", transcript())
    Path(os.fsdecode(shelf.output), "a.wav.srt").write_bytes(b"by hand")
    before = files(shelf.output)

    done = derive([result], ["txt", "srt"], shelf, dry_run=True)

    assert done == Derived(made=1, replaced=1)
    assert files(shelf.output) == before
    assert files(shelf.versions) == {}


def test_one_bad_result_ends_nothing_but_itself(shelf: Shelf) -> None:
    """Results that are gone, changed or none are named; those beside them are rendered."""
    good = stored(shelf, "good.wav.json", transcript())
    changed = stored(shelf, "changed.wav.json", transcript())
    Path(os.fsdecode(shelf.output), "changed.wav.json").write_bytes(transcript()[:-1])
    none = stored(shelf, "none.wav.json", b'{"id": "t", "status": "queued"}')
    blocked = stored(shelf, "blocked.wav.json", transcript())
    Path(os.fsdecode(shelf.output), "blocked.wav.txt").mkdir()
    gone = Stored(1, b"gone.wav.json", 1, "0" * 64)

    done = derive([gone, changed, none, blocked, good], ["txt"], shelf)

    assert done.made == 1
    assert [(kind, name) for kind, name, _ in done.problems] == [
        ("damaged", b"gone.wav.json"),
        ("damaged", b"changed.wav.json"),
        ("unrendered", b"none.wav.json"),
        ("unrendered", b"blocked.wav.json"),
    ]
    assert all(why for _, _, why in done.problems)


@pytest.mark.anyio
async def test_a_process_of_its_own_is_deaf_to_interrupts(shelf: Shelf) -> None:
    """What is rendered apart is the same, and a Ctrl-C is left to the parent."""
    result = stored(shelf, "a.wav.json", transcript())

    done = await to_process.run_sync(derive_apart, [result], ["txt"], shelf, False)

    assert done == Derived(made=1)
    assert await to_process.run_sync(signal.getsignal, signal.SIGINT) == signal.SIG_IGN
