"""A machine's console in a file that cannot grow without limit: its beginning, its end, and a line between them."""

import os
import re
from pathlib import Path

HEAD_BYTES = 65_536
_GAP = re.compile(rb"\n?(?m:^)\[lmd: ([0-9]{1,18}) bytes of console output left out here\]\n")
_GAP_BYTES = 80
_LINE_BYTES = 4096
"""How far back the beginning of a line is looked for where the kept end begins."""


def gap(count: int) -> bytes:
    """The line that stands where `count` bytes are missing."""
    return b"\n[lmd: %d bytes of console output left out here]\n" % count


class Console:
    """The console file of one machine, written by one process; another may go on with it after a crash.

    Kept are the first 64 kB and at least the last half of `cap` bytes. The file itself holds at most `cap` bytes, or
    64 kB and three quarters of `cap` where that is more: between the half and that, old lines go all at once.
    """

    def __init__(self, path: Path, cap: int, *, head: int = HEAD_BYTES) -> None:
        self._path, self._keep = path, cap // 2
        self._line = min(_LINE_BYTES, cap // 8)
        self._head, self._most = head, max(cap, head + cap * 3 // 4)
        self._file = self._open(path)
        self._size = os.fstat(self._file).st_size

    def append(self, data: bytes, skipped: int = 0) -> None:
        """Add what the machine wrote; `skipped` bytes before it were lost on the way. Raises OSError."""
        if skipped:
            data = gap(skipped) + data
        if self._size + len(data) > self._most:
            self._shorten(data)
            return
        try:
            self._write(self._file, data)
        finally:
            self._size = os.fstat(self._file).st_size

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _open(self, path: Path) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(path, flags, 0o600)

    def _write(self, file: int, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(file, left) :]

    def _shorten(self, data: bytes) -> None:
        """Replace the file by its head, a line about what is missing, and the end of what was there and came."""
        head, missing, tail = _parts(self._path.read_bytes() + data, self._head)
        begin = self._beginning(tail)
        missing += _bytes_of(tail[:begin])
        part = self._path.with_name(f".{self._path.name}.part")
        part.unlink(missing_ok=True)
        file = self._open(part)
        try:
            self._write(file, head + gap(missing) + tail[begin:])
            part.rename(self._path)
        except BaseException:
            os.close(file)
            raise
        os.close(self._file)
        self._file, self._size = file, os.fstat(file).st_size

    def _beginning(self, tail: bytes) -> int:
        """Where the kept end begins: at a line if there is one nearby, and behind a line about missing bytes."""
        cut = max(0, len(tail) - self._keep)
        begin = tail.rfind(b"\n", max(0, cut - self._line), cut) + 1 or cut
        told = _GAP.match(tail, max(0, begin - 1))
        return told.end() if told else begin


def _parts(content: bytes, head: int) -> tuple[bytes, int, bytes]:
    """Split a console file into its head, the number of bytes missing after it, and the rest.

    A line about missing bytes across the border belongs to the head, so that it stays whole.
    """
    for across in _GAP.finditer(content, max(0, head - _GAP_BYTES), head + _GAP_BYTES):
        if across.start() < head < across.end():
            head = across.end()
            break
    found = _GAP.match(content, head)
    return content[:head], int(found[1]) if found else 0, content[found.end() if found else head :]


def _bytes_of(dropped: bytes) -> int:
    """How many bytes of console a piece of the file stands for: lines about missing bytes count what they tell."""
    if b"\n[lmd: " not in dropped and not dropped.startswith(b"[lmd: "):
        return len(dropped)  # far quicker than the expression below
    told = sum(int(found[1]) - len(found[0]) for found in _GAP.finditer(dropped))
    return max(0, len(dropped) + told)


def read(path: Path, *, most: int = 64_000_000) -> bytes:
    """All that is kept, at most `most` bytes of it; empty if there is no file. Raises OSError."""
    try:
        with path.open("rb") as file:
            return file.read(most)
    except FileNotFoundError:
        return b""


def tail(path: Path, lines: int) -> bytes:
    """The last `lines` lines that are kept; empty if there is no file. Raises OSError."""
    content = read(path)
    end = len(content) - 1 if content.endswith(b"\n") else len(content)
    for _ in range(lines):
        end = content.rfind(b"\n", 0, end)
        if end < 0:
            return content
    return content[end + 1 :]
