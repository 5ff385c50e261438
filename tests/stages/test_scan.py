"""The scan: what counts as a recording, whatever it is called and wherever it lies."""

import os
import time
import tracemalloc
import unicodedata
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from anyio import CancelScope, to_thread
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ExitCode, SettingsError
from pipeline.events import Event, RecordingFound, Skipped, Warned
from pipeline.ledger import Ledger, Reading, read_only
from pipeline.logs import configure_logs
from pipeline.models import MAX_UPLOAD_BYTES, Completion
from pipeline.names import distinct, fold
from pipeline.settings import Settings
from pipeline.stages.scan import MEDIA_SUFFIXES, Listing, Scan, find_roots
from tests.ledger.ledgers import HERE, entry, ledger_at
from tests.support.runs import recording

pytestmark = pytest.mark.anyio


@dataclass
class Looked:
    """What a scan told."""

    scan: Scan
    events: list[Event] = field(default_factory=list)

    @property
    def found(self) -> list[str]:
        return [each.recording for each in self.events if isinstance(each, RecordingFound)]

    @property
    def skipped(self) -> dict[str, str]:
        return {e.recording: e.reason for e in self.events if isinstance(e, Skipped)}

    @property
    def warned(self) -> list[str]:
        return [each.message for each in self.events if isinstance(each, Warned)]


@dataclass
class Eye:
    """Looks at the folder `in`, and knows of the output folder `out`."""

    root: Path
    ledger: Ledger

    async def look(self, *names: str, listed: list[Path] | None = None, **settings: Any) -> Looked:
        folders = [str(self.root / name) for name in names or ("in",)]
        roots = await to_thread.run_sync(find_roots, folders)
        output = os.fsencode(self.root / "out")
        looked = Looked(
            Scan(
                Settings(output=self.root / "out", **settings),
                roots,
                listing=Listing(output, time.time()),
                leave_out=[output],
                listed=None if listed is None else [os.fsencode(path) for path in listed],
            )
        )
        await looked.scan.run(self.ledger, looked.events.append)
        return looked

    def add(self, name: str | bytes, content: bytes = b"sound", age_s: float = 3600.0) -> None:
        recording(os.fsencode(self.root / "in") + b"/" + os.fsencode(name), content, age_s=age_s)


@pytest.fixture
async def eye(tmp_path: Path) -> AsyncIterator[Eye]:
    (tmp_path / "in").mkdir()
    async with ledger_at(tmp_path) as ledger:
        yield Eye(tmp_path, ledger)


# --- what counts -------------------------------------------------------------------------------


async def test_media_suffixes_in_any_case(eye: Eye) -> None:
    """A recording is known by its suffix, in any case; what else lies there is only counted."""
    for name in ("a.wav", "B.MP3", "c.tar.Flac", "notes.txt", "README", "d.wav.part", "wav"):
        eye.add(name)

    looked = await eye.look()

    assert looked.found == ["B.MP3", "a.wav", "c.tar.Flac"]
    assert looked.scan.passed.ignored == 4
    assert looked.scan.passed.suffixes == {"txt": 1, "": 2, "part": 1}


async def test_suffixes_of_the_service_are_taken(eye: Eye) -> None:
    """Containers that the service lists, and their usual relatives, need no `--include`."""
    usual = b"wav mp3 m4a flac ogg opus webm mp4 mov wma aac aiff amr mkv avi 3gp"
    later = b"qta wave bwf rf64 awb ogx mp4a"

    assert {*usual.split(), *later.split()} <= MEDIA_SUFFIXES


@pytest.mark.parametrize("suffix", ["qta", "wave", "BWF", "rf64", "awb", "ogx", "Mp4a"])
async def test_a_suffix_that_is_new_to_an_archive(eye: Eye, suffix: str) -> None:
    """In an archive of before it is named once, as what is paid for; a new one has no before."""
    eye.add("a.wav")
    before = await eye.look()
    for name in ("b", "sub/c"):
        eye.add(f"{name}.{suffix}")
    eye.add(f"empty.{suffix}", b"")
    first, second = await eye.look(), await eye.look()
    eye.add(f"d.{suffix}")
    third = await eye.look()

    assert len(first.found) == 3
    (message,) = first.warned
    assert f"paid for: .{suffix.lower()} 2;" in message
    assert f"--exclude '*.{suffix.lower()}'" in message
    assert before.warned == second.warned == third.warned == []


