"""What came of a simulated space: processor-seconds by day and by what they were spent on."""

from collections import defaultdict
from dataclasses import dataclass, field

DAY = 86400.0


@dataclass(slots=True)
class Tally:
    """Sums over one run. Times in seconds from the beginning, amounts in processor-seconds unless said otherwise.

    `work[day][type]`: held by machines; `free[reason]`: free, by why; `offered[day]`: all processors that were there.
    `useful`, `fizzled`, `lost`, `booting` by type; `starts`, `wasted` (ended without work) count machines;
    `waits[type][reason]`: factory-seconds in which a type was refused for that reason; `first[type]`, `first[type/N]`:
    when it first ran anywhere (with N processors); `worked[type]`: when its first machine began that did any work;
    `harvested`: what idle machines used of what was left; `worst`: most processors above a budget.
    """

    work: dict[int, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    hs06: dict[int, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    offered: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    free: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    useful: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    fizzled: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    lost: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    booting: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    starts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    wasted: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    told: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    waits: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    first: dict[str, float] = field(default_factory=dict)
    worked: dict[str, float] = field(default_factory=dict)
    harvested: float = 0.0
    worst: int = 0
    decisions: int = 0

    def spend(self, begin: float, end: float, into: dict[int, dict[str, float]], name: str, amount: float) -> None:
        """Add `amount` for each second from `begin` to `end` to the days that it spans."""
        while begin < end:
            day = int(begin // DAY)
            until = min(end, (day + 1) * DAY)
            into[day][name] += amount * (until - begin)
            begin = until

    def offer(self, begin: float, end: float, processors: int) -> None:
        """Count processors that were there from `begin` to `end`."""
        while begin < end:
            day = int(begin // DAY)
            until = min(end, (day + 1) * DAY)
            self.offered[day] += processors * (until - begin)
            begin = until
