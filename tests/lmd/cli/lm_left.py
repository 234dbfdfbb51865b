"""What machines with repositories must not leave: mounts below a directory, and the processes that serve them."""

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
    found = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {home}/run/cvmfs" in line]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:
            continue
        if b"cvmfs\0mount" in words and str(home).encode() in words:
            found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def servers(home: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:
            continue
        if b"cvmfs\0mount" in words and str(home).encode() in words:
            found.append(int(entry.parent.name))
    return found
