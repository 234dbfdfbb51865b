"""A root file system of one program: the distribution's static busybox, and a link for each of its applets."""

import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from images.archive import host_architecture
from images.built import Package
from images.entries import Tree, directory, file, place, symlink
from images.errors import ImageError
from images.kinds.source import RootTree, Work
from images.recipe import Recipe

_SEARCH = "/bin:/usr/bin:/sbin:/usr/sbin"
_PROGRAM_LIMIT = 16_000_000
_PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
_GROUP = b"root:x:0:\nnogroup:x:65534:\n"
_PT_INTERP = 3


@dataclass(frozen=True, slots=True)
class BusyboxSource:
    """Takes busybox from this host; `search` is a PATH to look for it."""

    search: str = _SEARCH

    def missing(self) -> str | None:
        """What this host lacks, and the line to type; None if nothing."""
        path = shutil.which("busybox", path=self.search)
        if path is None:
            return "busybox is not installed: apt-get install busybox-static"
        if not is_static(Path(path)):
            return f"{path} is not statically linked: apt-get install busybox-static"
        return None

    def inputs(self) -> tuple[str, ...]:
        """The digest of the program: another version makes another image."""
        return (hashlib.sha256(self._program().read_bytes()).hexdigest(),)

    @contextmanager
    def root(self, recipe: Recipe, work: Work) -> Iterator[RootTree]:
        """Make the tree in memory."""
        work.progress("taking busybox from this host")
        program = self._program()
        tree = busybox_tree(program.read_bytes(), work.scratch)
        yield RootTree(tree, (_package(program),))

    def _program(self) -> Path:
        if lacking := self.missing():
            raise ImageError(lacking)
        path = Path(shutil.which("busybox", path=self.search) or "")
        if path.stat().st_size > _PROGRAM_LIMIT:
            raise ImageError(f"{path}: is larger than {_PROGRAM_LIMIT} bytes; that is no busybox")
        return path


def busybox_tree(program: bytes, scratch: Path) -> Tree:
    """The tree of a busybox program, which is run from the directory `scratch` to list its applets."""
    copy = scratch / "busybox"
    copy.write_bytes(program)
    copy.chmod(0o755)
    tree: Tree = {}
    for folder in ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/etc"):
        place(tree, folder, directory())
    place(tree, "/bin/busybox", file(program, 0o755))
    for applet in _output(copy, "--list-full").split():
        if applet != "bin/busybox":
            place(tree, applet, symlink(os.path.relpath("bin/busybox", Path(applet).parent)))
    place(tree, "/etc/passwd", file(_PASSWD))
    place(tree, "/etc/group", file(_GROUP))
    return tree


def is_static(path: Path) -> bool:
    """Whether a file is an ELF program (64 bit, little endian) that names no interpreter (ELF specification 1.2)."""
    with path.open("rb") as stream:
        data = stream.read(_PROGRAM_LIMIT)
    if len(data) < 64 or data[:6] != b"\x7fELF\x02\x01":
        return False
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    headers = data[table : table + size * count]
    if size < 4 or len(headers) < size * count:
        return False
    kinds = [struct.unpack_from("<I", headers, index * size)[0] for index in range(count)]
    return _PT_INTERP not in kinds


def _package(program: Path) -> Package:
    """The package that the program is of, by dpkg; where there is no dpkg, busybox's own word for its version."""
    try:
        query = ["dpkg-query", "--show", "--showformat=${Version}\t${Architecture}", "busybox-static"]
        version, _, architecture = _run(query).strip().partition("\t")
        return Package("busybox-static", version, architecture)
    except ImageError:
        banner = _output(program, "--help").split()
        return Package("busybox-static", banner[1] if len(banner) > 1 else "unknown", host_architecture())


def _output(program: Path, argument: str) -> str:
    return _run([str(program), argument])


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, check=True, text=True, errors="replace", timeout=30, stdin=subprocess.DEVNULL
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ImageError(f"{' '.join(command)}: {error}") from error
