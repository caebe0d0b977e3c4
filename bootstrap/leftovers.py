"""Ends what the agents of a local cluster ran, after the agents themselves are gone.

Workloads outlive their agent by design, so nobody else would end them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from agent.errors import InputError, MusterError
from agent.model.types import ClusterId
from bootstrap import processes

RECORDS_DIRECTORY = "processes"  # the process runtime's records, one JSON file for a replica, in its data directory
STOP_GRACE_S = 3.0  # demonstrations and tests need no more
DOCKER_TIMEOUT_S = 3  # a local engine answers in milliseconds

DOCKER_SOCKET = "unix:///var/run/docker.sock"  # where it is unless DOCKER_HOST says so

CLUSTER_LABEL = "muster.cluster"


class Run(Struct, frozen=True):
    """The one field of a record that is needed: everything of that run has it in its environment as MUSTER_RUN."""

    run: str


def end_processes(data_dirs: Iterable[Path]) -> None:
    """End what the process runtimes of these agents started, and delete the records. Raises MusterError for what won't
    end.
    """
    records = [path for directory in data_dirs for path in sorted((directory / RECORDS_DIRECTORY).glob("*.json"))]
    runs = []
    for path in records:
        try:
            runs.append(msgspec.json.decode(path.read_bytes(), type=Run).run)
        except msgspec.MsgspecError as error:
            raise InputError(f"not a record of a process: {error}", where=str(path)) from None
    left = processes.end_all([f"MUSTER_RUN={run}".encode() for run in runs if run], grace_s=STOP_GRACE_S)
    if left:
        raise MusterError(f"processes that can't be ended: {', '.join(map(str, left))}", fix="`ps -fp` shows them.")
    for path in records:
        path.unlink(missing_ok=True)


def docker_answers() -> bool:
    """Whether this machine has a container engine that we may use."""
    try:
        client = _docker()
    except MusterError:
        return False
    client.close()
    return True


def remove_containers(cluster: ClusterId) -> None:
    """Remove every container, network and volume of the cluster. Raises MusterError when the engine doesn't answer."""
    import docker.errors

    client = _docker()
    ours = {"label": f"{CLUSTER_LABEL}={cluster}"}
    try:
        for container in client.containers.list(all=True, filters=ours):
            container.remove(force=True, v=True)
        for network in client.networks.list(filters=ours):
            network.remove()
        for volume in client.volumes.list(filters=ours):
            volume.remove(force=True)
    except docker.errors.APIError as error:
        raise MusterError(f"Docker refuses: {error.explanation}", where="docker") from None
    finally:
        client.close()


def _docker() -> Any:  # docker-py's client, whose attributes have no types
    """A client whose engine has just answered."""
    import docker
    import docker.errors
    import requests

    _check_socket(os.environ.get("DOCKER_HOST", DOCKER_SOCKET))
    try:
        client = docker.from_env(timeout=DOCKER_TIMEOUT_S)
    except docker.errors.DockerException as error:
        raise MusterError(f"Docker doesn't answer: {error}", where="docker") from None
    try:
        client.ping()
    except (docker.errors.DockerException, requests.RequestException) as error:
        client.close()
        raise MusterError(f"Docker doesn't answer: {error}", where="docker") from None
    return client


def _check_socket(url: str) -> None:
    """A Unix socket is tried first: docker-py doesn't close the one that it couldn't connect."""
    if not url.startswith("unix://"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(DOCKER_TIMEOUT_S)
        try:
            probe.connect(url.removeprefix("unix://"))
        except OSError as error:
            raise MusterError(f"Docker doesn't answer: {error.strerror or error}", where=url) from None
