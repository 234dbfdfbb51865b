"""Rows made again from what is left: a machine's own record, or what its engine shows."""

from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from lmd.config.models import Config
from lmd.environment.directory import Directory, DirectoryError, Record, found
from lmd.factory.rows import Clocks, Phase, Row
from lmd.machine.conditions import CONDITIONS, Conditions, conditions
from runtimes.contract import Seen, State


def from_record(record: Record, directory: Directory, clocks: Clocks, boot_id: str, config: Config) -> Row:
    """The row of a machine whose directory is there."""
    same = record.boot_id == boot_id and record.created_boot is not None
    began = record.created_boot if same and record.created_boot is not None else _began(record.created, clocks)
    told = directory.shutdown_time()
    ends = record.shutdown_time if told is None else min(record.shutdown_time, told)
    outcome = (record.outcome or {}).get("outcome") if record.outcome else None
    return Row(
        id=record.id,
        job_id=record.job_id,
        runtime=record.runtime,
        owner=record.owner,
        space=record.space,
        machinetype=record.machinetype,
        processors=record.processors,
        memory_bytes=record.memory_bytes,
        conditions=_conditions(record, config),
        boot_id=record.boot_id,
        created=record.created,
        created_boot=began,
        shutdown_time=ends,
        deadline=began + (ends - record.created),
        phase=Phase.FINISHED if record.outcome else Phase.STARTING,
        digest=record.digest,
        detached=record.detached,
        outcome=outcome if isinstance(outcome, dict) else None,
        ended=clocks.wall() if record.outcome else None,
        ended_boot=clocks.boot() if record.outcome else None,
    )


def from_seen(seen: Seen, clocks: Clocks, boot_id: str, config: Config) -> Row:
    """The row of a machine of which its engine alone knows: it gets the longest life of its type."""
    type_ = config.machinetypes.get(seen.machinetype)
    began = _began(seen.created, clocks)
    life = type_.max_wallclock_seconds if type_ else 86_400
    return Row(
        id=seen.id,
        job_id="",
        runtime=seen.runtime,
        owner=seen.owner,
        space=seen.space,
        machinetype=seen.machinetype,
        processors=max(1, round(seen.processors or 1)),
        memory_bytes=seen.memory_bytes or 0,
        conditions=conditions(type_) if type_ else Conditions(),
        boot_id=boot_id,
        created=seen.created,
        created_boot=began,
        shutdown_time=seen.created + life,
        deadline=began + life,
        phase=Phase.RUNNING if seen.state is not State.CREATED else Phase.STARTING,
        digest=seen.digest,
        shown=True,
        state=seen.state,
        started=seen.started,
    )


def left_behind(machines: Path, known: set[str], owner: str, clocks: Clocks, boot_id: str, config: Config) -> list[Row]:
    """Rows of the directories of this factory that are in no database and have not ended: their machines may live."""
    rows = []
    for directory in found(machines):
        if directory.path.name in known:
            continue
        with suppress(DirectoryError):
            record = directory.load()
            if record.owner == owner and record.id == directory.path.name and record.outcome is None:
                rows.append(from_record(record, directory, clocks, boot_id, config))
    return rows


def _began(created: float, clocks: Clocks) -> float:
    """The boot's time of a wall time; one that lies in the future is now."""
    return clocks.boot() - max(0.0, clocks.wall() - created)


def _conditions(record: Record, config: Config) -> Conditions:
    if record.conditions is not None:
        with suppress(ValidationError):
            return CONDITIONS.validate_python(record.conditions)
    type_ = config.machinetypes.get(record.machinetype)
    return conditions(type_) if type_ else Conditions(grace=record.grace)
