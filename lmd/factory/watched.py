"""One runtime under observation: listed again and again under a deadline, woken by its events, never trusted to answer.

A runtime that hangs holds up nobody but its own machines.
"""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress

from lmd.factory.join import Observation
from lmd.factory.rows import Clocks
from runtimes.contract import Health, Probe, Runtime, RuntimeFault, Usage

LIST_SECONDS = 30.0
"""Deadline of a listing, and of reading what machines use."""
PROBE_SECONDS = 60.0
REST_SECONDS = 10.0
"""Between two listings when nothing happens; longer where they are costly."""
REST_SHARE = 200.0
LONGEST_REST = 120.0
GATHER_SECONDS = 0.01
"""Events come in crowds: one listing for those of the next moment, longer where a listing takes longer."""
USAGE_SECONDS = 60.0
AT_A_TIME = 8
"""Creates that one engine is asked for at the same time."""


class Watched:
    """A runtime, and what is known of it. `observation` is its last answer, `probe` whether it can be used at all."""

    def __init__(
        self,
        runtime: Runtime,
        clocks: Clocks,
        told: Callable[[], None],
        busy: Callable[[], Collection[str]],
        wanted: Callable[[], bool],
        *,
        rest: float = REST_SECONDS,
    ) -> None:
        self.runtime, self.name = runtime, runtime.name
        self.observation: Observation | None = None
        self.probe: Probe | None = None
        self.usage: dict[str, Usage] = {}
        self.creating = asyncio.Semaphore(AT_A_TIME)
        self.complete = 0
        self._clocks, self._told, self._busy, self._wanted, self._rest = clocks, told, busy, wanted, rest
        self._wake = asyncio.Event()
        self._missed: set[str] = set()
        self._cost = 0.0
        self._used = self._probed = float("-inf")
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def usable(self) -> bool:
        """Healthy, and its last listing was complete."""
        healthy = self.probe is not None and self.probe.health is Health.HEALTHY
        return healthy and self.observation is not None and self.observation.machines is not None

    @property
    def problem(self) -> str:
        """Why it is not usable."""
        if self.probe is None:
            return "it has not answered yet"
        if self.probe.health is not Health.HEALTHY:
            return self.probe.reason + (f" ({self.probe.remedy})" if self.probe.remedy else "")
        return self.observation.problem if self.observation else "it has not answered yet"

    def start(self) -> None:
        """Begin to observe."""
        self._tasks = [asyncio.create_task(self._observe()), asyncio.create_task(self._listen())]

    def look(self) -> None:
        """Look again now."""
        self._wake.set()

    def catch_up(self) -> None:
        """Look again if something happened to a machine while it was acted on, and that is over."""
        if self._missed and (over := self._missed - set(self._busy())):
            self._missed -= over
            self._wake.set()

    async def aclose(self) -> None:
        """Stop observing; machines go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(RuntimeFault, TimeoutError):
            async with asyncio.timeout(5):
                await self.runtime.aclose()

    async def _observe(self) -> None:
        while True:
            self._wake.clear()
            await self._probe_if_due()
            present = self.probe is None or self.probe.health is not Health.MISSING
            if present or self._wanted():
                await self._list()
            else:
                self.observation = Observation(runtime=self.name, began=self._clocks.boot(), problem=self.problem)
            self._told()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):  # wait_for of Python 3.11 may swallow a cancellation
                    await self._wake.wait()
            await asyncio.sleep(min(1.0, max(GATHER_SECONDS, self._cost)))

    def _pause(self) -> float:
        return min(LONGEST_REST, max(self._rest, REST_SHARE * self._cost))

    async def _probe_if_due(self) -> None:
        """When nothing is known, and once a minute while it is not well."""
        healthy = self.probe is not None and self.probe.health is Health.HEALTHY
        failing = self.observation is not None and self.observation.machines is None
        if (healthy and not failing) or self._clocks.boot() - self._probed < PROBE_SECONDS:
            return
        self._probed = self._clocks.boot()
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                self.probe = await self.runtime.probe()
        except TimeoutError:
            self.probe = Probe(health=Health.UNHEALTHY, reason=f"no answer within {PROBE_SECONDS:g} s")
        except Exception as error:  # a defect in one runtime must not hinder the others
            self.probe = Probe(health=Health.UNHEALTHY, reason=f"{type(error).__name__}: {error}")

    async def _list(self) -> None:
        began = self._clocks.boot()
        try:
            async with asyncio.timeout(LIST_SECONDS):
                machines = {seen.id: seen for seen in await self.runtime.machines()}
            self.observation = Observation(runtime=self.name, began=began, machines=machines)
            self.complete += 1
        except TimeoutError:
            problem = f"{self.name} did not answer within {LIST_SECONDS:g} s"
            self.observation = Observation(runtime=self.name, began=began, problem=problem)
        except Exception as error:
            self.observation = Observation(runtime=self.name, began=began, problem=_said(error))
        answered = self.observation.machines is not None
        self._cost = self._clocks.boot() - began if answered else 0.0  # an outage is looked at again soon
        if self.observation.machines and self._clocks.boot() - self._used >= USAGE_SECONDS:
            await self._use()

    async def _use(self) -> None:
        self._used = self._clocks.boot()
        with suppress(Exception):
            async with asyncio.timeout(LIST_SECONDS):
                self.usage = dict(await self.runtime.usage())

    async def _listen(self) -> None:
        """Events wake; the end of their stream is no news, but what happened meanwhile is looked for."""
        pause = 1.0
        while True:
            began = self._clocks.boot()
            with suppress(Exception):
                async for name in self.runtime.watch():
                    if name in self._busy():
                        self._missed.add(name)  # our own doing, perhaps: looked at when that is over
                    else:
                        self._wake.set()
            pause = 1.0 if self._clocks.boot() - began > 60 else min(pause * 2, 30.0)
            await asyncio.sleep(pause)
            self._wake.set()


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, RuntimeFault) else f"{type(error).__name__}: {error}"
