"""An unpacked root as one file that holds a file system: the disk of virtual machines, which read it as their own.

A shared directory is there at once, but each start of a program in the guest reads the program anew from the host; from
a disk, the guest's kernel keeps what it has read.

    HEX.ext4        complete or not there, never changed; machines have overlays of their own over it
    .HEX.ext4.…     one that is being made, or was when its maker died

HEX are the digits of the image's id. The directory is 0711 and the files are 0644: QEMU reads them as another user.
"""

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from images.appear import whole_file
from images.errors import ImageError
from images.members import short
from images.roots import Progress, Root, digits, locked

FILE_SYSTEM = "ext4"
_SECONDS = 3600
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_INODE, _BLOCK = 256, 4096
_SPARE = 16_000_000
ROOM_BYTES, ROOM_ENTRIES = 8_000_000_000, 200_000
"""Free space and inodes for what a machine writes to its root; they take nothing on the host until they are used."""


def find(directory: Path, image_id: str) -> Path | None:
    """The file system image of an image (`sha256:…`), or None. Counts as a use of it."""
    path = directory / f"{digits(image_id)}.{FILE_SYSTEM}"
    try:
        os.utime(path)
    except OSError:
        return None
    return path


def ensure(directory: Path, root: Root, progress: Progress) -> Path:
    """The file system image of a root from the cache, or made now by mke2fs. Raises ImageError; nothing stays then."""
    image_id = root.described.image_id
    path = directory / f"{digits(image_id)}.{FILE_SYSTEM}"
    try:
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock"), image_id[:19], progress):
            if found := find(directory, image_id):
                return found
            for left in directory.glob(f".{path.name}.*.partial"):  # of a maker that died; the lock says so
                shutil.rmtree(left)
            progress("writing the root file system into an image file")
            with whole_file(path) as part:
                _write(root, part)
    except OSError as error:
        raise ImageError(f"image {image_id[:19]}: {error.filename or path}: {short(error)}") from error
    return path


def size(content: int, entries: int) -> int:
    """Bytes of a file system with room for `content` bytes in `entries` files and directories, in whole MiB."""
    needed = content + entries * (_BLOCK + _INODE) + ROOM_BYTES
    return (needed * 11 // 10 + _SPARE + 2**20 - 1) // 2**20 * 2**20


def _write(root: Root, part: Path) -> None:
    """No journal, since what is written goes with its machine; the same content gives the same names within it."""
    name = digits(root.described.image_id)
    uuid = f"{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:32]}"
    with part.open("wb") as out:
        out.truncate(size(root.bytes, root.entries))
    features = "^has_journal,^resize_inode,^metadata_csum_seed"
    command = ["mke2fs", "-q", "-F", "-t", FILE_SYSTEM, "-b", str(_BLOCK), "-m", "0", "-O", features]
    command += [
        "-N",
        str(root.entries + ROOM_ENTRIES),
        "-U",
        uuid,
        "-E",
        f"hash_seed={uuid},root_owner=0:0,lazy_itable_init=1",
    ]
    _run([*command, "-d", str(root.path), str(part)], root)
    _run(["debugfs", "-w", "-R", "rmdir lost+found", str(part)], root)  # no image has one


def _run(command: list[str], root: Root) -> None:
    program = shutil.which(command[0], path=_PATH)
    if program is None:
        raise ImageError(f"{command[0]} is not installed: apt-get install e2fsprogs")
    try:
        done = subprocess.run(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
        )
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"{command[0]} took more than {_SECONDS} s for {root.path}") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ImageError(f"{command[0]} could not make an image of {root.path}: {lines[-1][:200]}")


def remove(directory: Path, image_id: str) -> None:
    """Remove the file of an image (`sha256:…`), which no machine uses; absent is success."""
    with suppress(FileNotFoundError):
        (directory / f"{digits(image_id)}.{FILE_SYSTEM}").unlink()
