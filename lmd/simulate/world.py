"""The simulation: events in their order, and the decision of each factory whenever something happened to it."""

import heapq
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from lmd.simulate.hearsay import Hearsay
from lmd.simulate.payload import HOUR, Payloads
from lmd.simulate.scenario import Group, Job, Scenario
from lmd.simulate.site import Life, Site
from lmd.simulate.tally import DAY, Tally
from lmd.vacuum.decide import decide
from lmd.vacuum.decision import Code, Decision, Ending, Refusal, Start
from lmd.vacuum.facts import Factory, Machine, Rules, TypeRules
from lmd.vacuum.space import Space

BEGIN = 1_800_000_000.0
"""Unix seconds at which a simulation begins; on a day's boundary."""
REACTION = 1.0
"""Seconds from a machine's end to the next decision."""
REST = 10.0
"""Seconds at least between two decisions of a factory."""
LOOK = 600.0
"""Seconds at most between two decisions of a factory that could end machines early for others."""


class Rule(Protocol):
    """What decides: `decide`, or another rule to compare it with."""

    def __call__(
        self,
        now: float,
        factory: Factory,
        machines: Sequence[Machine],
        space: Space,
        kinds: Iterable[TypeRules],
        rules: Rules,
        *,
        seed: int = 0,
    ) -> Decision: ...


@dataclass(frozen=True, slots=True)
class Bar:
    """One machine in the picture; times in seconds from the beginning, `rows` are the processors it is drawn on."""

    site: str
    rows: tuple[int, ...]
    begin: float
    end: float
    machinetype: str
    code: int | None
    told: bool
    useful: bool


