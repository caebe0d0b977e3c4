"""The application: routes behind four middlewares, the outermost first: log, problems, rate limit, access."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware
from msgspec import Struct

from agent import errors
from agent.api import auth
from agent.api.handlers import Handlers
from agent.api.limits import WRITE_TIMEOUT_S, RateLimit
from agent.api.openapi import document
from agent.api.parameters import read_query
from agent.api.port import NodePort
from agent.api.problems import http_problem, plain_problem, problem_of, problem_response
from agent.api.routes import JSON, ROUTES, Route
from agent.api.streams import BEGUN, SENT_BYTES, Streams
from agent.model.status import Health
from agent.telemetry.api_log import ApiRecord, ApiStats, api_record

logger = logging.getLogger(__name__)

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]

UNMATCHED = "unmatched"  # the endpoint of requests without a route, so that a caller can't invent endpoints

_HEADERS = {
    "Server": "muster",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'",
}

STREAMS: web.AppKey[Streams] = web.AppKey("streams", Streams)

_encoder = msgspec.json.Encoder()


def build_app(
    port: NodePort,
    *,
    stats: ApiStats,
    log: Callable[[ApiRecord], None],
    observe: Callable[[str, float], None] = lambda endpoint, seconds: None,
    fatal: Callable[[BaseException], None] = lambda error: None,
    rate_limit: RateLimit | None = None,
    streams: Streams | None = None,
) -> web.Application:
    """The API over `port`.

    `stats` counts and `log` takes each request; `observe(endpoint, seconds)` is for metrics. `fatal` gets a broken
    invariant, which the agent can't go on with.
    """
    streams = streams if streams is not None else Streams()
    handlers = Handlers(port, stats, streams, lambda: msgspec.json.encode(document(ROUTES)))
    app = web.Application(
        middlewares=[
            _logging(stats, log, observe),
            _problems(fatal),
            _limiting(rate_limit or RateLimit()),
        ]
    )
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _endpoint(route, handlers, port))
    app.on_response_prepare.append(_add_headers)
    app[STREAMS] = streams
    return app


def _endpoint(route: Route, handlers: Handlers, port: NodePort) -> Next:
    async def handle(request: web.Request) -> web.StreamResponse:
        if route.access == "read":
            auth.reader(request, port.state, time.time(), past_epochs=route.past_epochs)
        read_query(request, route.query)
        answer = await route.handler(handlers, request)
        return _json(answer, route.status) if isinstance(answer, Struct) else answer

    return handle


def _json(answer: Struct, status: int) -> web.Response:
    if isinstance(answer, Health) and not answer.ok:
        status = HTTPStatus.SERVICE_UNAVAILABLE
    return web.Response(status=status, body=_encoder.encode(answer), content_type=JSON)


def _logging(stats: ApiStats, log: Callable[[ApiRecord], None], observe: Callable[[str, float], None]) -> Middleware:
    """Sends the answer itself, so that a client that doesn't read it is cut, and its size is known."""

    @web.middleware
    async def middleware(request: web.Request, handler: Next) -> web.StreamResponse:
        began, at_s = time.monotonic(), time.time()
        ends = _ends(request)
        status, size, error = 0, 0, "the client left"
        try:
            response = await handler(request)
            if not response.prepared:
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    await response.prepare(request)
                    await response.write_eof()
            status, size, error = response.status, _size(response), ""
            return response
        except TimeoutError:
            error = "the client didn't read the answer"
            if request.transport is not None:
                request.transport.abort()
            raise
        finally:
            begun = request.get(BEGUN)
            seconds = time.monotonic() - began
            if begun is not None and not status:  # it was answered, and then the client left
                status, size = begun.response.status, _size(begun.response)
                if begun.goes_on:
                    error, seconds = "", begun.at - began
            endpoint = _endpoint_name(request)
            stats.count(endpoint, status, seconds)
            observe(endpoint, seconds)
            record = api_record(
                at_s=at_s,
                source=ends[0],
                target=ends[1],
                method=request.method,
                url=request.path_qs,
                status_code=status,
                request_size=request.content.total_raw_bytes if request.body_exists else 0,
                response_size=size,
                duration_s=seconds,
                user_agent=request.headers.get("User-Agent", ""),
                error=error or None,
            )
            log(record)

    return middleware


def _size(response: web.StreamResponse) -> int:
    """The body's bytes; aiohttp's own count has the headers in it."""
    sent = response.get(SENT_BYTES)
    return sent if sent is not None else response.content_length or 0


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _endpoint_name(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else UNMATCHED


def _ends(request: web.Request) -> tuple[tuple[str, int], tuple[str, int]]:
    """Both ends' address and port; the local socket has neither."""
    transport = request.transport
    found = []
    for name in ("peername", "sockname"):
        value = transport.get_extra_info(name) if transport is not None else None
        found.append((str(value[0]), int(value[1])) if isinstance(value, tuple) else ("local", 0))
    return found[0], found[1]


def _problems(
    fatal: Callable[[BaseException], None],
) -> Middleware:
    @web.middleware
    async def middleware(request: web.Request, handler: Next) -> web.StreamResponse:
        try:
            return await handler(request)
        except errors.MusterError as error:
            headers = {"Retry-After": "1"} if isinstance(error, errors.TooMany | errors.NoMajority) else None
            return problem_response(problem_of(error, request.path), headers)
        except web.HTTPException as error:
            allow = error.headers.get("Allow")
            headers = {"Allow": allow} if allow else None
            return problem_response(http_problem(error, request), headers)
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:  # a defect in one handler is told and logged, and others go on
            logger.error("%s %s failed", request.method, _endpoint_name(request), exc_info=error)
            if isinstance(error, errors.InvariantBroken):
                fatal(error)
            fix = "The agent's log has the details: `journalctl -u muster-agent`."
            return problem_response(plain_problem(500, "the agent failed at this request", request.path, fix=fix))

    return middleware


def _limiting(limit: RateLimit) -> Middleware:
    @web.middleware
    async def middleware(request: web.Request, handler: Next) -> web.StreamResponse:
        if not auth.is_local(request):
            wait_s = limit.take(request.remote or "", time.monotonic())
            if wait_s:
                error = errors.TooMany("too many requests from this address", fix="Ask less often.")
                retry = {"Retry-After": str(max(1, round(wait_s)))}
                return problem_response(problem_of(error, request.path), retry)
        return await handler(request)

    return middleware
