"""Whatever is wrong with a repository, it is refused with the reason, and never read wrongly."""

from __future__ import annotations

import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cvmfs_mounted import command, mounted, words_for
from cvmfs_publisher import Publisher, digest, directory, file, link, scrambled
from cvmfs_served import FIXTURE, NAME, Web, reply

from cvmfs.errors import BadConfiguration, CvmfsError, Damaged, Missing, Refused, Unreachable
from cvmfs.repository import Repository
from cvmfs.settings import make_settings, open_repository

TREE = {
    "/a": directory(),
    "/a/f": file(b"content"),
    "/l": link(b"a/f"),
    "/big": file(scrambled(900), chunks=(400, 500)),
}
Open = Callable[..., Repository]


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    made = Publisher(tmp_path / "repo")
    made.publish(TREE)
    return made


@pytest.fixture
def open_it(publisher: Publisher, webs: Callable[[Path], Web], tmp_path: Path) -> Iterator[Open]:
    url = webs(publisher.root).url
    made: list[Repository] = []

    def open_(name: str = publisher.name, **values: str) -> Repository:
        defaults = {
            "CVMFS_SERVER_URL": url,
            "CVMFS_HTTP_PROXY": "DIRECT",
            "CVMFS_PUBLIC_KEY": str(publisher.key_file),
            "CVMFS_CACHE_DIR": str(tmp_path / "cache"),
            "CVMFS_TIMEOUT_DIRECT": "1",
        }
        made.append(open_repository(make_settings(name, defaults | values)))
        return made[-1]

    yield open_
    for repository in made:
        repository.close()


def _flip(name: str, at: int) -> Callable[[Publisher], None]:
    def spoil(publisher: Publisher) -> None:
        data = bytearray((publisher.root / name).read_bytes())
        data[at] ^= 1
        (publisher.root / name).write_bytes(data)

    return spoil


def _resign(old: str, new: str) -> Callable[[Publisher], None]:
    def spoil(publisher: Publisher) -> None:
        body = (publisher.root / ".cvmfspublished").read_bytes().partition(b"--\n")[0]
        assert old.encode() in body
        publisher.sign_manifest(body.replace(old.encode(), new.encode()))

    return spoil


def _manifest_by_other_key(publisher: Publisher) -> None:
    body = (publisher.root / ".cvmfspublished").read_bytes().partition(b"--\n")[0]
    publisher.signer = rsa.generate_private_key(65537, 2048)
    publisher.sign_manifest(body)


def _whitelist_by_other_key(publisher: Publisher) -> None:
    publisher.master = rsa.generate_private_key(65537, 2048)
    publisher.write_whitelist()


def _object(suffix: str, change: Callable[[bytes], bytes | None]) -> Callable[[Publisher], None]:
    """Change the stored bytes of all objects of a kind, or remove them."""

    def spoil(publisher: Publisher) -> None:
        for path in publisher.root.glob(f"data/*/*{suffix}"):
            new = change(path.read_bytes())
            path.unlink()
            if new is not None:
                path.write_bytes(new)

    return spoil


def _catalog_of(data: bytes, size: int = 0) -> Callable[[Publisher], None]:
    def spoil(publisher: Publisher) -> None:
        publisher.write_manifest(publisher.store(data, "C"), size or len(data))

    return spoil


def _bomb(publisher: Publisher) -> None:
    compressor = zlib.compressobj(9)
    piece = bytes(1 << 20)
    stored = b"".join([*(compressor.compress(piece) for _ in range(300)), compressor.flush()])
    text = digest(stored).hex()
    publisher.path(text, "C").parent.mkdir(exist_ok=True)
    publisher.path(text, "C").write_bytes(stored)
    publisher.write_manifest(text, 65536)


