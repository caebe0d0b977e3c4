"""Voters that lie: one sends snapshots of another history, every signature in place; one keeps all news to itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from msgspec.structs import replace

from agent.model.types import AgentId
from agent.node.messages import Frame, Ledger, RaftFrame, ReplyFrame, SnapshotNameIs
from agent.node.vouching import name_of
from agent.raft import Snapshot
from agent.raft.messages import InstallSnapshot
from agent.state import decode_snapshot, encode_snapshot
from tests.sim.world import SimAgent, World


@dataclass(slots=True)
class Liar:
    """`agent` lies while `lies`; `told` counts the doctored parts that left."""

    world: World
    agent: SimAgent
    told: int = 0
    lies: bool = True
    _doctored: dict[int, Snapshot] = field(default_factory=dict)

    def begin(self) -> None:
        """Whatever it sends is looked at first."""
        send = self.world.network.send

        def lie(sender: SimAgent, to: AgentId, frame: Frame) -> None:
            send(sender, to, self._lie(frame) if sender is self.agent and self.lies else frame)

        self.world.network.send = lie  # type: ignore[method-assign]  # what is on the wire is the liar's own affair

    def _lie(self, frame: Frame) -> Frame:
        match frame:
            case RaftFrame(message=InstallSnapshot() as chunk) if (data := self._data(chunk.index)) is not None:
                self.told += 1
                piece = data[chunk.offset : chunk.offset + len(chunk.data)]
                return replace(frame, message=replace(chunk, data=piece))
            case ReplyFrame(reply=Ledger(snapshot=part) as ledger) if part and (data := self._data(part.index)):
                self.told += 1
                piece = data[part.offset : part.offset + len(part.data)]
                doctored = replace(part, data=piece, digest=hashlib.sha256(data).hexdigest())
                return replace(frame, reply=replace(ledger, snapshot=doctored))
            case ReplyFrame(reply=SnapshotNameIs(name=name)) if name and (lie := self._newest()) is not None:
                digest = hashlib.sha256(lie.data).hexdigest()
                return replace(
                    frame, reply=SnapshotNameIs(name=name_of(lie.index, lie.term, lie.configuration, digest))
                )
            case _:
                return frame

    def _data(self, index: int) -> bytes | None:
        self._newest()
        found = self._doctored.get(index)
        return found.data if found is not None else None

    def _newest(self) -> Snapshot | None:
        """As long as the true one, so that it can be cut at the same places."""
        snapshot = self.agent.core.context.raft.snapshot if self.agent.core is not None else None
        if snapshot is not None and snapshot.index not in self._doctored:
            state = decode_snapshot(snapshot.data, verify=False)
            chain = hashlib.sha256(state.chain.encode()).hexdigest()
            data = encode_snapshot(replace(state, chain=chain))
            assert len(data) == len(snapshot.data)
            self._doctored[snapshot.index] = replace(snapshot, data=data)
        return self._doctored.get(snapshot.index) if snapshot is not None else None


@dataclass(slots=True)
class Withholder:
    """`agent` tells those that follow it who coordinates, passes everything on, and keeps the ledger's news to itself.

    `kept` counts them.
    """

    world: World
    agent: SimAgent
    kept: int = 0

    def begin(self) -> None:
        """From now on."""
        send = self.world.network.send

        def withhold(sender: SimAgent, to: AgentId, frame: Frame) -> None:
            match frame:
                case ReplyFrame(reply=Ledger(entries=entries, snapshot=snapshot) as news) if entries or snapshot:
                    if sender is self.agent:
                        self.kept += 1
                        frame = replace(frame, reply=replace(news, entries=(), commit=0, snapshot=None))
            send(sender, to, frame)

        self.world.network.send = withhold  # type: ignore[method-assign]  # as above
