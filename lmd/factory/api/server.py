"""The API's server: one aiohttp site on a Unix socket, every request with its caller's user id."""

import asyncio
import grp
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aiohttp import web

from lmd.factory.api import HEADER, VERSION
from lmd.factory.api.asked import Asked
from lmd.factory.api.endpoints import Caller, Endpoint, Problem, checked, openapi
from lmd.factory.factory import Factory
from lmd.factory.store import StoreFault
from lmd.factory.warnings import Kind
from runtimes.contract import RuntimeFault

GROUP = "lmd"
"""Whose members may use the socket beside root."""
CLOSE_SECONDS = 2.0


class Api:
    """Serves `factory` on the socket `path`."""

    def __init__(self, factory: Factory, path: Path, reload: Callable[[], Awaitable[list[str]]]) -> None:
        self._factory, self._path = factory, path
        self._asked = Asked(factory, reload)
        self.endpoints = [
            *self._asked.endpoints(),
            Endpoint("GET", "/v1/openapi.json", "This description.", self._describe),
        ]
        self._runner: web.AppRunner | None = None

    async def open(self) -> None:
        """Begin to serve. A socket that cannot be made is a warning: the factory works without it."""
        app = web.Application(middlewares=[self._answered])
        for endpoint in self.endpoints:
            app.router.add_route(endpoint.method, endpoint.path, self._handler(endpoint))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_SECONDS)
        await self._runner.setup()
        mask = os.umask(0o177)
        try:
            await web.UnixSite(self._runner, str(self._path)).start()
            with suppress(KeyError):
                os.chown(self._path, -1, grp.getgrnam(GROUP).gr_gid)
            self._path.chmod(0o660)
        except OSError as error:
            self._factory.ledger.warnings.raised(Kind.API, "", f"{self._path}: {error.strerror or error}")
        else:
            self._factory.ledger.warnings.resolved(Kind.API)
        finally:
            os.umask(mask)

    async def aclose(self) -> None:
        """Stop serving; open streams are cut."""
        self._asked.close()
        if self._runner is not None:
            await self._runner.cleanup()
        with suppress(OSError):
            self._path.unlink()

    async def _describe(self, request: web.Request, caller: Caller, body: Any) -> dict[str, Any]:
        return openapi(self.endpoints, version("lmd"))

    def _handler(self, endpoint: Endpoint) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            body = await checked(endpoint, request)
            answer = await endpoint.handler(request, _caller(request), body)
            return answer if isinstance(answer, web.StreamResponse) else web.json_response(answer, dumps=_dumps)

        return handle

    @web.middleware
    async def _answered(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            response = await handler(request)
        except Problem as problem:
            response = problem.response()
        except (RuntimeFault, StoreFault) as fault:
            response = Problem(503, "unavailable", str(fault)).response()
        except TimeoutError:
            response = Problem(504, "too-late", "it took too long").response()
        except web.HTTPException as error:
            response = Problem(
                error.status, "no-such-thing", f"{request.method} {request.path}: {error.reason}"
            ).response()
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            self._factory.ledger.events.add("failed", problem=f"{request.path}: {type(error).__name__}: {error}")
            response = Problem(500, "defect", f"{type(error).__name__}: {error}").response()
        if not response.prepared:
            response.headers[HEADER] = str(VERSION)
        return response


def _dumps(value: Any) -> str:
    import json

    return json.dumps(value, default=str)


def _caller(request: web.Request) -> Caller:
    connection = request.transport.get_extra_info("socket") if request.transport else None
    if connection is None:
        return Caller(uid=-1)
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return Caller(uid=struct.unpack("iII", packed)[1])
