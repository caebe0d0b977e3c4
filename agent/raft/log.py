"""The log in memory: what follows a snapshot's base, and how far it is on disk, committed and handed out."""

from __future__ import annotations

from collections.abc import Sequence

from agent.raft.entry import MAX_INDEX, Entry, Snapshot
from agent.raft.errors import Compacted, LogDiverged


def follows(entries: Sequence[Entry], index: int, term: int, max_term: int) -> bool:
    """Whether `entries` continue a log ending in (index, term): no gap, no term going back or beyond `max_term`."""
    for entry in entries:
        index += 1
        if entry.index != index or not term <= entry.term <= max_term:
            return False
        term = entry.term
    return True


class RaftLog:
    """Entries `base_index + 1 … last_index`.

    Invariants: base_index <= commit <= last_index; applied <= commit; base_index <= applied but while a snapshot is
    being loaded; persisted <= handed_out <= last_index, where `persisted` is on disk and `handed_out` has been given to
    the driver for writing. Committed entries never change.
    """

    def __init__(self, *, base_index: int, base_term: int, entries: Sequence[Entry], commit: int, applied: int) -> None:
        """Raises ValueError when `entries` aren't contiguous after the base or an index is outside them."""
        self.base_index = base_index
        self.base_term = base_term
        self._entries: list[Entry] = list(entries)
        if not follows(self._entries, base_index, base_term, MAX_INDEX):
            raise ValueError(f"the log has a gap or goes back in term after index {base_index}")
        if not base_index <= applied <= commit <= self.last_index:
            raise ValueError(
                f"the log needs base {base_index} <= applied {applied} <= commit {commit} <= last {self.last_index}"
            )
        self.commit = commit
        self.applied = applied
        self.persisted = self.last_index
        self._handed_out = self.last_index
        self._writing_through: int | None = None
        self._truncate_from: int | None = None

    @property
    def last_index(self) -> int:
        return self.base_index + len(self._entries)

    @property
    def last_term(self) -> int:
        return self._entries[-1].term if self._entries else self.base_term

    def term_at(self, index: int) -> int | None:
        """The term of the entry at `index`; None when it's compacted away or not there yet."""
        offset = index - self.base_index
        if 0 < offset <= len(self._entries):
            return self._entries[offset - 1].term
        return self.base_term if offset == 0 else None

    def slice(self, first: int, last: int, max_bytes: int, max_entries: int | None = None) -> tuple[Entry, ...]:
        """Entries `first … last` (clipped), at most `max_bytes` of data, but always one if there is one.

        Raises Compacted when `first` is at or before the base.
        """
        if first <= self.base_index:
            raise Compacted(f"entry {first} is compacted; the log begins at {self.base_index + 1}")
        start = first - self.base_index - 1
        end = max(start, min(last, self.last_index) - self.base_index)
        if max_entries is not None:
            end = min(end, start + max_entries)
        size = 0
        for offset in range(start, end):
            size += len(self._entries[offset].data)
            if size > max_bytes and offset > start:
                end = offset
                break
        return tuple(self._entries[start:end])

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log ending there is at least as up-to-date as this one (Raft §5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def last_possible_match(self, index: int, term: int) -> tuple[int, int]:
        """The last (index, term) here with index <= `index`, term <= `term`, or the base: where logs may still agree.

        Both sides skip whole terms with it when logs differ (Raft §5.3, end). Of what is before the base nothing is
        known: (`index`, `term`) themselves.
        """
        if index < self.base_index:
            return index, term
        index = min(index, self.last_index)
        while index > self.base_index:
            at = self._entries[index - self.base_index - 1].term
            if at <= term:
                return index, at
            index -= 1
        return self.base_index, self.base_term

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries that follow directly on the last one."""
        self._entries.extend(entries)

    def merge(self, entries: Sequence[Entry]) -> int | None:
        """Take contiguous `entries` of a leader whose log agrees up to the first one's predecessor (Raft §5.3).

        Entries already there are skipped, so that a late, repeated message truncates nothing. Returns the index from
        which own entries were thrown away, or None. Raises LogDiverged rather than to truncate a committed entry.
        """
        for position, entry in enumerate(entries):
            if entry.index < self.base_index:
                continue
            present = self.term_at(entry.index)
            if present == entry.term:
                continue
            if present is not None:
                self._truncate(entry.index, entry.term)
            self._entries.extend(entries[position:])
            return entry.index if present is not None else None
        return None

    def _truncate(self, index: int, term: int) -> None:
        if index <= self.commit:
            raise LogDiverged(
                f"entry {index} is committed with term {self.term_at(index)}, and a leader has it with term {term}"
            )
        del self._entries[index - self.base_index - 1 :]
        if index <= self._handed_out:
            self._truncate_from = index if self._truncate_from is None else min(index, self._truncate_from)
        self._handed_out = min(self._handed_out, index - 1)
        self.persisted = min(self.persisted, index - 1)
        if self._writing_through is not None:
            # What the disk writes just now is partly outdated: only what wasn't truncated counts when it is done.
            self._writing_through = min(self._writing_through, index - 1)

    def commit_to(self, index: int) -> bool:
        """Move the commit index forward, at most to the last entry. Returns whether it moved."""
        index = min(index, self.last_index)
        if index <= self.commit:
            return False
        self.commit = index
        return True

    def has_unwritten(self) -> bool:
        return self._handed_out < self.base_index + len(self._entries) or self._truncate_from is not None

    def take_unwritten(self) -> tuple[int | None, tuple[Entry, ...]]:
        """(truncate_from, entries) to be written; ends with `written()`. One writing at a time."""
        truncate_from, self._truncate_from = self._truncate_from, None
        entries = tuple(self._entries[self._handed_out - self.base_index :])
        self._handed_out = self._writing_through = self.last_index
        return truncate_from, entries

    def written(self) -> None:
        """What `take_unwritten` gave is on disk now."""
        if self._writing_through is not None:
            self.persisted = max(self.persisted, self._writing_through)
            self._writing_through = None

    def take_committed(self, max_bytes: int) -> tuple[Entry, ...]:
        """The next entries to apply: committed, on this member's disk. None while a snapshot is being loaded."""
        last = min(self.commit, self.persisted)
        if last <= self.applied or self.applied < self.base_index:
            return ()
        return self.slice(self.applied + 1, last, max_bytes)

    def compact(self, index: int) -> None:
        """Forget entries up to `index` (applied; already there: no-op)."""
        if index <= self.base_index:
            return
        assert index <= self.applied, "only what is applied can be compacted"
        term = self.term_at(index)
        assert term is not None
        del self._entries[: index - self.base_index]
        self.base_index, self.base_term = index, term

    def restore(self, index: int, term: int) -> None:
        """Start over after a snapshot: the whole log is replaced by its base (Raft fig. 5.3)."""
        assert index > self.commit, "a snapshot never goes back"
        self._entries.clear()
        self.base_index, self.base_term = index, term
        self.commit = self._handed_out = self.persisted = index
        self._truncate_from = 0
        self._writing_through = None


def open_log(log: Sequence[Entry], snapshot: Snapshot | None, commit: int, applied: int) -> RaftLog:
    """The log as it was stored.

    Entries before the snapshot may have been kept for slow followers; the first of them becomes the base, since the
    term before it isn't known. Raises ValueError when the entries don't reach the snapshot or have a gap.
    """
    if snapshot is None:
        return RaftLog(base_index=0, base_term=0, entries=log, commit=max(commit, applied), applied=applied)
    commit = max(commit, applied, snapshot.index)
    base_index, base_term, entries = snapshot.index, snapshot.term, log
    if log and log[0].index <= snapshot.index:
        base_index, base_term, entries = log[0].index, log[0].term, log[1:]
        if log[-1].index < snapshot.index:
            raise ValueError(f"the log ends at {log[-1].index}, before its snapshot at {snapshot.index}")
    return RaftLog(base_index=base_index, base_term=base_term, entries=entries, commit=commit, applied=applied)
