"""What a machine was promised, compared with what the kernel holds for its first process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtimes import cgroups, idranges
from runtimes.containers.stamp import LABEL
from runtimes.contract import Limit, Spec


def not_in_force(spec: Spec, found: Mapping[str, Any], where: cgroups.Mounts, *, own_ids: bool) -> str | None:
    """What was asked of the kernel and is not so; None if all is, or the machine has ended already.

    `found` is the container as `inspect` shows it; `own_ids`: it has a machine's range of ids, not just another root.
    """
    pid = found["State"].get("Pid")
    first = int(found["Config"]["Labels"][f"{LABEL}uid"])
    if not pid:
        return None
    try:
        mapped = Path(f"/proc/{pid}/uid_map").read_text().split()
        now = cgroups.in_force(pid, where, found["Id"])
    except (OSError, ProcessLookupError):
        return None
    wanted_ids = ["0", str(first), str(idranges.MACHINE_IDS)] if own_ids else ["0", str(first)]
    if first and mapped[: len(wanted_ids)] != wanted_ids:
        return f"its user ids are {' '.join(mapped[:3])}, not the range {first}"
    wanted = spec.limits
    for limit, asked, is_now in (
        (Limit.PROCESSORS, wanted.processors, now.processors),
        (Limit.MEMORY, wanted.memory_bytes, now.memory_bytes),
        (Limit.PIDS, wanted.pids, now.pids),
    ):
        if limit in spec.required_limits and asked is not None and (is_now is None or is_now > asked * 1.01):
            return f"its limit on {limit} is {is_now}, not {asked}"
    return None
