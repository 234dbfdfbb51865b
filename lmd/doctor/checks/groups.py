"""Control groups: how they are mounted, and which of the needed controllers engines can use."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lmd.doctor.check import Asked, Check
from lmd.doctor.finding import Finding, note, ok, problem, warning
from lmd.doctor.looking import program
from runtimes import cgroups
from runtimes.cgroups import Layout

NEEDED = ("cpu", "memory", "pids")
DELEGATE = (
    "mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\nDelegate=cpu memory pids\\n'"
    " > /etc/systemd/system/user@.service.d/delegate.conf && systemctl daemon-reload"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """`writable` by controller: whether this user could make a group there; what is not mounted is not in it."""

    rootless: bool
    layout: Layout
    unified: frozenset[str]
    writable: Mapping[str, bool]
    oci_runtimes: frozenset[str]


def gather(asked: Asked) -> Groups:
    """From the mounts, and access(2) where groups would be made."""
    mounts = cgroups.mounts()
    places = {name: mounts.v1[name] for name in NEEDED if name in mounts.v1}
    if mounts.layout is Layout.V2 and mounts.v2:
        places = _on_v2(mounts.v2, asked)
    return Groups(
        rootless=asked.rootless,
        layout=mounts.layout,
        unified=mounts.v2_controllers,
        writable={name: os.access(path, os.W_OK) for name, path in places.items()},
        oci_runtimes=frozenset(name for name in ("crun", "runc") if program(name)),
    )


def _on_v2(root: Path, asked: Asked) -> dict[str, Path]:
    """The needed controllers that are there, with the group in which an engine of this user makes others."""
    at = root
    if asked.rootless:
        own = root / f"user.slice/user-{asked.uid}.slice/user@{asked.uid}.service"
        at = own if own.is_dir() else cgroups.directories(os.getpid(), cgroups.mounts()).get("", root)
    listed = (at / "cgroup.controllers").read_text().split()
    return {name: at for name in NEEDED if name in listed}


def rule(groups: Groups) -> Iterator[Finding]:
    """Limits hold only with the controllers; crun wants an unmixed layout."""
    if groups.layout is Layout.NONE:
        yield problem("no control groups are mounted: no machine can start", "mount -t cgroup2 cgroup2 /sys/fs/cgroup")
        return
    if groups.layout is Layout.HYBRID and groups.unified:
        yield _hybrid(groups)
    lacking = [name for name in NEEDED if name not in groups.writable]
    shut = [name for name, writable in groups.writable.items() if not writable]
    if groups.rootless and groups.layout is not Layout.V2:
        yield warning(
            "control groups of version 1 give an ordinary user no limits: a type with require_limits is refused",
            "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line, or run lm as root",
        )
    elif groups.rootless and (lacking or shut):
        yield warning(
            f"controllers that this user may not use: {', '.join(lacking + shut)}; their limits do not hold", DELEGATE
        )
    elif lacking:
        yield problem(
            f"this host lacks the controllers {', '.join(lacking)}: their limits do not hold",
            "look for cgroup_disable= on the kernel's command line (cat /proc/cmdline)",
        )
    elif shut:
        yield problem(f"control groups are read-only for {', '.join(shut)}", "mount -o remount,rw /sys/fs/cgroup")
    else:
        yield ok(f"control groups are {groups.layout}; {', '.join(NEEDED)} can be limited")


def _hybrid(groups: Groups) -> Finding:
    listed = ", ".join(sorted(groups.unified))
    mount = " && ".join(
        f"mkdir -p /sys/fs/cgroup/{name} && mount -t cgroup -o {name} {name} /sys/fs/cgroup/{name}"
        for name in sorted(groups.unified)
    )
    said = f"control groups are mixed, and the unified side lists {listed}, which crun refuses"
    if "runc" in groups.oci_runtimes:
        return note(f"{said}; runc is used", mount)
    return problem(f"{said}; runc is not installed", f"apt-get install runc; or: {mount}")


CHECK = Check("control-groups", gather, rule)
