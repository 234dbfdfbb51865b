"""A mount lives as long as somebody needs it: processes that are named by files in a directory of leases.

A lease is an empty file PID.START; it holds while that very process lives (START is field 22 of /proc/PID/stat).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_LOCK = "lock"


def start_of(pid: int) -> int | None:
    """When the process was started, in the kernel's own count; None if it is not there, or only its remains are."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """One holder among all processes: whoever takes a lease, and the mount that looks whether it has any."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def take(directory: Path, pid: int) -> bool:
    """Let the mount live as long as the process does; False if that is not there. Call it with `held`."""
    start = start_of(pid)
    if start is None:
        return False
    (directory / f"{pid}.{start}").touch(mode=0o600)
    return True


def drop(directory: Path, pid: int) -> None:
    """The process does not need the mount any more."""
    with contextlib.suppress(OSError):
        (directory / f"{pid}.{start_of(pid)}").unlink()


def living(directory: Path) -> list[int]:
    """The processes whose leases hold; those that do not are removed."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):  # noqa: PTH208 — names are all that is needed
            pid, _, start = name.partition(".")
            if not pid.isdecimal() or not start.isdecimal():
                continue
            if start_of(int(pid)) == int(start):
                found.append(int(pid))
            else:
                with contextlib.suppress(OSError):
                    (directory / name).unlink()
    return found
