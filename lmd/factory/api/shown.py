"""What the API shows of a machine: the shape that `lm ps --json` has without a daemon too. Pure."""

from dataclasses import asdict
from typing import Any

from lmd.environment.directory import Directory
from lmd.factory.rows import Phase, Row
from runtimes.contract import Seen, State, Usage


def machine(row: Row, directory: Directory, usage: Usage | None = None, *, silent: str = "") -> dict[str, Any]:
    """One of the factory's machines; `silent`: why its engine cannot tell how it is now."""
    used = usage or row.usage
    return {
        "id": row.id,
        "runtime": row.runtime,
        "phase": "unknown" if silent and row.live else str(row.phase),
        "orphaned": False,
        "machinetype": row.machinetype,
        "owner": row.owner,
        "space": row.space,
        "created": row.created,
        "started": row.started,
        "processors": row.processors,
        "memory_bytes": row.memory_bytes,
        "shutdown_time": row.shutdown_time,
        "job_id": row.job_id,
        "image": row.image,
        "image_digest": row.image_digest,
        "because": row.because or None,
        "detached": row.detached,
        "why": ": ".join(row.why) if row.why else row.moved_because or None,
        "ended": row.ended,
        "outcome": row.outcome,
        "usage": asdict(used) if used else None,
        "cleaned": row.cleaned,
        "directory": str(directory.path),
        "problem": silent or None,
    }


def other(seen: Seen) -> dict[str, Any]:
    """A machine of somebody's `lm run`, or of another factory: only booked."""
    phases = {State.CREATED: "starting", State.PAUSED: "paused", State.EXITED: "finished", State.RUNNING: "running"}
    return {
        "id": seen.id,
        "runtime": seen.runtime,
        "phase": phases[seen.state],
        "orphaned": False,
        "machinetype": seen.machinetype,
        "owner": seen.owner,
        "space": seen.space,
        "created": seen.created,
        "started": seen.started,
        "processors": seen.processors,
        "memory_bytes": seen.memory_bytes,
        "pid": seen.pid,
        "address": seen.address,
        "outcome": None,
        "problem": None,
    }


def kept(phase: Phase) -> bool:
    """Whether `lm ps` lists a machine in this phase without being asked for all."""
    return phase is not Phase.FINISHED
