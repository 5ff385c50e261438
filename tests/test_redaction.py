"""Redacted audio: it leaves the place of a result with that one, and comes back with it."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from pipeline.redaction import bring_audio_back, put_audio, put_audio_aside

pytestmark = pytest.mark.anyio


def answer(transcript_id: str, quality: str | None = "mp3") -> bytes:
    """A completed transcript, with redacted audio of this sort if any."""
    redacted = {} if quality is None else {"redact_pii_audio_quality": quality}
    of_audio = {"redact_pii_audio": quality is not None, **redacted}
    return json.dumps({"id": transcript_id, "status": "completed", "text": "", **of_audio}).encode()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A result with audio, among versions still to come."""
    place = tmp_path / "a.wav.json"
    place.write_bytes(answer("old"))
    (tmp_path / "a.wav.redacted.mp3").write_bytes(b"old sound")
    return place


def kept(digest: str, place: Path) -> bytes:
    return bytes(place.parent / "versions" / f"a.wav~{digest[:12]}.json")


def put(path: bytes, content: bytes) -> None:
    Path(path.decode()).write_bytes(content)


def sounds(place: Path) -> dict[str, bytes]:
    """All audio, by its name below the folder."""
    folder = place.parent
    found = folder.rglob("*.redacted.*")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


async def aside(place: Path, new: bytes) -> None:
    """What stands there is about to be replaced."""
    digest = sha256(new).hexdigest()
    await put_audio_aside(bytes(place), lambda standing: kept(standing, place), digest)


async def test_it_leaves_with_its_result_and_comes_back_with_it(place: Path) -> None:
    """It is kept under the name of its JSON, and a copy of it is put back."""
    await aside(place, answer("new", None))
    left = sounds(place)
    version = kept(sha256(answer("old")).hexdigest(), place)
    put(version, answer("old"))

    await bring_audio_back(version, bytes(place))

    (name,) = left
    assert name.startswith("versions/a.wav~")
    assert sounds(place) == {name: b"old sound", "a.wav.redacted.mp3": b"old sound"}
    assert not list(place.parent.rglob("*~overnight"))


async def test_what_is_kept_is_kept_as_it_was_first(place: Path) -> None:
    """Cut off after the next one's audio was put there, a second time keeps no wrong sound."""
    await aside(place, answer("new"))
    put(bytes(place.parent / "a.wav.redacted.mp3"), b"new sound")
    await aside(place, answer("new"))

    assert list(sounds(place).values()) == [b"old sound"]


async def test_it_stays_beside_the_same_result(place: Path) -> None:
    """Where what is to be put there stands already, its audio is left alone."""
    await aside(place, answer("old"))

    assert sounds(place) == {"a.wav.redacted.mp3": b"old sound"}


async def test_what_stands_where_audio_goes_is_kept(place: Path) -> None:
    """A file in the place of a copy is kept if it is another one; a copy of nothing is none."""
    source, there = (bytes(place.parent / f"{n}.redacted.mp3") for n in ("source", "a.wav"))
    put(source, b"new sound")

    def versioned(standing: str) -> bytes:
        return bytes(place.parent / f"kept~{standing[:12]}.redacted.mp3")

    for _ in range(2):
        await put_audio(source, there, versioned)
    await put_audio(bytes(place.parent / "nothing"), there, versioned)

    kept_as = Path(versioned(sha256(b"old sound").hexdigest()).decode()).name
    new = {"source.redacted.mp3": b"new sound", "a.wav.redacted.mp3": b"new sound"}
    assert sounds(place) == {kept_as: b"old sound", **new}
    assert not list(place.parent.rglob("*~overnight"))


@pytest.mark.parametrize(
    "echo",
    [{}, {"redact_pii_audio": False}, {"redact_pii_audio": "true"}, {"redact_pii_audio": [1]}],
    ids=str,
)
@pytest.mark.parametrize("quality", ["mp3", "wav"])
async def test_it_goes_with_its_result_whatever_that_says(
    tmp_path: Path, echo: dict[str, object], quality: str
) -> None:
    """Audio that was asked for lies beside its result, also where the answer does not echo it."""
    place = tmp_path / "a.wav.json"
    old = json.dumps({"id": "old", "status": "completed", "text": ""} | echo).encode()
    place.write_bytes(old)
    (tmp_path / f"a.wav.redacted.{quality}").write_bytes(b"old sound")

    await aside(place, answer("new", None))
    version = kept(sha256(old).hexdigest(), place)
    put(version, old)
    left = sounds(place)
    await bring_audio_back(version, bytes(place))

    assert list(left.values()) == [b"old sound"]
    assert sounds(place) == left | {f"a.wav.redacted.{quality}": b"old sound"}
    assert len(sounds(place)) == 2


@pytest.mark.parametrize("standing", [b"", b"of somebody else", b'{"id": "../x"}'])
async def test_only_results_have_audio(place: Path, standing: bytes) -> None:
    """A file of somebody else or an empty one takes nothing along."""
    put(bytes(place), standing)

    await aside(place, answer("new"))
    await bring_audio_back(bytes(place), bytes(place.parent / "b.wav.json"))

    assert sounds(place) == {"a.wav.redacted.mp3": b"old sound"}
