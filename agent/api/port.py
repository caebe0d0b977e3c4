"""What the API needs of the agent behind it: one Protocol, so that routes are tested against a fake."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from agent.model.api import ImageProgress, Recovery
from agent.model.audit import AuditPage, AuditProof
from agent.model.cluster import Operator
from agent.model.doctor import HostAnswer
from agent.model.events import Event, LogLine
from agent.model.instruction import InstructionResult
from agent.model.status import AgentRef, Health, MemberView, Status
from agent.model.types import Digest, Jti, Label, Target
from agent.model.usage import Usage
from agent.model.workers import AddWorker, Operation
from agent.state import ClusterState


class BlobPort(Protocol):
    """Contents that operators send: plans' files, and image archives. Their tokens were checked before."""

    async def size(self, digest: Digest) -> int | None:
        """Bytes of a content that this agent has."""

    async def put(self, digest: Digest, size: int, content: AsyncIterator[bytes]) -> None:
        """Store it once all of it has come and is what `digest` says."""

    def load(self, token: str) -> AsyncIterator[ImageProgress]:
        """Bring the archive that the token names into the engines of the hosts that it names, all together."""


class BackupPort(Protocol):
    """What a backup takes from this agent and a restore brings to it. Admins only: it holds what others redact."""

    def state(self) -> bytes:
        """The replicated state as a snapshot (agent.state.snapshot)."""

    def file(self, digest: Digest) -> AsyncIterator[bytes]:
        """A plan's file that the ledger names; fetched from another member first if need be."""

    def api_log(self) -> AsyncIterator[bytes]:
        """This agent's API log, the oldest lines first."""

    def volume(self, stack: Label, name: str) -> AsyncIterator[bytes]:
        """A named volume of this host as a tar archive. Raises NotFound."""

    async def put_volume(
        self, stack: Label, name: str, digest: Digest, size: int, content: AsyncIterator[bytes]
    ) -> None:
        """Such an archive in the place of the volume's content. Raises Conflict while the stack runs here."""


class PastPort(Protocol):
    """What this host keeps of the ledger's past."""

    async def page(self, reader: Operator | None, target: Target | None, *, after: int, limit: int) -> AuditPage:
        """Instructions behind the index `after`, oldest first, as far as `reader` (None: anybody here) may see them."""

    async def prove(self, at: int | None) -> AuditProof:
        """All of it read and linked again; the chain up to entry `at`, or to the end."""


class WorkerPort(Protocol):
    """Adding hosts for operators' invitations."""

    async def add(self, worker: AddWorker, now_s: float) -> Operation:
        """Begin, once the invitation holds; `now_s` is seconds since the epoch."""

    def operation(self, id_: Jti) -> Operation | None:
        """One that this agent still knows."""


class NodePort(Protocol):
    """The agent, as its API sees it. Methods raise MusterErrors, which become problems (RFC 9457)."""

    @property
    def me(self) -> AgentRef: ...

    @property
    def blobs(self) -> BlobPort: ...

    @property
    def backup(self) -> BackupPort: ...

    @property
    def past(self) -> PastPort: ...

    @property
    def workers(self) -> WorkerPort: ...

    @property
    def state(self) -> ClusterState:
        """The replicated state as applied here, right now: operators for tokens, targets for revisions."""

    def health(self) -> Health: ...

    async def submit(self, token: str, body: bytes) -> InstructionResult:
        """Bring an instruction into the ledger, through the coordinator wherever it is."""

    def recovery(self) -> Recovery:
        """What this agent would begin another epoch with."""

    async def recover(self, token: str, body: bytes) -> InstructionResult:
        """Begin another epoch with this agent alone, which starts anew; only when no majority is there."""

    async def status(self) -> Status:
        """The coordinator's view where one answers, else this agent's own, marked stale."""

    def members(self) -> tuple[MemberView, ...]:
        """The members as this agent itself sees them."""

    def events(self, *, after: int | None) -> AsyncIterator[Event]:
        """Kept events after that id, then live ones; None: live ones only. Closing the iterator ends the watch."""

    def logs(
        self, stack: str, *, service: str | None, slot: int | None, tail: int | None, since: str | None, follow: bool
    ) -> AsyncIterator[LogLine]:
        """Lines of the matching replicas on all hosts, merged. `since` is RFC 3339."""

    async def usage(self, stack: str | None, visible: Callable[[str], bool]) -> Usage:
        """What the stack's replicas, or those of all stacks that are `visible`, use now; within 10 s."""

    def doctor(self, hosts: Sequence[str], *, log: bool) -> AsyncIterator[HostAnswer]:
        """What each of these members, or all, sees of itself and the others, as they answer; ends within 10 s.

        `log`: with the agents' newest lines. Raises NotFound for a name that is no member's.
        """

    async def metrics(self) -> bytes:
        """Prometheus text format."""
