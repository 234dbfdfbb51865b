"""Limits of open files and processes: what engines ask for by default, and what this host lets them have."""

import os
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lmd.doctor.check import Asked, Check
from lmd.doctor.finding import Finding, note, ok, warning
from lmd.doctor.looking import number, text
from runtimes.rlimits import MOST

CAP_SYS_RESOURCE = 24
ENGINE_DEFAULT = MOST
FEW_FILES = 4096
PIDS = 4096
"""The default of a machinetype's `pids`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Hard limits of this process (None: none), whether it may raise them, and the kernel's bounds.

    `open_files`: what configured types ask for, by name. `zombies` are ended processes that pid 1 has not reaped.
    """

    files: int | None
    processes: int | None
    may_raise: bool
    pid_max: int
    processors: int
    open_files: Mapping[str, int]
    zombies: int


def gather(asked: Asked) -> Limits:
    """This process's own: engines that it starts have the same."""
    types = asked.config.machinetypes.values()
    return Limits(
        files=_hard(resource.RLIMIT_NOFILE),
        processes=_hard(resource.RLIMIT_NPROC),
        may_raise=may_raise(text("/proc/self/status") or ""),
        pid_max=number("/proc/sys/kernel/pid_max") or 32_768,
        processors=len(os.sched_getaffinity(0)),
        open_files={one.name: one.open_files for one in types if one.open_files is not None},
        zombies=_unreaped(),
    )


def _hard(name: int) -> int | None:
    hard = resource.getrlimit(name)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def may_raise(status: str) -> bool:
    """Whether the process of this /proc/PID/status has CAP_SYS_RESOURCE."""
    row = next((line for line in status.splitlines() if line.startswith("CapEff:")), "CapEff: 0")
    return bool(int(row.split()[1], 16) >> CAP_SYS_RESOURCE & 1)


def _unreaped() -> int:
    """Zombies whose parent is pid 1."""
    found = 0
    for entry in os.scandir("/proc"):
        stat = (text(f"/proc/{entry.name}/stat") or "") if entry.name.isdecimal() else ""
        found += stat.rpartition(")")[2].split()[:2] == ["Z", "1"]
    return found


def rule(limits: Limits) -> Iterator[Finding]:
    """Low limits reach into machines; lmd never asks an engine for more than it can give."""
    if limits.files is not None and limits.files < FEW_FILES:
        yield warning(
            f"only {limits.files} files can be open in a process, in machines too",
            "ulimit -Hn; LimitNOFILE= in the unit",
        )
    elif limits.files is not None and limits.files < ENGINE_DEFAULT and not limits.may_raise:
        yield note(
            f"machines get at most {limits.files} open files a process; Podman's own commands ask for {ENGINE_DEFAULT}"
            ' and fail with "setrlimit RLIMIT_NOFILE: Operation not permitted" (lm does not)',
            f'default_ulimits = ["nofile={limits.files}:{limits.files}", "nproc={limits.files}:{limits.files}"]'
            " in [containers] of /etc/containers/containers.conf",
        )
    for name, files in limits.open_files.items():
        if limits.files is not None and files > limits.files and not limits.may_raise:
            yield warning(f"machinetype {name} asks for {files} open files and gets {limits.files}")
    if limits.processes is not None and limits.processes < PIDS:
        yield warning(
            f"this user may have {limits.processes} processes, a machine alone up to {PIDS}", "LimitNPROC= in the unit"
        )
    if limits.pid_max < PIDS * limits.processors:
        yield note(
            f"kernel.pid_max = {limits.pid_max} is room for {limits.pid_max // PIDS} machines of {PIDS} processes",
            "echo kernel.pid_max=4194304 > /etc/sysctl.d/91-lmd.conf && sysctl --system",
        )
    if limits.zombies > 100:
        yield warning(
            f"{limits.zombies} ended processes wait to be reaped by pid 1, which is no init", "run an init as pid 1"
        )
    shown = [str(most or "unlimited") for most in (limits.files, limits.processes)]
    yield ok(f"open files {shown[0]}, processes {shown[1]}, pid_max {limits.pid_max}")


CHECK = Check("limits", gather, rule)
