"""The table of routes: what is served, who may ask, and what is answered. The OpenAPI document is made of it too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from aiohttp import web
from msgspec import Struct

from agent.api.handlers import OCTETS, Handlers
from agent.api.parameters import (
    AuditQuery,
    BlobQuery,
    DoctorQuery,
    EventsQuery,
    LogsQuery,
    NoQuery,
    ProofQuery,
    UsageQuery,
)
from agent.model.api import (
    ApiKeys,
    BlobView,
    Epochs,
    ImageProgress,
    Members,
    Operators,
    Recovery,
    Services,
    StackView,
    TargetView,
)
from agent.model.audit import AuditPage, AuditProof
from agent.model.doctor import HostAnswer
from agent.model.events import Event, LogLine
from agent.model.instruction import InstructionResult
from agent.model.status import Health, Status
from agent.model.usage import Usage
from agent.model.workers import AddWorker, Operation
from agent.telemetry.api_log import ApiStatsView

Handler = Callable[[Handlers, web.Request], Awaitable[Struct | web.StreamResponse]]
Access = Literal["open", "read", "instruction", "blob", "request"]
"""open: anybody. read: an access token, or the local socket. instruction, blob: the body's own token. request: an
admin's for this very request."""

JSON = "application/json"


class Route(Struct, frozen=True, kw_only=True):
    """`answer` is the type of the body, or of each line or event of a stream; None where `media` says it all.

    `body` is the type of a JSON body that isn't signed; `status` that of a good answer. `problems` are the statuses
    that this route adds to the ones that every route can give. `past_epochs`: tokens of earlier epochs may read it too.
    """

    method: Literal["GET", "POST", "PUT"]
    path: str
    handler: Handler
    summary: str
    access: Access = "read"
    past_epochs: bool = False
    answer: Any = None
    media: str = JSON
    query: type[Struct] = NoQuery
    body: type[Struct] | None = None
    status: int = 200
    problems: tuple[int, ...] = ()


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/health",
        handler=Handlers.health,
        summary="Whether this agent serves and knows a coordinator; status 503 when it doesn't",
        access="open",
        answer=Health,
    ),
    Route(
        method="GET",
        path="/api/v1/deployment/status",
        handler=Handlers.status,
        summary="The whole cluster: hosts, stacks, replicas, problems",
        answer=Status,
    ),
    Route(
        method="GET",
        path="/api/v1/deployment/api-stats",
        handler=Handlers.api_stats,
        summary="Requests to this agent's API since its start",
        answer=ApiStatsView,
    ),
    Route(
        method="POST",
        path="/api/v1/deployment/workers",
        handler=Handlers.add_worker,
        summary="Add a host by an operator's invitation (`agent invite`); without one, the line that makes it",
        answer=Operation,
        status=202,
        body=AddWorker,
        problems=(403, 404, 409, 413),
    ),
    Route(
        method="GET",
        path="/api/v1/operations/{operation}",
        handler=Handlers.operation,
        summary="How far this agent is with adding a host; it forgets when it ends",
        answer=Operation,
        problems=(404,),
    ),
    Route(
        method="GET",
        path="/api/v1/members",
        handler=Handlers.members,
        summary="The members, as the agent that answers sees them",
        answer=Members,
    ),
    Route(
        method="GET",
        path="/api/v1/operators",
        handler=Handlers.operators,
        summary="Who may sign instructions: scopes, stacks and public keys",
        answer=Operators,
    ),
    Route(
        method="GET",
        path="/api/v1/keys",
        handler=Handlers.api_keys,
        summary="Which API keys may read: their names, stacks and sha256",
        answer=ApiKeys,
    ),
    Route(
        method="GET",
        path="/api/v1/services",
        handler=Handlers.services,
        summary="All services, and where their replicas are reached",
        answer=Services,
    ),
    Route(
        method="POST",
        path="/api/v1/instructions",
        handler=Handlers.submit,
        summary="Bring a signed instruction into the ledger; no body: one that the cluster holds",
        access="instruction",
        answer=InstructionResult,
        problems=(403, 409, 413, 422, 503, 504),
    ),
    Route(
        method="GET",
        path="/api/v1/instructions/{jti}",
        handler=Handlers.instruction,
        summary="What became of an instruction",
        answer=InstructionResult,
        problems=(404,),
    ),
    Route(
        method="GET",
        path="/api/v1/epochs",
        handler=Handlers.epochs,
        summary="The cluster's epoch, and the signed instructions that began it; with a token of an earlier epoch too",
        past_epochs=True,
        answer=Epochs,
    ),
    Route(
        method="GET",
        path="/api/v1/recovery",
        handler=Handlers.recovery,
        summary="What this agent would begin another epoch with, once the majority is lost for good",
        answer=Recovery,
    ),
    Route(
        method="POST",
        path="/api/v1/recovery",
        handler=Handlers.recover,
        summary="Begin another epoch with this agent alone: a signed `recover`; refused while a majority may be there",
        access="instruction",
        answer=InstructionResult,
        problems=(403, 409, 413, 422),
    ),
    Route(
        method="GET",
        path="/api/v1/targets/{target}",
        handler=Handlers.target,
        summary="A target's newest change; the next instruction takes its revision + 1",
        answer=TargetView,
    ),
    Route(
        method="GET",
        path="/api/v1/stacks/{stack}",
        handler=Handlers.stack,
        summary="The deploy in force, without environment values",
        answer=StackView,
        problems=(403, 404),
    ),
    Route(
        method="GET",
        path="/api/v1/stacks/{stack}/logs",
        handler=Handlers.logs,
        summary="Lines of the replicas' output, one JSON object each; an empty line is a sign of life",
        answer=LogLine,
        media="application/x-ndjson",
        query=LogsQuery,
        problems=(403, 404),
    ),
    Route(
        method="GET",
        path="/api/v1/usage",
        handler=Handlers.usage,
        summary="Processor and memory that replicas use now: sampled on their hosts for this answer, within 10 s",
        answer=Usage,
        query=UsageQuery,
        problems=(403, 404),
    ),
    Route(
        method="GET",
        path="/api/v1/events",
        handler=Handlers.events,
        summary="What happens, as server-sent events; `Last-Event-ID` goes on where a stream ended",
        answer=Event,
        media="text/event-stream",
        query=EventsQuery,
    ),
    Route(
        method="GET",
        path="/api/v1/audit",
        handler=Handlers.audit,
        summary="Who changed what, when: instructions that this host, as a voter, keeps; oldest first",
        answer=AuditPage,
        query=AuditQuery,
    ),
    Route(
        method="GET",
        path="/api/v1/audit/proof",
        handler=Handlers.audit_proof,
        summary="Reads all that this host keeps of the ledger's past, and links it again",
        answer=AuditProof,
        query=ProofQuery,
    ),
    Route(
        method="GET",
        path="/api/v1/doctor",
        handler=Handlers.doctor,
        summary="What each host sees of itself and the others, one JSON object a line, as they answer within 10 s",
        answer=HostAnswer,
        media="application/x-ndjson",
        query=DoctorQuery,
        problems=(404,),
    ),
    Route(
        method="GET",
        path="/api/v1/blobs/{digest}",
        handler=Handlers.blob,
        summary="Whether this agent has a content",
        answer=BlobView,
        problems=(404,),
    ),
    Route(
        method="PUT",
        path="/api/v1/blobs/{digest}",
        handler=Handlers.put_blob,
        summary="Send a plan's file or an image archive; the bearer token, a blob token, names its sha256 and size",
        access="blob",
        answer=BlobView,
        query=BlobQuery,
        problems=(403, 413, 422),
    ),
    Route(
        method="POST",
        path="/api/v1/images/{digest}/load",
        handler=Handlers.load_image,
        summary="Bring an image archive that was sent into hosts' engines; how far each is, one JSON object a line",
        access="blob",
        answer=ImageProgress,
        media="application/x-ndjson",
        problems=(403, 404, 422),
    ),
    Route(
        method="GET",
        path="/api/v1/backup/state",
        handler=Handlers.backup_state,
        summary="The replicated state as a snapshot: signed instructions with all environment values",
        access="request",
        media=OCTETS,
        problems=(403,),
    ),
    Route(
        method="GET",
        path="/api/v1/backup/files/{digest}",
        handler=Handlers.backup_file,
        summary="A plan's file",
        access="request",
        media=OCTETS,
        problems=(403, 404),
    ),
    Route(
        method="GET",
        path="/api/v1/backup/api-log",
        handler=Handlers.backup_api_log,
        summary="This agent's API log, the oldest lines first",
        access="request",
        media=OCTETS,
        problems=(403,),
    ),
    Route(
        method="GET",
        path="/api/v1/backup/volumes/{stack}/{volume}",
        handler=Handlers.backup_volume,
        summary="A named volume of this host as a tar archive",
        access="request",
        media=OCTETS,
        problems=(403, 404, 422),
    ),
    Route(
        method="PUT",
        path="/api/v1/backup/volumes/{stack}/{volume}",
        handler=Handlers.put_volume,
        summary="Such an archive in the place of the volume's content, while nothing of the stack runs on this host",
        access="request",
        answer=BlobView,
        problems=(403, 409, 422),
    ),
    Route(
        method="GET",
        path="/api/v1/openapi.json",
        handler=Handlers.openapi,
        summary="This document",
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=Handlers.metrics,
        summary="Metrics in Prometheus' text format",
        media="text/plain",
    ),
)
