"""The status: the ledger's wishes beside what hosts report. Unknown is not unhealthy (ARCHITECTURE.md "The way of a
report")."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.control.facts import ClusterFacts, HostFacts
from agent.model.expulsion import Expulsion
from agent.model.instruction import Expel
from agent.model.ledger import AssignedPort, LevelEntry
from agent.model.report import HostReport, HostResources, ObservedReplica, ReplicaState, RuntimeInfo
from agent.model.stack import Volume
from agent.model.status import Status
from agent.model.types import AgentId
from agent.node.sentences import all_of, start_again
from agent.node.status import MAX_PROBLEMS, View, build_members, build_status
from agent.state import STATE_LEVEL, predecessor_of
from tests.support.ledger import Ledger, service, stack

NOW_MS = 1_700_000_100_000


def report(ledger: Ledger, name: str, *replicas: ObservedReplica, **changes: Any) -> HostReport:
    fields: dict[str, Any] = {
        "host": ledger.id(name),
        "boot": 1,
        "sequence": 1,
        "at": NOW_MS,
        "applied": ledger.state.index,
        "agent_version": "0.1.0",
        "runtimes": (RuntimeInfo(name="docker", available=True),),
        "resources": HostResources(memory_mib=1024, cpu_millis=1000),
        "replicas": replicas,
    }
    return HostReport(**(fields | changes))


def replica(state: ReplicaState = "healthy", name: str = "web", slot: int = 1, **more: Any) -> ObservedReplica:
    fields: dict[str, Any] = {
        "stack": "shop",
        "service": name,
        "slot": slot,
        "state": state,
        "revision": 1,
        "spec_hash": "a" * 16,
    }
    return ObservedReplica(**(fields | more))


def view(ledger: Ledger, hosts: dict[str, HostFacts] | None = None, **changes: Any) -> View:
    """n1 coordinates and looks; every host is alive and has reported, unless told otherwise."""
    known = {name: HostFacts(liveness="alive", report=report(ledger, name)) for name in ("n1", "n2", "n3")}
    ids = {name: ledger.id(name) for name in known}
    fields: dict[str, Any] = {
        "me": ids["n1"],
        "name": "n1",
        "leader": ids["n1"],
        "term": 4,
        "voters": tuple(ids.values()),
        "linked": frozenset({ids["n2"], ids["n3"]}),
        "facts": ClusterFacts(hosts={ids[name]: facts for name, facts in (known | (hosts or {})).items()}),
        "now_ms": NOW_MS,
        "stale": False,
        "heard_ms": {ids["n2"]: NOW_MS - 500},
    }
    return View(**(fields | changes))


def shop(web: int = 1) -> Ledger:
    """web.1 on n1, further slots on n2."""
    ledger = Ledger()
    ledger.deploy(stack(web=service(replicas=web)))
    ledger.assign(*(ledger.assignment("n1" if slot == 1 else "n2", slot=slot) for slot in range(1, web + 1)))
    return ledger


def the_service(status: Status) -> Any:
    return status.stacks[0].services[0]


def test_a_healthy_cluster_has_no_problems() -> None:
    ledger = shop()
    ledger.phase("healthy")
    status = build_status(ledger.state, view(ledger, {"n1": up(ledger, "n1", replica())}))
    assert status.problems == ()
    assert status.health_score == 100.0
    assert (the_service(status).wanted, the_service(status).healthy) == (1, 1)
    assert [host.role for host in status.hosts] == ["coordinator", "voter", "voter"]
    assert all(host.fit for host in status.hosts)
    assert status.quorum.tolerates == 1


def test_what_a_host_has_is_what_it_reported_last() -> None:
    ledger = shop()
    has = HostResources(memory_mib=4096, cpu_millis=2000, disk_free_mib=9000, load_1m=1.5)
    facts = {"n1": up(ledger, "n1", resources=has), "n3": HostFacts(liveness="alive", awaited=True)}
    resources = {host.name: host.resources for host in build_status(ledger.state, view(ledger, facts)).hosts}
    assert (resources["n1"], resources["n3"]) == (has, None)


def test_who_was_expelled_is_told_that_and_nothing_of_a_majority_that_it_cant_see() -> None:
    ledger = shop()
    told = Expulsion(told_by=("n2", "n3"))
    cut_off = view(ledger, leader=None, linked=frozenset(), stale=True, expelled=told)
    (problem,) = build_status(ledger.state, cut_off).problems
    assert (problem.severity, problem.where) == ("error", "host n1")
    assert problem.what == "n2 and n3 say that this host was expelled"
    assert "`bootstrap install hosts.txt --limit n1`" in problem.fix
    assert "`bootstrap uninstall hosts.txt --limit n1`" in problem.fix


def test_who_was_expelled_by_its_own_ledger_still_has_its_name_and_is_fit_for_nothing() -> None:
    ledger = shop()
    known = Expulsion(by="ann", at="2026-05-04T09:12:31Z", epoch=1)
    mine = {"n1": up(ledger, "n1", replica())}
    (host, *_) = build_status(ledger.state, view(ledger, mine, leader=None, stale=True, expelled=known)).hosts
    assert (host.name, host.fit, host.reasons) == ("n1", False, ("expelled",))
    expelled = view(ledger, mine, leader=None, stale=True, expelled=known)
    ledger.instruct("expel", f"member:{ledger.id('n1')}", Expel())
    status = build_status(ledger.state, expelled)
    assert status.answered_by.name == "n1"
    (problem,) = status.problems
    assert problem.where == "host n1"
    assert "`bootstrap install hosts.txt --limit n1`" in problem.fix


def test_a_host_that_may_be_lost_for_good_is_named_with_the_way_to_give_it_up() -> None:
    ledger = shop()
    found = build_status(ledger.state, view(ledger, {"n3": HostFacts(liveness="dead", lost=True)})).problems
    assert "`agent expel n3`" in next(each.fix for each in found if each.where == "host n3")


def test_one_that_says_so_to_a_member_is_named_and_hides_nothing() -> None:
    ledger = shop()
    facts = {"n3": HostFacts(liveness="dead", lost=True)}
    found = build_status(ledger.state, view(ledger, facts, expelled=Expulsion(told_by=("n2",)))).problems
    assert ("warning", "n2 says that this host was expelled") in [(each.severity, each.what) for each in found]
    assert "is dead: no agent hears it" in [each.what for each in found]


def up(ledger: Ledger, name: str, *replicas: ObservedReplica, **changes: Any) -> HostFacts:
    return HostFacts(liveness="alive", report=report(ledger, name, *replicas, **changes))


@pytest.mark.parametrize(
    ("facts", "expected", "reason"),
    [
        (lambda ledger: HostFacts(liveness="alive", awaited=True), "unknown", "hasn't reported"),
        (lambda ledger: HostFacts(liveness="dead", lost=True), "unknown", "its host is dead"),
        (
            lambda ledger: HostFacts(liveness="dead", lost=True, report=report(ledger, "n1", replica())),
            "unknown",
            "dead",
        ),
        (lambda ledger: up(ledger, "n1"), "pending", ""),
        (lambda ledger: up(ledger, "n1", replica("pulling", reason="40 %")), "pulling", "40 %"),
        (lambda ledger: up(ledger, "n1", replica("unhealthy")), "unhealthy", ""),
        # A report from before the newest change says nothing of a replica of an older revision.
        (lambda ledger: up(ledger, "n1", replica(revision=0), applied=1), "pending", "hasn't begun"),
    ],
)
def test_a_replica_is_what_its_host_says_and_unknown_without(facts: Any, expected: str, reason: str) -> None:
    ledger = shop()
    found = the_service(build_status(ledger.state, view(ledger, {"n1": facts(ledger)}))).replicas[0]
    assert found.state == expected
    assert reason in found.reason
    assert found.container_name == "shop-web-1"
    assert found.host == "n1"


def test_stopped_services_want_nothing_and_pull_no_score_down() -> None:
    ledger = shop()
    ledger.stop("web")
    status = build_status(ledger.state, view(ledger, {"n1": up(ledger, "n1", replica("stopped"))}))
    assert (the_service(status).wanted, status.health_score) == (0, 100.0)
    assert status.problems == ()


def test_a_slot_without_a_place_says_why() -> None:
    ledger = Ledger()
    ledger.deploy(stack(web=service(labels={"gpu": "yes"})))
    status = build_status(ledger.state, view(ledger))
    assert "label gpu=yes wanted" in the_service(status).pending
    assert status.problems[0].where == "shop/web"
    assert status.health_score == 0.0
    mine = build_status(ledger.state, view(ledger, me=ledger.id("n2"), stale=True))
    assert the_service(mine).pending == ""  # only the coordinator places


def test_a_pin_on_a_dead_host_is_named() -> None:
    ledger = Ledger()
    ledger.deploy(stack(web=service(host="n2")))
    ledger.assign(ledger.assignment("n2"))
    ledger.phase("healthy")
    status = build_status(ledger.state, view(ledger, {"n2": HostFacts(liveness="dead", lost=True)}))
    assert the_service(status).pending == "pinned to n2 (dead)"
    assert [problem.where for problem in status.problems if problem.severity == "error"] == ["host n2", "shop/web"]


@pytest.mark.parametrize(
    ("known", "unknown", "score"),
    [
        ({"n2": "healthy", "n3": "healthy"}, 1, 100.0),
        ({"n2": "healthy", "n3": "failed"}, 1, 50.0),
        ({"n2": "unhealthy"}, 2, 0.0),
        ({}, 3, 100.0),
    ],
)
def test_health_is_that_of_the_replicas_that_something_is_known_of(
    known: dict[str, ReplicaState], unknown: int, score: float
) -> None:
    """A new coordinator waits for reports: what isn't known yet neither helps nor hurts."""
    ledger = Ledger()
    ledger.deploy(stack(web=service(replicas=3)))
    ledger.assign(*(ledger.assignment(f"n{slot}", slot=slot) for slot in (1, 2, 3)))
    waited_for = HostFacts(liveness="alive", awaited=True)
    facts = {
        f"n{slot}": up(ledger, f"n{slot}", replica(known[f"n{slot}"], slot=slot)) if f"n{slot}" in known else waited_for
        for slot in (1, 2, 3)
    }
    status = build_status(ledger.state, view(ledger, facts))
    assert (the_service(status).unknown, status.health_score) == (unknown, score)


