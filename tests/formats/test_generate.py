"""Plans from `config.distributed.json`, and back from stacks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from agent.errors import InputError
from agent.formats.generate import decode_distributed, generate
from agent.formats.plan import decode_plan
from agent.formats.plan_of import Placement, plan_of
from agent.formats.resolve import pin_among, resolve
from agent.home import as_json
from agent.model.ledger import AssignedPort
from agent.model.stack import HealthCommand, HealthProbe, Image, PortSpec, Resources, Service, Stack, Volume
from tests.formats.test_plan import SEED

CONFIG: dict[str, Any] = {
    "stack": "translator",
    "image": "translator:latest",
    "user": "translator",
    "ssh_key_path": "/path/to/ssh/key",
    "hosts": ["main-server.example.com", "worker-1.example.com", "worker-2.example.com"],
    "base_port": 8443,
    "environment": {"JWT_SECRET": "shared"},
}
MEMBERS = {"main-server": "10.0.0.1", "worker-1": "10.0.0.2", "worker-2": "10.0.0.3"}


def config(**changes: Any) -> bytes:
    return json.dumps(CONFIG | changes).encode()


def test_a_generated_plan_has_seeds_shape_and_deploys() -> None:
    data = as_json(generate(decode_distributed(config())))
    made = json.loads(data)
    for name in ("host", "user", "ssh_key_path", "docker_image", "container_name"):
        assert made["main"][name] == SEED["main"][name]
        assert made["workers"][0][name] == SEED["workers"][0][name]
    assert [worker["ports"] for worker in made["workers"]] == [
        [{"host_port": 8444, "container_port": 8443}],
        [{"host_port": 8445, "container_port": 8443}],
    ]
    assert made["main"]["environment"] == {"JWT_SECRET": "shared", "MAIN_INSTANCE": "true"}
    assert made["workers"][1]["environment"] == {"JWT_SECRET": "shared", "WORKER_INDEX": "2"}
    stack = resolve(decode_plan(data), stack_name="x", pin=pin_among(MEMBERS))
    assert {name: service.host for name, service in stack.services.items()} == {
        "translator-main": "main-server",
        "translator-worker-1": "worker-1",
        "translator-worker-2": "worker-2",
    }


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"hosts": []}, "$.hosts"),
        ({"hosts": ["a", "b", "a"]}, "$.hosts[2]"),
        ({"hosts": ["-oProxyCommand=x"]}, "$.hosts[0]"),
        ({"base_port": 65535}, "$.base_port"),
        ({"stack": "Up"}, "$.stack"),
        ({"workers": 3}, "$"),
        ({"environment": {"A B": "x"}}, "$.environment"),
        ({"user": "a b"}, "$.user"),
    ],
)
def test_what_is_wrong_in_a_configuration_is_named(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(InputError) as caught:
        generate(decode_distributed(config(**changes)))
    assert caught.value.where.startswith(where)


def test_the_plan_of_seeds_stack_is_seeds_plan_without_the_ssh_access() -> None:
    stack = resolve(decode_plan(json.dumps(SEED).encode()), stack_name="translator", pin=pin_among(MEMBERS))
    expected = json.loads(json.dumps(SEED))
    for instance in (expected["main"], *expected["workers"]):
        del instance["user"], instance["ssh_key_path"]
        instance["host"] = instance["host"].partition(".")[0]
    made = decode_plan(as_json(plan_of(stack)))
    assert made == decode_plan(json.dumps({"stack": "translator", **expected}).encode())


def test_assigned_hosts_and_ports_stand_in_it() -> None:
    web = Service(image=Image(ref="web:1"), ports=(PortSpec(host_port=8443, container_port=80),))
    many = Service(image=Image(ref="web:1"), replicas=2)
    placed = {
        "web": [Placement(host="n2", ports=(AssignedPort(container_port=80, host_port=8450),))],
        "many": [Placement(host="n1"), Placement(host="n2")],
    }
    made = plan_of(Stack(name="shop", services={"web": web, "many": many, "away": web}), placed)
    assert made.services["web"].host == "n2"
    assert made.services["web"].ports[0].host_port == 8450
    assert made.services["many"].host is None
    assert made.services["away"].host is None


names = st.from_regex(r"[a-z]{1,6}", fullmatch=True)
services = st.builds(
    Service,
    image=st.builds(Image, ref=st.just("web:1"), digest=st.none() | st.just("sha256:" + "a" * 64)),
    command=st.lists(st.sampled_from(["run", "$HOME", ""]), max_size=2).map(tuple),
    replicas=st.integers(0, 5) | st.just("global"),
    labels=st.dictionaries(names, names, max_size=2),
    environment=st.dictionaries(names, st.text("ab $é", max_size=5), max_size=2),
    ports=st.lists(
        st.builds(PortSpec, host_port=st.integers(1, 65535), container_port=st.integers(1, 65535)), max_size=1
    ).map(tuple),
    volumes=st.lists(
        st.builds(
            Volume, source=st.sampled_from(["./a", "/b", "cc"]), container_path=st.just("/x"), read_only=st.booleans()
        ),
        max_size=2,
    ).map(tuple),
    networks=st.lists(names, max_size=2).map(tuple),
    restart_policy=st.sampled_from(["no", "on-failure", "always", "unless-stopped"]),
    health_check=st.none()
    | st.builds(
        HealthCommand,
        test=st.just(("CMD", "x")),
        interval_ms=st.integers(1, 86_400_000),
        timeout_ms=st.integers(1, 86_400_000),
        retries=st.integers(1, 100),
        start_period_ms=st.integers(0, 86_400_000),
    ),
    resources=st.builds(Resources, memory_mib=st.integers(0, 100_000), cpu_millis=st.integers(0, 100_000)),
    stop_grace_ms=st.integers(1, 86_400_000),
    move_order=st.sampled_from([UNSET, "stop-first"]),
)


@given(services)
def test_the_plan_of_a_service_resolves_to_the_same_service(service: Service) -> None:
    stack = Stack(name="shop", services={"db": service})
    again = resolve(decode_plan(as_json(plan_of(stack))), stack_name="x", pin=lambda host: host)
    assert again == stack


@pytest.mark.parametrize(
    "probe",
    [
        HealthProbe(kind="tcp", container_port=80, interval_ms=1500),
        HealthProbe(kind="http", container_port=80, path="/h", scheme="https", timeout_ms=10),
    ],
)
def test_checks_by_the_agent_are_kept(probe: HealthProbe) -> None:
    web = Service(image=Image(ref="w"), ports=(PortSpec(host_port=80, container_port=80),), health=probe)
    stack = Stack(name="shop", services={"db": web})
    assert resolve(decode_plan(as_json(plan_of(stack))), stack_name="x", pin=lambda host: host) == stack
