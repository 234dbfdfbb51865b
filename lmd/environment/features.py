"""Machine/job features: keys, formulas and units of HSF-TN-2016-02, with the older names that Vac wrote too. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote

MACHINEFEATURES = PurePosixPath("/etc/machinefeatures")
JOBFEATURES = PurePosixPath("/etc/jobfeatures")
JOBOUTPUTS = PurePosixPath("/var/spool/joboutputs")
USER_DATA = PurePosixPath("/user_data")

VARIABLES = ("MACHINEFEATURES", "JOBFEATURES", "JOBOUTPUTS")


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


def machinefeatures(given: Allocation) -> dict[str, str]:
    """Key to value of $MACHINEFEATURES, without newlines."""
    values: dict[str, float | None] = {
        "total_cpu": given.processors,
        "hs06": _rating(given),
        "shutdowntime": int(given.shutdown_time),
        "grace_secs": given.grace,
        "phys_cores": given.processors,
        "log_cores": given.processors,
        "jobslots": 1,
    }
    return _written(values)


def jobfeatures(given: Allocation) -> dict[str, str]:
    """Key to value of $JOBFEATURES, without newlines. cpu_limit_secs is for all processors together."""
    wall = max(0, int(given.shutdown_time) - int(given.started))
    values: dict[str, float | None] = {
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
        "cpufactor_lrms": 1.0,
    }
    return {"job_id": given.job_id} | _written(values)


def variables(form: str, places: Mapping[str, PurePosixPath]) -> dict[str, str]:
    """The three variables for `path` or `file-url`, from where each directory is in the machine."""
    if form not in ("path", "file-url"):
        raise ValueError(f"form {form!r}: expected path or file-url")
    return {name: str(places[name]) if form == "path" else f"file://{quote(str(places[name]))}" for name in VARIABLES}


def twins(given: Allocation) -> dict[str, str]:
    """Plain environment variables with the numbers, for payloads that read no features.

    LM_SHUTDOWNTIME is the value at the start: an earlier one is told by the features alone.
    """
    values: dict[str, float | None] = {
        "LM_PROCESSORS": given.processors,
        "LM_MEMORY_BYTES": given.memory_bytes,
        "LM_SHUTDOWNTIME": int(given.shutdown_time),
        "LM_WALL_LIMIT_SECS": max(0, int(given.shutdown_time) - int(given.started)),
        "LM_GRACE_SECS": given.grace,
        "LM_HS06": _rating(given),
    }
    return {"LM_JOB_ID": given.job_id} | _written(values)


def _rating(given: Allocation) -> float | None:
    return None if given.hs06_per_processor is None else given.hs06_per_processor * given.processors


def _written(values: Mapping[str, float | None]) -> dict[str, str]:
    return {key: plain(value) for key, value in values.items() if value is not None}


def plain(value: float) -> str:
    """A number without unit or exponent: whole numbers as such, others with up to six decimals, at least one."""
    if isinstance(value, int):
        return str(value)
    whole, _, decimals = f"{value:.6f}".partition(".")
    return f"{whole}.{decimals.rstrip('0') or '0'}"
