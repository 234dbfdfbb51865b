"""The event loop under the file system: pyfuse3's tasks, threads for what may wait, and nothing else.

pyfuse3 is written against trio and lets its `trio` be replaced (it does so itself for asyncio). A request costs
trio two rounds of its scheduler; here it costs one poll of the descriptor, which halves the time of a warm walk,
and a mount need not import trio. `Loop` has the functions of trio that pyfuse3 3.x uses, under trio's names.
"""

from __future__ import annotations

import os
import queue
import select
import sys
import threading
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

_placeholder = None if "trio" in sys.modules else types.ModuleType("trio")
if _placeholder is not None:
    sys.modules["trio"] = _placeholder  # pyfuse3 imports trio, and uses nothing of it before it is replaced
try:
    import pyfuse3
finally:
    if _placeholder is not None:
        del sys.modules["trio"]

_LOOKS = 100
"""How often to look for the next request before sleeping: some 100 microseconds in all."""

Result = TypeVar("Result")
_Pause = Callable[["Task"], None]


class Task:
    """A coroutine on its way; `name` is for pyfuse3's messages."""

    __slots__ = ("coroutine", "name")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], name: str) -> None:
        self.coroutine = coroutine
        self.name = name


@types.coroutine
def _pause(register: _Pause) -> Generator[_Pause, Any, Any]:
    """Suspend the running task; `register` gets it and says when it goes on."""
    return (yield register)


class Lock:
    """Held by one task at a time; a free lock is taken without a pause."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._held = False
        self._waiting: deque[Task] = deque()

    async def __aenter__(self) -> None:
        if self._held:
            await _pause(self._waiting.append)  # whoever leaves hands it over
        self._held = True

    async def __aexit__(self, *_: object) -> None:
        if self._waiting:
            self._loop.resume(self._waiting.popleft())
        else:
            self._held = False


class _Nursery:
    """Tasks that are waited for at the end of the block."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    async def __aenter__(self) -> _Nursery:
        return self

    async def __aexit__(self, *_: object) -> None:
        await _pause(self._loop.when_alone)

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any, name: str = "") -> None:
        """Start a task."""
        self._loop.start(function(*arguments), name)


class Loop:
    """Runs tasks in one thread until they are done or `stop` is called."""

    ClosedResourceError = BrokenPipeError

    def __init__(self, threads: int) -> None:
        self.lowlevel = self
        self._ready: deque[tuple[Task, Any, BaseException | None]] = deque()
        self._tasks: set[Task] = set()
        self._alone: Task | None = None
        self._readers: deque[Task] = deque()
        self._fd = -1
        self._current: Task | None = None
        self._posted: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._idle = select.poll()
        self._idle.register(self._wake, select.POLLIN)
        self._poll = self._idle
        self._stopped = False
        self._in_threads = 0
        self._threads = _Threads(threads)

    def Lock(self) -> Lock:
        """A new lock."""
        return Lock(self)

    def open_nursery(self) -> _Nursery:
        """A block that ends when all tasks but its own have ended."""
        return _Nursery(self)

    def current_task(self) -> Task | None:
        """The task that runs now."""
        return self._current

    def current_trio_token(self) -> None:
        """Nothing: threads use `call`."""

    def notify_closing(self, fd: int) -> None:
        """End the loop, as the descriptor is about to be closed."""
        self.stop()

    async def wait_readable(self, fd: int) -> None:
        """Wait until the descriptor (always the same one) can be read."""
        if fd != self._fd:
            self._fd = fd
            self._poll = select.poll()
            self._poll.register(fd, select.POLLIN)
            self._poll.register(self._wake, select.POLLIN)
        await _pause(self._readers.append)

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, done in a thread."""

        def register(task: Task) -> None:
            self._threads.submit(lambda: self._done(task, work))

        self._in_threads += 1
        try:
            result: Result = await _pause(register)
        finally:
            self._in_threads -= 1
        return result

    def call(self, function: Callable[[], Result]) -> Result:
        """From another thread: have the loop call `function`, and return its result. Raises what it raises."""
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self._post(run)
        return future.result()

    def stop(self) -> None:
        """End `run` soon; may be called from any thread and from a signal handler."""
        self._stopped = True
        os.eventfd_write(self._wake, 1)

    def start(self, coroutine: Coroutine[Any, Any, Any], name: str = "") -> None:
        """Start a task."""
        task = Task(coroutine, name)
        self._tasks.add(task)
        self._ready.append((task, None, None))

    def resume(self, task: Task, value: Any = None, error: BaseException | None = None) -> None:
        """Let a paused task go on."""
        self._ready.append((task, value, error))

    def when_alone(self, task: Task) -> None:
        """Let a paused task go on once all others have ended."""
        self._alone = task

    def run(self, main: Awaitable[Any]) -> None:
        """Run until all tasks have ended or the loop is stopped; tasks that are left are dropped.

        Raises what a task raises.
        """

        async def first() -> None:
            await main

        self.start(first(), "main")
        try:
            while self._tasks and not self._stopped:
                while self._ready:
                    self._step(*self._ready.popleft())
                if self._alone is not None and len(self._tasks) == 1:
                    self._ready.append((self._alone, None, None))
                    self._alone = None
                elif self._tasks:
                    self._wait()
        finally:
            self._stopped = True
            for task in self._tasks:
                task.coroutine.close()
            self._run_posted()

    def _step(self, task: Task, value: Any, error: BaseException | None) -> None:
        self._current = task
        try:
            register = task.coroutine.send(value) if error is None else task.coroutine.throw(error)
        except StopIteration:
            self._tasks.discard(task)
        except BaseException:
            self._tasks.discard(task)
            raise
        else:
            register(task)

    def _wait(self) -> None:
        for fd, _ in self._events():
            if fd == self._wake:
                os.eventfd_read(self._wake)
                self._run_posted()
            elif self._readers:
                self._ready.append((self._readers.popleft(), None, None))

    def _events(self) -> list[tuple[int, int]]:
        """What is ready. Requests come in rows: looking again for a moment costs less than going to sleep."""
        poll = self._poll if self._readers else self._idle
        for _ in range(0 if self._in_threads else _LOOKS):  # where a thread works, it needs the interpreter
            if events := poll.poll(0):
                return events
        return poll.poll()

    def _post(self, function: Callable[[], None]) -> None:
        self._posted.append(function)
        os.eventfd_write(self._wake, 1)

    def _run_posted(self) -> None:
        while self._posted:
            self._posted.popleft()()

    def _done(self, task: Task, work: Callable[[], Any]) -> None:
        try:
            result = work()
        except BaseException as error:
            failure = error  # the name of an except clause does not outlive it
            self._post(lambda: self.resume(task, None, failure))
        else:
            self._post(lambda: self.resume(task, result))


class _Threads:
    """Threads that are started when needed, and that do not hold up the end of the process."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._idle = 0
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def submit(self, work: Callable[[], None]) -> None:
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            elif self._count < self._most:
                self._count += 1
                threading.Thread(target=self._run, daemon=True, name="cvmfs-wait").start()
            self._work.put(work)

    def _run(self) -> None:
        while True:
            self._work.get()()
            with self._lock:
                self._idle += 1


__all__ = ["Lock", "Loop", "Task", "pyfuse3"]
