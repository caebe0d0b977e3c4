"""Which agents should be voters: one change at a time, never one that could lose the majority (ARCHITECTURE.md
"Membership and links").

Target: 5 voters with at least 5 healthy agents, else 3 with at least 3, else as it is. The dead leave first; one is
promoted only when nobody that counts is missing. Pure; coordinator only; one change in flight is the caller's to keep.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct

from agent.model.types import AgentId
from agent.raft import Configuration

DEAD_S = 30.0  # a reboot takes less; a voter that returns in time costs no change at all
HEALTHY_S = 10.0  # so that an agent that flaps never becomes a voter
TARGETS = (5, 3)  # each needs as many healthy agents; even numbers tolerate no more than the odd one below


class AgentHealth(Struct, frozen=True, kw_only=True):
    """What the coordinator knows of an agent. `active`: it answered us just now (within an election timeout).

    `active_s` and `silent_s`: for how many seconds that has been so without a break; `caught_up`: it has (nearly)
    everything that we committed.
    """

    active: bool
    active_s: float = 0.0
    silent_s: float = 0.0
    caught_up: bool = False


class VoterChange(Struct, frozen=True, kw_only=True):
    """The configuration to propose, and the sentence for the log."""

    configuration: Configuration
    why: str


_UNHEARD = AgentHealth(active=False)


def next_change(
    configuration: Configuration,
    members: Collection[AgentId],
    health: Mapping[AgentId, AgentHealth],
    coordinator: AgentId,
) -> VoterChange | None:
    """The one change to make now, or None. `members` are those of the ledger, `coordinator` is us.

    Guaranteed: the result differs by one agent, and a majority of its voters was active just now. We never remove
    ourselves: an expelled coordinator hands its leadership over first.
    """
    return _Autopilot(configuration, members, health, coordinator).next()


def successor(
    configuration: Configuration,
    drained: Collection[AgentId],
    health: Mapping[AgentId, AgentHealth],
    coordinator: AgentId,
) -> AgentId | None:
    """To whom a drained coordinator (us) hands over: a caught-up voter that isn't drained. None: nobody, or no need."""
    if coordinator not in drained:
        return None
    able = (voter for voter in configuration.voters if voter != coordinator and voter not in drained)
    return next((v for v in able if (it := health.get(v, _UNHEARD)).active and it.caught_up), None)


class _Autopilot:
    def __init__(
        self,
        configuration: Configuration,
        members: Collection[AgentId],
        health: Mapping[AgentId, AgentHealth],
        coordinator: AgentId,
    ) -> None:
        self._voters = configuration.voters
        self._learners = configuration.learners
        self._members = frozenset(members)
        self._health = health
        self._coordinator = coordinator

    def next(self) -> VoterChange | None:
        change = self._drop_learner() or self._drop_voter() or self._grow() or self._shrink()
        if change is None:
            return None
        voters = change.configuration.voters
        active = sum(1 for voter in voters if self._active(voter))
        return change if active > len(voters) // 2 else None

    def _drop_learner(self) -> VoterChange | None:
        for learner in self._learners:
            needed = len(self._voters) < self._target()
            if learner not in self._members or not self._active(learner) or not needed:
                rest = [other for other in self._learners if other != learner]
                return self._change(self._voters, rest, f"{learner} no longer is to become a voter")
        return None

    def _drop_voter(self) -> VoterChange | None:
        for voter in self._voters:
            expelled = voter not in self._members
            if voter != self._coordinator and len(self._voters) > 1 and (expelled or self._dead(voter)):
                why = f"{voter} was expelled" if expelled else f"{voter} has been silent for {DEAD_S:.0f} s"
                return self._change([other for other in self._voters if other != voter], self._learners, why)
        return None

    def _grow(self) -> VoterChange | None:
        """Towards the target, from one odd number to the next only with both candidates at hand."""
        if len(self._voters) >= self._target() or not all(self._active(voter) for voter in self._voters):
            return None
        ready = [agent for agent in self._candidates() if self._ready(agent)]
        if len(ready) < (2 if len(self._voters) % 2 else 1):
            return None
        for learner in self._learners:
            if learner in ready:
                rest = [other for other in self._learners if other != learner]
                return self._change([*self._voters, learner], rest, f"{learner} is caught up")
        if self._learners:
            return None
        return self._change(self._voters, [ready[0]], f"{ready[0]} is to become a voter")

    def _shrink(self) -> VoterChange | None:
        """Down to the target when agents are gone for good: fewer voters answer sooner and can heal further."""
        if len(self._voters) <= self._target() or not all(self._active(voter) for voter in self._voters):
            return None
        voter = next(other for other in reversed(self._voters) if other != self._coordinator)
        rest = [other for other in self._voters if other != voter]
        return self._change(rest, self._learners, f"{len(rest)} voters are enough for {self._healthy()} agents")

    def _target(self) -> int:
        """An odd number, or as many as there are. A voter that is silent but not dead yet still counts: it mostly
        returns.
        """
        healthy = self._healthy()
        return next((target for target in TARGETS if healthy >= target), len(self._voters))

    def _healthy(self) -> int:
        voters = sum(1 for voter in self._voters if voter in self._members and not self._dead(voter))
        return voters + sum(1 for agent in self._candidates() if self._steady(agent))

    def _candidates(self) -> list[AgentId]:
        return sorted(self._members - set(self._voters))

    def _of(self, agent: AgentId) -> AgentHealth:
        return self._health.get(agent, _UNHEARD)

    def _active(self, agent: AgentId) -> bool:
        return agent == self._coordinator or self._of(agent).active

    def _dead(self, agent: AgentId) -> bool:
        return not self._active(agent) and self._of(agent).silent_s >= DEAD_S

    def _steady(self, agent: AgentId) -> bool:
        return self._active(agent) and self._of(agent).active_s >= HEALTHY_S

    def _ready(self, agent: AgentId) -> bool:
        return self._steady(agent) and self._of(agent).caught_up

    @staticmethod
    def _change(voters: Collection[AgentId], learners: Collection[AgentId], why: str) -> VoterChange:
        return VoterChange(configuration=Configuration.of(list(voters), list(learners)), why=why)
