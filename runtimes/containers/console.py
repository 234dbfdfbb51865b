"""Read a container's console from the file that its engine writes, across the engine's rotation of that file.

At its cap the engine puts another file in the place of the full one, which it may keep beside it; the reader holds the
old one open and reads it to its end before it turns to the new.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtimes.contract import ConsoleChunk

STEP = 1_000_000
KEEP_FIRST = 65_536


def kept(reader: "Reader", cap: int) -> list[ConsoleChunk]:
    """All that a file holds now, at most `cap` bytes: its first 64 kB, and its end behind a gap."""
    head, tail, skipped = bytearray(), bytearray(), 0
    room = max(cap - KEEP_FIRST, cap // 2)
    while (chunk := reader.read()).data or chunk.skipped:
        taken = KEEP_FIRST - len(head) if not skipped else 0
        head += chunk.data[:taken]
        tail += chunk.data[taken:]
        skipped += chunk.skipped + max(0, len(tail) - room)
        del tail[: max(0, len(tail) - room)]
    return [ConsoleChunk(data=bytes(head)), ConsoleChunk(data=bytes(tail), skipped=skipped)]


@dataclass(slots=True)
class Reader:
    """Follows one log file. `read` returns what has come since the last call, at most about `most` bytes of the file.

    Whoever reads more slowly than the machine writes skips to the newest `most` bytes and is told how much was skipped.
    `plain` gives the console's own bytes of whole lines of the file, without their newlines; `older` is where the
    engine keeps the file that was full last.
    """

    path: Path
    plain: Callable[[list[bytes]], bytes]
    most: int
    older: Path | None = None
    _descriptor: int = -1
    _rest: bytes = b""
    _position: int = 0

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read(self) -> ConsoleChunk:
        """New output; empty data when there is none now."""
        if self._descriptor < 0 and not self._open():
            return ConsoleChunk(data=b"")
        skipped = self._skip()
        data = os.read(self._descriptor, STEP)
        self._position += len(data)
        if not data and self._replaced():
            flushed, self._rest = self._rest, b""
            self.close()
            if flushed or not self._open():
                return ConsoleChunk(data=self.plain([flushed]) if flushed else b"", skipped=skipped)
            data = os.read(self._descriptor, STEP)
            self._position += len(data)
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        return ConsoleChunk(data=self.plain(lines), skipped=skipped)

    def _open(self) -> bool:
        candidates = [self.older, self.path] if self.older else [self.path]
        self.older = None  # once: what comes after it is in the file itself
        for path in candidates:
            try:
                self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                continue
            self._position = 0
            return True
        return False

    def _skip(self) -> int:
        """Jump to the last `most` bytes when further behind than twice that; the number of bytes jumped over."""
        size = os.fstat(self._descriptor).st_size
        if self._position < KEEP_FIRST * 16 or size - self._position <= 2 * self.most:
            return 0
        target = size - self.most
        skipped, self._position = target - self._position, target
        os.lseek(self._descriptor, target, os.SEEK_SET)
        piece = os.read(self._descriptor, 65_536)  # the cut falls within a line: go on after its end
        start = piece.find(b"\n") + 1
        os.lseek(self._descriptor, target + start, os.SEEK_SET)
        self._position, self._rest = target + start, b""
        return skipped + start

    def _replaced(self) -> bool:
        try:
            now = self.path.stat()
        except OSError:
            return False
        return now.st_ino != os.fstat(self._descriptor).st_ino
