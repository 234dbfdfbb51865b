"""What the decision is told of this factory, from its rows, its configuration and its host."""

import math
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
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


SLACK_SECONDS = 0.05
"""The two clocks may drift so far from each other before all times are worked out again."""


class Machines:
    """Our machines as the decision is told of them: each worked out once for as long as its row stays the same."""

    def __init__(self, clocks: Clocks, boot_id: str) -> None:
        self._clocks, self._boot_id = clocks, boot_id
        self._known: dict[str, tuple[Row, facts.Machine]] = {}
        self._types: Collection[str] = ()
        self._skew = math.inf

    def machines(self, rows: Iterable[Row], types: Collection[str]) -> list[facts.Machine]:
        """Those of the rows that live, or have ended with an outcome; `types` are the configured ones."""
        skew = self._clocks.wall() - self._clocks.boot()
        before = self._known if types is self._types and abs(skew - self._skew) < SLACK_SECONDS else {}
        if not before:
            self._types, self._skew = types, skew
        known: dict[str, tuple[Row, facts.Machine]] = {}
        for row in rows:
            if not (row.live or row.outcome is not None):
                continue
            one = before.get(row.id)
            if one is None or one[0] is not row:
                one = row, machine(row, self._clocks, self._boot_id, types)
            known[row.id] = one
        self._known = known
        return [told for _, told in known.values()]


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
