"""The store: durable when awaited, many transitions a commit, and no damage taken for a ledger."""

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from pipeline.errors import ExitCode, LedgerUnusable, Locked
from pipeline.ledger.store import SCHEMA_VERSION, Store, read_only, reading, transition

pytestmark = pytest.mark.anyio


class Notes(Store):
    """A store of words, that counts its commits and can be held up."""

    def __init__(self, path: Path, still_held: Callable[[], None] | None = None) -> None:
        super().__init__(path, still_held)
        self.commits = 0
        self.threads: set[int] = set()
        self.entered = threading.Event()
        self.may_go_on = threading.Event()

    def committed(self) -> None:
        self.commits += 1

    @transition
    def begin(self) -> None:
        self.db.execute("CREATE TABLE notes (word TEXT UNIQUE) STRICT")

    @transition
    def note(self, word: str) -> str:
        self.threads.add(threading.get_ident())
        self.db.execute("INSERT INTO notes VALUES (?)", (word,))
        return word

    @transition
    def note_then_raise(self, word: str) -> None:
        self.db.execute("INSERT INTO notes VALUES (?)", (word,))
        raise LookupError(word)

    @transition
    def wait(self) -> None:
        """Holds the writer up, so that what is asked meanwhile is queued."""
        self.entered.set()
        assert self.may_go_on.wait(10)

    @reading
    def words(self) -> list[str]:
        return [row[0] for row in self.ro.execute("SELECT word FROM notes ORDER BY word")]


async def test_many_transitions_share_a_commit(tmp_path: Path) -> None:
    """A thousand transitions that are asked for at once are durable after two commits."""
    async with Notes(tmp_path / "ledger") as notes:
        await notes.begin()
        before = notes.commits
        async with anyio.create_task_group() as group:
            group.start_soon(notes.wait)
            await anyio.to_thread.run_sync(notes.entered.wait)
            for number in range(1000):
                group.start_soon(notes.note, f"{number:04}")
            await anyio.wait_all_tasks_blocked()
            notes.may_go_on.set()

        assert notes.commits - before == 2
        assert len(await notes.words()) == 1000


async def test_what_is_cancelled_closes_it_all_the_same(tmp_path: Path) -> None:
    """A block that is cancelled is left once its last commit is made and the files are closed."""
    notes, is_left = Notes(tmp_path / "ledger"), anyio.Event()

    async def work() -> None:
        with anyio.CancelScope() as scope:
            async with notes, anyio.create_task_group() as group:
                group.start_soon(notes.wait)
                await anyio.to_thread.run_sync(notes.entered.wait)
                scope.cancel()
        is_left.set()

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        await anyio.to_thread.run_sync(notes.entered.wait)
        await anyio.wait_all_tasks_blocked()
        was_left = is_left.is_set()
        notes.may_go_on.set()

    assert not was_left
    assert os.listdir(tmp_path) == ["ledger"]


async def test_a_transition_that_raises_undoes_only_itself(tmp_path: Path) -> None:
    """Of three transitions in one commit, the one that raises leaves no trace, the others do."""
    raised: list[str] = []

    async with Notes(tmp_path / "ledger") as notes:
        await notes.begin()

        async def try_it() -> None:
            try:
                await notes.note_then_raise("bad")
            except LookupError as error:
                raised.append(str(error))

        async with anyio.create_task_group() as group:
            group.start_soon(notes.wait)
            await anyio.to_thread.run_sync(notes.entered.wait)
            group.start_soon(notes.note, "before")
            group.start_soon(try_it)
            group.start_soon(notes.note, "later")
            await anyio.wait_all_tasks_blocked()
            notes.may_go_on.set()

        assert raised == ["bad"]
        assert await notes.words() == ["before", "later"]


async def test_a_result_comes_back_once_it_is_on_disk(tmp_path: Path) -> None:
    """When a transition returns, another connection to the file sees what it did."""
    async with Notes(tmp_path / "ledger") as notes:
        await notes.begin()

        assert await notes.note("seen") == "seen"

        with closing(sqlite3.connect(tmp_path / "ledger")) as other:
            assert other.execute("SELECT word FROM notes").fetchall() == [("seen",)]


async def test_what_a_cancelled_waiter_asked_for_is_done(tmp_path: Path) -> None:
    """Committed and never acknowledged is normal: to cancel the waiter undoes nothing."""
    async with Notes(tmp_path / "ledger") as notes:
        await notes.begin()
        async with anyio.create_task_group() as group:
            group.start_soon(notes.wait)
            await anyio.to_thread.run_sync(notes.entered.wait)
            group.start_soon(notes.note, "unheard")
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        notes.may_go_on.set()
        await notes.note("heard")

        assert await notes.words() == ["heard", "unheard"]


async def test_one_thread_writes(tmp_path: Path) -> None:
    """However many ask, SQLite's writing connection sees one thread, which is not the loop's."""
    async with Notes(tmp_path / "ledger") as notes:
        await notes.begin()
        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(notes.note, str(number))

        assert len(notes.threads) == 1
        assert threading.get_ident() not in notes.threads


async def test_readers_cannot_write(tmp_path: Path) -> None:
    """Everybody but the writer thread has the file open read-only."""
    async with Notes(tmp_path / "ledger") as notes:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await anyio.to_thread.run_sync(notes.ro.execute, "DELETE FROM recordings")


