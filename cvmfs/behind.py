"""Small objects wait in memory until nobody waits for anything, and are then written to the cache's disk.

Making a file takes longer than fetching a small object, and competes with the readers for the processor. What a
crash leaves unwritten is fetched again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from cvmfs.content import Content, SmallContent

MOST_BYTES = 16 << 20
MOST_OBJECTS = 2048
_QUIET_SECONDS = 0.25
_LONGEST_SECONDS = 10.0
_BATCH = 64
Small = tuple[str, bytes]
"""Key and content."""

log = logging.getLogger("cvmfs")


class Behind:
    """Objects that are not written yet; `write` puts some of them on disk."""

    def __init__(self, write: Callable[[Sequence[Small]], None]) -> None:
        self._write = write
        self._waiting: dict[str, bytes] = {}
        self._bytes = 0
        self._writer: threading.Thread | None = None
        self._changed = threading.Condition()
        self._came = False
        self._idle = False
        self._hurry = 0

    def get(self, key: str) -> Content | None:
        """The content of an object that waits."""
        data = self._waiting.get(key)
        return None if data is None else SmallContent(data)

    def busy(self) -> None:
        """Somebody reads: this is no time for writing."""
        self._came = True

    def add(self, key: str, data: bytes) -> None:
        """Let an object wait; blocks while too much waits."""
        with self._changed:
            while self._bytes > MOST_BYTES or len(self._waiting) > MOST_OBJECTS:
                self._hurry += 1
                self._changed.notify_all()
                self._changed.wait()
                self._hurry -= 1
            self._bytes += len(data) - len(self._waiting.get(key, b""))
            self._waiting[key] = data
            self._came = True
            if self._writer is None:
                self._writer = threading.Thread(target=self._run, daemon=True, name="cvmfs-cache")
                self._writer.start()
            elif self._idle:  # else it looks by itself, and need not be woken for each
                self._idle = False
                self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all objects are on disk, or were given up."""
        with self._changed:
            self._hurry += 1
            self._changed.notify_all()
            while self._waiting:
                self._changed.wait()
            self._hurry -= 1

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._idle = True
                    self._changed.wait()
                self._idle = False
                until = time.monotonic() + _LONGEST_SECONDS
                while self._came and not self._hurry and time.monotonic() < until:
                    self._came = False
                    self._changed.wait(_QUIET_SECONDS)
                batch = list(self._waiting.items())[:_BATCH]
            try:
                self._write(batch)
            except Exception:
                log.exception("objects were not written to the cache")
            with self._changed:
                for key, data in batch:
                    if self._waiting.get(key) is data:
                        del self._waiting[key]
                        self._bytes -= len(data)
                self._changed.notify_all()
