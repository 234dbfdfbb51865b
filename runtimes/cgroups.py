"""What the kernel's control groups say: layout of the host (v1, hybrid, v2), limits in force, use by a machine."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from runtimes.contract import Usage

LOWEST_SHARES = 2
"""The kernel's least weight: 2 of 1024 on control groups v1, which engines turn into 1 of 10,000 on v2."""
_UNLIMITED_V1 = 2**62


class Layout(StrEnum):
    """How control groups are mounted on this host."""

    V1 = "v1"
    HYBRID = "hybrid"
    V2 = "v2"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Mounts:
    """Where hierarchies are mounted: v1 by controller, and the unified one with the controllers that it lists."""

    v1: Mapping[str, Path]
    v2: Path | None
    v2_controllers: frozenset[str]

    @property
    def layout(self) -> Layout:
        """The layout that these mounts make."""
        if self.v1:
            return Layout.HYBRID if self.v2 else Layout.V1
        return Layout.V2 if self.v2 else Layout.NONE


@dataclass(frozen=True, slots=True)
class InForce:
    """Limits found in a process's control groups; None where there is none."""

    processors: float | None = None
    memory_bytes: int | None = None
    pids: int | None = None


def mounts(mountinfo: str | None = None) -> Mounts:
    """The hierarchies of this process's mount namespace, or those of the text of a mountinfo file."""
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        point = Path(before.split()[4])
        if kind == "cgroup":
            v1.update({name: point for name in options.split()[-1].split(",") if name not in ("rw", "ro")})
        elif kind == "cgroup2":
            v2 = v2 or point
    listed = _read(v2 / "cgroup.controllers") if v2 else None
    return Mounts(v1, v2, frozenset((listed or "").split()))


def directories(pid: int, where: Mounts) -> dict[str, Path]:
    """The control group directory of a process by controller, and under "" its unified one.

    Raises `ProcessLookupError` if there is no such process.
    """
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError as error:
        raise ProcessLookupError(f"no process {pid}") from error
    found: dict[str, Path] = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            root = where.v1.get(controller) if controller else where.v2
            if root:
                found[controller] = root / path.lstrip("/")
    return found


def _machine(pid: int, where: Mounts, name: str) -> dict[str, Path]:
    """The directories of a machine's process, whose group has `name` in its path.

    In another group is a process that has just ended (the root group), or one that may have none of its own (rootless
    engines on v1): what that group says is not the machine's.
    """
    at = directories(pid, where)
    if name not in str(at.get("memory", at.get("", ""))):
        raise ProcessLookupError(f"process {pid} is in no control group of {name}")
    return at


def in_force(pid: int, where: Mounts, name: str) -> InForce:
    """The limits that hold for a machine's process. Raises `ProcessLookupError` if it has no group with `name` in its
    path."""
    return limits_in(_machine(pid, where, name))


def limits_in(at: Mapping[str, Path]) -> InForce:
    """The limits in group directories as `directories` gives them."""
    if "memory" in at or "cpu" in at:
        quota = _number(at, "cpu", "cpu.cfs_quota_us")
        period = _number(at, "cpu", "cpu.cfs_period_us")
        memory = _number(at, "memory", "memory.limit_in_bytes")
        return InForce(
            processors=quota / period if quota and period and quota > 0 else None,
            memory_bytes=memory if memory is not None and memory < _UNLIMITED_V1 else None,
            pids=_number(at, "pids", "pids.max"),
        )
    quota_text, _, period_text = (_value(at, "", "cpu.max") or "max 100000").partition(" ")
    return InForce(
        processors=int(quota_text) / int(period_text) if quota_text.isdecimal() else None,
        memory_bytes=_number(at, "", "memory.max"),
        pids=_number(at, "", "pids.max"),
    )


def weigh(release: str) -> str:
    """How a kernel of this release gives a group the lowest weight: "idle" (cpu.idle, since 5.15), or "shares".

    >>> weigh("6.1.0-18-amd64"), weigh("5.14.0-427.el9")
    ('idle', 'shares')
    """
    numbers = [int(part) for part in re.findall(r"[0-9]+", release)[:2]]
    return "idle" if numbers >= [5, 15] else "shares"


def rest(pid: int, where: Mounts, name: str) -> bool:
    """Give a machine's processes `cpu.idle`, below every weight; False where it is not to be had.

    Raises `ProcessLookupError` if its process has no group with `name` in its path.
    """
    at = _machine(pid, where, name)
    file = at.get("cpu", at.get("", Path("/nonexistent"))) / "cpu.idle"
    try:
        file.write_text("1")
    except OSError:
        return False
    return True


def usage(pid: int, where: Mounts, name: str) -> Usage:
    """What a machine's control group has used since it was made. Raises `ProcessLookupError` if it has none with
    `name` in its path."""
    used = used_in(_machine(pid, where, name))
    received, sent = network_bytes(pid)
    return replace(used, network_received_bytes=received, network_sent_bytes=sent)


def used_in(at: Mapping[str, Path]) -> Usage:
    """The use that group directories tell, without the network."""
    if "memory" in at or "cpuacct" in at:
        return Usage(
            cpu_seconds=(_number(at, "cpuacct", "cpuacct.usage") or 0) / 1e9,
            memory_bytes=_number(at, "memory", "memory.usage_in_bytes") or 0,
            memory_peak_bytes=_number(at, "memory", "memory.max_usage_in_bytes"),
            oom_kills=_fields(_value(at, "memory", "memory.oom_control")).get("oom_kill"),
        )
    return Usage(
        cpu_seconds=_fields(_value(at, "", "cpu.stat")).get("usage_usec", 0) / 1e6,
        memory_bytes=_number(at, "", "memory.current") or 0,
        memory_peak_bytes=_number(at, "", "memory.peak"),
        oom_kills=_fields(_value(at, "", "memory.events")).get("oom_kill"),
    )


def network_bytes(pid: int) -> tuple[int | None, int | None]:
    """Bytes received and sent by a process's network namespace, loopback left out; None where it cannot be read."""
    text = _read(Path(f"/proc/{pid}/net/dev"))
    if text is None:
        return None, None
    received = sent = 0
    for line in text.splitlines()[2:]:
        name, _, numbers = line.partition(":")
        columns = numbers.split()
        if name.strip() != "lo" and len(columns) >= 9:
            received += int(columns[0])
            sent += int(columns[8])
    return received, sent


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _value(at: Mapping[str, Path], controller: str, file: str) -> str | None:
    directory = at.get(controller)
    text = _read(directory / file) if directory else None
    return text.strip() if text else None


def _number(at: Mapping[str, Path], controller: str, file: str) -> int | None:
    text = _value(at, controller, file)
    return int(text) if text and text.lstrip("-").isdecimal() else None


def _fields(text: str | None) -> dict[str, int]:
    pairs = (line.split() for line in (text or "").splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
