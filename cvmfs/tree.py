"""One revision as a tree of paths, over the catalogs that make it up. Paths are bytes: "" is the root, "/a/b"."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from cvmfs.catalog import Catalog, Nested
from cvmfs.entry import Chunk, Entry, Kind
from cvmfs.hashes import ContentHash
from cvmfs.objects import ObjectRef
from cvmfs.store import ObjectStore

_LEAST_LIMIT = 1 << 26
_LIMIT_UNKNOWN = 1 << 30
_MAX_DEPTH = 512


class Catalogs:
    """Open catalogs by hash, the least recently used closed first."""

    def __init__(self, store: ObjectStore, most: int = 256) -> None:
        self._store = store
        self._most = most
        self._open: OrderedDict[ContentHash, Catalog] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def get(self, nested: Nested) -> Catalog:
        """The catalog with this hash. Raises Damaged, Unsupported or Unreachable."""
        with self._lock:
            found = self._open.get(nested.hash)
            if found is not None:
                self._open.move_to_end(nested.hash)
                return found
        limit = max(4 * nested.size, _LEAST_LIMIT) if nested.size else _LIMIT_UNKNOWN
        opened = Catalog(
            self._store.content(ObjectRef(nested.hash, "C", limit=limit, alternative=nested.alternative)), nested.hash
        )
        with self._lock:
            found = self._open.setdefault(nested.hash, opened)
            while len(self._open) > self._most:
                self._open.popitem(last=False)
        return found

    def has(self, nested: Nested) -> bool:
        """Whether the catalog is open, so that get does not wait."""
        return nested.hash in self._open


@dataclass(frozen=True, slots=True)
class Located:
    """An entry with where it comes from: enough to find its chunks again, whatever revision is current by then."""

    entry: Entry
    catalog: Nested
    inner: bytes
    """Its path as that catalog names it."""
    mount: bytes
    """The path at which that catalog starts."""


class Tree:
    """The files of the revision whose root catalog is `root`."""

    def __init__(self, catalogs: Catalogs, root: Nested) -> None:
        self._catalogs = catalogs
        self.root = root

    def catalog(self, path: bytes) -> tuple[Catalog, Nested, bytes]:
        """The catalog that holds the entry at `path`, how to find it again, and the path at which it starts."""
        at, mount = self.root, b""
        catalog = self._catalogs.get(at)
        end = 0
        while end < len(path):
            end = path.find(b"/", end + 1)
            end = len(path) if end < 0 else end
            if not catalog.nested:
                break
            nested = catalog.nested.get(catalog.root_prefix + path[len(mount) : end])
            if nested is not None:
                catalog, at, mount = self._catalogs.get(nested), nested, path[:end]
        return catalog, at, mount

    def quick(self, path: bytes) -> bool:
        """Whether all catalogs on the way to `path` are open, so that nothing has to be fetched."""
        at, mount = self.root, b""
        if not self._catalogs.has(at):
            return False
        catalog = self._catalogs.get(at)
        end = 0
        while end < len(path) and catalog.nested:
            end = path.find(b"/", end + 1)
            end = len(path) if end < 0 else end
            nested = catalog.nested.get(catalog.root_prefix + path[len(mount) : end])
            if nested is not None:
                if not self._catalogs.has(nested):
                    return False
                catalog, mount = self._catalogs.get(nested), path[:end]
        return True

    def lookup(self, path: bytes) -> Located | None:
        """What is at `path`, or None. Raises CvmfsError."""
        catalog, at, mount = self.catalog(path)
        inner = catalog.root_prefix + path[len(mount) :]
        entry = catalog.lookup(inner)
        return None if entry is None else Located(entry, at, inner, mount)

    def listing(self, path: bytes) -> list[Located]:
        """The children of a directory by name, without the hidden ones. A child that is the start of another
        catalog is described as its parent knows it. Raises CvmfsError."""
        catalog, at, mount = self.catalog(path)
        inner = catalog.root_prefix + path[len(mount) :]
        return [
            Located(entry, at, inner + b"/" + entry.name, mount) for entry in catalog.listing(inner) if not entry.hidden
        ]

    def chunks(self, located: Located) -> tuple[Chunk, ...]:
        """The chunks of a chunked file. Raises CvmfsError."""
        return self._catalogs.get(located.catalog).chunks(located.inner, located.entry)

    def walk(self, path: bytes = b"") -> Iterator[tuple[bytes, Located]]:
        """Everything below and with `path`, parents first. Raises CvmfsError."""
        found = self.lookup(path)
        if found is None:
            return
        yield path, found
        if found.entry.kind is not Kind.DIRECTORY or path.count(b"/") > _MAX_DEPTH:
            return
        for child in self.listing(path):
            below = path + b"/" + child.entry.name
            if child.entry.kind is Kind.DIRECTORY:
                yield from self.walk(below)
            else:
                yield below, child
