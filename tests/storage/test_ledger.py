"""The ledger in SQLite: the contract, and what only a real disk can do wrong."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import InvariantBroken, NeedsRepair, StorageError
from agent.raft import Boot, Configuration, Entry, EntryKind, HardState, Life, Persist, Snapshot, SnapshotName
from agent.storage.database import MAX_KEPT_WAL_BYTES, SCHEMA_VERSION, LedgerFile
from agent.storage.ledger import Ledger
from tests.storage.contract import GENESIS, LogStorageContract, entries, snapshot_at, write
from tests.support.waiting import wait_for

AGENT = "a" * 26


class SqliteDisk:
    """A directory. A crash leaves the writer's connection behind unclosed: the WAL is what the next start finds."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "ledger.db"
        self.opened: list[Ledger] = []
        self.lives = 0

    async def open(self) -> tuple[Ledger, Boot]:
        ledger, boot = await Ledger.open(self.path, agent_id=AGENT, genesis_entry=GENESIS)
        self.opened.append(ledger)
        return ledger, boot

    async def crash(self) -> None:
        """Copy the files as they are, and go on with the copy: the old process would still hold its lock."""
        self.lives += 1
        directory = self.path.parent / f"life{self.lives}"
        await asyncio.to_thread(self._copy, directory)
        for ledger in self.opened:
            await ledger.close()
        self.path = directory / self.path.name

    def _copy(self, directory: Path) -> None:
        directory.mkdir()
        for file in self.path.parent.glob(f"{self.path.name}*"):
            (directory / file.name).write_bytes(file.read_bytes())

    async def close(self) -> None:
        for ledger in self.opened:
            await ledger.close()


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[SqliteDisk]:
    made = SqliteDisk(tmp_path)
    yield made
    await made.close()


class TestContract(LogStorageContract):
    """agent.storage.ledger keeps the contract."""


QUOTED = (100, 4095)  # the page with the schema, which SQLite quotes where it makes no sense, whatever is in it
NAMES = (SnapshotName(3, "three"), SnapshotName(5, "five"))


async def written(disk: SqliteDisk) -> None:
    """A ledger with a history, closed."""
    ledger, _ = await disk.open()
    await write(ledger, Persist(hard_state=HardState(term=2, vote="b"), entries=entries(2, 9), commit=9))
    await write(ledger, Persist(snapshot=snapshot_at(5), compact_to=3, lives=(Life(agent="b", starts=3, up_to=9),)))
    await write(ledger, Persist(names=NAMES))
    await ledger.close()


def edit(path: Path, *statements: str) -> None:
    database = sqlite3.connect(path)
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()


def schema_of(path: Path) -> int:
    database = sqlite3.connect(path)
    (version,) = database.execute("PRAGMA user_version").fetchone()
    database.close()
    return int(version)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE entries SET data = x'00' WHERE idx = 7",
        "UPDATE entries SET term = 2 WHERE idx = 9",
        "DELETE FROM entries WHERE idx = 7",
        "DELETE FROM entries WHERE idx = 9",
        "DELETE FROM entries",
        "UPDATE state SET term = 1",
        "UPDATE state SET vote = 'c'",
        "UPDATE state SET commit_index = 1",
        "DELETE FROM state",
        "UPDATE snapshot SET data = x'00'",
        "DELETE FROM snapshot",
        "UPDATE lives SET up_to = 8",
        "UPDATE names SET name = 'four' WHERE idx = 5",
        "PRAGMA application_id = 1",
        "DROP TABLE entries",
    ],
)
async def test_a_ledger_that_was_changed_from_outside_is_refused_with_what_to_do(disk: SqliteDisk, damage: str) -> None:
    await written(disk)
    await asyncio.to_thread(edit, disk.path, damage)
    with pytest.raises(NeedsRepair) as refusal:
        await disk.open()
    assert str(disk.path) in str(refusal.value)
    assert refusal.value.fix
    assert "\n" not in refusal.value.what


