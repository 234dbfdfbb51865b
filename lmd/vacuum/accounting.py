"""What each type has had over the accounting window: an exponential average, which needs no history to be kept."""

import math
from collections.abc import Iterable, Mapping

from lmd.vacuum.facts import Machine


def advance(
    averages: Mapping[str, float], running: Mapping[str, float], seconds: float, window: float
) -> dict[str, float]:
    """The averages after `seconds` in which `running` ran (HS06 or processors), over a window of `window` seconds.

    With no window there are no averages. A clock that has gone back, or a hole in the history, changes nothing.
    """
    if not window > 0:
        return {}
    part = -math.expm1(-seconds / window) if 0 < seconds < math.inf else 0.0
    made = {}
    for name in {*averages, *running}:
        before = averages.get(name, 0.0)
        value = before + (running.get(name, 0.0) - before) * part
        made[name] = value if math.isfinite(value) and value > 1e-9 else 0.0
    return made


def of_machines(
    now: float, machines: Mapping[str, Iterable[Machine]], window: float, rating: float = 1.0
) -> dict[str, float]:
    """The same averages from the machines themselves, by type: what a factory without a space knows after a restart.

    `machines` are those that are alive and those that ended within the window; `rating` of one processor.
    """
    if not window > 0:
        return {}
    return {name: rating * sum(_weighed(now, machine, window) for machine in known) for name, known in machines.items()}


def _weighed(now: float, machine: Machine, window: float) -> float:
    begun = machine.started if machine.started is not None else machine.created
    end = machine.finished if machine.finished is not None else now
    old, new = (now - begun) / window, max((now - end) / window, 0.0)
    if machine.processors <= 0 or not new < old:
        return 0.0
    return machine.processors * (math.exp(-new) - math.exp(-old))
