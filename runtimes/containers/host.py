"""What a machine needs of the host before its engine is asked for it."""

import os
from pathlib import Path

from runtimes import rlimits
from runtimes.contract import Spec

FUSE = Path("/dev/fuse")


def give(spec: Spec, first_uid: int) -> None:
    """Make the machine's root, the host's user `first_uid`, the owner of what it is to own."""
    for mount in spec.mounts:
        if first_uid and mount.owned_by_machine:
            os.chown(mount.source, first_uid, first_uid, follow_symlinks=False)


def greatest(socket: Path) -> tuple[int, int]:
    """The most open files and processes that the service behind `socket` can hand on."""
    return rlimits.greatest("NOFILE", socket), rlimits.greatest("NPROC", socket)


def fuse_mode() -> int | None:
    """The mode of the host's FUSE device; None if there is none."""
    try:
        return FUSE.stat().st_mode
    except OSError:
        return None
