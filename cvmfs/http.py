"""One HTTP request, bounded in time and in bytes.

A server may hang at any point, send a byte now and then, redirect, or lie about lengths: `Pace` sits below
every receive of the socket, so that headers and bodies are held to it alike.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ProxyError,
)
from urllib3.response import HTTPResponse
from urllib3.util.ssl_ import create_urllib3_context

from cvmfs.errors import Missing, Unreachable

PIECE = 1 << 18
SLOWEST = 1024
"""Bytes a second that an answer has to come with, as the mean of each window."""

_DEFAULT_SECONDS = 10.0
_MAX_REDIRECTS = 4
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (403, 404, 410)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait: `timeout` (s) to connect, and as the window in which an answer has to make progress;
    `redirects` says whether a redirection is followed."""

    timeout: float
    redirects: bool = False


class ProxyFailed(Unreachable):
    """The proxy itself gave no connection."""


class _Pace:
    """What one answer may still wait for: windows of `seconds`, each with a least number of bytes."""

    __slots__ = ("_bytes", "_seconds", "_start")

    def __init__(self, seconds: object) -> None:
        self._seconds = seconds if isinstance(seconds, float | int) else _DEFAULT_SECONDS
        self._start, self._bytes = time.monotonic(), 0

    def allowance(self) -> float:
        """Seconds until the window ends. Raises TimeoutError if it ended with too few bytes."""
        now = time.monotonic()
        left = self._start + self._seconds - now
        if left <= 0:
            if self._bytes < SLOWEST * self._seconds:
                raise TimeoutError(f"less than {SLOWEST} bytes a second during {self._seconds:g} s")
            self._start, self._bytes, left = now, 0, self._seconds
        return left

    def count(self, received: int) -> None:
        self._bytes += received


class _PacedSocket(socket.socket):
    """A TCP socket held to its pace."""

    pace: _Pace

    def recv_into(self, *args: Any, **keywords: Any) -> int:
        self.settimeout(self.pace.allowance())
        received = super().recv_into(*args, **keywords)
        self.pace.count(received)
        return received


class _PacedTlsSocket(ssl.SSLSocket):
    """A TLS socket held to its pace."""

    pace: _Pace = _Pace(_DEFAULT_SECONDS)

    def recv_into(self, *args: Any, **keywords: Any) -> int:
        self.settimeout(self.pace.allowance())
        received = super().recv_into(*args, **keywords)
        self.pace.count(received)
        return received


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        plain = super()._new_conn()
        paced = _PacedSocket(plain.family, plain.type, plain.proto, plain.detach())
        paced.pace = _Pace(self.timeout)
        return paced

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # urllib3 narrows it to its own class
        if isinstance(self.sock, _PacedSocket):
            self.sock.pace = _Pace(self.timeout)
        return super().getresponse()


class _TlsConnection(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        if isinstance(self.sock, _PacedTlsSocket):
            self.sock.pace = _Pace(self.timeout)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as above
        if isinstance(self.sock, _PacedTlsSocket):
            self.sock.pace = _Pace(self.timeout)
        return super().getresponse()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class Http:
    """Connections to servers and proxies, kept open for reuse; safe to use from several threads."""

    def __init__(self, agent: str, connections: int = 16) -> None:
        self._agent = agent
        self._connections = connections
        self._managers: dict[tuple[str | None, bool], urllib3.PoolManager] = {}

    def get(self, url: str, proxy: str | None, limits: Limits, most: int, *, fresh: bool = False) -> Iterator[bytes]:
        """The pieces of the body behind `url`, at most `most` bytes of it.

        `fresh` asks caches on the way to fetch anew. Raises Missing, ProxyFailed or Unreachable.
        """
        try:
            response = self._request(url, proxy, limits, fresh)
            for _ in range(_MAX_REDIRECTS if limits.redirects else 0):
                if response.status not in _REDIRECTS:
                    break
                response.close()
                url = urljoin(url, response.headers.get("location", ""))
                response = self._request(url, proxy, limits, fresh)
        except (ConnectTimeoutError, NewConnectionError, ProxyError) as error:
            raise (ProxyFailed if proxy else Unreachable)(f"{proxy or url}: {_reason(error)}") from error
        except (HTTPError, OSError, ValueError) as error:
            raise Unreachable(f"{url}: {_reason(error)}") from error
        try:
            yield from self._body(url, response, most)
        finally:
            response.close()  # an answer read to its end has given its connection back before

    def _request(self, url: str, proxy: str | None, limits: Limits, fresh: bool) -> urllib3.BaseHTTPResponse:
        headers = {"User-Agent": self._agent, "Accept-Encoding": "identity", "Accept": "*/*"}
        if fresh:
            headers |= {"Cache-Control": "no-cache", "Pragma": "no-cache"}
        return self._manager(proxy, url.startswith("https:")).request(
            "GET",
            url,
            headers=headers,
            preload_content=False,
            decode_content=False,
            redirect=False,
            retries=False,
            timeout=urllib3.Timeout(connect=limits.timeout, read=limits.timeout),
        )

    def _body(self, url: str, response: urllib3.BaseHTTPResponse, most: int) -> Iterator[bytes]:
        if response.status != 200:
            kind = Missing if response.status in _GONE else Unreachable
            raise kind(f"{url}: the server answers {response.status} {response.reason or ''}".rstrip())
        declared = response.headers.get("content-length")
        total = 0
        try:
            while piece := response.read1(PIECE, decode_content=False):
                total += len(piece)
                if total > most:
                    raise Unreachable(f"{url}: the answer is longer than {most} bytes")
                yield piece
        except (HTTPError, OSError, ValueError) as error:
            raise Unreachable(f"{url}: {_reason(error)}") from error
        if declared is not None and declared.isdigit() and int(declared) != total:
            raise Unreachable(f"{url}: {total} bytes came, {declared} were announced")

    def _manager(self, proxy: str | None, tls: bool) -> urllib3.PoolManager:
        manager = self._managers.get((proxy, tls))
        if manager is None:
            options: dict[str, Any] = {"num_pools": 64, "maxsize": self._connections, "block": False}
            if tls:
                context = create_urllib3_context()
                context.load_default_certs()
                context.sslsocket_class = _PacedTlsSocket
                options["ssl_context"] = context
            manager = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
            manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
            self._managers[(proxy, tls)] = manager
        return manager

    def close(self) -> None:
        """Close idle connections."""
        for manager in list(self._managers.values()):
            with contextlib.suppress(Exception):
                manager.clear()


def _reason(error: BaseException) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__).replace("\n", " ")[:300]
