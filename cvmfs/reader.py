"""The content of files, in one object or in chunks of which only those are fetched that a read needs."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Protocol

from cvmfs.content import Content
from cvmfs.entry import Chunk
from cvmfs.errors import CvmfsError, Damaged, Unsupported
from cvmfs.objects import ObjectRef
from cvmfs.store import ObjectStore
from cvmfs.tree import Located, Tree

_KEPT_OPEN = 3
_AHEAD = 2
PIECE = 1 << 18


class File(Protocol):
    """An open file; `read` may be called from several threads."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`, fewer only at the end. Raises CvmfsError or OSError."""
        ...

    def read_now(self, offset: int, length: int) -> bytes | None:
        """Like read, but None where that would have to wait."""
        ...


class WholeFile:
    """A file in one object."""

    __slots__ = ("_content", "size")

    def __init__(self, content: Content) -> None:
        self._content = content
        self.size = content.size

    def read(self, offset: int, length: int) -> bytes:
        """See File."""
        return self._content.read(offset, length)

    def read_now(self, offset: int, length: int) -> bytes | None:
        """See File."""
        return self._content.read_now(offset, length)


class ChunkedFile:
    """A file in chunks. Reading in order fetches the next chunks while this one is used."""

    def __init__(self, store: ObjectStore, located: Located, chunks: tuple[Chunk, ...]) -> None:
        self._store = store
        self._located = located
        self._chunks = chunks
        self._offsets = [chunk.offset for chunk in chunks]
        self._open: dict[int, Content] = {}
        self._ahead: dict[int, Future[Content]] = {}
        self._last = -1
        self._lock = threading.Lock()
        self.size = located.entry.size

    def read(self, offset: int, length: int) -> bytes:
        """See File."""
        end = min(offset + length, self.size)
        pieces: list[bytes] = []
        while offset < end:
            number = bisect.bisect_right(self._offsets, offset) - 1
            chunk = self._chunks[number]
            piece = self._content(number).read(offset - chunk.offset, min(end, chunk.offset + chunk.size) - offset)
            pieces.append(piece)
            offset += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_now(self, offset: int, length: int) -> bytes | None:
        """See File."""
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        number = bisect.bisect_right(self._offsets, offset) - 1
        chunk = self._chunks[number]
        with self._lock:
            content = self._open.get(number)
        if content is None or end > chunk.offset + chunk.size:
            return None
        return content.read_now(offset - chunk.offset, end - offset)

    def _ref(self, number: int) -> ObjectRef:
        chunk = self._chunks[number]
        return ObjectRef(chunk.hash, "P", self._located.entry.compression == "zlib", chunk.size)

    def _content(self, number: int) -> Content:
        with self._lock:
            found = self._open.get(number)
            sequential = number == self._last + 1
            if found is None:
                waiting = self._ahead.pop(number, None)
            self._last = number
            if sequential:
                self._fetch_ahead(number)
        if found is not None:
            return found
        if waiting is not None and not waiting.cancel():
            found = _result(waiting)
        if found is None:
            found = self._store.content(self._ref(number))
        with self._lock:
            self._open[number] = found
            while len(self._open) > _KEPT_OPEN:
                del self._open[next(iter(self._open))]
        return found

    def _fetch_ahead(self, number: int) -> None:
        """Begin with the next chunks, and forget those that a jump has left behind."""
        wanted = range(number + 1, min(number + 1 + _AHEAD, len(self._chunks)))
        for other in [other for other in self._ahead if other not in wanted]:
            self._ahead.pop(other).cancel()
        for other in wanted:
            if other not in self._open and other not in self._ahead:
                self._ahead[other] = self._store.content_ahead(self._ref(other))


def _result(waiting: Future[Content]) -> Content | None:
    try:
        return waiting.result()
    except CvmfsError:  # tried again by who really needs it
        return None


def whole_ref(located: Located) -> ObjectRef | None:
    """The one object that holds a file, or None for a file in chunks. Raises Unsupported or Damaged."""
    entry = located.entry
    if entry.external:
        raise Unsupported(f"file {located.inner!r}: its content is external to the repository, which is not supported")
    if entry.chunked:
        return None
    if entry.hash is None:
        raise Damaged(f"file {located.inner!r}: the catalog names no object for it")
    return ObjectRef(entry.hash, "", entry.compression == "zlib", entry.size)


def open_file(tree: Tree, store: ObjectStore, located: Located) -> File:
    """Open a file; fetches its object, or its chunk table. Raises CvmfsError."""
    ref = whole_ref(located)
    if ref is not None:
        return WholeFile(store.content(ref))
    return ChunkedFile(store, located, tree.chunks(located))


def stream(file: File, piece: int = PIECE) -> Iterator[bytes]:
    """The whole content in pieces of at most `piece` bytes. Raises CvmfsError or OSError."""
    offset = 0
    while data := file.read(offset, piece):
        yield data
        offset += len(data)
