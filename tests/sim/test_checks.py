"""The judge's own eyes, where a world seldom gets them to look."""

from __future__ import annotations

import pytest

from agent.raft import Configuration, Entry, EntryKind, Persist, Snapshot
from tests.sim.checks import Checks, Violated
from tests.sim.disk import SimDisk

GENESIS = Entry(1, 0, EntryKind.NORMAL, b"genesis")
FOUNDERS = Configuration(voters=("a", "b"))


def entries(*terms: int, at: int = 2, data: bytes = b"") -> tuple[Entry, ...]:
    return tuple(Entry(at + number, term, EntryKind.NORMAL, data) for number, term in enumerate(terms))


def write(checks: Checks, name: str, persist: Persist) -> None:
    checks.written(name, checks.disks[name], persist)
    checks.disks[name].write(persist, 0)


@pytest.fixture
def checks() -> Checks:
    made = Checks()
    for name in "ab":
        made.restarted(name, SimDisk(GENESIS, founders=FOUNDERS))
    write(made, "a", Persist(entries=entries(1, 1, 2)))
    return made


def test_the_same_log_in_other_pieces_matches(checks: Checks) -> None:
    write(checks, "b", Persist(entries=entries(1)))
    write(checks, "b", Persist(entries=entries(1, 2, at=3)))
    write(checks, "b", Persist(entries=entries(3, at=4), truncate_from=4))


def test_logs_that_have_an_entry_behind_two_others_do_not_match(checks: Checks) -> None:
    write(checks, "b", Persist(entries=entries(1, 2)))
    with pytest.raises(Violated, match=r"log matching .*entry 4 of term 2"):
        write(checks, "b", Persist(entries=entries(2, at=4)))


def test_two_entries_of_one_index_and_term_do_not_match(checks: Checks) -> None:
    with pytest.raises(Violated, match=r"log matching .*entry 2 of term 1"):
        write(checks, "b", Persist(entries=entries(1, data=b"another")))


def test_a_snapshot_stands_for_what_was_before_it(checks: Checks) -> None:
    snapshot = Snapshot(index=3, term=1, configuration=FOUNDERS, data=b"")
    write(checks, "b", Persist(snapshot=snapshot, truncate_from=1, compact_to=3))
    write(checks, "b", Persist(entries=entries(2, at=4)))
    other = Snapshot(index=3, term=2, configuration=FOUNDERS, data=b"")
    with pytest.raises(Violated, match=r"log matching .*entry 4 of term 2"):
        write(checks, "b", Persist(snapshot=other, truncate_from=1, compact_to=3, entries=entries(2, at=4)))
