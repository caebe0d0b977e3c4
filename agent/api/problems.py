"""Errors as RFC 9457 problems: every one says what happened, where, and what to do next."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from aiohttp import web

from agent import errors
from agent.model.api import PROBLEM_MEDIA_TYPE, PROBLEM_TYPE_PREFIX, ProblemDetails
from agent.model.fault import Fault, fault_of
from agent.model.instruction import InstructionResult

MAX_INSTANCE_CHARACTERS = 512  # a path is echoed for orientation, it's no storage

_encoder = msgspec.json.Encoder()

_HTTP_KINDS = {404: "not-found", 405: "method-not-allowed", 413: "too-large", 417: "expectation-failed"}


class ResultRefused(errors.MusterError):
    """The ledger's answer to an instruction was no: carried in the problem."""

    def __init__(self, fault: Fault, result: InstructionResult) -> None:
        super().__init__(fault.what, where=fault.where, fix=fault.fix)
        self.fault = fault
        self.result = result


def problem_of(error: errors.MusterError, instance: str) -> ProblemDetails:
    """The error as a problem; `instance` is the request's path."""
    fault = error.fault if isinstance(error, ResultRefused) else fault_of(error)
    return ProblemDetails(
        type=PROBLEM_TYPE_PREFIX + fault.kind,
        title=_title(fault.kind),
        status=fault.status,
        detail=fault.what,
        instance=instance[:MAX_INSTANCE_CHARACTERS],
        where=fault.where,
        fix=fault.fix,
        result=error.result if isinstance(error, ResultRefused) else None,
    )


def http_problem(error: web.HTTPException, request: web.BaseRequest) -> ProblemDetails:
    """What aiohttp itself refuses: unknown routes and methods."""
    fix = "GET /api/v1/openapi.json lists every route."
    if error.status == HTTPStatus.NOT_FOUND:
        what = "there is no such route"
    elif isinstance(error, web.HTTPMethodNotAllowed):
        what, fix = f"{request.method} isn't served here", f"Use {', '.join(sorted(error.allowed_methods))}."
    else:
        what, fix = error.reason or "the request was refused", ""
    return plain_problem(error.status, what, request.path, fix=fix)


def plain_problem(status: int, what: str, instance: str, *, fix: str = "") -> ProblemDetails:
    """A problem that has no class in the error tree."""
    kind = _HTTP_KINDS.get(status, "error" if status >= 500 else "bad-input")
    return ProblemDetails(
        type=PROBLEM_TYPE_PREFIX + kind,
        title=_title(kind),
        status=status,
        detail=what,
        instance=instance[:MAX_INSTANCE_CHARACTERS],
        fix=fix,
    )


def problem_response(problem: ProblemDetails, headers: dict[str, str] | None = None) -> web.Response:
    """The problem on the wire."""
    response = web.Response(status=problem.status, body=_encoder.encode(problem), headers=headers)
    response.content_type = PROBLEM_MEDIA_TYPE
    if problem.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="muster"'  # RFC 9110 §11.6.1
    return response


def _title(kind: str) -> str:
    return kind.replace("-", " ").capitalize()
