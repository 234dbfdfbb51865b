"""A machine's directory on the host: features, joboutputs, user_data, secrets and the record of its life.

Written atomically, with modes of our own whatever the umask. The directory is 0711: a machine's users reach the
directories that are theirs and list nothing else; user_data and secrets are for the machine's root alone.
"""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lmd.environment import printable, trees
from lmd.environment.identity import boot_id

RECORD = "machine.json"
RECORD_LIMIT = 1_000_000
SCHEMA = 1


class DirectoryError(Exception):
    """A machine's directory cannot be written or read; the text says which file and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is kept of a machine beside its files; times in Unix seconds.

    `supervisor` is the process of the `lm run` that looks after it, by pid and start time in clock ticks, so that
    another process of the same number is not taken for it. `outcome` is set once, when it has ended. `created_boot` is
    in seconds of the boot; with `conditions` (those of `lmd.machine.conditions`) a lost database is made again of it.
    """

    id: str
    job_id: str
    runtime: str
    owner: str
    space: str
    machinetype: str
    digest: str
    processors: int
    created: float
    shutdown_time: float
    boot_id: str
    grace: int
    supervisor: tuple[int, int] | None = None
    outcome: Mapping[str, Any] | None = None
    memory_bytes: int = 0
    created_boot: float | None = None
    conditions: Mapping[str, Any] | None = None
    detached: bool = False
    schema: int = SCHEMA


_VERSION = TypeAdapter(Mapping[str, Any])
_RECORD = TypeAdapter(Record)


class _Part:
    """What a directory holds by a fixed name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, holder: "Directory", kind: type) -> Path:
        return holder.path / self._name


class Directory:
    """The directory of one machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # Paths when they are asked for: most who hold a directory want one of them, and making all is what costs.
    machinefeatures = _Part("machinefeatures")
    jobfeatures = _Part("jobfeatures")
    joboutputs = _Part("joboutputs")
    user_data = _Part("user_data")
    secrets = _Part("secrets")
    console = _Part("console.log")
    spec = _Part("spec.json")
    resolv_conf = _Part("resolv.conf")
    seed = _Part("seed.iso")

    def make(self, machine: Mapping[str, str], job: Mapping[str, str]) -> None:
        """Create it with the features; what a crash left half-written is completed. Raises `DirectoryError`."""
        try:
            self.path.mkdir(mode=0o711, parents=True, exist_ok=True)
            self.path.chmod(0o711)
            for directory, mode in ((self.joboutputs, 0o1777), (self.secrets, 0o711)):
                directory.mkdir(exist_ok=True)
                directory.chmod(mode)
            for directory, values in ((self.machinefeatures, machine), (self.jobfeatures, job)):
                _put_directory(directory, values)
        except OSError as error:
            raise _failed(error) from error

    def put_user_data(self, content: bytes) -> None:
        """Write user_data, which its owner alone may read and run. Raises `DirectoryError`."""
        write(self.user_data, content, 0o500)

    def put_secret(self, number: int, content: bytes) -> Path:
        """Write a secret that its owner alone may read; returns its path. Raises `DirectoryError`."""
        path = self.secrets / str(number)
        write(path, content, 0o400)
        return path

    def move_shutdown_time(self, earlier: float) -> float:
        """Tell the machine an earlier end, at once; a later one is not told. Returns the time that now holds."""
        told = self.shutdown_time()
        holds = int(earlier) if told is None else min(told, int(earlier))
        # Each file by itself: a crash may have come between the two.
        for path in (self.machinefeatures / "shutdowntime", self.jobfeatures / "shutdowntime_job"):
            if (now := _number(path)) is None or now > holds:
                write(path, str(holds).encode(), 0o644)
        return holds

    def shutdown_time(self) -> int | None:
        """The end that the machine has been told; None if that cannot be read."""
        return _number(self.machinefeatures / "shutdowntime")

    def save(self, record: Record) -> None:
        """Write the record, for its owner alone; it lasts through a loss of power. Raises `DirectoryError`."""
        write(self.path / RECORD, _RECORD.dump_json(record, indent=1), 0o600, durable=True)

    def load(self) -> Record:
        """The record as last saved. Raises `DirectoryError` if it is not there, damaged, or of a later version."""
        path = self.path / RECORD
        try:
            with path.open("rb") as file:
                content = file.read(RECORD_LIMIT)
        except OSError as error:
            raise _failed(error) from error
        try:
            version = _VERSION.validate_json(content)["schema"]
            if version != SCHEMA:
                raise ValueError(f"of version {version}, and this lm knows {SCHEMA}: use the lm that wrote it")
            return _RECORD.validate_json(content, strict=True)
        except (ValueError, KeyError) as error:
            raise DirectoryError(f"{path}: damaged: {_short(error)}") from error

    def age(self) -> float:
        """Seconds since something was last put into it; endless if it is not there."""
        try:
            return max(0.0, time.time() - self.path.stat().st_mtime)
        except OSError:
            return float("inf")

    def ask_to_stop(self, by: str) -> None:
        """Leave word that an operator has ended this machine. Raises `DirectoryError`."""
        write(self.path / "stop", by.encode(), 0o600)

    def asked_to_stop(self) -> str | None:
        """Who has ended this machine by `lm stop` or `lm destroy`; None if nobody has."""
        try:
            return (self.path / "stop").read_text()[:200]
        except OSError:
            return None

    def remove(self) -> None:
        """Remove all of it; not there is success. Raises `DirectoryError` naming what stays."""
        with suppress(FileNotFoundError):
            (self.path / RECORD).unlink()  # first, so that what a crash leaves is nobody's
        try:
            trees.remove(self.path)
        except OSError as error:
            raise DirectoryError(f"{self.path}: cannot be removed: {error.filename}: {error.strerror}") from error


