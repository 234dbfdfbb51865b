"""Whatever bytes come, parsers answer or refuse: no other exception, no hang, no growth.

`CVMFS_FUZZ_INPUTS` says how many inputs (default 20,000), `CVMFS_FUZZ_SEED` where to begin; the seed of a
failure is in its message.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
import zlib
from collections.abc import Callable

import pytest
from cvmfs_served import FIXTURE

from cvmfs.catalog import Catalog
from cvmfs.content import Content
from cvmfs.entry import Entry, Kind, check_chunks, make_entry, parse_xattrs
from cvmfs.errors import CvmfsError
from cvmfs.hashes import ContentHash
from cvmfs.history import read_tags
from cvmfs.manifest import parse_manifest, parse_whitelist, split
from cvmfs.objects import ObjectRef, verified_content
from cvmfs.pac import groups_from_answer
from cvmfs.pac.script import find_proxy
from cvmfs.routes import parse_proxies, parse_servers
from cvmfs.shell import read_shell
from cvmfs.trust import check_repository_name
from cvmfs.variables import expand

INPUTS = int(os.environ.get("CVMFS_FUZZ_INPUTS", "20000"))
SEED = int(os.environ.get("CVMFS_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
SLOWEST = 5.0

MANIFEST = (FIXTURE / "repo/.cvmfspublished").read_bytes()
WHITELIST = (FIXTURE / "repo/.cvmfswhitelist").read_bytes()
ROOT = "cda90c75519c7ba066a17356b2a33773d58d35f2"
HISTORY = "3f92ca98d525d48619c2f928f53029fb281243b0"
CATALOG = zlib.decompress((FIXTURE / f"repo/data/{ROOT[:2]}/{ROOT[2:]}C").read_bytes())
TAGS = zlib.decompress((FIXTURE / f"repo/data/{HISTORY[:2]}/{HISTORY[2:]}H").read_bytes())
XATTRS = b"\x01\x02\x08\x04user.bin\x00\x01\x02\xff\x0b\x04user.colourblue"
PAC = b"""function FindProxyForURL(url, host) { var a = [1, "b"]; host = host.toLowerCase();
if (isPlainHostName(host) || a[1] == 'b' && !dnsDomainIs(host, ".x")) { for (var i = 0; i < 3; i++) { a = a; } }
else if (shExpMatch(url, "*a*")) return "DIRECT"; return host.length > 3 ? "PROXY a:3128; DIRECT" : "x" + 1.5; }"""
SHELL = b'A=1\nexport B="$A ${C:-d}"\nif [ "x$A" = "x1" ]; then\nC=\'q\' # c\nelif [ -n "$B" ]; then D=\\\nx\nfi\n'
WORDS = [
    b"",
    b"\0",
    b"/",
    b"..",
    b"\xff",
    b"-rmd160",
    b"--\n",
    b"\n",
    b"(" * 50,
    b"9" * 30,
    b"'",
    b'"',
    b"\\",
    b"-1",
    b"*" * 40,
]


def mutated(source: random.Random, seed: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(source.choice((0, 1, 1, 2, 4, 16))):
        at = source.randrange(len(data) + 1)
        action = source.randrange(6)
        if action == 0 and data:
            data[at % len(data)] = source.randrange(256)
        elif action == 1 and data:
            data[at % len(data)] ^= 1 << source.randrange(8)
        elif action == 2:
            data[at:at] = source.choice(WORDS)
        elif action == 3:
            del data[at : at + source.randrange(1, 40)]
        elif action == 4:
            start = source.randrange(len(data) + 1)
            data[at:at] = data[start : start + source.randrange(1, 60)]
        elif source.randrange(8) == 0:
            del data[at:]
    return bytes(data)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _manifest(source: random.Random) -> None:
    data = mutated(source, MANIFEST)
    try:
        split(data, "x")
    finally:
        parse_manifest(data.partition(b"--\n")[0])


def _whitelist(source: random.Random) -> None:
    data = mutated(source, WHITELIST)
    try:
        split(data, "x")
    finally:
        parse_whitelist(data.partition(b"--\n")[0])


def _xattrs(source: random.Random) -> None:
    for name in parse_xattrs(mutated(source, XATTRS)):
        assert name
        assert b"\0" not in name


ODD = [
    None,
    0,
    1,
    -1,
    2**31,
    2**63 - 1,
    -(2**63),
    1.5,
    float("nan"),
    b"",
    b"x",
    b"..",
    b"a/b",
    b"\0" * 20,
    b"n" * 300,
    "text",
]


def _row(source: random.Random) -> None:
    row: list[object] = [b"f", bytes(20), 5, 0o100644, 1, None, 4, None, 0, 0, 1, None]
    for _ in range(source.randrange(4)):
        row[source.randrange(len(row))] = source.choice([*ODD, source.randrange(1 << 18), 0o40755, 0o120777, 12, 20])
    entry = make_entry(tuple(row), is_root=source.random() < 0.1)
    assert b"/" not in entry.name
    assert entry.size >= 0
    assert entry.compression in ("zlib", "none")


FILE = Entry(b"f", Kind.FILE, 0o100644, 10, 0, 0, 0, 0, 1, 0, None, b"", 68, b"")


def _chunks(source: random.Random) -> None:
    rows: list[tuple[object, ...]] = [(0, 4, bytes(20)), (4, 6, bytes(20))]
    for _ in range(source.randrange(3)):
        row = list(source.choice(rows))
        row[source.randrange(3)] = source.choice([*ODD, source.randrange(12)])
        rows[source.randrange(len(rows))] = tuple(row)
    found = check_chunks(rows, FILE)
    assert sum(chunk.size for chunk in found) == 10


STORED = zlib.compress(bytes(range(256)) * 8)


def _object(source: random.Random) -> None:
    data = mutated(source, STORED)
    ref = ObjectRef(ContentHash.of(data), "", True, source.choice([None, 2048, 0]), limit=4096)
    total = sum(len(piece) for piece in verified_content(ref, [data[:50], data[50:]]))
    assert total <= 4096


def _pac(source: random.Random) -> None:
    groups_from_answer(find_proxy(_text(mutated(source, PAC)), "http://a.b/c", "a.b"))


def _shell(source: random.Random) -> None:
    read_shell(_text(mutated(source, SHELL)), {}, "x")


def _words(source: random.Random) -> None:
    text = _text(mutated(source, source.choice([b"http://a:1|http://b;DIRECT", b"atlas.cern.ch", b"$(A:-b)/$(C)"])))
    expand(text.encode("utf-8", "surrogateescape"), {"A": "x"})
    for parse in (parse_proxies, check_repository_name, ContentHash.parse, lambda text: parse_servers(text, "a.b")):
        try:
            parse(text)
        except CvmfsError:
            continue


def _content(data: bytes) -> Content:
    fd = os.memfd_create("fuzz")
    os.write(fd, data)
    return Content(fd, len(data), None)


def _catalog(source: random.Random) -> None:
    catalog = Catalog(_content(mutated(source, CATALOG)), ContentHash(bytes(20)))
    for path in (b"", b"/big", b"/links"):
        for entry in catalog.listing(path):
            found = catalog.lookup(path + b"/" + entry.name)
            if found is not None and found.chunked:
                catalog.chunks(path + b"/" + entry.name, found)
    catalog.counters()


def _history(source: random.Random) -> None:
    read_tags(_content(mutated(source, TAGS)), ContentHash(bytes(20)))


TARGETS: dict[Callable[[random.Random], None], float] = {
    **{_manifest: 0.15, _whitelist: 0.1, _xattrs: 0.15, _row: 0.2, _chunks: 0.1, _object: 0.1, _shell: 0.05},
    **{_pac: 0.05, _words: 0.07, _catalog: 0.02, _history: 0.01},
}


@pytest.mark.timeout(max(60, INPUTS // 200))
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__[1:])
def test_parsers_answer_or_refuse(target: Callable[[random.Random], None]) -> None:
    for number in range(int(INPUTS * TARGETS[target])):
        source = random.Random(SEED + number)
        started = time.monotonic()
        try:
            target(source)
        except CvmfsError:
            pass
        except (Exception, sqlite3.Warning) as error:
            raise AssertionError(f"CVMFS_FUZZ_SEED={SEED + number}: {type(error).__name__}: {error}") from error
        assert time.monotonic() - started < SLOWEST, f"CVMFS_FUZZ_SEED={SEED + number}"
