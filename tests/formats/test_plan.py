"""SEED's deployment plan, and what becomes of it (docs/seed.md "Deployment plan format")."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import InputError
from agent.formats.plan import Plan, decode_plan
from agent.formats.resolve import pin_among, resolve, stack_name_of
from agent.instruction import encode_body
from agent.model.decode import decode_json
from agent.model.stack import HealthCommand, HealthProbe, Image, PortSpec, Resources, Service, Stack, Volume

MEMBERS = {"main-server": "10.0.0.1", "worker-1": "10.0.0.2", "n3": "n3.example.net"}
PIN = pin_among(MEMBERS)

SEED: dict[str, Any] = {
    "main": {
        "host": "main-server.example.com",
        "user": "translator",
        "ssh_key_path": "/path/to/ssh/key",
        "docker_image": "translator:latest",
        "container_name": "translator-main",
        "ports": [{"host_port": 8443, "container_port": 8443, "protocol": "tcp"}],
        "environment": {"JWT_SECRET": "main-server-secret", "MAIN_INSTANCE": "true"},
        "volumes": [{"host_path": "./certs", "container_path": "/app/certs", "read_only": True}],
        "networks": ["translator-network"],
        "restart_policy": "unless-stopped",
        "health_check": {
            "test": ["CMD", "curl", "-f", "https://localhost:8443/health"],
            "interval": "30s",
            "timeout": "10s",
            "retries": 3,
        },
    },
    "workers": [
        {
            "host": "worker-1.example.com",
            "user": "translator",
            "ssh_key_path": "/path/to/ssh/key",
            "docker_image": "translator:latest",
            "container_name": "translator-worker-1",
            "ports": [{"host_port": 8444, "container_port": 8443, "protocol": "tcp"}],
            "environment": {"JWT_SECRET": "worker-1-secret", "WORKER_INDEX": "1"},
        }
    ],
}


def resolved(plan: dict[str, Any], name: str = "plan") -> Stack:
    return resolve(decode_plan(json.dumps(plan).encode()), stack_name=name, pin=PIN)


def main(**changes: Any) -> dict[str, Any]:
    """SEED's plan with keys of main changed; None takes one out."""
    plan = copy.deepcopy(SEED)
    plan["main"] = {name: value for name, value in (plan["main"] | changes).items() if value is not None}
    return plan


def service(**keys: Any) -> Service:
    """A lone service of a plan without main."""
    return resolved({"services": {"web": {"docker_image": "web:1", **keys}}}).services["web"]


def refusal(plan: dict[str, Any]) -> tuple[str, str]:
    with pytest.raises(InputError) as caught:
        resolved(plan)
    return caught.value.where, caught.value.what


def test_seed_s_own_plan_becomes_a_stack() -> None:
    plan = resolved(SEED, "translator")
    assert plan == Stack(
        name="translator",
        services={
            "translator-main": Service(
                role="main",
                image=Image(ref="translator:latest"),
                container_name="translator-main",
                host="main-server",
                environment={"JWT_SECRET": "main-server-secret", "MAIN_INSTANCE": "true"},
                ports=(PortSpec(host_port=8443, container_port=8443),),
                volumes=(Volume(source="./certs", container_path="/app/certs", read_only=True),),
                networks=("translator-network",),
                health_check=HealthCommand(
                    test=("CMD", "curl", "-f", "https://localhost:8443/health"),
                    interval_ms=30_000,
                    timeout_ms=10_000,
                    retries=3,
                ),
            ),
            "translator-worker-1": Service(
                role="worker",
                image=Image(ref="translator:latest"),
                container_name="translator-worker-1",
                host="worker-1",
                environment={"JWT_SECRET": "worker-1-secret", "WORKER_INDEX": "1"},
                ports=(PortSpec(host_port=8444, container_port=8443),),
            ),
        },
    )


def test_how_hosts_are_reached_stays_out_of_the_signed_body() -> None:
    body = encode_body(resolved(SEED))
    assert b"/path/to/ssh/key" not in body
    assert b'"user"' not in body


def test_what_is_resolved_reads_back_as_a_body() -> None:
    body = encode_body(resolved(SEED))
    assert decode_json(body, Stack, max_bytes=len(body)) == resolved(SEED)


def test_the_plan_s_own_name_counts_before_the_given_one() -> None:
    assert resolved(SEED | {"stack": "books"}, "other").name == "books"
    assert resolved(SEED, "other").name == "other"
    with pytest.raises(InputError, match="is no stack name"):
        resolved(SEED, "Not A Label")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("deployment-plan.json", "deployment-plan"),
        ("/srv/My Plan.json", "my-plan"),
        ("C:\\plans\\a.b.json", "a-b"),
        ("-", "stack"),
        ("ÄÖ.json", "stack"),
        ("x" * 80, "x" * 63),
    ],
)
def test_a_stack_is_named_after_its_file(file: str, name: str) -> None:
    assert stack_name_of(file) == name


