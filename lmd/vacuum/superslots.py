"""Superslots: processors that are made to come free together, by giving machines the same end (spec 7.7).

Vac keeps what is free in a superslot for machines that live until its end, and so leaves it idle if there are none.
Here a superslot only offers its end to machines that can do with it; nothing is kept for it. Processors are kept only
for a type that needs several, that has less than its share, and only in the cheapest way (`claims`, `timeline`).
"""

from collections.abc import Iterable

from lmd.vacuum.facts import TypeRules
from lmd.vacuum.timeline import End

TOGETHER = 60.0
"""Ends that are so many seconds apart count as one: they come from clocks that are read again and again."""


class Superslots:
    """The ends that machines have now, and how many processors have each."""

    def __init__(self, ends: Iterable[End], size: int) -> None:
        self._size = size
        self._held: dict[int, tuple[float, int]] = {}
        for end, processors in ends:
            self.add(end, processors)

    def add(self, end: float, processors: int) -> None:
        """Count a machine."""
        if abs(end) < 1e15:
            place = round(end / TOGETHER)
            known, held = self._held.get(place, (end, 0))
            self._held[place] = known, held + processors

    def joined(self, now: float, kind: TypeRules, shortest: float, free: int) -> tuple[float, int] | None:
        """The end of an incomplete superslot that the type can share, and how many processors it lacks.

        Of several the most complete one, then the one that lasts longest.
        """
        best: tuple[int, float] | None = None
        for end, held in self._held.values():
            lacks = -held % self._size
            if (
                lacks
                and shortest <= end - now <= kind.max_wallclock_seconds
                and min(lacks, free) >= kind.min_processors
            ):
                best = min(best or (lacks, -end), (lacks, -end))
        return (-best[1], best[0]) if best else None
