"""What was published is what is read, whatever the shape of the repository."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cvmfs_mounted import described_tree, mounted
from cvmfs_publisher import Item, Publisher, Schema, directory, file, link, scrambled
from cvmfs_served import Web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvmfs.entry import Kind
from cvmfs.repository import Repository
from cvmfs.settings import make_settings, open_repository


def open_published(publisher: Publisher, url: str, cache: Path, **values: str) -> Repository:
    defaults = {
        "CVMFS_SERVER_URL": url,
        "CVMFS_HTTP_PROXY": "DIRECT",
        "CVMFS_PUBLIC_KEY": str(publisher.key_file),
        "CVMFS_CACHE_DIR": str(cache),
        "CVMFS_TIMEOUT_DIRECT": "2",
    }
    return open_repository(make_settings(publisher.name, defaults | values))


names = st.one_of(
    st.sampled_from(["a", "b", ".hidden", "x y", "ü", "$(A)", "-", "..."]),
    st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=12).filter(
        lambda name: name not in (".", "..")
    ),
)


@st.composite
def items(draw: st.DrawFn) -> Item:
    kind = draw(st.sampled_from(["file", "file", "chunked", "link", "fifo", "device"]))
    common = {
        "mtime": draw(st.integers(-(2**33), 2**35)),
        "mtime_ns": draw(st.none() | st.integers(0, 999_999_999)),
        "uid": draw(st.integers(0, 2**32 - 2)),
        "gid": draw(st.integers(0, 2**32 - 2)),
        "xattrs": draw(st.dictionaries(st.sampled_from([b"user.a", b"user.b"]), st.binary(max_size=255), max_size=2)),
    }
    permissions = draw(st.integers(0, 0o7777))
    if kind == "link":
        return Item(
            stat.S_IFLNK | 0o777,
            target=draw(
                st.binary(min_size=1, max_size=40).filter(lambda b: b"\0" not in b and b"$" not in b and _text(b))
            ),
            **common,
        )
    if kind == "fifo":
        return Item(stat.S_IFIFO | permissions, **common)
    if kind == "device":
        return Item(
            stat.S_IFCHR | permissions,
            device=os.makedev(draw(st.integers(1, 250)), draw(st.integers(0, 250))),
            **common,
        )
    chunks: tuple[int, ...] = ()
    if kind == "chunked":
        chunks = tuple(draw(st.lists(st.integers(1, 300), min_size=1, max_size=6)))
    return Item(
        stat.S_IFREG | permissions,
        scrambled(sum(chunks)) if chunks else draw(st.binary(max_size=200)),
        algorithm=draw(st.integers(0, 2)),
        compressed=draw(st.booleans()),
        chunks=chunks,
        whole=draw(st.booleans()) if chunks else True,
        hidden=draw(st.integers(0, 9)) == 0,
        **common,
    )


def _text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Item]:
    folders = [""]
    tree: dict[str, Item] = {}
    for _ in range(draw(st.integers(0, 5))):
        path = f"{draw(st.sampled_from(folders))}/{draw(names)}"
        if path not in tree:
            tree[path] = directory(nested=draw(st.booleans()))
            folders.append(path)
    for _ in range(draw(st.integers(0, 8))):
        path = f"{draw(st.sampled_from(folders))}/{draw(names)}"
        if path not in tree:
            tree[path] = draw(items())
    return tree


@settings(
    max_examples=int(os.environ.get("CVMFS_EXAMPLES", "40")), deadline=None, suppress_health_check=list(HealthCheck)
)
@given(tree=trees(), algorithm=st.integers(0, 2))
def test_any_tree_is_read_as_it_was_published(shared_web: Web, tree: dict[str, Item], algorithm: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        publisher = Publisher(Path(folder) / "repo", algorithm=algorithm)
        publisher.publish(tree)
        shared_web.root = publisher.root
        repository = open_published(publisher, shared_web.url, Path(folder) / "cache")
        try:
            check_same(repository, tree)
        finally:
            repository.close()


def check_same(repository: Repository, tree: dict[str, Item]) -> None:
    listed = {os.fsdecode(path) for path, _ in repository.tree.walk()} - {""}
    assert listed == {path for path, item in tree.items() if not item.hidden}
    for path, item in tree.items():
        located = repository.tree.lookup(os.fsencode(path))
        assert located is not None, path
        entry = located.entry
        assert (entry.mode, entry.mtime, entry.mtime_ns, entry.uid, entry.gid) == (
            (item.mode, item.mtime, item.mtime_ns or 0, item.uid, item.gid)
        )
        assert entry.target == item.target
        assert entry.device == item.device
        assert repository.xattrs(located) == item.xattrs
        if entry.kind is Kind.FILE:
            assert b"".join(repository.read(located)) == item.content
            assert entry.size == len(item.content)
            opened = repository.open(located)
            for offset in (0, 1, len(item.content) // 2, len(item.content), len(item.content) + 5):
                assert opened.read(offset, 350) == item.content[offset : offset + 350]


@pytest.fixture(scope="module")
def shared_web() -> Iterator[Web]:
    web = Web(Path("/nonexistent"))
    yield web
    web.stop()


OLD_SCHEMAS = [
    Schema("2.5", 6, ("mtimens",)),
    Schema("2.5", 1, ("mtimens", "bind_mountpoints", "nested_catalogs.size")),
    Schema("2.4", 0, ("mtimens", "bind_mountpoints", "nested_catalogs.size", "xattr", "chunks")),
    Schema("2.1", 0, ("mtimens", "bind_mountpoints", "nested_catalogs.size", "xattr", "chunks", "uid", "gid")),
]


@pytest.mark.parametrize("schema", OLD_SCHEMAS, ids=lambda schema: f"{schema.version}-{schema.revision}")
def test_old_schemas_are_read(webs: Callable[[Path], Web], tmp_path: Path, schema: Schema) -> None:
    publisher = Publisher(tmp_path / "repo")
    publisher.schema = schema
    tree = {"/a": directory(nested=True), "/a/f": file(b"old"), "/l": link(b"a/f")}
    publisher.publish(tree)
    repository = open_published(publisher, webs(publisher.root).url, tmp_path / "cache")
    check_same(repository, tree)
    repository.close()


def test_a_bound_catalog_appears_at_its_mountpoint_with_its_nested_ones(
    webs: Callable[[Path], Web], tmp_path: Path
) -> None:
    publisher = Publisher(tmp_path / "repo")
    first = {"/sw": directory(nested=True), "/sw/v": file(b"one"), "/top": file(b"first top")}
    old = publisher.publish(first)
    tree = {
        "/.cvmfs": directory(hidden=True, nested=True),
        "/.cvmfs/snapshots": directory(),
        "/.cvmfs/snapshots/one": directory(bind=old),
        "/sw": directory(nested=True),
        "/sw/v": file(b"two"),
    }
    publisher.publish(tree)
    url = webs(publisher.root).url
    with mounted(url, tmp_path / "mnt", tmp_path / "cache", name=publisher.name, key=publisher.key_file):
        assert sorted(path.name for path in (tmp_path / "mnt").iterdir()) == ["sw"]
        snapshot = tmp_path / "mnt/.cvmfs/snapshots/one"
        assert sorted(path.name for path in snapshot.iterdir()) == ["sw", "top"]
        assert (snapshot / "sw/v").read_bytes() == b"one"
        assert (tmp_path / "mnt/sw/v").read_bytes() == b"two"
        assert (snapshot / "top").read_bytes() == b"first top"


def test_the_kernel_shows_what_was_published(webs: Callable[[Path], Web], tmp_path: Path) -> None:
    content = scrambled(300_000)
    tree = {
        "/n": directory(nested=True),
        "/n/deep": directory(nested=True),
        "/n/deep/shake": file(
            content, algorithm=2, chunks=(100_000, 50_000, 150_000), whole=False, mtime_ns=123_456_789
        ),
        "/n/rmd": file(b"r" * 1000, algorithm=1, compressed=False, xattrs={b"user.k": b"v\0w"}),
        "/n/h1": file(b"same", group=1, nlink=2),
        "/n/h2": file(b"same", group=1, nlink=2),
        "/h3": file(b"other", group=1, nlink=1),
        "/before": file(b"", mtime=-5),
        "/null": Item(stat.S_IFCHR | 0o666, device=os.makedev(1, 3)),
    }
    publisher = Publisher(tmp_path / "repo", algorithm=2)
    publisher.publish(tree)
    where = tmp_path / "mnt"
    with mounted(webs(publisher.root).url, where, tmp_path / "cache", name=publisher.name, key=publisher.key_file):
        assert (where / "n/deep/shake").read_bytes() == content
        assert (where / "n/deep/shake").stat().st_mtime_ns == 1_600_000_000_123_456_789
        assert (where / "before").stat().st_mtime == -5
        assert os.getxattr(where / "n/rmd", "user.k") == b"v\0w"
        assert (where / "n/h1").stat().st_ino == (where / "n/h2").stat().st_ino != (where / "h3").stat().st_ino
        assert (where / "null").stat().st_rdev == os.makedev(1, 3)
        found = {item["path"]: item for item in described_tree(where / "n")}
        assert found["/rmd"]["xattrs_base64"] == {"user.k": base64.b64encode(b"v\0w").decode()}
        assert found["/rmd"]["sha256"] == hashlib.sha256(b"r" * 1000).hexdigest()


@pytest.mark.parametrize("algorithm", [0, 1, 2], ids=["sha1", "rmd160", "shake128"])
def test_a_root_catalog_outside_of_data_is_found(webs: Callable[[Path], Web], tmp_path: Path, algorithm: int) -> None:
    publisher = Publisher(tmp_path / "repo", algorithm=algorithm)
    publisher.alternative = True
    tree = {"/n": directory(nested=True), "/n/f": file(b"below"), "/f": file(b"top")}
    root = publisher.publish(tree)
    stored = publisher.root / "data" / root[:2] / f"{root[2:]}C"
    stored.rename(publisher.root / f".cvmfsalt-{root}C")
    repository = open_published(publisher, webs(publisher.root).url, tmp_path / "cache")
    check_same(repository, tree)
    repository.close()


def test_an_external_file_is_refused_clearly_and_the_rest_is_read(webs: Callable[[Path], Web], tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "repo")
    publisher.publish({"/ext": file(b"elsewhere", external=True), "/in": file(b"here")})
    repository = open_published(publisher, webs(publisher.root).url, tmp_path / "cache")
    located = repository.tree.lookup(b"/ext")
    assert located is not None
    with pytest.raises(Exception, match=r"/ext.*external"):
        repository.open(located)
    repository.close()


def test_a_read_fetches_only_the_chunks_it_needs(webs: Callable[[Path], Web], tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "repo")
    content = scrambled(1_000_000)
    publisher.publish({"/big": file(content, chunks=(100_000,) * 10, whole=False)})
    web = webs(publisher.root)
    with mounted(web.url, tmp_path / "mnt", tmp_path / "cache", name=publisher.name, key=publisher.key_file):
        web.requests.clear()
        fd = os.open(tmp_path / "mnt/big", os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        assert os.pread(fd, 10, 750_000) == content[750_000:750_010]
        os.close(fd)
        assert len(web.requests) == 1
