"""One simulated factory: its machines as the decision sees them, and what it would report."""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from lmd.simulate.hearsay import Told
from lmd.simulate.payload import Course
from lmd.vacuum import backoff
from lmd.vacuum.decision import Refusal, Start
from lmd.vacuum.facts import Factory, Machine, Phase, TypeRules

KEPT_SECONDS = 4 * 3600.0
"""How long ended machines are remembered beyond the longest back-off of any type."""


@dataclass(slots=True)
class Life:
    """A machine and the course that it takes."""

    machine: Machine
    course: Course
    version: int = 0
    row: int = -1


class Site:
    """Holds the machines of one factory; what happens, and when, is the world's business."""

    def __init__(self, factory: Factory, kinds: Mapping[str, TypeRules]) -> None:
        self.factory = factory
        self.kinds = kinds
        self.lives: dict[str, Life] = {}
        self.ended: list[Machine] = []
        self.up = True
        self.refusals: tuple[Refusal, ...] = ()
        self.reason = "starting up"
        self.tallied = 0.0
        self.wake: float | None = None
        self.reporting = False
        self.used = 0
        self.idle_used = 0
        self.busy: dict[str, int] = {}
        self._booting: list[tuple[float, str]] = []
        self._made = 0
        self._memory = max((k.backoff_seconds + 2 * k.fizzle_seconds for k in kinds.values()), default=0.0)

    @property
    def free(self) -> int:
        """Processors of the budget that nobody holds."""
        return self.factory.total_processors - self.used

    def machines(self, now: float) -> list[Machine]:
        """As the decision is given them."""
        while self._booting and self._booting[0][0] <= now:
            ready, name = heapq.heappop(self._booting)
            life = self.lives.get(name)
            if life is not None and life.machine.phase is Phase.STARTING:
                life.machine = replace(life.machine, phase=Phase.RUNNING, started=ready)
        horizon = now - self._memory - KEPT_SECONDS
        if self.ended and (self.ended[0].finished or 0.0) < horizon:
            self.ended = [machine for machine in self.ended if (machine.finished or 0.0) >= horizon]
        return [life.machine for life in self.lives.values()] + self.ended

    def begin(self, now: float, start: Start, course: Course, boot: float) -> Life:
        """A machine that the decision starts."""
        self._made += 1
        kind = self.kinds[start.machinetype]
        machine = Machine(
            id=f"{self.factory.name}-{self._made}",
            machinetype=start.machinetype,
            phase=Phase.STARTING,
            processors=start.processors,
            created=now,
            shutdown_time=start.until,
            idle=start.idle,
            memory_bytes=start.processors * kind.memory_bytes_per_processor,
        )
        life = self.lives[machine.id] = Life(machine, course)
        heapq.heappush(self._booting, (now + boot, machine.id))
        self._hold(machine, 1)
        return life

    def end(self, now: float, life: Life, *, lost: bool = False) -> None:
        """The machine is gone."""
        machine, course = life.machine, life.course
        del self.lives[machine.id]
        self._hold(machine, -1)
        started = machine.started if machine.started is not None else machine.created
        self.ended.append(
            replace(
                machine,
                phase=Phase.FINISHED,
                started=started,
                finished=now,
                code=None if lost else course.code,
                excused=lost or course.killed,
            )
        )

    def _hold(self, machine: Machine, sign: int) -> None:
        name = machine.machinetype or ""
        if machine.idle:
            self.idle_used += sign * machine.processors
        else:
            self.used += sign * machine.processors
        self.busy[name] = self.busy.get(name, 0) + sign * machine.processors

    def told(self, now: float) -> dict[str, Told]:
        """What the factory reports of each type that it has run lately."""
        by_type: dict[str, list[Machine]] = {}
        for machine in self.machines(now):
            by_type.setdefault(machine.machinetype or "", []).append(machine)
        rating = self.factory.hs06_per_processor or 1.0
        return {name: self._told(now, self.kinds[name], group, rating) for name, group in by_type.items()}

    def _told(self, now: float, kind: TypeRules, machines: Iterable[Machine], rating: float) -> Told:
        machines = list(machines)
        alive = [machine for machine in machines if machine.phase is not Phase.FINISHED]
        processors = sum(machine.processors for machine in alive)
        newest = backoff.newest_abort(now, machines, kind)
        abort = None
        if newest is not None and newest.finished is not None:
            message = str(newest.code) if newest.code is not None else "ended early without a message"
            abort = (newest.finished, self.factory.name, message)
        return Told(
            processors=processors,
            hs06=processors * rating,
            machines=len(alive),
            young=sum(1 for machine in alive if backoff.age(machine, now) < kind.fizzle_seconds),
            abort=abort,
            proven=backoff.proven(now, machines, kind),
        )
