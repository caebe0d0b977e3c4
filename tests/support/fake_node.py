"""Agents as their API sees them, without agents: a home, real certificates, a real state, real HTTPS on loopback."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization

from agent.api.app import build_app
from agent.api.limits import RateLimit
from agent.api.server import ApiServer
from agent.api.streams import Streams
from agent.control.facts import ClusterFacts, HostFacts
from agent.errors import Conflict, InputError, NotFound
from agent.formats.timestamps import rfc3339
from agent.home import Home, KnownMember, open_home, remember
from agent.instruction import read_instruction, sign_access
from agent.model.api import ImageProgress, Recovery
from agent.model.audit import AuditGap, AuditLine, AuditPage, AuditProof
from agent.model.cluster import Operator
from agent.model.doctor import HostAnswer
from agent.model.errand import ErrandFinding
from agent.model.events import Event, LogLine
from agent.model.instruction import InstructionResult
from agent.model.ledger import GenesisEntry, InstructionEntry, LedgerEntry, encode_entry
from agent.model.report import HostReport, HostResources, RuntimeInfo
from agent.model.status import AgentRef, Health, MemberView, Status
from agent.model.usage import Usage
from agent.model.workers import AddWorker, Operation
from agent.net.tls import api_server_context
from agent.node.status import View, build_members, build_status
from agent.state import ClusterState, apply, audience_of, encode_snapshot, genesis_state
from agent.telemetry.api_log import ApiRecord, ApiStats
from bootstrap.certificates import certify
from bootstrap.genesis import make_genesis
from bootstrap.home import create_home
from tests.bootstrap.identities import Host, host


@dataclass
class FakeLedger:
    """The state that all fake agents of a cluster share, and their facts."""

    state: ClusterState
    reports: dict[str, HostReport] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)

    def propose(self, *entries: LedgerEntry) -> InstructionResult | None:
        """Apply; the last one's answer."""
        result = None
        for entry in entries:
            self.state, applied = apply(self.state, self.state.index + 1, encode_entry(entry))
            result = applied.result
        return result

    def now_ms(self) -> int:
        return max(self.state.at, time.time_ns() // 1_000_000)

    def facts(self) -> ClusterFacts:
        return ClusterFacts(
            hosts={
                member.id: HostFacts(
                    liveness="dead" if member.name in self.dead else "alive",
                    lost=member.name in self.dead,
                    report=self.reports.get(member.name),
                    drained=member.id in self.state.drained,
                )
                for member in self.state.members.values()
            }
        )

    def report(self, name: str, *replicas: object, findings: tuple[ErrandFinding, ...] = ()) -> None:
        """The host says that it runs these (ObservedReplica), and what it has found out."""
        self.reports[name] = HostReport(
            host=next(member.id for member in self.state.members.values() if member.name == name),
            boot=1,
            sequence=self.state.index,
            at=self.now_ms(),
            applied=self.state.index,
            agent_version="0.1.0",
            runtimes=(RuntimeInfo(name="docker", available=True), RuntimeInfo(name="process", available=True)),
            resources=HostResources(memory_mib=4096, cpu_millis=4000),
            replicas=replicas,  # type: ignore[arg-type]  # ObservedReplica by the docstring
            findings=findings,
        )


NOTHING = hashlib.sha256().hexdigest()
"""A content that every fake agent has."""


@dataclass
class FakeBlobs:
    """A BlobPort: contents in memory; `loads` are the tokens, `progress` what a load tells."""

    contents: dict[str, bytes] = field(default_factory=lambda: {NOTHING: b""})
    loads: list[str] = field(default_factory=list)
    progress: list[ImageProgress] = field(default_factory=list)
    put_errors: list[Exception] = field(default_factory=list)

    async def size(self, digest: str) -> int | None:
        return len(self.contents[digest]) if digest in self.contents else None

    async def put(self, digest: str, size: int, content: AsyncIterator[bytes]) -> None:
        data = b"".join([part async for part in content])
        if self.put_errors:
            raise self.put_errors.pop(0)
        if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
            raise InputError("the content isn't the one that was announced", where="body")
        self.contents[digest] = data

    async def load(self, token: str) -> AsyncIterator[ImageProgress]:
        self.loads.append(token)
        for progress in self.progress:
            yield progress


@dataclass
class FakeBackup:
    """The ledger's state, and volumes in memory."""

    node: FakeNode

    def state(self) -> bytes:
        """Proven: the ports that members really have are in no entry (`FakeCluster.remember`)."""
        state = self.node.ledger.state
        return encode_snapshot(msgspec.structs.replace(state, members=genesis_state(state.genesis).members))

    async def file(self, digest: str) -> AsyncIterator[bytes]:
        if digest not in self.node.blobs.contents:
            raise NotFound("no deploy in force names this file", where=digest)
        yield self.node.blobs.contents[digest]

    async def api_log(self) -> AsyncIterator[bytes]:
        yield b'{"method": "GET"}\n'

    async def volume(self, stack: str, name: str) -> AsyncIterator[bytes]:
        if (stack, name) not in self.node.volumes:
            raise NotFound("this host has no such volume", where=f"{stack}/{name}")
        yield self.node.volumes[stack, name]

    async def put_volume(self, stack: str, name: str, digest: str, size: int, content: AsyncIterator[bytes]) -> None:
        self.node.volumes[stack, name] = b"".join([part async for part in content])


@dataclass
class FakePast:
    """A PastPort: `lines` are told as they stand, `proof` as it is; `asked` are the readers' names and the targets."""

    lines: list[AuditLine] = field(default_factory=list)
    gaps: tuple[AuditGap, ...] = ()
    proof: AuditProof = field(
        default_factory=lambda: AuditProof(
            name="n1", voter=True, segments=1, entries=1, first=2, last=2, gaps=(), at=2, chain="ab" * 32
        )
    )
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)

    async def page(self, reader: Operator | None, target: str | None, *, after: int, limit: int) -> AuditPage:
        self.asked.append((reader.name if reader is not None else None, target))
        behind = [line for line in self.lines if line.index > after and target in (None, line.target)]
        more = behind[limit - 1].index if len(behind) > limit else None
        return AuditPage(answered_by="n1", lines=tuple(behind[:limit]), gaps=self.gaps, more=more)

    async def prove(self, at: int | None) -> AuditProof:
        return msgspec.structs.replace(self.proof, at=at or self.proof.last)


