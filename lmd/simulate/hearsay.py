"""What simulated factories know of each other: each one's last report, as old as reports are."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lmd.vacuum.accounting import advance
from lmd.vacuum.space import Space, TypeInSpace

Abort = tuple[float, str, str]


@dataclass(slots=True)
class Told:
    """What one factory has last told of one type."""

    processors: float = 0.0
    hs06: float = 0.0
    machines: int = 0
    young: int = 0
    abort: Abort | None = None
    proven: float | None = None


@dataclass(slots=True)
class _Sum:
    """One type in all reports."""

    processors: float = 0.0
    hs06: float = 0.0
    machines: int = 0
    young: int = 0
    aborts: dict[str, Abort] = field(default_factory=dict)
    proofs: dict[str, float] = field(default_factory=dict)
    sorted_aborts: tuple[Abort, ...] | None = None
    sorted_proofs: tuple[float, ...] | None = None


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
            one.sorted_aborts = None
            if sign > 0:
                one.aborts[factory] = told.abort
            else:
                one.aborts.pop(factory, None)
        if told.proven is not None:
            one.sorted_proofs = None
            if sign > 0:
                one.proofs[factory] = told.proven
            else:
                one.proofs.pop(factory, None)

    def known_to(self, factory: str) -> Space:
        """The space as this factory knows it: all reports but its own."""
        own = self._told.get(factory, {})
        types = {name: self._without(factory, one, own.get(name)) for name, one in self._sums.items()}
        others = {name: free for name, free in self._free.items() if name != factory}
        return Space(types=types, factories=others, averages=self._averages)

    def _without(self, factory: str, one: _Sum, own: Told | None) -> TypeInSpace:
        if one.sorted_aborts is None:
            one.sorted_aborts = tuple(sorted(one.aborts.values(), reverse=True))
        if one.sorted_proofs is None:
            one.sorted_proofs = tuple(sorted(one.proofs.values(), reverse=True))
        aborts, proofs = one.sorted_aborts, one.sorted_proofs
        if own is None:
            own = Told()
        if own.abort is not None:
            mine = aborts.index(own.abort)
            aborts = aborts[:mine] + aborts[mine + 1 :]
        if own.proven is not None:
            mine = proofs.index(own.proven)
            proofs = proofs[:mine] + proofs[mine + 1 :]
        return TypeInSpace(
            running_hs06=max(one.hs06 - own.hs06, 0.0),
            running_processors=max(one.processors - own.processors, 0.0),
            running_machines=one.machines - own.machines,
            num_before_fizzle=one.young - own.young,
            aborts=aborts,
            proofs=proofs,
        )
