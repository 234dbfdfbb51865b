"""Disks of a machine: an overlay over its image, and an empty disk of its own; made by qemu-img and mke2fs.

The image's format is stated, never guessed from its content, and an image that leads to other files is refused: a
header may name any file of the host as its backing or data file.
"""

import json
import subprocess
from pathlib import Path

from runtimes.contract import Exhausted, ImageKind, Rejected

SECONDS = 60
LARGEST_BYTES = 64 * 2**40
FORMATS = {ImageKind.DISK_QCOW2: "qcow2", ImageKind.DISK_RAW: "raw"}


def check_image(path: Path, form: str) -> int:
    """The virtual size in bytes of an image of that format. Raises `Rejected` for what is none, or leads elsewhere."""
    said = _run(["qemu-img", "info", "--force-share", "--output=json", "-f", form, str(path)], f"image {path}")
    try:
        info = json.loads(said)
        size = int(info["virtual-size"])
    except (ValueError, KeyError, TypeError) as error:
        raise Rejected(f"image {path}: qemu-img says what cannot be understood") from error
    named = [info.get("backing-filename"), (info.get("format-specific") or {}).get("data", {}).get("data-file")]
    if other := next((name for name in named if name), None):
        raise Rejected(f"image {path}: refers to another file ({str(other)[:200]!r}); flatten it with qemu-img convert")
    if not 0 < size <= LARGEST_BYTES:
        raise Rejected(f"image {path}: its virtual size of {size} bytes is not between 1 and {LARGEST_BYTES}")
    return size


def overlay(path: Path, image: Path, form: str, size: int | None = None) -> None:
    """Make the qcow2 file `path` over `image`, grown to `size` bytes if that is more; what is there is replaced."""
    check_image(image, form)
    path.unlink(missing_ok=True)
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", str(image), str(path)]
    _run(command + ([str(size)] if size else []), f"disk {path}")


def empty(path: Path, size: int, *, file_system: bool) -> None:
    """Make the sparse file `path`, with an ext4 file system in it if asked; what is there is replaced."""
    path.unlink(missing_ok=True)
    with path.open("xb") as stream:
        stream.truncate(size)
    if file_system:
        lazy = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
        _run(["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-E", lazy, str(path)], f"disk {path}")


def _run(command: list[str], what: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        package = {"qemu-img": "qemu-utils", "mke2fs": "e2fsprogs"}[command[0]]
        raise Rejected(f"{what}: {command[0]} is not installed: apt-get install {package}") from error
    except subprocess.TimeoutExpired as error:
        raise Exhausted(f"{what}: {command[0]} took more than {SECONDS} s") from error
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[:300]
        kind = Exhausted if "no space left" in said.lower() or "quota" in said.lower() else Rejected
        raise kind(f"{what}: {said}")
    return done.stdout
