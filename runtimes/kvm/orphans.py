"""Processes that libvirt has forgotten: one that is killed while it starts a machine leaves QEMU or virtiofsd behind.

Such a virtiofsd waits for ever for a QEMU that nobody will start, and keeps its log from the next one. Blocking.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SECONDS = 5.0
POLL_SECONDS = 0.02
PROGRAMS = ("qemu-system-", "qemu-kvm", "virtiofsd")


def end(folder: Path) -> None:
    """Kill QEMU and virtiofsd with files of a machine's directory on their command line, and wait until they are gone.

    To be called only while libvirt says that the machine is off.
    """
    last = time.monotonic() + SECONDS
    while (found := list(_of(folder))) and time.monotonic() < last:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def _of(folder: Path) -> Iterator[int]:
    wanted = os.fsencode(folder) + b"/"
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is none of root's
            if wanted in (process / "cmdline").read_bytes() and (process / "exe").readlink().name.startswith(PROGRAMS):
                yield int(process.name)