def test_only_a_coordinator_concludes_that_replicas_went_with_their_host() -> None:
    """Who is cut off sees everybody else die."""
    ledger = shop(web=2)
    facts = {"n1": up(ledger, "n1", replica()), "n2": HostFacts(liveness="dead", lost=True)}
    alone = build_status(ledger.state, view(ledger, facts, leader=None, stale=True))
    assert (the_service(alone).healthy, the_service(alone).unknown, alone.health_score) == (1, 1, 100.0)
    coordinating = build_status(ledger.state, view(ledger, facts))
    assert (the_service(coordinating).unknown, coordinating.health_score) == (0, 50.0)


@pytest.mark.parametrize(
    ("stale", "host", "reason"),
    [
        (True, 0, "still looks at what it runs"),
        (True, 1, "unknown without the coordinator"),
        (False, 1, "hasn't reported yet"),
    ],
)
def test_only_a_coordinator_says_that_a_host_hasnt_reported(stale: bool, host: int, reason: str) -> None:
    ledger = Ledger()
    unheard = HostFacts(liveness="alive")
    found = build_status(ledger.state, view(ledger, {"n1": unheard, "n2": unheard}, stale=stale)).hosts[host]
    assert found.reasons == (reason,)


@pytest.mark.parametrize(
    ("linked", "fix"),
    [
        ({"n2"}, "Start n3 again; the cluster promotes another host by itself where it has one."),
        (
            set(),
            "Start n2 and n3 again, or check the network to them on the peer port; what runs goes on running.",
        ),
    ],
)
def test_missing_voters_are_named_in_what_to_do(linked: set[str], fix: str) -> None:
    ledger = Ledger()
    found = build_status(ledger.state, view(ledger, linked=frozenset(map(ledger.id, linked))))
    assert found.problems[0].fix == fix


