"""The coordinator's duties: gather soft state, decide what the ledger needs next, tell what happens.

Every agent has one; it works only while this agent leads. What it decides is pure (agent.control); here is when.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import msgspec

from agent.control import (
    AgentHealth,
    ClusterFacts,
    Decision,
    HostFacts,
    Sighting,
    Watch,
    cluster_facts,
    decide,
    next_change,
    streams,
    successor,
)
from agent.control.attention import TOGETHER_S_PER_HOST, Attention
from agent.control.levels import next_level
from agent.model.ledger import LevelEntry, encode_entry
from agent.model.report import HostReport
from agent.model.types import AgentId, Label, Millis
from agent.node.asking import Asking
from agent.node.chronicle import Chronicle
from agent.node.clock import UNHEARD_S
from agent.node.context import Context
from agent.node.instant import Instant
from agent.node.local_host import REPORT_EVERY_S
from agent.node.telling import Allowance, tell_applied, tell_host, tell_registered, tell_replicas
from agent.node.trail import Trail
from agent.node.vitals import Vitals
from agent.raft import ConfigurationRefused, NotLeader, ProposalDropped, TransferRefused
from agent.state import STATE_LEVEL, Applied
from agent.swim import MemberChanged

LOOK_EVERY_S = 1.0  # deadlines of rollouts and graces are seconds long
UNREPORTED_S = 3 * REPORT_EVERY_S  # two may be lost; then it is asked for a link of ours
BEHIND_S = 20.0  # a voter that is well feeds its followers within milliseconds, and a snapshot within seconds
RETRY_S = 0.1  # after the log took nothing in; what it applies meanwhile is looked at once more at once
HAND_OVER_EVERY_S = 10.0  # nothing is taken into the ledger during a try, so that one that fails must be rare


class Coordination:
    """Invariant: nothing is decided while a decision of ours isn't applied yet (`_decided_through`)."""

    def __init__(self, context: Context, chronicle: Chronicle) -> None:
        self.context, self.chronicle = context, chronicle
        self.reports: dict[AgentId, HostReport] = {}
        self.heard_ms: dict[AgentId, int] = {}
        self._heard_at: dict[AgentId, float] = {}
        self._since: Instant | None = None
        self._decided_through = 0
        self._attention = Attention()
        self._decision = Decision()
        self._facts: ClusterFacts | None = None
        self._look_at = float("inf")
        self._together_until = self._pumped_at = self._handed_at = float("-inf")
        self._allowances: dict[AgentId, Allowance] = {}
        self._trail = Trail()
        self._vitals = Vitals(context)
        self.asking = Asking(context)

    def report(self, report: HostReport, via: AgentId, when: Instant) -> None:
        """A host's soft state, over the link with `via`. A late one is older than what we know."""
        if not self.context.raft.is_leader:
            return
        known = self.reports.get(report.host)
        if known is not None and self._is_late(known, report, via, when):
            return
        self.reports[report.host], self.asking.ways[report.host] = report, via
        self.heard_ms[report.host], self._heard_at[report.host] = when.wall_ms, when.mono
        self.context.clock.heard(report.host, report.at, when)
        voter = report.host in self.context.raft.configuration.voters
        self._attention.reported(known, report, self._waiting(), voter=voter)
        if self._facts is not None and report.host in self._facts.hosts:
            was = self._facts.hosts[report.host]
            self._facts.hosts[report.host] = msgspec.structs.replace(was, report=report, awaited=False)
        allowance = self._allowances.setdefault(report.host, Allowance(when.mono))
        tell_replicas(self.chronicle, self.context, known, report, allowance, when)
        tell_registered(self.chronicle, self.context, known, report, self.asking.told(report.host), when)

    def _waiting(self) -> dict[Label, int]:
        """The stacks that wait for hosts, and the entry that moved each last."""
        stacks = self.context.state.stacks
        return {name: stacks[name].moved_index for name in self._decision.waiting if name in stacks}

    def _is_late(self, known: HostReport, report: HostReport, via: AgentId, when: Instant) -> bool:
        """Whether a report is older than what we know.

        A life with an earlier number is newer if its host says so itself, or isn't heard otherwise: its disk went back
        (agent.node.lives). If it was relayed, it may as well be an earlier report that was held back.
        """
        if known.boot == report.boot:
            return known.sequence >= report.sequence
        passed_on = report.boot < known.boot and via != report.host
        return passed_on and when.mono < self._heard_at[report.host] + UNREPORTED_S

    def member_changed(self, change: MemberChanged, when: Instant) -> None:
        """SWIM sees a host differently now: advice."""
        if self.context.raft.is_leader:
            self._attention.hosts = True
            tell_host(self.chronicle, self.context, change, when)

    def applied(self, applied: Applied, when: Instant) -> None:
        """The ledger moved on."""
        if self.context.raft.is_leader:
            self._attention.applied(applied)
            tell_applied(self.chronicle, self.context, applied, when)

    def pump(self, when: Instant) -> None:
        """Decide, if we lead, something changed, and our last decision is in."""
        self._pumped_at = when.mono
        if not self.context.raft.is_leader:
            if self._since is not None:
                self._resign()
            return
        if self._since is None:
            self._since, self._look_at = when, when.mono + UNHEARD_S
            self.context.clock.begin(when)
            self._attention.everything = self._attention.urgent = True
        self._trail.note(self.context.state.index, when.mono)
        attention = self._attention
        wanted = attention.urgent or (attention.is_wanted and when.mono >= self._together_until)
        if not wanted and when.mono < self._look_at:
            return
        if self.context.may_stamp(when) and self.context.state.index >= self._decided_through:
            self._decide(when)

    def deadline(self) -> float:
        """When `pump` is next wanted without other cause; a decision that is on its way is one when it is in."""
        due = self._look_at if self._look_at > self._pumped_at else float("inf")
        if self._pumped_at < self._together_until < due and self._attention.is_wanted:
            return self._together_until
        return due

    def watch(self, when: Instant) -> Watch:
        """What this agent has seen and heard of the hosts, whether or not it leads."""
        since = self._since or when
        sightings = {
            member: Sighting(state=view.state.value, since=view.since)
            for member, view in self.context.swim.members().items()
        }
        return Watch(
            coordinator=self.context.id,
            since=since.mono,
            since_ms=self.context.ledger_ms(self.context.clock_ms(when)) - int((when.mono - since.mono) * 1000),
            linked=frozenset(self.context.peers),
            swim=sightings,
            reports=self.reports,
            heard=self._heard_at,
        )

    def facts(self, when: Instant) -> ClusterFacts:
        """The hosts as this agent knows them now."""
        voters = self.context.raft.configuration.voters
        state = self.context.state
        return cluster_facts(state.members, voters, self.watch(when), when.mono, drained=state.drained)

    def reached(self, when: Instant) -> frozenset[AgentId]:
        """The hosts that have a link with a voter that relays their reports to us, and the ledger to them."""
        since = self._since.mono if self._since is not None else when.mono
        heard = {host for host in self.streams() if when.mono < self._heard_at.get(host, since) + UNREPORTED_S}
        served = {host for host in heard if not self._stays_behind(host)}
        return frozenset(served | self.context.peers.keys() | {self.context.id})

    def _stays_behind(self, host: AgentId) -> bool:
        """Whether a host gets old news of the ledger from its voter; False if that host's version doesn't say."""
        report, voters = self.reports.get(host), self.context.raft.configuration.voters
        if report is None or not report.index or host in voters:
            return False
        return report.index < self._trail.index_at(self._heard_at[host] - BEHIND_S)

    def streams(self) -> frozenset[AgentId]:
        """The hosts that have a link with a voter: observers are linked with one of the voters, mostly not with us."""
        context = self.context
        return streams(context.id, context.peers.keys(), context.raft.configuration.voters, self.reports)

    def _resign(self) -> None:
        """Soft state belongs to one coordinator's time: hosts tell the next one again."""
        self.reports.clear()
        self._heard_at.clear()
        self.context.clock.forget()
        self._allowances.clear()
        self.asking.forget()
        self._decision, self._facts = Decision(), None
        self._since, self._decided_through, self._look_at = None, 0, float("inf")
        self._handed_at = float("-inf")
        self._vitals, self._trail = Vitals(self.context), Trail()

    def _decide(self, when: Instant) -> None:
        """Decide on what changed; now and then on everything, since time changes the rest."""
        state, raft, attention = self.context.state, self.context.raft, self._attention
        self._attention = Attention()
        now_ms = self.context.ledger_ms(self.context.clock_ms(when))
        only: set[Label] | None = attention.stacks
        facts = self._facts
        looks = facts is None or attention.everything or attention.hosts or when.mono >= self._look_at
        if facts is None or looks:
            facts = self.facts(when)
            everything = attention.everything or _moved(self._facts, facts)
            only = None if everything else attention.stacks | self._decision.waiting.keys()
            self._facts, self._look_at = facts, when.mono + LOOK_EVERY_S
        self._together_until = when.mono + len(state.members) * TOGETHER_S_PER_HOST
        try:
            self._decision = decide(state, facts, now_ms, only=only, waiting=self._decision.waiting)
            self.asking.ask(self._decision.errands, self.reports, when)
            for entry in self._decision.entries or self._raise_level(now_ms):
                self._decided_through = raft.propose(encode_entry(entry), when.mono)
            if looks:
                self._heal_voters(when)
        except (NotLeader, ProposalDropped):
            # Lost leadership ends in `_resign`; a full window empties, and a hand-over fails: decide again then.
            self._attention.everything = True
            self._together_until = when.mono + RETRY_S

    def _raise_level(self, now_ms: Millis) -> tuple[LevelEntry, ...]:
        """Once every member could apply more than the ledger uses."""
        state = self.context.state
        if state.level >= STATE_LEVEL:
            return ()
        told = {member: report.level for member, report in self.reports.items()}
        level = next_level(state.level, STATE_LEVEL, state.members, told)
        return (LevelEntry(at=now_ms, level=level),) if level is not None else ()

    def _heal_voters(self, when: Instant) -> None:
        raft = self.context.raft
        if self.context.id in self.context.state.expelled:
            with contextlib.suppress(TransferRefused):  # nobody can take it just now: look again
                raft.transfer_leadership(None, when.mono)
            return
        health = self._vitals.look(self.reports, self.streams(), when.mono)
        if not raft.configuration_committed or self._hand_over(health, when):
            return
        change = next_change(raft.configuration, self.context.state.members, health, self.context.id)
        if change is not None:
            with contextlib.suppress(ConfigurationRefused):  # an earlier one isn't through yet: look again
                raft.propose_configuration(change.configuration, when.mono)
                self.chronicle.tell(when, "member", self._named(change.why))

    def _hand_over(self, health: Mapping[AgentId, AgentHealth], when: Instant) -> bool:
        """From a drained host, which may go any moment, to another voter. Whether a hand-over was begun."""
        raft = self.context.raft
        to = successor(raft.configuration, self.context.state.drained, health, self.context.id)
        if to is None or when.mono - self._handed_at < HAND_OVER_EVERY_S:
            return False
        self._handed_at = when.mono
        with contextlib.suppress(TransferRefused):  # another transfer is under way
            raft.transfer_leadership(to, when.mono)
        return True

    def _named(self, text: str) -> str:
        """Host names for ids, in a sentence for people."""
        for member in self.context.state.members.values():
            text = text.replace(member.id, member.name)
        return text


def _moved(before: ClusterFacts | None, after: ClusterFacts) -> bool:
    """Whether a host is seen differently now; its reports are looked at as they come."""
    if before is None or before.hosts.keys() != after.hosts.keys():
        return True
    return any(_seen(before.hosts[host]) != _seen(facts) for host, facts in after.hosts.items())


def _seen(facts: HostFacts) -> tuple[str, bool, bool, bool]:
    return facts.liveness, facts.lost, facts.awaited, facts.drained
