"""The greatest limits that a machine can be given: none above those of the engine that starts it.

An engine without CAP_SYS_RESOURCE cannot raise a limit, and its start of a container then fails with a bare
"Operation not permitted". So both limits are always named, and never above what the engine's own process has.
"""

import resource
import socket
import struct
from pathlib import Path

MOST = 1_048_576
ROWS = {"NOFILE": "Max open files", "NPROC": "Max processes"}


def greatest(name: str, engine: Path) -> int:
    """The most of `NOFILE` or `NPROC` that the engine behind a Unix socket can hand on."""
    own = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[1]
    found = [MOST if own == resource.RLIM_INFINITY else own, MOST]
    if name == "NPROC":  # Podman lowers its own to this
        found.append(int(Path("/proc/sys/kernel/pid_max").read_text()))
    if pid := peer(engine):
        found += hard_limit(_text(Path(f"/proc/{pid}/limits")), ROWS[name])
    return min(found)


def hard_limit(table: str, row: str) -> list[int]:
    """The hard limit in a row of /proc/PID/limits as a list of one, or none if it is unlimited or not there."""
    for line in table.splitlines():
        if line.startswith(row):
            hard = line.removeprefix(row).split()[1]
            return [int(hard)] if hard.isdecimal() else []
    return []


def peer(path: Path) -> int:
    """The process that listens at a Unix socket; 0 if there is none, or if pid 1 does so for it."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        try:
            connection.connect(str(path))
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        except OSError:
            return 0
    pid: int = struct.unpack("iII", credentials)[0]
    return pid if pid > 1 else 0  # pid 1 listens for a service that is started on demand


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
