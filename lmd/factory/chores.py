"""What has its own rhythm beside the loop, and wakes it only if it finds something."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from lmd.factory.rows import Clocks

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chore:
    """Something done again and again. `rest`: seconds from its end to its next begin, or a function that is asked for
    them at the end; `within`: seconds after which it is told to be late and cancelled."""

    name: str
    work: Callable[[], Awaitable[None]]
    rest: float | Callable[[], float]
    within: float


class Late(Exception):
    """A chore has not ended in its time."""


class Chores:
    """Runs chores in the background, never one twice at the same time; one that hangs holds up no other.

    `ended` is told the name of each when it has ended, with what it raised; also when it is late.
    """

    def __init__(self, clocks: Clocks, ended: Callable[[str, Exception | None], None]) -> None:
        self._clocks, self._ended = clocks, ended
        self._due: dict[str, float] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closing = False

    def go(self, chores: Sequence[Chore]) -> None:
        """Begin those whose time has come."""
        now = self._clocks.boot()
        for chore in chores:
            if chore.name not in self._tasks and now >= self._due.get(chore.name, 0.0):
                self._tasks[chore.name] = asyncio.create_task(self._run(chore))

    def soon(self, name: str) -> None:
        """The next `go` begins it, however long its rest."""
        self._due.pop(name, None)

    def times(self) -> list[float]:
        """When those that rest are due, in seconds of the boot."""
        return [due for name, due in self._due.items() if name not in self._tasks]

    async def aclose(self) -> None:
        """Give up what is under way; nobody waits for a thread that hangs."""
        self._closing = True
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def thread(self, work: Callable[[], T]) -> T:
        """`work` in a thread of its own, which does not keep the process from ending. A chore in it that is late ends
        with it, not before: it would be done twice at the same time."""
        done = _threaded(work)
        while True:
            try:
                return await asyncio.shield(done)
            except asyncio.CancelledError:
                if self._closing or done.cancelled():
                    raise

    async def _run(self, chore: Chore) -> None:
        work = asyncio.ensure_future(chore.work())
        try:
            if not (await asyncio.wait({work}, timeout=chore.within))[0]:
                work.cancel()
                self._ended(chore.name, Late(f"has not ended within {chore.within:g} s"))
                await asyncio.wait({work})
            elif not work.cancelled():
                error = work.exception()
                self._ended(chore.name, error if isinstance(error, Exception) else None)
        finally:
            if not work.done():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
            self._due[chore.name] = self._clocks.boot() + (chore.rest() if callable(chore.rest) else chore.rest)
            self._tasks.pop(chore.name, None)


def _threaded(work: Callable[[], T]) -> asyncio.Future[T]:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, daemon=True, name="chore").start()
    return done
