"""A container or process of ours, as its runtime sees it."""

from typing import Literal

from msgspec import Struct

from agent.model.ledger import AssignedPort
from agent.model.spec import ReplicaKey
from agent.model.stack import RuntimeName

RunState = Literal["created", "running", "restarting", "exited"]
RuntimeHealth = Literal["none", "starting", "healthy", "unhealthy"]


class Workload(Struct, frozen=True, kw_only=True):
    """A container or process of ours, as the runtime sees it now.

    `id` is the runtime's own (64-hex container id; `pid:start time` for processes). `health` is the engine's own health
    check; `none` when there is none (agent-made checks are `agent.host.checks`' business). Times in epoch ms.
    """

    id: str
    key: ReplicaKey
    name: str
    runtime: RuntimeName
    revision: int
    spec_hash: str
    state: RunState
    health: RuntimeHealth = "none"
    exit_code: int | None = None
    reason: str = ""
    image_ref: str = ""
    image_id: str = ""
    ports: tuple[AssignedPort, ...] = ()
    restarts: int = 0
    started_at: int = 0
