"""One catalog: an SQLite file from a stranger, read without trusting anything in it."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import quote

from cvmfs.content import Content
from cvmfs.entry import Chunk, Entry, check_chunks, check_name, make_entry
from cvmfs.errors import Damaged, Unsupported
from cvmfs.hashes import ContentHash

QUERY_SECONDS = 20.0
"""A query that takes longer is broken off: a damaged or hostile file can make SQLite loop."""

_OPTIONAL = ("mtimens", "xattr", "hardlinks", "uid", "gid")
_COLUMNS = ("name", "hash", "size", "mode", "mtime", "mtimens", "flags", "symlink", "uid", "gid", "hardlinks", "xattr")
_MAX_ROWS = 4_000_000
_MAX_VALUE = 1 << 22
_MAX_IN_MEMORY = 1 << 28
_HALVES = struct.Struct("<qq")


@dataclass(frozen=True, slots=True)
class Nested:
    """A catalog that starts at a path: `size` in bytes, 0 where the parent does not say. `alternative`: as in
    the manifest."""

    hash: ContentHash
    size: int
    alternative: bool = False


def path_key(path: bytes) -> tuple[int, int]:
    """The MD5 of an absolute path (the root is the empty string) as the two integers that catalogs use."""
    low, high = _HALVES.unpack(hashlib.md5(path, usedforsecurity=False).digest())
    return low, high


class SqliteFile:
    """A read-only database of which neither schema nor content is trusted; safe to use from several threads."""

    def __init__(self, content: Content, what: str) -> None:
        """Open the database in `content`; `what` names it in errors. Raises Damaged."""
        self._what = what
        self._lock = threading.Lock()
        self._deadline = 0.0
        try:
            self._connection = _connect(content)
        except (sqlite3.Error, ValueError, OSError, MemoryError) as error:
            raise Damaged(f"{what}: {error}") from error
        self._connection.text_factory = bytes
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        self._connection.set_progress_handler(self._overdue, 100_000)
        for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "cache_size=-512", "query_only=ON"):
            self.rows(f"PRAGMA {pragma}")

    def __del__(self) -> None:
        if hasattr(self, "_connection"):
            self._connection.close()

    def _overdue(self) -> bool:
        return time.monotonic() > self._deadline

    def rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """All rows of the answer (integers, floats, bytes or None). Raises Damaged for any error of SQLite."""
        with self._lock:
            self._deadline = time.monotonic() + QUERY_SECONDS
            try:
                found = self._connection.execute(query, values).fetchmany(_MAX_ROWS + 1)
            except (sqlite3.Error, ValueError, OverflowError, MemoryError, SystemError) as error:
                raise Damaged(f"{self._what}: damaged database ({error})") from error
        if len(found) > _MAX_ROWS:
            raise Damaged(f"{self._what}: more than {_MAX_ROWS} rows in one answer")
        return found

    def columns(self, table: str) -> set[str]:
        """The columns of a plain table; empty if there is none of this name (a view does not count)."""
        if self.rows("SELECT type FROM sqlite_master WHERE name = ?", (table,)) != [(b"table",)]:
            return set()
        names = [row[1] for row in self.rows(f"PRAGMA table_info({table})")]
        return {name.decode("ascii", "replace") for name in names if isinstance(name, bytes)}


def _connect(content: Content) -> sqlite3.Connection:
    if content.path is not None:
        with contextlib.suppress(sqlite3.OperationalError):  # just removed by another process
            where = "file:" + quote(content.path) + "?mode=ro&immutable=1"
            return sqlite3.connect(where, uri=True, check_same_thread=False, isolation_level=None)
    if content.size > _MAX_IN_MEMORY:
        raise MemoryError(f"no place on disk, and {content.size} bytes are too many for memory")
    connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    connection.deserialize(content.read(0, content.size))
    return connection


class Catalog:
    """The entries below one path. Paths given to it are absolute, in the catalog's own naming (see `root_prefix`)."""

    def __init__(self, content: Content, hash_: ContentHash) -> None:
        """Open the catalog with this hash. Raises Damaged or Unsupported."""
        self.hash = hash_
        self._file = SqliteFile(content, f"catalog {hash_}")
        self._what = f"catalog {hash_}"
        properties = self._properties()
        self._check_schema(properties.get("schema", "1.0"))
        self.root_prefix = properties.get("root_prefix", "").encode("utf-8", "surrogateescape").rstrip(b"/")
        self.revision = _number(properties.get("revision", "0"))
        self.ttl = _number(properties.get("TTL", "0"))
        columns = self._file.columns("catalog")
        absent = sorted(set(_COLUMNS) - set(_OPTIONAL) - columns)
        if absent:
            raise Damaged(f"{self._what}: no column {', '.join(absent)}")
        chosen = [name if name in columns else "0" if name in ("uid", "gid") else "NULL" for name in _COLUMNS]
        self._select = f"SELECT md5path_1, md5path_2, {', '.join(chosen)} FROM catalog"  # noqa: S608 — names from the table above
        self._has_chunks = {"md5path_1", "md5path_2", "offset", "size", "hash"} <= self._file.columns("chunks")
        self.nested = self._nested("nested_catalogs") | self._nested("bind_mountpoints")

    def _properties(self) -> dict[str, str]:
        if not {"key", "value"} <= self._file.columns("properties"):
            raise Damaged(f"{self._what}: no table of properties")
        rows = self._file.rows("SELECT CAST(key AS TEXT), CAST(value AS TEXT) FROM properties LIMIT 1000")
        return {
            key.decode("utf-8", "replace"): value.decode("utf-8", "surrogateescape")
            for key, value in rows
            if isinstance(key, bytes) and isinstance(value, bytes)
        }

    def _check_schema(self, text: str) -> None:
        try:
            schema = float(text)
        except ValueError:
            raise Damaged(f"{self._what}: schema {text[:20]!r} is not a number") from None
        if not 1.0 <= schema < 2.6:
            raise Unsupported(f"{self._what}: schema {text[:20]} is not one of 1.0 to 2.5")

    def _nested(self, table: str) -> dict[bytes, Nested]:
        columns = self._file.columns(table)
        if not {"path", "sha1"} <= columns:
            return {}
        size = "size" if "size" in columns else "0"
        found: dict[bytes, Nested] = {}
        for path, text, length in self._file.rows(f"SELECT path, sha1, {size} FROM {table}"):  # noqa: S608 — as above
            if not isinstance(path, bytes) or not isinstance(text, bytes) or not path.startswith(b"/"):
                raise Damaged(f"{self._what}: a row of {table} is not a path and a hash")
            for part in path[1:].split(b"/"):
                check_name(part)
            if text:  # an empty hash marks a catalog that is only planned
                parsed = ContentHash.parse(text.decode("ascii", "replace"), f"{self._what}: {table}")
                found[path] = Nested(parsed, length if isinstance(length, int) and length > 0 else 0)
        return found

    def lookup(self, path: bytes) -> Entry | None:
        """The entry at `path`, or None. Raises Damaged."""
        rows = self._file.rows(f"{self._select} WHERE md5path_1 = ? AND md5path_2 = ?", path_key(path))
        if not rows:
            return None
        entry = make_entry(rows[0][2:], is_root=path == self.root_prefix)
        if path != self.root_prefix and entry.name != path.rpartition(b"/")[2]:
            raise Damaged(f"{self._what}: the entry at {path!r} is named {entry.name!r}")
        return entry

    def listing(self, path: bytes) -> list[Entry]:
        """The entries of the directory at `path`, hidden ones too, by name. Raises Damaged."""
        found = []
        for row in self._file.rows(f"{self._select} WHERE parent_1 = ? AND parent_2 = ?", path_key(path)):
            entry = make_entry(row[2:], is_root=False)
            # a row under a wrong key would be listed and not found, or form a loop
            if row[:2] != path_key(path + b"/" + entry.name):
                raise Damaged(f"{self._what}: the entry {entry.name!r} in {path!r} has the key of another path")
            found.append(entry)
        found.sort(key=lambda entry: entry.name)
        if any(one.name == other.name for one, other in pairwise(found)):
            raise Damaged(f"{self._what}: the directory {path!r} has two entries of one name")
        return found

    def chunks(self, path: bytes, entry: Entry) -> tuple[Chunk, ...]:
        """The chunks of the file at `path`. Raises Damaged if the table does not make up the file."""
        if not self._has_chunks:
            raise Damaged(f"{self._what}: no table of chunks, but {path!r} is chunked")
        query = "SELECT offset, size, hash FROM chunks WHERE md5path_1 = ? AND md5path_2 = ? ORDER BY offset"
        return check_chunks(self._file.rows(query, path_key(path)), entry)

    def counters(self) -> dict[str, int]:
        """The statistics that the publisher keeps about the catalog (`self_…`) and those below it (`subtree_…`)."""
        if not {"counter", "value"} <= self._file.columns("statistics"):
            return {}
        rows = self._file.rows("SELECT counter, value FROM statistics ORDER BY counter LIMIT 1000")
        return {
            name.decode("utf-8", "replace"): value
            for name, value in rows
            if isinstance(name, bytes) and isinstance(value, int)
        }


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