async def test_an_entry_missing_behind_the_snapshot_is_no_loss(disk: SqliteDisk) -> None:
    await written(disk)
    await asyncio.to_thread(edit, disk.path, "DELETE FROM entries WHERE idx = 4")
    assert (await disk.open())[1].entries == (*entries(5, 9),)


@pytest.mark.parametrize("offset", [0, 100, 4096, 8192])
async def test_a_damaged_file_is_refused(disk: SqliteDisk, offset: int) -> None:
    await written(disk)
    data = bytearray(await asyncio.to_thread(disk.path.read_bytes))
    data[offset : offset + 64] = os.urandom(64)
    await asyncio.to_thread(disk.path.write_bytes, data)
    with pytest.raises(NeedsRepair):
        await disk.open()


async def test_one_whose_schema_isnt_even_text_is_refused(disk: SqliteDisk) -> None:
    """SQLite quotes it in its error, which Python can't decode then."""
    await written(disk)
    data = await asyncio.to_thread(disk.path.read_bytes)
    await asyncio.to_thread(disk.path.write_bytes, data.replace(b"CREATE TABLE names", b"CREATE TAB\xff\xfe names"))
    with pytest.raises(NeedsRepair, match="the ledger is damaged"):
        await disk.open()


async def test_one_whose_header_says_that_it_is_read_only_is_refused(disk: SqliteDisk) -> None:
    """Byte 18, the version of those that may write it (https://sqlite.org/fileformat2.html); disks and rights pass."""
    await written(disk)
    data = bytearray(await asyncio.to_thread(disk.path.read_bytes))
    data[18] = 3
    await asyncio.to_thread(disk.path.write_bytes, data)
    with pytest.raises(NeedsRepair, match="the ledger is damaged"):
        await disk.open()


async def test_one_that_claims_sizes_beyond_all_memory_names_both_causes(disk: SqliteDisk) -> None:
    """SQLite says no more of it than where memory really is short, which passes."""
    await written(disk)
    data = bytearray(await asyncio.to_thread(disk.path.read_bytes))
    last = int.from_bytes(data[103:105], "big")
    cell = int.from_bytes(data[106 + 2 * last : 108 + 2 * last], "big")  # the schema's last one, on page 1
    data[cell : cell + 19] = b"\xff" * 19
    await asyncio.to_thread(disk.path.write_bytes, data)
    with pytest.raises(StorageError, match="more memory than there is") as refused:
        await disk.open()
    assert not isinstance(refused.value, NeedsRepair)
    assert "comes back as a new member" in refused.value.fix


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str]:
    """A ledger with some of everything, and its id."""
    path = tmp_path_factory.mktemp("sound") / "ledger.db"
    file = LedgerFile(path, agent_id=AGENT, genesis_entry=GENESIS)
    lives = (Life(agent="c", starts=1, boot=1, up_to=4, word=b"signed"),)
    state = HardState(term=2, vote="b")
    file.commit([Persist(hard_state=state, entries=entries(2, 90), commit=60, lives=lives, names=NAMES)])
    file.close()
    return path.read_bytes(), file.ledger_id


@given(st.data())
def test_however_its_bytes_are_damaged_it_is_sound_or_refused(sound: tuple[bytes, str], data: st.DataObject) -> None:
    """No traceback, and nothing that a further start would be tried for, unless memory seems to be short."""
    content, ledger_id = bytearray(sound[0]), sound[1]
    at = data.draw(st.integers(0, len(content) - 1) | st.integers(*QUOTED))
    wrong = data.draw(st.binary(min_size=1, max_size=600))
    content[at : at + len(wrong)] = wrong
    with TemporaryDirectory() as directory:
        path = Path(directory) / "ledger.db"
        path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
        try:
            LedgerFile(path, agent_id=AGENT, genesis_entry=GENESIS, ledger_id=ledger_id).close()
        except StorageError as error:
            if not isinstance(error, NeedsRepair) and not isinstance(error.__cause__, MemoryError):
                raise


