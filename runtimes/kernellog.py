"""What the kernel's log says of machines that the memory limit has ended.

Podman 4 and Docker miss most out-of-memory kills on control groups v1, and the group that counts them is gone with the
container. The kernel's ring buffer names the group (`oom_memcg=…`) of every kill, so it can be asked afterwards.
"""

import os
import re
from pathlib import Path

_KILL = re.compile(rb"oom-kill:.*oom_memcg=(\S+?),")


def groups_killed_by_memory_limit(device: Path = Path("/dev/kmsg")) -> frozenset[str]:
    """Path of every control group whose limit has killed; empty where the log may not be read.

    The whole path: on control groups v2 crun puts the processes one level below the group that bears the id.
    """
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return frozenset()
    found: set[str] = set()
    try:
        while True:
            try:
                record = os.read(descriptor, 8192)
            except BlockingIOError:
                break
            except BrokenPipeError:  # the record was overwritten while we read; the next read goes on after it
                continue
            except OSError:
                break
            if not record:
                break
            if match := _KILL.search(record):
                found.add(match[1].decode(errors="replace"))
    finally:
        os.close(descriptor)
    return frozenset(found)
