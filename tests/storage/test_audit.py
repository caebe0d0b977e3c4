"""The ledger's past in segments: it survives crashes, nobody alters it unseen, and it doesn't grow without end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.errors import StorageError
from agent.model.audit import AuditGap, AuditPage, AuditProof
from agent.node.effects import Audit
from agent.state import link
from agent.storage.audit import MAX_AGE_MS, AuditLog
from agent.storage.audit_reading import page, prove
from tests.support.ledger import CLUSTER, Ledger, stack

NONE = "0" * 64


def history(count: int, *, first: int = 2, chain: str = NONE, size: int = 10, at: int = 1000) -> list[Audit]:
    """Entries that follow on each other; every third index is consensus' own, and not among them."""
    entries = []
    for index in range(first, first + count):
        if index % 3 == 0:
            continue
        data = b"%d" % index + bytes(size)
        entries.append(Audit(index=index, data=data, before=chain, at=at + index))
        chain = link(chain, index, data)
    return entries


def end_of(entries: list[Audit]) -> str:
    return link(entries[-1].before, entries[-1].index, entries[-1].data)


def opened(directory: Path, **bounds: int) -> AuditLog:
    return AuditLog.open(directory, CLUSTER, **bounds)


def kept(directory: Path, entries: Iterable[Audit], **bounds: int) -> AuditLog:
    log = opened(directory, **bounds)
    for entry in entries:
        log.append(entry)
    asyncio.run(log.flush())
    return log


def proof_of(log: AuditLog, at: int | None = None) -> AuditProof:
    return prove(log, "n1", voter=True, at=at)


def test_what_was_kept_links_up_to_the_ledgers_own_chain(tmp_path: Path) -> None:
    entries = history(50)
    found = proof_of(kept(tmp_path, entries))
    assert (found.first, found.last, found.entries) == (2, entries[-1].index, len(entries))
    assert found.chain == end_of(entries)
    assert (found.broken, found.gaps) == ("", ())


def test_the_chain_is_told_up_to_any_entry_so_that_hosts_can_be_compared(tmp_path: Path) -> None:
    entries = history(50)
    log = kept(tmp_path, entries, segment_bytes=200)
    assert len(log.paths()) > 3
    for at in (2, 3, 20, 51):
        behind = [entry for entry in entries if entry.index <= at]
        assert (proof_of(log, at)).chain == end_of(behind)


@pytest.mark.parametrize("again", [0, 3, 40])
def test_what_is_applied_again_after_a_restart_is_kept_once(tmp_path: Path, again: int) -> None:
    entries = history(50)
    kept(tmp_path, entries[:30])
    found = proof_of(kept(tmp_path, entries[max(0, 30 - again) :]))
    assert (found.entries, found.chain, found.gaps) == (len(entries), end_of(entries), ())


def test_a_crash_in_the_middle_of_a_record_costs_that_record_alone(tmp_path: Path) -> None:
    entries = history(30)
    (path,) = (kept(tmp_path, entries)).paths()

    def cut() -> None:
        os.truncate(path, path.stat().st_size - 7)

    cut()
    found = proof_of(kept(tmp_path, entries))
    assert (found.entries, found.chain, found.broken) == (len(entries), end_of(entries), "")


