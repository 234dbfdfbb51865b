"""Is this place fit to mount on, and how is a dead mount removed from it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cvmfs.errors import BadConfiguration

_OPTIONS = re.compile(
    r"allow_other|allow_root|auto_unmount|default_permissions|(no)?(suid|dev|exec|atime)|ro"
    r"|(max_read|fsname|subtype)=[A-Za-z0-9._:/@+-]{1,128}",
    re.ASCII,
)
_DETACH = 2
_DESCRIPTOR = re.compile(r"/dev/fd/[0-9]{1,9}", re.ASCII)


def check_options(words: Sequence[str], repository: str) -> list[str]:
    """The options of the mount, with ours. Raises BadConfiguration for one that is not known."""
    found = ["ro", "nodev", f"fsname={repository}", "subtype=lmd-cvmfs"]
    for word in (part for text in words for part in text.split(",") if part):
        if not _OPTIONS.fullmatch(word):
            raise BadConfiguration(f"mount option {word[:80]!r}: not an option of a read-only FUSE mount")
        name = word.partition("=")[0]
        found = [other for other in found if other.partition("=")[0] != name and other != f"no{name}"]
        found.append(word)
    return found


def check_mountpoint(text: str) -> str:
    """The absolute path of a directory to mount on, or `/dev/fd/N`; a dead mount of FUSE is removed from it first.

    Raises BadConfiguration if it is no directory or if something is mounted there.
    """
    if _DESCRIPTOR.fullmatch(text):
        if not Path(text).exists():
            raise BadConfiguration(f"mountpoint {text}: no such descriptor is open in this process")
        return text
    path = os.path.realpath(text)
    if path in mounted() and _is_dead(path):
        unmount(path)
    if path in mounted():
        raise BadConfiguration(f"mountpoint {path}: in use, something is mounted there: unmount it, or choose another")
    try:
        os.scandir(path).close()
    except OSError as error:
        raise BadConfiguration(f"mountpoint {path}: cannot be mounted on ({error.strerror})") from error
    return path


def check_inside(text: str) -> str:
    """The absolute path of a mountpoint in another mount namespace. Raises BadConfiguration."""
    if not text.startswith("/") or "\0" in text or ".." in text.split("/") or not text.strip("/"):
        raise BadConfiguration(f"mountpoint {text[:200]!r}: in a machine it has to be an absolute path without ..")
    return text


def unmount(path: str) -> None:
    """Take a FUSE mount away, also one that is in use or dead; nothing is said if that fails."""
    with contextlib.suppress(subprocess.TimeoutExpired, FileNotFoundError):
        subprocess.run(["fusermount3", "-u", "-z", "--", path], check=False, capture_output=True, timeout=20)


def unshare(root: str) -> None:
    """Take away the bind mount that made a directory of mountpoints shared, once nothing is mounted below it."""
    now = mounted()
    if root in now and not any(where.startswith(f"{root}/") for where in now):
        ctypes.CDLL(None).umount2(os.fsencode(root), _DETACH)


def _is_dead(path: str) -> bool:
    """Whether the process behind a mount is gone; a listing asks it, where attributes may come from the kernel."""
    try:
        os.scandir(path).close()
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def mounted() -> set[str]:
    """Where file systems are mounted in this mount namespace."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return {re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split(" ")[4]) for line in lines}
