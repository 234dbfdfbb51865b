"""The fake engine: a directory that remembers machines, whoever dies.

It stands where a container engine or a hypervisor would: it outlives the runtime object and the process that holds it,
several processes may use it at once, and it holds machines that are not ours beside those that are. A machine's state
follows from its script and the time (see `script`); what a script writes is written when somebody next looks.
"""

import os
import shutil
import sqlite3
import threading
import time
from asyncio import sleep
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

from runtimes.contract import End, EndReason, State
from runtimes.fake import script
from runtimes.fake.console import Console
from runtimes.fake.faults import Faults
from runtimes.fake.record import Life, Record

SCHEMA = """
CREATE TABLE IF NOT EXISTS machine (name TEXT PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS console (name TEXT PRIMARY KEY, head BLOB NOT NULL, tail BLOB NOT NULL, total INT NOT NULL);
CREATE TABLE IF NOT EXISTS image (reference TEXT PRIMARY KEY, digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS fault (only_row INT PRIMARY KEY CHECK (only_row = 1), faults TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS call (number INTEGER PRIMARY KEY, exchange TEXT NOT NULL, name TEXT NOT NULL);
"""


EXEC_BYTES = 10_000_000


class Clock(Protocol):
    """Where the time comes from."""

    def time(self) -> float:
        """Unix seconds."""

    async def sleep(self, seconds: float) -> None:
        """Return when `time` has moved by so much."""


