"""An errand is a pointer: the host resolves it by its own ledger, and does nothing that no operator signed."""

from __future__ import annotations

from msgspec.structs import replace

from agent.host.desired import HostContext
from agent.host.errands import Preparation, Survey, resolve_errands
from agent.host.policy import HostPolicy
from agent.model.errand import Errand, Prepare, Reach, errand_id
from agent.model.instruction import Expel
from agent.model.ledger import AssignedPort, Assignment, Slot
from agent.model.stack import HealthProbe, InstructionRef, PortSpec
from tests.support.ledger import Ledger, service, stack

CONTEXT = HostContext(address="192.0.2.1")
PORT = PortSpec(host_port=8443, container_port=80)
UDP = PortSpec(host_port=53, container_port=53, protocol="udp")


def shop() -> Ledger:
    ledger = Ledger("n1", "n2")
    probe = HealthProbe(kind="http", container_port=80, path="/health")
    ledger.deploy(stack(web=service(ports=(PORT, UDP), health=probe)))
    return ledger


def placed(ledger: Ledger, host: str = "n1") -> Assignment:
    ports = (
        AssignedPort(container_port=80, host_port=8443),
        AssignedPort(container_port=53, host_port=53, protocol="udp"),
    )
    return replace(ledger.assignment(host), ports=ports)


def prepare(*assignments: Assignment) -> Prepare:
    return Prepare(stack="shop", service="web", revision=1, assignments=assignments)


def reach(ledger: Ledger, index: int | None = None) -> Reach:
    at = ledger.state.index if index is None else index
    return Reach(stack="shop", revision=1, index=at, slots=(Slot(service="web", slot=1),))


def test_a_preparation_is_what_will_be_started() -> None:
    ledger = shop()
    errand = prepare(placed(ledger))
    (task,) = resolve_errands(ledger.state, ledger.id("n1"), CONTEXT, [errand])
    assert isinstance(task, Preparation)
    assert (task.errand, task.refused) == (errand_id(errand), "")
    assert [spec.image and spec.image.ref for spec in task.specs] == ["app:1"]


def test_what_the_policy_refuses_is_refused_before_anything_is_pulled() -> None:
    ledger = shop()
    context = HostContext(address="192.0.2.1", policy=HostPolicy(runtimes=("process",)))
    (task,) = resolve_errands(ledger.state, ledger.id("n1"), context, [prepare(placed(ledger))])
    assert isinstance(task, Preparation)
    assert "policy refuses the docker runtime" in task.refused
    assert not task.specs


def test_ports_that_nobody_signed_are_refused() -> None:
    ledger = shop()
    wrong = replace(placed(ledger), ports=(AssignedPort(container_port=22, host_port=22),))
    (task,) = resolve_errands(ledger.state, ledger.id("n1"), CONTEXT, [prepare(wrong)])
    assert isinstance(task, Preparation)
    assert "signed for 2 ports" in task.refused


def test_what_the_ledger_does_not_have_yet_waits() -> None:
    ledger = shop()
    unknown = replace(placed(ledger), instruction=InstructionRef(revision=2, digest="0" * 64))
    errands: list[Errand] = [prepare(unknown), reach(ledger, ledger.state.index + 1)]
    assert resolve_errands(ledger.state, ledger.id("n1"), CONTEXT, errands) == ()


def test_a_plan_that_is_signed_again_waits_for_that_signature_too() -> None:
    """A rollback names a digest that this host has, by a revision that it may not have yet."""
    ledger = shop()
    behind = ledger.state
    again = replace(placed(ledger), instruction=replace(placed(ledger).instruction, revision=2))
    assert resolve_errands(behind, ledger.id("n1"), CONTEXT, [prepare(again)]) == ()
    ledger.deploy(stack(web=behind.signed[again.instruction.digest].stack.services["web"]))
    (task,) = resolve_errands(ledger.state, ledger.id("n1"), CONTEXT, [prepare(again)])
    assert isinstance(task, Preparation)
    assert task.refused == ""


def test_a_survey_leaves_out_ports_that_are_closed_to_this_host() -> None:
    ledger = Ledger("n1", "n2")
    inner = PortSpec(host_port=5432, container_port=5432, validation="host")
    late = PortSpec(host_port=9000, container_port=9000, validation="none")
    ledger.deploy(stack(web=service(ports=(PORT, inner, late))))
    ports = tuple(
        AssignedPort(container_port=port.container_port, host_port=port.host_port) for port in (PORT, inner, late)
    )
    ledger.assign(replace(ledger.assignment("n1"), ports=ports))
    asked = {}
    for host in ("n1", "n2"):
        (task,) = resolve_errands(ledger.state, ledger.id(host), CONTEXT, [reach(ledger)])
        assert isinstance(task, Survey)
        asked[host] = [endpoint.port for endpoint in task.endpoints]
    assert asked == {"n1": [8443, 5432], "n2": [8443]}


def test_a_host_that_was_expelled_meanwhile_looks_at_nothing() -> None:
    ledger = shop()
    errands: list[Errand] = [prepare(placed(ledger)), reach(ledger)]
    expelled = ledger.id("n1")
    assert ledger.instruct("expel", f"member:{expelled}", Expel()).outcome == "applied"
    assert resolve_errands(ledger.state, expelled, CONTEXT, errands) == ()


def test_a_survey_asks_tcp_ports_where_the_ledger_has_the_replica_with_the_plans_own_check() -> None:
    ledger = shop()
    ledger.assign(placed(ledger, "n2"))
    (task,) = resolve_errands(ledger.state, ledger.id("n1"), CONTEXT, [reach(ledger)])
    assert isinstance(task, Survey)
    (endpoint,) = task.endpoints
    assert (endpoint.address, endpoint.port) == ("192.0.2.1", 8443)
    assert endpoint.probe is not None
    assert endpoint.probe.path == "/health"


def test_a_replica_that_is_gone_is_not_asked() -> None:
    ledger = shop()
    (task,) = resolve_errands(ledger.state, ledger.id("n1"), CONTEXT, [reach(ledger)])
    assert isinstance(task, Survey)
    assert task.endpoints == ()


def test_an_errands_id_names_all_of_it() -> None:
    ledger = shop()
    errands: list[Errand] = [prepare(placed(ledger)), prepare(placed(ledger, "n2")), reach(ledger), reach(ledger, 7)]
    assert len({errand_id(errand) for errand in errands}) == 4
    assert errand_id(errands[0]) == errand_id(prepare(placed(ledger)))
