"""From the core to the driver and back: one Ready in flight, and the consequences of its end."""

from __future__ import annotations

from agent.raft.entry import HardState
from agent.raft.ready import Persist, Ready, SoftState
from agent.raft.state import Outbox, RaftState


class Handover:
    """Builds Readys from the state and the outbox; knows what the driver was already given."""

    def __init__(self, state: RaftState) -> None:
        self._state = state
        self._in_flight: Ready | None = None
        self._hard_state = state.hard_state
        self._soft = self._soft_state()

    @property
    def busy(self) -> bool:
        """Whether a Ready is taken and not done."""
        return self._in_flight is not None

    def _soft_state(self) -> SoftState:
        state = self._state
        return SoftState(role=state.role, leader=state.leader, term=state.term, configuration=state.configuration)

    def is_empty(self) -> bool:
        """Whether a Ready taken now would say nothing."""
        state, told = self._state, self._soft
        log, outbox = state.log, state.outbox
        configuration = state.membership.current
        # Asked after every input: compared field by field, since making a `HardState` and a `SoftState` costs more.
        return not (
            outbox.now
            or outbox.after_persist
            or outbox.reads
            or outbox.snapshot is not None
            or outbox.offered is not None
            or log.has_unwritten()
            or log.commit > log.applied < log.persisted
            or state.term != self._hard_state.term
            or state.vote != self._hard_state.vote
            or state.leader != told.leader
            or state.role is not told.role
            or state.term != told.term
            or (configuration is not told.configuration and configuration != told.configuration)
        )

    def take(self) -> Ready:
        """The next Ready; it is in flight until `done`."""
        assert self._in_flight is None, "one Ready in flight at most"
        state, outbox = self._state, self._state.outbox
        state.outbox = Outbox()
        soft = self._soft_state()
        ready = Ready(
            send_now=tuple(outbox.now),
            persist=self._persist(outbox),
            send_after_persist=tuple(outbox.after_persist),
            restore=outbox.restore,
            committed=state.log.take_committed(state.limits.committed_bytes),
            reads=tuple(outbox.reads),
            offered=outbox.offered,
            soft=soft if soft != self._soft else None,
        )
        self._soft = soft
        self._in_flight = ready
        return ready

    def _persist(self, outbox: Outbox) -> Persist | None:
        log, hard_state = self._state.log, self._state.hard_state
        changed: HardState | None = hard_state if hard_state != self._hard_state else None
        self._hard_state = hard_state
        if changed is None and outbox.snapshot is None and not log.has_unwritten():
            return None
        truncate_from, entries = log.take_unwritten()
        return Persist(
            hard_state=changed,
            truncate_from=truncate_from,
            entries=entries,
            snapshot=outbox.snapshot,
            compact_to=outbox.compact_to,
            commit=log.commit,
        )

    def done(self, ready: Ready) -> None:
        """`ready` is persisted, sent and applied."""
        assert ready is self._in_flight, "a Ready is done once, after it was taken"
        self._in_flight = None
        state = self._state
        if ready.persist is not None:
            state.log.written()
            if ready.persist.hard_state is not None:
                state.persisted_hard_state = ready.persist.hard_state
        if ready.restore is not None:
            state.log.applied = max(state.log.applied, ready.restore.index)
        if ready.committed:
            state.log.applied = max(state.log.applied, ready.committed[-1].index)