@given(st.text(max_size=100))
def test_every_file_name_gives_a_stack_name(file: str) -> None:
    assert resolved(SEED, stack_name_of(file)).name == stack_name_of(file)


def test_services_come_first_and_main_may_be_missing() -> None:
    plan = resolved({**SEED, "services": {"postgres": {"docker_image": "postgres:15-alpine"}}})
    assert [(name, s.role) for name, s in plan.services.items()] == [
        ("postgres", "service"),
        ("translator-main", "main"),
        ("translator-worker-1", "worker"),
    ]
    assert list(resolved({"services": {"web": {"docker_image": "web:1"}}}).services) == ["web"]


@pytest.mark.parametrize("plan", [{}, {"workers": SEED["workers"]}, {"services": {}}])
def test_a_plan_has_main_or_services(plan: dict[str, Any]) -> None:
    assert refusal(plan) == ("$", "missing field `main`")


def test_instances_without_a_name_that_is_a_label_get_one() -> None:
    worker = {"docker_image": "w:1"}
    plan = {"main": {"docker_image": "m:1", "container_name": "My_Main"}, "workers": [worker, worker]}
    stack = resolved(plan)
    assert list(stack.services) == ["main", "worker-1", "worker-2"]
    assert stack.services["main"].container_name == "My_Main"


def test_one_container_name_on_different_hosts_is_fine() -> None:
    plan = {
        "main": SEED["main"],
        "workers": [{"docker_image": "w:1", "container_name": "ww", "host": h} for h in MEMBERS],
    }
    stack = resolved(plan)
    assert list(stack.services) == ["translator-main", "worker-1", "worker-2", "worker-3"]
    assert {s.container_name for n, s in stack.services.items() if n != "translator-main"} == {"ww"}


@pytest.mark.parametrize("hosts", [(None, None), ("n3", None), ("n3", "n3")])
def test_one_container_name_where_they_could_meet_is_refused(hosts: tuple[str | None, ...]) -> None:
    workers = [{"docker_image": "w:1", "container_name": "ww"} | ({"host": h} if h else {}) for h in hosts]
    where, what = refusal({"main": SEED["main"], "workers": workers})
    assert where == "$.workers[1].container_name"
    assert "worker-1" in what


def test_a_service_name_is_taken_once() -> None:
    where, what = refusal({**SEED, "services": {"translator-main": {"docker_image": "x:1"}}})
    assert (where, what) == ("$.main", "the service name `translator-main` is taken")


@pytest.mark.parametrize(
    ("host", "member"),
    [
        ("main-server", "main-server"),
        ("main-server.example.com", "main-server"),
        ("MAIN-SERVER.example.com.", "main-server"),
        ("10.0.0.1", "main-server"),
        ("n3.example.net", "n3"),
        ("n3", "n3"),
        ("n4", None),
        ("n4.example.com", None),
        ("10.0.0.9", None),
        ("main-server-2.example.com", None),
    ],
)
def test_hosts_are_members_by_name_address_or_fqdn(host: str, member: str | None) -> None:
    assert PIN(host) == member


def test_an_address_is_no_fqdn() -> None:
    assert pin_among({"10": "192.168.0.1"})("10.0.0.5") is None


def test_an_unknown_host_is_named_where_it_stands() -> None:
    plan = copy.deepcopy(SEED)
    plan["workers"] += [plan["workers"][0] | {"container_name": "w2"}, {"host": "nowhere", "docker_image": "x:1"}]
    assert refusal(plan) == ("$.workers[2].host", "nowhere is no member of the cluster")


def test_the_optional_keys() -> None:
    got = service(
        replicas=3,
        labels={"zone": "a"},
        command=["serve", "--fast"],
        ports=[{"host_port": 8080, "container_port": 80}],
        resources={"memory": "512m", "cpus": 0.5},
        stop_grace="1m30s",
        move_order="stop-first",
        health={"http": {"port": 80, "path": "/health", "scheme": "https"}, "interval": "500ms", "timeout": "1s"},
    )
    assert (got.replicas, got.labels, got.command) == (3, {"zone": "a"}, ("serve", "--fast"))
    assert got.resources == Resources(memory_mib=512, cpu_millis=500)
    assert got.health == HealthProbe(
        kind="http", container_port=80, path="/health", scheme="https", interval_ms=500, timeout_ms=1000
    )
    assert (got.stop_grace_ms, service().stop_grace_ms) == (90_000, 10_000)
    assert got.move_order == "stop-first"
    assert service(move_order="start-first") == service()
    assert service(replicas="global").replicas == "global"
    assert service(docker_image={"ref": "x:1", "digest": "sha256:" + "0" * 64}).image == Image(
        ref="x:1", digest="sha256:" + "0" * 64
    )


