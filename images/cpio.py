"""Write a tree as a cpio archive in the "newc" format that Linux unpacks as an initramfs (buffer-format.rst)."""

from collections.abc import Iterator
from typing import IO

from images.entries import Entry, Kind, Tree, directory

_TYPES = {Kind.FILE: 0o100000, Kind.DIRECTORY: 0o040000, Kind.SYMLINK: 0o120000, Kind.FIFO: 0o010000}


def write_cpio(tree: Tree, out: IO[bytes], epoch: int) -> None:
    """The same tree and epoch (Unix seconds, the time of every member) give the same bytes. Hard links are copies."""
    for number, (name, entry) in enumerate(_ordered(tree), 1):
        _member(out, number, name, entry, _data(entry), epoch)
    _member(out, 0, "TRAILER!!!", Entry(kind=Kind.FILE, mode=0), b"", 0)


def _ordered(tree: Tree) -> Iterator[tuple[str, Entry]]:
    """Every directory before what is in it; those that the tree leaves out are made."""
    whole = dict(tree)
    for name in tree:
        parts = name.split("/")
        for count in range(1, len(parts)):
            whole.setdefault("/".join(parts[:count]), directory())
    yield from sorted(whole.items())


def _data(entry: Entry) -> bytes:
    if entry.kind is Kind.SYMLINK:
        return entry.target.encode("utf-8", "surrogateescape")
    if entry.content is None:
        return b""
    with entry.content() as stream:
        return bytes(stream.read())


def _member(out: IO[bytes], number: int, name: str, entry: Entry, data: bytes, epoch: int) -> None:
    path = name.encode("utf-8", "surrogateescape") + b"\0"
    mode = (_TYPES[entry.kind] | entry.mode) if number else 0
    links = 2 if entry.kind is Kind.DIRECTORY else 1
    fields = (number, mode, entry.uid, entry.gid, links, epoch, len(data), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields)
    for piece in (head + path, data):
        out.write(piece + bytes(-len(piece) % 4))