async def test_a_new_archive_has_no_new_suffixes(eye: Eye) -> None:
    """Nothing is named where nothing was taken before, nor what is named by the user."""
    eye.add("a.wave")
    eye.add("b.wav")
    fresh = await eye.look()
    eye.add("c.qta")
    listed = await eye.look(listed=[eye.root / "in/c.qta"])

    assert fresh.warned == listed.warned == []


async def test_hidden_things_are_not_recordings(eye: Eye) -> None:
    """Neither a hidden file nor anything in a hidden folder is sent."""
    for name in (".a.wav", "._b.wav", ".cache/c.wav", "open/.deep/d.wav", "open/e.wav"):
        eye.add(name)

    assert (await eye.look()).found == ["open/e.wav"]


async def test_links_are_not_followed(eye: Eye) -> None:
    """Links to files and to folders, loops among them, are left alone unless asked for."""
    eye.add("real/a.wav")
    os.symlink("real/a.wav", eye.root / "in/link.wav")
    os.symlink("..", eye.root / "in/real/loop")
    os.symlink("nowhere", eye.root / "in/broken.wav")
    os.symlink("itself.wav", eye.root / "in/itself.wav")

    looked = await eye.look()

    assert looked.found == ["real/a.wav"]
    assert not looked.scan.incomplete


async def test_what_is_passed_over_is_told_apart(
    eye: Eye, capsys: pytest.CaptureFixture[str]
) -> None:
    """Excluded, ignored, hidden, link: each is counted as what it is, and `-vv` names each."""
    named = {
        "excluded": ["old/x.wav", "no.wav", "old/deep/y.wav"],
        "ignored": ["notes.txt", "pipe.wav"],
        "hidden": [".trash", ".seen.wav", "sub/.x"],
        "link": ["link.wav", "sub/loop", "broken.wav"],
    }
    for name in ("a.wav", "old/.hidden.wav", "old/n.txt", ".trash/b.wav", "notes.txt"):
        eye.add(name)
    for name in ("old/x.wav", "no.wav", "old/deep/y.wav", ".seen.wav", "sub/.x"):
        eye.add(name)
    os.mkfifo(eye.root / "in/pipe.wav")
    for name, target in {"link.wav": "a.wav", "sub/loop": "..", "broken.wav": "nowhere"}.items():
        os.symlink(target, eye.root / "in" / name)

    with configure_logs(verbose=2, quiet=False, log_file=None, console=None):
        passed = (await eye.look(exclude=["old", "no.wav"])).scan.passed

    assert (passed.excluded, passed.ignored, passed.hidden, passed.links) == (3, 2, 3, 3)
    assert passed.folders == {"old/": 2}
    lines = capsys.readouterr().err.splitlines()
    for why, names in named.items():
        told = [line for line in lines if f"event=scan.{why} " in line]
        assert sorted(line.rpartition("path=")[2] for line in told) == sorted(names)


