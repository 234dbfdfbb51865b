"""The database: what the factory has decided and what became of it. Whatever happens to it, nobody else stops.

One worker thread writes; what arrives while it is at work goes into its next transaction together. WAL with
synchronous=NORMAL: nothing is lost by any death of the process; a loss of power may take the last moments, and takes
the machines with them.
"""

import asyncio
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from lmd.factory.rows import ROW, Event, Row
from lmd.factory.schema import STEPS, TABLES, VERSION

T = TypeVar("T")
Statement = tuple[str, tuple[Any, ...]]
RECENT_SECONDS = 100_000.0
WANTED = """SELECT id, body FROM machine
    WHERE ended IS NULL OR ended > ? OR NOT json_valid(body) OR NOT json_extract(body, '$.cleaned')"""
"""What is held in memory: the living, those that still have to be cleaned up, and the ended of the last day."""
KEPT_BROKEN = 3
MAGIC = b"SQLite format 3\0"
"""How many moved-aside files are kept."""


class StoreFault(Exception):
    """The database could not be written; one line. `broken`: its content is damaged, not only out of reach."""

    def __init__(self, text: str, *, broken: bool = False) -> None:
        super().__init__(text)
        self.broken = broken


@dataclass(slots=True)
class Content:
    """All that was in the database when it was opened. `damage` says what was wrong with it, a line each."""

    rows: dict[str, Row] = field(default_factory=dict)
    warnings: dict[str, dict[str, Any]] = field(default_factory=dict)
    intents: dict[str, dict[str, Any]] = field(default_factory=dict)
    backoffs: dict[str, dict[str, Any]] = field(default_factory=dict)
    seq: int = 0
    damage: list[str] = field(default_factory=list)
    copied: bool = False


def saved(row: Row) -> Statement:
    """The statement that puts a row."""
    body = ROW.dump_json(row).decode()
    values = (row.id, row.phase, row.machinetype, row.created, row.ended, body)
    return "INSERT OR REPLACE INTO machine VALUES (?, ?, ?, ?, ?, ?)", values


def noted(event: Event) -> Statement:
    """The statement that adds an event."""
    values = (event.seq, event.at, event.kind, event.machine, json.dumps(dict(event.data), default=str))
    return "INSERT OR REPLACE INTO event VALUES (?, ?, ?, ?, ?)", values


def put(table: str, key: str, body: Mapping[str, Any] | None) -> Statement:
    """The statement that puts, or with None removes, one entry of `warning`, `intent` or `backoff`."""
    name = {"warning": "key", "intent": "key", "backoff": "machinetype"}[table]
    if body is None:
        return f"DELETE FROM {table} WHERE {name} = ?", (key,)  # noqa: S608 - both are from the table above
    return f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (key, json.dumps(dict(body), default=str))  # noqa: S608


