"""Carries out what consensus has ready, in its order: send, store, apply, and tell the parts that it concerns."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from agent.node import auditing
from agent.node.consensus import Consensus
from agent.node.context import Context
from agent.node.coordination import Coordination
from agent.node.disk import Disk
from agent.node.instant import Instant
from agent.node.local_host import LocalHost
from agent.node.machine import Machine
from agent.node.membership import Membership
from agent.node.messages import RaftFrame
from agent.node.submissions import Submissions
from agent.node.vouching import Vouching
from agent.raft import Configuration, Envelope, Ready
from agent.state import Applied


class Readies(Struct):
    """One `Ready` after the other (agent.raft). `configuration`: the one in force, as the other parts were told it."""

    context: Context
    machine: Machine
    disk: Disk
    consensus: Consensus
    vouching: Vouching
    submissions: Submissions
    host: LocalHost
    coordination: Coordination
    membership: Membership
    configuration: Configuration

    def drain(self, when: Instant) -> bool:
        """Carry out what there is, up to one that needs the disk. Whether there was anything."""
        context, disk = self.context, self.disk
        moved = False
        while disk.ready is None and (ready := context.raft.take_ready()) is not None:
            moved = True
            self._send(ready.send_now)
            if ready.soft is not None:
                context.stirred = True
                if ready.soft.configuration != self.configuration:
                    self.configuration = ready.soft.configuration
                    self.membership.changed(when)
            if ready.persist is None:
                self._finish(ready, when)
            else:
                disk.store(ready, ready.persist, self.machine.verified_through)
        return moved

    def stored(self, when: Instant) -> None:
        """What the open one had to have on disk is there."""
        self._finish(self.disk.stored(), when)

    def _finish(self, ready: Ready, when: Instant) -> None:
        context, machine = self.context, self.machine
        context.stirred |= ready.has_news
        self._send(ready.send_after_persist)
        if ready.offered is not None:
            self.vouching.judge("leader", ready.offered, self.consensus.judged, when)
        if ready.restore is not None:
            machine.restore(ready.restore)
            self.vouching.installed(ready.restore)
            context.state = machine.state
            self.membership.changed(when)
            self.host.ledger_moved()
        for entry in ready.committed:
            before = machine.state.chain
            applied = machine.apply(entry)
            context.state = machine.state
            if applied is not None:
                auditing.keep(context, entry, before, applied)
                self._applied(applied, when)
        for read in ready.reads:
            self.submissions.confirmed(read)
        context.raft.advance(ready, when.mono)
        for taken in machine.take_taken():
            self.vouching.took(taken.index, taken.digest)
        machine.compact(context.raft)

    def _send(self, envelopes: Iterable[Envelope]) -> None:
        context = self.context
        for envelope in envelopes:
            if envelope.to in context.peers:
                context.send(envelope.to, RaftFrame(message=envelope.message))

    def _applied(self, applied: Applied, when: Instant) -> None:
        if applied.result is not None:
            self.submissions.applied(applied.result)
        if applied.members:
            self.membership.changed(when)
        if applied.assigned or applied.released or applied.stacks or applied.members:
            self.host.ledger_moved()
        self.coordination.applied(applied, when)
