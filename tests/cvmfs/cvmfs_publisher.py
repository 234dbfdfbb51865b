"""Publishes repositories of any shape, sound or with any damage; for tests only."""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
import sqlite3
import stat
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

SUFFIXES = ("", "-rmd160", "-shake128")


def digest(data: bytes, algorithm: int = 0) -> bytes:
    if algorithm == 0:
        return hashlib.sha1(data).digest()
    if algorithm == 1:
        return hashlib.new("ripemd160", data).digest()
    return hashlib.shake_128(data).digest(20)


def text_of(value: bytes, algorithm: int = 0) -> str:
    return value.hex() + SUFFIXES[algorithm]


@dataclass
class Item:
    """One entry. `content` of a file, `target` of a link, `chunks` the sizes of the chunks of a file."""

    mode: int
    content: bytes = b""
    target: bytes = b""
    mtime: int = 1_600_000_000
    mtime_ns: int | None = None
    uid: int = 0
    gid: int = 0
    nlink: int = 1
    group: int = 0
    algorithm: int = 0
    compressed: bool = True
    chunks: tuple[int, ...] = ()
    whole: bool = True
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    hidden: bool = False
    external: bool = False
    device: int = 0
    nested: bool = False
    bind: str = ""
    """Text of the hash of a catalog that is bound here."""


def directory(**more: object) -> Item:
    return Item(stat.S_IFDIR | 0o755, **more)  # type: ignore[arg-type]


def file(content: bytes, **more: object) -> Item:
    return Item(stat.S_IFREG | 0o644, content, **more)  # type: ignore[arg-type]


def link(target: bytes) -> Item:
    return Item(stat.S_IFLNK | 0o777, target=target)