async def test_a_file_that_was_cut_is_refused(disk: SqliteDisk) -> None:
    await written(disk)
    await asyncio.to_thread(os.truncate, disk.path, 4096)
    with pytest.raises(NeedsRepair):
        await disk.open()


async def test_a_later_schema_names_the_remedy(disk: SqliteDisk) -> None:
    await written(disk)
    await asyncio.to_thread(edit, disk.path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(NeedsRepair, match="later"):
        await disk.open()


async def test_a_ledger_of_the_first_schema_is_brought_on_and_goes_on(disk: SqliteDisk) -> None:
    """It remembered nobody's disk yet, and no snapshot's name."""
    await written(disk)
    await asyncio.to_thread(edit, disk.path, "DROP TABLE lives", "DROP TABLE names", "PRAGMA user_version = 1")
    ledger, boot = await disk.open()
    assert (boot.hard_state, boot.commit, boot.starts) == (HardState(term=2, vote="b"), 9, 2)
    assert (boot.snapshot, boot.entries, boot.lives, boot.names) == (snapshot_at(5), entries(4, 9, 1), (), ())
    kept = (Life(agent="c", starts=1, boot=1, up_to=9),)
    await write(ledger, Persist(entries=entries(10, 10, 2), lives=kept, names=NAMES))
    await disk.crash()
    _, boot = await disk.open()
    assert (boot.entries[-1].index, boot.lives, boot.names) == (10, kept, NAMES)


async def test_a_ledger_of_the_first_schema_that_is_damaged_stays_as_it_is(disk: SqliteDisk) -> None:
    await written(disk)
    await asyncio.to_thread(
        edit,
        disk.path,
        "DROP TABLE lives",
        "DROP TABLE names",
        "PRAGMA user_version = 1",
        "UPDATE state SET commit_index = 1",
    )
    with pytest.raises(NeedsRepair, match="damaged"):
        await disk.open()
    assert await asyncio.to_thread(schema_of, disk.path) == 1


async def test_another_agents_ledger_is_refused(disk: SqliteDisk) -> None:
    await written(disk)
    with pytest.raises(NeedsRepair, match="belongs to agent"):
        await Ledger.open(disk.path, agent_id="b" * 26, genesis_entry=GENESIS)


async def test_another_genesis_is_refused(disk: SqliteDisk) -> None:
    await written(disk)
    other = Entry(1, 0, EntryKind.NORMAL, b"another")
    with pytest.raises(NeedsRepair, match="genesis"):
        await Ledger.open(disk.path, agent_id=AGENT, genesis_entry=other)


async def test_a_ledger_that_the_identity_names_is_never_made_again(disk: SqliteDisk) -> None:
    """A voter whose ledger is gone has forgotten its votes (hashicorp/raft #122)."""
    with pytest.raises(NeedsRepair, match="missing"):
        await Ledger.open(disk.path, agent_id=AGENT, genesis_entry=GENESIS, ledger_id="0" * 32)
    assert not disk.path.exists()


@pytest.mark.parametrize("made", [False, True])
async def test_one_behind_a_link_to_a_disk_that_isnt_mounted_yet_is_waited_for(disk: SqliteDisk, made: bool) -> None:
    mounted, away = disk.path.parent / "ssd", disk.path.parent / "away"
    ledger, _ = await disk.open()
    await ledger.close()
    await asyncio.to_thread(mounted.mkdir)
    disk.path.rename(mounted / "ledger.db")
    disk.path.symlink_to(mounted / "ledger.db")
    mounted.rename(away)
    if made:
        mounted.mkdir()
    with pytest.raises(StorageError, match="the ledger can't be opened") as refused:
        await Ledger.open(disk.path, agent_id=AGENT, genesis_entry=GENESIS, ledger_id=ledger.ledger_id)
    assert not isinstance(refused.value, NeedsRepair)
    assert not (mounted / "ledger.db").exists(), "it would be taken for an emptied one"
    if made:
        mounted.rmdir()
    away.rename(mounted)
    ledger, boot = await Ledger.open(disk.path, agent_id=AGENT, genesis_entry=GENESIS, ledger_id=ledger.ledger_id)
    assert boot.starts == 2
    await ledger.close()


async def test_nor_is_one_that_was_emptied(disk: SqliteDisk) -> None:
    disk.path.touch(mode=0o600)
    with pytest.raises(NeedsRepair, match="the ledger is empty"):
        await Ledger.open(disk.path, agent_id=AGENT, genesis_entry=GENESIS, ledger_id="0" * 32)


async def test_another_ledger_than_the_named_one_is_refused(disk: SqliteDisk) -> None:
    await written(disk)
    with pytest.raises(NeedsRepair, match="another ledger"):
        await Ledger.open(disk.path, agent_id=AGENT, genesis_entry=GENESIS, ledger_id="0" * 32)


async def test_two_agents_cant_have_one_ledger(disk: SqliteDisk) -> None:
    await disk.open()
    with pytest.raises(StorageError, match="another agent has this ledger open") as refused:
        await disk.open()
    assert not isinstance(refused.value, NeedsRepair), "the other one may end"


async def test_what_the_machine_refuses_now_it_may_allow_at_the_next_start(disk: SqliteDisk) -> None:
    await written(disk)
    with largest_file(4096), pytest.raises(StorageError, match="the ledger can't be opened") as refused:
        await disk.open()
    assert not isinstance(refused.value, NeedsRepair)
    await disk.open()


async def test_only_the_owner_can_read_the_files(disk: SqliteDisk) -> None:
    ledger, _ = await disk.open()
    await write(ledger, Persist(hard_state=HardState(term=1)))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in disk.path.parent.glob("ledger.db*")}
    assert modes == {"ledger.db": 0o600, "ledger.db-wal": 0o600}


