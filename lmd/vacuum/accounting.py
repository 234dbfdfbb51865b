"""What each type has had over the accounting window: an exponential average, which needs no history to be kept."""

import math
from collections.abc import Mapping


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
