"""All running machines looked at in one pass: what they left in joboutputs, how old their heartbeats are. Blocks: a
thread, now and then; no task and no thread for each machine."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmd.environment import joboutputs
from lmd.environment.directory import Directory
from lmd.environment.outcome import Why
from lmd.factory.rows import Phase, Row
from lmd.machine.rules import Observed, reason_to_end
from lmd.machine.supervise import Heartbeat
from runtimes.contract import State

SHORTEST = 2.0
SHARE = 400.0
LONGEST = 120.0
"""Seconds between two sweeps: so many that they take a four-hundredth of a core, within these limits."""


@dataclass(slots=True)
class Sweeper:
    """Remembers heartbeats between sweeps. `rest` is how long to wait for the next one, in seconds."""

    machines: Path
    hearts: dict[str, Heartbeat] = field(default_factory=dict)
    rest: float = SHORTEST

    def sweep(self, rows: Sequence[Row], boot: float, wall: float) -> dict[str, tuple[Why, str]]:
        """Why machines have to end now, by id. One whose directory is gone is judged by its time alone."""
        began = time.thread_time()
        found: dict[str, tuple[Why, str]] = {}
        for row in rows:
            if reason := self._judge(row, boot, wall):
                found[row.id] = reason
        for name in set(self.hearts) - {row.id for row in rows}:
            del self.hearts[name]
        self.rest = min(LONGEST, max(SHORTEST, SHARE * (time.thread_time() - began)))
        return found

    def _judge(self, row: Row, boot: float, wall: float) -> tuple[Why, str] | None:
        terms = row.conditions.terms(row.created_boot, row.deadline)
        directory = Directory(self.machines / row.id)
        if not directory.joboutputs.is_dir():
            seen = Observed(heartbeat_age=0.0, outputs_bytes=0, outputs_files=0)
            return reason_to_end(terms, seen, boot)
        size = joboutputs.measure(directory.joboutputs, most_bytes=terms.outputs_bytes, most_files=terms.outputs_files)
        age = None
        if terms.heartbeat_file:
            heart = self.hearts.setdefault(row.id, Heartbeat())
            age = heart.age(joboutputs.age(directory.joboutputs, terms.heartbeat_file, wall), wall, boot)
        return reason_to_end(
            terms, Observed(heartbeat_age=age, outputs_bytes=size.bytes, outputs_files=size.files), boot
        )


def watched(row: Row) -> bool:
    """Whether a machine is one to look at: it runs, and has not been condemned for more than its time."""
    condemned = row.why is not None and row.why[0] == Why.QUOTA
    return row.phase in (Phase.RUNNING, Phase.STOPPING) and row.state is not State.EXITED and not condemned
