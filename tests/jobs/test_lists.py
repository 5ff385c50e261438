"""Lists of recordings, as other systems and editors write them."""

import codecs
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.errors import SettingsError
from pipeline.events import RecordingFound
from tests.support.runs import Archive, opened

pytestmark = pytest.mark.anyio


@pytest.fixture
async def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Archive]:
    """Recordings in the folder that lists are relative to."""
    (tmp_path / "recordings").mkdir()
    monkeypatch.chdir(tmp_path / "recordings")
    async with opened(tmp_path) as archive:
        yield archive


async def taken(archive: Archive, text: bytes) -> list[str]:
    """The recordings that a list with this text names, all of which are there."""
    (archive.root / "list").write_bytes(text)

    outcome = await archive.run(files_from=str(archive.root / "list"), dry_run=True)

    assert outcome.summary.exit_code == 0
    return sorted(event.recording for event in outcome.of(RecordingFound))


WINDOWS = "# from the other side\r\n\r\na.wav\r\n  \r\nsub/é.wav\r\n"


@pytest.mark.parametrize(
    "text",
    [
        WINDOWS.encode(),
        codecs.BOM_UTF8 + WINDOWS.encode(),
        codecs.BOM_UTF8 + WINDOWS.replace("\r", "").encode(),
        WINDOWS.rstrip().encode(),
        WINDOWS.replace("a.wav", "./a.wav").encode(),
    ],
    ids=["crlf", "crlf and bom", "bom", "no end", "dot"],
)
async def test_a_list_made_on_windows(archive: Archive, text: bytes) -> None:
    """CRLF, a byte order mark, comment lines and blank lines are no part of any name."""
    for name in ("a.wav", "b.wav", "sub/é.wav"):
        archive.add(name, name.encode())

    assert await taken(archive, text) == ["a.wav", "sub/é.wav"]


async def test_a_name_that_ends_in_a_carriage_return(archive: Archive) -> None:
    """A recording whose name has the `\\r` is the one that is meant; there may be both."""
    archive.add(b"a.wav\r", b"with")
    archive.add(b"a.wav", b"without")
    archive.add(b"b.wav", b"only without")

    assert await taken(archive, b"a.wav\r\nb.wav\r\n") == ["a.wav\r", "b.wav"]


async def test_names_that_look_like_comments_or_blanks(archive: Archive) -> None:
    """Behind `./` a name may begin with `#`, or be nothing but blanks."""
    for name in (b"#a.wav", b" ", b" b.wav "):
        archive.add(name, b"content of " + name)

    assert await taken(archive, b"./#a.wav\n./ \n b.wav \n#b.wav\n") == [" ", " b.wav ", "#a.wav"]


@pytest.mark.parametrize(
    "name",
    [b"#a.wav", b"a.wav\r", b"a\nb.wav", b"  ", codecs.BOM_UTF8 + b"a.wav", b"\r\n", b"\n"],
    ids=repr,
)
async def test_a_list_with_nul_is_verbatim(archive: Archive, name: bytes) -> None:
    """What NUL ends is a name, whatever it holds."""
    for each in (name, b"plain.wav"):
        archive.add(each, b"content of " + each)

    assert len(await taken(archive, name + b"\0plain.wav\0")) == 2
    assert len(await taken(archive, name + b"\0")) == 1


@pytest.mark.parametrize("mark", [True, False], ids=["bom", "no bom"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
async def test_a_list_in_utf_16_is_named(archive: Archive, encoding: str, mark: bool) -> None:
    """UTF-16, as PowerShell writes it, is an error that says so: its NULs end no names."""
    archive.add("a.wav", b"a")
    text = "\ufeff" * mark + "a.wav\r\nsub/b.wav\r\n"
    (archive.root / "list").write_bytes(text.encode(encoding))

    with pytest.raises(SettingsError, match="UTF-16"):
        await archive.run(files_from=os.fsdecode(archive.root / "list"))

    assert archive.service.requests == {}