async def test_writes_that_wait_share_commits(disk: SqliteDisk) -> None:
    ledger, _ = await disk.open()
    await asyncio.gather(
        *(write(ledger, Persist(entries=entries(i, i))) for i in range(2, 102)), return_exceptions=True
    )
    assert ledger.commits < 20


async def test_whoever_puts_is_told_in_their_order_and_once_it_is_on_the_disk(disk: SqliteDisk) -> None:
    ledger, _ = await disk.open()
    told: list[tuple[int, Exception | None]] = []

    def tell(term: int, error: Exception | None) -> None:
        told.append((term, error))

    for term in (1, 2, 3):
        ledger.put(Persist(hard_state=HardState(term=term)), partial(tell, term))
    await wait_for(lambda: len(told) == 3)
    assert told == [(1, None), (2, None), (3, None)]
    await disk.crash()
    assert (await disk.open())[1].hard_state.term == 3


async def test_whoever_puts_is_told_what_it_met_instead(disk: SqliteDisk) -> None:
    ledger, _ = await disk.open()
    told: list[Exception | None] = []
    ledger.put(Persist(hard_state=HardState(term=2)), told.append)
    ledger.put(Persist(hard_state=HardState(term=1)), told.append)
    await wait_for(lambda: len(told) == 2)
    assert all(isinstance(error, InvariantBroken) for error in told[1:])
    with pytest.raises(InvariantBroken):
        ledger.put(Persist(hard_state=HardState(term=3)), told.append)


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """A disk that takes no more: writes beyond `size_bytes` of any file fail, as on a full or broken one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_failing_disk_is_fatal_and_what_was_acknowledged_stays(disk: SqliteDisk) -> None:
    ledger, _ = await disk.open()
    await write(ledger, Persist(hard_state=HardState(term=1), entries=entries(2, 4)))
    big = Entry(5, 1, EntryKind.NORMAL, bytes(1_000_000))
    with largest_file(256 * 1024), pytest.raises(StorageError, match="can't be written"):
        await write(ledger, Persist(entries=(big,)))
    with pytest.raises(StorageError):  # also when the disk works again: what is on it is unknown
        await write(ledger, Persist(hard_state=HardState(term=2)))
    await disk.crash()
    _, boot = await disk.open()
    assert boot.entries == (GENESIS, *entries(2, 4))
    assert boot.hard_state == HardState(term=1)


async def test_whatever_goes_wrong_with_a_write_whoever_waits_is_told(
    disk: SqliteDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer thread that just ended would leave an agent that answers its peers and stores nothing."""
    ledger, _ = await disk.open()

    def commit(*_: object) -> None:
        raise OverflowError("an integer that SQLite can't hold")

    monkeypatch.setattr(ledger._file, "commit", commit)
    for _ in range(2):
        async with asyncio.timeout(5):
            with pytest.raises(OverflowError):
                await write(ledger, Persist(hard_state=HardState(term=1)))


