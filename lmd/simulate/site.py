"""One simulated factory: its machines as the decision sees them, and what it would report."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

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
        self._records = {name: _Record(kind.fizzle_seconds) for name, kind in kinds.items()}
        self._booting: list[tuple[float, str]] = []
        self._made = 0
        self._memory = max((k.backoff_seconds + 2 * k.fizzle_seconds for k in kinds.values()), default=0.0)
        self._pruned = 0.0

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
        if now - self._pruned > KEPT_SECONDS / 4:
            self._pruned = now
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
        record = self._records[start.machinetype]
        record.machines += 1
        record.young[machine.id] = now + boot
        return life

    def end(self, now: float, life: Life, *, lost: bool = False) -> None:
        """The machine is gone."""
        machine, course = life.machine, life.course
        del self.lives[machine.id]
        self._hold(machine, -1)
        started = machine.started if machine.started is not None else machine.created
        gone = replace(
            machine,
            phase=Phase.FINISHED,
            started=started,
            finished=now,
            code=None if lost else course.code,
            excused=lost or course.killed,
        )
        self.ended.append(gone)
        self._remember(gone)

    def _hold(self, machine: Machine, sign: int) -> None:
        name = machine.machinetype or ""
        if machine.idle:
            self.idle_used += sign * machine.processors
        else:
            self.used += sign * machine.processors
        self.busy[name] = self.busy.get(name, 0) + sign * machine.processors

    def told(self, now: float) -> dict[str, Told]:
        """What the factory reports of each type that it has run."""
        rating = self.factory.hs06_per_processor or 1.0
        told = {}
        for name, processors in self.busy.items():
            record = self._records[name]
            self._grow_up(now, record)
            told[name] = Told(
                processors=processors,
                hs06=processors * rating,
                machines=record.machines,
                young=len(record.young),
                abort=record.abort,
                proven=record.proven,
            )
        return told

    def _grow_up(self, now: float, record: "_Record") -> None:
        """Machines that have passed fizzle_seconds have shown that their type works."""
        for name, started in list(record.young.items()):
            if now - started < record.fizzle_seconds:
                break
            del record.young[name]
            record.proven = max(record.proven or 0.0, started)

    def _remember(self, ended: Machine) -> None:
        kind = self.kinds[ended.machinetype or ""]
        record = self._records[kind.name]
        self._grow_up(ended.finished or 0.0, record)
        record.machines -= 1
        record.young.pop(ended.id, None)
        if backoff.aborted(ended, kind) and ended.finished is not None:
            message = str(ended.code) if ended.code is not None else "ended early without a message"
            record.abort = (ended.finished, self.factory.name, message)
        elif not ended.excused and ended.started is not None:
            record.proven = max(record.proven or 0.0, ended.started)


@dataclass(slots=True)
class _Record:
    """What a factory remembers of a type for its reports, kept up as machines come and go."""

    fizzle_seconds: float
    machines: int = 0
    young: dict[str, float] = field(default_factory=dict)
    abort: tuple[float, str, str] | None = None
    proven: float | None = None
