"""Mount by the command, look through the kernel, and leave nothing mounted."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cvmfs_served import FIXTURE, NAME

KEY = FIXTURE / "keys" / f"{NAME}.pub"


def command(*words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "cvmfs", *words], capture_output=True, timeout=50, check=False, **options
    )


def words_for(url: str, cache: Path, key: Path = KEY, *more: str) -> list[str]:
    short = ["--set", "CVMFS_TIMEOUT=2", "--set", "CVMFS_TIMEOUT_DIRECT=2", "--set", "ARCH=x86_64"]
    return ["--server", url, "--key", str(key), "--cache", str(cache), "--proxy", "DIRECT", *short, *more]


@contextlib.contextmanager
def mounted(
    url: str, where: Path, cache: Path, *more: str, name: str = NAME, key: Path = KEY
) -> Iterator[subprocess.Popen[bytes]]:
    """A mount by the command in the foreground; yields its process."""
    where.mkdir(exist_ok=True)
    before = where.stat().st_dev
    process = subprocess.Popen(
        [sys.executable, "-m", "cvmfs", "mount", name, str(where), "--foreground", *words_for(url, cache, key, *more)],
        stderr=subprocess.PIPE,
    )
    try:
        until = time.monotonic() + 20
        while where.stat().st_dev == before:
            if process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"not mounted: {(process.stderr.read() if process.stderr else b'')!r}")
            time.sleep(0.01)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        if process.stderr:
            process.stderr.close()
        unmount(where)


def unmount(where: Path) -> None:
    subprocess.run(["fusermount3", "-u", "-z", "-q", "--", str(where)], check=False, capture_output=True)


def kept_elsewhere(where: Path) -> bool:
    """Whether another process's mount namespace still has a mount at this place."""
    for table in Path("/proc").glob("[0-9]*/mountinfo"):
        with contextlib.suppress(OSError):
            if f" {where} " in table.read_text(errors="replace"):
                return True
    return False


def described_tree(top: Path) -> list[dict[str, Any]]:
    """What the kernel shows below `top`, in the form of the fixture's descriptions."""
    first: dict[int, str] = {}
    return [_described(top, path, first) for path in sorted(_paths(top), key=os.fsencode)]


def _paths(top: Path) -> Iterator[str]:
    yield str(top)
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            yield f"{folder}/{name}"


def _described(top: Path, path: str, first: dict[int, str]) -> dict[str, Any]:
    status = os.lstat(path)
    shown = path[len(str(top)) :] or "/"
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo"}
    kind = kinds[stat.S_IFMT(status.st_mode)]
    found: dict[str, Any] = {
        "path": shown,
        "type": kind,
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "size": status.st_size,
        "mtime": status.st_mtime_ns // 10**9,
        "mtime_ns": status.st_mtime_ns % 10**9,
        "uid": status.st_uid,
        "gid": status.st_gid,
        "nlink": status.st_nlink,
    }
    if kind == "symlink":
        found["target"] = str(Path(path).readlink())
    if kind == "file":
        found["sha256"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        if status.st_nlink > 1:
            found["hardlink_of"] = first.setdefault(status.st_ino, shown)
    names = sorted(os.listxattr(path, follow_symlinks=False))
    if names:
        found["xattrs_base64"] = {
            name: base64.b64encode(os.getxattr(path, name, follow_symlinks=False)).decode() for name in names
        }
    return found