class World:
    """One space, from its scenario. `run` goes through it once."""

    def __init__(
        self,
        kinds: Sequence[TypeRules],
        rules: Rules,
        scenario: Scenario,
        jobs: Mapping[str, list[Job]],
        *,
        rule: Rule = decide,
        period: float | None = None,
        drawn_sites: int = 1,
        progress: Callable[[float], None] = lambda part: None,
    ) -> None:
        self.kinds = {kind.name: kind for kind in kinds}
        self.rules, self.scenario, self.rule, self.period = rules, scenario, rule, period
        self.payloads = Payloads(scenario.types, jobs, scenario.seed)
        self.hearsay = Hearsay(rules.accounting_window_seconds, by_hs06=rules.share_by_hs06)
        self.tally = Tally()
        self.end = BEGIN + scenario.days * DAY
        self.bars: list[Bar] = []
        self._drawn = drawn_sites
        self._progress = progress
        self._random = random.Random(scenario.seed)  # noqa: S311
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._counter = 0
        self._rows: dict[str, list[bool]] = {}
        self._placed: dict[str, tuple[int, ...]] = {}
        self.sites = [self._site(name, group) for name, group in _named(scenario.factories)]

    def _site(self, name: str, group: Group) -> Site:
        factory = Factory(
            name=name,
            total_processors=group.processors,
            hs06_per_processor=group.hs06_per_processor,
            memory_bytes=group.memory,
        )
        site = Site(factory, self.kinds)
        site.up = not group.up
        if site.up:
            self._at(BEGIN + self._random.random() * REST, lambda now: self._decide(site, now))
        for begin, end in group.up:
            self._at(BEGIN + begin * HOUR, lambda now: self._come(site, now))
            self._at(BEGIN + end * HOUR, lambda now: self._go(site, now))
        if len(self._rows) < self._drawn:
            self._rows[name] = [True] * group.processors
        return site

    def _at(self, time: float, act: Callable[[float], None]) -> None:
        if time <= self.end:
            self._counter += 1
            heapq.heappush(self._events, (time, self._counter, act))

    def run(self) -> Tally:
        """Go through all that happens; what came of it."""
        done = 0
        while self._events:
            now, _, act = heapq.heappop(self._events)
            act(now)
            part = int((now - BEGIN) / (self.end - BEGIN) * 100)
            if part > done:
                done = part
                self._progress(part / 100)
        for site in self.sites:
            self._count(site, self.end)
            for life in list(site.lives.values()):
                self._settle(site, life, self.end, at_the_end=True)
        return self.tally

    def _come(self, site: Site, now: float) -> None:
        site.tallied = now - BEGIN
        site.up = True
        self._decide(site, now)

    def _go(self, site: Site, now: float) -> None:
        self._count(site, now)
        for life in list(site.lives.values()):
            site.end(now, life, lost=True)
            self._settle(site, life, now, lost=True)
        site.up = False
        site.ended.clear()
        self._report_soon(site, now)

    def _decide(self, site: Site, now: float) -> None:
        if not site.up:
            return
        site.wake = None
        self._count(site, now)
        self.tally.decisions += 1
        decision = self.rule(
            now,
            site.factory,
            site.machines(now),
            self.hearsay.known_to(site.factory.name),
            self.kinds.values(),
            self.rules,
            seed=self._random.getrandbits(32),
        )
        for start in decision.starts:
            self._begin(site, now, start)
        for ending in decision.endings:
            self._tell(site, now, ending)
        site.refusals = decision.refusals
        site.reason = reason(decision.refusals)
        self.tally.worst = max(self.tally.worst, -site.free)
        if decision.starts or decision.endings:
            self._report_soon(site, now)
        self._wake(site, now, self._next(site, now, decision))

    def _next(self, site: Site, now: float, decision: Decision) -> float:
        """When the factory looks again if nothing happens to it before."""
        if self.period is not None:
            return now + self.period
        times = []
        if site.free > 0 or any(self.kinds[r.machinetype].idle for r in decision.refusals):
            for refusal in decision.refusals:
                if refusal.code in (Code.BACKOFF, Code.TESTING):
                    times.append(refusal.until if refusal.until is not None else now + self.scenario.report_seconds)
        if any(kind.interruptible and site.busy.get(kind.name) for kind in self.kinds.values()):
            times.append(now + LOOK)
        return max(min(times, default=now + DAY), now + REST)

    def _wake(self, site: Site, now: float, time: float) -> None:
        """Decide then, unless it is to be decided before."""
        if site.wake is not None and site.wake <= time:
            return
        site.wake = time

        def act(at: float) -> None:
            if site.wake == time:
                self._decide(site, at)

        self._at(time, act)

    def _begin(self, site: Site, now: float, start: Start) -> None:
        name = start.machinetype
        course = self.payloads.course(name, now, BEGIN, start.until)
        life = site.begin(now, start, course, self.payloads.behaviour(name).start_seconds)
        self.tally.starts[name] += 1
        size = str(start.processors)
        if course.worked > 0:
            self.tally.worked.setdefault(name, now - BEGIN)
        self.tally.first.setdefault(name, now - BEGIN)
        self.tally.first.setdefault(f"{name}/{size}", now - BEGIN)
        self._place(site, life)
        self._end_later(site, life)
        # Others are to hear of a machine that has passed its trial.
        self._at(now + self.kinds[name].fizzle_seconds + 60.0, lambda at: self._report_soon(site, at))

    def _end_later(self, site: Site, life: Life) -> None:
        version = life.version

        def act(now: float) -> None:
            if life.version == version and life.machine.id in site.lives:
                self._count(site, now)
                site.end(now, life)
                self._settle(site, life, now)
                self._report_soon(site, now)
                if self.period is None:
                    self._wake(site, now, now + REACTION)

        self._at(life.machine.created + life.course.seconds, act)

    def _tell(self, site: Site, now: float, ending: Ending) -> None:
        life = site.lives.get(ending.id)
        if life is None or (life.machine.shutdown_time or 0.0) <= ending.by:
            return
        name = life.machine.machinetype or ""
        age, by = now - life.machine.created, ending.by - life.machine.created
        life.course = self.payloads.told(name, life.course, age, by)
        life.machine = replace(life.machine, shutdown_time=ending.by, told=now)
        life.version += 1
        self.tally.told[name] += 1
        self._end_later(site, life)

    def _report_soon(self, site: Site, now: float) -> None:
        if site.reporting:
            return
        site.reporting = True

        def act(at: float) -> None:
            site.reporting = False
            told = site.told(at) if site.up else None
            self.hearsay.report(at, site.factory.name, told, site.free)

        self._at(now + self.scenario.report_seconds * self._random.random(), act)

    def _count(self, site: Site, now: float) -> None:
        """Book the time since the factory was last looked at."""
        begin, end = site.tallied, now - BEGIN
        site.tallied = end
        if not site.up or end <= begin:
            return
        tally = self.tally
        tally.offer(begin, end, site.factory.total_processors)
        rating = site.factory.hs06_per_processor or 1.0
        left = float(site.factory.total_processors)
        for name, processors in site.busy.items():
            if processors:
                tally.spend(begin, end, tally.work, name, processors)
                tally.spend(begin, end, tally.hs06, name, processors * rating)
                if not self.kinds[name].idle:
                    left -= processors * self.payloads.behaviour(name).efficiency
        if site.free > 0:
            tally.free[site.reason] += site.free * (end - begin)
        tally.harvested += min(site.idle_used, max(left, 0.0)) * (end - begin)
        for refusal in site.refusals:
            waits = tally.waits[refusal.machinetype]
            over = end
            if refusal.code in (Code.BACKOFF, Code.TESTING) and refusal.until is not None and site.free <= 0:
                over = min(max(refusal.until - BEGIN, begin), end)  # after that only processors are lacking
                waits[str(Code.PROCESSORS)] += end - over
            waits[str(refusal.code)] += over - begin

    def _settle(self, site: Site, life: Life, now: float, *, lost: bool = False, at_the_end: bool = False) -> None:
        """Book what a machine has made of its life."""
        machine, course, tally = life.machine, life.course, self.tally
        name = machine.machinetype or ""
        age = now - machine.created
        boot = min(self.payloads.behaviour(name).start_seconds, age)
        worked = min(course.worked, age - boot)
        if lost:
            worked = max((end for end in course.jobs if end <= age - boot), default=0.0)
        tally.booting[name] += boot * machine.processors
        tally.useful[name] += worked * machine.processors
        rest = max(age - boot - worked, 0.0) * machine.processors
        fizzled = not lost and not course.killed and course.worked <= 0
        (tally.fizzled if fizzled else tally.lost)[name] += rest
        if fizzled and not at_the_end:
            tally.wasted[name] += 1
        self._draw(site, life, now, useful=course.worked > 0)

    def _place(self, site: Site, life: Life) -> None:
        """Rows of the picture: together where they are, from the top."""
        rows = self._rows.get(site.factory.name)
        if rows is None or life.machine.idle:
            return
        size = life.machine.processors
        runs = (at for at in range(len(rows) - size + 1) if all(rows[at : at + size]))
        at = next(runs, None)
        chosen = tuple(range(at, at + size)) if at is not None else tuple(i for i, f in enumerate(rows) if f)[:size]
        for row in chosen:
            rows[row] = False
        self._placed[life.machine.id] = chosen

    def _draw(self, site: Site, life: Life, now: float, *, useful: bool) -> None:
        chosen = self._placed.pop(life.machine.id, None)
        if chosen is None:
            return
        for row in chosen:
            self._rows[site.factory.name][row] = True
        machine = life.machine
        self.bars.append(
            Bar(
                site.factory.name,
                chosen,
                machine.created - BEGIN,
                now - BEGIN,
                machine.machinetype or "",
                life.course.code,
                machine.told is not None,
                useful,
            )
        )


def _named(groups: Iterable[Group]) -> Iterator[tuple[str, Group]]:
    number = 0
    for group in groups:
        for _ in range(group.count):
            number += 1
            yield f"{group.name}{number}", group


def reason(refusals: Iterable[Refusal]) -> str:
    """Why processors are free, of all that was refused."""
    codes = {refusal.code for refusal in refusals}
    if codes & {Code.RESERVED, Code.PROCESSORS}:
        return "kept for, or too few for, types that need several"
    for code, words in (
        (Code.MEMORY, "no memory left"),
        (Code.DISK, "no disk left"),
        (Code.SHUTDOWN, "the factory shuts down"),
        (Code.DRAINING, "the factory is draining"),
    ):
        if code in codes:
            return words
    if codes & {Code.BACKOFF, Code.TESTING}:
        return "no work, or failing: all types wait after an abort"
    return "no type can be started here"
