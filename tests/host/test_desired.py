"""From the ledger's state to what this host runs; what a coordinator may not decide is checked here again."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.host import Desired, HostContext, HostPolicy, desired, is_as_before
from agent.host.facts import substitute
from agent.model.cluster import Member
from agent.model.ledger import AssignedPort, Assignment, Predecessor
from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.model.stack import Image, InstructionRef, PortSpec, Service, Stack, Volume
from agent.state.types import ClusterState, SignedStack, StackState
from tests.support.replicas import AGENT, CLUSTER, OTHER_AGENT

DIGEST = "d" * 64
KEY = ReplicaKey(stack="shop", service="web", slot=1)
REF = InstructionRef(revision=3, digest=DIGEST)
CONTEXT = HostContext(address="10.0.0.1")


def member(id_: str, name: str, address: str) -> Member:
    key = "0" * 64
    return Member(
        id=id_, name=name, address=address, labels={"disk": "ssd"}, certificate=key, signing_key=key, sealing_key=key
    )


def service(**changes: Any) -> Service:
    return Service(**({"image": Image(ref="web:1")} | changes))


def assignment(name: str, slot: int = 1, host: str = AGENT, *ports: AssignedPort, **changes: Any) -> Assignment:
    fields: dict[str, Any] = {"stack": "shop", "service": name, "slot": slot, "host": host, "instruction": REF}
    return Assignment(**(fields | {"ports": ports} | changes))


def state_of(services: dict[str, Service], *assignments: Assignment, **changes: Any) -> ClusterState:
    signed = SignedStack(ref=REF, stack=Stack(name="shop", services=services), token="", body=b"")
    stack = StackState(name="shop", revision=3, deployed=REF, changed_by="ops", changed_at=0, **changes)
    return ClusterState(
        cluster=CLUSTER,
        name="lab",
        epoch=1,
        level=1,
        trust_anchor="",
        index=9,
        chain=DIGEST,
        at=0,
        members={AGENT: member(AGENT, "n1", "10.0.0.1"), OTHER_AGENT: member(OTHER_AGENT, "n2", "10.0.0.2")},
        operators={},
        stacks={"shop": stack},
        signed={DIGEST: signed},
        assignments={ReplicaKey(stack=a.stack, service=a.service, slot=a.slot): a for a in assignments},
    )


def one(found: Desired) -> ReplicaSpec:
    assert found.refused == ()
    (only,) = found.specs
    return only


def why_not(services: dict[str, Service], made: Assignment, **context: Any) -> str:
    found = desired(state_of(services, made), AGENT, HostContext(**({"address": "10.0.0.1"} | context)))
    assert found.specs == ()
    return found.refused[0].reason


def test_only_assignments_to_this_host_count() -> None:
    found = desired(
        state_of({"web": service()}, assignment("web", 1, OTHER_AGENT), assignment("web", 2)), AGENT, CONTEXT
    )
    assert (one(found).key.slot, one(found).revision) == (2, 3)
    assert found.stacks == frozenset({"shop"})


def test_stopped_services_keep_their_place_and_do_not_run() -> None:
    found = desired(state_of({"web": service()}, assignment("web"), stopped=frozenset({"web"})), AGENT, CONTEXT)
    assert (found.specs, len(found.stopped)) == ((), 1)


def test_a_stack_on_its_way_out_is_wanted_no_more() -> None:
    state = state_of({"web": service()}, assignment("web"), removing=True, delete_volumes=True)
    found = desired(state, AGENT, CONTEXT)
    assert (found.specs, found.stacks, found.delete_volumes_of) == ((), frozenset(), frozenset({"shop"}))


class TestWhatHasToBeAskedAgain:
    """`is_as_before` is believed, so it may only say yes where `desired` says the same."""

    CONTEXT: ClassVar = HostContext(address="10.0.0.1", endpoints="/run/muster/endpoints")
    BEFORE: ClassVar = state_of({"web": service(), "db": service()}, assignment("web"), assignment("db"))
    OTHERS: ClassVar[dict[str, Any]] = {
        "name": "shop",
        "revision": 4,
        "deployed": InstructionRef(revision=3, digest="e" * 64),
        "proven": True,
        "previous": InstructionRef(revision=2, digest="e" * 64),
        "previous_scale": {"web": 2},
        "previous_stopped": frozenset({"web"}),
        "scale": {"web": 2},
        "generations": {"web": 4},
        "stopped": frozenset({"web"}),
        "held": frozenset({"web"}),
        "removing": True,
        "delete_volumes": True,
        "phase": "main",
        "reason": "one more is waited for",
        "phase_since": 7,
        "moved_index": 9,
        "moved_at": 7,
        "changed_by": "somebody",
        "changed_at": 7,
    }

    def changed(self, *fields: str) -> ClusterState:
        before = self.BEFORE
        stack = replace(before.stacks["shop"], **{field: self.OTHERS[field] for field in fields})
        return replace(before, index=10, stacks={"shop": stack})

    def test_a_stack_has_no_field_that_is_not_looked_at_here(self) -> None:
        assert set(self.OTHERS) == set(StackState.__struct_fields__)

    @given(st.sets(st.sampled_from(sorted(OTHERS))))
    def test_what_is_as_before_is_wanted_as_before(self, fields: set[str]) -> None:
        digest = "e" * 64
        kept = replace(self.BEFORE.signed[DIGEST], ref=InstructionRef(revision=3, digest=digest))
        before = replace(self.BEFORE, signed={**self.BEFORE.signed, digest: kept})
        now = replace(self.changed(*fields), signed=before.signed)
        if is_as_before(before, now):
            assert desired(now, AGENT, self.CONTEXT) == desired(before, AGENT, self.CONTEXT)

    @pytest.mark.parametrize("fields", [(), ("phase", "reason", "phase_since"), ("scale", "moved_index", "moved_at")])
    def test_a_rollout_that_moves_on_is_as_before(self, fields: tuple[str, ...]) -> None:
        assert is_as_before(self.BEFORE, self.changed(*fields))

    @pytest.mark.parametrize("part", ["assignments", "members", "signed"])
    def test_what_was_touched_is_not(self, part: str) -> None:
        assert not is_as_before(self.BEFORE, replace(self.BEFORE, **{part: dict(getattr(self.BEFORE, part))}))


@pytest.mark.parametrize(
    ("name", "slot", "expected"),
    [("translator-main", 1, "translator-main"), ("translator-main", 3, "translator-main-3"), (None, 2, "shop-web-2")],
)
def test_names_of_containers(name: str | None, slot: int, expected: str) -> None:
    state = state_of({"web": service(container_name=name)}, assignment("web", slot))
    assert one(desired(state, AGENT, CONTEXT)).container_name == expected


class TestFacts:
    SERVICES: ClassVar = {
        "web": service(role="main", ports=(PortSpec(host_port=8443, container_port=443),)),
        "thumbs": service(role="worker", ports=(PortSpec(host_port=8444, container_port=443),)),
        "mails": service(role="worker", environment={"MAIN_HOST": "mine", "MUSTER_HOST": "no"}),
    }
    MAIN: ClassVar = assignment("web", 1, OTHER_AGENT, AssignedPort(container_port=443, host_port=8450))

    def facts(self, made: Assignment, **services: Service) -> dict[str, str]:
        return one(desired(state_of({**self.SERVICES, **services}, self.MAIN, made), AGENT, CONTEXT)).facts

    def test_a_replica_knows_who_and_where_it_is_and_where_main_is(self) -> None:
        assert self.facts(assignment("thumbs", 1, AGENT, AssignedPort(container_port=443, host_port=8444))) == {
            "MUSTER_HOST": "10.0.0.1",
            "MUSTER_NAME": "n1",
            "MUSTER_STACK": "shop",
            "MUSTER_SERVICE": "thumbs",
            "MUSTER_SLOT": "1",
            "MUSTER_PORT_443": "8444",
            "MUSTER_LISTEN_443": "443",
            "MAIN_HOST": "10.0.0.2",
            "MAIN_PORT": "8450",
            "WORKER_INDEX": "1",
        }

    def test_a_process_listens_on_the_host_port(self) -> None:
        plain = service(
            runtime="process", image=None, command=("x",), ports=(PortSpec(host_port=8444, container_port=443),)
        )
        made = assignment("thumbs", 1, AGENT, AssignedPort(container_port=443, host_port=8444))
        assert self.facts(made, thumbs=plain)["MUSTER_LISTEN_443"] == "8444"

    def test_the_plans_own_main_host_wins_but_not_its_muster_variables(self) -> None:
        facts = self.facts(assignment("mails"))
        assert "MAIN_HOST" not in facts
        assert facts["MUSTER_HOST"] == "10.0.0.1"

    def test_worker_indexes_are_unique_and_scaling_one_service_renumbers_nobody(self) -> None:
        ports = AssignedPort(container_port=443, host_port=8444)
        indexes = [self.facts(assignment("thumbs", slot, AGENT, ports))["WORKER_INDEX"] for slot in (1, 2)] + [
            self.facts(assignment("mails", slot))["WORKER_INDEX"] for slot in (1, 2)
        ]
        assert indexes == ["1", "3", "2", "4"]


class TestKept:
    """Replicas that moved elsewhere, and aren't healthy there yet."""

    HERE: ClassVar = Predecessor(host=AGENT, ports=(AssignedPort(container_port=443, host_port=8443),))
    WEB: ClassVar = {"web": service(role="main", ports=(PortSpec(host_port=8443, container_port=443),))}
    PORT: ClassVar = AssignedPort(container_port=443, host_port=8450)

    def moved(self, **changes: Any) -> ClusterState:
        there = assignment("web", 1, OTHER_AGENT, self.PORT, predecessor=self.HERE)
        return state_of(self.WEB, there, **changes)

    def test_their_old_host_keeps_what_runs_and_starts_nothing(self) -> None:
        here, there = (desired(self.moved(), agent, CONTEXT) for agent in (AGENT, OTHER_AGENT))
        assert (set(here.kept), set(here.stacks), set(there.kept)) == ({KEY}, {"shop"}, set())
        assert [[spec.key for spec in each.specs] for each in (here, there)] == [[], [KEY]]

    @pytest.mark.parametrize(
        "change", [{"stopped": frozenset({"web"})}, {"held": frozenset({"web"})}, {"removing": True}], ids=str
    )
    def test_what_must_not_run_is_not_kept(self, change: dict[str, Any]) -> None:
        assert desired(self.moved(**change), AGENT, CONTEXT).kept == frozenset()

    def test_a_host_that_is_no_member_any_more_keeps_nothing(self) -> None:
        state = self.moved()
        state = replace(state, members={OTHER_AGENT: state.members[OTHER_AGENT]})
        assert desired(state, AGENT, CONTEXT).kept == frozenset()

    def test_a_main_that_moves_is_told_of_where_it_is_to_be(self) -> None:
        """Whoever starts now keeps its environment for longer than the move takes."""
        there = self.moved()
        worker = assignment("thumbs")
        both = {**self.WEB, "thumbs": service(role="worker")}
        state = state_of(both, next(iter(there.assignments.values())), worker)
        for agent in (AGENT, OTHER_AGENT):
            told = one(desired(state, agent, CONTEXT)).facts
            assert (told["MAIN_HOST"], told["MAIN_PORT"]) == ("10.0.0.2", "8450")


