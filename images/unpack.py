"""Layers of a container image laid over each other in a directory, as untrusted input.

Nothing outside the directory is read or written: links of the image are followed within it only. As in the overlays of
the engines, a layer replaces what is there, except a directory by a directory, and follows no link but its own: a
member beyond a link of a lower layer puts a directory in its place. `.wh.NAME` takes away what lower layers have, and
`.wh..wh..opq` all that they have in a directory (image-spec 1.0, layer). Device nodes are left out: a machine makes
its own, and on the host they would be ways around its permissions. Needs root, since owners are kept.
"""

import os
import shutil
import tarfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from images.entries import relative
from images.errors import ImageError
from images.members import UNREADABLE, short, tar

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
_AUFS = ".wh..wh."
_XATTR = "SCHILY.xattr."
_XATTRS = ("security.capability", "system.posix_acl_access", "system.posix_acl_default")
_LINKS_LIMIT = 40
_PIECE = 1 << 20
_MOST_ID = 2**32 - 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an image may take on disk: content in bytes, members of all layers, directories one in another."""

    bytes: int = 100_000_000_000
    entries: int = 5_000_000
    depth: int = 256


@dataclass(slots=True)
class Unpacking:
    """A directory that is being filled; `size` (bytes) and `entries` of what was put into it, removed since or not.

    Nobody else may change the directory meanwhile.
    """

    root: Path
    limits: Limits = Limits()
    size: int = 0
    entries: int = 0
    _fresh: set[str] = field(default_factory=set)
    """What the present layer has placed, and the directories above it."""
    _folders: dict[str, str] = field(default_factory=dict)
    """Where the directories that members name lie when links are followed."""
    _times: dict[str, int] = field(default_factory=dict)

    def layer(self, content: IO[bytes]) -> None:
        """Lay a layer over what is there: an uncompressed tar file. Raises ImageError naming the member."""
        self._fresh.clear()
        self._folders.clear()
        self._times.clear()
        try:
            with tar(content) as archive:
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # or a table of all of them stays in memory
                    self._count(member)
                    self._member(archive, member)
        except UNREADABLE as error:
            raise ImageError(f"cannot be read: {short(error)}") from error
        for path, time in sorted(self._times.items(), reverse=True):
            with suppress(FileNotFoundError):
                os.utime(self._real(path), ns=(time, time), follow_symlinks=False)

    def _count(self, member: tarfile.TarInfo) -> None:
        self.entries += 1
        self.size += max(0, member.size) if member.isreg() else 0
        if self.entries > self.limits.entries:
            raise ImageError(f"has more than {self.limits.entries} members")
        if self.size > self.limits.bytes:
            raise ImageError(f"has more than {self.limits.bytes} bytes in its files")

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        folder, _, name = relative(member.name).rpartition("/")
        try:
            if name.startswith(WHITEOUT):
                self._whiteout(folder, name)
            elif not name:
                if member.isdir():
                    self._owned("", member)
            elif not (member.ischr() or member.isblk()):
                self._place(archive, member, f"{self._folder(folder)}/{name}".removeprefix("/"))
        except OSError as error:
            raise ImageError(f"/{_shown(member.name)}: {short(error)}") from error

    def _whiteout(self, folder: str, name: str) -> None:
        inside = self._folder(folder)
        if name == OPAQUE:
            for child in list(self._real(inside).iterdir()):
                self._hide(f"{inside}/{child.name}".removeprefix("/"))
        elif not name.startswith(_AUFS):
            hidden = name.removeprefix(WHITEOUT)
            if hidden in ("", ".", ".."):
                raise ImageError(f"/{_shown(folder)}/{_shown(name)}: takes nothing away")
            self._hide(f"{inside}/{hidden}".removeprefix("/"))

    def _hide(self, path: str) -> None:
        """Remove what lower layers have at `path`, and leave what the present one has put there."""
        if path not in self._fresh:
            self._remove(path)
        elif _is_directory(self._real(path)):
            for child in list(self._real(path).iterdir()):
                self._hide(f"{path}/{child.name}")

    def _place(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        real = self._real(path)
        source = self._link_source(member, path) if member.islnk() else None
        if not (member.isdir() and _is_directory(real)):
            self._remove(path)
            if member.isdir():
                real.mkdir()
            elif source is not None:
                os.link(source, real, follow_symlinks=False)
            elif member.issym():
                real.symlink_to(_target(member))
            elif member.isfifo():
                os.mkfifo(real)
            elif member.isreg():
                _write(archive, member, real)
            else:
                raise ImageError(f"/{_shown(path)}: members of type {member.type!r} have no place in an image")
        if source is None:
            self._owned(path, member)
        self._note(path)

    def _note(self, path: str) -> None:
        while path and path not in self._fresh:
            self._fresh.add(path)
            path = path.rpartition("/")[0]

    def _owned(self, path: str, member: tarfile.TarInfo) -> None:
        """Owner first, which takes capabilities and the setuid bit away; then those; the time last."""
        real = self._real(path)
        if not (0 <= member.uid <= _MOST_ID and 0 <= member.gid <= _MOST_ID):
            raise ImageError(f"/{_shown(path)}: owner {member.uid}:{member.gid} is none")
        os.chown(real, member.uid, member.gid, follow_symlinks=False)
        if not member.issym():
            real.chmod(member.mode & 0o7777)
            _attributes(real, member)
        time = _nanoseconds(member.mtime)
        if member.isdir():
            self._times[path] = time
        else:
            os.utime(real, ns=(time, time), follow_symlinks=False)

    def _link_source(self, member: tarfile.TarInfo, path: str) -> Path:
        folder, _, name = relative(member.linkname).rpartition("/")
        inside = self._walk(folder, make=False)
        source = f"{inside}/{name}".removeprefix("/")
        real = self._real(source)
        if inside is None or not name or source == path or not os.path.lexists(real) or _is_directory(real):
            raise ImageError(f"/{_shown(path)}: is a hard link to {_shown(member.linkname)}, which is no file here")
        return real

    def _remove(self, path: str) -> None:
        real = self._real(path)
        if _is_directory(real):
            shutil.rmtree(real)
        elif os.path.lexists(real):
            real.unlink()
        else:
            return
        self._folders.clear()
        self._times = {name: time for name, time in self._times.items() if name != path}

    def _real(self, path: str) -> Path:
        """The place of a path that no link is in but, perhaps, as its last part."""
        return self.root / path

    def _folder(self, name: str) -> str:
        """The directory that a name leads to, made where it is missing."""
        found = self._folders.get(name)
        if found is None:
            found = self._folders[name] = self._walk(name, make=True) or ""
        return found

    def _walk(self, name: str, *, make: bool) -> str | None:
        """Where a directory lies when the links of this layer are followed within the root; None if it is missing."""
        ahead, at, links = name.split("/")[::-1], list[str](), 0
        while ahead:
            part = ahead.pop()
            if part == "..":
                at = at[:-1]
            if part in ("", ".", ".."):
                continue
            path = "/".join([*at, part])
            real = self._real(path)
            if make and path not in self._fresh and not _is_directory(real):
                self._remove(path)
                real.mkdir(mode=0o755)
                real.chmod(0o755)
                self._note(path)
            if real.is_symlink() and path in self._fresh:
                target = str(real.readlink())
                links += 1
                at = [] if target.startswith("/") else at
                ahead += target.split("/")[::-1]
            elif _is_directory(real):
                at.append(part)
            elif make:
                raise ImageError(f"/{_shown(name)}: /{_shown(path)} is not a directory")
            else:
                return None
            if links > _LINKS_LIMIT or len(at) > self.limits.depth or len(ahead) > 4096:
                raise ImageError(f"/{_shown(name)}: leads through too many links or directories")
        return "/".join(at)


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, real: Path) -> None:
    stream = archive.extractfile(member)
    descriptor = os.open(real, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        left = member.size
        while left and stream is not None:
            piece = stream.read(min(left, _PIECE))
            if not piece:
                raise ImageError(f"/{_shown(member.name)}: ends before its content does")
            out.write(piece)
            left -= len(piece)


def _attributes(real: Path, member: tarfile.TarInfo) -> None:
    """Those that mean something in a machine; none by which an overlay or a security module of the host is told what
    to do. A file system that keeps none of them loses them, as it would with the engines."""
    for header, value in member.pax_headers.items():
        name = header.removeprefix(_XATTR)
        wanted = name in _XATTRS or (name.startswith("user.") and not name.startswith("user.overlay."))
        if header.startswith(_XATTR) and wanted and "\0" not in name:
            with suppress(OSError):
                os.setxattr(real, name, value.encode("utf-8", "surrogateescape"), follow_symlinks=False)


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _target(member: tarfile.TarInfo) -> str:
    if not member.linkname or "\0" in member.linkname:
        raise ImageError(f"/{_shown(member.name)}: is a link to nothing")
    return member.linkname


def _nanoseconds(mtime: float) -> int:
    """A time that file systems can hold; what is no time is the beginning of time."""
    return int(min(max(mtime, 0), 2**33)) * 10**9 if mtime == mtime else 0


def _shown(name: str) -> str:
    """A member's name for a message: short, and without anything that a terminal would act upon."""
    return repr(name[:200])[1:-1].lstrip("/")
