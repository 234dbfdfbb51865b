"""Which type is furthest below its target share (spec 7.6): the one with the lowest score is started next.

A type's score is what runs of it in the space over its share; that of its machinegroup is the sum over its types. What
a type has had over the accounting window moves its target by up to half of it (or by one machine, in a space so small
that its target is less than two), so that a type that was without work for a while gets more than its share afterwards,
but never takes the space over.
"""

import math
import zlib
from collections.abc import Iterable, Mapping

from lmd.vacuum.facts import TypeRules

MOST_CREDIT = 0.5
"""How much of a type's target its past may add or take."""


def usable_share(share: float) -> bool:
    """Whether a target share can be met at all."""
    return math.isfinite(share) and share > 0


class Shares:
    """The scores during one pass: `started` moves them on.

    Amounts are HS06 or processors, as long as all are; `rating` is that of one processor of this factory.
    """

    def __init__(
        self,
        kinds: Iterable[TypeRules],
        running: Mapping[str, float],
        averages: Mapping[str, float],
        *,
        rating: float,
        seed: int,
    ) -> None:
        able = [kind for kind in kinds if usable_share(kind.target_share)]
        largest = max((kind.target_share for kind in able), default=1.0)
        self._shares = {kind.name: max(kind.target_share / largest, 1e-12) for kind in able}
        self._groups = {kind.name: kind.machinegroup or f"\0{kind.name}" for kind in able}
        self._smallest = {kind.name: kind.min_processors * rating for kind in able}
        self._running = {name: running.get(name, 0.0) for name in self._shares}
        self._credits = self._credited(averages)
        self._averages = averages
        self._group_scores = dict.fromkeys(self._groups.values(), 0.0)
        for name, group in self._groups.items():
            self._group_scores[group] += self.score(name)
        salt = zlib.crc32(str(seed).encode())
        self._ties = {name: zlib.crc32(name.encode(), salt) for name in self._shares}

    def score(self, name: str) -> float:
        """What runs of the type, less its credit, over its share (relative to the largest share)."""
        return (self._running[name] - self._credits.get(name, 0.0)) / self._shares[name]

    def key(self, name: str) -> tuple[float, float, int]:
        """By which types are ordered: group's score, own score, chance."""
        return self._group_scores[self._groups[name]], self.score(name), self._ties[name]

    def started(self, name: str, amount: float) -> None:
        """Count what this pass starts; a negative amount is what it ends."""
        self._running[name] += amount
        self._group_scores[self._groups[name]] += amount / self._shares[name]

    def standing(self, name: str, among: Iterable[str], room: float) -> tuple[float, float]:
        """The type's target, and how much it lacks to it, when all that runs, and `room`, is shared out.

        It is shared among the types `among` and those that run; credit counts as part of what is lacking.
        """
        names = {name, *among, *(one for one, amount in self._running.items() if amount > 0)}
        sizes: dict[str, int] = {}
        for one in names:
            sizes[self._groups[one]] = sizes.get(self._groups[one], 0) + 1
        weights = {one: self._shares[one] / sizes[self._groups[one]] for one in names}
        target = (sum(self._running.values()) + room) * weights[name] / sum(weights.values())
        return target, target + self._credits.get(name, 0.0) - self._running[name]

    def starved(self, name: str, target: float) -> float:
        """How much of its target the type has missed over the accounting window: 0 none, 1 all of it (or unknown)."""
        if not self._averages or target <= 0:
            return 1.0
        return min(max(1.0 - self._averages.get(name, 0.0) / target, 0.0), 1.0)

    def _credited(self, averages: Mapping[str, float]) -> dict[str, float]:
        """Target less average, within bounds. No credit where nothing is known of the past."""
        total = sum(averages.get(name, 0.0) for name in self._shares)
        if not total > 0 or not math.isfinite(total):
            return {}
        weight = sum(self._shares.values())
        credits = {}
        for name, share in self._shares.items():
            target = total * share / weight
            most = max(MOST_CREDIT * target, min(self._smallest[name], total))
            credits[name] = min(max(target - averages.get(name, 0.0), -most), most)
        return credits
