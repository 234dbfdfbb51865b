"""What a machine needs of the host before Podman is asked for it: a checked root, free ids, files it may own."""

import os
from pathlib import Path

from runtimes import idranges
from runtimes.contract import Image, ImageKind, Rejected
from runtimes.idranges import IdRange

NEEDED = ("etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", "proc", "sys", "dev", "tmp", "run")
"""What a root directory must hold already. Mount points cannot be made in it, and Podman would add /etc/mtab to it."""


def root_directory(image: Image) -> str | None:
    """The checked path of an unpacked root, or None for other kinds. Raises `Rejected` naming what the root lacks."""
    if image.kind is not ImageKind.ROOT_DIRECTORY:
        return None
    root = Path(image.location)
    if not root.is_dir():
        raise Rejected(f"image {root}: no such directory")
    lacking = [name for name in NEEDED if not (root / name).exists() and not (root / name).is_symlink()]
    if lacking:
        raise Rejected(f"image {root}: cannot be used in place, it lacks {', '.join('/' + name for name in lacking)}")
    return str(root)


def subordinate() -> list[IdRange]:
    """The ranges that the host has promised to its users (subuid(5), subgid(5))."""
    found: list[IdRange] = []
    for path in (Path("/etc/subuid"), Path("/etc/subgid")):
        try:
            found += [r for ranges in idranges.parse_subordinate(path.read_text()).values() for r in ranges]
        except OSError:
            continue
    return found


def opens_tun() -> bool:
    """True if this user may open the device of user-mode networks."""
    return os.access("/dev/net/tun", os.R_OK | os.W_OK)
