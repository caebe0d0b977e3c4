"""Hosts of two versions in one world: the earlier one reads no instruction of some acts and can't raise the level to
theirs; each is upgraded at one of its starts.

There is one version of the code, so it is changed for whoever is about to run: what was written before those acts were
there knows neither them nor their level.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import agent.node.coordination
import agent.node.local_host
import agent.node.submissions
from agent.errors import InputError
from agent.instruction import VerifiedInstruction, read_instruction
from agent.model.instruction import Act
from agent.model.types import AgentId
from agent.state import ClusterState
from tests.sim.checks import Violated

EARLIER, LATER = 1, 2
LATER_ACTS: Mapping[Act, int] = {"drain": LATER, "undrain": LATER}
UPGRADED = 0.6  # of the starts of an earlier one
APPLYING = sys.modules["agent.state.apply"]  # `agent.state.apply` names the function
STATE_LEVEL, ACT_LEVELS = APPLYING.STATE_LEVEL, APPLYING.ACT_LEVELS  # as they are written
CHANGED = (APPLYING, agent.node.coordination, agent.node.local_host, agent.node.submissions)


@dataclass(slots=True)
class Versions:
    """`raised_s`: when the ledger's level was first seen higher; None before."""

    rng: random.Random
    raised_s: float | None = None
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


def _read_no_later(*what: Any, **how: Any) -> VerifiedInstruction:
    """As a version did that has never heard of these acts."""
    verified = read_instruction(*what, **how)
    if verified.claims.act in LATER_ACTS:
        raise InputError(f"no act that this version knows: {verified.claims.act}", where="act")
    return verified