class Store:
    """The database at `path`; `refuge` is a directory to work on a copy in, where that place cannot be written."""

    def __init__(self, path: Path, refuge: Path) -> None:
        self.path, self._refuge = path, refuge
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._db: sqlite3.Connection | None = None
        self._inode: tuple[int, int, bytes] | None = None
        self._at = path
        self._waiting: list[tuple[Sequence[Statement], asyncio.Future[None]]] = []
        self._writing = False

    @property
    def in_place(self) -> bool:
        """False while a copy is worked on that the next boot has not got."""
        return self._at == self.path

    async def open(self) -> Content:
        """Open it, whatever is there; never raises for its content or its place."""
        return await self._run(self._open)

    async def write(self, statements: Iterable[Statement]) -> None:
        """One transaction, on the disk when this returns. Raises `StoreFault`; then none of it is."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((list(statements), done))
        if not self._writing:
            self._writing = True
            asyncio.get_running_loop().call_soon(self._drain)
        await done

    async def read(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query. Raises `StoreFault`."""
        return await self._run(lambda: self._guarded(lambda: self._connected().execute(sql, values).fetchall()))

    async def again(self) -> None:
        """Open anew after a fault: a damaged file goes aside, a missing one is made. Raises `StoreFault`."""
        await self._run(self._again)

    async def intact(self) -> bool:
        """False if somebody has removed, replaced or overwritten the file under us."""
        return await self._run(lambda: self._inode is not None and _inode(self._at) == self._inode)

    async def home(self) -> bool:
        """Leave the copy if its place can be written again; False if not. What is known has to be written anew then."""
        return await self._run(self._home)

    async def settled(self) -> None:
        """All is written in place: a copy of before is of no use any more."""
        await self._run(self._drop_copy)

    async def aclose(self) -> None:
        """Let go of the file."""
        await self._run(self._close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _drain(self) -> None:
        batch, self._waiting = self._waiting, []
        statements = [statement for some, _ in batch for statement in some]
        working = asyncio.ensure_future(self._run(lambda: self._commit(statements)))
        working.add_done_callback(lambda done: self._drained(batch, done))

    def _drained(self, batch: list[tuple[Sequence[Statement], asyncio.Future[None]]], done: Any) -> None:
        fault = done.exception() if not done.cancelled() else StoreFault("the database is being closed")
        for _, waiting in batch:
            if waiting.done():
                continue
            if fault:
                waiting.set_exception(fault)
            else:
                waiting.set_result(None)
        if self._waiting:
            self._drain()
        else:
            self._writing = False

    def _commit(self, statements: Sequence[Statement]) -> None:
        def work() -> None:
            db = self._connected()
            db.execute("BEGIN IMMEDIATE")
            try:
                for sql, values in statements:
                    db.execute(sql, values)
                db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise

        self._guarded(work)

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sqlite3.OperationalError as error:
            raise StoreFault(f"{self._at}: {error}", broken=_broken(error)) from error
        except sqlite3.DatabaseError as error:
            raise StoreFault(f"{self._at}: {error}", broken=True) from error

    def _connected(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreFault(f"{self._at}: is not open")
        return self._db

    def _open(self) -> Content:
        content = Content()
        for _ in ("as it is", "made anew"):
            try:
                self._at = self.path
                self._connect()
                self._load(content)
                self._overlay(content)
                return content
            except _Unusable as why:
                self._close()
                content.damage.append(f"{self.path}: {why}; moved to {self._aside()}")
            except (sqlite3.OperationalError, OSError) as error:
                self._close()
                content.damage.append(f"{self.path}: {error}")
                break
            except sqlite3.DatabaseError as error:
                self._close()
                content.damage.append(f"{self.path}: {error}; moved to {self._aside()}")
            content = Content(damage=content.damage)
        return self._retreat(content)

    def _retreat(self, content: Content) -> Content:
        """Where the place cannot be written, a copy in the refuge; where that cannot either, memory."""
        content = Content(damage=content.damage)
        for at in (self._refuge / self.path.name, Path(":memory:")):
            try:
                self._at = at
                if at.name != ":memory:":
                    self._copy(at)
                self._connect()
                self._load(content)
                content.damage.append(f"working on a copy in {at}, which ends with this boot")
                return content
            except (sqlite3.Error, _Unusable, OSError) as error:
                self._close()
                content.damage.append(f"{at}: {error}")
        raise StoreFault("no database at all can be opened, not even in memory")

    def _overlay(self, content: Content) -> None:
        """A copy that was worked on since knows better."""
        at = self._refuge / self.path.name
        if at == self.path or not at.exists():
            return
        newer = Content()
        copy = Store(at, at.parent)
        try:
            copy._connect()
            copy._load(newer)
        except (sqlite3.Error, _Unusable, OSError):
            return
        finally:
            copy._close()
            copy._thread.shutdown()
        content.rows |= newer.rows
        content.intents, content.backoffs, content.warnings = newer.intents, newer.backoffs, newer.warnings
        content.seq = max(content.seq, newer.seq)
        content.copied = True

    def _home(self) -> bool:
        try:
            with self.path.parent.joinpath(f".{self.path.name}.try").open("wb") as file:
                file.write(b"x" * 65_536)
            self.path.parent.joinpath(f".{self.path.name}.try").unlink()
            self._again()
        except (OSError, StoreFault):
            if self._db is None:
                self._at = self._refuge / self.path.name
                with suppress(sqlite3.Error, _Unusable, OSError):
                    self._connect()
            return False
        return True

    def _drop_copy(self) -> None:
        if self.in_place:
            for suffix in ("", "-wal", "-shm"):
                with suppress(OSError):
                    (self._refuge / f"{self.path.name}{suffix}").unlink()

    def _copy(self, at: Path) -> None:
        at.parent.mkdir(parents=True, exist_ok=True)
        for suffix in ("", "-wal"):
            at.with_name(at.name + suffix).unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                shutil.copyfile(self.path.with_name(self.path.name + suffix), at.with_name(at.name + suffix))

    def _connect(self) -> None:
        if self._at.is_dir():
            raise _Unusable("is a directory")
        there = self._at.exists() and self._at.stat().st_size > 0
        self._db = sqlite3.connect(self._at, timeout=5, isolation_level=None, check_same_thread=False)
        if self._at.name != ":memory:":
            self._at.chmod(0o600)
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise _Unusable(f"is of schema {version}, this lmd knows {VERSION}")
        if there and (found := self._db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise _Unusable(str(found).splitlines()[0])
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA journal_size_limit = 4000000")
        self._db.execute("PRAGMA cache_size = -1000")
        self._upgrade(version)
        self._inode = _inode(self._at)

    def _upgrade(self, version: int) -> None:
        db = self._connected()
        for number in range(version, VERSION):
            db.executescript(f"BEGIN; {STEPS[number]}; PRAGMA user_version = {number + 1}; COMMIT;")
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if missing := TABLES - names:
            raise _Unusable(f"has no table {', '.join(sorted(missing))}")
        db.execute("INSERT OR REPLACE INTO intent VALUES ('', '{}')")  # finds out now whether it can be written

    def _load(self, content: Content) -> None:
        db = self._connected()
        for key, body in db.execute(WANTED, (time.time() - RECENT_SECONDS,)):
            try:
                content.rows[key] = ROW.validate_json(body)
            except ValidationError as error:
                content.damage.append(f"{self._at}: the row of machine {key} has {error.error_count()} faults")
        for table, into in (
            ("warning", content.warnings),
            ("intent", content.intents),
            ("backoff", content.backoffs),
        ):
            for key, body in db.execute(f"SELECT * FROM {table}"):  # noqa: S608
                with suppress(ValueError, TypeError):
                    into[key] = dict(json.loads(body))
        content.intents.pop("", None)
        content.seq = db.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()[0]

    def _again(self) -> None:
        self._close()
        self._at = self.path
        try:
            try:
                self._connect()
            except (_Unusable, sqlite3.DatabaseError) as error:
                if isinstance(error, sqlite3.OperationalError) and not _broken(error):
                    raise
                self._close()
                self._aside()
                self._connect()
        except (_Unusable, sqlite3.Error, OSError) as error:
            self._close()
            raise StoreFault(f"{self.path}: {error}") from error

    def _aside(self) -> str:
        """Move the file out of the way, with what belongs to it; the oldest such files go."""
        names = (f"{self.path.name}.broken-{number}" for number in range(1, 10_000))
        target = next(path for name in names if not (path := self.path.with_name(name)).exists())
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                self.path.with_name(self.path.name + suffix).rename(target.with_name(target.name + suffix))
        broken = self.path.parent.glob(f"{self.path.name}.broken-*[0-9]")
        old = sorted(broken, key=lambda path: int(path.name.rpartition("-")[2]))
        for path in old[:-KEPT_BROKEN]:
            for suffix in ("", "-wal", "-shm"):
                with suppress(OSError):
                    path.with_name(path.name + suffix).unlink()
        return target.name

    def _close(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
        self._db, self._inode = None, None


class _Unusable(Exception):
    """The file is no database of ours that could be used."""


def _broken(error: sqlite3.OperationalError) -> bool:
    """Whether the content is at fault: a table that is gone, a file that is none."""
    return "no such" in str(error) or "malformed" in str(error) or "no column" in str(error)


def _inode(path: Path) -> tuple[int, int, bytes] | None:
    """Which file it is, and how it begins; None if it cannot be looked at."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            return found.st_dev, found.st_ino, file.read(len(MAGIC))
    except OSError:
        return None
