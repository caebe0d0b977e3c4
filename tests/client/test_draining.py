"""What one status after another says of a drain."""

from __future__ import annotations

from msgspec.structs import replace

from agent.client.draining import Evacuation, Left, Look
from agent.model.report import ReplicaState
from agent.model.status import (
    AgentRef,
    ClusterStatus,
    HostCheck,
    HostStatus,
    QuorumStatus,
    ReplicaStatus,
    ServiceStatus,
    StackStatus,
    Status,
)


def replica(
    slot: int, host: str, state: ReplicaState = "healthy", stays: str = "", predecessor: str = ""
) -> ReplicaStatus:
    return ReplicaStatus(slot=slot, host=host, state=state, revision=1, stays=stays, predecessor=predecessor)


def status(*replicas: ReplicaStatus, wanted: int | None = None, drained: str = "n1 n2", stale: bool = False) -> Status:
    hosts = tuple(
        HostStatus(
            id=f"id-{name}",
            name=name,
            address="192.0.2.1",
            role="voter",
            state="alive",
            fit=True,
            cordoned=name in drained.split(),
        )
        for name in ("n1", "n2", "n3")
    )
    service = ServiceStatus(
        name="web", wanted=len(replicas) if wanted is None else wanted, healthy=len(replicas), replicas=replicas
    )
    stack = StackStatus(name="shop", revision=1, phase="healthy", changed_by="ann", changed_at="", services=(service,))
    return Status(
        cluster=ClusterStatus(id="c", epoch=1, name="lab"),
        answered_by=AgentRef(id="id-n3", name="n3"),
        as_of="",
        stale=stale,
        coordinator=None,
        term=1,
        quorum=QuorumStatus(voters=3, reachable=3, tolerates=1),
        hosts=hosts,
        stacks=(stack,),
    )


def looking() -> Evacuation:
    return Evacuation(["id-n1", "id-n2"])


def test_nothing_there_is_over() -> None:
    look = looking().look(status(replica(1, "n3")))
    assert (look.over, look.left) == (True, ())


def test_a_replica_that_may_leave_is_waited_for_until_it_is_healthy_elsewhere() -> None:
    seen = looking()
    first = seen.look(status(replica(1, "n1"), replica(2, "n3")))
    assert (first.over, first.left) == (False, (Left(replica="shop/web.1", host="n1", stays=False),))
    away = seen.look(status(replica(1, "n3", "starting"), replica(2, "n3")))
    assert (away.over, away.left) == (False, (Left(replica="shop/web.1", host="n3", stays=False, why="starting"),))
    assert seen.look(status(replica(1, "n3"), replica(2, "n3", "failed"))).over  # the other one never was there


def test_it_says_whom_a_replica_waits_for() -> None:
    look = looking().look(status(replica(1, "n1"), replica(2, "n3", "backoff")))
    assert look.left[0].why == "waits for shop/web.2 on n3 (backoff)"


def test_it_says_what_the_host_that_it_goes_to_lacks() -> None:
    told = status(replica(1, "n1"), replica(2, "n3"))
    check = HostCheck(host="n3", kind="prepare", service="web", state="failed", detail="no image web:1")
    look = looking().look(replace(told, stacks=(replace(told.stacks[0], checks=(check,)),)))
    assert look.left[0].why == "n3 isn't ready for it: no image web:1"


def test_what_can_only_stay_ends_the_wait() -> None:
    look = looking().look(status(replica(1, "n1", stays="pinned to n1"), replica(2, "n3")))
    assert look.over
    assert look.left == (Left(replica="shop/web.1", host="n1", stays=True, why="pinned to n1"),)


def test_a_stopped_service_is_waited_for_only_on_the_hosts_themselves() -> None:
    seen = looking()
    assert not seen.look(status(replica(1, "n1", "stopped"), wanted=0)).over
    assert seen.look(status(replica(1, "n3", "stopped"), wanted=0)).over


def test_who_answers_for_itself_or_is_behind_ends_nothing() -> None:
    assert not looking().look(status(replica(1, "n3"), stale=True)).over
    assert not looking().look(status(replica(1, "n3"), drained="n1")).over


def test_a_host_that_is_gone_meanwhile_is_over() -> None:
    told = status(replica(1, "n3"))
    assert looking().look(replace(told, hosts=told.hosts[1:])).over


def test_what_runs_there_until_its_successor_is_healthy_is_still_there() -> None:
    evacuation = looking()
    moving = evacuation.look(status(replica(1, "n3", "starting", predecessor="n1"), replica(2, "n3")))
    assert (moving.over, moving.left) == (
        False,
        (Left(replica="shop/web.1", host="n1", stays=False, why="starting", next="n3"),),
    )
    ending = evacuation.look(status(replica(1, "n3", predecessor="n1"), replica(2, "n3")))
    assert (ending.over, [item.why for item in ending.left]) == (False, ["healthy"])
    assert evacuation.look(status(replica(1, "n3"), replica(2, "n3"))) == Look(over=True)
