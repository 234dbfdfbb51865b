"""The machines of this host: what the engines show joined with the machine directories."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from lmd import engines
from lmd.config.models import Config
from lmd.engines import Answer
from lmd.environment.directory import Directory, DirectoryError, Record, found, supervised
from lmd.places import Places
from runtimes.contract import Seen, State

MAKING_SECONDS = 10.0
"""A directory without a record that is younger than this is taken for one that is just being made."""


class Phase(StrEnum):
    """What a machine is doing, for people."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    LOST = "lost"  # its engine does not know it
    UNKNOWN = "unknown"  # its engine cannot be asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One machine. `seen` None: no engine shows it; `record` None: it has no readable directory.

    `orphaned`: it belongs to an `lm run` that is no longer there.
    """

    id: str
    runtime: str
    phase: Phase
    orphaned: bool
    seen: Seen | None = None
    record: Record | None = None
    directory: Directory | None = None
    problem: str = ""

    @property
    def machinetype(self) -> str:
        """The type's name; empty if nothing tells."""
        return self.seen.machinetype if self.seen else self.record.machinetype if self.record else ""

    @property
    def owner(self) -> str:
        """factory:NAME or run:UID; empty if nothing tells."""
        return self.seen.owner if self.seen else self.record.owner if self.record else ""

    @property
    def created(self) -> float | None:
        """Unix seconds."""
        return self.record.created if self.record else self.seen.created if self.seen else None

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        seen, record = self.seen, self.record
        return {
            "id": self.id,
            "runtime": self.runtime,
            "phase": self.phase,
            "orphaned": self.orphaned,
            "machinetype": self.machinetype,
            "owner": self.owner,
            "space": seen.space if seen else record.space if record else None,
            "created": self.created,
            "started": seen.started if seen else None,
            "processors": record.processors if record else seen.processors if seen else None,
            "memory_bytes": seen.memory_bytes if seen else None,
            "shutdown_time": (self.directory.shutdown_time() if self.directory else None),
            "job_id": record.job_id if record else None,
            "image_digest": seen.image_digest if seen else None,
            "first_uid": seen.first_uid if seen else None,
            "pid": seen.pid if seen else None,
            "address": seen.address if seen else None,
            "end": {"reason": seen.end.reason, "exit_code": seen.end.exit_code, "at": seen.end.at}
            if seen and seen.end
            else None,
            "outcome": record.outcome["outcome"] if record and record.outcome else None,
            "directory": str(self.directory.path) if self.directory else None,
            "problem": self.problem or None,
        }


PHASES = {
    State.CREATED: Phase.STARTING,
    State.RUNNING: Phase.RUNNING,
    State.PAUSED: Phase.PAUSED,
    State.EXITED: Phase.FINISHED,
}


def join(answers: Iterable[Answer], directories: Mapping[str, tuple[Directory, Record | str, bool]]) -> list[Known]:
    """One entry a machine, oldest first. `directories` by id: the record, or what is wrong with it, and whether its
    `lm run` lives. What an engine could not tell is unknown, never gone."""
    silent = {answer.runtime: answer.problem for answer in answers if answer.problem}
    shown = {seen.id: seen for answer in answers for seen in answer.machines}
    joined = []
    for name in [*shown, *(name for name in directories if name not in shown)]:
        seen = shown.get(name)
        directory, record, alive = directories.get(name, (None, "", False))
        written = record if isinstance(record, Record) else None
        runtime = seen.runtime if seen else written.runtime if written else ""
        problem = silent.get(runtime, "") or (record if isinstance(record, str) else "")
        owner = seen.owner if seen else written.owner if written else ""
        joined.append(
            Known(
                id=name,
                runtime=runtime,
                phase=_phase(seen, alive, runtime in silent or (not written and bool(silent))),
                orphaned=not alive and (owner.startswith("run:") if owner else directory is not None),
                seen=seen,
                record=written,
                directory=directory,
                problem=problem,
            )
        )
    return sorted(joined, key=lambda known: (known.created or 0.0, known.id))


def _phase(seen: Seen | None, alive: bool, silent: bool) -> Phase:
    if seen:
        return PHASES[seen.state]
    if silent:
        return Phase.UNKNOWN
    return Phase.STARTING if alive else Phase.LOST


async def known(config: Config, places: Places, names: Sequence[str]) -> tuple[list[Known], list[Answer]]:
    """The machines that the runtimes `names` and the directories show, and the runtimes' answers.

    A runtime that is not installed and runs nothing of ours is no problem: its answer stays in the second list.
    """
    directories = {d.path.name: (d, *read(d)) for d in found(places.machines)}
    answers = await engines.listed(names, config, places)
    return join(answers, directories), answers


def read(directory: Directory) -> tuple[Record | str, bool]:
    """The record or what is wrong with it, and whether somebody looks after the machine (or is just making it)."""
    try:
        record = directory.load()
    except DirectoryError as error:
        return str(error), directory.age() < MAKING_SECONDS
    return record, supervised(record)


class NotOne(Exception):
    """An id or its beginning means no machine, or several."""


def pick(machines: Sequence[Known], wanted: str) -> Known:
    """The machine with this id, or the only one whose id begins or ends so. Raises `NotOne`."""
    matching = [m for m in machines if m.id == wanted] or [
        m for m in machines if wanted and (m.id.startswith(wanted) or m.id.endswith(wanted))
    ]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise NotOne(f"{wanted}: {len(matching)} machines match: {', '.join(m.id for m in matching[:5])}")
    raise NotOne(f"{wanted}: no such machine; see them with: lm ps")


def directory_of(machine: Known, places: Places) -> Directory:
    """Its directory, whether it is there or not."""
    return machine.directory or Directory(Path(places.machines / machine.id))