@functools.cache
def _key(number: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@dataclass
class Schema:
    """Which columns and tables a catalog has."""

    version: str = "2.5"
    revision: int = 7
    absent: tuple[str, ...] = ()
    """Names of columns and tables that are left out."""


class Publisher:
    """One repository below `root`. The attributes may be changed between the steps to publish nonsense."""

    def __init__(self, root: Path, name: str = "test.example.org", algorithm: int = 0) -> None:
        self.root = root
        self.name = name
        self.algorithm = algorithm
        self.schema = Schema()
        self.master = _key(0)
        self.signer = _key(1)
        self.revision = 0
        self.ttl = 240
        self.tags: list[tuple[str, str, int, int, int]] = []
        self.alternative = False
        self.spoil_catalog: Callable[[sqlite3.Connection], None] | None = None
        (root / "data").mkdir(parents=True, exist_ok=True)
        self.key_file = root.parent / f"{root.name}.pub"
        self.key_file.write_bytes(
            self.master.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        self.certificate = (
            x509.CertificateBuilder(
                subject, subject, self.signer.public_key(), 1, now, now + datetime.timedelta(days=99)
            )
            .sign(self.signer, hashes.SHA256())
            .public_bytes(Encoding.PEM)
        )

    def store(self, data: bytes, suffix: str = "", algorithm: int | None = None, compressed: bool = True) -> str:
        """Put an object and return the text of its hash."""
        algorithm = self.algorithm if algorithm is None else algorithm
        stored = zlib.compress(data, 1) if compressed else data
        text = text_of(digest(stored, algorithm), algorithm)
        path = self.path(text, suffix)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(stored)
        return text

    def path(self, text: str, suffix: str = "") -> Path:
        return self.root / "data" / text[:2] / (text[2:] + suffix)

    def publish(self, items: dict[str, Item], tag: str | None = None) -> str:
        """Publish a tree (paths such as "/a/b"; the root is added), sign it, and return the root catalog's hash."""
        self.revision += 1
        items = {"": directory(), **items}
        root, size = self.catalog(items, "")
        now = int(time.time())
        if tag:
            self.tags.insert(0, (tag, root, self.revision, now, size))
        self.write_manifest(root, size)
        self.write_whitelist()
        return root

    def catalog(self, items: dict[str, Item], prefix: str) -> tuple[str, int]:
        """Write the catalog of what is below `prefix`, nested ones first."""
        nested: dict[str, tuple[str, int]] = {}
        for path in sorted(items, key=len):
            if items[path].nested and path != prefix and not any(path.startswith(other + "/") for other in nested):
                below = {p: i for p, i in items.items() if p == path or p.startswith(path + "/")}
                nested[path] = self.catalog(below, path)
        connection = sqlite3.connect(":memory:")
        self._tables(connection)
        properties = {
            "schema": self.schema.version,
            "schema_revision": str(self.schema.revision),
            "revision": str(self.revision),
        }
        properties |= {"root_prefix": prefix} if prefix else {"TTL": str(self.ttl)}
        connection.executemany("INSERT INTO properties VALUES (?, ?)", properties.items())
        for path, item in items.items():
            if any(path.startswith(other + "/") for other in nested):
                continue
            self._row(connection, path, item, root=path == prefix, mountpoint=path in nested)
        for path, (text, size) in nested.items():
            values = [path, text, size][: 2 if "nested_catalogs.size" in self.schema.absent else 3]
            connection.execute(f"INSERT INTO nested_catalogs VALUES ({','.join('?' * len(values))})", values)
        if self.spoil_catalog is not None and not prefix:
            self.spoil_catalog(connection)
        connection.commit()
        data = connection.serialize()
        connection.close()
        return self.store(data, "C"), len(data)

    def _tables(self, connection: sqlite3.Connection) -> None:
        absent = self.schema.absent
        columns = [
            "md5path_1 INTEGER",
            "md5path_2 INTEGER",
            "parent_1 INTEGER",
            "parent_2 INTEGER",
            "hardlinks INTEGER",
            "hash BLOB",
            "size INTEGER",
            "mode INTEGER",
            "mtime INTEGER",
            "mtimens INTEGER",
            "flags INTEGER",
            "name TEXT",
            "symlink TEXT",
            "uid INTEGER",
            "gid INTEGER",
            "xattr BLOB",
        ]
        kept = ", ".join(column for column in columns if column.split()[0] not in absent)
        connection.execute("CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT k PRIMARY KEY (key))")
        connection.execute(f"CREATE TABLE catalog ({kept}, CONSTRAINT k PRIMARY KEY (md5path_1, md5path_2))")
        connection.execute("CREATE INDEX i ON catalog (parent_1, parent_2)")
        size = "" if "nested_catalogs.size" in absent else ", size INTEGER"
        connection.execute(f"CREATE TABLE nested_catalogs (path TEXT, sha1 TEXT{size})")
        if "bind_mountpoints" not in absent:
            connection.execute("CREATE TABLE bind_mountpoints (path TEXT, sha1 TEXT, size INTEGER)")
        if "chunks" not in absent:
            connection.execute(
                "CREATE TABLE chunks (md5path_1 INTEGER, md5path_2 INTEGER, offset INTEGER, size INTEGER, hash BLOB)"
            )

    def _row(self, connection: sqlite3.Connection, path: str, item: Item, *, root: bool, mountpoint: bool) -> None:
        key = halves(path)
        parent = (0, 0) if path == "" else halves(path.rpartition("/")[0])
        flags, hash_, size = self._flags(item, root and path != "", mountpoint), None, item.device or len(item.content)
        if stat.S_ISDIR(item.mode):
            size = 4096
        if stat.S_ISLNK(item.mode):
            size = len(item.target)
        if stat.S_ISREG(item.mode) and (item.whole or not item.chunks):
            text = self.store(item.content, "", item.algorithm, item.compressed)
            hash_ = bytes.fromhex(text[:40])
        at = 0
        for length in item.chunks:
            text = self.store(item.content[at : at + length], "P", item.algorithm, item.compressed)
            connection.execute(
                "INSERT INTO chunks VALUES (?, ?, ?, ?, ?)", (*key, at, length, bytes.fromhex(text[:40]))
            )
            at += length
        values = {
            **{"md5path_1": key[0], "md5path_2": key[1], "parent_1": parent[0], "parent_2": parent[1]},
            **{"hardlinks": item.group << 32 | item.nlink, "hash": hash_, "size": size, "mode": item.mode},
            **{"mtime": item.mtime, "mtimens": item.mtime_ns, "flags": flags, "name": path.rpartition("/")[2]},
            **{"symlink": item.target.decode("utf-8", "surrogateescape"), "uid": item.uid, "gid": item.gid},
            "xattr": pack_xattrs(item.xattrs) if item.xattrs else None,
        }
        kept = {name: value for name, value in values.items() if name not in self.schema.absent}
        connection.execute(
            f"INSERT INTO catalog ({','.join(kept)}) VALUES ({','.join('?' * len(kept))})", tuple(kept.values())
        )
        if item.bind:
            connection.execute("INSERT INTO bind_mountpoints VALUES (?, ?, 0)", (path, item.bind))

    def _flags(self, item: Item, root: bool, mountpoint: bool) -> int:
        if stat.S_ISDIR(item.mode):
            flags = 1 | (32 if root else 0) | (2 if mountpoint else 0) | (0x4000 if item.bind else 0)
        elif stat.S_ISLNK(item.mode):
            flags = 12
        elif stat.S_ISREG(item.mode):
            flags = 4 | item.algorithm << 8 | (0 if item.compressed else 1 << 11) | (64 if item.chunks else 0)
        else:
            flags = 20
        return flags | (128 if item.external else 0) | (0x8000 if item.hidden else 0)

    def manifest_lines(self, root: str, size: int) -> list[str]:
        certificate = self.store(self.certificate, "X")
        lines = [f"C{root}", f"B{size}", f"R{hashlib.md5(b'').hexdigest()}", f"D{self.ttl}", f"S{self.revision}"]
        lines += [
            "Gno",
            f"A{'yes' if self.alternative else 'no'}",
            f"N{self.name}",
            f"X{certificate}",
            f"T{int(time.time())}",
        ]
        if self.tags:
            lines.append(f"H{self.history()}")
        return lines

    def write_manifest(self, root: str, size: int) -> None:
        self.sign_manifest("".join(line + "\n" for line in self.manifest_lines(root, size)).encode())

    def sign_manifest(self, body: bytes) -> None:
        text = text_of(digest(body, self.algorithm), self.algorithm).encode()
        signature = self.signer.sign(text, padding.PKCS1v15(), hashes.SHA1())
        (self.root / ".cvmfspublished").write_bytes(body + b"--\n" + text + b"\n" + signature)

    def write_whitelist(self, expires: float | None = None, fingerprint: bytes | None = None, name: str = "") -> None:
        der = x509.load_pem_x509_certificate(self.certificate).public_bytes(Encoding.DER)
        mark = (fingerprint if fingerprint is not None else digest(der, self.algorithm)).hex(":").upper()
        until = time.strftime("%Y%m%d%H%M%S", time.gmtime(expires if expires is not None else time.time() + 86400))
        body = f"20200101000000\nE{until}\nN{name or self.name}\n{mark}{SUFFIXES[self.algorithm].upper()}\n".encode()
        self.sign_whitelist(body)

    def sign_whitelist(self, body: bytes) -> None:
        text = text_of(digest(body, self.algorithm), self.algorithm).encode()
        (self.root / ".cvmfswhitelist").write_bytes(body + b"--\n" + text + b"\n" + raw_signature(self.master, text))

    def history(self) -> str:
        connection = sqlite3.connect(":memory:")
        connection.execute("CREATE TABLE properties (key TEXT, value TEXT)")
        connection.execute(
            "CREATE TABLE tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER,"
            " description TEXT, size INTEGER, branch TEXT)"
        )
        rows = [(name, root, revision, when, 0, "", size, "") for name, root, revision, when, size in self.tags]
        connection.executemany("INSERT INTO tags VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.commit()
        data = connection.serialize()
        connection.close()
        return self.store(data, "H")


def halves(path: str) -> tuple[int, int]:
    first, second = struct.unpack("<qq", hashlib.md5(path.encode("utf-8", "surrogateescape")).digest())
    return first, second


def pack_xattrs(xattrs: dict[bytes, bytes]) -> bytes:
    packed = bytes([1, len(xattrs)])
    for name, value in xattrs.items():
        packed += bytes([len(name), len(value)]) + name + value
    return packed


def raw_signature(key: rsa.RSAPrivateKey, text: bytes) -> bytes:
    """RSA with type 1 padding directly over the text."""
    numbers = key.private_numbers()
    n = numbers.public_numbers.n
    length = (n.bit_length() + 7) // 8
    padded = b"\0\1" + b"\xff" * (length - 3 - len(text)) + b"\0" + text
    return pow(int.from_bytes(padded), numbers.d, n).to_bytes(length)


def scrambled(size: int, seed: int = 0) -> bytes:
    """Bytes that do not compress away."""
    return base64.b64encode(hashlib.shake_128(str(seed).encode()).digest(size * 3 // 4 + 3))[:size]