def test_names_are_listed_as_people_do() -> None:
    assert [all_of(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert start_again(["n3"]) == "Start n3 again, or check the network to it on the peer port"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"linked": frozenset()}, "no majority: 1 of 3 voters reachable, without n2, n3"),
        ({"leader": None}, "no coordinator"),
    ],
)
def test_a_cluster_that_cannot_decide_is_an_error(changes: dict[str, Any], what: str) -> None:
    ledger = shop()
    status = build_status(ledger.state, view(ledger, **changes))
    assert status.problems[0].severity == "error"
    assert what in status.problems[0].what


def test_the_last_voter_that_may_be_lost_is_a_warning() -> None:
    ledger = Ledger()
    status = build_status(ledger.state, view(ledger, linked=frozenset({ledger.id("n2")})))
    assert [(problem.severity, problem.what) for problem in status.problems] == [
        ("warning", "without n3 no further voter may be lost")
    ]


def test_an_observer_counts_voters_by_what_it_hears() -> None:
    ledger = Ledger()
    voters = (ledger.id("n1"), ledger.id("n2"))
    found = build_status(ledger.state, view(ledger, me=ledger.id("n3"), linked=frozenset(), voters=voters))
    assert (found.quorum.voters, found.quorum.reachable) == (2, 2)


