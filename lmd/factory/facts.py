"""What the decision is told of this factory, from its rows, its configuration and its host."""

import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

from lmd.config.models import Config
from lmd.environment.outcome import Why
from lmd.factory.rows import Clocks, Phase, Row, since_boot
from lmd.vacuum import facts
from runtimes.contract import Seen, State

EXCUSED = frozenset({Why.TIMED_OUT, Why.STOPPED, Why.EARLIER, Why.INTERRUPTED})
PHASES = {
    Phase.PREPARING: facts.Phase.STARTING,
    Phase.STARTING: facts.Phase.STARTING,
    Phase.RUNNING: facts.Phase.RUNNING,
    Phase.STOPPING: facts.Phase.STOPPING,
    Phase.FINISHED: facts.Phase.FINISHED,
}


def machine(row: Row, clocks: Clocks, boot_id: str, types: Iterable[str]) -> facts.Machine:
    """One of our machines; its times as the wall clock has them now, however it was set meanwhile."""
    created = since_boot(row, row.created_boot, row.created, clocks, boot_id) or row.created
    shift = created - row.created
    same = row.boot_id == boot_id
    outcome = row.outcome or {}
    return facts.Machine(
        id=row.id,
        machinetype=row.machinetype if row.machinetype in types else None,
        phase=PHASES[row.phase],
        processors=row.processors,
        created=created,
        started=None if row.started is None else row.started + shift,
        finished=since_boot(row, row.ended_boot, row.ended, clocks, boot_id),
        shutdown_time=clocks.wall() + (row.deadline - clocks.boot()) if same else row.shutdown_time,
        told=since_boot(row, row.moved, None, clocks, boot_id),
        code=outcome.get("code"),
        excused=_excused(row),
        idle=row.idle,
        memory_bytes=row.memory_bytes,
        disk_bytes=row.conditions.outputs_bytes + row.conditions.console_bytes if row.live else 0,
    )


def _excused(row: Row) -> bool:
    """An end that says nothing about the type: ours, the host's, or of a machine that never was."""
    outcome = row.outcome or {}
    return (row.why is not None and row.why[0] in EXCUSED) or outcome.get("decided") == "factory"


def other(seen: Seen) -> facts.Machine | None:
    """A machine that is not ours, to be booked; None if it holds nothing any more."""
    if seen.state is State.EXITED:
        return None
    return facts.Machine(
        id=seen.id,
        machinetype=None,
        phase=facts.Phase.RUNNING,
        processors=math.ceil(seen.processors or 1),
        created=seen.created,
        started=seen.started,
        memory_bytes=seen.memory_bytes or 0,
    )


def factory(
    name: str,
    config: Config,
    *,
    total: int,
    machines: Path,
    draining: str | None,
    unusable: Mapping[str, str],
    shutdown_time: float | None,
) -> facts.Factory:
    """This factory now. Reads the host's load, memory and free disk."""
    try:
        disk = shutil.disk_usage(machines).free
    except OSError:
        disk = None
    memory = psutil.virtual_memory()
    return facts.Factory(
        name=name,
        total_processors=total,
        cpus=os.cpu_count(),
        hs06_per_processor=config.settings.hs06_per_processor,
        memory_bytes=memory.total,
        free_memory_bytes=memory.available,
        free_disk_bytes=disk,
        load=os.getloadavg()[0],
        draining=draining,
        shutdown_time=shutdown_time,
        unusable=unusable,
    )
