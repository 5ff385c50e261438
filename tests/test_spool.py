"""An answer reaches its place whole, or leaves nothing behind."""

import json
import os
from hashlib import sha256
from pathlib import Path

import pytest

from pipeline.errors import AnswerUnusable, PipelineError, ServiceUnavailable
from pipeline.spool import Spool

pytestmark = pytest.mark.anyio


def answer(words: int) -> bytes:
    return json.dumps({"id": "t1", "status": "completed", "text": "word " * words}).encode()


async def take(spool: Spool, body: bytes, chunk_bytes: int = 65_536) -> None:
    for start in range(0, len(body), chunk_bytes):
        await spool.write(body[start : start + chunk_bytes])


@pytest.mark.parametrize("words", [1, 1_000_000])
async def test_answer_is_kept_as_it_came(tmp_path: Path, words: int) -> None:
    """What comes is what stands on disk, byte for byte, whether it fits in memory or not."""
    place, body = tmp_path / "2026" / "call.wav.json", answer(words)
    async with Spool(os.fsencode(place), "t1") as spool:
        await take(spool, body)
        head = await spool.finish()
        await spool.put(os.fsencode(place))

    assert (head.id, head.status) == ("t1", "completed")
    assert place.read_bytes() == body
    assert (spool.digest, spool.size) == (sha256(body).hexdigest(), len(body))
    assert os.listdir(place.parent) == ["call.wav.json"]


@pytest.mark.parametrize("words", [1, 1_000_000])
async def test_part_of_an_answer_is_none(tmp_path: Path, words: int) -> None:
    """An answer that ends early is refused, and nothing of it stays on disk."""
    place = tmp_path / "call.wav.json"
    async with Spool(os.fsencode(place), "t1") as spool:
        await take(spool, answer(words)[:-5])
        with pytest.raises(ServiceUnavailable):
            await spool.finish()

    assert os.listdir(tmp_path) == []


async def test_rewound_it_begins_anew(tmp_path: Path) -> None:
    """What came before a second try is forgotten."""
    place = tmp_path / "call.wav.json"
    async with Spool(os.fsencode(place), "t1") as spool:
        await take(spool, answer(1_000_000)[:-5])
        await spool.rewind()
        await take(spool, answer(2))
        await spool.finish()
        await spool.put(os.fsencode(place))

    assert place.read_bytes() == answer(2)


async def test_two_answers_for_one_place_do_not_mix(tmp_path: Path) -> None:
    """Each of two transcripts on their way to one name has a temporary file of its own."""
    place = os.fsencode(tmp_path / "call.wav.json")
    async with Spool(place, "old") as old, Spool(place, "new") as new:
        await take(old, answer(1_000_000))
        await take(new, answer(3))
        await new.finish()
        await old.finish()
        await new.put(place)

    assert (tmp_path / "call.wav.json").read_bytes() == answer(3)
    assert os.listdir(tmp_path) == ["call.wav.json"]


async def test_one_answer_goes_to_many_places(tmp_path: Path) -> None:
    """Equal recordings get equal files, in folders that did not exist."""
    place, other = tmp_path / "a.wav.json", tmp_path / "deep" / "er" / "b.wav.json"
    async with Spool(os.fsencode(place), "t1") as spool:
        await take(spool, answer(5))
        await spool.finish()
        await spool.put(os.fsencode(other))
        await spool.put(os.fsencode(place))

    assert place.read_bytes() == other.read_bytes() == answer(5)
    assert os.listdir(other.parent) == ["b.wav.json"]


async def test_file_can_be_the_answer(tmp_path: Path) -> None:
    """A result that is already on disk serves in place of an answer, and is told by its sha256."""
    source = tmp_path / "a.wav.json"
    source.write_bytes(answer(7))
    place = tmp_path / "b.wav.json"
    async with Spool(os.fsencode(place), "t1") as spool:
        digest = await spool.copy_from(os.fsencode(source))
        await spool.put(os.fsencode(place))

    assert digest == sha256(answer(7)).hexdigest()
    assert place.read_bytes() == source.read_bytes()


async def test_audio_needs_no_head(tmp_path: Path) -> None:
    """Bytes that are no transcript are saved just the same when only closed."""
    place = tmp_path / "call.wav.redacted.mp3"
    async with Spool(os.fsencode(place), "t1") as spool:
        await take(spool, b"\xff\xfb" * 1_000_000)
        await spool.close()
        await spool.put(os.fsencode(place))

    assert place.stat().st_size == 2_000_000


@pytest.mark.parametrize(
    ("fault", "expected"),
    [(b'"id":"../x"', AnswerUnusable), (b'"x":"\\q"', ServiceUnavailable)],
)
async def test_a_large_answer_that_is_none_is_let_go(
    tmp_path: Path, fault: bytes, expected: type[PipelineError]
) -> None:
    """One that is refused only after it was read through leaves neither a file nor a map open."""
    place = os.fsencode(tmp_path / "a.json")
    body = b'{"status":"completed","text":"' + b"word " * 400_000 + b'",' + fault + b',"id":"x"}'
    if expected is AnswerUnusable:
        body = body.replace(b',"id":"x"', b"")
    async with Spool(place, "tag") as spool:
        await spool.write(body)
        with pytest.raises(expected):
            await spool.finish()

    assert os.listdir(tmp_path) == []