@pytest.mark.parametrize(
    ("facts", "fit", "reason"),
    [
        (lambda ledger: HostFacts(liveness="alive", awaited=True), False, "hasn't reported yet"),
        (lambda ledger: up(ledger, "n2", runtimes=()), False, "a witness"),
        (
            lambda ledger: up(
                ledger, "n2", runtimes=(RuntimeInfo(name="docker", available=False, reason="no socket"),)
            ),
            False,
            "docker doesn't answer: no socket",
        ),
        (
            lambda ledger: up(
                ledger,
                "n2",
                runtimes=(RuntimeInfo(name="docker", available=False), RuntimeInfo(name="process", available=True)),
            ),
            False,
            "docker doesn't answer",
        ),
        (lambda ledger: HostFacts(liveness="alive", drained=True, report=report(ledger, "n2")), False, "drained"),
    ],
)
def test_a_host_is_fit_or_says_why_not(facts: Any, fit: bool, reason: str) -> None:
    ledger = Ledger()
    host = build_status(ledger.state, view(ledger, {"n2": facts(ledger)})).hosts[1]
    assert (host.name, host.fit) == ("n2", fit)
    assert reason in "; ".join(host.reasons)


def test_a_drained_host_is_cordoned_and_who_stays_there_says_why() -> None:
    ledger = Ledger()
    ledger.deploy(stack(web=service(), db=service(host="n2"), probe=service(replicas="global")))
    ledger.assign(*(ledger.assignment("n2", name) for name in ("web", "db", "probe")))
    drained = HostFacts(
        liveness="alive", drained=True, report=report(ledger, "n2", *(replica(name=n) for n in ("web", "db", "probe")))
    )
    found = build_status(ledger.state, view(ledger, {"n2": drained}))
    host = found.hosts[1]
    assert (host.cordoned, host.fit, host.reasons) == (True, False, ("drained",))
    stays = {each.name: each.replicas[0].stays for each in found.stacks[0].services}
    assert stays == {"web": "", "db": "pinned to n2", "probe": ""}
    assert [(it.severity, it.where, it.what) for it in found.problems] == [
        ("warning", "shop/db.1", "stays on n2, which is drained: pinned to n2")
    ]
    assert "agent undrain n2" in found.problems[0].fix


def test_what_would_keep_a_replica_on_its_host_is_known_before_a_drain() -> None:
    ledger = Ledger()
    data = (Volume(source="data", container_path="/data"),)
    ledger.deploy(stack(web=service(), db=service(volumes=data), probe=service(replicas="global", volumes=data)))
    ledger.assign(*(ledger.assignment("n2", name) for name in ("web", "db", "probe")))
    found = build_status(ledger.state, view(ledger))
    stays = {each.name: each.replicas[0].stays for each in found.stacks[0].services}
    assert stays == {"web": "", "db": "its volume is on n2", "probe": ""}
    assert not found.problems or all("drained" not in problem.what for problem in found.problems)


def test_who_still_runs_what_moved_is_named_until_it_says_that_it_does_no_more() -> None:
    ledger = shop()
    ledger.propose(LevelEntry(at=ledger.now_ms, level=STATE_LEVEL))
    was = ledger.assignment("n1")
    ledger.assign(replace(ledger.assignment("n2"), predecessor=predecessor_of(was)))
    ports = (AssignedPort(container_port=80, host_port=8080),)
    hosts = {"n1": up(ledger, "n1", replica(ports=ports)), "n2": up(ledger, "n2", replica("starting"))}
    moving = the_service(build_status(ledger.state, view(ledger, hosts))).replicas[0]
    assert (moving.host, moving.state, moving.predecessor) == ("n2", "starting", "n1")
    assert moving.reason == "n1 runs it until it is healthy"
    assert (moving.predecessor_state, moving.predecessor_ports) == ("healthy", ports)
    silent = the_service(build_status(ledger.state, view(ledger, {"n1": up(ledger, "n1")}))).replicas[0]
    assert (silent.predecessor, silent.predecessor_state) == ("n1", None)
    ledger.assign(ledger.assignment("n2"))
    for told, named in ((up(ledger, "n1", replica("stopping")), "n1"), (up(ledger, "n1"), "")):
        hosts = {"n1": told, "n2": up(ledger, "n2", replica())}
        assert the_service(build_status(ledger.state, view(ledger, hosts))).replicas[0].predecessor == named


