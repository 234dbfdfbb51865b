"""What an engine's answers mean in the contract's words. Pure: one table or function for each word."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from runtimes.containers.stamp import LABEL
from runtimes.contract import End, EndReason, Seen, State

STATES = {
    "configured": State.CREATED,
    "created": State.CREATED,
    "initialized": State.CREATED,
    "running": State.RUNNING,
    "restarting": State.RUNNING,
    "stopping": State.RUNNING,
    "paused": State.PAUSED,
    "stopped": State.EXITED,
    "exited": State.EXITED,
    "removing": State.EXITED,
    "dead": State.EXITED,
}
"""The engines' container states; `stopped` is `exited` before its clean-up. One that is not here is read as exited."""


def seconds(text: str) -> float | None:
    """An RFC 3339 time with nanoseconds as Unix seconds; None for Go's zero time or what is no time."""
    if not text or text.startswith("0001-"):
        return None
    trimmed = re.sub(r"(\.\d{6})\d+", r"\1", text)
    try:
        return datetime.fromisoformat(trimmed).timestamp()
    except ValueError:
        return None


def state(found: Mapping[str, Any]) -> State:
    """The phase of a container as `inspect` shows it."""
    return STATES.get(str(found["State"].get("Status")), State.EXITED)


def end(state: Mapping[str, Any], out_of_memory: bool) -> End:
    """How an exited container ended (the `State` of inspect); `out_of_memory`: the kernel's log names its group."""
    code = int(state.get("ExitCode", 0))
    at = seconds(state.get("FinishedAt", ""))
    if (state.get("OOMKilled") and code != 0) or (out_of_memory and code == 137):
        return End(reason=EndReason.OOM, exit_code=code, at=at, detail="the memory limit was reached")
    if seconds(state.get("StartedAt", "")) is None:
        return End(reason=EndReason.CRASHED, exit_code=None, at=at, detail=str(state.get("Error", ""))[:500])
    if at is None:
        return End(reason=EndReason.LOST, detail="the engine has no time for the end")
    if code == -1:
        return End(reason=EndReason.KILLED, at=at, detail="its lifetime was over")
    if code == 0:
        return End(reason=EndReason.CLEAN, exit_code=0, at=at)
    if 128 < code <= 128 + 64:
        return End(reason=EndReason.KILLED, exit_code=code, at=at, detail=f"signal {code - 128}")
    return End(reason=EndReason.FAILED, exit_code=code, at=at)


def seen(found: Mapping[str, Any], runtime: str, out_of_memory: frozenset[str]) -> Seen:
    """One container as `inspect` shows it; `out_of_memory` are control groups that the kernel's log names."""
    labels, phase = found["Config"]["Labels"], state(found)
    networks = (found.get("NetworkSettings") or {}).get("Networks") or {}
    attached: Mapping[str, Any] = next(
        (n for n in networks.values() if n.get("IPAddress") or n.get("GlobalIPv6Address")), {}
    )
    host = found.get("HostConfig") or {}
    quota, period = host.get("CpuQuota") or 0, host.get("CpuPeriod") or 0
    killed = any(found["Id"] in group for group in out_of_memory)
    return Seen(
        id=labels[f"{LABEL}id"],
        runtime=runtime,
        owner=labels.get(f"{LABEL}owner", ""),
        space=labels.get(f"{LABEL}space", ""),
        machinetype=labels.get(f"{LABEL}machinetype", ""),
        digest=labels.get(f"{LABEL}digest", ""),
        state=phase,
        created=seconds(found.get("Created", "")) or 0.0,
        started=seconds(found["State"].get("StartedAt", "")),
        end=end(found["State"], killed) if phase is State.EXITED else None,
        image_digest=f"sha256:{found['Image'].removeprefix('sha256:')}" if found.get("Image") else None,
        first_uid=int(labels.get(f"{LABEL}uid", "0")),
        pid=found["State"].get("Pid") or None,
        processors=quota / period if quota > 0 and period > 0 else None,
        memory_bytes=host.get("Memory") or None,
        address=attached.get("IPAddress") or attached.get("GlobalIPv6Address") or None,
        mac=attached.get("MacAddress") or None,
    )
