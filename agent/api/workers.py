"""docs/seed.md "Add worker": its bare body, and why that is refused. Pure.

Making a host a member takes a key that no agent has (docs/security.md "Invitations"): so the answer is the command line
that does it at the operator's.
"""

from __future__ import annotations

import shlex

from agent.errors import NotAllowed
from agent.model.workers import AddWorker


def bare_refusal(worker: AddWorker, members: frozenset[str]) -> NotAllowed:
    """Why this isn't done here, and what does it. `members`: their names and addresses."""
    if worker.host in members:
        fix = f'Give a worker of a plan "host": "{worker.host}", and deploy the plan: agent deploy PLAN'
        return NotAllowed(f"{worker.host} is a member already; workers are deployed by plan", where="$.host", fix=fix)
    argv = ["agent", "invite", f"{worker.user}@{worker.host}" if worker.user else worker.host]
    argv += ["--ssh-key-path", worker.ssh_key_path] if worker.ssh_key_path else []
    return NotAllowed(
        f"no agent can make {worker.host} a member: that takes the cluster's key, which is with the operator",
        where="$.host",
        fix=f"In the operator's terminal, which signs and sends a whole body: {shlex.join(argv)} --send",
    )
