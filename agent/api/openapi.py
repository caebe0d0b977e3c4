"""The OpenAPI 3.1 document, made from the routes and the models that they answer with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, get_type_hints

import msgspec

from agent import __version__
from agent.api.handlers import OCTETS
from agent.api.parameters import PATH_TYPES
from agent.api.routes import JSON, Route
from agent.model.api import PROBLEM_MEDIA_TYPE, ProblemDetails

REF_TEMPLATE = "#/components/schemas/{name}"
EVERYWHERE = (400, 429, 500)
_PATH_PARAMETER = re.compile(r"\{(\w+)\}")


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The document as plain objects."""
    types = [type_ for route in routes for type_ in (route.answer, route.body) if type_ is not None]
    queries = [route.query for route in routes]
    _, components = msgspec.json.schema_components((*types, *queries, ProblemDetails), ref_template=REF_TEMPLATE)
    for query in queries:
        components.pop(query.__name__, None)  # their fields stand as parameters
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Muster",
            "version": __version__,
            "description": "Any agent of the cluster answers. Errors are RFC 9457 problems that say what to do next.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "access": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "An access token (`agent token`) or API key (`agent key`); the socket needs none.",
                },
                "instruction": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "The instruction's own token, which binds the body's sha256.",
                },
                "request": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "An admin's token for this very request to this agent, and the body's sha256.",
                },
                "blob": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "An operator's token for one content: its sha256, its size, what it is for.",
                },
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    refused = () if route.access == "open" else (401,)
    statuses = sorted({*EVERYWHERE, *refused, *route.problems})
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)],
        "responses": {
            str(route.status): {"description": HTTPStatus(route.status).phrase, "content": _content(route)},
            **{str(status): _problem(status) for status in statuses},
        },
        "security": [] if route.access == "open" else [{"access" if route.access == "read" else route.access: []}],
    }
    if route.path == "/health":
        operation["responses"]["503"] = {"description": "No coordinator is known", "content": _content(route)}
    if route.method == "PUT":
        content = {OCTETS: {"schema": {"type": "string", "format": "binary"}}}
        operation["requestBody"] = {"required": True, "description": "Exactly what the token names", "content": content}
    if route.access == "instruction":
        description = "The exact bytes that the token binds: the JSON body of its act"
        operation["requestBody"] = {
            "required": True,
            "description": description,
            "content": {JSON: {"schema": {"type": "object"}}},
        }
    if route.body is not None:
        schema = {"$ref": REF_TEMPLATE.format(name=route.body.__name__)}
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    return operation


def _content(route: Route) -> dict[str, Any]:
    if route.answer is None:
        if route.media == OCTETS:
            return {route.media: {"schema": {"type": "string", "format": "binary"}}}
        return {route.media: {"schema": {"type": "object" if route.media == JSON else "string"}}}
    (schema,), _ = msgspec.json.schema_components((route.answer,), ref_template=REF_TEMPLATE)
    return {route.media: {"schema": _event(schema) if route.media == "text/event-stream" else schema}}


def _event(data: dict[str, Any]) -> dict[str, Any]:
    """One event of the stream, as OpenAPI 3.2 describes them: its fields, of which `data` is a JSON text."""
    text = {"type": "string", "contentMediaType": JSON, "contentSchema": data}
    fields = {"id": {"type": "string"}, "event": {"type": "string"}, "data": text}
    return {"type": "object", "properties": fields, "required": ["data"]}


def _problem(status: int) -> dict[str, Any]:
    schema = {"$ref": REF_TEMPLATE.format(name=ProblemDetails.__name__)}
    return {"description": HTTPStatus(status).phrase, "content": {PROBLEM_MEDIA_TYPE: {"schema": schema}}}


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": msgspec.json.schema(PATH_TYPES[name])}
        for name in _PATH_PARAMETER.findall(route.path)
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    hints = get_type_hints(route.query, include_extras=True)
    defaults = {field.name: field.default for field in msgspec.structs.fields(route.query)}
    return [
        {"name": name, "in": "query", "required": False, "schema": _without_null(hints[name], defaults[name])}
        for name in hints
    ]


def _without_null(type_: Any, default: object) -> dict[str, Any]:
    """A parameter that isn't given isn't null."""
    schema = msgspec.json.schema(type_)
    alternatives = [item for item in schema.get("anyOf", ()) if item.get("type") != "null"]
    schema = alternatives[0] if alternatives else schema
    return schema if default is None else {**schema, "default": default}


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    if route.media != "text/event-stream":
        return []
    return [{"name": "Last-Event-ID", "in": "header", "required": False, "schema": {"type": "string"}}]
