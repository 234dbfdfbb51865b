"""What this factory starts now, what it ends early, and why not more. The daemon and the simulator call this alike."""

from collections.abc import Iterable, Mapping, Sequence

from lmd.vacuum import backoff, brakes
from lmd.vacuum.backoff import Hold
from lmd.vacuum.decision import Code, Decision, Ending, Refusal, Start
from lmd.vacuum.facts import Factory, Machine, Phase, Rules, TypeRules
from lmd.vacuum.shares import Shares
from lmd.vacuum.space import Space, TypeInSpace


def decide(
    now: float,
    factory: Factory,
    machines: Sequence[Machine],
    space: Space,
    kinds: Iterable[TypeRules],
    rules: Rules,
    *,
    seed: int = 0,
) -> Decision:
    """One pass over this factory: fills its free processors. Pure, and the same for the same arguments.

    `machines`: all of this factory that are alive, and those that ended lately. `space`: the other factories, from
    `space.summarise`; `Space()` where there are none. `seed` settles ties, and should change from pass to pass.
    Never raises for anything that the arguments' types allow.
    """
    return _Pass(now, factory, machines, space, {kind.name: kind for kind in kinds}, rules, seed).run()


class _Pass:
    """The state of one pass; nothing of it outlives the call."""

    def __init__(
        self,
        now: float,
        factory: Factory,
        machines: Sequence[Machine],
        space: Space,
        kinds: Mapping[str, TypeRules],
        rules: Rules,
        seed: int,
    ) -> None:
        self.now, self.factory, self.space, self.kinds, self.rules = now, factory, space, kinds, rules
        self.machines = machines
        self.alive = [machine for machine in machines if machine.phase is not Phase.FINISHED]
        self.rating = factory.hs06_per_processor or 1.0 if rules.share_by_hs06 else 1.0
        self.by_type: dict[str, list[Machine]] = {name: [] for name in kinds}
        for machine in machines:
            if machine.machinetype in self.by_type:
                self.by_type[machine.machinetype].append(machine)
        self.free = factory.total_processors - sum(max(m.processors, 0) for m in self.alive if not m.idle)
        self.shares = Shares(kinds.values(), self._running(), space.averages, seed)
        self.starts: list[Start] = []
        self.holds: dict[str, Hold] = {}
        self.trials: set[str] = set()

    def run(self) -> Decision:
        for name, kind in self.kinds.items():
            self._judge(name, kind)
        brake = brakes.of_factory(self.now, self.factory, self.machines, self.rules)
        waiting = {name for name in self.kinds if name not in self.holds}
        while waiting:
            name = min(waiting, key=self.shares.key)
            if hold := brake or self._start(self.kinds[name]):
                self.holds[name] = hold
                waiting.discard(name)
        return Decision(starts=tuple(self.starts), endings=tuple(self._endings()), refusals=tuple(self._refusals()))

    def _running(self) -> dict[str, float]:
        by_hs06 = self.rules.share_by_hs06
        running = {}
        for name in self.kinds:
            there = self.space.types.get(name, TypeInSpace())
            here = sum(m.processors for m in self.by_type[name] if m.phase is not Phase.FINISHED)
            running[name] = (there.running_hs06 if by_hs06 else there.running_processors) + here * self.rating
        return running

    def _judge(self, name: str, kind: TypeRules) -> None:
        hold = brakes.of_type(self.now, kind, self.factory)
        if hold is None:
            standing = backoff.standing(self.now, kind, self.by_type[name], self.space, self.factory.name)
            hold = standing.hold
            if standing.trial:
                self.trials.add(name)
        if hold is not None:
            self.holds[name] = hold

    def _start(self, kind: TypeRules) -> Hold | None:
        if self.free < kind.min_processors:
            return Hold(
                Code.PROCESSORS, f"{max(self.free, 0)} processors are free, it needs {kind.min_processors}", None
            )
        processors = min(kind.max_processors, self.free)
        until = self.now + kind.max_wallclock_seconds
        if self.factory.shutdown_time is not None:
            until = min(until, self.factory.shutdown_time)
        self.free -= processors
        self.shares.started(kind.name, processors * self.rating)
        self.starts.append(
            Start(machinetype=kind.name, processors=processors, until=until, because="it is furthest below its share")
        )
        if kind.name in self.trials:
            return Hold(Code.TESTING, "one machine tries it out after a back-off", self.now + kind.fizzle_seconds)
        return None

    def _endings(self) -> Iterable[Ending]:
        limit = self.factory.shutdown_time
        if limit is None:
            return
        for machine in self.alive:
            if machine.machinetype is not None and (machine.shutdown_time is None or machine.shutdown_time > limit):
                yield Ending(id=machine.id, by=limit, because="the factory shuts down")

    def _refusals(self) -> Iterable[Refusal]:
        for name, hold in self.holds.items():
            yield Refusal(machinetype=name, code=hold.code, sentence=hold.sentence, until=hold.until)
