"""What every place that keeps a Raft log must do: one suite for the real ledger and for simulated disks.

Subclass `LogStorageContract` and give a fixture `disk` that yields a `Disk`.
"""

from __future__ import annotations

import asyncio
import random
from typing import Protocol

import pytest
from msgspec.structs import replace

from agent.errors import InvariantBroken
from agent.raft import Boot, Configuration, Entry, EntryKind, HardState, Life, Persist, Snapshot, SnapshotName
from agent.storage.ledger import Told

GENESIS = Entry(1, 0, EntryKind.NORMAL, b"genesis")
CONFIGURATION = Configuration.of(["a", "b", "c"])


class LogStorage(Protocol):
    """An open log. `told` is called once everything in `persist` is on disk, or with what it failed with."""

    def put(self, persist: Persist, told: Told) -> None: ...

    async def begin_epoch(self, snapshot: Snapshot) -> None: ...

    def set_verified_through(self, index: int) -> None: ...


class Disk(Protocol):
    """One agent's disk, with GENESIS as entry 1."""

    async def open(self) -> tuple[LogStorage, Boot]:
        """Open what is there; the first time, make it."""
        ...

    async def crash(self) -> None:
        """The process is gone; what was acknowledged stays, nothing was closed."""
        ...


def write(log: LogStorage, persist: Persist) -> asyncio.Future[None]:
    """Put it; the future is done once it is on disk, and raises what the log is told."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def told(failure: Exception | None) -> None:
        if failure is None:
            done.set_result(None)
        else:
            done.set_exception(failure)

    log.put(persist, told)
    return done


def entries(first: int, last: int, term: int = 1) -> tuple[Entry, ...]:
    """Entries first … last of one term, each with its own data."""
    return tuple(Entry(index, term, EntryKind.NORMAL, f"{term}/{index}".encode()) for index in range(first, last + 1))


def snapshot_at(index: int, term: int = 1) -> Snapshot:
    """A snapshot up to `index`."""
    return Snapshot(index=index, term=term, configuration=CONFIGURATION, data=b"state %d" % index)


class LogStorageContract:
    """The suite. Raft thesis §3.8 (persisted state) and §5 (log compaction)."""

    async def again(self, disk: Disk) -> tuple[LogStorage, Boot]:
        await disk.crash()
        return await disk.open()

    async def test_a_first_start_has_the_genesis_alone_committed(self, disk: Disk) -> None:
        _, boot = await disk.open()
        assert boot == Boot(
            hard_state=HardState(), snapshot=None, entries=(GENESIS,), commit=1, verified_through=0, starts=1
        )

    async def test_each_start_is_counted(self, disk: Disk) -> None:
        await disk.open()
        assert [(await self.again(disk))[1].starts for _ in range(3)] == [2, 3, 4]

    async def test_term_and_vote_survive_a_crash(self, disk: Disk) -> None:
        log, _ = await disk.open()
        await write(log, Persist(hard_state=HardState(term=3, vote="b")))
        assert (await self.again(disk))[1].hard_state == HardState(term=3, vote="b")

    async def test_a_vote_taken_back_by_a_higher_term_stays_so(self, disk: Disk) -> None:
        log, _ = await disk.open()
        await write(log, Persist(hard_state=HardState(term=3, vote="b")))
        await write(log, Persist(hard_state=HardState(term=4)))
        assert (await self.again(disk))[1].hard_state == HardState(term=4, vote=None)

    async def test_entries_survive_with_their_kind_and_data(self, disk: Disk) -> None:
        log, _ = await disk.open()
        written = (
            Entry(2, 1, EntryKind.NOOP, b""),
            Entry(3, 1, EntryKind.CONFIG, CONFIGURATION.encode()),
            Entry(4, 2, EntryKind.NORMAL, bytes(range(256)) * 4096),
        )
        await write(log, Persist(hard_state=HardState(term=2), entries=written))
        assert (await self.again(disk))[1].entries == (GENESIS, *written)

    async def test_a_conflicting_tail_is_replaced(self, disk: Disk) -> None:
        """Raft §5.3: delete the existing entry and all that follow it."""
        log, _ = await disk.open()
        await write(log, Persist(hard_state=HardState(term=1), entries=entries(2, 6)))
        await write(log, Persist(hard_state=HardState(term=2), truncate_from=4, entries=entries(4, 5, term=2)))
        assert (await self.again(disk))[1].entries == (GENESIS, *entries(2, 3), *entries(4, 5, term=2))

    async def test_committed_entries_are_never_truncated(self, disk: Disk) -> None:
        """ARCHITECTURE.md "Invariants, and who checks them": a follower never truncates below its commit index, it
        stops."""
        log, _ = await disk.open()
        await write(log, Persist(hard_state=HardState(term=1), entries=entries(2, 6), commit=5))
        with pytest.raises(InvariantBroken):
            await write(log, Persist(truncate_from=5, entries=entries(5, 5)))
        assert (await self.again(disk))[1].entries == (GENESIS, *entries(2, 6))

    async def test_a_gap_in_the_log_is_refused(self, disk: Disk) -> None:
        log, _ = await disk.open()
        with pytest.raises(InvariantBroken):
            await write(log, Persist(hard_state=HardState(term=1), entries=entries(3, 4)))
        assert (await self.again(disk))[1].entries == (GENESIS,)

    async def test_compaction_keeps_the_entries_behind_the_snapshot_that_it_may(self, disk: Disk) -> None:
        log, _ = await disk.open()
        await write(log, Persist(hard_state=HardState(term=1), entries=entries(2, 9), commit=9))
        await write(log, Persist(snapshot=snapshot_at(7), compact_to=5))
        _, boot = await self.again(disk)
        assert boot.snapshot == snapshot_at(7)
        assert boot.entries == entries(6, 9)

    async def test_compaction_up_to_the_last_entry_leaves_the_snapshot_alone(self, disk: Disk) -> None:
        log, _ = await disk.open()
        await write(log, Persist(hard_state=HardState(term=1), entries=entries(2, 4), commit=4))
        await write(log, Persist(snapshot=snapshot_at(4), compact_to=4))
        log, boot = await self.again(disk)
        assert (boot.snapshot, boot.entries) == (snapshot_at(4), ())
        await write(log, Persist(entries=entries(5, 5)))
        assert (await self.again(disk))[1].entries == entries(5, 5)

    async def test_compaction_without_a_snapshot_that_covers_it_is_refused(self, disk: Disk) -> None:
        log, _ = await disk.open()
        await write(log, Persist(hard_state=HardState(term=1), entries=entries(2, 9), commit=9))
        with pytest.raises(InvariantBroken):
            await write(log, Persist(snapshot=snapshot_at(4), compact_to=5))
        assert (await self.again(disk))[1].entries == (GENESIS, *entries(2, 9))

    async def test_a_leaders_snapshot_replaces_the_whole_log(self, disk: Disk) -> None:
        """Raft §5: InstallSnapshot on a follower whose log doesn't continue it."""
        log, _ = await disk.open()
        await write(log, Persist(hard_state=HardState(term=1), entries=entries(2, 4)))
        await write(log, Persist(hard_state=HardState(term=5), truncate_from=0, snapshot=snapshot_at(40, 4), commit=40))
        log, boot = await self.again(disk)
        assert (boot.snapshot, boot.entries, boot.commit) == (snapshot_at(40, 4), (), 40)
        await write(log, Persist(entries=entries(41, 42, term=5)))
        assert (await self.again(disk))[1].entries == entries(41, 42, term=5)

    async def test_a_leaders_snapshot_may_replace_committed_entries(self, disk: Disk) -> None:
        log, _ = await disk.open()
        await write(log, Persist(hard_state=HardState(term=1), entries=entries(2, 4), commit=4))
        await write(log, Persist(truncate_from=0, snapshot=snapshot_at(9), commit=9))
        assert (await self.again(disk))[1].snapshot == snapshot_at(9)

    async def test_the_commit_index_is_kept_and_never_goes_back(self, disk: Disk) -> None:
        log, _ = await disk.open()
        await write(log, Persist(hard_state=HardState(term=1), entries=entries(2, 6), commit=5))
        await write(log, Persist(commit=3))
        assert (await self.again(disk))[1].commit == 5

    async def test_verified_through_goes_to_disk_with_the_next_write(self, disk: Disk) -> None:
        log, _ = await disk.open()
        log.set_verified_through(4)
        await write(log, Persist(hard_state=HardState(term=1), entries=entries(2, 6), commit=4))
        assert (await self.again(disk))[1].verified_through == 4

    async def test_verified_through_falls_with_a_truncation(self, disk: Disk) -> None:
        """The entries that replace others were not looked at."""
        log, _ = await disk.open()
        log.set_verified_through(6)
        await write(log, Persist(hard_state=HardState(term=1), entries=entries(2, 6)))
        await write(log, Persist(hard_state=HardState(term=2), truncate_from=4, entries=entries(4, 9, term=2)))
        await write(log, Persist(commit=3))
        assert (await self.again(disk))[1].verified_through == 3

    async def test_writes_that_wait_together_all_survive_in_order(self, disk: Disk) -> None:
        log, _ = await disk.open()
        await write(log, Persist(hard_state=HardState(term=1)))
        await asyncio.gather(*(write(log, Persist(entries=entries(i, i))) for i in range(2, 60)))
        assert (await self.again(disk))[1].entries == (GENESIS, *entries(2, 59))

    async def test_after_a_refused_write_nothing_is_taken_any_more(self, disk: Disk) -> None:
        """What is in memory and what is on disk may differ from then on; only a restart settles it."""
        log, _ = await disk.open()
        with pytest.raises(InvariantBroken):
            await write(log, Persist(entries=entries(7, 7)))
        with pytest.raises(InvariantBroken):
            await write(log, Persist(hard_state=HardState(term=9)))
        assert (await self.again(disk))[1].hard_state == HardState()

    async def test_what_is_remembered_of_others_survives_until_it_is_replaced(self, disk: Disk) -> None:
        log, _ = await disk.open()
        first = (
            Life(agent="b", starts=3, boot=2, up_to=40),
            Life(agent="c", starts=1, boot=1, up_to=7, word=b"signed", went_back=True),
        )
        await write(log, Persist(lives=first))
        await write(log, Persist(hard_state=HardState(term=1)))
        log, boot = await self.again(disk)
        assert boot.lives == first
        await write(log, Persist(hard_state=HardState(term=2), lives=first[:1]))
        log, boot = await self.again(disk)
        assert boot.lives == first[:1]
        await write(log, Persist(lives=()))
        assert (await self.again(disk))[1].lives == ()

    async def test_names_of_snapshots_survive_until_they_are_replaced(self, disk: Disk) -> None:
        log, _ = await disk.open()
        first = (SnapshotName(4, "four"), SnapshotName(8, "eight"))
        await write(log, Persist(names=first))
        await write(log, Persist(hard_state=HardState(term=1)))
        log, boot = await self.again(disk)
        assert boot.names == first
        await write(log, Persist(names=first[1:]))
        assert (await self.again(disk))[1].names == first[1:]

    async def test_another_epoch_remembers_nobody_and_no_snapshot(self, disk: Disk) -> None:
        """Its entries are counted anew, so others may rightly have fewer."""
        log, _ = await disk.open()
        lives = (Life(agent="b", starts=3, boot=2, up_to=40),)
        await write(log, Persist(lives=lives, names=(SnapshotName(3, "three"),)))
        await log.begin_epoch(snapshot_at(4, 6))
        _, boot = await self.again(disk)
        assert (boot.lives, boot.names) == ((), ())

    async def test_another_epoch_begins_with_its_snapshot_alone(self, disk: Disk) -> None:
        """Also where it is behind what was committed here: that was of the epoch before."""
        log, _ = await disk.open()
        await write(log, Persist(hard_state=HardState(term=7, vote="b"), entries=entries(2, 9, 5), commit=9))
        log.set_verified_through(9)
        await write(log, Persist(commit=9))
        await log.begin_epoch(snapshot_at(4, 6))
        _, boot = await self.again(disk)
        assert (boot.snapshot, boot.entries) == (snapshot_at(4, 6), ())
        assert (boot.commit, boot.verified_through) == (4, 4)
        assert boot.hard_state == HardState(term=7, vote="b"), "terms go on"

    async def test_another_epoch_of_a_later_term_has_no_vote_and_goes_on_behind_its_snapshot(self, disk: Disk) -> None:
        log, _ = await disk.open()
        await write(log, Persist(hard_state=HardState(term=2, vote="b"), entries=entries(2, 3, 2)))
        await log.begin_epoch(snapshot_at(4, 6))
        log, boot = await self.again(disk)
        assert boot.hard_state == HardState(term=6, vote=None)
        await write(log, Persist(hard_state=HardState(term=7, vote="a"), entries=entries(5, 6, 7), commit=6))
        _, boot = await self.again(disk)
        assert [entry.index for entry in boot.entries] == [5, 6]
        assert boot.commit == 6

    @pytest.mark.parametrize("seed", range(5))
    async def test_any_history_reads_back_as_a_plain_list_would(self, disk: Disk, seed: int) -> None:
        rng = random.Random(seed)
        log, boot = await disk.open()
        model = Model(rng)
        for _ in range(40):
            persist = model.step()
            await write(log, persist)
            if rng.random() < 0.25:
                log, boot = await self.again(disk)
                assert (boot.hard_state, boot.snapshot, boot.commit) == (model.hard_state, model.snapshot, model.commit)
                assert (boot.lives, boot.names) == (model.lives, model.names)
                assert list(boot.entries) == model.entries