@dataclass
class FakeWorkers:
    """A WorkerPort that believes every invitation; `error` is what `add` raises."""

    operations: dict[str, Operation] = field(default_factory=dict)
    error: Exception | None = None

    async def add(self, worker: AddWorker, now_s: float) -> Operation:
        if self.error is not None:
            raise self.error
        began = rfc3339(int(now_s * 1000))
        id_ = f"{len(self.operations):032x}"
        made = Operation(id=id_, kind="add-worker", host=worker.host, name="n9", state="running", began_at=began)
        self.operations[id_] = made
        return made

    def operation(self, id_: str) -> Operation | None:
        return self.operations.get(id_)


@dataclass
class FakeNode:
    """A NodePort. `fail` is raised by every method that may; `fail_submits` counts down; `kept` are past events."""

    me: AgentRef
    ledger: FakeLedger
    leader: str | None
    lines: list[LogLine] = field(default_factory=list)
    kept: list[Event] = field(default_factory=list)
    fail: Exception | None = None
    log_error: Exception | None = None
    submit_errors: list[Exception] = field(default_factory=list)
    submitted: list[tuple[str, bytes]] = field(default_factory=list)
    listeners: set[asyncio.Queue[Event]] = field(default_factory=set)
    following: int = 0
    blobs: FakeBlobs = field(default_factory=FakeBlobs)
    volumes: dict[tuple[str, str], bytes] = field(default_factory=dict)
    past: FakePast = field(default_factory=FakePast)
    answers: list[HostAnswer] = field(default_factory=list)
    used: Usage = field(default_factory=lambda: Usage(replicas=()))
    workers: FakeWorkers = field(default_factory=FakeWorkers)

    @property
    def state(self) -> ClusterState:
        return self.ledger.state

    def health(self) -> Health:
        return Health(
            ok=self.leader is not None,
            name=self.me.name,
            coordinator=self.leader,
            applied=self.state.index,
            agent_version="0.1.0",
            epoch=self.state.epoch,
        )

    def view(self) -> View:
        ids = {member.name: member.id for member in self.state.members.values()}
        return View(
            me=self.me.id,
            name=self.me.name,
            leader=ids[self.leader] if self.leader is not None else None,
            term=3,
            voters=tuple(sorted(ids.values())),
            linked=frozenset(id_ for name, id_ in ids.items() if name not in self.ledger.dead) - {self.me.id},
            facts=self.ledger.facts(),
            now_ms=self.ledger.now_ms(),
            stale=False,
        )

    async def submit(self, token: str, body: bytes) -> InstructionResult:
        """Applies it at once, as a coordinator with a majority would."""
        self.submitted.append((token, body))
        if self.submit_errors:
            raise self.submit_errors.pop(0)
        read_instruction(token, body, self.state.operators, audience_of(self.state))
        entry = InstructionEntry(at=self.ledger.now_ms(), token=token, body=body, via=self.me.id)
        result = self.ledger.propose(entry)
        assert result is not None
        return result

    async def status(self) -> Status:
        if self.fail is not None:
            raise self.fail
        name = self.leader or self.me.name
        leader = next(member.id for member in self.state.members.values() if member.name == name)
        view = self.view()
        view = View(**{field: getattr(view, field) for field in View.__struct_fields__} | {"me": leader, "name": name})
        return build_status(self.state, view, network_services=2, api_requests_total=7)

    def members(self) -> tuple[MemberView, ...]:
        return build_members(self.state, self.view())

    async def events(self, *, after: int | None) -> AsyncIterator[Event]:
        queue: asyncio.Queue[Event] = asyncio.Queue()
        for event in self.kept:
            if after is not None and event.id > after:
                queue.put_nowait(event)
        self.listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self.listeners.discard(queue)

    def tell(self, event: Event) -> None:
        """An event, live and kept."""
        self.kept.append(event)
        for queue in self.listeners:
            queue.put_nowait(event)

    async def logs(
        self, stack: str, *, service: str | None, slot: int | None, tail: int | None, since: str | None, follow: bool
    ) -> AsyncIterator[LogLine]:
        self.following += 1
        try:
            if self.fail is not None:
                raise self.fail
            chosen = [
                line
                for line in self.lines
                if line.stack == stack and service in (None, line.service) and slot in (None, line.slot)
            ]
            for line in chosen[len(chosen) - tail if tail is not None and tail < len(chosen) else 0 :]:
                if since is None or line.at >= since:
                    yield line
            if self.log_error is not None:
                raise self.log_error
            if follow:
                await asyncio.Event().wait()
        finally:
            self.following -= 1

    @property
    def backup(self) -> FakeBackup:
        return FakeBackup(self)

    def recovery(self) -> Recovery:
        state = self.ledger.state
        return Recovery(
            survivor=self.me,
            epoch=state.epoch,
            revision=0,
            term=1,
            index=state.index,
            chain=state.chain,
            committed=state.index,
            voters=(self.me,),
            lost=(),
            unfit="the majority is there: n1 coordinates",
        )

    async def recover(self, token: str, body: bytes) -> InstructionResult:
        raise Conflict("the majority is there: n1 coordinates")

    async def doctor(self, hosts: Sequence[str], *, log: bool) -> AsyncIterator[HostAnswer]:
        if self.fail is not None:
            raise self.fail
        known = {answer.host for answer in self.answers}
        if unknown := set(hosts) - known:
            raise NotFound(f"no member is called {', '.join(sorted(unknown))}")
        for answer in self.answers:
            if not hosts or answer.host in hosts:
                yield answer

    async def usage(self, stack: str | None, visible: Callable[[str], bool]) -> Usage:
        chosen = (each for each in self.used.replicas if stack in (None, each.stack) and visible(each.stack))
        return msgspec.structs.replace(self.used, replicas=tuple(chosen))

    async def metrics(self) -> bytes:
        return b"# HELP muster_up 1\nmuster_up 1.0\n"


