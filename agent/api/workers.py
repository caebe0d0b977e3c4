"""SEED "Add Worker": what its body means, and why a bare one is refused. Pure.

Making a host a member takes a key that no agent has (DESIGN "Identity and trust"): so the answer is the command line
that does it at the operator's.
"""

from __future__ import annotations

import shlex
from typing import Annotated

from msgspec import Meta, Struct

from agent.errors import NotAllowed
from agent.model.decode import decode_json
from agent.model.types import HostAddress

MAX_WORKER_BODY_BYTES = 16_384  # three short texts


class AddWorker(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /api/v1/deployment/workers`: SEED's three keys; `user` and `ssh_key_path` may be left out."""

    host: HostAddress
    user: (
        Annotated[str, Meta(max_length=64, pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.-]*\Z", description="a user's name")]
        | None
    ) = None
    ssh_key_path: Annotated[str, Meta(min_length=1, max_length=1024, pattern=r"\A[^\x00-\x1f]*\Z")] | None = None


def decode_worker(body: bytes) -> AddWorker:
    """The body. Raises InputError naming the place."""
    return decode_json(body, AddWorker, max_bytes=MAX_WORKER_BODY_BYTES)


def bare_refusal(worker: AddWorker, members: frozenset[str]) -> NotAllowed:
    """Why this isn't done here, and what does it. `members`: their names and addresses."""
    if worker.host in members:
        fix = f'Give a worker of a plan "host": "{worker.host}", and deploy the plan: agent deploy PLAN'
        return NotAllowed(f"{worker.host} is a member already; workers are deployed by plan", where="$.host", fix=fix)
    user = f"{worker.user}@" if worker.user else ""
    key = f" key={worker.ssh_key_path}" if worker.ssh_key_path else ""
    line = shlex.quote(f"{user}{worker.host}{key}")
    return NotAllowed(
        f"no agent can make {worker.host} a member: that takes the cluster's key, which is with the operator",
        where="$.host",
        fix=f"In the operator's terminal: echo {line} >> hosts.txt && bootstrap install hosts.txt",
    )
