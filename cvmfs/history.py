"""The history of a repository: its named revisions."""

from __future__ import annotations

from dataclasses import dataclass

from cvmfs.catalog import SqliteFile
from cvmfs.content import Content
from cvmfs.errors import Damaged
from cvmfs.hashes import ContentHash


@dataclass(frozen=True, slots=True)
class Tag:
    """A named revision: `root` is its root catalog (of `size` bytes), `timestamp` in Unix seconds."""

    name: str
    root: ContentHash
    revision: int
    timestamp: int
    description: str
    size: int
    branch: str


def read_tags(content: Content, hash_: ContentHash) -> tuple[Tag, ...]:
    """All tags, newest revision first. Raises Damaged."""
    what = f"history {hash_}"
    file = SqliteFile(content, what)
    columns = file.columns("tags")
    absent = sorted({"name", "hash", "revision", "timestamp", "description"} - columns)
    if absent:
        raise Damaged(f"{what}: no column {', '.join(absent)} of tags")
    optional = ", ".join(name if name in columns else "NULL" for name in ("size", "branch"))
    query = f"SELECT name, hash, revision, timestamp, description, {optional} FROM tags ORDER BY revision DESC, name"  # noqa: S608 — names from the line above
    return tuple(_tag(row, what) for row in file.rows(query))


def _tag(row: tuple[object, ...], what: str) -> Tag:
    name, text, revision, timestamp, description, size, branch = row
    if not isinstance(name, bytes) or not isinstance(text, bytes) or not isinstance(revision, int):
        raise Damaged(f"{what}: a tag is not a name, a hash and a revision")
    root = ContentHash.parse(text.decode("ascii", "replace"), f"{what}: tag {name!r:.80}")
    return Tag(
        _text(name),
        root,
        revision,
        timestamp if isinstance(timestamp, int) else 0,
        _text(description),
        size if isinstance(size, int) and size > 0 else 0,
        _text(branch),
    )


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""
