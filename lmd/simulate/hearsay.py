"""What simulated factories know of each other: each one's last report, as old as reports are."""

from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from lmd.vacuum.accounting import advance
from lmd.vacuum.space import Space, TypeInSpace

Abort = tuple[float, str, str]
T = TypeVar("T", float, Abort)


@dataclass(slots=True)
class Told:
    """What one factory has last told of one type."""

    processors: float = 0.0
    hs06: float = 0.0
    machines: int = 0
    young: int = 0
    abort: Abort | None = None
    proven: float | None = None


SILENCE = Told()
"""What a factory has told of a type that it never had."""


@dataclass(slots=True)
class _Sum:
    """One type in all reports."""

    processors: float = 0.0
    hs06: float = 0.0
    machines: int = 0
    young: int = 0
    aborts: list[Abort] = field(default_factory=list)
    proofs: list[float] = field(default_factory=list)


class Hearsay:
    """All reports, summed up as they come in, so that what one factory is told costs no look at each of the others."""

    def __init__(self, window: float, *, by_hs06: bool) -> None:
        self._window, self._by_hs06 = window, by_hs06
        self._told: dict[str, dict[str, Told]] = {}
        self._sums: dict[str, _Sum] = {}
        self._free: dict[str, float | None] = {}
        self._averages: dict[str, float] = {}
        self._advanced: float | None = None

    def report(self, now: float, factory: str, told: Mapping[str, Told] | None, free: float) -> None:
        """Take a factory's report; None: it is gone."""
        self._advance(now)
        for name, old in self._told.pop(factory, {}).items():
            self._count(factory, name, old, -1)
        if told is None:
            self._free.pop(factory, None)
            return
        self._free[factory] = free
        self._told[factory] = dict(told)
        for name, new in told.items():
            self._count(factory, name, new, 1)

    def _advance(self, now: float) -> None:
        if self._advanced is not None and now > self._advanced:
            running = {name: one.hs06 if self._by_hs06 else one.processors for name, one in self._sums.items()}
            self._averages = advance(self._averages, running, now - self._advanced, self._window)
        self._advanced = now

    def _count(self, factory: str, name: str, told: Told, sign: int) -> None:
        one = self._sums.setdefault(name, _Sum())
        one.processors += sign * told.processors
        one.hs06 += sign * told.hs06
        one.machines += sign * told.machines
        one.young += sign * told.young
        if told.abort is not None:
            _keep(one.aborts, told.abort, sign)
        if told.proven is not None:
            _keep(one.proofs, told.proven, sign)

    def known_to(self, factory: str) -> Space:
        """The space as this factory knows it: all reports but its own."""
        own = self._told.get(factory, {})
        types = {name: _without(one, own.get(name, SILENCE)) for name, one in self._sums.items()}
        others = self._free.copy()
        others.pop(factory, None)
        return Space(types=types, factories=others, averages=self._averages)


def _keep(known: list[T], value: T, sign: int) -> None:
    """Add a value to those that are known, or take it out; they stay in their order."""
    if sign > 0:
        insort(known, value)
    else:
        del known[bisect_left(known, value)]


def _newest_first(known: list[T], own: T | None) -> tuple[T, ...]:
    others = known[::-1]
    if own is not None:
        del others[len(known) - 1 - bisect_left(known, own)]
    return tuple(others)


def _without(one: _Sum, own: Told) -> TypeInSpace:
    return TypeInSpace(
        running_hs06=max(one.hs06 - own.hs06, 0.0),
        running_processors=max(one.processors - own.processors, 0.0),
        running_machines=one.machines - own.machines,
        num_before_fizzle=one.young - own.young,
        aborts=_newest_first(one.aborts, own.abort),
        proofs=_newest_first(one.proofs, own.proven),
    )