async def test_commits_are_durable(tmp_path: Path) -> None:
    """The writer works in WAL mode with FULL synchronisation: a commit survives loss of power."""

    class Asked(Notes):
        @transition
        def pragma(self, name: str) -> object:
            return self.db.execute(f"PRAGMA {name}").fetchone()[0]

    async with Asked(tmp_path / "ledger") as store:
        assert await store.pragma("journal_mode") == "wal"
        assert await store.pragma("synchronous") == 2


async def test_newer_schema_is_refused(tmp_path: Path) -> None:
    """A ledger of a later version is left as it is, and the message says what to do."""
    async with Notes(tmp_path / "ledger"):
        pass
    with closing(sqlite3.connect(tmp_path / "ledger")) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")

    with pytest.raises(LedgerUnusable, match="newer") as caught:
        async with Notes(tmp_path / "ledger"):
            pass

    assert caught.value.exit_code == ExitCode.USAGE
    with closing(sqlite3.connect(tmp_path / "ledger")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 1,)


@pytest.mark.parametrize(
    "damage", ["not a database at all" * 100, "SQLite format 3\0" + "x" * 4096]
)
async def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path, damage: str) -> None:
    """Damage is told as what it is, and what is there is not written over."""
    path = tmp_path / "ledger"
    path.write_text(damage)

    with pytest.raises(LedgerUnusable, match=r"is damaged.*--rebuild"):
        async with Notes(path):
            pass

    assert path.read_text() == damage


async def test_damage_found_later_is_told_as_damage(tmp_path: Path) -> None:
    """A page that turns out to be torn in the middle of a run ends it as an unusable ledger."""
    path = tmp_path / "ledger"
    async with Notes(path) as notes:
        await notes.begin()
        async with anyio.create_task_group() as group:
            for number in range(2000):
                group.start_soon(notes.note, f"{number:04}" * 20)
    whole = path.read_bytes()
    # From behind the tables that are looked at when it is opened, to the end.
    path.write_bytes(whole[: len(whole) // 3] + b"\xa5" * (len(whole) - len(whole) // 3))

    async def use() -> None:
        async with Notes(path) as notes:
            await notes.words()
            for number in range(2000):
                await notes.note(f"again {number}")

    with pytest.raises(LedgerUnusable):
        await use()


def shape(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Tables and indexes of a database, with their columns; what indexes and triggers say."""
    with closing(sqlite3.connect(path)) as db:
        names = db.execute("SELECT type, name, tbl_name FROM sqlite_master ORDER BY 1, 2")
        made = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND type <> 'table'"
        return {name: [tuple(sql.split())] for name, sql in db.execute(made)} | {
            f"{kind} {name} on {table}": sorted(
                row[1:] for row in db.execute(f"PRAGMA {kind}_xinfo('{name}')")
            )
            for kind, name, table in names.fetchall()
        }


def former(path: Path, version: int = 1) -> None:
    """A ledger as an earlier version of this program left it, with a recording."""
    schema = Path(__file__).with_name(f"schema_{version}.sql").read_text()
    with closing(sqlite3.connect(path)) as db:
        db.executescript(f"{schema} PRAGMA user_version = {version};")
        db.execute(
            "INSERT INTO recordings (root, path, size, mtime_ns, ctime_ns, inode, settled, options,"
            " result, result_fold, run_id) "
            "VALUES ('r', x'61', 1, 1, 1, 1, 1, '{}', x'61', 'a', 'x')"
        )
        db.commit()


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
async def test_an_older_ledger_becomes_one_of_today(tmp_path: Path, version: int) -> None:
    """A ledger of an older version has the shape of a new one after it was opened, and its rows."""
    former(tmp_path / "old", version)

    async with Notes(tmp_path / "old"), Notes(tmp_path / "new"):
        pass

    assert shape(tmp_path / "old") == shape(tmp_path / "new")
    with closing(sqlite3.connect(tmp_path / "old")) as db:
        columns = "path, state, turn, place, waits"
        rows = db.execute(f"SELECT {columns} FROM recordings").fetchall()
        assert rows == [(b"a", "found", 1, 0, 0)]
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


async def test_an_older_ledger_changes_at_once_or_not_at_all(tmp_path: Path) -> None:
    """A migration that fails at its end leaves the ledger as it was."""
    former(tmp_path / "ledger")
    with closing(sqlite3.connect(tmp_path / "ledger")) as db:
        db.execute("CREATE TABLE unclaimed (in_the_way)")
    before = shape(tmp_path / "ledger")

    with pytest.raises(LedgerUnusable, match="unclaimed"):
        async with Notes(tmp_path / "ledger"):
            pass

    assert shape(tmp_path / "ledger") == before


def test_an_older_ledger_is_not_read_as_if_it_were_new(tmp_path: Path) -> None:
    """Who only looks changes nothing, and says what brings the ledger up to date."""
    former(tmp_path / "ledger")

    with pytest.raises(LedgerUnusable, match=r"older.*let a run"):
        read_only(tmp_path / "ledger")


async def test_who_lost_the_folder_writes_nothing_more(tmp_path: Path) -> None:
    """Once the state folder is another run's, no transition changes anything."""
    taken = threading.Event()

    def check() -> None:
        if taken.is_set():
            raise Locked("another run took it")

    async with Notes(tmp_path / "ledger", check) as notes:
        await notes.begin()
        await notes.note("mine")
        taken.set()

        with pytest.raises(Locked):
            await notes.note("too late")
        assert await notes.words() == ["mine"]


def test_a_ledger_that_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    """Looking at a ledger never makes one."""
    with pytest.raises(LedgerUnusable):
        read_only(tmp_path / "ledger")

    assert not (tmp_path / "ledger").exists()
