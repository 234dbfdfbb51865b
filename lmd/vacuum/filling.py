"""One pass: which types may be started, and how free processors are filled, furthest below its share first."""

import heapq
import math
import zlib
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence

from lmd.vacuum import accounting, backoff, brakes, idle
from lmd.vacuum.backoff import History, Hold
from lmd.vacuum.claims import Claim, claim, deaf_types, entitled, plan, victims
from lmd.vacuum.decision import Code, Ending, Refusal, Start, many
from lmd.vacuum.facts import Factory, Machine, Phase, Rules, TypeRules
from lmd.vacuum.held import Held
from lmd.vacuum.room import Room
from lmd.vacuum.shares import Shares
from lmd.vacuum.space import NOTHING, Space
from lmd.vacuum.superslots import Superslots
from lmd.vacuum.timeline import End, Plan, end_of, ends_of, free_at, likely_ends, typical_lives


class Filling:
    """The state of one pass; nothing of it outlives the call of `decide`."""

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
        self.held = Held(now, machines, kinds)
        self.alive = self.held.alive
        rating = factory.hs06_per_processor
        self.rating = rating if rules.share_by_hs06 and rating is not None and 0 < rating < 1e9 else 1.0
        self.room = Room(factory, self.held, rules)
        self.ends = ends_of(now, self.alive, kinds)
        self.size = max(1, min(rules.processors_per_superslot, factory.total_processors))
        running = self._running()
        averages = space.averages or self._own_averages()
        usual = [kind for kind in kinds.values() if not kind.idle]
        self.shares = Shares(usual, running, averages, rating=self.rating, seed=seed)
        self.idle_shares = self.shares
        if len(usual) < len(kinds):
            harvesters = [kind for kind in kinds.values() if kind.idle]
            self.idle_shares = Shares(harvesters, running, averages, rating=self.rating, seed=seed)
        self.holds: dict[str, Hold] = {}
        self.trials: set[str] = set()
        self.starts: list[Start] = []
        self.counted = 0
        self.chance = zlib.crc32(str(seed).encode()) / 2**32
        self._slots: Superslots | None = None
        self.lives: dict[str, float] | None = None
        self.could_fill: set[str] = set()
        self.endings: dict[str, Ending] = {}
        self.claimant: Claim | None = None
        self.kept: Plan | None = None

    @property
    def slots(self) -> Superslots:
        """The superslots, counted when they are first asked for."""
        if self._slots is None:
            self._slots = Superslots(self._all_ends(), self.size)
        return self._slots

    def _running(self) -> dict[str, float]:
        """What runs of each type in the space; what has been told to end no longer counts."""
        by_hs06 = self.rules.share_by_hs06
        running = {}
        for name, busy in self.held.busy.items():
            there = self.space.types.get(name, NOTHING)
            running[name] = (there.running_hs06 if by_hs06 else there.running_processors) + busy * self.rating
        return running

    def _own_averages(self) -> Mapping[str, float]:
        """What the types have had on this factory, where there is no space that would know better."""
        if self.space.factories:
            return {}
        known = {name: [*alive, *self.held.ended_of[name]] for name, alive in self.held.alive_of.items()}
        return accounting.of_machines(self.now, known, self.rules.accounting_window_seconds, self.rating)

    def judge(self) -> None:
        """Find the types that cannot be started, whatever is free, and those that may be tried out once."""
        brake = brakes.of_factory(self.now, self.factory, self.held, self.rules)
        for name, kind in self.kinds.items():
            hold = brakes.of_type(self.now, kind, self.factory) or brake
            if hold is None:
                own = History(self.held.alive_of[name], self.held.ended_of[name])
                standing = backoff.standing(self.now, kind, own, self.space, self.factory.name)
                hold = standing.hold
                if standing.trial:
                    self.trials.add(name)
            if hold is not None:
                self.holds[name] = hold

    def fill(self) -> None:
        """Start machines of the types within the budget until no type can be started."""
        waiting = {name for name, kind in self.kinds.items() if not kind.idle and name not in self.holds}
        self.could_fill = {name for name in waiting if _fills_gaps(self.kinds[name])}
        eligible = frozenset(waiting)
        for name in sorted((n for n in waiting if self.kinds[n].min_processors > 1), key=self.shares.key):
            self._serve_wide(self.kinds[name], eligible)
        waiting.difference_update(self.holds)
        heap = [(self.shares.key(name), name) for name in waiting]
        heapq.heapify(heap)
        while heap:
            key, name = heapq.heappop(heap)
            if key < (current := self.shares.key(name)):
                heapq.heappush(heap, (current, name))
                continue
            if (hold := self._start(self.kinds[name], eligible)) is None:
                heapq.heappush(heap, (self.shares.key(name), name))
            else:
                self.holds[name] = hold

    def _serve_wide(self, kind: TypeRules, eligible: frozenset[str]) -> None:
        """Give a type that needs several processors what it lacks before others break up what is free together."""
        size = kind.min_processors * self.rating
        while kind.name not in self.holds:
            room = max(self.room.free, 0) * self.rating
            if not entitled(size, *self.shares.standing(kind.name, eligible, room)):
                return
            if hold := self._start(kind, eligible):
                self.holds[kind.name] = hold

    def _start(self, kind: TypeRules, eligible: frozenset[str]) -> Hold | None:
        """Start one machine, or say why not."""
        if hold := self._trial_over(kind) or self.room.lacks(kind):
            if hold.code is Code.MEMORY:
                self._take_from_idle(kind)
            return hold
        kept = self.kept.held if self.kept is not None else 0
        loose = self.room.free - kept
        if loose >= kind.min_processors:
            self._book(kind, *self._placed(kind, loose))
            return None
        if self.kept is not None and kept and self.room.free >= kind.min_processors:
            return self._fill_kept(kind)
        return self._claimed(kind, eligible)

    def _trial_over(self, kind: TypeRules) -> Hold | None:
        if kind.name in self.trials and any(start.machinetype == kind.name for start in self.starts):
            return Hold(Code.TESTING, "one machine tries it out after a back-off", self.now + kind.fizzle_seconds)
        return None

    def _placed(self, kind: TypeRules, free: int) -> tuple[int, float, str]:
        """Processors, end and reason for a machine on `free` processors that nobody has a claim on."""
        most = self.room.most(kind, min(kind.max_processors, max(self.size, kind.min_processors), free))
        if self.size > 1 and kind.min_wallclock_seconds < kind.max_wallclock_seconds:
            joined = self.slots.joined(self.now, kind, kind.min_wallclock_seconds, most)
            if joined is not None and self._before_shutdown(joined[0]) == joined[0]:
                return min(most, joined[1]), joined[0], "furthest below its share; ends with its superslot"
        life, because = kind.max_wallclock_seconds, "furthest below its share"
        if kind.min_wallclock_seconds < life and self._borrows(kind):
            least = max(kind.min_wallclock_seconds, life / 10)
            life = least + self.chance**2 * (life - least)
            because = "others have no work; it has its share, and so does not live as long as it could"
        return most, self._before_shutdown(self.now + life), because

    def _borrows(self, kind: TypeRules) -> bool:
        """Whether the type gets more than its share because others are backed off just now.

        Machines on borrowed processors end at times spread by chance: a type that runs dry each night would else find
        that what was started in its absence ends in its next absence, and never get its processors back.
        """
        usual = [name for name, one in self.kinds.items() if not one.idle]
        absent = [n for n in usual if n in self.holds and self.holds[n].code in (Code.BACKOFF, Code.TESTING)]
        if not absent:
            return False
        usable = [name for name in usual if name not in self.holds]
        room = max(self.room.free, 0) * self.rating
        return self.shares.standing(kind.name, [*usable, *absent], room)[1] <= 0

    def _fill_kept(self, kind: TypeRules) -> Hold | None:
        """Start a machine on processors that are kept for another type, if it can be gone when they are needed."""
        assert self.kept is not None and self.claimant is not None  # noqa: S101
        until = min(self.kept.at, self._before_shutdown(self.now + kind.max_wallclock_seconds))
        if until - self.now < _shortest(kind):
            wanted = self.claimant.kind.name
            return Hold(Code.RESERVED, f"the free processors are kept for {wanted}, which needs several", self.kept.at)
        free = self.room.free
        processors = self.room.most(kind, min(kind.max_processors, max(self.size, kind.min_processors), free))
        loose = free - self.kept.held
        self._book(kind, processors, until, f"fills the time until {self.claimant.kind.name} can start")
        self.kept = Plan(self.kept.at, max(0, self.kept.held - max(0, processors - loose)))
        return None

    def _book(self, kind: TypeRules, processors: int, until: float, because: str) -> None:
        self.room.take(kind, processors)
        (self.idle_shares if kind.idle else self.shares).started(kind.name, processors * self.rating)
        if not kind.idle and self._slots is not None:
            self._slots.add(until, processors)
        self.starts.append(
            Start(machinetype=kind.name, processors=processors, until=until, because=because, idle=kind.idle)
        )

    def _claimed(self, kind: TypeRules, eligible: frozenset[str]) -> Hold:
        """Too few processors are free: say so, after having seen whether some are to be kept or asked back for it."""
        free = self.room.free
        until = free_at(free, kind.min_processors, self._all_ends())
        hold = Hold(Code.PROCESSORS, _too_few(kind.min_processors, max(free, 0)), until)
        if self.kept is not None or free >= kind.min_processors:
            return hold
        wish = claim(
            self.now,
            kind,
            self.shares,
            eligible,
            free=free,
            rating=self.rating,
            this=self.factory.name,
            others=self.space.factories.keys(),
            trial=kind.name in self.trials,
        )
        return hold if wish is None else self._serve(wish, hold, eligible)

    def _serve(self, wish: Claim, hold: Hold, eligible: frozenset[str]) -> Hold:
        kind = wish.kind
        filled = bool(self.could_fill - {kind.name})
        chosen = plan(self.now, wish, self.room.free, self._likely_ends(), filled=filled)
        if not kind.interruptible and self._interrupt(wish, chosen, eligible):
            chosen = plan(self.now, wish, self.room.free, self._likely_ends(), filled=filled)
        if chosen is None or kind.min_processors == 1:
            return Hold(hold.code, hold.sentence, chosen.at if chosen is not None else hold.until)
        if (
            self.factory.shutdown_time is not None
            and chosen.at + kind.min_wallclock_seconds > self.factory.shutdown_time
        ):
            return hold
        self.claimant, self.kept = wish, chosen
        return Hold(Code.PROCESSORS, f"{hold.sentence}; they are being kept for it as they come free", chosen.at)

    def _interrupt(self, wish: Claim, chosen: Plan | None, eligible: frozenset[str]) -> bool:
        if not any(kind.interruptible and self.held.alive_of[name] for name, kind in self.kinds.items()):
            return False
        before = chosen.at if chosen is not None else math.inf
        deaf = deaf_types(self.machines)
        told = victims(
            self.now,
            wish,
            self.room.free,
            [machine for machine in self.alive if machine.id not in self.endings],
            self.kinds,
            self.shares,
            eligible,
            deaf,
            rating=self.rating,
            before=before,
        )
        for machine in told:
            self._tell(machine, f"{wish.kind.name} needs its processors")
        for machine in told:
            kind = self.kinds[machine.machinetype or ""]
            self.ends.remove((end_of(self.now, machine, kind), machine.processors))
            insort(self.ends, (self.endings[machine.id].by, machine.processors))
        return bool(told)

    def _tell(self, machine: Machine, because: str) -> None:
        kind = self.kinds[machine.machinetype or ""]
        self.endings[machine.id] = Ending(id=machine.id, by=self.now + kind.grace_secs, because=because)

    def _all_ends(self) -> list[End]:
        """The ends of what runs and of what this pass has started, in their order."""
        if self.counted != len(self.starts):
            started = [(start.until, start.processors) for start in self.starts[self.counted :] if not start.idle]
            self.ends = sorted([*self.ends, *started])
            self.counted = len(self.starts)
        return self.ends

    def _likely_ends(self) -> list[End]:
        """When what runs, and what this pass has started, is likely to be gone."""
        if self.lives is None:
            self.lives = typical_lives(self.held.ended_of, self.kinds)
        moved = {name: ending.by for name, ending in self.endings.items()}
        ends = likely_ends(self.now, self.alive, self.kinds, self.lives, moved)
        for start in self.starts:
            if not start.idle:
                life = self.lives.get(start.machinetype, math.inf)
                insort(ends, (min(start.until, self.now + life), start.processors))
        return ends

    def fill_idle(self) -> None:
        """Start idle machines beside the others, as far as memory goes that the others will not want."""
        if self.room.memory is not None:
            self.room.memory -= idle.spared(self.room, (k for k in self.kinds.values() if k.name not in self.holds))
        waiting = {name for name, kind in self.kinds.items() if kind.idle and name not in self.holds}
        while waiting:
            name = min(waiting, key=self.idle_shares.key)
            kind = self.kinds[name]
            hold = self._trial_over(kind) or self.room.lacks(kind)
            if hold is None and self.room.idle < kind.min_processors:
                hold = Hold(Code.PROCESSORS, "idle machines have as many processors as the factory", None)
            if hold is not None:
                self.holds[name] = hold
                waiting.discard(name)
                continue
            processors = self.room.most(kind, min(kind.max_processors, self.room.idle))
            until = self._before_shutdown(self.now + kind.max_wallclock_seconds)
            self._book(kind, processors, until, "uses what the others leave")

    def _take_from_idle(self, kind: TypeRules) -> None:
        """Memory is all that a type within the budget lacks: ask idle machines to give theirs back."""
        if self.room.free < kind.min_processors or self.room.memory is None:
            return
        lacking = kind.min_processors * kind.memory_bytes_per_processor - self.room.memory
        for machine in idle.give_back(self.now, lacking, self.alive, self.kinds):
            self._tell(machine, f"{kind.name} needs its memory")

    def end_at_shutdown(self) -> None:
        """No machine outlives the factory's shutdown time."""
        limit = self.factory.shutdown_time
        if limit is None or not math.isfinite(limit):
            return
        for machine in self.alive:
            if machine.machinetype is None or machine.phase is Phase.STOPPING:
                continue
            if end_of(self.now, machine, self.kinds.get(machine.machinetype)) > limit and not _knows(machine, limit):
                earlier = self.endings.get(machine.id)
                if earlier is None or earlier.by > limit:
                    self.endings[machine.id] = Ending(id=machine.id, by=limit, because="the factory shuts down")

    def _before_shutdown(self, until: float) -> float:
        limit = self.factory.shutdown_time
        return until if limit is None else min(until, limit)

    def refusals(self) -> Iterable[Refusal]:
        """One for each type, in the order of the configuration."""
        for name in self.kinds:
            hold = self.holds[name]
            yield Refusal(machinetype=name, code=hold.code, sentence=hold.sentence, until=hold.until)


def _too_few(needs: int, free: int) -> str:
    return f"it needs {many(needs, 'processor')}, {free or 'none'} {'is' if free == 1 else 'are'} free"


def _knows(machine: Machine, limit: float) -> bool:
    return machine.shutdown_time is not None and machine.shutdown_time <= limit


def _fills_gaps(kind: TypeRules) -> bool:
    return kind.min_processors == 1 and (kind.interruptible or kind.min_wallclock_seconds <= 3600)


def _shortest(kind: TypeRules) -> float:
    """The shortest life that is worth a start in a gap: an interruptible machine has to be ready to end early."""
    if kind.interruptible:
        return min(kind.min_wallclock_seconds, 2 * kind.grace_secs)
    return kind.min_wallclock_seconds
