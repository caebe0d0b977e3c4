"""What each route does. Handlers answer with a struct, which becomes JSON, or with a response of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable

from aiohttp import web

from agent import errors
from agent.api import auth
from agent.api.limits import BODY_TIMEOUT_S, UPLOAD_PART_BYTES, UPLOAD_SILENCE_S
from agent.api.parameters import (
    AuditQuery,
    BlobQuery,
    DoctorQuery,
    EventsQuery,
    LogsQuery,
    ProofQuery,
    UsageQuery,
    read_path,
    read_query,
)
from agent.api.port import NodePort
from agent.api.problems import ResultRefused
from agent.api.streams import Streams
from agent.api.views import (
    epoch_beginnings,
    held_body,
    operator_views,
    result_of,
    services_view,
    stack_view,
    target_view,
)
from agent.api.workers import bare_refusal
from agent.formats.timestamps import rfc3339
from agent.instruction import RequestClaims
from agent.model.api import ApiKeys, BlobView, Epochs, Members, Operators, Recovery, Services, StackView, TargetView
from agent.model.audit import AuditPage, AuditProof
from agent.model.decode import decode_json
from agent.model.explain import shown
from agent.model.fault import Fault, error_of
from agent.model.instruction import MAX_BODY_BYTES, InstructionResult
from agent.model.status import Health, Status
from agent.model.usage import Usage
from agent.model.workers import MAX_WORKER_BODY_BYTES, AddWorker, Operation
from agent.telemetry.api_log import ApiStats, ApiStatsView
from agent.telemetry.metrics import CONTENT_TYPE

OCTETS = "application/octet-stream"
MAX_EVENT_ID_CHARACTERS = 64  # an agent id, a colon, a number


class Handlers:
    """The routes over one agent. `document` gives the OpenAPI document: asked once, in a thread."""

    def __init__(self, port: NodePort, stats: ApiStats, streams: Streams, document: Callable[[], bytes]) -> None:
        self._port = port
        self._stats = stats
        self._streams = streams
        self._document = document
        self._described: bytes | None = None
        self._describing = asyncio.Lock()

    async def health(self, _request: web.Request) -> Health:
        """Open to everybody."""
        return self._port.health()

    async def status(self, _request: web.Request) -> Status:
        """docs/seed.md "Deployment status"."""
        return await self._port.status()

    async def members(self, _request: web.Request) -> Members:
        """As this agent sees them."""
        return Members(answered_by=self._port.me.name, members=self._port.members())

    async def operators(self, _request: web.Request) -> Operators:
        """Who may sign instructions."""
        return Operators(answered_by=self._port.me.name, operators=operator_views(self._port.state))

    async def api_keys(self, _request: web.Request) -> ApiKeys:
        """Which API keys may read."""
        keys = self._port.state.api_keys
        return ApiKeys(answered_by=self._port.me.name, keys=tuple(keys[name] for name in sorted(keys)))

    async def services(self, _request: web.Request) -> Services:
        """Of all stacks."""
        return services_view(await self._port.status())

    async def api_stats(self, _request: web.Request) -> ApiStatsView:
        """docs/seed.md "API communication stats"."""
        return self._stats.view()

    async def add_worker(self, request: web.Request) -> Operation:
        """docs/seed.md "Add worker": with an operator's invitation in the body; without one it can't be enough."""
        body = await read_body(request, MAX_WORKER_BODY_BYTES)
        worker: AddWorker = decode_json(body, AddWorker, max_bytes=MAX_WORKER_BODY_BYTES)
        if worker.sealed is None:
            known = {name for member in self._port.state.members.values() for name in (member.name, member.address)}
            raise bare_refusal(worker, frozenset(known))
        return await self._port.workers.add(worker, time.time())

    async def operation(self, request: web.Request) -> Operation:
        """How far it is."""
        id_ = read_path(request, "operation")
        operation = self._port.workers.operation(id_)
        if operation is None:
            fix = "Only the agent that took it knows it, until it ends; `agent members` shows if the host is there."
            raise errors.NotFound("this agent knows no such operation", where=id_, fix=fix)
        return operation

    async def submit(self, request: web.Request) -> InstructionResult:
        """The body's exact bytes and the token that binds them; no bytes: a deploy that the cluster holds."""
        token = auth.bearer(request, fix=auth.UNSIGNED_INSTRUCTION_FIX)
        sent = await read_body(request, MAX_BODY_BYTES)
        auth.check_instruction_token(token)
        body = sent or held_body(self._port.state, token)
        result = await self._port.submit(token, body)
        if result.outcome != "applied":
            raise ResultRefused(_refusal(result), result)
        return result

    async def recovery(self, _request: web.Request) -> Recovery:
        """For the operator who has to sign it."""
        return self._port.recovery()

    async def epochs(self, _request: web.Request) -> Epochs:
        """For an operator whose home is of an earlier one."""
        state = self._port.state
        return Epochs(answered_by=self._port.me.name, epoch=state.epoch, begun=epoch_beginnings(state))

    async def recover(self, request: web.Request) -> InstructionResult:
        """The body's exact bytes and the token that binds them, as `submit` has them."""
        token = auth.bearer(request, fix=auth.UNSIGNED_INSTRUCTION_FIX)
        body = await read_body(request, MAX_BODY_BYTES)
        auth.check_instruction_token(token)
        return await self._port.recover(token, body)

    async def instruction(self, request: web.Request) -> InstructionResult:
        """What became of an instruction."""
        jti = read_path(request, "jti")
        result = result_of(self._port.state, jti)
        if result is None:
            raise errors.NotFound(
                "no instruction with this jti is the newest on its target",
                where=jti,
                fix="It may still be under way, or another has followed it: look at GET /api/v1/targets/{target}.",
            )
        return result

    async def target(self, request: web.Request) -> TargetView:
        """The revision that the next instruction builds on."""
        return target_view(self._port.state, read_path(request, "target"))

    async def stack(self, request: web.Request) -> StackView:
        """The deploy in force."""
        name = self._stack_name(request)
        view = stack_view(self._port.state, name)
        if view is None:
            raise self._no_stack(name)
        return view

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """Lines of the matching replicas."""
        name = self._stack_name(request)
        query = read_query(request, LogsQuery)
        if name not in self._port.state.stacks:
            raise self._no_stack(name)
        source = self._port.logs(
            name,
            service=query.service,
            slot=query.slot,
            tail=query.tail,
            since=query.since,
            follow=query.follow,
        )
        return await self._streams.lines(request, source)

    async def usage(self, request: web.Request) -> Usage:
        """Only of what the reader may look into."""
        stack = read_query(request, UsageQuery).stack
        reader = auth.reader(request, self._port.state, time.time())
        if stack is not None:
            auth.check_stack(reader, stack)
            if stack not in self._port.state.stacks:
                raise self._no_stack(stack)

        def visible(name: str) -> bool:
            try:
                auth.check_stack(reader, name)
            except errors.NotAllowed:
                return False
            return True

        return await self._port.usage(stack, visible)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """What happens."""
        query = read_query(request, EventsQuery)
        after = self._after(request.headers.get("Last-Event-ID"))
        if after is None and (query.recent or not query.follow):
            after = 0
        return await self._streams.events(
            request, self._port.events(after=after), self._port.me.id, follow=query.follow
        )

    async def audit(self, request: web.Request) -> AuditPage:
        """Who changed what, when."""
        query = read_query(request, AuditQuery)
        reader = auth.reader(request, self._port.state, time.time())
        return await self._port.past.page(reader, query.target, after=query.after, limit=query.limit)

    async def audit_proof(self, request: web.Request) -> AuditProof:
        """Whether what this host keeps of the past fits together."""
        return await self._port.past.prove(read_query(request, ProofQuery).at)

    async def doctor(self, request: web.Request) -> web.StreamResponse:
        """What hosts see of themselves and each other."""
        query = read_query(request, DoctorQuery)
        hosts = query.hosts.split(",") if query.hosts is not None else []
        return await self._streams.lines(request, self._port.doctor(hosts, log=query.log))

    async def blob(self, request: web.Request) -> BlobView:
        """Whether this agent has a content."""
        digest = read_path(request, "digest")
        size = await self._port.blobs.size(digest)
        if size is None:
            raise errors.NotFound("this agent doesn't have this content", where=digest)
        return BlobView(digest=digest, size=size)

    async def put_blob(self, request: web.Request) -> BlobView:
        """A content whose digest and size an operator signed."""
        digest, query = read_path(request, "digest"), read_query(request, BlobQuery)
        claims = auth.sender(request, self._port.state, time.time(), query.use, digest)
        if request.content_length != claims.size:
            raise errors.InputError(
                f"expected the {claims.size} bytes that were signed, got {request.content_length}",
                where="Content-Length",
            )
        await self._port.blobs.put(digest, claims.size, uploaded(request))
        return BlobView(digest=digest, size=claims.size)

    async def load_image(self, request: web.Request) -> web.StreamResponse:
        """An archive that this agent has, into the engines of the hosts that the token names."""
        auth.sender(request, self._port.state, time.time(), "image", read_path(request, "digest"))
        return await self._streams.lines(request, self._port.blobs.load(auth.bearer(request)))

    async def backup_state(self, request: web.Request) -> web.Response:
        """The snapshot, environment values and all."""
        self._admin(request)
        return web.Response(body=self._port.backup.state(), content_type=OCTETS)

    async def backup_file(self, request: web.Request) -> web.StreamResponse:
        """A plan's file."""
        self._admin(request)
        return await self._streams.raw(request, self._port.backup.file(read_path(request, "digest")), OCTETS)

    async def backup_api_log(self, request: web.Request) -> web.StreamResponse:
        """All lines that are kept."""
        self._admin(request)
        return await self._streams.raw(request, self._port.backup.api_log(), OCTETS)

    async def backup_volume(self, request: web.Request) -> web.StreamResponse:
        """A tar archive."""
        self._admin(request)
        source = self._port.backup.volume(read_path(request, "stack"), read_path(request, "volume"))
        return await self._streams.raw(request, source, OCTETS)

    async def put_volume(self, request: web.Request) -> BlobView:
        """A tar archive whose digest and size an admin signed."""
        claims = self._admin(request)
        if request.content_length != claims.size:
            raise errors.InputError(
                f"expected the {claims.size} bytes that were signed, got {request.content_length}",
                where="Content-Length",
            )
        stack, volume = read_path(request, "stack"), read_path(request, "volume")
        await self._port.backup.put_volume(stack, volume, claims.bdg, claims.size, uploaded(request))
        return BlobView(digest=claims.bdg, size=claims.size)

    def _admin(self, request: web.Request) -> RequestClaims:
        return auth.admin(request, self._port.state, time.time(), self._port.me.id)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Prometheus."""
        return web.Response(body=await self._port.metrics(), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, _request: web.Request) -> web.Response:
        """This API, described."""
        async with self._describing:
            if self._described is None:
                self._described = await asyncio.to_thread(self._document)
        return web.Response(body=self._described, content_type="application/json")

    def _stack_name(self, request: web.Request) -> str:
        name = read_path(request, "stack")
        auth.check_stack(auth.reader(request, self._port.state, time.time()), name)
        return name

    def _no_stack(self, name: str) -> errors.NotFound:
        known = ", ".join(sorted(self._port.state.stacks)) or "none"
        return errors.NotFound("there is no such stack", where=f"stack:{name}", fix=f"Stacks here: {known}.")

    def _after(self, last: str | None) -> int | None:
        """Another agent's numbers say nothing here: then only what happens from now on is told."""
        if last is None or not last.strip():
            return None
        agent, _, number = last.strip().rpartition(":")
        if len(last) > MAX_EVENT_ID_CHARACTERS or not (number.isascii() and number.isdecimal()):
            raise errors.InputError(f"expected an event's id, got {shown(last)}", where="Last-Event-ID")
        return int(number) if agent in ("", self._port.me.id) else None


