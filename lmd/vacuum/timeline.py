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
    return sorted(
        (end_of(now, machine, kinds.get(machine.machinetype or "")), machine.processors)
        for machine in machines
        if machine.processors > 0 and not machine.idle
    )


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
