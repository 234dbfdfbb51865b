"""What the other factories of the space report, summed up for the decision.

A report is used as long as it is not stale. Times in it are read against the clock of its sender, so that a factory
whose clock is wrong does no harm.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

STALE_SECONDS = 3600.0
"""A report that is older says nothing about what runs; Vac's own limit for a heartbeat (spec 1.7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeReport:
    """What one factory says about one machinetype (VacQuery machinetype_status; times by the sender's clock).

    `last_abort`: newest end of a machine with a code of 300 or above, or early and without a word; `proven`: newest
    start of a machine that is known to work (it passed fizzle_seconds, or did its work); None: not reported.
    """

    machinetype: str
    running_hs06: float = 0.0
    running_processors: float = 0.0
    running_machines: int = 0
    num_before_fizzle: int = 0
    last_abort: float | None = None
    abort_message: str = ""
    proven: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one factory says: `sent` by its own clock, `received` by ours. `free_processors` None: not reported."""

    factory: str
    sent: float
    received: float
    free_processors: float | None = None
    types: tuple[TypeReport, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeInSpace:
    """One machinetype on all other factories together; times by our clock.

    `aborts`: the newest one of each factory that reported any, newest first, with the factory's name and the message;
    `proofs`: for each factory that reported one, the newest start of a machine known to work, newest first.
    """

    running_hs06: float = 0.0
    running_processors: float = 0.0
    running_machines: int = 0
    num_before_fizzle: int = 0
    aborts: tuple[tuple[float, str, str], ...] = ()
    proofs: tuple[float, ...] = ()


NOTHING = TypeInSpace()
"""A type that no other factory has reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The other factories. `factories`: those heard of lately, with their free processors (None: not reported).

    `averages`: what each type has had over the accounting window in the whole space, this factory included, in the
    unit of the shares (HS06 or processors); made by `accounting`. A type that it lacks has no history.
    """

    types: Mapping[str, TypeInSpace] = field(default_factory=dict)
    factories: Mapping[str, float | None] = field(default_factory=dict)
    averages: Mapping[str, float] = field(default_factory=dict)


def summarise(
    now: float, reports: Iterable[Report], *, this: str, averages: Mapping[str, float] | None = None
) -> Space:
    """The newest report of each factory but `this`, stale ones left out, summed up by machinetype."""
    newest: dict[str, Report] = {}
    for report in reports:
        if report.factory != this and abs(now - report.received) <= STALE_SECONDS:
            known = newest.get(report.factory)
            if known is None or known.received <= report.received:
                newest[report.factory] = report
    told: dict[str, list[tuple[TypeReport, Report]]] = {}
    for report in newest.values():
        for name, one in {one.machinetype: one for one in report.types}.items():
            told.setdefault(name, []).append((one, report))
    return Space(
        types={name: _together(reported) for name, reported in told.items()},
        factories={name: report.free_processors for name, report in newest.items()},
        averages=averages or {},
    )


def _together(told: list[tuple[TypeReport, Report]]) -> TypeInSpace:
    aborts = [(at, report.factory, one.abort_message) for one, report in told if (at := _ours(one.last_abort, report))]
    proofs = [at for one, report in told if (at := _ours(one.proven, report))]
    return TypeInSpace(
        running_hs06=sum(_amount(one.running_hs06) for one, _ in told),
        running_processors=sum(_amount(one.running_processors) for one, _ in told),
        running_machines=sum(int(_amount(one.running_machines)) for one, _ in told),
        num_before_fizzle=sum(int(_amount(one.num_before_fizzle)) for one, _ in told),
        aborts=tuple(sorted(aborts, reverse=True)),
        proofs=tuple(sorted(proofs, reverse=True)),
    )


def _ours(time: float | None, report: Report) -> float | None:
    """The sender's time by our clock; what it puts later than its own report is as old as the report."""
    if time is None or not math.isfinite(time) or not math.isfinite(report.sent):
        return None
    return report.received - max(0.0, report.sent - time)


def _amount(value: float) -> float:
    """A reported number if it can be one: not negative, and no more than any space has."""
    return min(float(value), 1e9) if value > 0 else 0.0
