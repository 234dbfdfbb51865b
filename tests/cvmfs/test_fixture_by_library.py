"""A repository that the real publisher wrote is read as the real client shows it."""

from __future__ import annotations

import base64
import hashlib
import stat
from collections.abc import Callable
from typing import Any

import pytest
from cvmfs_served import Open, Web, records

from cvmfs.entry import Kind
from cvmfs.magic import magic_attribute
from cvmfs.repository import Repository
from cvmfs.tree import Located

REVISIONS = [("", "truth.jsonl", "magic.jsonl"), ("rev1-files", "truth-rev1-files.jsonl", "magic-rev1-files.jsonl")]


def described(
    repository: Repository, path: bytes, located: Located, first: Callable[[Located, str], str]
) -> dict[str, Any]:
    entry = located.entry
    text = path.decode() or "/"
    kind = "fifo" if stat.S_ISFIFO(entry.mode) else str(entry.kind)
    found: dict[str, Any] = {
        "path": text,
        "type": kind,
        "mode": f"{stat.S_IMODE(entry.mode):04o}",
        "size": len(repository.target(located)) if entry.kind is Kind.LINK else entry.size,
        "mtime": entry.mtime,
        "mtime_ns": entry.mtime_ns,
        "uid": entry.uid,
        "gid": entry.gid,
        "nlink": entry.nlink,
    }
    if entry.kind is Kind.LINK:
        found["target"] = repository.target(located).decode()
    if entry.kind is Kind.FILE:
        found["sha256"] = hashlib.sha256(b"".join(repository.read(located))).hexdigest()
    if entry.link_group:
        found["hardlink_of"] = first(located, text)
    if xattrs := repository.xattrs(located):
        found["xattrs_base64"] = {
            name.decode(): base64.b64encode(value).decode() for name, value in sorted(xattrs.items())
        }
    return found


@pytest.mark.parametrize(("tag", "truth", "magic"), REVISIONS)
def test_every_path_is_as_the_real_client_shows_it(web: Web, opened: Open, tag: str, truth: str, magic: str) -> None:
    repository = opened(web.url, CVMFS_REPOSITORY_TAG=tag)
    groups: dict[tuple[object, int], str] = {}

    def first(located: Located, path: str) -> str:
        return groups.setdefault((located.catalog.hash, located.entry.link_group), path)

    found = [described(repository, path, located, first) for path, located in repository.tree.walk()]
    assert sorted(found, key=lambda item: item["path"]) == sorted(records(truth), key=lambda item: item["path"])


@pytest.mark.parametrize(("tag", "truth", "magic"), REVISIONS)
def test_the_clients_own_attributes_are_as_the_real_client_gives_them(
    web: Web, opened: Open, tag: str, truth: str, magic: str
) -> None:
    repository = opened(web.url, CVMFS_REPOSITORY_TAG=tag)
    for record in records(magic):
        path = record.pop("path").encode()
        located = repository.tree.lookup(path)
        assert located is not None
        for name, value in record.items():
            assert magic_attribute(repository, located, name) == value.encode(), (path, name)
        if "user.hash" not in record:
            assert magic_attribute(repository, located, "user.hash") is None


def test_an_unknown_tag_is_refused_with_its_name(web: Web, opened: Open) -> None:
    with pytest.raises(Exception, match="has no tag 'no-such'"):
        opened(web.url, CVMFS_REPOSITORY_TAG="no-such")


@pytest.mark.parametrize(
    ("name", "value", "revision"),
    [
        ("CVMFS_REPOSITORY_REVISION", "2", 2),
        ("CVMFS_ROOT_HASH", "6c674c5d724dea6ef8c9382a8d3623d7ac576cb8", 1),
        ("CVMFS_REPOSITORY_DATE", "2026-11-23T02:30:52Z", 2),
    ],
)
def test_a_revision_is_pinned_by_number_hash_or_date(
    web: Web, opened: Open, name: str, value: str, revision: int
) -> None:
    assert opened(web.url, **{name: value}).revision.number == revision


def test_the_tags_are_listed_newest_first(web: Web, opened: Open) -> None:
    tags = opened(web.url).tags()
    assert [tag.revision for tag in tags] == [3, 3, 2, 2, 1]
    assert {tag.name for tag in tags} >= {"rev1-files", "trunk"}
