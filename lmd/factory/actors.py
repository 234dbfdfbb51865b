"""One act at a time on each machine: a task exists only while there is something to do."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from lmd.factory.chores import Late
from lmd.factory.rows import Clocks
from runtimes.contract import RuntimeFault

Act = Callable[[], Coroutine[Any, Any, None]]
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0


class Actors:
    """Runs acts. `acted` says when, in seconds of the boot, the last one on a machine ended; `failed` is told what an
    act raised."""

    def __init__(self, clocks: Clocks, told: Callable[[], None], failed: Callable[[str, Exception], None]) -> None:
        self._clocks, self._told, self._failed = clocks, told, failed
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._pauses: dict[str, tuple[float, float]] = {}
        self.acted: dict[str, float] = {}

    @property
    def busy(self) -> set[str]:
        """The machines on which something is being done."""
        return set(self._tasks)

    def names(self) -> set[str]:
        """The same, as a function to hand on."""
        return self.busy

    def rests(self, name: str) -> bool:
        """Whether the last act on it failed too short a time ago."""
        return self._pauses.get(name, (0.0, 0.0))[0] > self._clocks.boot()

    def next_try(self) -> float | None:
        """When, in seconds of the boot, the first rest is over."""
        return min((until for until, _ in self._pauses.values()), default=None)

    def do(self, name: str, act: Act, *, instead: bool = False) -> bool:
        """Begin the act, unless one is under way or the machine rests; `instead` cancels that one."""
        running = self._tasks.get(name)
        if running is not None and not instead:
            return False
        if running is None and not instead and self.rests(name):
            return False
        task = asyncio.create_task(self._run(name, act, running))
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._done(name, done))
        return True

    def forget(self, name: str) -> None:
        """A machine that is gone for good."""
        self.acted.pop(name, None)
        self._pauses.pop(name, None)

    async def aclose(self, seconds: float) -> None:
        """Let what is under way end within `seconds`; then cancel it: the next start finds what it left."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=seconds)
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _run(self, name: str, act: Act, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            before.cancel()
            await asyncio.wait({before})
        try:
            await act()
        except Exception as error:
            self._rest(name)
            self._failed(name, error)
        else:
            self._pauses.pop(name, None)

    def _rest(self, name: str) -> None:
        _, last = self._pauses.get(name, (0.0, FIRST_PAUSE / 2))
        pause = min(2 * last, LONGEST_PAUSE)
        self._pauses[name] = (self._clocks.boot() + pause, pause)

    def _done(self, name: str, task: asyncio.Task[None]) -> None:
        self.acted[name] = self._clocks.boot()
        if self._tasks.get(name) is task:
            del self._tasks[name]
        self._told()


def sentence(error: Exception) -> str:
    """An error in one line: ours as they are, others with their kind."""
    return str(error) if isinstance(error, (RuntimeFault, OSError, Late)) else f"{type(error).__name__}: {error}"
