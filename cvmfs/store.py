"""Objects by reference: from the cache, else from the servers, each fetched once however many ask."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

from cvmfs.cache import Cache
from cvmfs.content import Content
from cvmfs.errors import Damaged
from cvmfs.objects import ObjectRef, verified_content
from cvmfs.transport import Transport


class ObjectStore:
    """Verified content of objects; safe to use from several threads."""

    def __init__(self, cache: Cache, transport: Transport, *, readers_ahead: int = 4) -> None:
        """`readers_ahead` is how many objects are fetched at a time before they are asked for."""
        self.cache = cache
        self.transport = transport
        self.asked = self.fetched = 0
        """How often content was asked for, and how often that took a download."""
        self._flights: dict[str, Future[Content]] = {}
        self._lock = threading.Lock()
        self._ahead = ThreadPoolExecutor(readers_ahead, "cvmfs-ahead")

    def content(self, ref: ObjectRef) -> Content:
        """The content of an object. Raises Damaged, Missing, Unreachable or CacheUnusable."""
        self.asked += 1
        found = self.cache.open(ref.key)
        if found is None:
            found = self._fetch(ref)
        if ref.size is not None and found.size != ref.size:
            raise Damaged(f"object {ref.key}: content has {found.size} bytes instead of {ref.size}")
        return found

    def ready(self, ref: ObjectRef) -> Content | None:
        """The content, if it can be had without waiting."""
        found = self.cache.ready(ref.key)
        if found is None or ref.size not in (None, found.size):
            return None
        self.asked += 1
        return found

    def content_ahead(self, ref: ObjectRef) -> Future[Content]:
        """Begin to fetch what will probably be asked for."""
        return self._ahead.submit(self.content, ref)

    def _fetch(self, ref: ObjectRef) -> Content:
        with self._lock:
            flight = self._flights.get(ref.key)
            leading = flight is None
            if flight is None:
                flight = self._flights[ref.key] = Future()
        if not leading:
            return flight.result()
        # catalogs are read by SQLite, which wants a file
        keep = self.cache.store_soon if ref.suffix in ("", "P") else self.cache.store
        try:
            found = self.transport.fetch(
                ref.path, lambda pieces: keep(ref.key, verified_content(ref, pieces)), ref.most_stored
            )
        except BaseException as error:
            flight.set_exception(error)
            raise
        else:
            self.fetched += 1
            flight.set_result(found)
            return found
        finally:
            with self._lock:
                del self._flights[ref.key]

    def close(self) -> None:
        """Give up fetching ahead, finish writing, and close connections."""
        self._ahead.shutdown(wait=False, cancel_futures=True)
        self.cache.flush()
        self.transport.close()
