"""Turns changes into events: what a person reads about entries, hosts and replicas."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from agent.model.errand import Errand, Reach, errand_id
from agent.model.events import EventKind
from agent.model.report import HostReport, ObservedReplica
from agent.model.spec import ReplicaKey
from agent.node.chronicle import Chronicle
from agent.node.context import Context
from agent.node.instant import Instant
from agent.state import Applied, deployed_stack
from agent.swim import MemberChanged

HOST_EVENTS_PER_S = 10.0  # of one host's replicas; a rollout changes a few a second
HOST_EVENTS_BURST = 300  # a host that starts 100 replicas at once; a third of what is kept

_DEEDS = {
    "deploy": "deployed",
    "place": "placed",
    "remove": "removed",
    "scale": "scaled",
    "restart": "restarted",
    "stop": "stopped",
    "start": "started",
    "enrol": "enrolled",
    "expel": "expelled",
    "drain": "drained",
    "undrain": "ended the drain of",
    "relabel": "changed the labels of",
    "grant": "granted",
    "revoke": "revoked",
    "grant-key": "granted",
    "revoke-key": "revoked",
    "cancel": "cancelled an instruction on",
    "recover": "recovered",
}


def tell_applied(chronicle: Chronicle, context: Context, applied: Applied, when: Instant) -> None:
    """An entry of the ledger."""
    state = context.state
    result = applied.result
    if result is not None and applied.act is not None and not result.repeated:
        kind, _, name = result.target.partition(":")
        host = context.name_of(name) if kind == "host" else applied.member
        target = f"host {host}" if host else result.target
        what = f"{result.by} {_DEEDS[applied.act]} {target}, revision {result.revision}"
        if result.outcome != "applied":
            what = f"{target} revision {result.revision}: {result.what}"
        chronicle.tell(
            when,
            "instruction",
            what,
            host=host,
            stack=name if kind == "stack" else "",
            revision=result.revision,
            state=result.outcome,
            by=result.by,
        )
    if applied.ignored:
        about: EventKind = "phase" if applied.kind == "phase" else "assignment"
        chronicle.tell(when, about, f"the coordinator's plan changed nothing: {applied.ignored}", stack=applied.stack)
    if applied.kind == "phase":
        for name in sorted(applied.stacks):
            if (stack_state := state.stacks.get(name)) is not None:
                reason = f": {stack_state.reason}" if stack_state.reason else ""
                chronicle.tell(
                    when,
                    "phase",
                    f"{name} is {stack_state.phase}{reason}",
                    stack=name,
                    revision=stack_state.revision,
                    state=stack_state.phase,
                )
    for key in sorted(applied.assigned):
        if (assignment := state.assignments.get(key)) is not None:
            host, before = context.name_of(assignment.host), assignment.predecessor
            moves = f"moves from {context.name_of(before.host)} to" if before is not None else "is assigned to"
            _tell_replica(chronicle, when, key, "assignment", f"{key} {moves} {host}", host, "assigned")
    for key in sorted(applied.released):
        _tell_replica(chronicle, when, key, "assignment", f"{key} is released", "", "released")


def tell_host(chronicle: Chronicle, context: Context, change: MemberChanged, when: Instant) -> None:
    """A host as SWIM sees it."""
    name = context.name_of(change.member)
    chronicle.tell(
        when, "host", f"{name} is {change.new.value} (was {change.old.value})", host=name, state=change.new.value
    )


class Allowance(Struct):
    """How many events one host may still cause; one that reports a change a millisecond must not push out the others'.

    `at`: seconds, when `left` was true.
    """

    at: float
    left: float = float(HOST_EVENTS_BURST)
    is_over: bool = False

    def take(self, now: float) -> bool:
        """Whether one more event is allowed."""
        self.left = min(self.left + (now - self.at) * HOST_EVENTS_PER_S, float(HOST_EVENTS_BURST))
        self.at = now
        if self.left < 1.0:
            return False
        self.left, self.is_over = self.left - 1.0, False
        return True


def tell_replicas(
    chronicle: Chronicle,
    context: Context,
    before: HostReport | None,
    report: HostReport,
    allowance: Allowance,
    when: Instant,
) -> None:
    """What changed between two reports of a host; the first one after a change of coordinator gives no events."""
    if before is None:
        return
    known = {_key(replica): replica for replica in before.replicas}
    host = context.name_of(report.host)
    for replica in report.replicas:
        old = known.get(_key(replica))
        if old is None or (old.state, old.reason) != (replica.state, replica.reason):
            if not allowance.take(when.mono):
                if not allowance.is_over:
                    allowance.is_over = True
                    chronicle.tell(when, "host", f"{host} tells of more changes than are shown", host=host)
                return
            reason = f": {replica.reason}" if replica.reason else ""
            what = f"{_key(replica)} on {host} is {replica.state}{reason}"
            _tell_replica(chronicle, when, _key(replica), "replica", what, host, replica.state)


def tell_registered(
    chronicle: Chronicle,
    context: Context,
    before: HostReport | None,
    report: HostReport,
    errands: tuple[Errand, ...],
    when: Instant,
) -> None:
    """Main's host reaches workers now, by the `errands` it was sent on: they are registered (docs/seed.md "Phases 2
    and 3")."""
    was = _reached(before) if before is not None else frozenset()
    for errand in errands:
        if not isinstance(errand, Reach) or errand_id(errand) not in _reached(report) - was:
            continue
        stack = context.state.stacks.get(errand.stack)
        services = deployed_stack(context.state, stack).services if stack is not None else {}
        main = next((name for name, service in services.items() if service.role == "main"), "")
        first = context.state.assignments.get(ReplicaKey(stack=errand.stack, service=main, slot=1))
        if first is None or first.host != report.host:
            continue
        host = context.name_of(report.host)
        count = Counter(slot.service for slot in errand.slots if slot.service in services)
        for name in sorted(name for name in count if services[name].role == "worker"):
            replicas = f" ({count[name]} replicas)" if count[name] > 1 else ""
            what = f"{errand.stack}/{name}{replicas} is registered with {main} on {host}"
            chronicle.tell(
                when,
                "replica",
                what,
                host=host,
                stack=errand.stack,
                service=name,
                revision=errand.revision,
                state="registered",
            )


def _reached(report: HostReport) -> frozenset[str]:
    """The errands in which it says that it reaches everything."""
    return frozenset(
        finding.errand for finding in report.findings if (finding.kind, finding.state) == ("reach", "ready")
    )


def _key(replica: ObservedReplica) -> ReplicaKey:
    return ReplicaKey(stack=replica.stack, service=replica.service, slot=replica.slot)


def _tell_replica(
    chronicle: Chronicle,
    when: Instant,
    key: ReplicaKey,
    kind: EventKind,
    what: str,
    host: str,
    state: str,
) -> None:
    chronicle.tell(when, kind, what, host=host, stack=key.stack, service=key.service, slot=key.slot, state=state)