async def test_its_files_are_no_longer_than_what_they_hold(disk: SqliteDisk) -> None:
    """What a compaction freed is given back, and a new snapshot takes the old one's place."""
    ledger, _ = await disk.open()
    last, data = 1, b"x" * 6_000_000
    for _ in range(3):
        for _ in range(40):
            log = tuple(Entry(last + more, 1, EntryKind.NORMAL, b"y" * 60_000) for more in (1, 2, 3))
            await write(ledger, Persist(hard_state=HardState(term=1), entries=log))
            last += 3
        snapshot = Snapshot(index=last, term=1, configuration=Configuration(voters=(AGENT,)), data=data)
        await write(ledger, Persist(snapshot=snapshot, compact_to=last))
    for term in range(2, 4):
        await write(ledger, Persist(hard_state=HardState(term=term)))
    assert disk.path.with_name("ledger.db-wal").stat().st_size <= MAX_KEPT_WAL_BYTES
    await ledger.close()
    assert disk.path.stat().st_size < 1.1 * len(data)


async def test_no_write_waits_until_what_it_freed_is_given_back(
    disk: SqliteDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, _ = await disk.open()
    begun, told = threading.Event(), threading.Event()
    give_back = ledger._file.give_back

    def give_back_late() -> None:
        begun.set()
        assert told.wait(5)
        give_back()

    monkeypatch.setattr(ledger._file, "give_back", give_back_late)
    try:
        async with asyncio.timeout(5):
            await write(ledger, Persist(hard_state=HardState(term=1), entries=entries(2, 4)))
    finally:
        told.set()
    assert await asyncio.to_thread(begun.wait, 5)
    await write(ledger, Persist(hard_state=HardState(term=2)))


async def test_a_disk_that_cannot_be_given_back_anything_takes_no_more(
    disk: SqliteDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, _ = await disk.open()
    failed = threading.Event()

    def give_back() -> None:
        failed.set()
        raise StorageError("the ledger can't be written: disk I/O error", where="ledger.db", fix="Check the disk.")

    monkeypatch.setattr(ledger._file, "give_back", give_back)
    await write(ledger, Persist(hard_state=HardState(term=1)))
    assert await asyncio.to_thread(failed.wait, 5)
    with pytest.raises(StorageError):
        await write(ledger, Persist(hard_state=HardState(term=2)))


async def test_what_waits_when_it_is_closed_is_written(disk: SqliteDisk) -> None:
    ledger, _ = await disk.open()
    ledger.put(Persist(hard_state=HardState(term=7)), lambda failure: None)
    await ledger.close()
    assert (await disk.open())[1].hard_state.term == 7


async def test_a_closed_ledger_takes_nothing(disk: SqliteDisk) -> None:
    ledger, _ = await disk.open()
    await ledger.close()
    with pytest.raises(InvariantBroken):
        await write(ledger, Persist(hard_state=HardState(term=7)))
