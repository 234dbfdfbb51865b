"""Types that have less than their share and find too few processors free: what is kept or ended early for them.

A claim keeps as little as it can: the cheapest window in which enough processors come free together (`timeline`),
or, sooner than that, what interruptible machines leave when they are told to end. In a space, only as many factories
serve a type as it lacks machines; which ones is drawn by name, anew each day.
"""

import math
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from lmd.vacuum.facts import Machine, Phase, TypeRules
from lmd.vacuum.shares import Shares
from lmd.vacuum.timeline import End, Plan, cheapest, end_of

CHEAP, DEAR = 0.05, 2.0
"""What a second of waiting may cost, as a part of what the machine would do in it: of a type that has had its share
over the accounting window, and of one that has had nothing. With 1.0 the latter waited up to four times as long for its
first superslot, for 0.1 % more use (docs/decision.md)."""
FILLED = 0.2
"""How much less idle time costs where types that can be short, or interrupted, are there to fill it."""
MUCH = 0.05
"""Machines are interrupted only for a type that lacks this part of its target: small changes disturb none."""
STARVED = 0.5
"""A type that has missed more than this part of its target may interrupt any interruptible machine."""
DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Claim:
    """What a type lacks that this factory is to serve: `processors`, `price` of a second of waiting.

    `urgent`: it lacks so much that machines may be interrupted for it; `starved`: even those of types that do not have
    more than their share.
    """

    kind: TypeRules
    processors: int
    price: float
    urgent: bool
    starved: bool


def claim(
    now: float,
    kind: TypeRules,
    shares: Shares,
    among: Collection[str],
    *,
    free: int,
    rating: float,
    this: str,
    others: Collection[str],
    trial: bool,
) -> Claim | None:
    """The type's claim on this factory; None if it has its share, or other factories are to serve it.

    `trial`: a single machine is wanted, to try the type out.
    """
    size = kind.min_processors * rating
    target, lacks = shares.standing(kind.name, among, max(free, 0) * rating)
    if not entitled(size, target, lacks):
        return None
    machines = 1 if trial else max(1, int(lacks / size + 0.5))
    rank = _rank(now, kind, this, others, machines) if machines <= len(others) else 0
    if rank >= machines:
        return None
    here = -(-(machines - rank) // (len(others) + 1))
    missed = shares.starved(kind.name, target)
    return Claim(
        kind,
        here * kind.min_processors,
        price=CHEAP + (DEAR - CHEAP) * missed,
        urgent=lacks >= max(min(size, target), MUCH * target),
        starved=kind.min_processors > 1 and missed > STARVED,
    )


def entitled(size: float, target: float, lacks: float) -> bool:
    """Whether one more machine of `size` brings the type nearer to its target than it is."""
    return target > 0 and math.isfinite(lacks) and lacks >= min(size, target) / 2


def _rank(now: float, kind: TypeRules, this: str, others: Iterable[str], enough: int) -> int:
    """How many factories come before this one; counted up to `enough`."""
    salt = zlib.crc32(f"{kind.name}/{now // DAY:.0f}".encode())
    own = zlib.crc32(this.encode(), salt)
    before = (name for name in others if zlib.crc32(name.encode(), salt) < own)
    return sum(1 for _ in islice(before, enough))


def plan(now: float, claim: Claim, free: int, ends: Sequence[End], *, filled: bool) -> Plan | None:
    """When one machine of the claiming type can start if nobody is told to end. `filled`: idle time can be filled."""
    price = claim.price / (FILLED if filled else 1.0)
    return cheapest(now, free, claim.kind.min_processors, ends, delay_price=price)


def victims(
    now: float,
    claim: Claim,
    free: int,
    alive: Iterable[Machine],
    kinds: Mapping[str, TypeRules],
    shares: Shares,
    among: Collection[str],
    deaf: Collection[str],
    *,
    rating: float,
    before: float,
) -> list[Machine]:
    """Interruptible machines to tell for this claim: enough to start one machine of it before `before`, or none.

    Those whose type is furthest above its share come first, of a type those that have lost least; machines of types
    that do not listen come last. No type is brought below its target for it, unless the claim is of a starved one.
    """
    candidates, coming = _candidates(now, claim, alive, kinds, before)
    candidates.sort(key=lambda one: (one[1].name in deaf, -shares.score(one[1].name), -one[0].created, one[0].id))
    chosen: list[Machine] = []
    gained = free + coming
    spare: dict[str, float] = {}
    if not claim.urgent or gained >= claim.processors:
        return []
    for machine, kind in candidates:
        amount = machine.processors * rating
        if not claim.starved:
            if kind.name not in spare:
                spare[kind.name] = -shares.standing(kind.name, among, max(free, 0) * rating)[1]
            if spare[kind.name] < amount:
                continue
            spare[kind.name] -= amount
        chosen.append(machine)
        gained += machine.processors
        shares.started(kind.name, -amount)
        if gained >= claim.processors:
            break
    if gained >= claim.kind.min_processors:
        return chosen
    for machine in chosen:
        shares.started(machine.machinetype or "", machine.processors * rating)
    return []


def _candidates(
    now: float, claim: Claim, alive: Iterable[Machine], kinds: Mapping[str, TypeRules], before: float
) -> tuple[list[tuple[Machine, TypeRules]], int]:
    """Machines that may be told, with their types; and the processors that come free soon without that."""
    candidates = []
    coming = 0
    for machine in alive:
        if machine.idle or machine.processors <= 0:
            continue
        kind = kinds.get(machine.machinetype or "")
        if kind is not None and can_be_told(now, machine, kind) and kind.name != claim.kind.name:
            if now + kind.grace_secs < before:
                candidates.append((machine, kind))
        elif machine.told is not None or end_of(now, machine, kind) <= now + claim.kind.grace_secs:
            coming += machine.processors
    return candidates, coming


def can_be_told(now: float, machine: Machine, kind: TypeRules) -> bool:
    """Whether telling the machine to end now would end it sooner than it ends anyhow."""
    return (
        kind.interruptible
        and machine.told is None
        and machine.phase in (Phase.STARTING, Phase.RUNNING)
        and end_of(now, machine, kind) > now + kind.grace_secs
    )


def deaf_types(machines: Iterable[Machine]) -> set[str]:
    """Types of which at least half of the machines that were told to end went on until they were ended."""
    counts: dict[str, list[int]] = {}
    for machine in machines:
        if machine.told is None or machine.finished is None or machine.machinetype is None:
            continue
        heard = machine.shutdown_time is None or machine.finished < machine.shutdown_time
        counts.setdefault(machine.machinetype, [0, 0])[heard] += 1
    return {name for name, (ignored, heard) in counts.items() if ignored >= heard and ignored}
