"""Everything that happens, in one order: for the log, the database, and whoever listens to the API."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from lmd.factory.rows import Event

KEPT = 4096
"""Events that are held in memory for listeners; who falls behind by more is cut."""


class TooSlow(Exception):
    """A listener has fallen behind; `last` is the number of the last event that it got."""

    def __init__(self, last: int) -> None:
        super().__init__(f"too slow: the last event that was delivered is number {last}")
        self.last = last


class Events:
    """Numbers events and hands them on. `unsaved` are those that the database has not got yet."""

    def __init__(self, last: int, wall: Callable[[], float], log: Callable[[Event], None]) -> None:
        self._last, self._wall, self._log = last, wall, log
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self.unsaved: deque[Event] = deque(maxlen=10 * KEPT)
        self._listeners: set[asyncio.Event] = set()

    @property
    def last(self) -> int:
        """The number of the newest event; 0 before the first."""
        return self._last

    def add(self, kind: str, machine: str = "", **data: Any) -> Event:
        """Note an event now."""
        self._last += 1
        event = Event(seq=self._last, at=self._wall(), kind=kind, machine=machine, data=data)
        self._kept.append(event)
        self.unsaved.append(event)
        self._log(event)
        for listener in self._listeners:
            listener.set()
        return event

    def first_kept(self) -> int:
        """The number of the oldest event in memory; one more than the last if there is none."""
        return self._kept[0].seq if self._kept else self._last + 1

    async def after(self, last: int) -> AsyncIterator[Event]:
        """Every event with a number above `last`, for ever. Raises `TooSlow` for one who falls behind what is kept."""
        wake = asyncio.Event()
        self._listeners.add(wake)
        try:
            while True:
                wake.clear()
                if last + 1 < self.first_kept() and last < self._last:
                    raise TooSlow(last)
                for event in [event for event in self._kept if event.seq > last]:
                    if event.seq < self.first_kept():
                        raise TooSlow(last)
                    yield event
                    last = event.seq
                await wake.wait()
        finally:
            self._listeners.discard(wake)
