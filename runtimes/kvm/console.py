"""Read a machine's console from the files that virtlogd writes: `console.log`, and `console.log.0` and on of before.

virtlogd caps a file (2 MiB, unless virtlogd.conf says otherwise) and keeps a few of before; what is older is gone.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from runtimes.contract import ConsoleChunk

KEEP_FIRST = 65_536
STEP = 262_144
MOST_FILES = 100


def files(path: Path) -> list[Path]:
    """The files that hold a console, the oldest first."""
    older = []
    for number in range(MOST_FILES):
        one = path.with_name(f"{path.name}.{number}")
        if not one.exists():
            break
        older.append(one)
    return [*reversed(older), path]


def kept(path: Path, cap: int) -> list[ConsoleChunk]:
    """All that is kept, at most `cap` bytes: its first 64 kB, and its end behind a gap."""
    head, tail, skipped = bytearray(), bytearray(), 0
    room = max(cap - KEEP_FIRST, cap // 2)
    for data in _pieces(path):
        taken = KEEP_FIRST - len(head)
        head += data[:taken]
        tail += data[taken:]
        skipped += max(0, len(tail) - room)
        del tail[: max(0, len(tail) - room)]
    return [ConsoleChunk(data=bytes(head)), ConsoleChunk(data=bytes(tail), skipped=skipped)]


def _pieces(path: Path) -> Iterator[bytes]:
    for one in files(path):
        try:
            descriptor = os.open(one, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            while data := os.read(descriptor, STEP):
                yield data
        finally:
            os.close(descriptor)


@dataclass(slots=True)
class Follower:
    """Follows a console from its kept beginning. Who is slower than the cap of the log loses what was thrown away."""

    path: Path
    _waiting: list[Path] = field(default_factory=list)
    _descriptor: int = -1
    _begun: bool = False

    def read(self) -> bytes:
        """What has come since; empty if nothing has."""
        if not self._begun:
            self._begun, self._waiting = True, files(self.path)
        while True:
            if self._descriptor < 0 and not self._open():
                return b""
            if data := os.read(self._descriptor, STEP):
                return data
            if not self._waiting and not self._replaced():
                return b""
            self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> bool:
        while True:
            path = self._waiting.pop(0) if self._waiting else self.path
            try:
                self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                return True
            except OSError:
                if not self._waiting:
                    return False

    def _replaced(self) -> bool:
        try:
            return self.path.stat().st_ino != os.fstat(self._descriptor).st_ino
        except OSError:
            return False