REFUSALS: dict[str, tuple[Callable[[Publisher], None], type[CvmfsError], str]] = {
    "manifest changed": (_flip(".cvmfspublished", 3), Damaged, "does not match its hash"),
    "manifest signature changed": (_flip(".cvmfspublished", -1), Refused, "signature is not by"),
    "manifest by another key": (_manifest_by_other_key, Refused, "signature is not by"),
    "manifest of another repository": (_resign("Ntest.", "Nevil."), Refused, "made for 'evil"),
    "manifest without a catalog": (_resign("C", "c"), Damaged, "no line C"),
    "manifest with a path as hash": (_resign("X", "X../../"), Damaged, "not a content hash"),
    "manifest with no number": (_resign("S1", "S-1"), Damaged, "line S"),
    "manifest empty": (lambda p: (p.root / ".cvmfspublished").write_bytes(b"") and None, Damaged, "not a signed file"),
    "manifest absent": (lambda p: (p.root / ".cvmfspublished").unlink(), Missing, "404"),
    "manifest endless": (
        lambda p: (p.root / ".cvmfspublished").write_bytes(b"C" * (3 << 20)) and None,
        Unreachable,
        "longer than",
    ),
    "whitelist changed": (_flip(".cvmfswhitelist", 20), Damaged, "does not match its hash"),
    "whitelist signature changed": (_flip(".cvmfswhitelist", -1), Refused, "not signed by any"),
    "whitelist by another key": (_whitelist_by_other_key, Refused, "not signed by any"),
    "whitelist expired": (lambda p: p.write_whitelist(expires=time.time() - 5), Refused, "expired on"),
    "whitelist of another": (lambda p: p.write_whitelist(name="evil.example.org"), Refused, "made for 'evil"),
    "whitelist lacks the certificate": (lambda p: p.write_whitelist(fingerprint=bytes(20)), Refused, "fingerprint"),
    "whitelist with a strange date": (
        lambda p: p.sign_whitelist(b"20200101000000\nEtomorrow\nNtest.example.org\n"),
        Damaged,
        "not YYYYMMDD",
    ),
    "whitelist absent": (lambda p: (p.root / ".cvmfswhitelist").unlink(), Missing, "404"),
    "certificate changed": (_object("X", lambda data: data[:-1] + b"!"), Damaged, "object"),
    "certificate absent": (_object("X", lambda data: None), Missing, "404"),
    "catalog changed": (_object("C", lambda data: b"!" + data[1:]), Damaged, "object"),
    "catalog cut short": (_object("C", lambda data: data[:-9]), Damaged, "object"),
    "catalog absent": (_object("C", lambda data: None), Missing, "404"),
    "catalog that is no database": (_catalog_of(b"not a database" * 999), Damaged, "not a database"),
    "catalog that is empty": (_catalog_of(b""), Damaged, "not a database"),
    "catalog that is a zlib bomb": (_bomb, Damaged, "longer than"),
}


@pytest.mark.parametrize("damage", REFUSALS)
def test_a_damaged_repository_is_refused_with_the_reason(publisher: Publisher, open_it: Open, damage: str) -> None:
    spoil, kind, reason = REFUSALS[damage]
    spoil(publisher)
    with pytest.raises(kind, match=reason):
        open_it()


def test_another_master_key_is_refused(open_it: Open) -> None:
    with pytest.raises(Refused, match="not signed by any"):
        open_it(CVMFS_PUBLIC_KEY=str(FIXTURE / "keys" / f"{NAME}.pub"))


def test_the_expired_whitelist_of_the_fixture_is_refused_by_the_command(copied_web: Web, tmp_path: Path) -> None:
    (copied_web.root / ".cvmfswhitelist").write_bytes((FIXTURE / "extra/cvmfswhitelist.expired").read_bytes())
    (tmp_path / "mnt").mkdir()
    done = command("mount", NAME, str(tmp_path / "mnt"), *words_for(copied_web.url, tmp_path / "cache"))
    assert done.returncode == 16
    assert b"expired on 2020" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("name", ["../etc", "a/b.c", "a", "", "a..b", "-a.b", "a.b/../c", "a.b\n", "x" * 300 + ".y"])
def test_a_repository_name_with_path_parts_is_refused(open_it: Open, name: str) -> None:
    with pytest.raises(BadConfiguration, match="not a fully qualified name"):
        open_it(name=name)


