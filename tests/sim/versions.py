"""Hosts of two versions in one world: the earlier one reads no instruction of some acts and can't raise the level to
theirs; each is upgraded at one of its starts. Apart from that each start is of either of the two newest versions of the
frames (agent.node.versions), forth and back: what is sent over a link has to be known at both its ends.

There is one version of the code, so it is changed for whoever is about to run: what was written before those acts were
there knows neither them nor their level.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import msgspec
from msgspec import Struct

import agent.node.coordination
import agent.node.local_host
import agent.node.submissions
from agent.errors import InputError
from agent.instruction import VerifiedInstruction, read_instruction, sign_report
from agent.model.instruction import Act
from agent.model.report import HostReport
from agent.model.types import AgentId
from agent.node.messages import Frame, ReportFrame
from agent.node.versions import FRAME_VERSION
from agent.state import ClusterState
from tests.net.shapes import classes_in, fields_later_than, version_of
from tests.sim.checks import Violated

UPGRADED = 0.6  # of the starts of an earlier one
APPLYING = sys.modules["agent.state.apply"]  # `agent.state.apply` names the function
STATE_LEVEL, ACT_LEVELS = APPLYING.STATE_LEVEL, APPLYING.ACT_LEVELS  # as they are written
EARLIER, LATER = 1, STATE_LEVEL
LATER_ACTS: Mapping[Act, int] = {"drain": LATER, "undrain": LATER}
LATER_FIELDS = fields_later_than(FRAME_VERSION - 1)
CHANGED = (APPLYING, agent.node.coordination, agent.node.local_host, agent.node.submissions)


@dataclass(slots=True)
class Versions:
    """`raised_s`: when the ledger's level was first seen higher; None before. `spoken`: how many frames were sent in
    each version of them. `sign`: by an agent's own key.
    """

    rng: random.Random
    frames_rng: random.Random
    sign: Callable[[AgentId, bytes], bytes]
    raised_s: float | None = None
    spoken: Counter[int] = field(default_factory=Counter)
    _frames: dict[AgentId, int] = field(default_factory=dict)
    _levels: dict[AgentId, int] = field(default_factory=dict)
    _running: int | None = None

    def starts(self, agent: AgentId, *, founder: bool) -> None:
        """Once upgraded, for ever: who comes later is installed as of today."""
        level = self._levels.get(agent)
        if level is None:
            level = self.rng.choice([EARLIER, EARLIER, LATER]) if founder else LATER
        elif level == EARLIER and self.rng.random() < UPGRADED:
            level = LATER
        self._levels[agent] = level
        self._frames[agent] = self.frames_rng.choice([FRAME_VERSION - 1, FRAME_VERSION])

    def frames(self, one: AgentId, other: AgentId) -> int:
        """The version that a link of these two speaks."""
        return min(self._frames[one], self._frames[other])

    def on_the_wire(self, sender: AgentId, to: AgentId, frame: Frame) -> Frame:
        """As it arrives: what a version didn't know isn't there."""
        version = self.frames(sender, to)
        self.spoken[version] += 1
        if version_of(frame) > version:
            raise Violated(f"{sender} sends {to} a frame that version {version} doesn't know: {frame}")
        if version == FRAME_VERSION:
            return frame
        if isinstance(frame, ReportFrame) and frame.host == sender and self._frames[sender] < FRAME_VERSION:
            return self._told_earlier(frame)
        told: Frame = _without(frame)
        return told

    def _told_earlier(self, frame: ReportFrame) -> ReportFrame:
        """A report as that version of its host makes it; whoever passes it on doesn't change it."""
        if HostReport not in LATER_FIELDS:
            return frame
        report: HostReport = _without(msgspec.msgpack.decode(frame.report, type=HostReport))
        data = msgspec.msgpack.encode(report)
        audience = "simulatedcluster.1"
        signature = sign_report(partial(self.sign, frame.host), audience=audience, term=frame.term, report=data)
        return msgspec.structs.replace(frame, report=data, signature=signature)

    def run_as(self, agent: AgentId) -> None:
        """From now on the code is that of `agent`'s version."""
        level = self._levels[agent]
        if level != self._running:
            if level == LATER:
                self._become(LATER, LATER_ACTS, read_instruction)
            else:
                self._become(EARLIER, {}, _read_no_later)
            self._running = level

    def leave(self) -> None:
        """As it is written."""
        self._become(STATE_LEVEL, ACT_LEVELS, read_instruction)
        self._running = None

    def _become(self, level: int, acts: Mapping[Act, int], reads: Callable[..., VerifiedInstruction]) -> None:
        version = {"STATE_LEVEL": level, "ACT_LEVELS": acts, "read_instruction": reads}
        for module in CHANGED:
            for name, value in version.items():
                if hasattr(module, name):
                    setattr(module, name, value)

    def must_be_known(self, name: str, state: ClusterState, now: float) -> None:
        """The ledger goes to no level that one of its members doesn't know."""
        if state.level > EARLIER:
            self.raised_s = now if self.raised_s is None else self.raised_s
            behind = [member for member in state.members if self._levels.get(member, LATER) < state.level]
            if behind:
                raise Violated(f"{name} is at level {state.level}, which {', '.join(behind)} can't apply")


@cache
def _holds_later(kind: type[Struct]) -> bool:
    """Whether the earlier version lacks a field of it, or of what may be in it."""
    return not LATER_FIELDS.keys().isdisjoint(classes_in(kind).values())


def _without(what: Any) -> Any:
    """The same without fields that the earlier version lacks, which have their defaults then."""
    if isinstance(what, tuple):
        return tuple([_without(one) for one in what])
    if not isinstance(what, Struct) or not _holds_later(type(what)):
        return what
    unknown, fields = LATER_FIELDS.get(type(what), set()), what.__struct_fields__
    return type(what)(**{name: _without(getattr(what, name)) for name in fields if name not in unknown})


def _read_no_later(*what: Any, **how: Any) -> VerifiedInstruction:
    """As a version did that has never heard of these acts."""
    verified = read_instruction(*what, **how)
    if verified.claims.act in LATER_ACTS:
        raise InputError(f"no act that this version knows: {verified.claims.act}", where="act")
    return verified
