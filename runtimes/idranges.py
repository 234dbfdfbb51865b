"""Rules about ranges of user ids: where machines may be given theirs, and which is free. Pure functions.

One machine gets 65,536 ids, enough for any image's users (nobody is 65534). The default pool is the part of the 32-bit
id space that systemd's list of reserved ranges (systemd.io/UIDS-GIDS) leaves unused: 1,879,048,192 to 2,147,483,647,
which is room for 4,096 machines. The same numbers serve for groups.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from runtimes.contract import Exhausted

MACHINE_IDS = 65_536
DEFAULT_FIRST = 1_879_048_192
DEFAULT_COUNT = 268_435_456
HIGHEST = 2**32 - 2


@dataclass(frozen=True, slots=True)
class IdRange:
    """`count` ids from `first` on, as the host sees them."""

    first: int
    count: int

    def overlaps(self, other: "IdRange") -> bool:
        """True if an id is in both."""
        return self.first < other.first + other.count and other.first < self.first + self.count


def pool(first: int = DEFAULT_FIRST, count: int = DEFAULT_COUNT) -> IdRange:
    """The checked pool. Raises `ValueError` if it holds id 0, reaches past 2^32 - 2 or has no room for one machine."""
    if first < MACHINE_IDS or count < MACHINE_IDS or first + count - 1 > HIGHEST:
        raise ValueError(
            f"user id pool {first}+{count}: needs first >= {MACHINE_IDS}, count >= {MACHINE_IDS}, last <= {HIGHEST}"
        )
    return IdRange(first, count)


def parse_subordinate(text: str) -> dict[str, list[IdRange]]:
    """`name:first:count` lines of /etc/subuid or /etc/subgid by name; other lines are passed over."""
    ranges: dict[str, list[IdRange]] = {}
    for line in text.splitlines():
        parts = line.strip().split(":")
        if len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal():
            ranges.setdefault(parts[0], []).append(IdRange(int(parts[1]), int(parts[2])))
    return ranges


def free_range(available: IdRange, taken: Iterable[int], reserved: Iterable[IdRange] = ()) -> IdRange:
    """The lowest machine's range of the pool that no machine has (`taken`: their first ids) and nobody else reserved.

    Raises `Exhausted` when all are taken, saying how many fit.
    """
    in_use = set(taken)
    others = [r for r in reserved if r.overlaps(available)]
    fitting = available.count // MACHINE_IDS
    for number in range(fitting):
        candidate = IdRange(available.first + number * MACHINE_IDS, MACHINE_IDS)
        if candidate.first not in in_use and not any(candidate.overlaps(r) for r in others):
            return candidate
    raise Exhausted(
        f"no free range of {MACHINE_IDS} user ids: the pool {available.first}+{available.count} has room for {fitting};"
        " enlarge it with uid_count in the runtime's table of the configuration"
    )
