"""What the decision says: machines to start, machines to end early, and why no more of each type."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


def many(count: int, thing: str) -> str:
    """A number of things, in words.

    >>> many(1, "processor"), many(8, "processor")
    ('1 processor', '8 processors')
    """
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


class Code(StrEnum):
    """Why no (more) machines of a type are started; stable, for programs."""

    DRAINING = "draining"  # the factory starts nothing
    SHUTDOWN = "shutdown"  # the factory goes down before the shortest useful life is over
    NO_SHARE = "no-share"  # target_share is zero, or no number
    MISCONFIGURED = "misconfigured"  # its limits contradict each other
    TOO_LARGE = "too-large"  # this factory can never hold it
    UNUSABLE = "unusable"  # its runtime, image or the operator stand in its way
    BACKOFF = "back-off"  # a machine of the type ended with an abort code, or early and silently
    TESTING = "testing"  # another machine of the type is being tried out after a back-off
    OVERLOAD = "overload"  # the host's load is too high
    STARTING = "starting"  # enough machines are starting already
    MEMORY = "memory"
    DISK = "disk"
    PROCESSORS = "processors"  # too few are free
    RESERVED = "reserved"  # free ones are kept for a type that needs several at once
    SHARE = "share"  # it has its share; others come first


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start one machine of `machinetype` with `processors`, to be ended at `until` (Unix seconds) at the latest."""

    machinetype: str
    processors: int
    until: float
    because: str
    idle: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Move the end of machine `id` forward to `by` (Unix seconds), telling it so; never moves an end later."""

    id: str
    by: float
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why no more machines of `machinetype` are started now. `until`: when that may change, where it can be known."""

    machinetype: str
    code: Code
    sentence: str
    until: float | None = None

    def plain(self) -> dict[str, Any]:
        """The refusal as JSON has it; `read` is the inverse."""
        return asdict(self) | {"code": str(self.code)}

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Refusal":
        """From what `plain` gave. Raises KeyError, ValueError or TypeError for anything else."""
        return cls(
            machinetype=str(values["machinetype"]),
            code=Code(values["code"]),
            sentence=str(values["sentence"]),
            until=None if values["until"] is None else float(values["until"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One pass of the decision. Every machinetype has exactly one refusal: why it gets no more than `starts` says."""

    starts: tuple[Start, ...] = ()
    endings: tuple[Ending, ...] = ()
    refusals: tuple[Refusal, ...] = ()
