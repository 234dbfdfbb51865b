"""Room on disk for what lmd and the engines keep, and whether it can be written and executed there."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lmd.doctor.check import Asked, Check
from lmd.doctor.finding import Finding, note, ok, problem, warning
from lmd.places import PlaceError

TOO_LITTLE = 1_000_000_000
LITTLE = 10_000_000_000
FEW_INODES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """One directory, or its nearest parent that is there. `what` names it; bytes and counts are those still free."""

    what: str
    path: Path
    free: int = 0
    inodes: int | None = None
    read_only: bool = False
    no_exec: bool = False
    error: str = ""


def gather(asked: Asked) -> list[Room]:
    """Lmd's own directories, and the stores of engines that are there."""
    rooms = [
        _room("state", asked.places.state),
        _room("cache", asked.places.cache),
        *(_room(f"{name}'s images", path) for name, path in stores(asked).items() if path.exists()),
    ]
    try:
        asked.places.make()
    except PlaceError as error:
        rooms.append(Room(what="directories", path=asked.places.state, error=str(error)))
    return rooms


def stores(asked: Asked) -> Mapping[str, Path]:
    """Where engines keep images and containers, by runtime: as configured, or their own default."""
    data = Path(asked.environment.get("XDG_DATA_HOME") or Path(asked.environment.get("HOME") or "/") / ".local/share")
    usual = {
        "podman": data / "containers/storage" if asked.rootless else Path("/var/lib/containers/storage"),
        "docker": Path("/var/lib/docker"),
        "kvm": Path("/var/lib/libvirt/images"),
    }
    configured = {name: Path(options["root"]) for name, options in asked.config.runtimes.items() if "root" in options}
    return {name: path for name, path in (usual | configured).items() if name in asked.runtimes}


def _room(what: str, path: Path) -> Room:
    there = next((parent for parent in (path, *path.parents) if parent.exists()), Path("/"))
    try:
        found = os.statvfs(there)
    except OSError as error:
        return Room(what=what, path=path, error=f"{there}: {error.strerror}")
    return Room(
        what=what,
        path=path,
        free=found.f_bavail * found.f_frsize,
        inodes=found.f_favail if found.f_files else None,
        read_only=bool(found.f_flag & os.ST_RDONLY),
        no_exec=bool(found.f_flag & os.ST_NOEXEC),
    )


def rule(rooms: list[Room]) -> Iterator[Finding]:
    """A full or read-only directory is a problem, a small one a warning."""
    for room in rooms:
        named = f"{room.what} ({room.path})"
        free = f"{room.free / 1e9:.1f} GB free"
        if room.error:
            yield problem(f"{room.what}: {room.error}")
        elif room.read_only:
            yield problem(f"{named}: the file system is read-only", f"mount -o remount,rw {room.path}")
        elif room.free < TOO_LITTLE:
            yield problem(f"{named}: only {free}", "lm image prune")
        elif room.inodes is not None and room.inodes < FEW_INODES:
            yield problem(f"{named}: only {room.inodes} files can still be made", f"df -i {room.path}")
        elif room.what == "state" and room.no_exec:
            yield problem(
                f"{named}: is mounted noexec, so user_data cannot be run", f"mount -o remount,exec {room.path}"
            )
        elif room.free < LITTLE:
            yield note(f"{named}: {free}", "lm image prune") if room.what == "cache" else warning(f"{named}: {free}")
        else:
            yield ok(f"{named}: {free}")


CHECK = Check("disk", gather, rule)
