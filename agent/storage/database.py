"""The ledger's SQLite file: its schema, the checks on opening, and one transaction per batch. Synchronous.

A state that can't be vouched for is never served: a member that forgot a vote or an entry may break what it promised
(Raft §3.8). So every row carries a checksum, the state row names the last index, and a file that doesn't add up is
refused with what to do.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from agent.errors import DiskFull, InvariantBroken, NeedsRepair, StorageError
from agent.files import sync_directory
from agent.raft import Boot, Configuration, Entry, EntryKind, HardState, Life, Persist, Snapshot, SnapshotName
from agent.storage.files import ANEW_FIX, ROOM_FIX, refused
from agent.storage.room import lack_of_room

APPLICATION_ID = 0x6D757374  # "must": `file ledger.db` and we ourselves know it from any other database

# A snapshot's write makes the WAL as long as itself; once it is in the file the WAL is cut to this: SQLite begins it
# anew at about that length in any case.
MAX_KEPT_WAL_BYTES = 4 * 1024 * 1024

PASSING = frozenset(
    (
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_AUTH,
    )
)
"""Of SQLite's result codes those of disks, rights and other processes: the next start may find them gone. Any other one
at an opening is of what the file holds (https://sqlite.org/rescode.html)."""

# What each version added: a file of an earlier one is brought on by the rest.
_STEPS = (
    (
        "CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), agent TEXT NOT NULL, ledger TEXT NOT NULL,"
        " genesis TEXT NOT NULL, starts INTEGER NOT NULL, term INTEGER NOT NULL, vote TEXT,"
        " commit_index INTEGER NOT NULL, verified INTEGER NOT NULL, last_index INTEGER NOT NULL,"
        " crc INTEGER NOT NULL) STRICT",
        "CREATE TABLE entries (idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, kind INTEGER NOT NULL,"
        " data BLOB NOT NULL, crc INTEGER NOT NULL) STRICT",
        "CREATE TABLE snapshot (id INTEGER PRIMARY KEY CHECK (id = 1), idx INTEGER NOT NULL, term INTEGER NOT NULL,"
        " configuration BLOB NOT NULL, data BLOB NOT NULL, crc INTEGER NOT NULL) STRICT",
    ),
    (
        "CREATE TABLE lives (agent TEXT PRIMARY KEY, starts INTEGER NOT NULL, boot INTEGER NOT NULL,"
        " up_to INTEGER NOT NULL, word BLOB NOT NULL, went_back INTEGER NOT NULL, crc INTEGER NOT NULL) STRICT",
    ),
    ("CREATE TABLE names (idx INTEGER PRIMARY KEY, name TEXT NOT NULL, crc INTEGER NOT NULL) STRICT",),
)
SCHEMA_VERSION = len(_STEPS)

_FIELDS = "agent, ledger, genesis, starts, term, vote, commit_index, verified, last_index"
_MARKS = ", ".join("?" * len(f"{_FIELDS}, crc".split(", ")))
_WRITE_STATE = f"INSERT OR REPLACE INTO state (id, {_FIELDS}, crc) VALUES (1, {_MARKS})"  # noqa: S608 constant names only


class NewEpoch(msgspec.Struct, frozen=True, kw_only=True):
    """All that was kept goes, and this is where the ledger begins again. Proven, and of a later epoch.

    What this agent promised in the epoch before binds nobody any more: no agent of the one talks to one of the other.
    Terms go on all the same.
    """

    snapshot: Snapshot


class _State(msgspec.Struct, kw_only=True):
    """The one row of `state`."""

    agent: str
    ledger: str
    genesis: str
    starts: int
    term: int
    vote: str | None
    commit_index: int
    verified: int
    last_index: int

    def row(self) -> tuple[object, ...]:
        values = msgspec.structs.astuple(self)
        return (*values, _crc(*values))


def _crc(*values: object) -> int:
    """crc32 over the values, told apart by msgpack's own lengths; disks' errors, not attackers', are looked for."""
    return zlib.crc32(msgspec.msgpack.encode(values))


class LedgerFile:
    """One open ledger; all calls come from one thread. Exclusive: a second opener gets a StorageError.

    `ledger_id` is the id that the identity names, or None when the identity never had a ledger; only then a file is
    made. `least_starts`: an earlier start of this agent has seen that count in it. Raises NeedsRepair when the file
    can't be vouched for, StorageError when it can't be opened now.
    """

    def __init__(
        self, path: Path, *, agent_id: str, genesis_entry: Entry, ledger_id: str | None = None, least_starts: int = 0
    ) -> None:
        self.path = path
        self._shrunk = False
        self._touch(make=ledger_id is None)
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=0.5)
            try:
                self._configure()
                if self._pragma("user_version") == 0 and not self._tables():
                    if ledger_id is not None:
                        raise self._refusal("the ledger is empty: what this agent has voted and stored is gone")
                    self._create(agent_id, genesis_entry)
                self._check_file()
                self._state = self._read_state(agent_id, genesis_entry, ledger_id)
                self._count_start(least_starts)
                self._bring_on()
                self.boot = self._read_boot()
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            raise self._opening_failed(error) from error
        except MemoryError as error:
            fix = f"Free some; the agent tries again by itself. If it has enough, the ledger is damaged: {ANEW_FIX}"
            what = "the ledger can't be opened: it takes more memory than there is"
            raise StorageError(what, where=str(path), fix=fix) from error
        except UnicodeDecodeError as error:  # SQLite's own words may quote what is damaged
            raise self._refusal("the ledger is damaged: text in it isn't UTF-8") from error

    @property
    def ledger_id(self) -> str:
        """Drawn when the file was made; the identity names it."""
        return self._state.ledger

    def commit(self, batch: Sequence[Persist | NewEpoch], verified_through: int = 0) -> None:
        """Write all of `batch`, in order, in one transaction, and fsync.

        Raises StorageError when the disk fails (then nothing of the batch counts as written, and the file must not be
        used on), InvariantBroken when the batch contradicts what is stored.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for item in batch:
                if isinstance(item, NewEpoch):
                    self._begin(item.snapshot)
                else:
                    self._apply(item)
            self._state.verified = max(self._state.verified, min(verified_through, self._state.last_index))
            self._write_state()
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._writing_failed(error) from error

    def give_back(self) -> None:
        """Let the disk have what commits freed since, else the file keeps the size of its longest log; no write waits
        for it. Raises StorageError as `commit` does.

        As a script: `execute` takes one step of a statement that gives no rows, and each step gives back one page.
        """
        if not self._shrunk:
            return
        self._shrunk = False
        try:
            self._db.executescript("PRAGMA incremental_vacuum")
        except sqlite3.Error as error:
            raise self._writing_failed(error) from error

    def close(self) -> None:
        """Close the file; the last WAL content moves into it."""
        self._db.close()

    # --- opening ---

    def _touch(self, *, make: bool) -> None:
        """Make the file with mode 0600 before SQLite would make it with the umask's; its WAL copies the mode.

        What a link leads to may be on a disk that is mounted later: that isn't missing for good.
        """
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0)
        try:
            os.close(os.open(self.path, flags, 0o600))
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not make and not self.path.is_symlink():
                what = "the ledger is missing, and with it what this agent has voted and stored"
                raise self._refusal(what) from error
            fix = "Check the disk (`df`, `dmesg`) and the directory's owner and mode."
            raise refused("the ledger can't be opened", error, self.path, fix) from error

    def _configure(self) -> None:
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")  # before WAL: no shared-memory file, and one agent only
        self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a file that isn't there yet; see `give_back`
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # NORMAL may lose the last commits on a power loss
        self._db.execute("PRAGMA secure_delete = OFF")
        self._db.execute(f"PRAGMA journal_size_limit = {MAX_KEPT_WAL_BYTES}")
        self._db.execute("BEGIN EXCLUSIVE")
        self._db.execute("COMMIT")

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    def _tables(self) -> bool:
        return self._db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is not None

    def _create(self, agent_id: str, genesis_entry: Entry) -> None:
        if genesis_entry.index != 1 or genesis_entry.term != 0:
            raise InvariantBroken("the genesis entry has index 1 and term 0")
        self._db.execute("BEGIN IMMEDIATE")
        self._run_steps(_STEPS)
        self._state = _State(
            agent=agent_id,
            ledger=secrets.token_hex(16),
            genesis=_genesis_digest(genesis_entry),
            starts=0,
            term=0,
            vote=None,
            commit_index=1,
            verified=0,
            last_index=0,
        )
        self._append((genesis_entry,))
        self._write_state()
        self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._db.execute("COMMIT")
        sync_directory(self.path.parent)

    def _bring_on(self) -> None:
        """A file of an earlier version becomes one of ours, in one transaction; it is known to be sound by then."""
        self._db.execute("BEGIN IMMEDIATE")
        self._run_steps(_STEPS[self._pragma("user_version") :])
        self._db.execute("COMMIT")

    def _run_steps(self, steps: Sequence[Sequence[str]]) -> None:
        for step in steps:
            for statement in step:
                self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _check_file(self) -> None:
        version = self._pragma("user_version")
        if version > SCHEMA_VERSION:
            raise NeedsRepair(
                f"the ledger has format {version}, this agent knows up to {SCHEMA_VERSION}",
                where=str(self.path),
                fix="Install the agent version that wrote it, or a later one.",
            )
        if version < 1 or self._pragma("application_id") != APPLICATION_ID:
            raise self._refusal("this database isn't a ledger")
        finding = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if finding != "ok":
            raise self._refusal(f"the ledger is damaged: {finding.splitlines()[-1]}")  # a line of its own says where

    def _read_state(self, agent_id: str, genesis_entry: Entry, ledger_id: str | None) -> _State:
        row = self._db.execute(f"SELECT {_FIELDS}, crc FROM state WHERE id = 1").fetchone()  # noqa: S608 constant names
        if row is None or _crc(*row[:-1]) != row[-1]:
            raise self._refusal("the ledger is damaged: its state row is missing or doesn't match its checksum")
        state = _State(**dict(zip(_FIELDS.split(", "), row[:-1], strict=True)))
        if state.agent != agent_id:
            raise self._refusal(f"the ledger belongs to agent {state.agent}, the identity here is {agent_id}")
        if ledger_id is not None and state.ledger != ledger_id:
            raise self._refusal("the identity names another ledger than this one")
        if state.genesis != _genesis_digest(genesis_entry):
            raise self._refusal("the ledger began with another genesis than the one this agent was given")
        return state

    def _count_start(self, least: int) -> None:
        """Refused before it is counted: else an older copy would pass once it was tried often enough."""
        if self._state.starts < least:
            counted = self._state.starts
            raise self._refusal(f"the ledger is an older copy: it counts {counted} of this agent's {least} starts")
        self._state.starts += 1

    def _read_boot(self) -> Boot:
        snapshot = self._read_snapshot()
        entries = tuple(self._read_entries())
        self._check_log(snapshot, entries)
        self.commit(())  # the start is counted on disk before anybody hears of it
        state = self._state
        return Boot(
            hard_state=HardState(term=state.term, vote=state.vote),
            snapshot=snapshot,
            entries=entries,
            commit=state.commit_index,
            verified_through=state.verified,
            starts=state.starts,
            lives=tuple(self._read_lives()),
            names=tuple(self._read_names()),
        )

    def _read_snapshot(self) -> Snapshot | None:
        row = self._db.execute("SELECT idx, term, configuration, data, crc FROM snapshot WHERE id = 1").fetchone()
        if row is None:
            return None
        index, term, configuration, data, crc = row
        if _crc(index, term, configuration, data) != crc:
            raise self._refusal("the ledger is damaged: the snapshot doesn't match its checksum")
        return Snapshot(index=index, term=term, configuration=Configuration.decode(configuration), data=data)

    def _read_entries(self) -> Iterable[Entry]:
        for index, term, kind, data, crc in self._db.execute(
            "SELECT idx, term, kind, data, crc FROM entries ORDER BY idx"
        ):
            if _crc(index, term, kind, data) != crc:
                raise self._refusal(f"the ledger is damaged: entry {index} doesn't match its checksum")
            yield Entry(index, term, EntryKind(kind), data)

    def _read_lives(self) -> Iterable[Life]:
        for *values, crc in self._db.execute(
            "SELECT agent, starts, boot, up_to, word, went_back, crc FROM lives ORDER BY agent"
        ):
            if _crc(*values) != crc:
                raise self._refusal(
                    "the ledger is damaged: what it remembers of another member doesn't match its checksum"
                )
            agent, starts, boot, up_to, word, went_back = values
            yield Life(agent=agent, starts=starts, boot=boot, up_to=up_to, word=word, went_back=bool(went_back))

    def _read_names(self) -> Iterable[SnapshotName]:
        for index, name, crc in self._db.execute("SELECT idx, name, crc FROM names ORDER BY idx"):
            if _crc(index, name) != crc:
                raise self._refusal(f"the ledger is damaged: the name of snapshot {index} doesn't match its checksum")
            yield SnapshotName(index, name)

    def _check_log(self, snapshot: Snapshot | None, entries: tuple[Entry, ...]) -> None:
        before, term = (snapshot.index, snapshot.term) if snapshot else (0, 0)
        if entries and entries[0].index <= before:
            before, term = entries[0].index - 1, 0  # entries kept behind the snapshot for slow followers
        for entry in entries:
            if entry.index != before + 1 or entry.term < term:
                raise self._refusal(f"the ledger is damaged: entry {entry.index} can't follow entry {before}")
            before, term = entry.index, entry.term
        last = max(before, snapshot.index if snapshot else 0)
        state = self._state
        if last != state.last_index or before != last or state.commit_index > last:
            raise self._refusal(f"the ledger is damaged: it ends at entry {last} instead of {state.last_index}")
        if term > state.term:
            raise self._refusal(f"the ledger is damaged: entry {last} is of term {term}, later than term {state.term}")

    # --- writing ---

    def _apply(self, persist: Persist) -> None:
        state = self._state
        if persist.hard_state is not None:
            if persist.hard_state.term < state.term:
                raise InvariantBroken(f"term {persist.hard_state.term} after term {state.term}")
            state.term, state.vote = persist.hard_state.term, persist.hard_state.vote
        if persist.truncate_from is not None:
            self._truncate(persist.truncate_from, replaced=persist.snapshot is not None)
        if persist.snapshot is not None:
            self._keep_snapshot(persist.snapshot)
        self._append(persist.entries)
        if persist.compact_to is not None:
            self._compact(persist.compact_to)
        if persist.commit is not None:
            state.commit_index = max(state.commit_index, persist.commit)
        if state.commit_index > state.last_index:
            raise InvariantBroken(f"commit {state.commit_index} beyond the last entry {state.last_index}")
        if persist.lives is not None:
            self._remember(persist.lives)
        if persist.names is not None:
            self._keep_names(persist.names)

    def _begin(self, snapshot: Snapshot) -> None:
        state = self._state
        if snapshot.term > state.term:
            state.term, state.vote = snapshot.term, None
        self._db.execute("DELETE FROM entries")
        self._remember(())
        self._keep_names(())
        self._shrunk = True
        state.last_index = state.commit_index = 0
        self._keep_snapshot(snapshot)
        state.verified = snapshot.index

    def _truncate(self, index: int, *, replaced: bool) -> None:
        if index <= self._state.commit_index and not replaced:
            raise InvariantBroken(f"truncation from {index}, but {self._state.commit_index} is committed")
        self._db.execute("DELETE FROM entries WHERE idx >= ?", (index,))
        self._state.last_index = min(self._state.last_index, max(index - 1, 0))
        self._state.verified = min(self._state.verified, self._state.last_index)

    def _keep_snapshot(self, snapshot: Snapshot) -> None:
        configuration = snapshot.configuration.encode()
        crc = _crc(snapshot.index, snapshot.term, configuration, snapshot.data)
        self._db.execute("DELETE FROM snapshot")  # first, so that the next one takes its pages
        self._db.execute(
            "INSERT INTO snapshot (id, idx, term, configuration, data, crc) VALUES (1, ?, ?, ?, ?, ?)",
            (snapshot.index, snapshot.term, configuration, snapshot.data, crc),
        )
        if self._state.last_index < snapshot.index:  # a leader's snapshot, beyond our log: nothing here continues it
            self._db.execute("DELETE FROM entries")
            self._shrunk = True
            self._state.last_index = snapshot.index
        self._state.commit_index = max(self._state.commit_index, snapshot.index)

    def _append(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.index != self._state.last_index + 1:
                raise InvariantBroken(f"entry {entry.index} can't follow entry {self._state.last_index}")
            self._state.last_index = entry.index
        self._db.executemany(
            "INSERT INTO entries (idx, term, kind, data, crc) VALUES (?, ?, ?, ?, ?)",
            ((e.index, e.term, int(e.kind), e.data, _crc(e.index, e.term, int(e.kind), e.data)) for e in entries),
        )

    def _remember(self, lives: Sequence[Life]) -> None:
        rows = [(each.agent, each.starts, each.boot, each.up_to, each.word, int(each.went_back)) for each in lives]
        self._db.execute("DELETE FROM lives")
        self._db.executemany(
            "INSERT INTO lives (agent, starts, boot, up_to, word, went_back, crc) VALUES (?, ?, ?, ?, ?, ?, ?)",
            ((*row, _crc(*row)) for row in rows),
        )

    def _keep_names(self, names: Sequence[SnapshotName]) -> None:
        self._db.execute("DELETE FROM names")
        self._db.executemany(
            "INSERT INTO names (idx, name, crc) VALUES (?, ?, ?)",
            ((each.index, each.name, _crc(each.index, each.name)) for each in names),
        )

    def _compact(self, index: int) -> None:
        row = self._db.execute("SELECT idx FROM snapshot WHERE id = 1").fetchone()
        if row is None or index > row[0]:
            raise InvariantBroken(f"compaction to {index} without a snapshot that covers it")
        self._db.execute("DELETE FROM entries WHERE idx <= ?", (index,))
        self._shrunk = True

    def _write_state(self) -> None:
        self._db.execute(_WRITE_STATE, self._state.row())

    # --- saying no ---

    def _refusal(self, what: str) -> NeedsRepair:
        return NeedsRepair(what, where=str(self.path), fix=f"{ANEW_FIX} Never put an older copy back.")

    def _writing_failed(self, error: sqlite3.Error) -> StorageError:
        fix = "Check the disk (`df`, `dmesg`); the agent stops now and starts again by itself."
        return self._failed("the ledger can't be written", error, fix)

    def _opening_failed(self, error: sqlite3.Error) -> StorageError:
        if "locked" in str(error):
            return StorageError(
                "another agent has this ledger open",
                where=str(self.path),
                fix="Stop it first (`systemctl status muster-agent`), or give this one a data directory of its own.",
            )
        if _code(error) in PASSING and not self._forbids_writing(error):
            fix = "Check the disk (`df`, `dmesg`) and the directory's owner and mode; the agent tries again by itself."
            return self._failed("the ledger can't be opened", error, fix)
        return self._refusal(f"the ledger is damaged: {error}")

    def _forbids_writing(self, error: sqlite3.Error) -> bool:
        """Whether the file's own header does, in place of its mode, directory or file system."""
        plain = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY
        return plain and os.access(self.path, os.W_OK)

    def _failed(self, what: str, error: sqlite3.Error, fix: str) -> StorageError:
        """As `agent.storage.files.refused`. SQLite has a word for a full disk; for used up inodes and quotas none."""
        code = _code(error)
        if code == sqlite3.SQLITE_FULL:
            return DiskFull(f"{what}: {error}", where=str(self.path), fix=ROOM_FIX)
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR) and (lack := lack_of_room(self.path.parent)):
            return DiskFull(f"{what}: {lack.strerror}", where=str(self.path), fix=ROOM_FIX)
        return StorageError(f"{what}: {error}", where=str(self.path), fix=fix)


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for what Python found, e.g. text that isn't UTF-8."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what extended ones add


def _genesis_digest(entry: Entry) -> str:
    return hashlib.sha256(entry.data).hexdigest()
