"""The scenario language: `[scenario]` in a TOML file says what the space is and what its machines meet.

Beside `[scenario]` the file may hold a configuration (`[settings]`, `[machinetypes.NAME]`), so that one file is a
whole example. Times are hours from the beginning, as people think of days and shifts.
"""

import csv
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from lmd.config.models import Table
from lmd.config.problems import ConfigError, Problem, translate
from lmd.config.values import Bytes, Line, Rating

MOST_PROCESSORS = 2_000_000
LARGEST_FILE = 1 << 20
MOST_JOBS = 2_000_000

Hours = Annotated[float, Field(ge=0, le=1e6)]


def _range(value: tuple[float, float]) -> tuple[float, float]:
    if value[1] < value[0]:
        raise ValueError("expected the smaller number first")
    return value


Range = Annotated[tuple[Hours, Hours], AfterValidator(_range)]


class Phase(Table):
    """A time in which machines of a type that start find no work, or fail."""

    hours: Range = Field(description="From, until.")
    every: Hours = Field(0, description="Repeated every so many hours; 0: once.")
    meets: Literal["no-work", "failure", "silence"] = Field(
        description="`no-work`: a message 300, `failure`: 500, `silence`: an end without a word."
    )
    after_seconds: Hours = Field(60, description="So long after its start the machine ends.")

    def covers(self, hour: float) -> bool:
        """Whether the phase holds then."""
        begin, end = self.hours
        if self.every > 0 and hour >= begin:
            hour = begin + math.fmod(hour - begin, self.every)
        return begin <= hour < end


class Behaviour(Table):
    """`[scenario.types.NAME]`: what machines of a type do."""

    start_seconds: Hours = Field(30, description="From the decision to the payload.")
    job_hours: Range | None = Field(
        None, description="A job takes a time between these; the machine takes one after the other. None: no end."
    )
    jobs: int = Field(0, ge=0, description="After so many jobs the machine ends; 0: when no more fits in its time.")
    fails: float = Field(0, ge=0, le=1, description="Part of the machines that fail at any time, with a message 600.")
    deaf: bool = Field(False, description="Goes on when it is told to end, until it is ended.")
    efficiency: float = Field(0.95, ge=0, le=1, description="Part of its processors' time that a machine uses.")
    phases: tuple[Phase, ...] = ()


class Group(Table):
    """`[[scenario.factories]]`: factories that are alike."""

    count: int = Field(1, ge=1, le=10_000)
    name: Line = Field("wn", max_length=40)
    processors: int = Field(64, ge=1, le=65_536)
    hs06_per_processor: Rating | None = None
    memory: Bytes | None = Field(None, description="What all machines of one factory may have together.")
    up: tuple[Range, ...] = Field((), description="Hours during which the factories are there. Empty: always.")


class Scenario(Table):
    """`[scenario]`."""

    days: float = Field(7, gt=0, le=3660)
    seed: int = Field(1, ge=0, le=2**32)
    report_seconds: float = Field(60, ge=1, le=3600, description="How often factories hear of each other.")
    factories: tuple[Group, ...] = (Group(),)
    types: Mapping[str, Behaviour] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _bounded(self) -> "Scenario":
        if sum(group.count * group.processors for group in self.factories) > MOST_PROCESSORS:
            raise ValueError(f"factories have more than {MOST_PROCESSORS} processors together")
        return self


def split(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A file's `[scenario]` (empty if it has none), and the rest of it. Raises ConfigError."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError([Problem(str(path), (), "is larger than 1 MiB")])
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([Problem(str(path), (), f"cannot be read: {error.strerror}")]) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise ConfigError([Problem(str(path), (), f"is not TOML: {error}")]) from error
    scenario = table.pop("scenario", {})
    if not isinstance(scenario, dict):
        raise ConfigError([Problem(str(path), ("scenario",), "expected a table")])
    return scenario, table


def checked(source: str, table: Mapping[str, Any]) -> Scenario:
    """The scenario that a table describes. Raises ConfigError with all that is wrong."""
    try:
        return Scenario.model_validate(dict(table))
    except ValidationError as error:
        found = [Problem(source, ("scenario", *path), text) for path, text in translate(error, {})]
        raise ConfigError(found) from error


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work: there from `at` (seconds from the beginning), takes `seconds`."""

    at: float
    seconds: float


def arrivals(path: Path) -> dict[str, list[Job]]:
    """Jobs by machinetype from a CSV file with the columns `seconds,machinetype,work_seconds[,count]`.

    Raises ConfigError with the line of the first thing that is wrong.
    """
    jobs: dict[str, list[Job]] = {}
    total = 0
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if not row or row[0].startswith(("#", "seconds")):
                    continue
                name, job, count = _job(path, number, row)
                total += count
                if total > MOST_JOBS:
                    raise ConfigError([Problem(str(path), (), f"has more than {MOST_JOBS} jobs")])
                jobs.setdefault(name, []).extend([job] * count)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError([Problem(str(path), (), f"cannot be read as CSV: {error}")]) from error
    for queue in jobs.values():
        queue.sort(key=lambda job: job.at)
    return jobs


def _job(path: Path, number: int, row: list[str]) -> tuple[str, Job, int]:
    try:
        at, name, seconds = float(row[0]), row[1].strip(), float(row[2])
        count = int(row[3]) if len(row) > 3 else 1
        if not (0 <= at < 1e10 and 0 < seconds < 1e9 and 0 < count <= MOST_JOBS):
            raise ValueError
    except (ValueError, IndexError):
        text = f"line {number}: expected seconds,machinetype,work_seconds[,count]"
        raise ConfigError([Problem(str(path), (), text)]) from None
    return name, Job(at, seconds), count
