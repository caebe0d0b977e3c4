"""Docker Swarm on the same hosts, for the same work. Stock but for one thing: it may use images that it has."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.bootstrap.desk import Desk
from tests.lab import Host
from tests.support.waiting import wait_for_sync

IMAGE = "muster-web:demo"
READY_TIMEOUT_S = 60.0

# Without it Swarm asks a registry for every image, which costs 20 s where there is none.
OFFLINE = "[Service]\nEnvironment=DOCKER_SERVICE_PREFER_OFFLINE_IMAGE=1\n"
DROP_IN = "/etc/systemd/system/docker.service.d/offline.conf"


def prepare(desk: Desk) -> None:
    """Once for the hosts of a lab: the setting, and the image."""
    script = 'mkdir -p "${1%/*}" && cat > "$1" && systemctl daemon-reload && systemctl restart docker'
    for host in desk.lab.hosts.values():
        host.run(["sh", "-c", script, "sh", DROP_IN], input=OFFLINE)
        host.load_image(IMAGE)


@contextmanager
def swarm(desk: Desk) -> Iterator[Host]:
    """A swarm of all hosts, made as fast as it can be: the first is the manager, which is yielded."""
    first, *others = desk.lab.hosts.values()
    try:
        first.run(["docker", "swarm", "init", "--advertise-addr", first.address])
        token = first.run(["docker", "swarm", "join-token", "-q", "worker"]).stdout.strip()
        join = ["docker", "swarm", "join", "--token", token, f"{first.address}:2377"]
        with ThreadPoolExecutor(len(others)) as pool:
            list(pool.map(lambda host: host.run(join), others))
        wait_for_sync(lambda: ready_nodes(first) == len(desk.lab.hosts), READY_TIMEOUT_S, what="all nodes ready")
        yield first
    finally:
        for host in (*others, first):
            host.run(["docker", "swarm", "leave", "--force"], check=False)


def ready_nodes(manager: Host) -> int:
    """How many nodes the manager sees ready."""
    return manager.run(["docker", "node", "ls", "--format", "{{.Status}}"]).stdout.split().count("Ready")


def create_service(manager: Host, port: int) -> float:
    """A container on each host; seconds until its CLI is back, which watches until all of them have run a while."""
    argv = ["docker", "service", "create", "--name", "bench", "--mode", "global", "--no-resolve-image", "--quiet"]
    argv += ["--publish", f"mode=host,published={port},target=8080", IMAGE]
    return manager.run(argv).seconds


def remove_service(manager: Host) -> None:
    """And all its containers."""
    manager.run(["docker", "service", "rm", "bench"])