class TestRefused:
    def test_a_pin_on_another_host(self) -> None:
        assert why_not({"web": service(host="n2")}, assignment("web")) == "pinned to n2, and this is n1"

    def test_a_label_that_this_host_has_not(self) -> None:
        assert why_not({"web": service(labels={"disk": "hdd"})}, assignment("web")) == (
            "wants label disk=hdd, this host has ssd"
        )

    def test_an_instruction_that_nobody_signed(self) -> None:
        other = InstructionRef(revision=4, digest=DIGEST)
        assert "no instruction" in why_not({"web": service()}, assignment("web", instruction=other))

    def test_the_same_plan_signed_again_is_no_refusal_while_its_assignments_still_name_the_first_time(self) -> None:
        before = InstructionRef(revision=2, digest=DIGEST)
        found = desired(state_of({"web": service()}, assignment("web", instruction=before)), AGENT, CONTEXT)
        assert not found.refused
        assert one(found).revision == 2

    def test_a_service_that_was_not_signed(self) -> None:
        assert "has no service" in why_not({"web": service()}, assignment("api"))

    def test_ports_that_were_not_signed_for(self) -> None:
        opened = AssignedPort(container_port=22, host_port=2222)
        assert "signed for 0 ports" in why_not({"web": service()}, assignment("web", 1, AGENT, opened))
        plan = service(ports=(PortSpec(host_port=8443, container_port=443),))
        far = AssignedPort(container_port=443, host_port=8543)
        assert "signed for host port 8443" in why_not({"web": plan}, assignment("web", 1, AGENT, far))
        near = AssignedPort(container_port=443, host_port=8542)
        one(desired(state_of({"web": plan}, assignment("web", 1, AGENT, near)), AGENT, CONTEXT))

    def test_a_command_that_names_a_variable_it_has_not(self) -> None:
        plain = service(runtime="process", image=None, command=("serve", "--port", "${PORT}", "${MAIN_PORT}"))
        assert why_not({"web": plain}, assignment("web")).endswith("doesn't have: PORT")