def _sql(*statements: str) -> Callable[[sqlite3.Connection], None]:
    def spoil(connection: sqlite3.Connection) -> None:
        for statement in statements:
            connection.execute(statement)

    return spoil


LOOP = (
    "CREATE VIEW nested_catalogs AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
    " SELECT x AS path, x AS sha1 FROM n"
)
F = "WHERE name = 'f'"
CATALOGS = {
    "slash in a name": f"UPDATE catalog SET name = '../f' {F}",
    "empty name": f"UPDATE catalog SET name = '' {F}",
    "dots as name": f"UPDATE catalog SET name = '..' {F}",
    "zero byte in a name": f"UPDATE catalog SET name = CAST(X'6600' AS TEXT) {F}",
    "number as name": f"UPDATE catalog SET name = 7.5 {F}",
    "name of another key": f"UPDATE catalog SET name = 'g' {F}",
    "negative size": f"UPDATE catalog SET size = -1 {F}",
    "absurd size": f"UPDATE catalog SET size = 9223372036854775807 {F}",
    "text as size": f"UPDATE catalog SET size = 'big' {F}",
    "absurd mode": f"UPDATE catalog SET mode = 99999999 {F}",
    "mode of a directory": f"UPDATE catalog SET mode = 16877 {F}",
    "no type": f"UPDATE catalog SET flags = 0 {F}",
    "unknown hash": f"UPDATE catalog SET flags = flags | 0x700 {F}",
    "unknown compression": f"UPDATE catalog SET flags = flags | 0x3800 {F}",
    "short hash": f"UPDATE catalog SET hash = X'0011' {F}",
    "no hash": f"UPDATE catalog SET hash = NULL {F}",
    "hash of nothing": f"UPDATE catalog SET hash = zeroblob(20) {F}",
    "longer than its object": f"UPDATE catalog SET size = 8 {F}",
    "shorter than its object": f"UPDATE catalog SET size = 6 {F}",
    "damaged attributes": f"UPDATE catalog SET xattr = X'0109' {F}",
    "huge attributes": f"UPDATE catalog SET xattr = zeroblob(5000000) {F}",
    "absurd time": f"UPDATE catalog SET mtime = 9223372036854775807 {F}",
    "nanoseconds of a second": f"UPDATE catalog SET mtimens = 1000000000 {F}",
}


@pytest.mark.parametrize("damage", CATALOGS)
def test_a_damaged_entry_fails_and_leaves_the_others_alone(publisher: Publisher, open_it: Open, damage: str) -> None:
    publisher.spoil_catalog = _sql(CATALOGS[damage])
    publisher.publish(TREE)
    repository = open_it()
    with pytest.raises(CvmfsError):
        read_all(repository, b"/a")
    assert len(read_all(repository, b"/big")) == 900


def read_all(repository: Repository, top: bytes) -> bytes:
    found = b""
    for path, located in repository.tree.walk(top):
        again = repository.tree.lookup(path)
        assert again is not None
        repository.xattrs(located)
        if located.entry.kind == "file":
            found += b"".join(repository.read(located))
    return found


CHUNKS = {
    "gap": "UPDATE chunks SET offset = offset + 1 WHERE offset > 0",
    "overlap": "UPDATE chunks SET offset = offset - 1 WHERE offset > 0",
    "not from the start": "DELETE FROM chunks WHERE offset = 0",
    "too short": "DELETE FROM chunks WHERE offset > 0",
    "none": "DELETE FROM chunks",
    "negative": "UPDATE chunks SET size = -400 WHERE offset = 0",
    "empty": "UPDATE chunks SET size = 0 WHERE offset = 0",
    "no hash": "UPDATE chunks SET hash = NULL",
    "text": "UPDATE chunks SET offset = 'x'",
    "doubled": "INSERT INTO chunks SELECT * FROM chunks",
    "no table": "DROP TABLE chunks",
    "one chunk's size wrong, the sum right": (
        "UPDATE chunks SET size = CASE offset WHEN 0 THEN 401 ELSE 499 END,"
        " offset = CASE offset WHEN 0 THEN 0 ELSE 401 END"
    ),
}