async def test_nobody_is_told_of_each_without_vv(
    eye: Eye, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is passed over is counted in silence: an archive may hold very much of it."""
    eye.add(".hidden.wav")

    with configure_logs(verbose=1, quiet=False, log_file=None, console=None):
        await eye.look()

    assert "scan.hidden" not in capsys.readouterr().err


async def test_what_is_ours_is_not_called_hidden(eye: Eye) -> None:
    """A state folder and temporary files among the recordings are no news to anybody."""
    (eye.root / "in/.overnight").mkdir()
    eye.add(".a.wav.json~overnight")
    output = os.fsencode(eye.root / "in")

    scan = Scan(
        Settings(output=eye.root / "in"),
        await to_thread.run_sync(find_roots, [os.fsdecode(output)]),
        listing=Listing(output, 0.0),
        leave_out=[output, output + b"/.overnight"],
    )
    await scan.run(eye.ledger, lambda _: None)

    assert scan.passed.hidden == 0


@pytest.mark.parametrize("named", ["listed", "given"])
async def test_a_named_link_is_one(eye: Eye, named: str) -> None:
    """A link in a list is told apart from what is no recording, too; one as FOLDER is its file."""
    eye.add("real.wav")
    os.symlink("real.wav", eye.root / "in/link.wav")
    os.mkfifo(eye.root / "in/pipe.wav")
    paths = [eye.root / "in/link.wav", eye.root / "in/pipe.wav"]

    if named == "listed":
        looked = await eye.look(listed=paths)
        assert (looked.scan.passed.links, looked.scan.passed.ignored) == (1, 1)
    else:
        looked = await eye.look("in/link.wav")
        assert looked.found == ["real.wav"]


async def test_followed_links_that_lead_nowhere_new_are_counted(eye: Eye) -> None:
    """Asked to follow links, those that lead nowhere, or to a folder that was met, are links."""
    eye.add("real/a.wav")
    os.symlink("..", eye.root / "in/real/loop")
    os.symlink("nowhere", eye.root / "in/broken.wav")
    os.symlink("real/a.wav", eye.root / "in/good.wav")

    passed = (await eye.look(follow_links=True)).scan.passed

    assert (passed.links, passed.ignored) == (2, 0)


async def test_a_loop_of_links_ends(eye: Eye) -> None:
    """Asked to follow links, the scan enters each folder once, so that a loop ends."""
    eye.add("real/a.wav")
    os.symlink("..", eye.root / "in/real/loop")
    os.symlink("real", eye.root / "in/zz-same")
    os.symlink("real/a.wav", eye.root / "in/link.wav")

    looked = await eye.look(follow_links=True)

    assert sorted(looked.found) == ["link.wav", "real/a.wav"]


async def test_only_regular_files(eye: Eye) -> None:
    """A FIFO, a socket's name or a folder that is called like a recording is none, and no trap."""
    os.mkfifo(eye.root / "in/pipe.wav")
    eye.add("folder.wav/inner.wav")

    assert (await eye.look()).found == ["folder.wav/inner.wav"]


async def test_include_adds_and_exclude_wins(eye: Eye) -> None:
    """`--include` takes other suffixes in, `--exclude` leaves out what either would take."""
    for name in ("a.wav", "b.raw", "old/c.raw", "old/d.wav", "new/deep/e.wav", "f.txt"):
        eye.add(name)

    looked = await eye.look(include=["*.raw"], exclude=["old/**", "**/e.wav"])

    assert looked.found == ["a.wav", "b.raw"]


async def test_globs_are_relative_to_the_root(eye: Eye) -> None:
    """A glob with a slash counts from the root, `**` is any number of folders."""
    for name in ("a/x.wav", "b/a/x.wav", "b/x.wav"):
        eye.add(name)

    assert (await eye.look(exclude=["a/x.wav"])).found == ["b/x.wav", "b/a/x.wav"]
    assert (await eye.look(exclude=["**/a/*.wav"])).found == ["b/x.wav"]


TREE = ("d000/a.wav", "d000/sub/b.wav", "q/d000/c.wav", "q/e.wav", "d000.wav", "d000/n.txt")


@pytest.mark.parametrize(
    ("glob", "left_out", "folders"),
    [
        ("d000", {0, 1, 2}, {"d000/": 2, "q/d000/": 1}),
        ("d000/", {0, 1, 2}, {"d000/": 2, "q/d000/": 1}),
        ("**/d000", {0, 1, 2}, {"d000/": 2, "q/d000/": 1}),
        ("**/d000/**", {0, 1, 2}, {"d000/": 2, "q/d000/": 1}),
        ("/d000", {0, 1}, {"d000/": 2}),
        ("/d000/", {0, 1}, {"d000/": 2}),
        ("d000/**", {0, 1}, {"d000/": 2}),
        ("/d000/**", {0, 1}, {"d000/": 2}),
        ("d000/sub", {1}, {"d000/sub/": 1}),
        ("q/d000/", {2}, {"q/d000/": 1}),
        ("d000/*", {0, 1}, {"d000/sub/": 1}),
        ("q*/", {2, 3}, {"q/": 2}),
        ("d000.wav", {4}, {}),
        ("/d000.wav", {4}, {}),
        ("d000.wav/", set(), {}),
        ("a.wav/", set(), {}),
        ("/a.wav", set(), {}),
        ("sub/b.wav", set(), {}),
        ("*", {0, 1, 2, 3, 4}, {"d000/": 2, "q/": 2}),
        ("**", {0, 1, 2, 3, 4}, {"d000/": 2, "q/": 2}),
        ("/**", {0, 1, 2, 3, 4}, {"d000/": 2, "q/": 2}),
    ],
)
async def test_a_folder_that_is_excluded(
    eye: Eye, glob: str, left_out: set[int], folders: dict[str, int]
) -> None:
    """What matches a folder leaves out all that is below it, and names it with its count."""
    for name in TREE:
        eye.add(name)
    taken = {name for at, name in enumerate(TREE[:-1]) if at not in left_out}

    looked = await eye.look(exclude=[glob])

    assert set(looked.found) == taken
    assert looked.scan.passed.excluded == len(left_out)
    assert looked.scan.passed.folders == folders
    assert looked.scan.exclusions.unmatched == (set() if left_out else {glob})
    assert not looked.scan.incomplete


async def test_what_matched_nothing_is_told(eye: Eye) -> None:
    """A glob that matches a file of any kind has matched, also in a folder that is left out."""
    for name in TREE:
        eye.add(name)
    globs = ["d000/", "b.wav", "*.txt", "n.*", "e.mp3", "d001", "sub/"]

    looked = await eye.look(exclude=globs)

    assert looked.scan.exclusions.unmatched == {"e.mp3", "d001"}


async def test_an_excluded_folder_is_no_trouble(eye: Eye) -> None:
    """Nothing in an excluded folder is entered twice or followed, whatever links lie there."""
    eye.add("gone/a.wav")
    os.symlink("..", eye.root / "in/gone/loop")
    os.symlink("nowhere", eye.root / "in/gone/b.wav")

    looked = await eye.look(exclude=["gone"], follow_links=True)

    assert looked.found == []
    assert looked.scan.passed.folders == {"gone/": 1}
    assert not looked.scan.incomplete


async def test_what_is_named_is_bounded(eye: Eye) -> None:
    """Of very many suffixes and folders the first hundred are named, and all are counted."""
    for number in range(130):
        eye.add(f"x/{number}/a.wav")
        eye.add(f"y.s{number}")

    passed = (await eye.look(exclude=["x/*"])).scan.passed

    assert (passed.excluded, len(passed.folders)) == (130, 100)
    assert (passed.ignored, len(passed.suffixes)) == (130, 100)


async def test_order_is_that_of_names(eye: Eye) -> None:
    """Two looks at one folder tell the same, in the order of names within each folder."""
    for name in ("z.wav", "b/2.wav", "b/1.wav", "a/9.wav", "m.wav"):
        eye.add(name)

    looked = await eye.look()

    assert looked.found == ["m.wav", "z.wav", "a/9.wav", "b/1.wav", "b/2.wav"]


# --- names -------------------------------------------------------------------------------------

NAMES = [
    unicodedata.normalize("NFC", "Ünïcødé 日本.wav").encode(),
    unicodedata.normalize("NFD", "Ünïcødé 日本.wav").encode(),
    b"with some  spaces .wav",
    b"two\nlines.wav",
    b"-rf.wav",
    b"--output.wav",
    b"n" * 246 + b".wav",
    ("ü" * 123).encode() + b".wav",
    b"not \xff\xfe utf-8.wav",
    b"quote'\"`$(id).wav",
    b"same.mp3",
    b"same.wav",
    b"%s%n.wav",
    b"CON.wav",
    b"~tilde.wav",
]


async def test_every_name_is_a_name(eye: Eye) -> None:
    """Whatever bytes a name is made of, the recording is found under it, and has a result name."""
    for name in NAMES:
        eye.add(name)

    looked = await eye.look()

    assert len(looked.found) == len(NAMES)
    known = await to_thread.run_sync(_paths, eye.root)
    assert {path for path, _ in known} == set(NAMES)
    assert len({result for _, result in known}) == len(NAMES)
    assert all(len(os.path.basename(result)) <= 255 for _, result in known)


def _paths(folder: Path) -> list[tuple[bytes, bytes]]:
    with closing(read_only(folder / "ledger.sqlite3")) as db:
        return [tuple(row) for row in db.execute("SELECT path, result FROM recordings")]


# --- what is skipped ---------------------------------------------------------------------------


async def test_what_the_service_cannot_take_is_skipped(eye: Eye) -> None:
    """Empty recordings and those over 2.2 GB are not sent, each with its reason."""
    eye.add("empty.wav", b"")
    eye.add("fits.wav")
    eye.add("huge.wav")
    os.truncate(eye.root / "in/huge.wav", MAX_UPLOAD_BYTES + 1)
    eye.add("just.wav")
    os.truncate(eye.root / "in/just.wav", MAX_UPLOAD_BYTES)

    looked = await eye.look()

    assert looked.found == ["fits.wav", "just.wav"]
    assert "empty" in looked.skipped["empty.wav"]
    assert "2,200,000,000" in looked.skipped["huge.wav"]


async def test_age_and_size_leave_out(eye: Eye) -> None:
    """Too young, too old, too small, too large: each is skipped for just that."""
    eye.add("young.wav", b"x" * 100, age_s=1)
    eye.add("old.wav", b"x" * 100, age_s=90_000)
    eye.add("small.wav", b"x")
    eye.add("large.wav", b"x" * 1000)
    eye.add("right.wav", b"x" * 100)

    looked = await eye.look(min_age="1m", max_age="1d", min_size="10", max_size="500")

    assert looked.found == ["right.wav"]
    flags = {name: flag for name, reason in looked.skipped.items() for flag in [reason.split("`")]}
    assert {name: parts[1] for name, parts in flags.items()} == {
        "young.wav": "--min-age",
        "old.wav": "--max-age",
        "small.wav": "--min-size",
        "large.wav": "--max-size",
    }


async def test_a_skipped_recording_is_looked_at_again(eye: Eye) -> None:
    """What was skipped by one scan is found by the next that has nothing against it."""
    eye.add("a.wav", b"x" * 100)

    assert (await eye.look(min_size="1k")).found == []
    assert (await eye.look()).found == ["a.wav"]
    assert (await eye.look(max_size="10")).found == []


# --- what cannot be looked at ------------------------------------------------------------------


async def test_a_folder_that_is_gone_is_told(eye: Eye) -> None:
    """A folder that cannot be listed is a warning that names it, and the rest is found."""
    eye.add("a.wav")
    eye.add("gone/b.wav")
    roots = await to_thread.run_sync(find_roots, [str(eye.root / "in")])
    scan = Scan(Settings(), roots, listing=Listing(b"/nowhere", 0.0))
    await to_thread.run_sync(os.rename, eye.root / "in", eye.root / "moved")
    looked = Looked(scan)

    await scan.run(eye.ledger, looked.events.append)

    assert looked.found == []
    assert scan.incomplete
    assert len(looked.warned) == 1
    assert str(eye.root / "in") in looked.warned[0]


async def test_what_was_not_seen_whole_is_not_counted(eye: Eye) -> None:
    """A folder that is gone, in part unreadable, or not come to has no count to go by."""
    eye.add("a.wav")
    whole = await eye.look()
    (eye.root / "in/loop").symlink_to("loop")
    in_part = await eye.look(follow_links=True)
    (eye.root / "in/loop").unlink()
    roots = await to_thread.run_sync(find_roots, [str(eye.root / "in")])
    stopped = Scan(Settings(), roots, listing=Listing(b"/nowhere", 0.0))
    with CancelScope() as scope:
        await stopped.run(eye.ledger, lambda _: None, scope.cancel)
    await to_thread.run_sync(os.rename, eye.root / "in", eye.root / "moved")
    gone = Scan(Settings(), roots, listing=Listing(b"/nowhere", 0.0))
    await gone.run(eye.ledger, lambda _: None)

    assert [each.recordings for each in whole.scan.held] == [1]
    assert in_part.scan.held == stopped.held == gone.held == []


# --- the output folder -------------------------------------------------------------------------


async def test_output_inside_input_is_never_entered(eye: Eye) -> None:
    """The output folder may lie in the input: what is in it is no input."""
    eye.add("a.wav")
    recording(eye.root / "in/out/nested.wav", b"x")
    roots = await to_thread.run_sync(find_roots, [str(eye.root / "in")])
    looked = Looked(
        Scan(
            Settings(output=eye.root / "in/out"),
            roots,
            listing=Listing(b"/nowhere", 0.0),
            leave_out=[os.fsencode(eye.root / "in/out")],
        )
    )

    await looked.scan.run(eye.ledger, looked.events.append)

    assert looked.found == ["a.wav"]


# --- roots -------------------------------------------------------------------------------------


def test_one_folder_mirrors_its_tree(tmp_path: Path) -> None:
    """With one folder, results lie where the recordings lie, without the folder's name."""
    (tmp_path / "in").mkdir()

    (root,) = find_roots([str(tmp_path / "in")])

    assert (root.name, root.prefix, root.only) == ("in", b"", None)


def test_two_folders_lead_with_their_names(tmp_path: Path) -> None:
    """With several folders, each one's name leads the path of its results."""
    (tmp_path / "calls").mkdir()
    (tmp_path / "talks").mkdir()

    roots = find_roots([str(tmp_path / "calls"), str(tmp_path / "talks/")])

    assert [(root.name, root.prefix) for root in roots] == [
        ("calls", b"calls/"),
        ("talks", b"talks/"),
    ]


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    """Folders whose results would mix are an error, before anything is looked at."""
    (tmp_path / "a/calls").mkdir(parents=True)
    (tmp_path / "b/calls").mkdir(parents=True)

    with pytest.raises(SettingsError, match="calls") as caught:
        find_roots([str(tmp_path / "a/calls"), str(tmp_path / "b/calls")])

    assert caught.value.exit_code == ExitCode.USAGE


def test_the_same_folder_twice_is_one(tmp_path: Path) -> None:
    """A folder that is named twice, however spelled, is looked at once."""
    (tmp_path / "calls").mkdir()
    (tmp_path / "link").symlink_to("calls")

    roots = find_roots([f"{tmp_path}/calls", f"{tmp_path}/./calls/", f"{tmp_path}/link"])

    assert [root.folder for root in roots] == [os.fsencode(tmp_path / "calls")]


@pytest.mark.parametrize("kind", ["nothing", "fifo"])
def test_what_is_no_folder_is_refused(tmp_path: Path, kind: str) -> None:
    """A folder that is not there, or is something else, is an error that names it."""
    place = tmp_path / "calls"
    if kind == "fifo":
        os.mkfifo(place)

    with pytest.raises(SettingsError, match="calls"):
        find_roots([str(place)])


async def test_a_file_can_be_named(eye: Eye) -> None:
    """A single file is taken whatever its suffix, and nothing beside it."""
    eye.add("a.wav")
    eye.add("talk.bin")

    assert (await eye.look("in/talk.bin")).found == ["talk.bin"]


async def test_several_files_of_a_folder_can_be_named(eye: Eye) -> None:
    """Files of one folder, named one by one, have no name before their results."""
    for name in ("a.wav", "b.wav", "c.wav"):
        eye.add(name)

    assert (await eye.look("in/a.wav", "in/c.wav")).found == ["a.wav", "c.wav"]


# --- a list ------------------------------------------------------------------------------------


async def test_a_list_says_what_is_taken(eye: Eye) -> None:
    """With a list, just what it names is looked at, each once."""
    for name in ("a.wav", "sub/b.wav", "c.wav"):
        eye.add(name)
    inside = eye.root / "in"

    looked = await eye.look(listed=[inside / "sub/b.wav", inside / "a.wav", inside / "a.wav"])

    assert sorted(looked.found) == ["a.wav", "sub/b.wav"]


async def test_what_a_list_names_in_vain_is_told(eye: Eye) -> None:
    """A listed file that is not there, or lies under no folder of the run, is told by its name."""
    eye.add("a.wav")
    recording(eye.root / "elsewhere/b.wav", b"x")
    listed = [eye.root / "in/a.wav", eye.root / "in/gone.wav", eye.root / "elsewhere/b.wav"]

    looked = await eye.look(listed=listed)

    assert looked.found == ["a.wav"]
    assert looked.scan.incomplete
    assert any("gone.wav" in message for message in looked.warned)
    assert any("elsewhere/b.wav" in message for message in looked.warned)


# --- leftovers ---------------------------------------------------------------------------------


async def test_temporary_files_of_a_dead_run_are_removed(eye: Eye) -> None:
    """A temporary file that a killed run left beside a result is gone after the next scan."""
    eye.add("sub/a.wav")
    recording(eye.root / "out/sub/.a.wav.json~overnight", b"half")
    recording(eye.root / "out/sub/other.json", b"theirs")

    await eye.look()

    assert [path.name for path in (eye.root / "out/sub").iterdir()] == ["other.json"]


# --- how much there may be ---------------------------------------------------------------------


async def test_a_huge_folder_is_held_in_parts(eye: Eye, tmp_path: Path) -> None:
    """One folder with 30,000 recordings takes no more memory than one with 10,000 does."""
    eye.add("first.wav")
    peaks = []
    for count in (10_000, 30_000):
        await to_thread.run_sync(link, eye.root / "in/first.wav", eye.root / f"in-{count}", count)
        roots = await to_thread.run_sync(find_roots, [str(eye.root / f"in-{count}")])
        scan, heard = Scan(Settings(), roots, listing=Listing(b"/nowhere", 0.0)), Counter[type]()
        tracemalloc.start()
        await scan.run(eye.ledger, lambda event, heard=heard: heard.update([type(event)]))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert heard == {RecordingFound: count}

    assert peaks[1] < 1.2 * peaks[0]


def link(recording: Path, folder: Path, count: int) -> None:
    """So many names of one recording."""
    folder.mkdir()
    for number in range(count):
        os.link(recording, folder / f"call-{number:06}.wav")


async def test_an_unchanged_archive_is_not_written_to(eye: Eye) -> None:
    """A second look at what is all written changes no row of a recording, and finds no work."""
    for name in ("a.wav", "b/c.wav", "b/d.wav"):
        eye.add(name, name.encode())
    await eye.look()
    for claim in await eye.ledger.claim(10):
        content = claim.path.decode()
        read = await to_thread.run_sync(reading_of, eye.root / "in", claim.path)
        assert await eye.ledger.record_uploaded(claim, read, content)
        assert await eye.ledger.claim_submit(claim.attempt_id, None)
        assert await eye.ledger.record_accepted(claim.attempt_id, content)
        await eye.ledger.record_completed(claim.attempt_id, Completion("model", 1.0, None))
        await eye.ledger.record_written(claim.attempt_id, [claim.recording_id], 6, "digest")
        recording(eye.root / "out" / os.fsdecode(claim.result), b"result")
    before = await to_thread.run_sync(rows, eye.root)

    async with ledger_at(eye.root, replace(HERE, run_id="run-2")) as ledger:
        looked = await Eye(eye.root, ledger).look()

        assert looked.events == []
        assert await ledger.standing() == {("in", "already_written", None): 3}
        assert await to_thread.run_sync(rows, eye.root) == before


def reading_of(root: Path, path: bytes) -> Reading:
    """What an upload notes of a recording."""
    found = os.stat(os.fsencode(root) + b"/" + path)
    times = found.st_mtime_ns, found.st_ctime_ns, found.st_ino
    return Reading(path.decode(), path.decode(), found.st_size, *times, True)


def rows(folder: Path) -> list[tuple[Any, ...]]:
    """All that is known of recordings."""
    with closing(read_only(folder / "ledger.sqlite3")) as db:
        return [tuple(row) for row in db.execute("SELECT * FROM recordings ORDER BY 1")]


# --- odd values ----------------------------------------------------------------------------------


YEARS_S = (-(2**62), -11_644_473_600, -1, 0, 9_223_372_037, 13_569_465_600, 253_402_300_800, 2**62)
"""Times of file systems, Unix seconds: 1601, 1969, 1970, 2262, 2400, 10000, and far beyond."""

MEMORY = Path("/dev/shm")
"""A file system that keeps times of any year, where there is one."""


@pytest.fixture
def of_any_year(tmp_path: Path) -> Iterator[Path]:
    """A folder with a recording of each of these times."""
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else tmp_path) as folder:
        for number, second in enumerate(YEARS_S):
            recording(Path(folder, f"{number}.wav"), b"%d" % number)
            os.utime(Path(folder, f"{number}.wav"), (second, second))
        yield Path(folder)


