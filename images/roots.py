"""Container images as unpacked root directories, by their digest: complete or not there, and never changed afterwards.

    HEX/root/        the root file system; HEX are the digits of the image's id
    HEX/image.json   what the image says of itself, and what its root takes; its time is that of the last use
    HEX.partial/     a root that is being made, or was when its maker died
    HEX.lock         held while one is made or removed

The directory is 0700: programs with the setuid bit and files that anybody may write, as images have them, are not for
the users of the host.
"""

import ctypes
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from images.container import ContainerImage
from images.described import Described, from_plain
from images.errors import ImageError
from images.members import DOCUMENT_LIMIT, short
from images.unpack import Limits, Unpacking

ROOT = "root"
RECORD = "image.json"
PARTIAL = ".partial"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """An unpacked image. `bytes`: what its files hold; `entries`: how many files, directories and links, at most."""

    described: Described
    path: Path
    bytes: int
    entries: int


def find(directory: Path, image_id: str) -> Root | None:
    """The root of an image (`sha256:…`) that is complete, or None. Counts as a use of it."""
    home = directory / digits(image_id)
    try:
        with (home / RECORD).open("rb") as stream:
            record = json.loads(stream.read(2 * DOCUMENT_LIMIT))
        root = Root(
            described=from_plain(record["described"]),
            path=home / ROOT,
            bytes=int(record["bytes"]),
            entries=int(record["entries"]),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
    with suppress(OSError):
        os.utime(home / RECORD)
    return root if root.path.is_dir() else None


def ensure(directory: Path, image: ContainerImage, progress: Progress, limits: Limits = Limits()) -> Root:  # noqa: B008
    """The root of an image from the cache, or unpacked now. Raises ImageError; nothing of it is left then.

    One process unpacks an image, the others wait for it. Needs root and twice the space of the largest layer beside it.
    """
    image_id = image.described.image_id
    if os.geteuid() != 0:
        raise ImageError(f"image {image.where}: only root can unpack it, since its files have owners")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        with locked(directory / f"{digits(image_id)}.lock", image.where, progress):
            return find(directory, image_id) or _made(directory, image, progress, limits)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ImageError(f"image {image.where}: {where}{short(error)}") from error


def _made(directory: Path, image: ContainerImage, progress: Progress, limits: Limits) -> Root:
    home = directory / digits(image.described.image_id)
    partial = home.with_name(home.name + PARTIAL)
    for left in (home, partial):  # of a maker that died; the lock says that none is alive
        if left.exists():
            shutil.rmtree(left)
    partial.mkdir(mode=0o700)
    try:
        unpacking = Unpacking(partial / ROOT, limits)
        unpacking.root.mkdir(mode=0o755)
        for number in range(len(image.layers)):
            progress(f"unpacking layer {number + 1} of {len(image.layers)}")
            _layer(image, number, unpacking, partial / "layer")
        record = {"described": image.described.plain(), "bytes": unpacking.size, "entries": unpacking.entries}
        (partial / RECORD).write_text(json.dumps(record, sort_keys=True) + "\n")
        sync(partial)
        partial.rename(home)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    made = find(directory, image.described.image_id)
    if made is None:
        raise ImageError(f"image {image.where}: its root at {home} cannot be read back")
    return made


def _layer(image: ContainerImage, number: int, unpacking: Unpacking, scratch: Path) -> None:
    image.layer(number, scratch, unpacking.limits.bytes)
    try:
        with scratch.open("rb") as content:
            unpacking.layer(content)
    except ImageError as error:
        raise ImageError(f"image {image.where}: layer {number + 1}: {error}") from error
    finally:
        scratch.unlink()


def listed(directory: Path) -> list[tuple[Root, float]]:
    """All roots that are complete and when each was last used (Unix seconds), the latest first."""
    found = []
    for record in directory.glob(f"*/{RECORD}"):
        with suppress(OSError):
            used = record.stat().st_mtime
            root = find(directory, f"sha256:{record.parent.name}") if record.parent.suffix != PARTIAL else None
            if root is not None:
                os.utime(record, (used, used))
                found.append((root, used))
    return sorted(found, key=lambda each: -each[1])


def remove(directory: Path, image_id: str) -> None:
    """Remove the root of an image (`sha256:…`), which no machine uses; absent is success. Raises ImageError."""
    home = directory / digits(image_id)
    gone = home.with_name(home.name + PARTIAL)
    try:
        with locked(home.with_name(f"{home.name}.lock"), image_id, lambda _: None):
            if gone.exists():
                shutil.rmtree(gone)
            if home.exists():
                home.rename(gone)  # at once; what a crash leaves of it, the next one removes
                shutil.rmtree(gone)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ImageError(f"image {image_id}: {home}: {short(error)}") from error


@contextmanager
def locked(path: Path, what: str, progress: Progress) -> Iterator[None]:
    """Hold a lock that the kernel releases when its holder dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another process that prepares {what}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Have the file system of `path` write what it holds, so that no power failure leaves empty files behind a name."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    finally:
        os.close(descriptor)


def digits(image_id: str) -> str:
    """The digits of an id, by which its files are named. Raises ImageError for what is no id."""
    algorithm, _, digits = image_id.partition(":")
    if algorithm != "sha256" or len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise ImageError(f"image {image_id[:80]!r}: is no sha256 digest")
    return digits
