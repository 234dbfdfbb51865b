"""Following links without a mount, where no kernel does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvmfs.entry import Kind
from cvmfs.errors import Unsupported

if TYPE_CHECKING:
    from cvmfs.repository import Repository
    from cvmfs.tree import Located

MAX_LINKS = 40
"""As many as the kernel follows on one path."""


def follow(repository: Repository, path: bytes, *, last: bool = True) -> tuple[bytes, Located] | None:
    """Where `path` leads, by its path without links, and what is there; None if there is nothing.

    The last part is followed too, unless `last` is false. Raises `Unsupported` for links that lead out of the
    repository or round in a circle, and CvmfsError.
    """
    home = b"/cvmfs/" + repository.name.encode()
    real: list[bytes] = []
    rest = parts(path)
    links = 0
    while rest:
        part = rest.pop(0)
        if part == b"..":
            if not real:
                raise Unsupported(f"{path!r} leads out of the repository")
            real.pop()
            continue
        located = repository.tree.lookup(joined([*real, part]))
        if located is None:
            return None
        if located.entry.kind is not Kind.LINK or not (rest or last):
            real.append(part)
            continue
        links += 1
        if links > MAX_LINKS:
            raise Unsupported(f"{path!r}: more than {MAX_LINKS} links")
        target = repository.target(located)
        if target.startswith(b"/"):
            if not (target + b"/").startswith(home + b"/"):
                raise Unsupported(f"{path!r} leads out of the repository, to {target!r:.200}")
            real, target = [], target[len(home) :]
        rest = [*parts(target), *rest]
    found = repository.tree.lookup(joined(real))
    return None if found is None else (joined(real), found)


def parts(path: bytes) -> list[bytes]:
    """The names on a path."""
    return [part for part in path.split(b"/") if part not in (b"", b".")]


def joined(names: list[bytes]) -> bytes:
    """The path of these names, as catalogs have it: the root is empty."""
    return b"".join(b"/" + name for name in names)
