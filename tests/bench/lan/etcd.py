"""etcd on the same hosts: Debian's, a member on each, with its own defaults and without TLS."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from tests.bench.lan.cluster import on_all, process_of
from tests.bootstrap.desk import Desk
from tests.support.waiting import wait_for_sync

START_TIMEOUT_S = 30.0


def is_there() -> bool:
    """Whether this machine has one to copy; says on stderr when not."""
    if shutil.which("etcd") and shutil.which("etcdctl"):
        return True
    print("etcd isn't measured: apt-get install etcd-server etcd-client", file=sys.stderr)
    return False


@contextmanager
def etcd(desk: Desk) -> Iterator[str]:
    """A member on each host, running and healthy; the leader's host is yielded."""
    for host in desk.lab.hosts.values():
        for program in ("etcd", "etcdctl"):
            shutil.copy2(shutil.which(program) or program, host.root / "usr/local/bin")
    try:
        for name in desk.lab.hosts:
            start_member(desk, name)
        wait_for_sync(lambda: leader(desk), START_TIMEOUT_S, what="an etcd leader", interval_s=0.5)
        found = leader(desk)
        assert found is not None
        yield found
    finally:
        on_all(desk, "sh", "-c", "systemctl stop bench-etcd; rm -rf /var/lib/etcd")


def start_member(desk: Desk, name: str) -> None:
    """Start the host's member unless it runs; with the data that it has, if it has been a member before."""
    host = desk.lab.hosts[name]
    members = ",".join(f"{other}=http://{each.address}:2380" for other, each in desk.lab.hosts.items())
    peer, client = f"http://{host.address}:2380", f"http://{host.address}:2379"
    argv = ["systemd-run", "--quiet", "--unit=bench-etcd", "etcd", "--name", name, "--data-dir=/var/lib/etcd"]
    argv += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
    argv += ["--listen-client-urls", client, "--advertise-client-urls", client]
    if not host.run(["systemctl", "is-active", "--quiet", "bench-etcd"], check=False).ok:
        host.run([*argv, "--initial-cluster", members])


def leader(desk: Desk) -> str | None:
    """The host of the member that leads, once all answer."""
    found = None
    for name, host in desk.lab.hosts.items():
        argv = ["etcdctl", "--endpoints", f"http://{host.address}:2379", "endpoint", "status"]
        said = host.run(["env", "ETCDCTL_API=3", *argv], check=False)
        if not said.ok:
            return None
        if said.stdout.split(", ")[4] == "true":
            found = name
    return found


def processes(desk: Desk) -> dict[str, psutil.Process]:
    """By host."""
    return {name: process_of(host, "--data-dir=/var/lib/etcd", "--name") for name, host in desk.lab.hosts.items()}
