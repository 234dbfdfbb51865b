"""Directory entries as catalogs store them, checked."""

from __future__ import annotations

import enum
import stat
from dataclasses import dataclass

from cvmfs.errors import Damaged, Unsupported
from cvmfs.hashes import ALGORITHMS, ContentHash

_DIR, _NESTED_MOUNTPOINT, _FILE, _LINK, _SPECIAL, _NESTED_ROOT, _CHUNKED, _EXTERNAL = 1, 2, 4, 8, 16, 32, 64, 128
_BIND_MOUNTPOINT, _HIDDEN, _DIRECT_IO = 0x4000, 0x8000, 0x10000
_MAX_SIZE = 1 << 60
_MAX_TARGET = 4096
_MAX_ID = (1 << 32) - 1
_SPECIAL_TYPES = (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
COMPRESSIONS = ("zlib", "none")


class Kind(enum.StrEnum):
    """What an entry is."""

    FILE = "file"
    DIRECTORY = "dir"
    LINK = "symlink"
    SPECIAL = "special"


_MODE_OF_KIND = {Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.LINK: stat.S_IFLNK}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a file: `offset` and `size` in bytes of content."""

    offset: int
    size: int
    hash: ContentHash


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a catalog. `mode` is the whole st_mode, times are Unix time, `link_group` is 0 or the
    number of a hard-link group of the same catalog, `device` the number of a device node."""

    name: bytes
    kind: Kind
    mode: int
    size: int
    mtime: int
    mtime_ns: int
    uid: int
    gid: int
    nlink: int
    link_group: int
    hash: ContentHash | None
    target: bytes
    flags: int
    xattrs: bytes

    @property
    def chunked(self) -> bool:
        """Its content is in chunks (and may be in one object too)."""
        return bool(self.flags & _CHUNKED)

    @property
    def external(self) -> bool:
        """Its content is outside of the repository."""
        return bool(self.flags & _EXTERNAL)

    @property
    def hidden(self) -> bool:
        """Found by name, and not listed."""
        return bool(self.flags & _HIDDEN)

    @property
    def mountpoint(self) -> bool:
        """Another catalog starts here, nested or bound."""
        return bool(self.flags & (_NESTED_MOUNTPOINT | _BIND_MOUNTPOINT))

    @property
    def direct_io(self) -> bool:
        """To be read past the kernel's page cache."""
        return bool(self.flags & _DIRECT_IO)

    @property
    def compression(self) -> str:
        """`zlib` or `none`. Raises Unsupported for another one."""
        number = (self.flags >> 11) & 7
        if number >= len(COMPRESSIONS):
            raise Unsupported(f"entry {self.name!r}: compression number {number} is unknown to this reader")
        return COMPRESSIONS[number]

    @property
    def algorithm(self) -> int:
        """Index of the hash algorithm of this entry's objects."""
        return hash_algorithm(self.flags)

    @property
    def device(self) -> int:
        """The device number of a character or block device, else 0; catalogs keep it in the size."""
        return 0


@dataclass(frozen=True, slots=True)
class Device(Entry):
    """A character or block device."""

    number: int = 0

    @property
    def device(self) -> int:
        return self.number


def hash_algorithm(flags: int) -> int:
    """The number of the hash algorithm in bits 8 to 10; raises Unsupported for one not known."""
    number = (flags >> 8) & 7
    if number >= len(ALGORITHMS):
        raise Unsupported(f"hash algorithm number {number} in a catalog is unknown to this reader")
    return number


def check_name(name: object) -> bytes:
    """The name of an entry; raises Damaged for what no directory may contain."""
    if not isinstance(name, bytes):
        raise Damaged(f"catalog: entry name {name!r:.80} is not text")
    if not name or len(name) > 255 or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise Damaged(f"catalog: entry name {name!r:.80} is not a file name")
    return name


def make_entry(row: tuple[object, ...], *, is_root: bool) -> Entry:
    """An entry from the columns (name, hash, size, mode, mtime, mtimens, flags, symlink, uid, gid, hardlinks, xattr).

    The entry at the root of a catalog may have any name. Raises Damaged or Unsupported.
    """
    name_, hash_, size, mode, mtime, mtime_ns, flags, target, uid, gid, hardlinks, xattrs = row
    name = b"" if is_root else check_name(name_)
    flag_bits = _integer(name, "flags", flags, 0, (1 << 32) - 1)
    mode_bits = _integer(name, "mode", mode, 0, 0o177777)
    kind = _kind(name, flag_bits, mode_bits)
    links = _integer(name, "hardlinks", 1 if hardlinks is None else hardlinks, 0, (1 << 63) - 1)
    link = _bytes(name, "symlink", target, _MAX_TARGET) if kind is Kind.LINK else b""
    length = _integer(name, "size", size, 0, _MAX_SIZE)
    fields = (
        name,
        kind,
        mode_bits,
        0 if kind is Kind.SPECIAL else length,
        _integer(name, "mtime", mtime, -(1 << 40), 1 << 40),
        _integer(name, "mtimens", 0 if mtime_ns is None else mtime_ns, 0, 999_999_999),
        _integer(name, "uid", uid, 0, _MAX_ID),
        _integer(name, "gid", gid, 0, _MAX_ID),
        links & 0xFFFFFFFF or 1,
        links >> 32,
        _hash(name, hash_, flag_bits) if kind is Kind.FILE else None,
        link,
        flag_bits,
        _bytes(name, "xattr", xattrs, 1 << 20),
    )
    if kind is Kind.SPECIAL and stat.S_IFMT(mode_bits) in (stat.S_IFCHR, stat.S_IFBLK):
        return Device(*fields, number=length)
    return Entry(*fields)


def _kind(name: bytes, flags: int, mode: int) -> Kind:
    """A link is a file too and a special is a file too, so those bits are looked at first."""
    if flags & _LINK:
        kind = Kind.LINK
    elif flags & _SPECIAL:
        kind = Kind.SPECIAL
    elif flags & _DIR:
        kind = Kind.DIRECTORY
    elif flags & _FILE:
        kind = Kind.FILE
    else:
        raise Damaged(f"entry {name!r}: flags {flags:#x} say neither file nor directory")
    expected = (_MODE_OF_KIND[kind],) if kind in _MODE_OF_KIND else _SPECIAL_TYPES
    if stat.S_IFMT(mode) not in expected:
        raise Damaged(f"entry {name!r}: mode {mode:#o} does not fit flags {flags:#x}")
    return kind


def _integer(name: bytes, column: str, value: object, low: int, high: int) -> int:
    if not isinstance(value, int) or not low <= value <= high:
        raise Damaged(f"entry {name!r}: {column} {value!r:.40} is not a number from {low} to {high}")
    return value


def _bytes(name: bytes, column: str, value: object, most: int) -> bytes:
    if value is None:
        return b""
    if not isinstance(value, bytes) or len(value) > most:
        raise Damaged(f"entry {name!r}: {column} is not a text of at most {most} bytes")
    return value


def _hash(name: bytes, value: object, flags: int) -> ContentHash | None:
    if value is None or value == b"":
        return None
    if not isinstance(value, bytes) or len(value) != 20:
        raise Damaged(f"entry {name!r}: its hash does not have 20 bytes")
    return ContentHash(value, hash_algorithm(flags))


def check_chunks(rows: list[tuple[object, ...]], entry: Entry) -> tuple[Chunk, ...]:
    """The chunks of a file from rows (offset, size, hash) ordered by offset.

    Raises Damaged unless they are contiguous from 0 and make up the size of the file.
    """
    chunks: list[Chunk] = []
    end = 0
    for offset, size, hash_ in rows:
        if not isinstance(offset, int) or not isinstance(size, int) or offset != end or size < 1:
            raise Damaged(f"file {entry.name!r}: its chunk table has a gap, an overlap or an empty chunk at {end}")
        digest = _hash(entry.name, hash_, entry.flags)
        if digest is None:
            raise Damaged(f"file {entry.name!r}: the chunk at {end} has no hash")
        chunks.append(Chunk(offset, size, digest))
        end += size
    if end != entry.size:
        raise Damaged(f"file {entry.name!r}: its chunks have {end} bytes, the file has {entry.size}")
    return tuple(chunks)


def parse_xattrs(blob: bytes) -> dict[bytes, bytes]:
    """Extended attributes from their packed form: a version byte, a count, then for each the lengths and the texts.

    Version 2 has two bytes (little-endian) for the length of a value. Raises Damaged.
    """
    if not blob:
        return {}
    if len(blob) < 2 or blob[0] not in (1, 2):
        raise Damaged("extended attributes are damaged: unknown version")
    width = blob[0]
    found: dict[bytes, bytes] = {}
    at = 2
    for _ in range(blob[1]):
        if at + 1 + width > len(blob):
            raise Damaged("extended attributes are damaged: cut short")
        key_end = at + 1 + width + blob[at]
        end = key_end + int.from_bytes(blob[at + 1 : at + 1 + width], "little")
        key = blob[at + 1 + width : key_end]
        if end > len(blob) or not key or b"\0" in key:
            raise Damaged("extended attributes are damaged: a name or value does not fit")
        found[key] = blob[key_end:end]
        at = end
    return found
