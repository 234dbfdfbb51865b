"""The two signed files of a repository: manifest (`.cvmfspublished`) and whitelist (`.cvmfswhitelist`)."""

from __future__ import annotations

import calendar
import re
import time
from dataclasses import dataclass

from cvmfs.errors import Damaged, Unsupported
from cvmfs.hashes import SUFFIXES, ContentHash

MAX_BYTES = 1 << 20
"""No manifest or whitelist may be longer."""

_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_FINGERPRINT = re.compile(r"([0-9a-f]{40})(-[a-z0-9]{1,16})?", re.ASCII)
_EMPTY_PATH_MD5 = "d41d8cd98f00b204e9800998ecf8427e"


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed text: `body` is what the hash covers, `hash_text` what the signature covers."""

    body: bytes
    hash_text: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the newest revision of a repository is. `ttl` in seconds, `published` in Unix seconds."""

    root: ContentHash
    root_size: int
    name: str
    certificate: ContentHash
    revision: int
    ttl: int
    published: int
    history: ContentHash | None
    metainfo: ContentHash | None
    alternative: bool = False
    """Whether servers show the root catalog outside of `data/`, which they may keep to themselves."""


@dataclass(frozen=True, slots=True)
class Whitelist:
    """Which certificates may sign, until when (Unix seconds)."""

    name: str
    expires: int
    fingerprints: frozenset[ContentHash]


def split(data: bytes, what: str) -> Signed:
    """Take a signed file apart, and check its hash; the signature is for the caller. Raises Damaged."""
    if len(data) > MAX_BYTES:
        raise Damaged(f"{what}: longer than {MAX_BYTES} bytes")
    body, mark, rest = data.partition(b"\n--\n")
    hash_text, newline, signature = rest.partition(b"\n")
    if not mark or not newline or not signature:
        raise Damaged(f"{what}: not a signed file (no hash and signature after a line of two dashes)")
    body += b"\n"
    expected = ContentHash.parse(hash_text.decode("ascii", "replace"), what)
    if ContentHash.of(body, expected.algorithm) != expected:
        raise Damaged(f"{what}: the text does not match its hash")
    return Signed(body, hash_text, signature)


def parse_manifest(body: bytes) -> Manifest:
    """The fields of a manifest. Raises Damaged if one that is needed is absent, doubled or malformed."""
    fields: dict[str, str] = {}
    for line in _lines(body, "manifest"):
        if line[:1] in fields:
            raise Damaged(f"manifest: two lines {line[:1]!r}")
        fields[line[:1]] = line[1:]
    for letter, meaning in (("C", "root catalog"), ("N", "repository name"), ("X", "certificate"), ("S", "revision")):
        if not fields.get(letter):
            raise Damaged(f"manifest: no line {letter} ({meaning})")
    if fields.get("R", _EMPTY_PATH_MD5) != _EMPTY_PATH_MD5:
        raise Damaged("manifest: its root catalog is not that of the root path")
    return Manifest(
        root=ContentHash.parse(fields["C"], "manifest: root catalog"),
        root_size=_number(fields, "B"),
        name=fields["N"],
        certificate=ContentHash.parse(fields["X"], "manifest: certificate"),
        revision=_number(fields, "S"),
        ttl=_number(fields, "D"),
        published=_number(fields, "T"),
        history=_optional_hash(fields, "H", "history"),
        metainfo=_optional_hash(fields, "M", "meta-info"),
        alternative=fields.get("A") == "yes",
    )


def parse_whitelist(body: bytes) -> Whitelist:
    """The fields of a whitelist. Raises Damaged."""
    lines = _lines(body, "whitelist")
    if len(lines) < 3 or not lines[1].startswith("E") or not lines[2].startswith("N"):
        raise Damaged("whitelist: not a creation time, an expiry (E) and a name (N) in its first three lines")
    try:
        expires = calendar.timegm(time.strptime(lines[1][1:], "%Y%m%d%H%M%S"))
    except ValueError:
        raise Damaged(f"whitelist: expiry {lines[1][:40]!r} is not YYYYMMDDhhmmss") from None
    for line in lines[3:5]:
        if line in ("Vpkcs7", "Wcachain"):
            raise Unsupported(f"whitelist: asks for verification by {line[1:]}, which this reader does not do")
    found = [parse_fingerprint(line) for line in lines[3:]]
    return Whitelist(lines[2][1:], expires, frozenset(mark for mark in found if mark is not None))


def parse_fingerprint(line: str) -> ContentHash | None:
    """The fingerprint at the start of a line, with or without colons, or None; comments begin with #."""
    word = line.partition("#")[0].split()
    match = _FINGERPRINT.fullmatch(word[0].replace(":", "").lower()) if word else None
    if match is None or (match[2] or "") not in SUFFIXES:
        return None
    return ContentHash.parse(match[1] + (match[2] or ""), "fingerprint")


def _lines(body: bytes, what: str) -> list[str]:
    try:
        return [line for line in body.decode("utf-8").split("\n") if line]
    except UnicodeDecodeError:
        raise Damaged(f"{what}: not text") from None


def _number(fields: dict[str, str], letter: str) -> int:
    text = fields.get(letter, "0")
    if not _NUMBER.fullmatch(text):
        raise Damaged(f"manifest: line {letter} {text[:40]!r} is not a number")
    return int(text)


def _optional_hash(fields: dict[str, str], letter: str, meaning: str) -> ContentHash | None:
    return ContentHash.parse(fields[letter], f"manifest: {meaning}") if fields.get(letter) else None