def event(number: int, what: str = "n1 coordinates (term 3)", **fields: object) -> Event:
    return Event(**{"id": number, "at": rfc3339(number * 1000), "kind": "coordinator", "what": what, **fields})  # type: ignore[arg-type]  # Event's


def line(text: str, *, service: str = "web", slot: int = 1, stack: str = "shop") -> LogLine:
    return LogLine(
        stack=stack, service=service, slot=slot, host="n1", at="2024-01-15T10:30:00Z", stream="stdout", line=text
    )


@dataclass
class RunningNode:
    """A fake agent and its API."""

    node: FakeNode
    server: ApiServer
    stats: ApiStats
    records: list[ApiRecord]
    streams: Streams


@dataclass(frozen=True)
class Founded:
    """What a cluster of these hosts begins with; keys and certificates are made once for all tests of a process."""

    hosts: dict[str, Host]
    state: ClusterState
    contexts: dict[str, ssl.SSLContext]
    files: dict[str, bytes]  # of the home and beside it, by their paths

    @classmethod
    @functools.cache
    def of(cls, *names: str) -> Founded:
        with tempfile.TemporaryDirectory() as made:
            directory = Path(made)
            home = create_home(directory / "home", name="lab", operator="ann", recovery_file=directory / "recovery.key")
            hosts = {name: host(name) for name in names}
            requests = [each.request(address="127.0.0.1") for each in hosts.values()]
            genesis = make_genesis(home, requests, now_ms=int(time.time() * 1000))
            contexts = {}
            for request in requests:
                certificate, key = directory / f"{request.name}.crt", directory / f"{request.name}.key"
                certificate.write_text(certify(home, request))
                key.write_bytes(
                    hosts[request.name].tls.private_bytes(
                        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                    )
                )
                contexts[request.name] = api_server_context(certificate, key)
            state = genesis_state(encode_entry(GenesisEntry(at=genesis.created_at, genesis=genesis)))
            paths = (path for path in directory.rglob("*") if path.is_file())
            return cls(hosts, state, contexts, {str(path.relative_to(directory)): path.read_bytes() for path in paths})


