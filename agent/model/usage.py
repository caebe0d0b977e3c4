"""What replicas use on their hosts right now. Soft: sampled when somebody asks, never kept."""

from typing import Annotated

from msgspec import Meta, Struct

from agent.model.cluster import MAX_MEMBERS
from agent.model.types import ShortText

MAX_USED = 2_000  # replicas of one host in one answer; an engine that samples more takes longer than anybody waits


class ReplicaUsage(Struct, frozen=True, kw_only=True):
    """`cpu_percent`: 100 is one processor busy, as `docker stats` counts. Memory without the page cache, in bytes.

    `memory_limit_bytes` is the replica's own limit, or what the host has.
    """

    stack: ShortText
    service: ShortText
    slot: int
    host: ShortText
    cpu_percent: float
    memory_bytes: int
    memory_limit_bytes: int


class SilentHost(Struct, frozen=True, kw_only=True):
    """A host that has replicas and didn't say what they use."""

    host: ShortText
    reason: str


class Usage(Struct, frozen=True, kw_only=True):
    """All replicas that run, or a stack's; of `silent` hosts none."""

    replicas: tuple[ReplicaUsage, ...]
    silent: Annotated[tuple[SilentHost, ...], Meta(max_length=MAX_MEMBERS)] = ()
