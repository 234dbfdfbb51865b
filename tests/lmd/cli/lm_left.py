"""What machines with repositories must not leave: mounts below a directory, and the processes that serve them."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def until(condition: Callable[[], object], seconds: float = 20) -> bool:
    last = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > last:
            return False
        time.sleep(0.05)
    return True


def left(home: Path) -> list[str]:
    """What a machine must not leave: mounts below its directories, and processes that serve them."""
    return _mounts(home) + list(_readers(home).values())


def servers(home: Path) -> list[int]:
    """The processes that serve such mounts."""
    return list(_readers(home))


def payloads(machine_id: str) -> list[int]:
    """The processes of a machine, by its id in their environment's host name."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"HOSTNAME={machine_id}".encode() in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return sorted(found)


def clear(home: Path) -> None:
    """See that nothing is left; what is goes with the test that failed."""
    try:
        assert until(lambda: not left(home)), left(home)
    finally:  # it may have stopped one
        for pid in servers(home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for line in reversed(_mounts(home)):
            subprocess.run(["umount", "-l", line.split()[4]], check=False)


def _mounts(home: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {home}/run/cvmfs" in line]


def _readers(home: Path) -> dict[int, str]:
    """The command line of each process that serves mounts below a directory, by its id."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:
            continue
        if b"cvmfs\0mount" in words and str(home).encode() in words:
            found[int(entry.parent.name)] = words.replace(b"\0", b" ").decode(errors="replace")
    return found
