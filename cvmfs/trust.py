"""Who may speak for a repository: master keys, whitelist, certificate, manifest."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key

from cvmfs.blacklist import Blacklist
from cvmfs.errors import BadConfiguration, Damaged, Refused, Unsupported
from cvmfs.hashes import ContentHash
from cvmfs.manifest import Manifest, Signed, Whitelist, parse_manifest, parse_whitelist, split

MAX_KEY_BYTES = 65536
_NOTHING = Blacklist()
_LABEL = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
_NAME = re.compile(rf"(?=.{{3,253}}\Z){_LABEL}(?:\.{_LABEL})+", re.ASCII)


class Withdrawn(Refused):
    """The certificate or the revision is in the blacklist."""


def check_repository_name(name: str) -> str:
    """The name, if it is a fully qualified repository name such as `atlas.cern.ch`.

    Names become parts of paths and URLs. Raises BadConfiguration.
    """
    if not _NAME.fullmatch(name):
        raise BadConfiguration(
            f"repository {name[:80]!r}: not a fully qualified name of letters, digits, - and _ between dots"
            " (such as atlas.cern.ch)"
        )
    return name


@dataclass(frozen=True, slots=True)
class MasterKeys:
    """The public keys of which one must have signed the whitelist; `pem` is their text."""

    keys: tuple[RSAPublicKey, ...]
    pem: str

    @classmethod
    def load(cls, files: Sequence[Path]) -> MasterKeys:
        """Read PEM files; a directory stands for the `*.pub` in it. Raises BadConfiguration."""
        keys: list[RSAPublicKey] = []
        texts: list[str] = []
        for file in _key_files(files):
            try:
                with file.open("rb") as stream:
                    data = stream.read(MAX_KEY_BYTES)
                key = load_pem_public_key(data)
            except OSError as error:
                raise BadConfiguration(f"public key {file}: cannot be read ({error.strerror})") from error
            except (ValueError, UnsupportedAlgorithm) as error:
                raise BadConfiguration(f"public key {file}: not a public key in PEM form") from error
            if not isinstance(key, RSAPublicKey):
                raise BadConfiguration(f"public key {file}: not an RSA key")
            keys.append(key)
            texts.append(data.decode("ascii", "replace"))
        if not keys:
            raise BadConfiguration(
                "no public key: give the repository's master key (--key, CVMFS_PUBLIC_KEY or CVMFS_KEYS_DIR)"
            )
        return cls(tuple(keys), "".join(texts))

    def signed(self, signed: Signed) -> bool:
        """Whether one of the keys made this signature: type 1 padding directly over the text of the hash."""
        for key in self.keys:
            try:
                if key.recover_data_from_signature(signed.signature, PKCS1v15(), None) == signed.hash_text:
                    return True
            except (InvalidSignature, ValueError):
                continue
        return False


def _key_files(files: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for file in files:
        found += sorted(file.glob("*.pub")) if file.is_dir() else [file]
    return found


def verify_whitelist(data: bytes, name: str, keys: MasterKeys, now: float) -> Whitelist:
    """The whitelist of the repository `name`. Raises Damaged or Refused; `now` in Unix seconds."""
    if data.split(b"\n", 4)[3:4] == [b"Vpkcs7"]:
        raise Unsupported(
            f"whitelist of {name}: is signed by PKCS#7 (.cvmfswhitelist.pkcs7), which this reader does not verify: use"
            " the distribution's client"
        )
    signed = split(data, f"whitelist of {name}")
    if not keys.signed(signed):
        raise Refused(f"whitelist of {name}: not signed by any of the given master keys")
    whitelist = parse_whitelist(signed.body)
    if whitelist.name != name:
        raise Refused(f"whitelist of {name}: made for {whitelist.name[:80]!r}")
    if whitelist.expires <= now:
        day = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(whitelist.expires))
        raise Refused(f"whitelist of {name}: expired on {day}; its owner has to sign a new one")
    return whitelist


def verify_certificate(pem: bytes, whitelist: Whitelist, blacklist: Blacklist = _NOTHING) -> RSAPublicKey:
    """The key of the certificate, if the whitelist has its fingerprint and the blacklist has not.

    Raises Damaged or Refused.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        key = certificate.public_key()
        der = certificate.public_bytes(Encoding.DER)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Damaged(f"certificate of {whitelist.name}: not a certificate in PEM form") from error
    if any(ContentHash.of(der, mark.algorithm) == mark for mark in blacklist.fingerprints):
        raise Withdrawn(f"certificate of {whitelist.name}: its fingerprint is in the blacklist")
    known = {mark.algorithm for mark in whitelist.fingerprints}
    if not any(ContentHash.of(der, number) in whitelist.fingerprints for number in known):
        raise Refused(f"certificate of {whitelist.name}: its fingerprint is not in the whitelist")
    if not isinstance(key, RSAPublicKey):
        raise Refused(f"certificate of {whitelist.name}: not an RSA key")
    return key


def read_manifest(data: bytes, name: str) -> tuple[Signed, Manifest]:
    """Take a manifest apart, not yet trusted: its signature needs the certificate that it names.

    Raises Damaged, or Refused if it is another repository's.
    """
    signed = split(data, f"manifest of {name}")
    manifest = parse_manifest(signed.body)
    if manifest.name != name:
        raise Refused(f"manifest of {name}: made for {manifest.name[:80]!r}")
    return signed, manifest


def verify_manifest(signed: Signed, name: str, key: RSAPublicKey) -> None:
    """Raises Refused unless `key` made the signature: PKCS#1 v1.5 with SHA-1 over the text of the hash."""
    try:
        key.verify(signed.signature, signed.hash_text, PKCS1v15(), hashes.SHA1())  # noqa: S303 — the format says so
    except InvalidSignature:
        raise Refused(f"manifest of {name}: its signature is not by the repository's certificate") from None