def test_of_a_stack_that_is_removed_all_that_is_left_is_shown_and_nothing_else() -> None:
    ledger = shop(web=2)
    ledger.remove()
    done = replace(up(ledger, "n1"), report=report(ledger, "n1", applied=ledger.state.index))
    hosts = {"n1": done, "n2": up(ledger, "n2", replica("stopping", slot=2)), "n3": up(ledger, "n3", replica(slot=7))}
    found = the_service(build_status(ledger.state, view(ledger, hosts)))
    left = [(item.slot, item.host, item.state) for item in found.replicas]
    assert left == [(2, "n2", "stopping"), (7, "n3", "healthy")]


def test_a_dead_host_with_volumes_to_delete_says_when_it_will() -> None:
    ledger = Ledger()
    ledger.deploy(stack(web=service(volumes=(Volume(source="data", container_path="/data"),))))
    ledger.assign(ledger.assignment("n2"))
    ledger.remove(delete_volumes=True)
    dead = HostFacts(liveness="dead", lost=True)
    status = build_status(ledger.state, view(ledger, {"n2": dead}))
    (left,) = the_service(status).replicas
    assert left.reason == "its host is dead; its volumes there go once it is back"
    (problem,) = (each for each in status.problems if each.where == "shop/web.1")
    assert "what it left on n2 isn't" in problem.what
    assert "`agent expel n2`" in problem.fix


def test_how_a_replica_would_move_is_known_before_a_drain() -> None:
    ledger = Ledger()
    shared = (Volume(source="/srv/data", container_path="/data"),)
    ledger.deploy(stack(web=service(), db=service(volumes=shared), pinned=service(host="n2", volumes=shared)))
    ledger.assign(*(ledger.assignment("n2", name) for name in ("web", "db", "pinned")))
    before = build_status(ledger.state, view(ledger))
    assert all("not all members" in each.replicas[0].alone for each in before.stacks[0].services if each.name == "web")
    ledger.propose(LevelEntry(at=ledger.now_ms, level=STATE_LEVEL))
    found = build_status(ledger.state, view(ledger))
    alone = {each.name: each.replicas[0].alone for each in found.stacks[0].services}
    assert alone == {"web": "", "db": "it writes to /srv/data, which hosts may share", "pinned": ""}


def test_instances_are_seeds_and_unique() -> None:
    ledger = Ledger()
    ledger.deploy(
        stack(a=service(container_name="app", host="n1"), b=service(container_name="app", host="n2"), c=service())
    )
    ledger.assign(ledger.assignment("n1", "a"), ledger.assignment("n2", "b"), ledger.assignment("n3", "c"))
    seen = replica(name="c", ports=(AssignedPort(container_port=80, host_port=8081),), container_id="c0ffee")
    found = build_status(ledger.state, view(ledger, {"n3": up(ledger, "n3", seen)})).instances
    assert set(found) == {"app@n1", "app@n2", "shop-c-1"}
    assert (found["shop-c-1"].port, found["shop-c-1"].container_id) == (8081, "c0ffee")
    assert found["app@n2"].last_seen == "2023-11-14T22:14:59.500Z"


def test_problems_are_bounded_with_errors_first() -> None:
    ledger = shop(web=150)
    bad = [replica("failed", slot=slot) for slot in range(1, 151)]
    facts = {"n1": up(ledger, "n1", *bad), "n2": up(ledger, "n2", *bad), "n3": HostFacts(liveness="suspect")}
    status = build_status(ledger.state, view(ledger, facts))
    assert len(status.problems) == MAX_PROBLEMS
    assert status.problems[0].severity == "error"
    assert status.problems[-1].what == "52 more problems"


