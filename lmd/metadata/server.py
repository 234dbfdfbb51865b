"""The server's connections and requests: who calls, what it may have, and nothing that one caller can do to another.

Each accepted connection belongs to a machine or is closed at once. What a machine may keep open, ask and upload is
limited (`limits`); aiohttp parses, and ends connections that are idle or never finish a request.
"""

import asyncio
import html
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from lmd.environment import trees
from lmd.metadata import card as cards
from lmd.metadata import outputs, tokens
from lmd.metadata.answers import NotAllowed, NotThere, Side, Source, answer
from lmd.metadata.card import Card
from lmd.metadata.limits import Bucket, Caller, Limits
from lmd.metadata.neighbours import Checks
from lmd.metadata.openstack import SEED_BYTES
from lmd.metadata.paths import BadPath, names

log = logging.getLogger("lmd-metadata")

PIECE = 65_536
FORGET_SECONDS = 300.0
MOST_LISTED = 10_000


class _Connection(web.RequestHandler):
    """One connection. A client that has said all and shuts its side (nc at the end of its input) is answered still."""

    __slots__ = ()

    def eof_received(self) -> bool:  # type: ignore[override]
        """True keeps our side open: while a whole request waits for its answer."""
        if self._waiter is not None and not self._waiter.done():
            return False
        try:
            if self._parser is not None:
                self._parser.feed_eof()
        except HttpProcessingError:
            return False  # the end has come within a body
        return True


class _Connections(web.Server):
    """aiohttp's server, which tells when a connection has gone."""

    def __init__(self, owner: "Server", **words: Any) -> None:
        super().__init__(owner.handle, **words)
        self._owner, self._words = owner, words

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=asyncio.get_running_loop(), **self._words)

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        transport = handler.transport
        super().connection_lost(handler, exc)
        if transport is not None:
            self._owner.left(transport.get_extra_info("peername")[0])


