"""One HTTP request, bounded in time and in bytes.

A server may hang at any point, send a byte now and then, redirect, or lie about lengths: `_Pace` sits below
every receive of the socket, so that headers and bodies are held to it alike. The standard library's client is
used directly: a request costs a third of the processor time that it costs through a pool of urllib3.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from cvmfs.errors import Missing, Unreachable

PIECE = 1 << 18
SLOWEST = 1024
"""Bytes a second that an answer has to come with, as the mean of each window."""

_AROUND = 1 << 20
"""Bytes that an answer may have beyond its content: headers, and what the transfer adds."""

_MAX_REDIRECTS = 4
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (403, 404, 410)
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait: `timeout` (s) to connect, and as the window in which an answer has to make progress;
    `redirects` says whether a redirection is followed."""

    timeout: float
    redirects: bool = False


class ProxyFailed(Unreachable):
    """The proxy itself gave no connection."""


class _Pace:
    """What one answer may still wait for: windows of `seconds`, each with a least number of bytes; `most` in all."""

    __slots__ = ("_bytes", "_left", "_seconds", "_start")

    def __init__(self, seconds: float, most: int) -> None:
        self._seconds = seconds
        self._start, self._bytes, self._left = time.monotonic(), 0, most

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
        self._left -= received
        if self._left < 0:
            raise OSError("the answer does not end")


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

    pace: _Pace = _Pace(10.0, _AROUND)

    def recv_into(self, *args: Any, **keywords: Any) -> int:
        self.settimeout(self.pace.allowance())
        received = super().recv_into(*args, **keywords)
        self.pace.count(received)
        return received


def _paced_socket(address: tuple[str, int], timeout: float, *_: object) -> _PacedSocket:
    plain = socket.create_connection(address, timeout)
    with contextlib.suppress(OSError):
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    paced = _PacedSocket(plain.family, plain.type, plain.proto, plain.detach())
    paced.pace = _Pace(timeout, _AROUND)  # a proxy's answer to CONNECT comes first
    return paced


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.sslsocket_class = _PacedTlsSocket
    return context


class Http:
    """Connections to servers and proxies, kept open for reuse; safe to use from several threads."""

    def __init__(self, agent: str, connections: int = 16) -> None:
        """`connections` is how many idle ones to keep for each way."""
        self._agent = agent
        self._keep = connections
        self._idle: dict[tuple[str, str, str | None], list[HTTPConnection]] = {}
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._closed = False

    def get(self, url: str, proxy: str | None, limits: Limits, most: int, *, fresh: bool = False) -> Iterator[bytes]:
        """The pieces of the body behind `url`, at most `most` bytes of it.

        `fresh` asks caches on the way to fetch anew. Raises Missing, ProxyFailed or Unreachable.
        """
        for _ in range(_MAX_REDIRECTS if limits.redirects else 0):
            answer = _Answer(self, url, proxy, limits, most, fresh)
            if answer.response.status not in _REDIRECTS:
                break
            answer.drop()
            url = _redirected(url, answer.response)
        else:
            answer = _Answer(self, url, proxy, limits, most, fresh)
        try:
            yield from answer.body()
        finally:
            answer.drop()

    def connection(self, parts: SplitResult, proxy: str | None, timeout: float, *, new: bool) -> HTTPConnection:
        """An idle connection, or a new one; `sock` of a new one is None."""
        with self._lock:
            idle = self._idle.get((parts.scheme, parts.netloc, proxy))
            if idle and not new:
                return idle.pop()
            if self._context is None and "https" in (parts.scheme, proxy and urlsplit(proxy).scheme):
                self._context = _tls()
        first = urlsplit(proxy) if proxy else parts
        port = first.port or _PORTS[first.scheme]
        made: HTTPConnection
        if parts.scheme == "https" or first.scheme == "https":
            made = HTTPSConnection(first.hostname or "", port, timeout=timeout, context=self._context)
        else:
            made = HTTPConnection(first.hostname or "", port, timeout=timeout)
        if proxy and parts.scheme == "https":
            made.set_tunnel(parts.hostname or "", parts.port or 443)
        made._create_connection = _paced_socket  # type: ignore[attr-defined]  # as its own tests and urllib3 do
        return made

    def give_back(self, parts: SplitResult, proxy: str | None, connection: HTTPConnection) -> None:
        """Keep a connection whose last answer was read to its end."""
        with self._lock:
            idle = self._idle.setdefault((parts.scheme, parts.netloc, proxy), [])
            if len(idle) < self._keep and not self._closed:
                idle.append(connection)
                return
        connection.close()

    def headers(self, fresh: bool) -> list[tuple[str, str]]:
        """What every request says."""
        found = [("User-Agent", self._agent), ("Accept", "*/*")]
        return [*found, ("Cache-Control", "no-cache"), ("Pragma", "no-cache")] if fresh else found

    def close(self) -> None:
        """Close idle connections, and keep none from now on."""
        with self._lock:
            self._closed = True
            waiting = [connection for idle in self._idle.values() for connection in idle]
            self._idle.clear()
        for connection in waiting:
            connection.close()