class WallClock:
    """The host's own time."""

    def time(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await sleep(seconds)


class NameTaken(Exception):
    """A machine of that name exists."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Machines by name; `complete` False if the engine could not look at all of them."""

    lives: tuple[Life, ...]
    complete: bool

    @property
    def records(self) -> tuple[Record, ...]:
        """Without what follows from them."""
        return tuple(life.record for life in self.lives)


class FakeEngine:
    """The engine in `directory`. Each method is one short transaction, safe against a kill at any moment."""

    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        self.directory = directory
        self.clock: Clock = clock or WallClock()
        self._local = threading.local()
        self._faults = ("", Faults())
        self._lives: dict[str, tuple[str, Life]] = {}
        directory.mkdir(parents=True, exist_ok=True)
        with self._open() as db:
            db.executescript(SCHEMA)

    @property
    def faults(self) -> Faults:
        """The faults in force, for every process that uses this engine."""
        row = self._connection().execute("SELECT faults FROM fault").fetchone()
        text = row[0] if row else ""
        if text != self._faults[0]:
            self._faults = (text, Faults.load(text) if text else Faults())
        return self._faults[1]

    @faults.setter
    def faults(self, faults: Faults) -> None:
        with self._open() as db:
            db.execute("REPLACE INTO fault VALUES (1, ?)", (faults.dump(),))

    def note(self, exchange: str, name: str) -> None:
        """Remember that a runtime has asked this."""
        with self._open() as db:
            db.execute("INSERT INTO call (exchange, name) VALUES (?, ?)", (exchange, name))

    def calls(self) -> list[tuple[str, str]]:
        """Every exchange so far with the machine's name ("" where it concerns none), oldest first."""
        return list(self._connection().execute("SELECT exchange, name FROM call ORDER BY number"))

    def insert(self, record: Record) -> None:
        """Take a new machine in, not started. Raises `NameTaken`."""
        with self._open() as db:
            try:
                db.execute("INSERT INTO machine VALUES (?, ?)", (record.name, record.dump()))
            except sqlite3.IntegrityError:
                raise NameTaken(record.name) from None
            db.execute("REPLACE INTO console VALUES (?, ?, ?, 0)", (record.name, b"", b""))
            if record.scratch:
                self.scratch(record.name).mkdir(parents=True, exist_ok=True)

    def start(self, name: str) -> None:
        """Start a machine that was never started; others stay as they are."""
        with self._changing(name) as (db, record):
            if record is not None and record.started is None and record.cut is None:
                self._put(db, replace(record, started=self.clock.time()))

    def ask(self, name: str) -> None:
        """Ask a running machine to end, once."""
        with self._changing(name) as (db, record):
            if record is not None and record.asked is None and record.state(self.clock.time())[0] is State.RUNNING:
                self._put(db, replace(record, asked=self.clock.time()))

    def cut(self, name: str, reason: EndReason, code: int | None = None) -> None:
        """End a machine from outside, now; one that has ended stays as it is."""
        with self._changing(name) as (db, record):
            now = self.clock.time()
            if record is not None and record.state(now)[0] is not State.EXITED:
                self._put(db, replace(record, cut=End(reason=reason, exit_code=code, at=now)))

    def remove(self, name: str) -> None:
        """Forget a machine and all that was its own; absent is success."""
        with self._open() as db:
            shutil.rmtree(self.scratch(name), ignore_errors=True)
            db.execute("DELETE FROM machine WHERE name = ?", (name,))
            db.execute("DELETE FROM console WHERE name = ?", (name,))

    def get(self, name: str) -> Record | None:
        """One machine, after its script has done what is due."""
        row = self._connection().execute("SELECT record FROM machine WHERE name = ?", (name,)).fetchone()
        if row is None:
            return None
        life = self._life(name, row[0])
        if not life.due(self.clock.time()):
            return life.record
        with self._changing(name) as (db, record):
            return None if record is None else self._settle(db, record)

    def listing(self) -> Listing:
        """Every machine, ours and others', after their scripts have done what is due."""
        rows = self._connection().execute("SELECT name, record FROM machine ORDER BY name").fetchall()
        now, lives = self.clock.time(), []
        for name, text in rows:
            life = self._life(name, text)
            if not life.due(now):
                lives.append(life)
            elif (record := self.get(name)) is not None:
                lives.append(Life.of(record))
        self._lives = {name: self._lives[name] for name, _ in rows if name in self._lives}
        if self.faults.partial and lives:
            return Listing(tuple(lives[: len(lives) // 2]), complete=False)
        return Listing(tuple(lives), complete=True)

    def _life(self, name: str, text: str) -> Life:
        """Read once for as long as it stays the same."""
        known = self._lives.get(name)
        if known is None or known[0] != text:
            self._lives[name] = known = (text, Life.of(Record.load(text)))
        return known[1]

    def console(self, name: str) -> Console | None:
        """What is kept of a machine's console; None if there is no such machine."""
        if self.get(name) is None:
            return None
        with self._open() as db:
            return _console(db, name)

    def images(self) -> dict[str, str]:
        """The images in the store: reference to digest."""
        return dict(self._connection().execute("SELECT reference, digest FROM image"))

    def add_image(self, reference: str, digest: str) -> None:
        """Take an image in."""
        with self._open() as db:
            db.execute("REPLACE INTO image VALUES (?, ?)", (reference, digest))

    def remove_image(self, reference: str) -> None:
        """Forget an image; absent is success."""
        with self._open() as db:
            db.execute("DELETE FROM image WHERE reference = ?", (reference,))

    def add_foreign(self, name: str) -> None:
        """Start a machine that is not ours."""
        self.insert(Record(name=name, labels={}, words=("forever",), created=self.clock.time(), environment={}))
        self.start(name)

    def leftovers(self, name: str) -> list[str]:
        """All that there is under this name, a line each."""
        found = [f"machine {name}"] if self.get(name) else []
        with self._open() as db:
            if db.execute("SELECT 1 FROM console WHERE name = ?", (name,)).fetchone():
                found.append(f"console of {name}")
        return found + [str(path) for path in (self.scratch(name),) if path.exists()]

    def scratch(self, name: str) -> Path:
        """Where a machine's scratch directories are."""
        return self.directory / "scratch" / name

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = self._connection()
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.rollback()
            raise
        db.commit()

    def _connection(self) -> sqlite3.Connection:
        """One for each thread and process, kept open: what is cheap is asked often."""
        held: tuple[int, sqlite3.Connection] | None = getattr(self._local, "held", None)
        if held is None or held[0] != os.getpid():
            db = sqlite3.connect(self.directory / "engine.sqlite", timeout=10, isolation_level=None)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = OFF")  # a killed process loses nothing by it, only a host that fails
            self._local.held = held = (os.getpid(), db)
        return held[1]

    def mark(self) -> tuple[int, int]:
        """Another value as soon as anybody has changed anything."""
        db = self._connection()
        return db.execute("PRAGMA data_version").fetchone()[0], db.total_changes

    @contextmanager
    def _changing(self, name: str) -> Iterator[tuple[sqlite3.Connection, Record | None]]:
        with self._open() as db:
            row = db.execute("SELECT record FROM machine WHERE name = ?", (name,)).fetchone()
            yield db, Record.load(row[0]) if row else None

    def _put(self, db: sqlite3.Connection, record: Record) -> None:
        db.execute("UPDATE machine SET record = ? WHERE name = ?", (record.dump(), record.name))

    def _settle(self, db: sqlite3.Connection, record: Record) -> Record:
        """Let the script do what is due by now: print, and write into the directories bound to the machine."""
        now = self.clock.time()
        due = [effect for effect in record.history().effects if effect.at <= now][record.effects_done :]
        if not due:
            return record
        console = _console(db, record.name)
        for effect in due:
            console = self._perform(record, effect.step, console, record.console_bytes)
        db.execute("REPLACE INTO console VALUES (?, ?, ?, ?)", (record.name, console.head, console.tail, console.total))
        settled = replace(record, effects_done=record.effects_done + len(due))
        self._put(db, settled)
        return settled

    def perform(self, record: Record, commands: script.Script, limit: int) -> tuple[bytes, int]:
        """Run a script in a machine at once; its output, at most `limit` bytes, and its exit code."""
        now = self.clock.time()
        runs = script.history(commands, now, None, None, record.memory_bytes)
        console = Console()
        for effect in runs.effects:
            console = self._perform(record, effect.step, console, EXEC_BYTES)
        code = runs.end.exit_code if runs.end else None
        return (console.head + console.tail)[:limit], 0 if code is None else code

    def _perform(self, record: Record, step: script.Step, console: Console, cap: int) -> Console:
        if step.word == "shout":
            return console.repeated(b"x", int(step.number), cap).add(b"\n", cap)
        if step.word == "print":
            return console.add(step.args[0].encode() + b"\n", cap)
        if step.word == "printenv":
            return console.add(record.environment.get(step.args[0], "").encode() + b"\n", cap)
        try:
            if step.word == "cat":
                return console.add(self.inside(record, step.args[0], writing=False).read_bytes(), cap)
            self.inside(record, step.args[0], writing=True).write_text(step.args[1])
        except OSError as error:
            return console.add(f"{step.word}: {error}\n".encode(), cap)
        return console

    def inside(self, record: Record, path: str, *, writing: bool) -> Path:
        """The host's path of a path in the machine. Raises `OSError` where the machine could not go."""
        wanted = PurePosixPath(path)
        if ".." in wanted.parts:
            raise FileNotFoundError(f"{path}: paths with .. are not followed")
        own = [(str(self.scratch(record.name)), target, False) for target in record.scratch]
        for source, target, read_only in sorted([*record.mounts, *own], key=lambda m: len(m[1]), reverse=True):
            if wanted.is_relative_to(target):
                if writing and read_only:
                    raise PermissionError(f"{path}: read-only file system")
                return Path(source) / wanted.relative_to(target)
        raise FileNotFoundError(f"{path}: no such file or directory in a fake machine")


def _console(db: sqlite3.Connection, name: str) -> Console:
    head, tail, total = db.execute("SELECT head, tail, total FROM console WHERE name = ?", (name,)).fetchone()
    return Console(head, tail, total)
