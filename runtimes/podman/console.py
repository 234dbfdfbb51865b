"""Read a container's console from the file that conmon writes, in the format of Kubernetes' log files.

Each line is `time stream tag text`, tag P where the text goes on in the next line. At its cap conmon replaces the file
by an empty one; the reader holds the old one open and reads it to its end before it turns to the new.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from runtimes.contract import ConsoleChunk

_LINE = re.compile(rb"^\S+ (?:stdout|stderr) ([FP])(?:\S*) (.*)$", re.DOTALL)
STEP = 1_000_000
KEEP_FIRST = 65_536


def plain(lines: list[bytes]) -> bytes:
    """The console's own bytes from whole lines of the file (without their newlines); what is no such line is kept."""
    pieces: list[bytes] = []
    for line in lines:
        if match := _LINE.match(line):
            pieces += (match[2], b"\n") if match[1] == b"F" else (match[2],)
        else:
            pieces += (line, b"\n")
    return b"".join(pieces)


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
    """

    path: Path
    most: int
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
            self._open()
            return ConsoleChunk(data=plain([flushed]) if flushed else b"", skipped=skipped)
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        return ConsoleChunk(data=plain(lines), skipped=skipped)

    def _open(self) -> bool:
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        self._position = 0
        return True

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
