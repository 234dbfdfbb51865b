"""A capped console: its beginning, the end of what came after it, and how much came in all."""

from dataclasses import dataclass, replace

HEAD_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Console:
    """`total` bytes were written; `head` is where they begin, `tail` where they end."""

    head: bytes = b""
    tail: bytes = b""
    total: int = 0

    @property
    def skipped(self) -> int:
        """How many bytes between head and tail are lost."""
        return self.total - len(self.head) - len(self.tail)

    def add(self, data: bytes, cap: int) -> "Console":
        """With `data` at the end and at most `cap` bytes kept, at least half of them at the end."""
        room = max(0, min(HEAD_BYTES, cap // 2) - len(self.head))
        if self.tail:
            room = 0
        tail = self.tail + data[room:]
        head = self.head + data[:room]
        keep = cap - min(HEAD_BYTES, cap // 2)
        return Console(head, tail[-keep:] if keep else b"", self.total + len(data))

    def repeated(self, unit: bytes, times: int, cap: int) -> "Console":
        """With `unit` so many times at the end, without ever holding more than about twice the cap."""
        most = 2 * cap // len(unit) + 1
        if times <= most:
            return self.add(unit * times, cap)
        grown = self.add(unit * most, cap)
        return replace(grown, total=grown.total + len(unit) * (times - most))
