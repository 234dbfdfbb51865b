"""A root file system as a table of entries, read from a directory or a tar file, before it becomes a layer.

Device nodes and sockets are left out: engines make /dev themselves, and ordinary users cannot create devices.
"""

import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from io import BytesIO
from pathlib import Path
from typing import IO

from images.errors import ImageError

CAPABILITY = "security.capability"
CAPABILITY_HEADER = f"SCHILY.xattr.{CAPABILITY}"
"""How the tar format names it (as GNU tar and Go's archive/tar do)."""
_LINKS_LIMIT = 40


class Kind(Enum):
    """What an entry is; the values are those of the tar format."""

    FILE = tarfile.REGTYPE
    DIRECTORY = tarfile.DIRTYPE
    SYMLINK = tarfile.SYMTYPE
    FIFO = tarfile.FIFOTYPE


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One member of a root file system; `size` in bytes, `content` for files only.

    `mtime` in Unix seconds; None is the image's epoch.

    `capability` is the file's capability attribute, bytes that are no text in surrogate escapes.

    Entries with the same `group`, unless it is empty, are hard links of each other.
    """

    kind: Kind
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int | None = None
    size: int = 0
    target: str = ""
    group: str = ""
    capability: str = ""
    content: Callable[[], IO[bytes]] | None = None


Tree = dict[str, Entry]
"""Entries by their path: relative, without a leading `./`; the root itself is not in it."""


def directory(mode: int = 0o755) -> Entry:
    """A directory of root's."""
    return Entry(kind=Kind.DIRECTORY, mode=mode)


def symlink(target: str) -> Entry:
    """A symbolic link of root's."""
    return Entry(kind=Kind.SYMLINK, mode=0o777, target=target)


def file(data: bytes, mode: int = 0o644) -> Entry:
    """A file of root's."""
    return Entry(kind=Kind.FILE, mode=mode, size=len(data), content=lambda: BytesIO(data))


def from_directory(root: Path) -> Tree:
    """The tree below `root`, with its owners and modes. Raises ImageError if it cannot be read in full."""
    tree: Tree = {}

    def refuse(error: OSError) -> None:
        raise ImageError(f"root directory {root}: {error.filename} cannot be read: {error.strerror}") from error

    if not root.is_dir():
        raise ImageError(f"root directory {root}: is not a directory")
    for folder, folders, files in os.walk(root, onerror=refuse):
        for name in folders + files:
            path = Path(folder, name)
            try:
                entry = _from_path(path)
            except OSError as error:
                refuse(error)
            if entry is not None:
                tree[str(path.relative_to(root))] = entry
    return tree


def _from_path(path: Path) -> Entry | None:
    found = path.lstat()
    kinds = {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.SYMLINK, stat.S_IFIFO: Kind.FIFO}
    kind = kinds.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return None
    is_file = kind is Kind.FILE
    return Entry(
        kind=kind,
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        mtime=int(found.st_mtime),
        size=found.st_size if is_file else 0,
        target=str(path.readlink()) if kind is Kind.SYMLINK else "",
        group=f"{found.st_dev}:{found.st_ino}" if is_file and found.st_nlink > 1 else "",
        capability=_capability(path) if is_file else "",
        content=(lambda: path.open("rb")) if is_file else None,
    )


def _capability(path: Path) -> str:
    try:
        return os.getxattr(path, CAPABILITY, follow_symlinks=False).decode("utf-8", "surrogateescape")
    except OSError:
        return ""  # none, or a file system without attributes


def from_tar(archive: tarfile.TarFile) -> Tree:
    """The tree in a tar file, which has to stay open while the entries' content is read.

    Raises ImageError for a member that an image cannot hold.
    """
    tree: Tree = {}
    for member in archive:
        name = relative(member.name)
        if member.islnk():
            first = relative(member.linkname)
            if first not in tree:
                raise ImageError(f"{member.name}: is a hard link to {member.linkname}, which is not in the archive")
            tree[first] = replace(tree[first], group=first)
            tree[name] = tree[first]
        elif name and (entry := _from_member(archive, member)) is not None:
            tree[name] = entry
    return tree


def _from_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Entry | None:
    if member.ischr() or member.isblk():
        return None
    try:
        kind = Kind.FILE if member.isreg() else Kind(member.type)
    except ValueError:
        raise ImageError(f"{member.name}: members of type {member.type!r} have no place in an image") from None
    return Entry(
        kind=kind,
        mode=member.mode,
        uid=member.uid,
        gid=member.gid,
        mtime=int(member.mtime),
        size=member.size if kind is Kind.FILE else 0,
        target=member.linkname if kind is Kind.SYMLINK else "",
        capability=member.pax_headers.get(CAPABILITY_HEADER, ""),
        content=(lambda: _extract(archive, member)) if kind is Kind.FILE else None,
    )


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(member)
    if stream is None:
        raise ImageError(f"{member.name}: has no content in its archive")
    return stream


def relative(name: str) -> str:
    """The path relative to the root, normalised; empty for the root. Raises ImageError if it leaves the root."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise ImageError(f"path {name!r}: may not contain .. in an image")
    return "/".join(parts)


def place(tree: Tree, name: str, entry: Entry) -> None:
    """Put an entry at `name`, through symbolic links of directories, making the directories above it.

    A directory that is there keeps what is in it. Raises ImageError where a directory and something else clash.
    """
    *above, last = relative(name).split("/")
    folder = ""
    for part in above:
        folder = _entered(tree, f"{folder}/{part}".removeprefix("/"))
        if tree.setdefault(folder, directory()).kind is not Kind.DIRECTORY:
            raise ImageError(f"/{relative(name)}: /{folder} is not a directory")
    path = f"{folder}/{last}".removeprefix("/")
    present = tree.get(path)
    if present is not None and (present.kind is Kind.DIRECTORY) != (entry.kind is Kind.DIRECTORY):
        raise ImageError(f"/{path}: a directory and something else cannot both stand there")
    tree[path] = entry


def _entered(tree: Tree, path: str) -> str:
    """Where `path` leads when every symbolic link of the tree on the way is followed."""
    for _ in range(_LINKS_LIMIT):
        for prefix in _prefixes(path):
            found = tree.get(prefix)
            if found is not None and found.kind is Kind.SYMLINK:
                base = "/" if found.target.startswith("/") else f"/{prefix}/.."
                path = os.path.normpath(f"{base}/{found.target}{path[len(prefix) :]}").strip("/")
                break
        else:
            return path
    raise ImageError(f"/{path}: more than {_LINKS_LIMIT} symbolic links")


def beyond_links(tree: Tree) -> list[str]:
    """Paths of a tree that lead through one of its symbolic links: unpacking them could write anywhere."""
    links = {name for name, entry in tree.items() if entry.kind is Kind.SYMLINK}
    return [name for name in tree if any(prefix in links for prefix in _prefixes(name) if prefix != name)]


def _prefixes(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[: count + 1]) for count in range(len(parts)))