def test_members_are_as_the_agent_itself_sees_them() -> None:
    ledger = Ledger()
    facts = {"n3": HostFacts(liveness="dead", lost=True)}
    found = build_members(ledger.state, view(ledger, facts, linked=frozenset({ledger.id("n2")})))
    assert [(each.name, each.state, each.linked) for each in found] == [
        ("n1", "alive", False),
        ("n2", "alive", True),
        ("n3", "dead", False),
    ]
    assert found[0].last_seen == "2023-11-14T22:15:00Z"
    assert found[2].last_seen is None


STATES = st.sampled_from(["pending", "pulling", "healthy", "unhealthy", "backoff", "stopped", "failed", "unknown"])


@given(
    st.integers(0, 5),
    st.lists(st.tuples(st.sampled_from(["n1", "n2", "n3"]), STATES), max_size=6),
    st.sets(st.sampled_from(["n1", "n2", "n3"])),
    st.booleans(),
)
def test_the_numbers_never_contradict_each_other(
    wanted: int, placed: list[tuple[str, ReplicaState]], lost: set[str], healthy: bool
) -> None:
    ledger = Ledger()
    ledger.deploy(stack(web=service(replicas=6)))
    if placed:
        ledger.assign(*(ledger.assignment(host, slot=slot) for slot, (host, _) in enumerate(placed, 1)))
    ledger.scale(web=wanted)
    if healthy:
        ledger.phase("healthy")
    replicas: dict[str, list[ObservedReplica]] = {"n1": [], "n2": [], "n3": []}
    for slot, (host, state) in enumerate(placed, 1):
        replicas[host].append(replica(state, slot=slot))
    facts = {
        name: HostFacts(liveness="dead", lost=True) if name in lost else up(ledger, name, *found)
        for name, found in replicas.items()
    }
    linked: frozenset[AgentId] = frozenset(ledger.id(name) for name in replicas if name not in lost)
    status = build_status(ledger.state, view(ledger, facts, linked=linked))
    found_service = the_service(status)
    assert 0 <= found_service.healthy <= found_service.wanted == wanted
    assert 0.0 <= status.health_score <= 100.0
    assert status.quorum.tolerates <= status.quorum.reachable <= status.quorum.voters
    assert len(found_service.replicas) == len(placed)
    assert all(each.state == "unknown" for each in found_service.replicas if each.host in lost)
    assert (status.health_score == 100.0) == (found_service.healthy == wanted)


def removed_with_volumes() -> Ledger:
    ledger = Ledger()
    ledger.deploy(stack(web=service(volumes=(Volume(source="data", container_path="/data"),))))
    ledger.assign(ledger.assignment("n2"))
    ledger.remove(delete_volumes=True)
    return ledger


def test_whom_a_removed_stack_waits_for_is_told_where_nothing_is_left_that_could_be_listed() -> None:
    ledger = removed_with_volumes()
    now = ledger.state.index
    hosts = {name: replace(up(ledger, name), report=report(ledger, name, applied=now)) for name in ("n1", "n3")}
    behind = replace(up(ledger, "n3"), report=report(ledger, "n3", applied=0))
    gone = replace(up(ledger, "n2"), report=report(ledger, "n2", applied=now))
    found = build_status(ledger.state, view(ledger, {**hosts, "n2": gone, "n3": behind})).stacks[0]
    assert (found.services[0].replicas, found.reason) == ((), "waiting to hear from n3")
    assert build_status(ledger.state, view(ledger, {**hosts, "n2": gone})).stacks[0].reason == ""


@pytest.mark.parametrize(
    ("applied", "answers", "why"),
    [(0, True, "its host hasn't heard of it yet"), (None, False, "the docker runtime there doesn't answer")],
)
def test_what_of_a_removed_stack_no_report_names_has_the_reason_why_it_may_be_there(
    applied: int | None, answers: bool, why: str
) -> None:
    ledger = removed_with_volumes()
    applied = ledger.state.index if applied is None else applied
    runtimes = (RuntimeInfo(name="docker", available=answers),)
    told = replace(up(ledger, "n2"), report=report(ledger, "n2", applied=applied, runtimes=runtimes))
    (left,) = the_service(build_status(ledger.state, view(ledger, {"n2": told}))).replicas
    assert (left.state, left.reason) == ("pending", why)
