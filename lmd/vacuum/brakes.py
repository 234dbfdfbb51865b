"""What keeps a factory from starting anything (spec 7.5), and what keeps one type off it for good."""

import math

from lmd.vacuum.backoff import Hold
from lmd.vacuum.decision import Code, many
from lmd.vacuum.facts import Factory, Rules, TypeRules
from lmd.vacuum.held import Held
from lmd.vacuum.shares import usable_share

FEW_PROCESSORS = 4
"""So many processors may be busy before the load is compared with theirs (spec 7.5 a)."""


def of_factory(now: float, factory: Factory, held: Held, rules: Rules) -> Hold | None:
    """Why the factory starts nothing now, if so."""
    if factory.draining is not None:
        return Hold(Code.DRAINING, f"the factory is draining{': ' if factory.draining else ''}{factory.draining}", None)
    if factory.shutdown_time is not None and not now < factory.shutdown_time:
        return Hold(Code.SHUTDOWN, "the factory's shutdown_time has passed", None)
    return _overload(factory, held, rules)


def _overload(factory: Factory, held: Held, rules: Rules) -> Hold | None:
    """Idle machines make load that slows nobody down, so theirs is taken off first."""
    if factory.load is None or not math.isfinite(factory.load):
        return None
    load, busy = factory.load - held.idle_processors, held.processors
    most = rules.overload_per_processor
    if busy > FEW_PROCESSORS and load > most * busy:
        return Hold(
            Code.OVERLOAD, f"load {load:.1f} is above {most:g} for each of {many(busy, 'processor')} in use", None
        )
    if factory.cpus is not None and load > most * factory.cpus:
        return Hold(
            Code.OVERLOAD, f"load {load:.1f} is above {most:g} for each of {many(factory.cpus, 'processor')}", None
        )
    return None


def of_type(now: float, kind: TypeRules, factory: Factory) -> Hold | None:
    """Why the type cannot be started on this factory whatever else runs, if so."""
    if not usable_share(kind.target_share):
        return Hold(Code.NO_SHARE, f"its target_share is {kind.target_share:g}", None)
    if wrong := _contradiction(kind):
        return Hold(Code.MISCONFIGURED, wrong, None)
    if kind.name in factory.unusable:
        return Hold(Code.UNUSABLE, factory.unusable[kind.name], None)
    room = factory.total_processors
    if kind.min_processors > room:
        return Hold(Code.TOO_LARGE, f"it needs {many(kind.min_processors, 'processor')}, the factory has {room}", None)
    needs = kind.min_processors * kind.memory_bytes_per_processor
    if factory.memory_bytes is not None and needs > factory.memory_bytes:
        return Hold(
            Code.TOO_LARGE,
            f"it needs {needs / 2**30:.1f} GiB, the factory has {factory.memory_bytes / 2**30:.1f}",
            None,
        )
    if factory.shutdown_time is not None and now + kind.min_wallclock_seconds > factory.shutdown_time:
        return Hold(Code.SHUTDOWN, "the factory shuts down before its min_wallclock_seconds are over", None)
    return None


def _contradiction(kind: TypeRules) -> str:
    if not 1 <= kind.min_processors <= kind.max_processors:
        return f"min_processors {kind.min_processors} and max_processors {kind.max_processors} contradict each other"
    low, high = kind.min_wallclock_seconds, kind.max_wallclock_seconds
    if not (0 <= low <= high and 1 <= high < 1e12):
        return f"min_wallclock_seconds {low:g} and max_wallclock_seconds {high:g} contradict each other"
    times = (kind.backoff_seconds, kind.fizzle_seconds, kind.grace_secs)
    if not all(0 <= seconds < 1e12 for seconds in times):
        return "backoff_seconds, fizzle_seconds or grace_secs make no sense"
    return ""