def write(path: Path, content: bytes, mode: int, *, durable: bool = False) -> None:
    """Put a file in place at once or not at all, with exactly this mode; `durable`: not lost with the power either.

    Raises `DirectoryError`.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with suppress(FileNotFoundError):
            part.unlink()
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, mode)
            if durable:
                os.fsync(descriptor)
        part.rename(path)
        if durable:
            with trees.directory(path.parent) as parent:
                os.fsync(parent)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise _failed(error, path) from error


def _put_directory(directory: Path, values: Mapping[str, str]) -> None:
    """A directory with these files, whole before it is there: so its files need no names of their own meanwhile."""
    made = directory.with_name(f".{directory.name}.part")
    if made.exists():
        trees.remove(made)
    made.mkdir(mode=0o755)
    made.chmod(0o755)
    for key, value in values.items():
        descriptor = os.open(f"{made}/{key}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, value.encode())
            os.fchmod(descriptor, 0o644)
        finally:
            os.close(descriptor)
    if directory.exists():
        trees.remove(directory)
    made.rename(directory)


def found(machines: Path) -> list[Directory]:
    """The directories of all machines, by name; none where there is no such place."""
    try:
        return [Directory(path) for path in sorted(machines.iterdir()) if path.is_dir()]
    except OSError:
        return []


def process(pid: int) -> tuple[int, int] | None:
    """A process by pid and start time in clock ticks after the boot (proc(5), field 22); None if there is none.

    One that is dead and not yet waited for is none.
    """
    try:
        values = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if len(values) < 20 or values[0] in (b"Z", b"X") else (pid, int(values[19]))


def supervised(record: Record) -> bool:
    """True if the process that looks after the machine is still there, in the same boot."""
    if record.supervisor is None or record.boot_id != boot_id():
        return False
    return process(record.supervisor[0]) == record.supervisor


def _number(path: Path) -> int | None:
    try:
        return int(path.read_bytes())
    except (OSError, ValueError):
        return None


def _short(error: Exception) -> str:
    """What is wrong with a record, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return printable.name(f"{'.'.join(map(str, first['loc'])) or 'machine.json'}: {first['msg']}")
    return "it has no schema" if isinstance(error, KeyError) else printable.name(str(error))


def _failed(error: OSError, path: Path | None = None) -> DirectoryError:
    return DirectoryError(f"{path or error.filename}: {error.strerror}")
