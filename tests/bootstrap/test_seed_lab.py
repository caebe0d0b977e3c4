"""SEED's own plan, as it stands there, on booted hosts with Docker: from the list of hosts to what its reader checks.

The images stand for the translator and its database: they serve HTTP where those would, and have a `curl`.
The tests are one story and run in order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.bootstrap.desk import Desk, desk_of
from tests.formats.test_plan import SEED
from tests.lab import Lab, images
from tests.support.waiting import wait_for_sync

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

HOSTS = {"main-server": "n1", "worker-1": "n2"}
TRANSLATOR = """\
#!/bin/sh
# SEED's health check asks by curl and https; busybox has wget and http.
printf '#!/bin/sh\\nfor url; do :; done\\nexec wget -qO- "http${url#https}"\\n' > /bin/curl
chmod +x /bin/curl
[ -z "$MAIN_INSTANCE" ] || [ -s /app/certs/server.crt ] || { echo "there are no certificates"; exit 1; }
[ -n "$MAIN_INSTANCE" ] || echo "main is at $MAIN_HOST:$MAIN_PORT"
httpd -f -p 8443 -h /www &
trap "kill $!; exit 0" TERM INT
wait $!
"""
POSTGRES = TRANSLATOR.replace("8443", "5432").replace("[ -z", "[ x ] || [ -z").replace("[ -n", "[ x ] || [ -n")
DATABASE = {
    "postgres": {
        "docker_image": "postgres:15-alpine",
        "host": "main-server.example.com",
        "environment": {"POSTGRES_USER": "translator", "POSTGRES_PASSWORD": "secure_password"},
        "volumes": [{"host_path": "postgres-data", "container_path": "/var/lib/postgresql/data"}],
        "ports": [{"host_port": 5432, "container_port": 5432}],
    }
}
GONE_WITHIN_S = 20.0  # two sweeps of the hosting loop
INSPECTED = "{{json .HostConfig.RestartPolicy}}|{{json .NetworkSettings.Networks}}|{{json .Config.Healthcheck}}"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    if reason := Lab.unavailable():
        pytest.skip(reason)
    with Lab.up(2, name=f"s{os.getpid()}") as lab, desk_of(lab, tmp_path_factory.mktemp("desk")) as made:
        home = lab.operator.home
        made.write_hosts(*(f"{name}.example.com ansible_host={host} user=root" for name, host in HOSTS.items()))
        made.install()
        for name, script in {"translator:latest": TRANSLATOR, "postgres:15-alpine": POSTGRES}.items():
            (home / "image.tar").write_bytes(images.archive(lab.base, name, script))
            made.run("agent", "load", "image.tar")
        (home / "certs").mkdir()
        (home / "certs" / "server.crt").write_text("a certificate")
        yield made


def write_plan(desk: Desk, **more: Any) -> None:
    (desk.lab.operator.home / "deployment-plan.json").write_text(json.dumps(SEED | more))


def on_host(desk: Desk, name: str, *argv: str) -> str:
    return desk.lab.host(HOSTS[name]).run(argv).stdout.strip()


def container(desk: Desk, name: str, container_name: str) -> str:
    return on_host(desk, name, "docker", "inspect", "--format", "{{.Id}}", container_name)


def told_in_order(text: str, *wanted: str) -> bool:
    lines = iter(text.splitlines())
    return all(any(line.strip() == want for line in lines) for want in wanted)


def test_the_plan_is_deployed_as_it_stands_through_all_four_phases(desk: Desk) -> None:
    write_plan(desk)
    said = desk.run("agent", "deploy", "deployment-plan.json", "--stack", "translator").stdout
    phases = (f"translator: {phase}" for phase in ("preparing", "main", "workers", "validating", "healthy"))
    assert told_in_order(said, *phases), said
    assert "translator-worker-1 is registered with translator-main on main-server" in said
    status = desk.status()
    found = {name: (each["port"], each["status"]) for name, each in status["instances"].items()}
    assert found == {"translator-main": (8443, "healthy"), "translator-worker-1": (8444, "healthy")}
    assert status["health_score"] == 100


def test_the_containers_are_what_the_plan_says(desk: Desk) -> None:
    shown = on_host(desk, "main-server", "docker", "inspect", "--format", INSPECTED, "translator-main")
    _, networks, check = (json.loads(part) for part in shown.split("|"))
    assert [name for name in networks if name.endswith("translator-network")], networks
    assert check["Test"] == ["CMD", "curl", "-f", "https://localhost:8443/health"]
    assert on_host(desk, "main-server", "docker", "exec", "translator-main", "cat", "/app/certs/server.crt")
    assert desk.run("curl", "-sf", "http://n1:8443/health").stdout == "ok\n"
    assert desk.run("curl", "-sf", "http://n2:8444/health").stdout == "ok\n"
    logs = desk.run("agent", "logs", "translator").stdout
    assert f"main is at {desk.lab.host('n1').address}:8443" in logs
    path = "/var/lib/muster/stacks/translator/docker-compose.yml"
    shown = on_host(desk, "main-server", "sh", "-c", f"until test -e {path}; do sleep 0.1; done; cat {path}")
    made = yaml.safe_load(shown)["services"]["translator-main"]
    assert (made["image"], made["container_name"]) == ("translator:latest", "translator-main")
    assert made["healthcheck"]["test"] == ["CMD", "curl", "-f", "https://localhost:8443/health"]
    assert on_host(desk, "main-server", "stat", "-c", "%a", path) == "600"


def test_the_database_joins_and_nothing_else_is_touched(desk: Desk) -> None:
    before = container(desk, "main-server", "translator-main"), container(desk, "worker-1", "translator-worker-1")
    write_plan(desk, services=DATABASE)
    shown = desk.run("agent", "deploy", "deployment-plan.json", "--stack", "translator", "--dry-run").stdout
    assert shown.splitlines()[1:] == ["+ postgres", "  translator-main", "  translator-worker-1"]
    said = desk.run("agent", "deploy", "deployment-plan.json", "--stack", "translator").stdout
    assert told_in_order(said, "translator: services", "translator: validating", "translator: healthy"), said
    after = container(desk, "main-server", "translator-main"), container(desk, "worker-1", "translator-worker-1")
    assert after == before
    assert desk.run("curl", "-sf", "http://n1:5432/health").stdout == "ok\n"


def test_cleanup_leaves_the_data_and_nothing_else(desk: Desk) -> None:
    desk.run("agent", "cleanup", "translator", "--yes")

    def left() -> list[str]:
        networks = ("docker", "network", "ls", "--quiet", "--filter", "name=translator")
        lines = (on_host(desk, name, *argv) for name in HOSTS for argv in (("docker", "ps", "-aq"), networks))
        return [line for line in lines if line]

    wait_for_sync(lambda: not left(), GONE_WITHIN_S, what="no container and no network")
    assert "postgres-data" in on_host(desk, "main-server", "docker", "volume", "ls", "-q")
    assert desk.status()["stacks"] == []
