"""The OpenAPI 3.1 document, made from the endpoints and their Structs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from pelagos.api.binding import Endpoint
from pelagos.wire.problem import PROBLEM_TYPE, Problem

__all__ = ["openapi_document"]

_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")


def openapi_document(endpoints: Sequence[Endpoint], *, version: str) -> dict[str, Any]:
    """The document as plain data."""
    wanted: dict[Any, None] = {Problem: None}
    for endpoint in endpoints:
        for kind in (endpoint.answer, endpoint.body, endpoint.query):
            if kind is not None:
                wanted.setdefault(kind)
    kinds = list(wanted)
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    schema = {str(kind): value for kind, value in zip(kinds, schemas, strict=True)}
    queries = {str(endpoint.query) for endpoint in endpoints}
    query_names = {schema[name]["$ref"].rpartition("/")[2] for name in queries}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = _PARAMETER.sub(r"{\1}", endpoint.path)
        query = components[schema[str(endpoint.query)]["$ref"].rpartition("/")[2]]
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, schema, query)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pelagos",
            "version": version,
            "description": "Infrastructures described in YAML, built and kept alive on any mix of clouds.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": {name: value for name, value in components.items() if name not in query_names},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "Needed on TCP, not on the Unix socket."}
            },
        },
    }


def _operation(endpoint: Endpoint, schema: dict[str, Any], query: dict[str, Any]) -> dict[str, Any]:
    problem = {PROBLEM_TYPE: {"schema": schema[str(Problem)]}}
    responses: dict[str, Any] = {
        str(status): {"description": "Never succeeds.", "content": problem} for status in endpoint.never
    }
    if not endpoint.never:
        content: dict[str, Any] = {}
        if endpoint.answer is not None:
            content["application/json"] = {"schema": schema[str(endpoint.answer)]}
        if endpoint.events:
            content["text/event-stream"] = {"schema": {"type": "string"}}
        responses[str(endpoint.status)] = {"description": "Success."} | ({"content": content} if content else {})
    responses["default"] = {"description": "A problem (RFC 9457).", "content": problem}
    operation: dict[str, Any] = {
        "operationId": _operation_id(endpoint),
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "responses": responses,
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(endpoint.path)
    ]
    parameters += [
        {"name": name, "in": "query", "required": name in query.get("required", ()), "schema": value}
        for name, value in query.get("properties", {}).items()
    ]
    if parameters:
        operation["parameters"] = parameters
    body: dict[str, Any] = {}
    if endpoint.body is not None:
        body["application/json"] = {"schema": schema[str(endpoint.body)]}
    for media_type in endpoint.other_body:
        body[media_type] = {"schema": {"type": "string"}}
    if body:
        operation["requestBody"] = {"content": body, "required": True}
    return operation


def _operation_id(endpoint: Endpoint) -> str:
    words = re.sub(r"[^a-z]+", "_", endpoint.path.lower()).strip("_")
    return f"{endpoint.method.lower()}_{words}"
