"""What one caller may take of the server, so that the others never notice it."""

from dataclasses import dataclass, field

MOST_CONNECTIONS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Times in seconds.

    Beyond `connections` a caller's new ones are closed; beyond `per_second` requests, after a `burst`, its requests
    wait. Bodies may pause for `stall`, as the output of a slow command does that is sent as it comes, and must on
    average keep up with `least_bytes` a second.
    """

    connections: int = 48
    all_connections: int = MOST_CONNECTIONS
    per_second: float = 100.0
    burst: float = 400.0
    uploads: int = 4
    idle: float = 15.0
    stall: float = 300.0
    least_bytes: float = 4096.0


@dataclass(slots=True)
class Bucket:
    """Room for `burst` requests, refilled at `per_second`."""

    per_second: float
    burst: float
    _level: float = field(init=False)
    _at: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._level = self.burst

    def wait(self, now: float) -> float:
        """Take one; returns how many seconds the taker has to wait for its turn."""
        self._level = min(self.burst, self._level + (now - self._at) * self.per_second) - 1
        self._at = now
        return max(0.0, -self._level / self.per_second)


@dataclass(slots=True)
class Caller:
    """What one address has in use."""

    bucket: Bucket
    connections: int = 0
    uploads: int = 0
    seen: float = 0.0
