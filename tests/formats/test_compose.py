"""The compose file: SEED's own, and that it says what was planned whatever stands in the plan."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from agent.formats.compose import compose_file, compose_files
from agent.model.ledger import AssignedPort
from agent.model.stack import HealthCommand, Image, Resources, Volume
from tests.support.replicas import key, process_spec, spec

SEED_MAIN = """\
  translator-main:
    image: translator:latest
    container_name: translator-main
    ports:
      - "8443:8443"
    environment:
      - JWT_SECRET=main-server-secret
    volumes:
      - ./certs:/app/certs:ro
    networks:
      - translator-network
    restart: unless-stopped
    healthcheck:
      test: ["CMD", "curl", "-f", "https://localhost:8443/health"]
      interval: 30s
      timeout: 10s
      retries: 3
"""
SEED_END = """
networks:
  translator-network:
    driver: bridge

volumes:
  postgres-data:
"""


def read(*specs: Any, publish_address: str = "0.0.0.0") -> Any:
    return yaml.safe_load(compose_file(specs, publish_address=publish_address))


def port(host_port: int, container_port: int = 8000, **more: Any) -> AssignedPort:
    return AssignedPort(host_port=host_port, container_port=container_port, **more)


def translator() -> Any:
    return spec(
        "translator-main",
        container_name="translator-main",
        image=Image(ref="translator:latest"),
        ports=(port(8443, 8443),),
        environment={"JWT_SECRET": "main-server-secret"},
        facts={"MUSTER_HOST": "192.168.1.100"},
        volumes=(Volume(source="./certs", container_path="/app/certs", read_only=True),),
        networks=("translator-network",),
        health_check=HealthCommand(
            test=("CMD", "curl", "-f", "https://localhost:8443/health"),
            interval_ms=30_000,
            timeout_ms=10_000,
            retries=3,
        ),
    )


def test_seeds_main_reads_as_seed_writes_it() -> None:
    postgres = spec(
        "postgres",
        image=Image(ref="postgres:15-alpine"),
        volumes=(Volume(source="postgres-data", container_path="/var/lib/postgresql/data"),),
        networks=("translator-network",),
    )
    text = compose_file([translator(), postgres], publish_address="0.0.0.0")
    assert SEED_MAIN in text
    assert text.endswith(SEED_END)
    assert yaml.safe_load(text)["version"] == "3.8"


def test_what_the_agent_adds_to_the_environment_isnt_in_it() -> None:
    assert "MUSTER_HOST" not in compose_file([translator()], publish_address="0.0.0.0")


@pytest.mark.parametrize(
    ("address", "published"),
    [("0.0.0.0", "22:22"), ("127.0.0.2", "127.0.0.2:22:22"), ("fd00::1", "[fd00::1]:22:22")],
)
def test_ports_are_text_and_on_the_publish_address(address: str, published: str) -> None:
    # YAML 1.1 would read a bare 22:22 as the number 1342.
    made = spec(ports=(port(22, 22), port(53, 53, protocol="udp")))
    ports = read(made, publish_address=address)["services"]["web"]["ports"]
    assert ports == [published, published.replace("22:22", "53:53") + "/udp"]


def test_replicas_of_a_service_share_its_entry_with_all_their_ports() -> None:
    entry = read(spec("web", 2, ports=(8001,)), spec("web", 1, ports=(8000,)))["services"]["web"]
    assert entry["ports"] == ["8000:8000", "8001:8000"]
    assert entry["deploy"] == {"replicas": 2}
    assert "container_name" not in entry


def test_without_networks_it_is_on_the_engines_bridge() -> None:
    document = read(spec())
    assert document["services"]["web"]["network_mode"] == "bridge"
    assert "networks" not in document


def test_limits_policies_and_commands() -> None:
    entry = read(
        spec(
            resources=Resources(memory_mib=512, cpu_millis=500),
            restart_policy="no",
            stop_grace_ms=90_000,
            command=("sh", "-c", "echo $HOME"),
            health_check=HealthCommand(test=("CMD-SHELL", "true"), start_period_ms=90_000),
        )
    )["services"]["web"]
    assert entry["deploy"]["resources"]["limits"] == {"cpus": "0.5", "memory": "512M"}
    assert entry["restart"] == "no"
    assert entry["stop_grace_period"] == "1m30s"
    assert entry["command"] == ["sh", "-c", "echo $$HOME"]
    assert entry["healthcheck"]["start_period"] == "1m30s"


def test_a_stack_of_plain_processes_has_no_file() -> None:
    other = spec(key=key(stack="blog"))
    assert compose_files([process_spec("api", "run"), other], publish_address="").keys() == {"blog"}


values = st.text(st.characters(exclude_characters="\x00\n\r", exclude_categories=["Cs"]), max_size=30)


@example("\x85", "\u2028", "a")
@given(values, values, st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True))
def test_any_value_is_read_back_as_it_was_planned(value: str, argument: str, name: str) -> None:
    made = spec(key=key(name), environment={"V": value}, command=("run", argument), networks=(name,))
    document = read(made)
    entry = document["services"][name]
    assert [text.replace("$$", "$") for text in entry["environment"]] == [f"V={value}"]
    assert entry["command"][1].replace("$$", "$") == argument
    assert document["networks"].keys() == {name}


@given(values)
def test_compose_never_replaces_anything_in_a_value(value: str) -> None:
    (written,) = read(spec(environment={"V": value}))["services"]["web"]["environment"]
    assert "$" not in written.replace("$$", "")
