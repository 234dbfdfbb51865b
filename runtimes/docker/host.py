"""What a machine needs of the host before Docker is asked for it: mounts that propagate, and what there is beside."""

import os
import re
import shutil
from pathlib import Path

from runtimes import rlimits
from runtimes.containers.host import fuse_mode
from runtimes.contract import Rejected, Spec
from runtimes.docker.capabilities import Beside
from runtimes.docker.waiting import static_busybox

_OCTAL = re.compile(r"\\([0-7]{3})")


def beside() -> Beside:
    """What counts for the capabilities."""
    return Beside(
        fuse_mode=fuse_mode(), skopeo=shutil.which("skopeo") is not None, static_busybox=static_busybox() is not None
    )


def propagates(mountinfo: str, path: str) -> bool:
    """True if file systems that are mounted below `path` later reach others: its mount is shared or a slave."""
    best, propagating = "", False
    for line in mountinfo.splitlines():
        fields = line.split()
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            optional = fields[6 : fields.index("-")]
            best, propagating = point, any(word.startswith(("shared:", "master:")) for word in optional)
    return propagating


def propagating(spec: Spec, socket: Path) -> None:
    """Raises `Rejected` for a source that is to propagate and whose mount, as the daemon has it, cannot."""
    sources = [str(mount.source) for mount in spec.mounts if mount.propagate]
    if not sources:
        return
    mountinfo = (Path("/proc") / str(rlimits.peer(socket) or "self") / "mountinfo").read_text()
    for source in sources:
        if not propagates(mountinfo, os.path.realpath(source)):
            raise Rejected(
                f"machine {spec.id}: what is mounted below {source} later would not appear in it, as its mount is"
                f" private: mount --bind {source} {source} && mount --make-rshared {source}"
            )


def hand_over(volume: Path, user: str | None, first_uid: int) -> None:
    """Give a machine's scratch to the user that its payload runs as; where that is a name of the image, to all."""
    uid, _, gid = (user or "0").partition(":")
    if uid.isdecimal() and (gid or "0").isdecimal():
        os.chown(volume, first_uid + int(uid), first_uid + int(gid or 0))
        volume.chmod(0o755)
    else:
        volume.chmod(0o1777)
