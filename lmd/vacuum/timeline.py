"""When processors come free: the known ends of machines, and the cheapest time at which several are free together."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lmd.vacuum.facts import Machine, Phase, TypeRules

SOON = 60.0
"""What is overdue, or being ended now, is taken to be gone after this many seconds."""

End = tuple[float, int]
"""Unix seconds, and the processors that come free then."""


def end_of(now: float, machine: Machine, kind: TypeRules | None) -> float:
    """When the machine is gone at the latest, infinity where nobody knows; never before a moment from now."""
    end = machine.shutdown_time
    if end is None or not math.isfinite(end):
        end = machine.created + kind.max_wallclock_seconds if kind is not None else math.inf
    if machine.phase is Phase.STOPPING:
        end = min(end, now + SOON)
    return max(end, now + SOON)


def ends_of(now: float, machines: Iterable[Machine], kinds: Mapping[str, TypeRules]) -> list[End]:
    """The ends of all machines that hold processors of the budget, in their order."""
    ends = []
    for machine in machines:
        if machine.processors > 0 and not machine.idle:
            end = machine.shutdown_time
            if end is None or not now + SOON < end < math.inf or machine.phase is Phase.STOPPING:
                end = end_of(now, machine, kinds.get(machine.machinetype or ""))
            ends.append((end, machine.processors))
    ends.sort()
    return ends


def typical_lives(ended: Mapping[str, Iterable[Machine]], kinds: Mapping[str, TypeRules]) -> dict[str, float]:
    """Mean seconds that ended machines of a type lived, those aside that found no work or were told to end.

    A machine's shutdown time says only how long it may live; most end before.
    """
    lives = {}
    for name, machines in ended.items():
        least = kinds[name].fizzle_seconds
        known = [
            machine.finished - machine.created
            for machine in machines
            if machine.finished is not None and machine.told is None and machine.finished - machine.created >= least
        ]
        if known and math.isfinite(total := sum(known)):
            lives[name] = total / len(known)
    return lives


def likely_ends(
    now: float,
    machines: Iterable[Machine],
    kinds: Mapping[str, TypeRules],
    lives: Mapping[str, float],
    moved: Mapping[str, float],
) -> list[End]:
    """When machines are likely to be gone, by how long those of their type lived; `moved`: ends by machine id.

    Those that have outlived others of their type are expected one after the other, over half of such a life: taken to
    end all at one time they would always seem to be about to come free together.
    """
    ends = []
    outlived: dict[str, list[Machine]] = {}
    for machine in machines:
        if machine.processors <= 0 or machine.idle:
            continue
        name = machine.machinetype or ""
        life = lives.get(name)
        end = moved.get(machine.id, end_of(now, machine, kinds.get(name)))
        if life is not None and machine.created + life <= now:
            outlived.setdefault(name, []).append(machine)
        else:
            ends.append((end if life is None else min(end, machine.created + life), machine.processors))
    for name, group in outlived.items():
        step = lives[name] / 2 / len(group)
        for number, machine in enumerate(sorted(group, key=lambda one: one.created), 1):
            end = moved.get(machine.id, end_of(now, machine, kinds.get(name)))
            ends.append((min(end, now + max(number * step, SOON)), machine.processors))
    ends.sort()
    return ends


def free_at(free: int, needs: int, ends: Sequence[End]) -> float | None:
    """When `needs` processors are free if nothing is started; None: cannot be known."""
    for end, processors in ends:
        free += processors
        if free >= needs:
            return end if math.isfinite(end) else None
    return None


@dataclass(frozen=True, slots=True)
class Plan:
    """At `at`, the processors that are wanted are free together; `held` of those that are free now wait for it."""

    at: float
    held: int


def cheapest(now: float, free: int, needs: int, ends: Sequence[End], *, delay_price: float) -> Plan | None:
    """The plan that costs least: processor-seconds idle while others are awaited, and the wait itself.

    A second of waiting for all `needs` processors costs `delay_price` of what they do in it. None: it cannot be known
    when so many are free together.
    """
    slots = [(now, max(free, 0)), *ends]
    best: Plan | None = None
    least = math.inf
    first, inside, idle = 0, 0, 0.0
    previous = now
    for end, processors in slots:
        if not math.isfinite(end):
            break
        idle += inside * (end - previous)
        previous = end
        inside += processors
        while first < len(slots) and inside - slots[first][1] >= needs:
            inside -= slots[first][1]
            idle -= slots[first][1] * (end - slots[first][0])
            first += 1
        if inside < needs:
            continue
        surplus = inside - needs
        cost = idle - surplus * (end - slots[first][0]) + delay_price * needs * (end - now)
        if cost < least:
            held = slots[0][1] - surplus if first == 0 else 0
            best, least = Plan(end, max(held, 0)), cost
    return best
