"""What has its own rhythm beside the loop, and wakes it only if it finds something."""

import asyncio
from collections.abc import Awaitable, Callable

from lmd.factory.rows import Clocks

Rest = float | Callable[[], float]
"""Seconds from the end of a chore to its next begin; a function is asked at the end."""


class Chores:
    """Runs chores in the background, never one twice at the same time. `failed` is told what a chore raised."""

    def __init__(self, clocks: Clocks, failed: Callable[[str, Exception], None]) -> None:
        self._clocks, self._failed = clocks, failed
        self._due: dict[str, float] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def go(self, name: str, rest: Rest, work: Callable[[], Awaitable[None]]) -> None:
        """Begin a chore if its time has come."""
        if name not in self._tasks and self._clocks.boot() >= self._due.get(name, 0.0):
            self._tasks[name] = asyncio.create_task(self._run(name, rest, work))

    def soon(self, name: str) -> None:
        """The next `go` begins it, however long its rest."""
        self._due.pop(name, None)

    def times(self) -> list[float]:
        """When those that rest are due, in seconds of the boot."""
        return [due for name, due in self._due.items() if name not in self._tasks]

    async def aclose(self) -> None:
        """Give up what is under way."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _run(self, name: str, rest: Rest, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:
            self._failed("", error)
        finally:
            self._due[name] = self._clocks.boot() + (rest() if callable(rest) else rest)
            self._tasks.pop(name, None)
