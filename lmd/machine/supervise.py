"""Look after one machine until it has ended: console, quota, heartbeat, wallclock, requests to stop. Holds no rules."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from lmd.environment import joboutputs
from lmd.environment.console import Console
from lmd.environment.directory import Directory
from lmd.environment.outcome import Why
from lmd.machine.rules import Observed, Terms, reason_to_end
from runtimes.contract import ConsoleChunk, Logs, Runtime, RuntimeFault, Seen, State, Unavailable, Usage

LOOK_SECONDS = 0.25
LOOK_SHARE = 50.0
"""A large tree is measured less often: it costs a fiftieth of a core."""
LIST_SECONDS = 1.0
SHORT_GRACE = 10.0
"""Notice before the end of a machine that has been told its end from the start, or that is ill."""
DRAIN_SECONDS = 10.0

Ending = tuple[Why, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What was seen last: the machine (None: it vanished), why we ended it (None: we did not), what it used.

    `unsure` is set where the engine no longer answered and the machine may still be there.
    """

    seen: Seen | None
    why: Ending | None
    usage: Usage | None
    unsure: str = ""


class Clock:
    """Wall time at the start plus the time since by the clock that no administrator can move."""

    def __init__(
        self, wall: float, boot: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    ) -> None:
        self._boot, self._offset = boot, wall - boot()

    def __call__(self) -> float:
        return self._boot() + self._offset


class Heartbeat:
    """The age of a heartbeat by our own clock: seconds since its file's time was last seen to change."""

    def __init__(self) -> None:
        self._changed: tuple[float, float] | None = None

    def age(self, file_age: float | None, wall: float, now: float) -> float | None:
        """From the file's age by wall time; None if there is no file."""
        if file_age is None:
            self._changed = None
            return None
        written = wall - file_age
        if self._changed is None or abs(written - self._changed[0]) > 0.001:
            self._changed = (written, now)
        return now - self._changed[1]


