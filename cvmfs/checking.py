"""Verify everything that a revision consists of."""

from __future__ import annotations

import sys

from cvmfs.entry import Kind
from cvmfs.errors import CvmfsError, Unsupported
from cvmfs.repository import Repository


def check(repository: Repository, *, content: bool = True) -> int:
    """Read every catalog, and with `content` every file; print what is wrong and a summary. Returns 0 or 1.

    A revision that is shown because the newest cannot be had counts as wrong.
    """
    wrong = 1 if repository.revision.warning else 0
    entries = files = size = skipped = 0
    waiting = [b""]
    while waiting:
        path = waiting.pop()
        try:
            root = repository.tree.lookup(path)
            if root is None:
                raise CvmfsError("listed, but not found")
            children = repository.tree.listing(path)
        except CvmfsError as error:
            wrong += _report(path, error)
            continue
        entries += 1
        for child in children:
            below = path + b"/" + child.entry.name
            if child.entry.kind is Kind.DIRECTORY:
                waiting.append(below)
                continue
            entries += 1
            try:
                repository.xattrs(child)
                if child.entry.kind is Kind.FILE and content:
                    files += 1
                    size += sum(len(piece) for piece in repository.read(child))
            except Unsupported:
                skipped += 1
            except (CvmfsError, OSError) as error:
                wrong += _report(below, error)
    print(  # noqa: T201 — a command speaks
        f"{repository.name}: revision {repository.revision.number}, {entries} entries, {files} files with {size} bytes"
        f" read, {skipped} external, {wrong} wrong"
    )
    return 1 if wrong else 0


def _report(path: bytes, error: Exception) -> int:
    print(f"cvmfs: {path.decode('utf-8', 'backslashreplace') or '/'}: {error}", file=sys.stderr)  # noqa: T201
    return 1
