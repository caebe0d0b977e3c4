"""The status of the cluster and its members, made from the replicated state and from what one agent knows now. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from msgspec import Struct

from agent.control.facts import ClusterFacts, HostFacts
from agent.control.fit import state_reason
from agent.formats.timestamps import rfc3339
from agent.model.cluster import Member
from agent.model.expulsion import Expulsion, back_or_away
from agent.model.report import RuntimeInfo
from agent.model.status import (
    AgentRef,
    ClusterStatus,
    HostRole,
    HostState,
    HostStatus,
    InstanceStatus,
    MemberView,
    Problem,
    QuorumStatus,
    ReplicaStatus,
    StackStatus,
    Status,
)
from agent.model.types import AgentId, Millis
from agent.node.sentences import all_of, start_again
from agent.node.stack_status import StackViews
from agent.state import ClusterState

MAX_PROBLEMS = 100  # errors first; nobody reads more, and a status crosses the peer link in one frame

_BAD_STATES = ("unhealthy", "backoff", "failed")


class View(Struct, frozen=True, kw_only=True):
    """What one agent knows beyond the ledger.

    `name`: its host's, also once it was expelled. `linked`: members that it has a peer link with. `facts`: hosts as it
    sees them; others' reports go to the coordinator only. `heard_ms`: epoch ms of each host's newest report, `versions`
    the agents' versions, where known.
    `stale`: the coordinator should have answered and couldn't. `refused`: which agent offers another epoch, and why it
    isn't believed. `expelled`: what this agent knows or hears of its own expulsion.
    """

    me: AgentId
    name: str
    leader: AgentId | None
    term: int
    voters: tuple[AgentId, ...]
    linked: frozenset[AgentId]
    facts: ClusterFacts
    now_ms: Millis
    stale: bool
    heard_ms: Mapping[AgentId, Millis] = {}
    versions: Mapping[AgentId, str] = {}
    refused: Mapping[AgentId, str] = {}
    expelled: Expulsion | None = None

    def liveness(self, host: AgentId) -> HostState:
        """This agent itself is certainly alive."""
        return "alive" if host == self.me else self.facts.of(host).liveness

    def role(self, host: AgentId) -> HostRole:
        """The host's role in the ledger."""
        if host == self.leader:
            return "coordinator"
        return "voter" if host in self.voters else "observer"

    def last_seen(self, host: AgentId) -> str | None:
        """RFC 3339; None when this agent can't say."""
        if host == self.me:
            return rfc3339(self.now_ms)
        heard = self.heard_ms.get(host)
        return rfc3339(heard) if heard is not None else None

    def version(self, host: AgentId) -> str:
        """The agent's version there, empty when it isn't known."""
        report = self.facts.of(host).report
        return report.agent_version if report is not None else self.versions.get(host, "")


def build_status(state: ClusterState, view: View, *, network_services: int = 0, api_requests_total: int = 0) -> Status:
    """The status as `view.me` sees it. The two counts are this agent's own (docs/seed.md "Deployment status")."""
    stacks = StackViews(state, view.facts, decides=view.me == view.leader and not view.stale).all()
    hosts = tuple(_host(member, view) for member in sorted(state.members.values(), key=lambda member: member.name))
    quorum = _quorum(view)
    known = sum(service.wanted - service.unknown for stack in stacks for service in stack.services)
    healthy = sum(service.healthy for stack in stacks for service in stack.services)
    return Status(
        cluster=ClusterStatus(id=state.cluster, epoch=state.epoch, name=state.name),
        answered_by=AgentRef(id=view.me, name=view.name),
        as_of=rfc3339(view.now_ms),
        stale=view.stale,
        coordinator=_ref(state, view.leader) if view.leader is not None else None,
        term=view.term,
        quorum=quorum,
        hosts=hosts,
        stacks=stacks,
        problems=_bounded([*_problems(state, view, quorum, hosts, stacks)]),
        instances=_instances(state, view, stacks),
        network_services=network_services,
        api_requests_total=api_requests_total,
        health_score=round(100 * healthy / known, 1) if known else 100.0,
    )


def build_members(state: ClusterState, view: View) -> tuple[MemberView, ...]:
    """The members by name, as `view.me` itself sees them."""
    return tuple(
        MemberView(
            id=member.id,
            name=member.name,
            address=member.address,
            api_port=member.api_port,
            peer_port=member.peer_port,
            role=view.role(member.id),
            state=view.liveness(member.id),
            linked=member.id in view.linked,
            labels=member.labels,
            sealing_key=member.sealing_key,
            agent_version=view.version(member.id),
            last_seen=view.last_seen(member.id),
        )
        for member in sorted(state.members.values(), key=lambda member: member.name)
    )


def _name(state: ClusterState, agent: AgentId) -> str:
    member = state.members.get(agent)
    return member.name if member is not None else agent


