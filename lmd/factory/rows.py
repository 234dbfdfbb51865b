"""A machine as the factory knows it: its row in the database, and the moments between which it lives.

Two clocks: `..._boot` are seconds of CLOCK_BOOTTIME, which nobody can set, and mean something within one boot; the
others are Unix seconds, for people and for features. Within a boot a lifetime follows the first.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from pydantic import TypeAdapter

from lmd.machine.conditions import Conditions
from runtimes.contract import State, Usage


class Phase(StrEnum):
    """Where a machine is in its life; `finished` is never left."""

    PREPARING = "preparing"  # decided, its directory is being written
    STARTING = "starting"  # its engine has been, or is just being, asked for it
    RUNNING = "running"
    STOPPING = "stopping"  # told to end, or being ended
    FINISHED = "finished"  # the outcome is written


class Clocks(Protocol):
    """Where the time comes from."""

    def wall(self) -> float:
        """Unix seconds."""

    def boot(self) -> float:
        """Seconds since the boot, suspended time included."""


class HostClocks:
    """The host's own clocks."""

    def wall(self) -> float:
        return time.time()

    def boot(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One machine of this factory.

    `deadline` is when its time is over and, once it is condemned, `kill` when it is ended by force: both in seconds of
    the boot `boot_id`, as are `moved`, since when its end is earlier than it was told first, and `told`, since when it
    knows that it is condemned. `noticed` is the earlier end that it has been told, `why` the reason for which we end
    it. `shown`: its engine has shown it. `cleaned`: its engine holds nothing of it any more. `detached`: asked for by
    an operator, not by the decision.
    """

    id: str
    job_id: str
    runtime: str
    owner: str
    space: str
    machinetype: str
    processors: int
    memory_bytes: int
    conditions: Conditions
    boot_id: str
    created: float
    created_boot: float
    shutdown_time: float
    deadline: float
    phase: Phase = Phase.PREPARING
    digest: str = ""
    image: str = ""
    image_digest: str | None = None
    shown: bool = False
    state: State | None = None
    started: float | None = None
    hs06_per_processor: float | None = None
    because: str = ""
    detached: bool = False
    idle: bool = False
    moved: float | None = None
    moved_because: str = ""
    noticed: float | None = None
    why: tuple[str, str] | None = None
    kill: float | None = None
    told: float | None = None
    destroy: bool = False
    ended: float | None = None
    ended_boot: float | None = None
    outcome: Mapping[str, Any] | None = None
    usage: Usage | None = None
    cleaned: bool = False

    @property
    def live(self) -> bool:
        """Whether it takes processors."""
        return self.phase is not Phase.FINISHED


ROW: TypeAdapter[Row] = TypeAdapter(Row)


def since_boot(row: Row, at_boot: float | None, stored: float | None, clocks: Clocks, boot_id: str) -> float | None:
    """A moment of a row in today's wall time: by the boot's clock within one boot, else as it was written."""
    if at_boot is None or row.boot_id != boot_id:
        return stored
    return clocks.wall() - (clocks.boot() - at_boot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, in the order of `seq`; `at` in Unix seconds."""

    seq: int
    at: float
    kind: str
    machine: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"seq": self.seq, "at": self.at, "kind": self.kind, "machine": self.machine or None, **self.data}
