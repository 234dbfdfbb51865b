"""Vac's own rule (spec 7.5 to 7.7), to be compared with: here alone, not in the product.

One machine at most in a cycle of a minute; only the newest-created ended machine of a type counts for aborts; a
superslot's rest is kept whether anything can use it or not.
"""

import math
import random
from collections.abc import Iterable, Sequence

from lmd.vacuum.decision import Code, Decision, Refusal, Start
from lmd.vacuum.facts import Factory, Machine, Phase, Rules, TypeRules
from lmd.vacuum.space import NOTHING, Space

CYCLE = 62.0


def vac(
    now: float,
    factory: Factory,
    machines: Sequence[Machine],
    space: Space,
    kinds: Iterable[TypeRules],
    rules: Rules,
    *,
    seed: int = 0,
) -> Decision:
    """One cycle. Silent early deaths are no aborts, as Vac does not see them (spec 16.2 C1)."""
    kinds = list(kinds)
    alive = [machine for machine in machines if machine.phase is not Phase.FINISHED]
    free = factory.total_processors - sum(machine.processors for machine in alive)
    refusals = tuple(
        Refusal(machinetype=kind.name, code=Code.PROCESSORS if free <= 0 else Code.BACKOFF, sentence="")
        for kind in kinds
    )
    if free <= 0 or factory.draining is not None:
        return Decision(refusals=refusals)
    ordered = _ordered(now, machines, alive, space, kinds, seed)
    start = _packed(now, alive, free, ordered, max(1, rules.processors_per_superslot))
    return Decision(starts=(start,) if start else (), refusals=refusals)


def _ordered(
    now: float, machines: Sequence[Machine], alive: list[Machine], space: Space, kinds: list[TypeRules], seed: int
) -> list[TypeRules]:
    scores: dict[str, float] = {}
    able: list[TypeRules] = []
    for kind in kinds:
        there = space.types.get(kind.name, NOTHING)
        mine = [machine for machine in alive if machine.machinetype == kind.name]
        running = there.running_processors + sum(machine.processors for machine in mine)
        scores[kind.name] = running / kind.target_share if kind.target_share > 0 else math.inf
        young = there.num_before_fizzle + sum(
            1 for m in mine if m.started is None or now - m.started < kind.fizzle_seconds
        )
        ended = [m for m in machines if m.phase is Phase.FINISHED and m.machinetype == kind.name]
        newest = max(ended, key=lambda machine: machine.created, default=None)
        aborts = [at for at, _, message in there.aborts if message.isdigit()][:1]
        if newest is not None and newest.code is not None and newest.code >= 300 and newest.finished is not None:
            aborts.append(newest.finished)
        wait = kind.backoff_seconds + (kind.fizzle_seconds if young else 0)
        if kind.target_share > 0 and max(aborts, default=-math.inf) < now - wait:
            able.append(kind)
    groups: dict[str, float] = {}
    for kind in kinds:
        groups[kind.machinegroup or kind.name] = groups.get(kind.machinegroup or kind.name, 0.0) + scores[kind.name]
    chance = random.Random(seed)
    return sorted(able, key=lambda k: (groups[k.machinegroup or k.name], scores[k.name], chance.random()))


def _packed(now: float, alive: list[Machine], free: int, kinds: list[TypeRules], size: int) -> Start | None:
    sums: dict[float, int] = {}
    for machine in alive:
        end = machine.shutdown_time or math.inf
        sums[end] = sums.get(end, 0) + machine.processors
    for end, held in sorted(sums.items()):
        if held % size == 0:
            continue
        room = min(free, size - held % size)
        free -= room
        for kind in kinds:
            if room >= kind.min_processors and kind.min_wallclock_seconds <= end - now <= kind.max_wallclock_seconds:
                return _start(kind, min(room, kind.max_processors, size), end)
    for kind in kinds:
        if free > 0 and min(free, size) >= kind.min_processors:
            return _start(kind, min(free, kind.max_processors, size), now + kind.max_wallclock_seconds)
    return None


def _start(kind: TypeRules, processors: int, until: float) -> Start:
    return Start(machinetype=kind.name, processors=processors, until=until, because="Vac's rule")
