"""From a path in the repository to bytes that hold what they promise, by whatever way works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from cvmfs.errors import CvmfsError, Damaged, Missing, Refused, Unreachable
from cvmfs.http import Http, Limits, ProxyFailed
from cvmfs.routes import DIRECT, Routes

Result = TypeVar("Result")
Receive = Callable[[Iterator[bytes]], Result]


@dataclass(slots=True)
class Counters:
    """What came over the network, and how many seconds it took."""

    downloads: int = 0
    bytes: int = 0
    seconds: float = 0.0


class Transport:
    """Fetches by trying servers and proxies in turn."""

    def __init__(self, http: Http, routes: Routes, *, through_proxy: Limits, direct: Limits) -> None:
        self._http = http
        self.routes = routes
        self.through_proxy = through_proxy
        self.direct = direct
        self.counters = Counters()
        self._count_lock = threading.Lock()
        self.server = ""
        self.proxy = ""

    def fetch(self, path: str, receive: Receive[Result], most: int, *, fresh: bool = False) -> Result:
        """What `receive` makes of the pieces of the file at `path`, of which there are `most` bytes at most.

        `receive` raises Damaged or Refused for bytes that are not what they should be: they are then asked for
        once more past all caches, and then from the other servers. Raises the last error when all ways failed.
        """
        last: CvmfsError | None = None
        for server in self.routes.servers():
            try:
                return self._from_server(server, path, receive, most, fresh)
            except (Damaged, Refused) as error:
                last = error
                try:
                    return self._from_server(server, path, receive, most, True)
                except (Damaged, Refused, Unreachable) as again:
                    last = again if isinstance(again, Damaged | Refused) else last
            except Missing as error:
                last = last or error
            except Unreachable as error:
                self.routes.failed(server)
                last = last if isinstance(last, Damaged | Refused) else error
        raise last or Unreachable(f"{path}: no server is configured")

    def _from_server(self, server: str, path: str, receive: Receive[Result], most: int, fresh: bool) -> Result:
        """One server through the proxies in turn."""
        last: Unreachable | None = None
        suspects: list[str] = []
        for proxy in self.routes.proxies(path):
            try:
                result = self._once(server, proxy, path, receive, most, fresh)
            except Missing:
                self.routes.works(proxy)
                raise
            except ProxyFailed as error:
                self.routes.failed(proxy)
                last = last or error
            except Unreachable as error:
                # nobody can tell whether proxy or server failed: the proxy did, if another one gets through
                suspects.append(proxy)
                last = error
            else:
                for suspect in suspects:
                    self.routes.failed(suspect)
                self.routes.works(proxy)
                self.routes.works(server)
                self.server, self.proxy = server, proxy
                return result
        raise last or Unreachable(f"{server}: no proxy is configured")

    def _once(self, server: str, proxy: str, path: str, receive: Receive[Result], most: int, fresh: bool) -> Result:
        direct = proxy == DIRECT
        limits = self.direct if direct else self.through_proxy
        pieces = self._http.get(f"{server}/{path}", None if direct else proxy, limits, most, fresh=fresh)
        try:
            return receive(self._counted(pieces))
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()

    def _counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        size, started = 0, time.monotonic()
        try:
            for piece in pieces:
                size += len(piece)
                yield piece
        finally:
            with self._count_lock:
                self.counters.downloads += 1
                self.counters.bytes += size
                self.counters.seconds += time.monotonic() - started

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()
