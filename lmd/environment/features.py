"""Machine/job features: keys, formulas and units of HSF-TN-2016-02, with the older names that Vac wrote too. Pure.

Values are plain text: no unit, no exponent, no newline. What has no meaning on this host (no rating configured, no
limit on scratch space) is left out, not invented.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import PurePosixPath
from urllib.parse import quote

from lmd.network.addresses import GATEWAY

MACHINEFEATURES = PurePosixPath("/etc/machinefeatures")
JOBFEATURES = PurePosixPath("/etc/jobfeatures")
JOBOUTPUTS = PurePosixPath("/var/spool/joboutputs")
USER_DATA = PurePosixPath("/user_data")

VARIABLES = ("MACHINEFEATURES", "JOBFEATURES", "JOBOUTPUTS")

TWIN_PREFIX = "LM_"
OLDER = frozenset(
    [
        "phys_cores",
        "log_cores",
        "jobslots",
        "allocated_CPU",
        "wall_limit_secs_lrms",
        "cpu_limit_secs_lrms",
        "cpufactor_lrms",
        "mem_limit_MB",
    ]
)
"""Keys for readers of Vac's time: written as files, not repeated as variables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What a machine is given. Times in Unix seconds, memory and disk in bytes, None for what has no meaning here.

    `shutdown_time` is when it is ended, `grace` the notice in seconds if that moves earlier; `hs06_per_processor` is
    the rating in HS06 or HEPscore23, which are normalised to each other.
    """

    job_id: str
    processors: int
    memory_bytes: int
    started: float
    shutdown_time: float
    grace: int
    hs06_per_processor: float | None = None
    swap_bytes: int | None = None
    scratch_bytes: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for what no reader could use."""
        rating = self.hs06_per_processor
        if not self.job_id or not self.job_id.isprintable() or " " in self.job_id:
            raise ValueError(f"job_id {self.job_id!r} is not one printable word")
        if self.processors < 1:
            raise ValueError(f"a machine has at least one processor, not {self.processors}")
        if rating is not None and not (math.isfinite(rating) and rating > 0):
            raise ValueError(f"hs06_per_processor {rating} is no rating: expected a number above 0, or none")

    @property
    def wall_seconds(self) -> int:
        """Seconds from the start to the shutdown time; 0 if that has passed."""
        return max(0, int(self.shutdown_time) - int(self.started))


def machinefeatures(given: Allocation) -> dict[str, str]:
    """Key to value of $MACHINEFEATURES, without newlines."""
    return _written(
        {
            "total_cpu": given.processors,
            "hs06": _rating(given),
            "shutdowntime": int(given.shutdown_time),
            "grace_secs": given.grace,
            "phys_cores": given.processors,
            "log_cores": given.processors,
            "jobslots": 1,
        }
    )


def jobfeatures(given: Allocation) -> dict[str, str]:
    """Key to value of $JOBFEATURES, without newlines. cpu_limit_secs is for all processors together."""
    wall = given.wall_seconds
    return _written(
        {
            "job_id": given.job_id,
            "allocated_cpu": given.processors,
            "hs06_job": _rating(given),
            "shutdowntime_job": int(given.shutdown_time),
            "grace_secs_job": given.grace,
            "jobstart_secs": int(given.started),
            "wall_limit_secs": wall,
            "cpu_limit_secs": wall * given.processors,
            "max_rss_bytes": given.memory_bytes,
            "max_swap_bytes": given.swap_bytes,
            "scratch_limit_bytes": given.scratch_bytes,
            "allocated_CPU": given.processors,
            "wall_limit_secs_lrms": wall,
            "cpu_limit_secs_lrms": wall * given.processors,
            "mem_limit_MB": given.memory_bytes // 1_000_000,
            "cpufactor_lrms": "1.0",
        }
    )


def variables(form: str, places: Mapping[str, PurePosixPath]) -> dict[str, str]:
    """The three variables for `path` or `file-url`, from where each directory is in the machine; for `http` they are
    the metadata server's, the same for every machine."""
    if form not in ("path", "file-url", "http"):
        raise ValueError(f"form {form!r}: expected path, file-url or http")
    if form == "http":
        return {name: f"http://{GATEWAY}/{name.lower()}" for name in VARIABLES}
    return {name: str(places[name]) if form == "path" else f"file://{quote(str(places[name]))}" for name in VARIABLES}


def twins(given: Allocation) -> dict[str, str]:
    """The features once more as plain variables: `LM_` and the key in capitals, such as LM_ALLOCATED_CPU.

    They say what held at the start: an earlier LM_SHUTDOWNTIME is told by the features alone. What libraries look for
    (OMP_NUM_THREADS and its like) is not set: a pilot that runs eight payloads side by side would hand each of them
    the number of all processors. Whoever wants it writes `export OMP_NUM_THREADS=$LM_ALLOCATED_CPU`.
    """
    values = machinefeatures(given) | jobfeatures(given)
    return {f"{TWIN_PREFIX}{key.upper()}": value for key, value in values.items() if key not in OLDER}


def _rating(given: Allocation) -> str | None:
    """Decimal digits of exactly the product, which floating point would blur."""
    if given.hs06_per_processor is None:
        return None
    return format(Decimal(repr(float(given.hs06_per_processor))) * given.processors, "f")


def _written(values: Mapping[str, str | int | None]) -> dict[str, str]:
    return {key: str(value) for key, value in values.items() if value is not None}