@given(st.data())
def test_a_byte_that_was_changed_anywhere_is_seen(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Changed, the rest is cut off as a crash's would be; then the end isn't the ledger's any more."""
    directory = tmp_path_factory.mktemp("past")
    entries = history(30)
    (path,) = kept(directory, entries).paths()
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    found = prove(AuditLog(directory / "audit", CLUSTER), "n1", voter=True, at=None)
    assert found.broken or found.chain != end_of(entries)


def test_damage_inside_is_left_for_whoever_wants_to_know_and_told_for_ever(tmp_path: Path) -> None:
    """No crash does that. What the ledger still has goes into a segment of its own."""
    entries = history(30)
    (path,) = kept(tmp_path, entries[:15]).paths()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    log = kept(tmp_path, entries)
    found = proof_of(log)
    assert path.read_bytes() == content
    assert found.chain == end_of(entries)
    assert "damaged" in found.broken


def test_a_segment_that_somebody_wrote_anew_does_not_fit_the_next(tmp_path: Path) -> None:
    entries = history(50)
    log = kept(tmp_path, entries, segment_bytes=200)
    paths = log.paths()
    forged = [Audit(index=entries[0].index, data=b"forged", before=NONE, at=1), *entries[1:]]
    other = kept(tmp_path / "other", forged, segment_bytes=200)
    paths[0].write_bytes(other.paths()[0].read_bytes())
    found = proof_of(log)
    assert found.broken or found.gaps


def test_a_segment_that_is_missing_is_told_as_a_gap(tmp_path: Path) -> None:
    entries = history(80)
    log = kept(tmp_path, entries, segment_bytes=200)
    log.paths()[2].unlink()
    found = proof_of(log)
    assert len(found.gaps) == 1
    assert found.chain == end_of(entries)


def test_who_did_not_vote_for_a_while_has_a_gap_and_goes_on(tmp_path: Path) -> None:
    entries = history(80)
    early, late = entries[:10], entries[40:]
    found = proof_of(kept(tmp_path, [*early, *late]))
    assert found.gaps == (AuditGap(after=early[-1].index, through=late[0].index - 1),)
    assert (found.chain, found.broken) == (end_of(entries), "")


def test_another_history_goes_into_a_segment_of_its_own(tmp_path: Path) -> None:
    """An epoch began on another host, and what was applied here last never was."""
    entries = history(30)
    log = kept(tmp_path, entries)
    other = history(20, first=entries[-1].index + 2, chain="f" * 64)
    for entry in other:
        log.append(entry)
    asyncio.run(log.flush())
    assert (proof_of(log)).chain == end_of(other)


def test_the_oldest_segments_go_when_there_are_too_many_bytes(tmp_path: Path) -> None:
    entries = history(300, size=100)
    log = kept(tmp_path, entries, segment_bytes=1_000, kept_bytes=5_000)
    assert sum(path.stat().st_size for path in log.paths()) <= 5_000 + 1_000
    found = proof_of(log)
    assert found.first > 2
    assert (found.chain, found.gaps, found.broken) == (end_of(entries), (), "")


def test_and_when_they_are_over_a_year_old(tmp_path: Path) -> None:
    old = history(30)
    new = history(30, first=old[-1].index + 1, chain=end_of(old), at=2 * MAX_AGE_MS)
    newest = history(3, first=new[-1].index + 1, chain=end_of(new), at=2 * MAX_AGE_MS)
    kept(tmp_path, old, segment_bytes=100)
    log = kept(tmp_path, [*new, *newest], segment_bytes=100)
    found = proof_of(log)
    assert found.first > old[-5].index, "but for the one that ends where the new ones begin"
    assert (found.chain, found.gaps, found.broken) == (end_of(newest), (), "")


def test_a_full_disk_stops_with_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    log = kept(tmp_path, history(5))
    log.directory = tmp_path / "gone"  # where nothing can be made, as on a full disk
    log._tail = None
    log.append(Audit(index=90, data=b"x", before=NONE, at=1))
    with pytest.raises(StorageError) as failed:
        asyncio.run(log.flush())
    assert "df" in failed.value.fix


def test_segments_are_private(tmp_path: Path) -> None:
    (path,) = (kept(tmp_path, history(5))).paths()
    assert path.stat().st_mode & 0o777 == 0o600


# Who changed what


def changes(*names: str) -> list[Audit]:
    """A real ledger's entries: these stacks deployed, and one of them in vain."""
    ledger, entries = Ledger(), []
    for name in names:
        before = ledger.state.chain
        answer = ledger.deploy(stack(name), rev=1)
        data = ledger.entries[-1]
        entries.append(
            Audit(index=answer.index, data=data, before=before, at=answer.at, outcome=answer.outcome, what=answer.what)
        )
    return entries


def read(log: AuditLog, entries: list[Audit], *, after: int = 0, limit: int = 10, only: str | None = None) -> AuditPage:
    """A page, where the ledger ends with the entries."""
    return page(
        log,
        "n1",
        after=after,
        limit=limit,
        shows=lambda target: only in (None, target),
        born=Ledger().state.chain,
        now=(entries[-1].index, end_of(entries)),
    )


def test_the_log_says_who_changed_what_and_what_came_of_it(tmp_path: Path) -> None:
    entries = changes("shop", "blog", "shop")
    found = read(kept(tmp_path, entries), entries)
    told = [(line.by, line.act, line.target, line.revision, line.outcome) for line in found.lines]
    assert told == [
        ("ann", "deploy", "stack:shop", 1, "applied"),
        ("ann", "deploy", "stack:blog", 1, "applied"),
        ("ann", "deploy", "stack:shop", 1, "conflict"),
    ]
    assert found.more is None


@example(lost=set(range(9)), limit=1)  # a host that never voted
@given(lost=st.sets(st.integers(0, 8)), limit=st.integers(1, 9))
def test_pages_tell_once_what_is_missing_among_them(
    tmp_path_factory: pytest.TempPathFactory, lost: set[int], limit: int
) -> None:
    """In segments of an entry each, of which some are gone."""
    entries = changes(*"abcdefghi")
    kept_ones = [entry for place, entry in enumerate(entries) if place not in lost]
    log = kept(tmp_path_factory.mktemp("past"), kept_ones, segment_bytes=1)
    lines, gaps, after = [], [], 0
    while True:
        found = read(log, entries, after=after, limit=limit)
        assert len(found.lines) <= limit
        lines += [line.index for line in found.lines]
        gaps += [index for gap in found.gaps for index in range(gap.after + 1, gap.through + 1)]
        if found.more is None:
            break
        after = found.more
    assert lines == [entry.index for entry in kept_ones]
    assert gaps == [entry.index for place, entry in enumerate(entries) if place in lost]


def test_a_page_tells_only_of_what_is_missing_behind_its_beginning(tmp_path: Path) -> None:
    """As where the page before came from another voter, or segments went meanwhile."""
    entries = changes(*"abcd")
    log = kept(tmp_path, entries[3:])
    found = read(log, entries, after=entries[1].index)
    assert found.gaps == (AuditGap(after=entries[1].index, through=entries[2].index),)


def test_it_comes_in_pages_and_for_one_target(tmp_path: Path) -> None:
    entries = changes("a", "b", "c", "a")
    log = kept(tmp_path, entries, segment_bytes=100)
    first = read(log, entries, limit=2)
    assert [line.target for line in first.lines] == ["stack:a", "stack:b"]
    assert first.more is not None
    rest = read(log, entries, after=first.more, limit=2)
    assert [line.target for line in rest.lines] == ["stack:c", "stack:a"]
    assert rest.more is None
    assert len(read(log, entries, only="stack:a").lines) == 2