class Server:
    """Answers machines. `sides` says which address of ours is which; `run` is where callers are registered."""

    def __init__(
        self, run: Path, sides: dict[str, Side], limits: Limits, key: bytes, checks: Checks, threads: Executor
    ) -> None:
        self._run, self._sides, self._limits, self._checks = run, sides, limits, checks
        self._tokens = tokens.Tokens(key)
        self._uploads = outputs.Uploads(threads)
        self._threads = threads
        self._callers: dict[str, Caller] = {}
        self._open = 0
        self._admitting: set[asyncio.Task[None]] = set()
        self._http = _Connections(
            self,
            keepalive_timeout=limits.idle,
            lingering_time=0.5,
            access_log=None,
            auto_decompress=False,
            read_bufsize=PIECE,
            logger=_quiet(),
        )

    async def accept(self, listening: socket.socket) -> None:
        """Take connections of one listening socket for ever."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(listening)
            except OSError as error:
                log.warning("cannot accept connections: %s", error.strerror)
                await asyncio.sleep(0.2)
                continue
            caller = self._caller(peer[0])
            if caller.connections >= self._limits.connections or self._open >= self._limits.all_connections:
                connection.close()
                continue
            caller.connections += 1
            self._open += 1
            task = asyncio.ensure_future(self._admit(connection, peer[0]))
            self._admitting.add(task)
            task.add_done_callback(self._admitting.discard)

    async def _admit(self, connection: socket.socket, address: str) -> None:
        """Give a connection to aiohttp if it is a machine's own."""
        try:
            with cards.opened(self._run, ip_address(address)) as (card, _):
                right = await self._checks.right(card, address)
            if not right:
                log.warning("closed a connection from %s, which is not where machine %s is", address, card.id)
                raise cards.Unreadable
            await asyncio.get_running_loop().connect_accepted_socket(self._http, sock=connection)
        except (OSError, ValueError, cards.Unreadable):
            connection.close()
            self.left(address)
        except BaseException:
            connection.close()
            self.left(address)
            raise

    def left(self, address: str) -> None:
        """A connection of this address has gone."""
        self._open -= 1
        if address in self._callers:
            self._callers[address].connections -= 1

    def idle(self) -> bool:
        """True if nobody is connected."""
        return self._open == 0

    def forget(self) -> None:
        """Drop what is known of callers that have not called for a while."""
        last = time.monotonic() - FORGET_SECONDS
        for address in [a for a, c in self._callers.items() if c.connections <= 0 and c.seen < last]:
            del self._callers[address]
        if not self._callers:
            self._uploads.forget(lambda _: False)

    async def aclose(self) -> None:
        """Close all connections."""
        for task in self._admitting:
            task.cancel()
        await self._http.shutdown(timeout=1)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        caller, address = self._caller(request.remote or ""), ip_address(request.remote or "")
        if pause := caller.bucket.wait(time.monotonic()):
            await asyncio.sleep(pause)
        try:
            side = self._side(request)
            path = names(request.raw_path)
            with cards.opened(self._run, address) as (card, top):
                return await self._answered(request, side, path, card, top, caller)
        except BadPath as refused:
            return _said(400, str(refused))
        except cards.Unreadable:
            return _said(404, "there is no machine at this address any more")
        except (NotThere, FileNotFoundError):
            return _said(404, "not there")
        except (PermissionError, trees.Refused):
            return _said(403, "it cannot be read")
        except NotAllowed as not_allowed:
            return _said(405, "not for this path", Allow=str(not_allowed))
        except (ConnectionError, TimeoutError):
            raise
        except Exception:
            log.exception("a request of %s failed", address)
            return _said(500, "the server failed")

    def _side(self, request: web.BaseRequest) -> Side:
        """Which of our addresses was called; a Host header that names another is a trick, or a proxy."""
        sockname = request.transport.get_extra_info("sockname") if request.transport else None
        called = str(sockname[0]) if sockname else ""
        side = self._sides.get(called)
        host = request.headers.get("Host", "")
        if side is None or (host and not _is_literal(host, called)):
            raise BadPath("the request is not for this server")
        return side

    async def _answered(
        self, request: web.BaseRequest, side: Side, path: tuple[str, ...], card: Card, top: int, caller: Caller
    ) -> web.StreamResponse:
        has_user_data = _exists(top, cards.ASIDE, cards.USER_DATA)
        method = "GET" if request.method == "HEAD" else request.method
        found = answer(side, method, path, card, has_user_data, secrets.token_bytes(SEED_BYTES))
        if found.source is Source.TOKEN:
            return self._token(request, card)
        if side is Side.METADATA and (refused := self._without_token(request, card)):
            return refused
        match found.source:
            case Source.TEXT:
                return web.Response(text=found.text, content_type=found.kind)
            case Source.LISTING:
                return web.Response(text=await self._listing(top, found.directory), content_type=found.kind)
            case Source.UPLOAD:
                return await self._upload(request, card, top, found.name, caller)
            case Source.USER_DATA:
                return await self._file(request, top, cards.ASIDE, cards.USER_DATA, found.kind)
        return await self._file(request, top, found.directory, found.name, found.kind)

    def _token(self, request: web.BaseRequest, card: Card) -> web.Response:
        """PUT /latest/api/token; refused to what came through a proxy, as EC2 does."""
        if "X-Forwarded-For" in request.headers:
            return _said(403, "no tokens for proxies")
        lifetime = tokens.seconds(request.headers.get(tokens.TTL))
        if lifetime is None:
            return _said(400, f"{tokens.TTL}: expected 1 to {tokens.LONGEST}")
        text = self._tokens.made(card.id, time.time(), lifetime)
        return web.Response(text=text, headers={tokens.TTL: str(lifetime)})

    def _without_token(self, request: web.BaseRequest, card: Card) -> web.Response | None:
        token = request.headers.get(tokens.TOKEN)
        if token is None:
            return _said(401, "a token is needed: PUT /latest/api/token") if card.token_required else None
        return (
            None
            if self._tokens.good(token, card.id, time.time())
            else _said(401, "the token is not, or no longer, good")
        )

    async def _listing(self, top: int, directory: str) -> str:
        """Vac's page: one list of links, names alone."""

        def read() -> list[str]:
            with trees.directory(directory, top) as listed, os.scandir(listed) as entries:
                found = (entry.name for entry in entries if not entry.name.startswith("."))
                return sorted(name for name, _ in zip(found, range(MOST_LISTED), strict=False))

        links = []
        for name in await asyncio.get_running_loop().run_in_executor(self._threads, read):
            shown = html.escape(name.encode(errors="surrogateescape").decode(errors="replace"))
            links.append(f'<li><a href="{shown}">{shown}</a></li>')
        return "<html><body><ul>\n" + "\n".join(links) + "\n</ul></body></html>\n"

    async def _file(
        self, request: web.BaseRequest, top: int, directory: str, name: str, kind: str
    ) -> web.StreamResponse:
        """A file as it is when it is opened; long ones in pieces, so that a slow reader holds one piece in memory."""
        with trees.directory(directory, top) as within, trees.regular(name, within) as file:
            size = os.fstat(file).st_size
            first = os.read(file, PIECE)
            if len(first) >= size:
                return web.Response(body=first, content_type=kind)
            response = web.StreamResponse(headers={"Content-Type": kind, "Content-Length": str(size)})
            await response.prepare(request)
            if request.method != "HEAD":
                await self._stream(response, first, file, size)
            await response.write_eof()
            return response

    async def _stream(self, response: web.StreamResponse, piece: bytes, file: int, size: int) -> None:
        began, left, loop = time.monotonic(), size, asyncio.get_running_loop()
        while piece and left > 0:
            async with asyncio.timeout(self._limits.stall):
                await response.write(piece[:left])
            left -= len(piece)
            if self._too_slow(began, size - left):
                raise ConnectionResetError("the reader is too slow")
            piece = await loop.run_in_executor(self._threads, os.read, file, PIECE)
        if left > 0:
            raise ConnectionResetError("the file has become shorter")

    def _too_slow(self, began: float, done: int) -> bool:
        return time.monotonic() - began > 2 * self._limits.stall + done / self._limits.least_bytes

    async def _upload(
        self, request: web.BaseRequest, card: Card, top: int, name: str, caller: Caller
    ) -> web.StreamResponse:
        if "Content-Range" in request.headers:
            return _said(400, "parts of a file cannot be put")
        if request.content_length is None and "Transfer-Encoding" not in request.headers:
            return _said(411, "Content-Length is missing")
        if caller.uploads >= self._limits.uploads:
            return _said(503, f"more than {self._limits.uploads} uploads at a time", **{"Retry-After": "1"})
        caller.uploads += 1
        try:
            await self._uploads.put(card, top, name, request.content_length, lambda: self._body(request))
        except outputs.NoRoom as full:
            return _said(507, str(full))
        except outputs.InTheWay as taken:
            return _said(409, str(taken))
        except (web.RequestPayloadError, TimeoutError):
            return _said(400, "the body did not come, or not in time")
        except PermissionError:
            return _said(403, "joboutputs cannot be written")
        except OSError as error:
            log.warning("machine %s: joboutputs cannot be written: %s", card.id, error.strerror)
            return _said(500, "it could not be stored")
        finally:
            caller.uploads -= 1
        return web.Response(status=201)

    async def _body(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        """The request's body as it comes; `TimeoutError` if it stalls or drips."""
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        began, got = time.monotonic(), 0
        while True:
            async with asyncio.timeout(self._limits.stall):
                piece = await request.content.readany()
            if not piece:
                return
            got += len(piece)
            if self._too_slow(began, got):
                raise TimeoutError
            yield piece

    def _caller(self, address: str) -> Caller:
        caller = self._callers.get(address)
        if caller is None:
            caller = Caller(Bucket(self._limits.per_second, self._limits.burst))
            self._callers[address] = caller
        caller.seen = time.monotonic()
        return caller


def _said(status: int, text: str, **headers: str) -> web.Response:
    """A refusal, in one line."""
    response = web.Response(status=status, text=f"{text}\n", headers=headers)
    if status >= 500 or status in (400, 403, 409, 411):
        response.force_close()
    return response


def _quiet() -> logging.Logger:
    """aiohttp's logger: it would write a traceback for each request that is none, and machines send those."""
    found = logging.getLogger("lmd-metadata.http")
    found.setLevel(logging.CRITICAL + 1)
    return found


def _is_literal(host: str, address: str) -> bool:
    """True if a Host header is our own address, with or without a port."""
    plain = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    with suppress(ValueError):
        return ip_address(plain.partition("%")[0]) == ip_address(address.partition("%")[0])
    return False


def _exists(top: int, directory: str, name: str) -> bool:
    try:
        with trees.directory(directory, top) as within:
            os.stat(name, dir_fd=within, follow_symlinks=False)
    except OSError:
        return False
    return True