class Model:
    """The same log as a list, and random steps that a Raft could ask for."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.hard_state = HardState()
        self.entries = [GENESIS]
        self.snapshot: Snapshot | None = None
        self.commit = 1
        self.lives: tuple[Life, ...] = ()
        self.names: tuple[SnapshotName, ...] = ()

    @property
    def last(self) -> int:
        return self.entries[-1].index if self.entries else (self.snapshot.index if self.snapshot else 0)

    def step(self) -> Persist:
        persist = self.rng.choice([self.append, self.append, self.overwrite, self.compact, self.restore])()
        return self.remember(persist) if self.rng.random() < 0.3 else persist

    def remember(self, persist: Persist) -> Persist:
        others = self.rng.sample("bcdef", self.rng.randint(0, 5))
        self.lives = tuple(
            Life(agent=other, starts=self.rng.randint(1, 9), up_to=self.last) for other in sorted(others)
        )
        self.names = tuple(SnapshotName(self.last + more, f"{len(others)}") for more in range(len(others)))
        return replace(persist, lives=self.lives, names=self.names)

    def append(self) -> Persist:
        self.hard_state = HardState(term=self.hard_state.term + self.rng.randint(0, 1), vote=self.rng.choice("abc"))
        new = entries(self.last + 1, self.last + self.rng.randint(0, 4), self.hard_state.term)
        self.entries += new
        self.commit = self.rng.randint(self.commit, self.last)
        return Persist(hard_state=self.hard_state, entries=new, commit=self.commit)

    def overwrite(self) -> Persist:
        start = self.rng.randint(self.commit + 1, self.last + 1)
        self.hard_state = HardState(term=self.hard_state.term + 1)
        new = entries(start, start + self.rng.randint(0, 3), self.hard_state.term)
        self.entries = [entry for entry in self.entries if entry.index < start] + list(new)
        return Persist(hard_state=self.hard_state, truncate_from=start, entries=new)

    def compact(self) -> Persist:
        held = [entry for entry in self.entries if entry.index <= self.commit]
        if not held:
            return self.append()
        at = self.rng.choice(held)
        self.snapshot = snapshot_at(at.index, at.term)
        keep = self.rng.randint(0, 2)
        self.entries = [entry for entry in self.entries if entry.index > at.index - keep]
        return Persist(snapshot=self.snapshot, compact_to=at.index - keep)

    def restore(self) -> Persist:
        self.hard_state = HardState(term=self.hard_state.term + 1)
        self.snapshot = snapshot_at(self.last + self.rng.randint(1, 5), self.hard_state.term)
        self.entries = []
        self.commit = self.snapshot.index
        return Persist(hard_state=self.hard_state, truncate_from=0, snapshot=self.snapshot, commit=self.commit)
