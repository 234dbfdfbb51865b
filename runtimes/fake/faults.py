"""What can go wrong with the fake engine, as plain data that a test sets and changes while machines run."""

import json
from dataclasses import asdict, dataclass
from typing import Any

EXCHANGES = (
    "probe.ask",
    "ensure.ask",
    "images.list",
    "images.remove",
    "create.insert",
    "create.before_start",
    "create.start",
    "create.undo",
    "create.show",
    "machines.list",
    "stop.ask",
    "stop.wait",
    "stop.force",
    "destroy.remove",
    "usage.read",
    "watch.read",
    "console.read",
    "execute.run",
)
"""Every await of the fake runtime, `operation.step`: before and after each of them it can be struck."""

CRASH_POINTS = tuple(f"{exchange}:{side}" for exchange in EXCHANGES for side in ("before", "after"))
"""Where `Faults.crash_at` can strike; `after` means the engine has done it and the runtime does not know."""


class Crash(BaseException):
    """The process would have died here. Not an `Exception`, so that no handler goes on as if nothing was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Faults in force. Sets hold exchanges (`create.start`) or whole operations (`create`).

    `reject` and `exhaust` are the texts of the error that each create then raises; `slots` is how many machines fit.
    `hang` lasts until it is lifted; `late_seconds` come before every answer. `partial` cuts the listing in half and
    lets the engine say so. `lose_events` and `repeat_events` are for `watch`, `end_events` ends it silently.
    `crash_at` is one of `CRASH_POINTS`; the process exits with 137 if `crash_exits`, else `Crash` is raised.
    """

    reject: str | None = None
    exhaust: str | None = None
    slots: int | None = None
    unavailable: frozenset[str] = frozenset()
    lose_reply: frozenset[str] = frozenset()
    hang: frozenset[str] = frozenset()
    late_seconds: float = 0.0
    partial: bool = False
    lose_events: bool = False
    repeat_events: bool = False
    end_events: bool = False
    crash_at: str | None = None
    crash_exits: bool = False

    def __post_init__(self) -> None:
        if self.crash_at is not None and self.crash_at not in CRASH_POINTS:
            raise ValueError(f"no crash point {self.crash_at!r}; see CRASH_POINTS")
        known = {*EXCHANGES, *(exchange.partition(".")[0] for exchange in EXCHANGES)}
        unknown = (self.unavailable | self.lose_reply | self.hang) - known
        if unknown:
            raise ValueError(f"no exchange {', '.join(sorted(unknown))}; see EXCHANGES")

    def dump(self) -> str:
        """The faults as JSON, for `load`."""
        return json.dumps(asdict(self), default=sorted)

    @classmethod
    def load(cls, text: str) -> "Faults":
        """The faults of `dump`."""
        values: dict[str, Any] = json.loads(text)
        for name, value in values.items():
            values[name] = frozenset(value) if isinstance(value, list) else value
        return cls(**values)


def strikes(where: frozenset[str], exchange: str) -> bool:
    """Whether a set of exchanges and operations holds this exchange."""
    return exchange in where or exchange.partition(".")[0] in where