@pytest.mark.parametrize("order", ["path", "newest", "oldest", "largest"])
async def test_times_of_any_year_are_taken(eye: Eye, of_any_year: Path, order: str) -> None:
    """Recordings of any year are found, and taken in their order."""
    looked = await Eye(of_any_year.parent, eye.ledger).look(of_any_year.name, order=order)

    assert sorted(looked.found) == [f"{number}.wav" for number in range(len(YEARS_S))]
    assert looked.warned == []
    claimed = [each.path for each in await eye.ledger.claim(100)]
    assert len(claimed) == len(YEARS_S)
    if order in ("newest", "oldest"):
        # What is further off than 292 years from 1970 counts as just that.
        times = [os.stat(of_any_year / os.fsdecode(each)).st_mtime for each in claimed]
        times = [min(max(each, -9.22e9), 9.22e9) for each in times]
        assert times == sorted(times, reverse=order == "newest")


@pytest.mark.parametrize("names", [("a.wav", "A.WAV"), ("A.WAV", "a.wav")])
async def test_a_name_that_spells_that_of_a_collision(eye: Eye, names: tuple[str, str]) -> None:
    """Recordings that are called as the results of others would be get names of their own."""
    eye.add(f"0/{names[0]}")
    await eye.look(include=["**"])
    spelt: list[bytes] = []
    for round_ in range(3):  # each time what the next collision would be called is there before
        identity = b"in/0/" + names[1].encode() + b"\0" * round_
        spelt.append(distinct(b"0/" + names[1].encode(), identity).removesuffix(b".json"))
        eye.add(spelt[-1].upper() if round_ == 1 else spelt[-1])
    await eye.look(include=["**"])
    eye.add(f"0/{names[1]}")
    eye.add("z/last.wav")

    looked = await eye.look(include=["**"])

    assert {f"0/{names[1]}", "z/last.wav"} <= set(looked.found)
    results = [claim.result for claim in await eye.ledger.claim(100)]
    assert len({fold(each) for each in results}) == len(results) == 6


@given(st.sets(st.text("aAäÄ\u0308~.w", min_size=1, max_size=3), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_whatever_recordings_are_called_results_differ(names: set[str]) -> None:
    """However names collide by case or form, each recording has a result, and no two share one."""

    async def all_of_them() -> None:
        with TemporaryDirectory() as folder:
            async with ledger_at(Path(folder)) as ledger:
                entries = [entry(f"{name}.wav".encode()) for name in sorted(names)]
                await ledger.record_found("in", entries, lambda _: None, ())
                results = [claim.result for claim in await ledger.claim(100)]

            assert len({fold(each) for each in results}) == len(names)

    anyio.run(all_of_them)
