"""Where on its host a virtual machine runs: processors that no other machine is bound to, huge pages, a NUMA node."""

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lmd.config.models import MachineType
from lmd.environment.directory import Directory, DirectoryError, found, write
from runtimes.contract import Placement

CPUS = "processors"
"""The file in a machine's directory that names the host's processors it is bound to."""
LOCK = ".placement.lock"
_NODES = Path("/sys/devices/system/node")
_MEMORY = Path("/proc/meminfo")


class CannotPlace(Exception):
    """The host has not what a type asks for; one line."""


def wanted(type_: MachineType) -> bool:
    """Whether a type says anything of where its machines run."""
    return type_.pinning or type_.hugepages or type_.numa_node is not None


@contextmanager
def placed(type_: MachineType, processors: int, directory: Directory) -> Iterator[Placement | None]:
    """The placement of a machine, whose directory is made within the block: there the choice is kept.

    Nobody else chooses meanwhile. Raises `CannotPlace`.
    """
    if not wanted(type_):
        yield None
        return
    machines = directory.path.parent
    descriptor = os.open(machines / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        cpus: tuple[int, ...] = ()
        if type_.pinning or type_.numa_node is not None:
            cpus = choose(_processors(type_.numa_node), _bound(machines), processors)
        size = _hugepage_bytes() if type_.hugepages else None
        yield Placement(cpus=cpus, numa_node=type_.numa_node, hugepage_bytes=size)
        if cpus:
            write(directory.path / CPUS, ",".join(map(str, cpus)).encode(), 0o644)
    finally:
        os.close(descriptor)


def bindable(type_: MachineType) -> frozenset[int] | None:
    """The host's processors that machines of a type can be bound to, none if its node is not there; None: any."""
    if not (type_.pinning or type_.numa_node is not None):
        return None
    try:
        return frozenset(_processors(type_.numa_node))
    except CannotPlace:
        return frozenset()


def choose(here: Iterable[int], taken: Iterable[int], count: int) -> tuple[int, ...]:
    """The lowest `count` of the processors `here` that are not taken. Raises `CannotPlace` if they are too few."""
    free = sorted(set(here) - set(taken))
    if len(free) < count:
        raise CannotPlace(f"{count} processors are to be bound, and {len(free)} are bound to no other machine")
    return tuple(free[:count])


def _processors(node: int | None) -> Sequence[int]:
    ours = os.sched_getaffinity(0)
    if node is None:
        return sorted(ours)
    try:
        return [cpu for cpu in numbers((_NODES / f"node{node}" / "cpulist").read_text()) if cpu in ours]
    except OSError as error:
        raise CannotPlace(f"numa_node is {node}, and this host has no such node") from error


def numbers(listed: str) -> list[int]:
    """Processors as the kernel lists them: `0-3,8`."""
    parts = [part.partition("-") for part in listed.strip().split(",") if part]
    return [cpu for first, _, last in parts for cpu in range(int(first), int(last or first) + 1)]


def _bound(machines: Path) -> Iterator[int]:
    """Processors of machines that have not ended."""
    for directory in found(machines):
        with suppress(OSError, ValueError, DirectoryError):
            listed = (directory.path / CPUS).read_text()
            if directory.load().outcome is None:
                yield from numbers(listed)


def _hugepage_bytes() -> int:
    for line in _MEMORY.read_text().splitlines():
        if line.startswith("Hugepagesize:"):
            return int(line.split()[1]) * 1024
    raise CannotPlace("hugepages is true, and this host's kernel has none")
