"""A tree as one uncompressed tar layer: the same bytes for the same tree, wherever and whenever it is written.

Sorted by path, numeric owners, no times later than the epoch. Not compressed: compressors differ from host to host in
what they write, so only an uncompressed layer has the same digest everywhere; whoever pushes it compresses it then.
"""

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path

from images.entries import CAPABILITY_HEADER, Entry, Kind, Tree, directory
from images.errors import ImageError


@dataclass(frozen=True, slots=True)
class Blob:
    """A file that an image consists of; `digest` is `sha256:…`, `size` in bytes."""

    path: Path
    digest: str
    size: int


def write_layer(tree: Tree, path: Path, epoch: int) -> Blob:
    """Write `tree` to the file `path`; times after `epoch` (Unix seconds) become `epoch`."""
    first: dict[str, str] = {}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        # Without an entry of its own, engines make the root of the file system read-only for a root without rights.
        archive.addfile(_member("./", directory(), epoch))
        for name in sorted(tree):
            entry = tree[name]
            member = _member(name, entry, epoch)
            if entry.group and first.setdefault(entry.group, name) != name:
                member.type, member.size, member.linkname = tarfile.LNKTYPE, 0, first[entry.group]
            _add(archive, member, entry)
    return describe(path)


def _member(name: str, entry: Entry, epoch: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = entry.kind.value
    member.mode, member.uid, member.gid = entry.mode, entry.uid, entry.gid
    member.mtime = epoch if entry.mtime is None else max(0, min(entry.mtime, epoch))
    member.size, member.linkname = entry.size, entry.target
    member.pax_headers = {CAPABILITY_HEADER: entry.capability} if entry.capability else {}
    return member


def _add(archive: tarfile.TarFile, member: tarfile.TarInfo, entry: Entry) -> None:
    if entry.kind is not Kind.FILE or entry.content is None or member.islnk():
        archive.addfile(member)
        return
    try:
        with entry.content() as content:
            archive.addfile(member, content)
    except OSError as error:
        if error.filename is None and error.errno is None:  # tarfile's own: the content ended early
            raise ImageError(f"/{member.name}: changed while it was read; build again") from error
        raise


def describe(path: Path) -> Blob:
    """The digest and size of a file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Blob(path, f"sha256:{digest}", path.stat().st_size)