class _Answer:
    """One request that was sent, and the answer to it. The connection goes back once the body was read whole."""

    def __init__(self, http: Http, url: str, proxy: str | None, limits: Limits, most: int, fresh: bool) -> None:
        """Raises ProxyFailed or Unreachable."""
        self._http, self._url, self._proxy, self._most, self._limits = http, url, proxy, most, limits
        self._connection: HTTPConnection | None = None
        try:
            self._parts = urlsplit(url)
            if self._parts.scheme not in _PORTS or not self._parts.hostname:
                raise ValueError("not a URL of http or https")
            self.response = self._first_or_again(fresh)
        except (HTTPException, OSError, ValueError) as error:
            self.drop()
            raise Unreachable(f"{url}: {_reason(error)}") from error
        except Unreachable:
            self.drop()
            raise

    def _first_or_again(self, fresh: bool) -> HTTPResponse:
        """An idle connection that the server has closed says nothing about the server: then a new one is made."""
        connection = self._http.connection(self._parts, self._proxy, self._limits.timeout, new=False)
        if connection.sock is None:
            return self._ask(connection, fresh)
        try:
            return self._ask(connection, fresh)
        except ConnectionError:
            connection.close()
        return self._ask(self._http.connection(self._parts, self._proxy, self._limits.timeout, new=True), fresh)

    def _ask(self, connection: HTTPConnection, fresh: bool) -> HTTPResponse:
        self._connection = connection
        if connection.sock is None:
            self._connect(connection)
        paced: Any = connection.sock
        paced.pace = _Pace(self._limits.timeout, self._most + self._most // 64 + _AROUND)
        paced.settimeout(self._limits.timeout)
        parts = self._parts
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        absolute = self._proxy is not None and parts.scheme == "http"
        connection.putrequest("GET", f"http://{parts.netloc}{target}" if absolute else target)
        for name, value in self._http.headers(fresh):
            connection.putheader(name, value)
        connection.endheaders()
        return connection.getresponse()

    def _connect(self, connection: HTTPConnection) -> None:
        try:
            connection.connect()
        except ssl.SSLCertVerificationError:  # the server's, not the proxy's
            raise
        except OSError as error:
            kind = ProxyFailed if self._proxy else Unreachable
            raise kind(f"{self._proxy or self._url}: {_reason(error)}") from error

    def body(self) -> Iterator[bytes]:
        """The pieces of the body. Raises Missing or Unreachable."""
        response, url = self.response, self._url
        if response.status != 200:
            kind = Missing if response.status in _GONE else Unreachable
            raise kind(f"{url}: the server answers {response.status} {response.reason or ''}".rstrip()[:300])
        declared = response.headers.get("content-length")
        total = 0
        try:
            while piece := response.read1(PIECE):
                total += len(piece)
                if total > self._most:
                    raise Unreachable(f"{url}: the answer is longer than {self._most} bytes")
                yield piece
        except (HTTPException, OSError, ValueError) as error:
            raise Unreachable(f"{url}: {_reason(error)}") from error
        if declared is not None and declared.isdigit() and int(declared) != total:
            raise Unreachable(f"{url}: {total} bytes came, {declared} were announced")
        if self._connection is not None and not response.will_close and (declared is not None or response.chunked):
            response.close()
            self._http.give_back(self._parts, self._proxy, self._connection)
            self._connection = None

    def drop(self) -> None:
        """Close the connection, unless it was given back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _redirected(url: str, response: HTTPResponse) -> str:
    return urljoin(url, response.headers.get("location") or "")


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).replace("\n", " ")[:300]
