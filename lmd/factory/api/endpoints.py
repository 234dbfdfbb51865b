"""How an endpoint is declared: one table from which routes, checks and the OpenAPI description come."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from lmd.factory.api import VERSION

LARGEST_BODY = 256 * 1024


class Body(BaseModel):
    """What a request may carry: these fields and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(Exception):
    """An error that the caller is told: HTTP status, a stable code for programs, a sentence for people."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status, self.code = status, code

    def response(self) -> web.Response:
        """As the API answers it."""
        return web.json_response({"error": {"code": self.code, "message": str(self)}}, status=self.status)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, by the socket's credentials."""

    uid: int

    def __str__(self) -> str:
        return f"user {self.uid}"


Handler = Callable[[web.Request, Caller, Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`handler` gets the request, the caller and the checked body (None without one); what it returns is sent as JSON
    unless it is a response already. `parameters` are those of the query, with their meaning."""

    method: str
    path: str
    summary: str
    handler: Handler
    body: type[Body] | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)


async def checked(endpoint: Endpoint, request: web.Request) -> Any:
    """The request's body as its model. Raises `Problem`."""
    if endpoint.body is None:
        return None
    content = await request.content.read(LARGEST_BODY + 1)
    while len(content) <= LARGEST_BODY and (more := await request.content.read(LARGEST_BODY + 1 - len(content))):
        content += more
    if len(content) > LARGEST_BODY:
        raise Problem(413, "too-large", f"a request may have {LARGEST_BODY} bytes")
    try:
        return endpoint.body.model_validate_json(content or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise Problem(400, "bad-request", f"{where}: {first['msg']}") from error


def openapi(endpoints: list[Endpoint], release: str) -> dict[str, Any]:
    """The OpenAPI 3.1 description of the endpoints."""
    paths: dict[str, dict[str, Any]] = {}
    for one in endpoints:
        inside = [part[1:-1] for part in one.path.split("/") if part.startswith("{")]
        told: dict[str, Any] = {
            "summary": one.summary,
            "operationId": one.handler.__name__.strip("_"),
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in inside
            ]
            + [
                {"name": name, "in": "query", "description": meaning, "schema": {"type": "string"}}
                for name, meaning in one.parameters.items()
            ],
            "responses": {
                "200": {"description": "as asked", "content": {"application/json": {}}},
                "default": {
                    "description": "what was wrong",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                },
            },
        }
        if one.body is not None:
            schema = TypeAdapter(one.body).json_schema()
            told["requestBody"] = {"content": {"application/json": {"schema": schema}}}
        paths.setdefault(one.path, {})[one.method.lower()] = told
    error = {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
                "required": ["code", "message"],
            }
        },
        "required": ["error"],
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "lmd", "version": f"{VERSION}", "description": f"The daemon of one factory, lmd {release}."},
        "paths": paths,
        "components": {"schemas": {"Error": error}},
    }
