"""Content that is ready to be read: an open file that nothing can change under the reader."""

from __future__ import annotations

import os
import threading


class MemoryBudget:
    """How many bytes of content may be held in memory while the disk takes none."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Reserve `size` bytes; False if they are not there."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give(self, size: int) -> None:
        """Return what was taken."""
        with self._lock:
            self._left += size


class Content:
    """Verified content of one object. `size` in bytes; `path` is where it is on disk, None if in memory.

    The descriptor is closed with the last reference, so that whoever still reads is not disturbed by eviction.
    """

    __slots__ = ("_budget", "fd", "path", "size")

    def __init__(self, fd: int, size: int, path: str | None, budget: MemoryBudget | None = None) -> None:
        self.fd = fd
        self.size = size
        self.path = path
        self._budget = budget

    def __del__(self) -> None:
        os.close(self.fd)
        if self._budget is not None:
            self._budget.give(self.size)

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end. Raises OSError."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        data = os.pread(self.fd, length, offset)
        while len(data) < length:
            more = os.pread(self.fd, length - len(data), offset + len(data))
            if not more:
                raise OSError(5, "a cached object was cut short while in use")
            data += more
        return data

    def read_now(self, offset: int, length: int) -> bytes | None:
        """Like read, but None where that would have to wait for the disk."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        buffer = bytearray(length)
        try:
            got = os.preadv(self.fd, [buffer], offset, os.RWF_NOWAIT)
        except OSError:  # not in the page cache, or a file system that cannot tell
            return None
        return bytes(buffer) if got == length else None


class SmallContent(Content):
    """Content in memory that needs no descriptor."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)
        self.path = None

    def __del__(self) -> None:
        pass

    def read(self, offset: int, length: int) -> bytes:
        """See Content."""
        return self._data[offset : offset + max(length, 0)]

    def read_now(self, offset: int, length: int) -> bytes | None:
        """See Content."""
        return self._data[offset : offset + max(length, 0)]