async def uploaded(request: web.Request) -> AsyncGenerator[bytes]:
    """The body in parts of UPLOAD_PART_BYTES, however long it takes. Raises InputError when nothing comes for long."""
    part = bytearray()
    while True:
        try:
            async with asyncio.timeout(UPLOAD_SILENCE_S):
                data = await request.content.readany()
        except TimeoutError:
            raise errors.InputError(f"nothing came for {UPLOAD_SILENCE_S:.0f} s", where="body") from None
        part += data
        if part and (not data or len(part) >= UPLOAD_PART_BYTES):
            yield bytes(part)
            part.clear()
        if not data:
            return


async def read_body(request: web.Request, max_bytes: int) -> bytes:
    """The body's exact bytes. Raises TooLarge, or InputError for a client that is too slow."""
    if request.content_length is not None and request.content_length > max_bytes:
        raise errors.TooLarge(f"{request.content_length} bytes; at most {max_bytes} are taken", where="body")
    if request.content.is_eof():  # all of it came with the headers, as mostly: there is nothing to wait for
        body = request.content.read_nowait()
        _check_size(len(body), max_bytes)
        return body
    parts = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.content.iter_any():
                parts += part
                _check_size(len(parts), max_bytes)
    except TimeoutError:
        raise errors.InputError(f"the body didn't come within {BODY_TIMEOUT_S:.0f} s", where="body") from None
    return bytes(parts)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise errors.TooLarge(f"more than {max_bytes} bytes", where="body")


def _refusal(result: InstructionResult) -> Fault:
    """The ledger's no as a fault: 409 names who was first and when, anything else has its own kind."""
    if result.outcome == "conflict":
        what = f"{result.what}; changed by {result.by or 'nobody'} at {rfc3339(result.at)}"
        return Fault(kind="conflict", status=409, what=what, where=result.target, fix=result.fix)
    kind = result.kind or errors.Unprocessable.kind
    known = error_of(Fault(kind=kind, status=0, what=""))
    status = known.status if known.kind == kind and 400 <= known.status < 500 else errors.Unprocessable.status
    return Fault(kind=kind, status=status, what=result.what or "refused", where=result.target, fix=result.fix)
