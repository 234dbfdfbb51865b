"""A machine's directory on the host: features, joboutputs, user_data, secrets and the record of its life.

Written atomically, with modes of our own whatever the umask. The directory is 0711: a machine's users reach the
directories that are theirs and list nothing else; user_data and secrets are for the machine's root alone.
"""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

RECORD = "machine.json"
RECORD_LIMIT = 1_000_000
SCHEMA = 1


class DirectoryError(Exception):
    """A machine's directory cannot be written or read; the text says which file and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is kept of a machine beside its files; times in Unix seconds.

    `supervisor` is the process of the `lm run` that looks after it, by pid and start time in clock ticks, so that
    another process of the same number is not taken for it. `outcome` is set once, when it has ended.
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
    schema: int = SCHEMA


class Directory:
    """The directory of one machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.machinefeatures = path / "machinefeatures"
        self.jobfeatures = path / "jobfeatures"
        self.joboutputs = path / "joboutputs"
        self.user_data = path / "user_data"
        self.secrets = path / "secrets"
        self.console = path / "console.log"

    def make(self, machine: Mapping[str, str], job: Mapping[str, str]) -> None:
        """Create it with the features; what a crash left half-written is completed. Raises `DirectoryError`."""
        try:
            self.path.mkdir(mode=0o711, parents=True, exist_ok=True)
            self.path.chmod(0o711)
            for directory, mode in (
                (self.machinefeatures, 0o755),
                (self.jobfeatures, 0o755),
                (self.joboutputs, 0o1777),
                (self.secrets, 0o711),
            ):
                directory.mkdir(exist_ok=True)
                directory.chmod(mode)
        except OSError as error:
            raise _failed(error) from error
        for directory, values in ((self.machinefeatures, machine), (self.jobfeatures, job)):
            for key, value in values.items():
                write(directory / key, value.encode(), 0o644)

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
        now = self.shutdown_time()
        if now is not None and now <= int(earlier):
            return now
        for path in (self.machinefeatures / "shutdowntime", self.jobfeatures / "shutdowntime_job"):
            write(path, str(int(earlier)).encode(), 0o644)
        return int(earlier)

    def shutdown_time(self) -> float | None:
        """The end that the machine has been told; None if that cannot be read."""
        try:
            return int((self.machinefeatures / "shutdowntime").read_text())
        except (OSError, ValueError):
            return None

    def save(self, record: Record) -> None:
        """Write the record, for its owner alone. Raises `DirectoryError`."""
        write(self.path / RECORD, json.dumps(asdict(record), indent=1).encode(), 0o600)

    def load(self) -> Record:
        """The record as last saved. Raises `DirectoryError` if it is not there or damaged."""
        path = self.path / RECORD
        try:
            with path.open("rb") as file:
                return _record(json.loads(file.read(RECORD_LIMIT)))
        except OSError as error:
            raise _failed(error) from error
        except (ValueError, TypeError) as error:
            raise DirectoryError(f"{path}: damaged: {' '.join(str(error).split())[:200]}") from error

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
            _remove_tree(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _failed(error) from error


def write(path: Path, content: bytes, mode: int) -> None:
    """Put a file in place at once or not at all, with exactly this mode. Raises `DirectoryError`."""
    part = path.with_name(f".{path.name}.part")
    try:
        with suppress(FileNotFoundError):
            part.unlink()
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        part.rename(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise _failed(error, path) from error


def found(machines: Path) -> list[Directory]:
    """The directories of all machines, by name; none where there is no such place."""
    try:
        return [Directory(path) for path in sorted(machines.iterdir()) if path.is_dir()]
    except OSError:
        return []


def process(pid: int) -> tuple[int, int] | None:
    """A process by pid and start time in clock ticks after the boot (proc(5), field 22); None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return pid, int(text.rpartition(")")[2].split()[19])


def supervised(record: Record) -> bool:
    """True if the process that looks after the machine is still there."""
    return record.supervisor is not None and process(record.supervisor[0]) == record.supervisor


def _record(table: Any) -> Record:
    if not isinstance(table, dict) or table.get("schema") != SCHEMA:
        raise ValueError("not a machine's record, or of another version")
    known = {field.name for field in fields(Record)}
    record = Record(**{key: value for key, value in table.items() if key in known})
    if (
        not isinstance(record.id, str)
        or not isinstance(record.runtime, str)
        or not isinstance(record.created, float | int)
    ):
        raise TypeError("a field has the wrong type")
    pair = record.supervisor
    return replace(record, supervisor=(int(pair[0]), int(pair[1])) if pair else None)


def _remove_tree(path: Path) -> None:
    """Remove a tree that a hostile payload has written: never out of it by a link, however deep it is."""
    try:
        shutil.rmtree(path)
    except (RecursionError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        # Deeper than Python can follow, or changed meanwhile: rm(1) follows by descriptors to any depth.
        subprocess.run(["rm", "-rf", "--", str(path)], stderr=subprocess.DEVNULL, check=False)
        if path.exists():
            raise OSError(errno.ENOTEMPTY, "cannot be removed", str(path)) from error


def _failed(error: OSError, path: Path | None = None) -> DirectoryError:
    return DirectoryError(f"{path or error.filename}: {error.strerror}")
