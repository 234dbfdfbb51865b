"""Memory and processors, against what the default machine asks."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from lmd.doctor.check import Asked, Check
from lmd.doctor.finding import Finding, note, ok, warning
from lmd.doctor.looking import text

KIBIBYTE = 1024
MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes; `processors` are those that this process may use; `mb_per_processor` is the configuration's."""

    total: int
    available: int
    processors: int
    mb_per_processor: int


def gather(asked: Asked) -> Memory:
    """From /proc/meminfo."""
    found = parsed(text("/proc/meminfo") or "")
    return Memory(
        total=found.get("MemTotal", 0),
        available=found.get("MemAvailable", 0),
        processors=len(os.sched_getaffinity(0)),
        mb_per_processor=asked.config.settings.mb_per_processor,
    )


def parsed(meminfo: str) -> dict[str, int]:
    """The rows of /proc/meminfo in bytes."""
    rows = (line.replace(":", " ").split() for line in meminfo.splitlines())
    return {row[0]: int(row[1]) * KIBIBYTE for row in rows if len(row) == 3 and row[1].isdecimal()}


def rule(memory: Memory) -> Iterator[Finding]:
    """How many processors' machines fit."""
    each = memory.mb_per_processor * MEBIBYTE
    fitting = memory.total // each
    what = f"{memory.processors} processors, {memory.total / 1e9:.1f} GB of memory, {memory.available / 1e9:.1f} free"
    if memory.available < each:
        yield warning(f"{what}: less is free than one processor's machine gets ({memory.mb_per_processor} MiB)")
    elif fitting < memory.processors:
        yield note(f"{what}: enough for {fitting} processors with mb_per_processor = {memory.mb_per_processor}")
    else:
        yield ok(what)


CHECK = Check("memory", gather, rule)
