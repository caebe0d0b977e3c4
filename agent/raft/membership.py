"""Which configuration is in force: the newest in the log, committed or not (Raft §4.1)."""

from __future__ import annotations

from collections.abc import Sequence

from agent.raft.entry import Configuration, Entry, EntryKind
from agent.raft.errors import ConfigurationRefused


def configuration_in(entry: Entry) -> Configuration | None:
    """The configuration in a CONFIG entry; None for others and for the genesis (term 0), whose data is the state
    machine's.

    Raises ValueError when a CONFIG entry can't be read.
    """
    if entry.kind is not EntryKind.CONFIG or entry.term == 0:
        return None
    return Configuration.decode(entry.data)


class Membership:
    """The configurations of a log, oldest first; the first is in force at the log's base, the last, `current`, now.

    Invariant: indices grow, and never is it empty.
    """

    def __init__(self, index: int, configuration: Configuration) -> None:
        self._history: list[tuple[int, Configuration]] = [(index, configuration)]
        self.current = configuration

    @property
    def index(self) -> int:
        """The entry that the current configuration came with."""
        return self._history[-1][0]

    def at(self, index: int) -> Configuration:
        """What is in force once the log reaches `index` (at or after the base)."""
        return next(configuration for start, configuration in reversed(self._history) if start <= index)

    def extend(self, entries: Sequence[Entry]) -> bool:
        """Entries joined the log. Returns whether the configuration is another now."""
        changed = False
        for entry in entries:
            configuration = configuration_in(entry)
            if configuration is not None and entry.index > self.index:
                self._history.append((entry.index, configuration))
                self.current = configuration
                changed = True
        return changed

    def truncate(self, index: int) -> None:
        """Entries from `index` on left the log: their configurations never were."""
        while self.index >= index and len(self._history) > 1:
            self._history.pop()
        self.current = self._history[-1][1]

    def compact(self, index: int) -> None:
        """Nobody asks any more what was in force before `index`."""
        while len(self._history) > 1 and self._history[1][0] <= index:
            del self._history[0]

    def restore(self, index: int, configuration: Configuration) -> None:
        """A snapshot replaced the log."""
        self._history = [(index, configuration)]
        self.current = configuration


def check_change(current: Configuration, wanted: Configuration) -> None:
    """One voter may come or go at a time: then any two majorities meet (Raft §4.1). Learners are free.

    Raises ConfigurationRefused.
    """
    if wanted == current:
        raise ConfigurationRefused("that is the configuration already")
    changed = set(current.voters) ^ set(wanted.voters)
    if len(changed) > 1:
        raise ConfigurationRefused(f"one voter at a time: {', '.join(sorted(changed))} would change")