class TestPolicy:
    @pytest.mark.parametrize("source", ["data", "./certs", "certs/tls"])
    def test_named_volumes_and_paths_of_the_stack_are_always_allowed(self, source: str) -> None:
        plan = service(volumes=(Volume(source=source, container_path="/x"),))
        one(desired(state_of({"web": plan}, assignment("web")), AGENT, CONTEXT))

    @pytest.mark.parametrize("source", ["../other", "./a/../../b", "a/.."])
    def test_a_path_that_leaves_the_stacks_directory_never_is(self, source: str) -> None:
        plan = service(volumes=(Volume(source=source, container_path="/x"),))
        assert "leaves the stack's directory" in why_not({"web": plan}, assignment("web"), policy=HostPolicy())

    @pytest.mark.parametrize(
        ("allowed", "source", "read_only", "ok"),
        [
            ((), "/srv/data", True, False),
            (("/srv",), "/srv/data", False, True),
            (("/srv/data",), "/srv/data", False, True),
            (("/srv/da",), "/srv/data", False, False),
            (("/srv:ro",), "/srv/data", True, True),
            (("/srv:ro",), "/srv/data", False, False),
            (("/srv",), "/srv/../etc", False, False),
            (("/srv",), "//etc", False, False),
        ],
    )
    def test_host_paths_need_a_line_in_the_policy(
        self, allowed: tuple[str, ...], source: str, read_only: bool, ok: bool
    ) -> None:
        plan = service(volumes=(Volume(source=source, container_path="/x", read_only=read_only),))
        context = HostContext(address="10.0.0.1", policy=HostPolicy(bind_mounts=allowed))
        found = desired(state_of({"web": plan}, assignment("web")), AGENT, context)
        assert bool(found.specs) == ok

    def test_the_refusal_names_the_line_that_would_allow_it(self) -> None:
        plan = service(volumes=(Volume(source="/srv/data", container_path="/x", read_only=True),))
        policy = HostPolicy(bind_mounts=("/opt",))
        assert why_not({"web": plan}, assignment("web"), policy=policy).endswith(
            '/etc/muster/policy.toml would allow it with: bind_mounts = ["/opt", "/srv/data:ro"]'
        )

    def test_a_runtime_can_be_ruled_out(self) -> None:
        plain = service(runtime="process", image=None, command=("x",))
        assert "the process runtime" in why_not(
            {"web": plain}, assignment("web"), policy=HostPolicy(runtimes=("docker",))
        )


class TestSubstitution:
    @pytest.mark.parametrize(
        ("argument", "expected"),
        [
            ("${A}", "1"),
            ("x${A}y${B}", "x1y2"),
            ("$A", "$A"),
            ("$${A}", "${A}"),
            ("$$$${A}", "$${A}"),
            ("${", "${"),
            ("$", "$"),
        ],
    )
    def test_names_in_braces_are_replaced_and_a_doubled_dollar_is_one(self, argument: str, expected: str) -> None:
        assert substitute((argument,), {"A": "1", "B": "2"}) == ((expected,), ())

    def test_values_are_not_looked_into_again(self) -> None:
        assert substitute(("${A}",), {"A": "${B}", "B": "2"})[0] == ("${B}",)

    @given(st.text())
    def test_an_escaped_text_comes_out_as_it_was(self, text: str) -> None:
        assert substitute((text.replace("$", "$$"),), {})[0] == (text,)