def test_a_process_has_a_command_and_no_image() -> None:
    plan = {"services": {"web": {"runtime": "process", "command": ["/usr/bin/web"]}}}
    assert resolved(plan).services["web"] == Service(runtime="process", command=("/usr/bin/web",))


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        (
            {"health_check": {"test": ["CMD", "true"], "start_period": "0s", "interval": "0s"}},
            "$.main.health_check.interval",
            "expected 1ms to 24h, got 0s",
        ),
        ({"health_check": {"test": ["CMD", "x"], "timeout": "25h"}}, "$.main.health_check.timeout", "1ms to 24h"),
        ({"health_check": {"test": ["CMD", "x"], "interval": "30"}}, "$.main.health_check.interval", 'such as "30s"'),
        ({"health_check": {"test": ["curl"]}}, "$.main.health_check.test", '"CMD", "CMD-SHELL" or "NONE" first'),
        ({"health_check": {"test": ["CMD"]}}, "$.main.health_check.test", "CMD without a command"),
        ({"health_check": {"test": []}}, "$.main.health_check.test", "1 or more items"),
        ({"health_check": {"test": ["NONE"], "tset": 1}}, "$.main.health_check", "unknown field `tset`"),
        ({"health": {}}, "$.main.health", "exactly one of `http` and `tcp`"),
        (
            {"health": {"http": {"port": 8443}, "tcp": {"port": 8443}}},
            "$.main.health",
            "exactly one of `http` and `tcp`",
        ),
        ({"health": {"tcp": {"port": 81}}}, "$.main.health.tcp.port", "81 is none of the container ports"),
        ({"health": {"http": {"port": 8443, "path": "x"}}}, "$.main.health.http.path", "a path from /"),
        ({"resources": {"memory": "lots"}}, "$.main.resources.memory", 'such as "512m"'),
        ({"resources": {"memory": 512}}, "$.main.resources.memory", "expected text, got 512"),
        ({"resources": {"cpus": 0}}, "$.main.resources.cpus", "0.001..1024"),
        ({"docker_image": None}, "$.main", "missing field `docker_image`"),
        ({"docker_image": ""}, "$.main.docker_image", "1 or more characters"),
        ({"docker_image": "-v"}, "$.main.docker_image", 'expected name[:tag], got "-v"'),
        ({"container_name": "../x"}, "$.main.container_name", "Docker's container name rule"),
        ({"ports": [{"host_port": 70000, "container_port": 1}]}, "$.main.ports[0].host_port", "1..65535, got 70000"),
        ({"ports": [{"host_port": 8443}]}, "$.main.ports[0]", "missing field `container_port`"),
        (
            {"ports": [{"host_port": 1, "container_port": 80}, {"host_port": 2, "container_port": 80}]},
            "$.main.ports[1].container_port",
            "80/tcp stands twice",
        ),
        (
            {"ports": [{"host_port": 1, "container_port": 1, "validation": "off"}]},
            "$.main.ports[0].validation",
            'one of "all", "host", "none"',
        ),
        (
            {"ports": [{"host_port": 53, "container_port": 53, "protocol": "udp", "validation": "host"}]},
            "$.main.ports[0].validation",
            "UDP ports aren't asked",
        ),
        ({"environment": {"1X": "secret"}}, '$.main.environment["1X"]', "expected a key of a variable's name"),
        ({"environment": {"X": "secret\n"}}, "$.main.environment.X", "got a text of 7 characters"),
        ({"environment": {"X": 8}}, "$.main.environment.X", "expected text, got a number"),
        ({"environment": ["X=secret"]}, "$.main.environment", "expected an object, got an array"),
        ({"volumes": [{"host_path": "../x", "container_path": "/x"}]}, "$.main.volumes[0].host_path", "`..`"),
        ({"volumes": [{"host_path": "./a/../../x", "container_path": "/x"}]}, "$.main.volumes[0].host_path", "`..`"),
        ({"volumes": [{"host_path": "a/b", "container_path": "/x"}]}, "$.main.volumes[0].host_path", "neither a path"),
        ({"volumes": [{"host_path": "~/x", "container_path": "/x"}]}, "$.main.volumes[0].host_path", "neither a path"),
        ({"volumes": [{"host_path": "/a:b", "container_path": "/x"}]}, "$.main.volumes[0].host_path", "without colons"),
        (
            {"volumes": [{"host_path": "/a", "container_path": "x"}]},
            "$.main.volumes[0].container_path",
            "absolute path",
        ),
        ({"networks": ["Net_1"]}, "$.main.networks[0]", "RFC 1123"),
        ({"restart_policy": "sometimes"}, "$.main.restart_policy", 'one of "always"'),
        ({"stop_grace": "0s"}, "$.main.stop_grace", "expected 1ms to 24h, got 0s"),
        ({"stop_grace": 10}, "$.main.stop_grace", "got 10"),
        ({"move_order": "first"}, "$.main.move_order", 'one of "start-first"'),
        ({"user": "-oProxyCommand=x"}, "$.main.user", "got"),
        ({"host": "-oProxyCommand=x"}, "$.main.host", "an IP address or a host name"),
        ({"replicas": "global"}, "$.main.host", "can't be pinned"),
        ({"replicas": -1}, "$.main.replicas", "0..10000, got -1"),
        ({"runtime": "process", "docker_image": None}, "$.main.volumes", "only for a container"),
        ({"runtime": "podman"}, "$.main.runtime", 'one of "docker", "process"'),
        ({"reschedule_after": "60s"}, "$.main.reschedule_after", "is not supported by this version"),
        ({"singleton": "fenced"}, "$.main.singleton", "is not supported by this version"),
        ({"secrets": {}}, "$.main.secrets", "is not supported by this version"),
        ({"enviroment": {}}, "$.main", "unknown field `enviroment`"),
        ({"privileged": True}, "$.main", "unknown field `privileged`"),
    ],
)
def test_what_is_wrong_is_named_where_it_stands(changes: dict[str, Any], where: str, what: str) -> None:
    got_where, got_what = refusal(main(**changes))
    assert got_where == where
    assert what in got_what
    assert "secret" not in got_what.replace("`secrets`", "")


