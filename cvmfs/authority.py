"""The newest revision that can be trusted: fetched, verified, never older than one seen before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cvmfs.blacklist import Blacklist
from cvmfs.cache import Cache
from cvmfs.errors import CvmfsError, Refused, Unreachable
from cvmfs.manifest import MAX_BYTES, Manifest, Whitelist
from cvmfs.objects import ObjectRef
from cvmfs.store import ObjectStore
from cvmfs.trust import MasterKeys, Withdrawn, read_manifest, verify_certificate, verify_manifest, verify_whitelist

_MAX_CERTIFICATE = 1 << 16


class RolledBack(Refused):
    """A server offers an older revision than was seen before."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A trusted manifest; `warning` says why it is not fresh from a server, and is empty if it is."""

    manifest: Manifest
    warning: str = ""


class Authority:
    """Decides which manifest of one repository is valid."""

    def __init__(
        self,
        name: str,
        keys: MasterKeys,
        store: ObjectStore,
        cache: Cache,
        clock: Callable[[], float] = time.time,
        blacklist: Blacklist | None = None,
    ) -> None:
        self._name = name
        self._keys = keys
        self._store = store
        self._cache = cache
        self._clock = clock
        self._blacklist = blacklist or Blacklist()
        self._lock = threading.Lock()
        self._whitelist: Whitelist | None = None

    def current(self, *, fresh: bool = False) -> Verdict:
        """The newest trusted manifest.

        Servers that cannot be reached, or that are behind, leave the revision seen last, if its manifest and
        whitelist still verify. Raises Refused, Damaged or Unreachable.
        """
        with self._lock, self._cache.repository_lock(self._name):
            seen = self._seen()
            try:
                data = self._store.transport.fetch(
                    ".cvmfspublished", lambda pieces: self._judged(_whole(pieces), seen), MAX_BYTES, fresh=fresh
                )
            except (Unreachable, RolledBack) as error:
                if seen is None:
                    raise
                self._trusted(self._cache.state(self._name, "manifest") or b"")
                return Verdict(seen, str(error))
            self._cache.keep_state(self._name, "manifest", data)
            return Verdict(read_manifest(data, self._name)[1])

    def _seen(self) -> Manifest | None:
        """The manifest that was trusted last, if it can still be read."""
        data = self._cache.state(self._name, "manifest")
        if data is None:
            return None
        try:
            return read_manifest(data, self._name)[1]
        except CvmfsError:
            return None

    def _judged(self, data: bytes, seen: Manifest | None) -> bytes:
        manifest = self._trusted(data)
        if seen is not None and _older(manifest, seen):
            raise RolledBack(
                f"manifest of {self._name}: servers offer revision {manifest.revision}, but {seen.revision} was seen"
                " before: refused as a rollback"
            )
        return data

    def _trusted(self, data: bytes) -> Manifest:
        signed, manifest = read_manifest(data, self._name)
        ref = ObjectRef(manifest.certificate, "X", limit=_MAX_CERTIFICATE)
        certificate = self._store.content(ref)
        pem = certificate.read(0, certificate.size)
        known = self._whitelist
        try:
            if known is None or known.expires <= self._clock():
                raise Refused("whitelist not known yet")
            key = verify_certificate(pem, known, self._blacklist)
        except Withdrawn:
            raise
        except Refused:  # the owner may have signed a new whitelist since
            self._whitelist = self._fetch_whitelist()
            key = verify_certificate(pem, self._whitelist, self._blacklist)
        verify_manifest(signed, self._name, key)
        if manifest.revision < self._blacklist.first_revision:
            raise Withdrawn(
                f"manifest of {self._name}: revision {manifest.revision} is in the blacklist, which allows"
                f" {self._blacklist.first_revision} and later"
            )
        return manifest

    def _fetch_whitelist(self) -> Whitelist:
        def receive(pieces: Iterator[bytes]) -> bytes:
            data = _whole(pieces)
            verify_whitelist(data, self._name, self._keys, self._clock())
            return data

        try:
            data = self._store.transport.fetch(".cvmfswhitelist", receive, MAX_BYTES)
        except Unreachable:
            kept = self._cache.state(self._name, "whitelist")
            if kept is None:
                raise
            return verify_whitelist(kept, self._name, self._keys, self._clock())
        self._cache.keep_state(self._name, "whitelist", data)
        return verify_whitelist(data, self._name, self._keys, self._clock())


def _older(new: Manifest, seen: Manifest) -> bool:
    if new.revision != seen.revision:
        return new.revision < seen.revision
    return new.root != seen.root and new.published < seen.published


def _whole(pieces: Iterator[bytes]) -> bytes:
    return b"".join(pieces)