class Supervisor:
    """One machine's supervision. `show` gets console output as it comes, `tell` sentences for people."""

    def __init__(
        self,
        runtime: Runtime,
        machine_id: str,
        directory: Directory,
        terms: Terms,
        *,
        grace: float,
        console_bytes: int,
        clock: Clock,
        show: Callable[[bytes], None],
        tell: Callable[[str], None],
    ) -> None:
        self.runtime, self.id, self.directory, self.terms = runtime, machine_id, directory, terms
        self._grace, self._clock, self._show, self._tell = grace, clock, show, tell
        self._console = Console(directory.console, console_bytes)
        self._wake = asyncio.Event()
        self._why: Ending | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._usage: Usage | None = None
        self._heartbeat = Heartbeat()
        self._outage: str = ""
        self._unkept = 0
        self._interrupts = 0
        self._pause = LOOK_SECONDS

    def interrupt(self) -> None:
        """The first time: ask the machine to stop, with grace. Then: end it at once. Then: give up on the engine."""
        self._interrupts += 1
        if self._interrupts == 1 and self._why is None:
            self._tell(f"stopping, {self._grace:g} s of grace; once more ends it at once")
            self._end(Why.INTERRUPTED, "asked to stop", self._grace)
        elif self._interrupts <= 2:
            self._stop(0)
            self._tell("ending it at once; once more leaves it to lm destroy, should the engine not answer")
        self._wake.set()

    def leave(self) -> None:
        """End the machine because the person in its shell has left it."""
        if self._why is None:
            self._end(Why.STOPPED, "its shell was left", 1.0)

    async def live(self) -> Ended:
        """Return when the machine has ended or vanished, or nobody can tell for too long."""
        following = asyncio.create_task(self._follow())
        watching = asyncio.create_task(self._watch())
        try:
            return await self._look_after()
        finally:
            watching.cancel()
            await asyncio.wait({following}, timeout=DRAIN_SECONDS)
            following.cancel()
            tasks = [following, watching, *([self._stopping] if self._stopping else [])]
            await asyncio.gather(*tasks, return_exceptions=True)
            self._console.close()

    async def _look_after(self) -> Ended:
        listed = 0.0
        while True:
            if self._interrupts > 2:
                return Ended(seen=None, why=self._why, usage=self._usage, unsure="interrupted three times")
            if self._wake.is_set() or time.monotonic() - listed >= LIST_SECONDS:
                self._wake.clear()
                listed = time.monotonic()
                if ended := await self._ended():
                    return ended
            await self._judge()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._pause)

    async def _ended(self) -> Ended | None:
        """The end, if there is one to report."""
        try:
            seen = next((m for m in await self.runtime.machines() if m.id == self.id), None)
            self._outage = ""
        except RuntimeFault as fault:
            return self._cannot_tell(fault)
        if seen is None or seen.state is State.EXITED:
            return Ended(seen=seen, why=self._why or self._operator(), usage=self._usage)
        with suppress(RuntimeFault):
            self._usage = (await self.runtime.usage()).get(self.id) or self._usage
        return None

    def _cannot_tell(self, fault: RuntimeFault) -> Ended | None:
        """An engine that does not answer ends nothing; long after the machine's own end we give up."""
        if not self._outage:
            self._outage = str(fault)
            self._tell(f"cannot tell how the machine is: {fault}; asking again")
        if self._clock() < self.terms.shutdown_time + self._grace + 60:
            return None
        return Ended(seen=None, why=self._why, usage=self._usage, unsure=str(fault))

    async def _judge(self) -> None:
        """End the machine if a rule, or an operator, says so."""
        began = time.monotonic()
        seen = await asyncio.to_thread(self._observe)
        self._pause = max(LOOK_SECONDS, LOOK_SHARE * (time.monotonic() - began))
        reason = reason_to_end(self.terms, seen, self._clock())
        if reason and reason[0] is Why.QUOTA and (self._why is None or self._why[0] is not Why.QUOTA):
            self._tell(f"ending the machine: {reason[1]}")
            self._end(*reason, grace=0)
        elif self._why is None and reason:
            self._tell(f"ending the machine: {reason[1]}")
            self._end(*reason, grace=min(self._grace, SHORT_GRACE))
        elif self._why is None and (asked := self._operator()):
            # Whoever asked stops it too; should that process die, the machine ends all the same, when it was told.
            # That time is in whole seconds, rounded down: none of the grace must be lost by it.
            self._end(*asked, grace=max(0.0, (self.directory.shutdown_time() or 0.0) + 1 - self._clock()))
        elif self._why and self._stopping and self._stopping.done() and not self._stopping.cancelled():
            self._retry()

    def _observe(self) -> Observed:
        """Sizes are measured only as far as the limits, so the cost is bounded whatever the machine writes."""
        terms, outputs = self.terms, self.directory.joboutputs
        size = joboutputs.measure(outputs, most_bytes=terms.outputs_bytes, most_files=terms.outputs_files)
        age, wall = None, time.time()
        if terms.heartbeat_file:
            age = self._heartbeat.age(joboutputs.age(outputs, terms.heartbeat_file, wall), wall, self._clock())
        return Observed(heartbeat_age=age, outputs_bytes=size.bytes, outputs_files=size.files)

    def _operator(self) -> Ending | None:
        who = self.directory.asked_to_stop()
        return (Why.STOPPED, who) if who else None

    def _end(self, why: Why, detail: str, grace: float) -> None:
        self._why = (why, detail)
        with suppress(Exception):  # a full disk must not keep a machine alive
            self.directory.move_shutdown_time(self._clock() + grace)
        self._stop(grace)

    def _stop(self, grace: float) -> None:
        if self._stopping:
            self._stopping.cancel()
        self._stopping = asyncio.create_task(self.runtime.stop(self.id, grace=grace))
        self._stopping.add_done_callback(lambda _: self._wake.set())

    def _retry(self) -> None:
        """Stop again after an engine's failure; each is told once."""
        fault = self._stopping.exception() if self._stopping else None
        if fault is None:
            return
        if str(fault) != self._outage:
            self._outage = str(fault)
            self._tell(f"could not stop the machine yet: {fault}")
        self._stop(0)

    async def _follow(self) -> None:
        """Keep and show the console; told again after an outage, from where the engine still has it."""
        if not isinstance(self.runtime, Logs):
            return
        with suppress(RuntimeFault):
            async for chunk in self.runtime.console(self.id, follow=True):
                await self._keep(chunk)
                if chunk.skipped:
                    self._show(f"\n[lmd: {chunk.skipped} bytes of console output left out here]\n".encode())
                self._show(chunk.data)
        self._wake.set()

    async def _keep(self, chunk: ConsoleChunk) -> None:
        """A full disk loses console output, not the machine."""
        try:
            await asyncio.to_thread(self._console.append, chunk.data, chunk.skipped + self._unkept)
            self._unkept = 0
        except OSError as error:
            if not self._unkept:
                self._tell(f"the console cannot be kept: {error.strerror}")
            self._unkept += chunk.skipped + len(chunk.data)

    async def _watch(self) -> None:
        """Events wake the loop; an end of the stream is no news."""
        while True:
            with suppress(Unavailable):
                async for name in self.runtime.watch():
                    if name == self.id:
                        self._wake.set()
            await asyncio.sleep(5)