@pytest.mark.parametrize("damage", CHUNKS)
def test_a_damaged_chunk_table_fails_the_file(publisher: Publisher, open_it: Open, damage: str) -> None:
    publisher.spoil_catalog = _sql(CHUNKS[damage])
    publisher.publish(TREE)
    repository = open_it()
    with pytest.raises(Damaged):
        read_all(repository, b"/big")
    assert read_all(repository, b"/a") == b"content"


HOSTILE = {
    "view for table": ("DROP TABLE catalog", "CREATE VIEW catalog AS SELECT 1 AS md5path_1"),
    "looping view": ("DROP TABLE nested_catalogs", LOOP),
    "no columns": ("DROP TABLE catalog", "CREATE TABLE catalog (a)"),
    "new schema": ("UPDATE properties SET value = '3.0' WHERE key = 'schema'",),
    "strange schema": ("UPDATE properties SET value = 'x' WHERE key = 'schema'",),
    "nested path with dots": ("INSERT INTO nested_catalogs VALUES ('/a/../b', 'x', 0)",),
    "nested relative path": ("INSERT INTO nested_catalogs VALUES ('a', 'x', 0)",),
    "nested strange hash": ("INSERT INTO nested_catalogs VALUES ('/a', '../../x', 0)",),
}


@pytest.mark.parametrize("damage", HOSTILE)
def test_a_hostile_catalog_is_refused_or_reads_as_if_the_table_were_empty(
    publisher: Publisher, open_it: Open, damage: str
) -> None:
    publisher.spoil_catalog = _sql(*HOSTILE[damage])
    publisher.publish(TREE)
    started = time.monotonic()
    try:
        assert read_all(open_it(), b"") == b"content" + scrambled(900)
        assert damage == "looping view"
    except CvmfsError as error:
        assert "catalog" in str(error)
    assert time.monotonic() - started < 10


def test_the_mount_answers_eio_for_what_is_damaged_and_reads_the_rest(
    publisher: Publisher, webs: Callable[[Path], Web], tmp_path: Path
) -> None:
    publisher.publish({**TREE, "/gone": file(b"gone"), "/n": directory(nested=True), "/n/x": file(b"x")})
    gone = publisher.path(digest(zlib.compress(b"gone", 1)).hex())
    gone.unlink()
    damaged = publisher.path(digest(zlib.compress(b"content", 1)).hex())
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    for path in publisher.root.glob("data/*/*C"):  # the nested catalog is the smaller one that is not the root
        connection = sqlite3.connect(":memory:")
        connection.deserialize(zlib.decompress(path.read_bytes()))
        if connection.execute("SELECT value FROM properties WHERE key = 'root_prefix'").fetchone():
            path.unlink()
        connection.close()
    where = tmp_path / "mnt"
    web = webs(publisher.root)
    with mounted(web.url, where, tmp_path / "cache", name=publisher.name, key=publisher.key_file):
        assert sorted(item.name for item in where.iterdir()) == ["a", "big", "gone", "l", "n"]
        for name in ("gone", "a/f", "n/x"):
            with pytest.raises(OSError) as caught:
                (where / name).read_bytes()
            assert caught.value.errno == 5, name
        assert (where / "big").read_bytes() == scrambled(900)
        assert (where / "l").readlink() == Path("a/f")
    asked = [
        headers.get("Cache-Control")
        for path, headers in zip(web.requests, web.headers, strict=True)
        if damaged.name in path
    ]
    assert asked == [None, "no-cache"]


def test_a_damaged_object_is_fetched_once_more_past_caches(
    publisher: Publisher, webs: Callable[[Path], Web], tmp_path: Path
) -> None:
    web = webs(publisher.root)

    def stale_cache(handler: object, path: Path) -> bool:
        if "no-cache" in handler.headers.get("Cache-Control", "") or "data" not in path.parts:
            return False
        reply(handler, b"what a broken cache keeps")
        return True

    web.answer = stale_cache
    with mounted(web.url, tmp_path / "mnt", tmp_path / "cache", name=publisher.name, key=publisher.key_file):
        assert (tmp_path / "mnt/a/f").read_bytes() == b"content"