def _ref(state: ClusterState, agent: AgentId) -> AgentRef:
    return AgentRef(id=agent, name=_name(state, agent))


def _host(member: Member, view: View) -> HostStatus:
    facts = view.facts.of(member.id)
    runtimes = facts.report.runtimes if facts.report is not None else ()
    reasons = tuple(_unfit(member.id, view, runtimes))
    return HostStatus(
        id=member.id,
        name=member.name,
        address=member.address,
        role=view.role(member.id),
        state=view.liveness(member.id),
        fit=not reasons,
        reasons=reasons,
        cordoned=facts.drained,
        labels=member.labels,
        agent_version=view.version(member.id),
        runtime=runtimes,
        last_seen=view.last_seen(member.id),
        resources=facts.report.resources if facts.report is not None else None,
    )


def _unfit(host: AgentId, view: View, runtimes: tuple[RuntimeInfo, ...]) -> Iterator[str]:
    """Why it doesn't take everything that it could. Replicas for another engine than one that is
    down still go there.
    """
    facts = view.facts.of(host)
    if host == view.me and view.expelled is not None and view.expelled.is_known:
        yield "expelled"
    if reason := _unheard_reason(host, view, facts) or state_reason(facts):
        yield reason
    if facts.report is not None and not runtimes:
        yield "a witness: it votes and runs nothing"
    for runtime in runtimes:
        if not runtime.available:
            yield _unanswering(runtime)


def _unheard_reason(host: AgentId, view: View, facts: HostFacts) -> str:
    """Hosts report to the coordinator: elsewhere, to have no report of one says nothing about it."""
    if facts.report is not None or facts.lost or facts.liveness not in ("alive", "unknown"):
        return ""
    if host == view.me:
        return "still looks at what it runs"
    return "unknown without the coordinator" if view.stale else ""


def _unanswering(runtime: RuntimeInfo) -> str:
    return f"{runtime.name} doesn't answer" + (f": {runtime.reason}" if runtime.reason else "")


def _reachable(view: View) -> set[AgentId]:
    """A voter keeps a link with every other; an observer follows one of them, and has only SWIM for the rest."""
    here = {view.me} | view.linked
    if view.me in view.voters:
        return here & set(view.voters)
    return {voter for voter in view.voters if voter in here or view.liveness(voter) == "alive"}


def _quorum(view: View) -> QuorumStatus:
    """Raft §5.2: more than half of the voters."""
    reachable = len(_reachable(view))
    majority = len(view.voters) // 2 + 1
    return QuorumStatus(voters=len(view.voters), reachable=reachable, tolerates=max(0, reachable - majority))


def _problems(
    state: ClusterState,
    view: View,
    quorum: QuorumStatus,
    hosts: tuple[HostStatus, ...],
    stacks: tuple[StackStatus, ...],
) -> Iterator[Problem]:
    """Of a cluster that this host was expelled from nothing is known that isn't old."""
    if view.expelled is not None:
        yield _expulsion_problem(view, view.expelled)
        if view.expelled.is_known or view.leader is None:
            return
    yield from _quorum_problems(state, view, quorum)
    yield from _epoch_problems(state, view)
    yield from _host_problems(hosts)
    yield from _stack_problems(stacks, hosts)


def _expulsion_problem(view: View, expelled: Expulsion) -> Problem:
    """Who hears the coordinator is a member, whatever somebody else says."""
    is_sure = expelled.is_known or view.leader is None
    return Problem(
        severity="error" if is_sure else "warning",
        where=f"host {view.name}",
        what=expelled.what,
        fix=back_or_away(view.name),
    )


def _quorum_problems(state: ClusterState, view: View, quorum: QuorumStatus) -> Iterator[Problem]:
    names = sorted(_name(state, voter) for voter in set(view.voters) - _reachable(view))
    missing = ", ".join(names)
    if quorum.reachable < quorum.voters // 2 + 1:
        yield Problem(
            severity="error",
            where="cluster",
            what=f"no majority: {quorum.reachable} of {quorum.voters} voters reachable, without {missing}",
            fix=f"{start_again(names)}; what runs goes on running.",
        )
    elif view.leader is None:
        yield Problem(
            severity="error",
            where="cluster",
            what="no coordinator: an election is under way",
            fix="Look again in a few seconds.",
        )
    elif missing and quorum.tolerates == 0:
        yield Problem(
            severity="warning",
            where="cluster",
            what=f"without {missing} no further voter may be lost",
            fix=f"Start {all_of(names)} again; the cluster promotes another host by itself where it has one.",
        )


def _epoch_problems(state: ClusterState, view: View) -> Iterator[Problem]:
    """Members that report that the cluster is in another epoch, which this agent can't believe."""
    for agent, why in sorted(view.refused.items()):
        fix = "Ask who signed it; if all is well, `bootstrap uninstall` and `bootstrap install` this host anew."
        where = f"host {view.name}"
        yield Problem(severity="error", where=where, what=f"{_name(state, agent)} offers {why}", fix=fix)


