"""What the decision is given: this factory, its machines, the machinetypes. Times are Unix seconds, sizes bytes.

The decision takes whatever stands here, sensible or not: a value that makes no sense refuses the type that it belongs
to, or is passed over, and never raises.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Phase(StrEnum):
    """What a machine is doing. All but finished ones hold their processors and memory."""

    STARTING = "starting"  # decided on; its payload does not run yet
    RUNNING = "running"
    STOPPING = "stopping"  # being ended now
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine of this factory: alive, or finished within the last day (longer ones may be given).

    `machinetype` None: it belongs to somebody's `lm run`, or its type is no longer configured; it is only booked.
    `shutdown_time`: when it is ended at the latest, as its features say it. `told`: since when it knows of an end that
    was moved earlier by an `Ending`. `code`: that of its shutdown message (100 to 799), the payload's or that of an
    exit code; None if it left none. `excused`: it was ended for no fault of its own (its time was over, an operator,
    an `Ending`, the host went down), so that its end says nothing about its type. `idle`: it runs above the budget,
    with the lowest weight. `disk_bytes`: what it may still write.
    """

    id: str
    machinetype: str | None
    phase: Phase
    processors: int
    created: float
    started: float | None = None
    finished: float | None = None
    shutdown_time: float | None = None
    told: float | None = None
    code: int | None = None
    excused: bool = False
    idle: bool = False
    memory_bytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Factory:
    """This factory now. What is None is not known or not limited, and brakes nothing.

    `total_processors`: the budget, which may be 0 and may change at any time; `cpus`: processors of the host, for the
    load brake; `load`: its load average. `memory_bytes`: what all machines together may have; `free_memory_bytes` and
    `free_disk_bytes`: what the host could give away now (young machines are taken not to have used theirs yet).
    `draining`: why nothing is to be started. `shutdown_time`: when all machines must be gone. `unusable`: machinetypes
    that cannot be started now, each with the reason as a sentence (`runtime kvm is not available: …`, `drained by the
    operator`).
    """

    name: str
    total_processors: int
    cpus: int | None = None
    hs06_per_processor: float | None = None
    memory_bytes: int | None = None
    free_memory_bytes: int | None = None
    free_disk_bytes: int | None = None
    load: float | None = None
    draining: str | None = None
    shutdown_time: float | None = None
    unusable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeRules:
    """What the decision needs of a machinetype; the names are those of the configuration.

    `machinegroup` None: a group of its own. `interruptible`: may be told, `grace_secs` before, to end early when
    another type needs the processors. `idle`: `class = "idle"`, machines above the budget with the lowest weight.
    """

    name: str
    target_share: float = 0.0
    machinegroup: str | None = None
    min_processors: int = 1
    max_processors: int = 1
    min_wallclock_seconds: float = 86400
    max_wallclock_seconds: float = 86400
    backoff_seconds: float = 10
    fizzle_seconds: float = 600
    grace_secs: float = 1800
    memory_bytes_per_processor: int = 0
    disk_bytes: int = 0
    interruptible: bool = False
    idle: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the decision needs of `[settings]`.

    `share_by_hs06`: shares are of HS06, else of processors. `accounting_window_seconds`: time over which past use
    counts against a type, 0: only what runs now counts.
    """

    processors_per_superslot: int = 1
    overload_per_processor: float = 1.5
    accounting_window_seconds: float = 0
    share_by_hs06: bool = True
    max_starting_machines: int | None = None
    disk_reserve_bytes: int = 1 << 30