@pytest.mark.parametrize("key", ["version", "hosts", "service"])
def test_unknown_keys_at_the_top_are_refused(key: str) -> None:
    assert refusal({**SEED, key: 1})[1].startswith(f"unknown field `{key}`")


def test_the_file_can_be_part_of_the_place() -> None:
    with pytest.raises(InputError) as caught:
        decode_plan(json.dumps(main(user=7)).encode(), where="plan.json: $")
    assert str(caught.value) == "plan.json: $.main.user: expected text, got 7"


paths = st.lists(st.sampled_from(["", ".", "..", "a", "~", "/", ":", "\x00", "certs"]), max_size=5).map("/".join)


@given(paths)
def test_no_relative_path_leaves_the_stack_s_directory(path: str) -> None:
    plan = main(volumes=[{"host_path": path, "container_path": "/x"}])
    try:
        source = resolved(plan).services["translator-main"].volumes[0].source
    except InputError:
        return
    assert ".." not in source.split("/")
    assert source.startswith(("/", "./")) or source == "." or "/" not in source


instances = st.fixed_dictionaries(
    {"docker_image": st.just("x:1")},
    optional={
        "host": st.sampled_from([*MEMBERS, "nowhere"]),
        "container_name": st.sampled_from(["aa", "worker-2", "main", "A_b"]),
        "replicas": st.sampled_from([0, 1, "global"]),
        "ports": st.lists(
            st.fixed_dictionaries({"host_port": st.integers(0, 70000), "container_port": st.integers(1, 9)}), max_size=3
        ),
        "health": st.just({"tcp": {"port": 3}}),
        "health_check": st.just({"test": ["CMD", "x"], "interval": "1s"}),
    },
)


@given(
    st.fixed_dictionaries(
        {"main": instances},
        optional={
            "workers": st.lists(instances, max_size=4),
            "services": st.dictionaries(st.sampled_from(["main", "web", "worker-1"]), instances, max_size=2),
        },
    )
)
def test_every_instance_becomes_one_service_or_the_plan_is_refused(plan: dict[str, Any]) -> None:
    try:
        got = resolved(plan)
    except InputError as error:
        place = error.where
    else:
        place = "$."
        count = 1 + len(plan.get("workers", ())) + len(plan.get("services", ()))
        assert len(got.services) == count
    assert place.startswith("$.")


def test_a_plan_is_read_once_and_frozen() -> None:
    plan = decode_plan(json.dumps(SEED).encode())
    assert isinstance(plan, Plan)
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan
