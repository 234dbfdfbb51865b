"""A machine that runs under `lm run`, looked at and acted upon from beside, as any other process of the host could."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from lmd import engines
from lmd.conformance.check import Violation
from lmd.conformance.ground import Ground
from lmd.environment.directory import Directory, DirectoryError, Record, found, process
from lmd.machine.foreground import Voice
from runtimes.contract import Runtime, Seen, State

TYPE = "conformance"
POLL_SECONDS = 0.02
LATE_SECONDS = 5.0
"""How long what is done to a machine may go on after its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A machine that runs."""

    runtime: Runtime
    seen: Seen
    directory: Directory
    record: Record
    patience: float

    async def left(self, name: str) -> bytes:
        """A file of its joboutputs, once it is there and not empty; `Violation` if that takes too long."""
        last = time.monotonic() + self.patience
        while True:
            try:
                if content := (self.directory.joboutputs / name).read_bytes():
                    return content
            except FileNotFoundError:
                pass
            if time.monotonic() > last:
                raise Violation(f"the payload has not written {name} within {self.patience:g} s")
            await asyncio.sleep(POLL_SECONDS)


Act = Callable[[Live], Awaitable[None]]
"""What is done to a machine while it runs."""


def mine(ground: Ground) -> list[tuple[Directory, Record]]:
    """The machines of the suite in this process that have a directory now."""
    there = []
    for directory in found(ground.places.machines):
        try:
            record = directory.load()
        except DirectoryError:  # not written yet, or gone
            continue
        if record.machinetype == TYPE and record.supervisor == process(os.getpid()):
            there.append((directory, record))
    return there


class Beside:
    """One run of `lm run`: its voice, the record of its machine, and whoever acts on it meanwhile."""

    def __init__(self, ground: Ground, ids: list[str]) -> None:
        self.told: list[str] = []
        self.shown = bytearray()
        self.voice = Voice(tell=self.told.append, show=self.shown.extend)
        self._ground, self._ids = ground, ids
        self._before = {record.id for _, record in mine(ground)}
        self._found: tuple[Directory, Record] | None = None
        self._failure: BaseException | None = None

    def record(self) -> Record:
        """The machine's record; `Violation` if none was seen."""
        if self._found is None:
            raise Violation("no record of the machine was seen while it ran")
        return self._found[1]

    @asynccontextmanager
    async def looking(self, act: Act | None) -> AsyncIterator[None]:
        """Find the machine that is run inside and do `act` to it; raises what went wrong with that.

        A machine that has not ended by the deadline, or on which `act` failed, is destroyed: the run inside then ends.
        """
        acting = asyncio.create_task(self._act(act))
        guarding = asyncio.create_task(self._guard())
        try:
            yield
            done, _ = await asyncio.wait({acting}, timeout=LATE_SECONDS)
            if not self._failure:
                self._failure = _failure(acting) if done else Violation("what was done to the machine outlived it")
        finally:
            acting.cancel()
            guarding.cancel()
            await asyncio.gather(acting, guarding, return_exceptions=True)
        if self._failure:
            raise self._failure

    async def _act(self, act: Act | None) -> None:
        while self._found is None:
            await asyncio.sleep(POLL_SECONDS)
            self._found = self._look()
        directory, record = self._found
        self._ids.append(record.id)
        if act is None:
            return
        async with engines.opened(self._ground.runtime, self._ground.config, self._ground.places) as runtime:
            try:
                seen = await _running(runtime, record.id)
                patience = self._ground.patience
                await act(Live(runtime=runtime, seen=seen, directory=directory, record=record, patience=patience))
            except Exception as error:  # kept for the check; the machine has to end now
                self._failure = self._failure or error
                await runtime.destroy(record.id)

    def _look(self) -> tuple[Directory, Record] | None:
        return next((one for one in mine(self._ground) if one[1].id not in self._before), None)

    async def _guard(self) -> None:
        await asyncio.sleep(self._ground.deadline)
        self._failure = Violation(f"the machine has not ended within {self._ground.deadline:g} s")
        async with engines.opened(self._ground.runtime, self._ground.config, self._ground.places) as runtime:
            for name in self._ids:
                await runtime.destroy(name)


async def _running(runtime: Runtime, machine_id: str) -> Seen:
    while True:
        for seen in await runtime.machines():
            if seen.id == machine_id and seen.state is not State.CREATED:
                return seen
        await asyncio.sleep(POLL_SECONDS)


def _failure(done: "asyncio.Task[None]") -> BaseException | None:
    return None if done.cancelled() else done.exception()