class FakeCluster:
    """A cluster home at `home`, and members `names` with certificates; `running` serves their APIs.

    Made outside the event loop: it writes files.
    """

    def __init__(self, directory: Path, *names: str) -> None:
        founded = Founded.of(*(names or ("n1", "n2", "n3")))
        for name, content in founded.files.items():
            path = directory / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(content)
        self.directory = directory
        self.home: Home = open_home(directory / "home")
        self.hosts = founded.hosts
        self.key = self.home.operator_key()
        self.ledger = FakeLedger(founded.state)
        self.nodes: dict[str, RunningNode] = {}
        self.contexts = founded.contexts

    def access_token(self, **changes: object) -> str:
        fields: dict[str, object] = {
            "operator_name": "ann",
            "cluster": self.home.cluster.id,
            "epoch": 1,
            "now_s": time.time(),
        }
        return sign_access(self.key, **(fields | changes))  # type: ignore[arg-type]  # sign_access'

    def add_operator(self, operator: Operator) -> None:
        """Without an instruction: what matters is that it is there."""
        operators = {**self.ledger.state.operators, operator.name: operator}
        self.ledger.state = msgspec.structs.replace(self.ledger.state, operators=operators)

    def remember(self) -> None:
        """The running members' real ports go into the ledger and the home."""
        ports = {self.hosts[name].id: running.server.port for name, running in self.nodes.items()}
        members = {
            id_: msgspec.structs.replace(member, api_port=ports.get(id_, member.api_port))
            for id_, member in self.ledger.state.members.items()
        }
        self.ledger.state = msgspec.structs.replace(self.ledger.state, members=members)
        known = [
            KnownMember(id=self.hosts[name].id, name=name, address="127.0.0.1", api_port=running.server.port)
            for name, running in self.nodes.items()
        ]
        self.home = remember(self.home, members=known)

    async def start(
        self, name: str, *, leader: str | None = "n1", socket: Path | None = None, rate_limit: RateLimit | None = None
    ) -> RunningNode:
        node = FakeNode(AgentRef(id=self.hosts[name].id, name=name), self.ledger, leader)
        stats, records, streams = ApiStats(), list[ApiRecord](), Streams(keepalive_s=0.05)
        app = build_app(node, stats=stats, log=records.append, rate_limit=rate_limit, streams=streams)
        server = await ApiServer.start(app, host="127.0.0.1", port=0, tls=self.contexts[name], socket_path=socket)
        self.nodes[name] = RunningNode(node, server, stats, records, streams)
        return self.nodes[name]

    @asynccontextmanager
    async def running(self, *names: str) -> AsyncIterator[FakeCluster]:
        """Serve the members' APIs, and write their addresses into the home."""
        try:
            for name in names or tuple(self.hosts):
                await self.start(name)
            await asyncio.to_thread(self.remember)
            yield self
        finally:
            await self.close()

    async def close(self) -> None:
        for running in self.nodes.values():
            await running.server.close()
        self.nodes.clear()
