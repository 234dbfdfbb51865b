"""What a simulation has shown, as numbers: one frozen record, printed, written as JSON, and compared."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lmd.simulate.tally import DAY, Tally
from lmd.vacuum.facts import Rules, TypeRules
from lmd.vacuum.shares import usable_share


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeFigures:
    """One machinetype. `use` and `useful` are parts of all processor time; `share` and `target` of what was delivered.

    `waits`: part of the factories' time in which no more of it could be started, by reason; `first_hours`: until its
    first machine ran, None: never.
    """

    machinetype: str
    use: float
    useful: float
    share: float
    target: float
    starts: int
    wasted_starts: int
    told: int
    first_hours: float | None
    waits: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One simulation. `waste`: parts of all processor time, by what it was lost to; `shares[day][type]`.

    `share_error`: mean over days of half the sum of the types' distances from their targets, 0 to 1.
    `wasted_per_1000`: starts that found no work or failed, for each 1,000 processor-hours offered.
    `harvested`: what idle machines used of what the others left, as a part of all processor time.
    """

    name: str
    days: float
    processors: float
    use: float
    useful: float
    share_error: float
    wasted_per_1000: float
    harvested: float
    over_budget: int
    decisions: int
    types: tuple[TypeFigures, ...]
    shares: tuple[Mapping[str, float], ...]
    waste: Mapping[str, float]

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def figures(name: str, kinds: Mapping[str, TypeRules], rules: Rules, days: float, tally: Tally) -> Figures:
    """The numbers of one run."""
    offered = sum(tally.offered.values()) or 1.0
    usual = [kind for kind in kinds.values() if not kind.idle]
    targets = _targets(usual)
    delivered = tally.hs06 if rules.share_by_hs06 else tally.work
    by_day = tuple(_parts({k.name: delivered[day].get(k.name, 0.0) for k in usual}) for day in sorted(delivered))
    totals = _parts({k.name: sum(day.get(k.name, 0.0) for day in delivered.values()) for k in usual})
    idle = {kind.name for kind in kinds.values() if kind.idle}
    waste = {f"free: {why}": amount / offered for why, amount in tally.free.items()}
    for why, amounts in (
        ("starting machines", tally.booting),
        ("machines without work, or that failed", tally.fizzled),
        ("work that was cut off", tally.lost),
    ):
        waste[why] = sum(amount for one, amount in amounts.items() if one not in idle) / offered
    return Figures(
        name=name,
        days=days,
        processors=offered / (days * DAY),
        use=sum(one for day in tally.work.values() for t, one in day.items() if t not in idle) / offered,
        useful=sum(one for t, one in tally.useful.items() if t not in idle) / offered,
        share_error=_share_error(by_day, targets),
        wasted_per_1000=sum(tally.wasted.values()) / (offered / 3600 / 1000),
        harvested=tally.harvested / offered,
        over_budget=tally.worst,
        decisions=tally.decisions,
        types=tuple(_type(kind, tally, offered, totals, targets) for kind in kinds.values()),
        shares=by_day,
        waste={why: part for why, part in sorted(waste.items(), key=lambda one: -one[1]) if part > 0},
    )


def _type(
    kind: TypeRules, tally: Tally, offered: float, totals: Mapping[str, float], targets: Mapping[str, float]
) -> TypeFigures:
    waits = tally.waits.get(kind.name, {})
    watched = sum(waits.values()) or 1.0
    first = tally.first.get(kind.name)
    return TypeFigures(
        machinetype=kind.name,
        use=sum(day.get(kind.name, 0.0) for day in tally.work.values()) / offered,
        useful=tally.useful.get(kind.name, 0.0) / offered,
        share=totals.get(kind.name, 0.0),
        target=targets.get(kind.name, 0.0),
        starts=tally.starts.get(kind.name, 0),
        wasted_starts=tally.wasted.get(kind.name, 0),
        told=tally.told.get(kind.name, 0),
        first_hours=first / 3600 if first is not None else None,
        waits={why: seconds / watched for why, seconds in sorted(waits.items(), key=lambda one: -one[1])},
    )


def _targets(kinds: list[TypeRules]) -> dict[str, float]:
    """The part of the space that each type is to have; types of one machinegroup share one type's."""
    able = [kind for kind in kinds if usable_share(kind.target_share)]
    largest = max((kind.target_share for kind in able), default=1.0)
    sizes: dict[str, int] = {}
    for kind in able:
        sizes[kind.machinegroup or f"\0{kind.name}"] = sizes.get(kind.machinegroup or f"\0{kind.name}", 0) + 1
    weights = {k.name: k.target_share / largest / sizes[k.machinegroup or f"\0{k.name}"] for k in able}
    return _parts(weights)


def _parts(amounts: Mapping[str, float]) -> dict[str, float]:
    total = sum(amounts.values())
    return {name: amount / total if total > 0 else 0.0 for name, amount in amounts.items()}


def _share_error(by_day: tuple[Mapping[str, float], ...], targets: Mapping[str, float]) -> float:
    errors = [
        sum(abs(day.get(name, 0.0) - targets[name]) for name in targets) / 2 for day in by_day if any(day.values())
    ]
    return sum(errors) / len(errors) if errors else 0.0
