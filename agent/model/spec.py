"""What a runtime is asked to run: one replica, everything resolved.

Made on the host from verified state, never sent.
"""

import hashlib

import msgspec
from msgspec import Struct

from agent.model.ledger import AssignedPort
from agent.model.stack import HealthCommand, HealthProbe, Image, Resources, RestartPolicy, RuntimeName, Volume
from agent.model.types import AgentId, ClusterId, Digest

_encoder = msgspec.msgpack.Encoder(order="deterministic")


class ReplicaKey(Struct, frozen=True, kw_only=True, order=True):
    """Names a replica in the cluster."""

    stack: str
    service: str
    slot: int

    def __str__(self) -> str:
        return f"{self.stack}/{self.service}.{self.slot}"


class MountedFile(Struct, frozen=True, kw_only=True):
    """A file of the plan below one of the replica's mounts; `path` is relative to the stack's directory."""

    path: str
    digest: Digest
    size: int
    mode: int


class ReplicaSpec(Struct, frozen=True, kw_only=True):
    """One replica to run on this host.

    `environment` is the plan's; `facts` are the variables that Muster adds (`MUSTER_HOST`, …): they
    may change while the replica runs, so they are no part of its hash. `files` are those of the plan that it mounts.
    `hash` names what runs: the same hash, the same container.
    """

    key: ReplicaKey
    cluster: ClusterId
    agent: AgentId
    revision: int
    generation: int
    container_name: str
    runtime: RuntimeName
    image: Image | None
    command: tuple[str, ...]
    environment: dict[str, str]
    facts: dict[str, str]
    ports: tuple[AssignedPort, ...]
    volumes: tuple[Volume, ...]
    networks: tuple[str, ...]
    restart_policy: RestartPolicy
    health_check: HealthCommand | None
    health: HealthProbe | None
    resources: Resources
    stop_grace_ms: int
    files: tuple[MountedFile, ...] = ()

    @property
    def hash(self) -> str:
        """16 hexadecimal characters over everything that makes another container of it."""
        parts = (
            str(self.key),
            self.generation,
            self.container_name,
            self.runtime,
            self.image,
            self.command,
            self.environment,
            self.ports,
            self.volumes,
            self.networks,
            self.restart_policy,
            self.health_check,
            self.health,
            self.resources,
            self.stop_grace_ms,
            self.files,
        )
        return hashlib.sha256(_encoder.encode(parts)).hexdigest()[:16]