def _host_problems(hosts: tuple[HostStatus, ...]) -> Iterator[Problem]:
    for host in hosts:
        where = f"host {host.name}"
        if host.state == "dead":
            fix = (
                f"Start {host.name}, or look at `systemctl status muster-agent` there; if it never comes back, "
                f"`agent expel {host.name}`."
            )
            yield Problem(severity="error", where=where, what="is dead: no agent hears it", fix=fix)
        elif host.state == "suspect":
            fix = "It comes back by itself, or is declared dead in some seconds."
            yield Problem(severity="warning", where=where, what="doesn't answer", fix=fix)
        elif host.state == "left":
            fix = f"`systemctl start muster-agent` on {host.name}."
            yield Problem(severity="warning", where=where, what="its agent was stopped", fix=fix)
        for runtime in host.runtime:
            if not runtime.available:
                fix = f"Look at `systemctl status {runtime.name}` on {host.name}."
                yield Problem(severity="error", where=where, what=_unanswering(runtime), fix=fix)


def _stack_problems(stacks: tuple[StackStatus, ...], hosts: tuple[HostStatus, ...]) -> Iterator[Problem]:
    drained = {host.name for host in hosts if host.cordoned}
    dead = {host.name for host in hosts if host.state == "dead"}
    for stack in stacks:
        if stack.phase == "failed":
            fix = f"Fix what the reason says and deploy again; `agent logs {stack.name}` may say more."
            yield Problem(severity="error", where=f"stack {stack.name}", what=f"failed: {stack.reason}", fix=fix)
        for service in stack.services:
            if service.pending:
                where = f"{stack.name}/{service.name}"
                fix = "Free what is missing, or change the plan; it is placed as soon as a host fits."
                yield Problem(severity="error", where=where, what=f"pending: {service.pending}", fix=fix)
            for replica in service.replicas:
                if replica.state in _BAD_STATES and service.wanted:
                    yield _replica_problem(stack, service.name, replica)
                if replica.host in drained and replica.stays:
                    yield _staying_problem(stack, service.name, replica)
                if stack.phase == "removing" and replica.host in dead:
                    yield _unremoved_problem(stack, service.name, replica)


def _replica_problem(stack: StackStatus, service: str, replica: ReplicaStatus) -> Problem:
    what = f"{replica.state} on {replica.host}" + (f": {replica.reason}" if replica.reason else "")
    where = f"{stack.name}/{service}.{replica.slot}"
    return Problem(severity="error", where=where, what=what, fix=f"`agent logs {stack.name} {service}`")


def _staying_problem(stack: StackStatus, service: str, replica: ReplicaStatus) -> Problem:
    where = f"{stack.name}/{service}.{replica.slot}"
    what = f"stays on {replica.host}, which is drained: {replica.stays}"
    fix = f"Change the plan or make room elsewhere; or end the drain: `agent undrain {replica.host}`."
    return Problem(severity="warning", where=where, what=what, fix=fix)


def _unremoved_problem(stack: StackStatus, service: str, replica: ReplicaStatus) -> Problem:
    where = f"{stack.name}/{service}.{replica.slot}"
    what = f"{stack.name} is being removed, and what it left on {replica.host} isn't: {replica.reason}"
    fix = f"Start {replica.host} again; if it never comes back, `agent expel {replica.host}`."
    return Problem(severity="warning", where=where, what=what, fix=fix)


def _bounded(problems: list[Problem]) -> tuple[Problem, ...]:
    ordered = sorted(problems, key=lambda problem: problem.severity != "error")
    if len(ordered) <= MAX_PROBLEMS:
        return tuple(ordered)
    kept = ordered[: MAX_PROBLEMS - 1]
    more = Problem(
        severity=ordered[len(kept)].severity,
        where="cluster",
        what=f"{len(ordered) - len(kept)} more problems",
        fix="Fix the ones above first.",
    )
    return (*kept, more)


def _instances(state: ClusterState, view: View, stacks: tuple[StackStatus, ...]) -> dict[str, InstanceStatus]:
    """docs/seed.md "Deployment status": by container name; `@host` behind it where several hosts have one of that
    name."""
    hosts = {member.name: member for member in state.members.values()}
    every = [replica for stack in stacks for service in stack.services for replica in service.replicas]
    count = Counter(replica.container_name for replica in every)
    instances: dict[str, InstanceStatus] = {}
    for replica in every:
        member = hosts.get(replica.host)
        name = replica.container_name
        instances[f"{name}@{replica.host}" if count[name] > 1 else name] = InstanceStatus(
            host=member.address if member is not None else replica.host,
            port=replica.ports[0].host_port if replica.ports else None,
            status=replica.state,
            container_id=replica.container_id,
            last_seen=view.last_seen(member.id) if member is not None else None,
        )
    return instances
