"""A repository, opened: the newest trusted revision or a pinned one, with its files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from cvmfs.activity import Activity
from cvmfs.authority import Authority, Verdict
from cvmfs.blacklist import Blacklist
from cvmfs.cache import Cache
from cvmfs.catalog import Nested
from cvmfs.entry import Kind, parse_xattrs
from cvmfs.errors import BadConfiguration, Unsupported
from cvmfs.hashes import ContentHash
from cvmfs.history import Tag, read_tags
from cvmfs.manifest import Manifest
from cvmfs.objects import ObjectRef
from cvmfs.reader import File, open_file, stream
from cvmfs.store import ObjectStore
from cvmfs.tree import Catalogs, Located, Tree
from cvmfs.trust import MasterKeys, check_repository_name
from cvmfs.variables import expand

DEFAULT_TTL = 240
_MAX_HISTORY = 1 << 30
_MAX_METAINFO = 1 << 16


@dataclass(frozen=True, slots=True)
class Pin:
    """A fixed revision: by tag, by number (of a tag), by time (the newest tag before it, Unix s) or by root hash."""

    tag: str | None = None
    revision: int | None = None
    before: float | None = None
    root: ContentHash | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in (self.tag, self.revision, self.before, self.root))


@dataclass(frozen=True, slots=True)
class Revision:
    """What is shown now: `tree` of revision `number`; `warning` says why it may not be the newest."""

    tree: Tree
    number: int
    manifest: Manifest
    tag: str = ""
    warning: str = ""
    opened: float = field(default=0.0, compare=False)


class Repository:
    """One repository; safe to use from several threads. Paths are bytes, "" is the root."""

    def __init__(
        self,
        name: str,
        keys: MasterKeys,
        store: ObjectStore,
        cache: Cache,
        *,
        pin: Pin | None = None,
        variables: Mapping[str, str] | None = None,
        blacklist: Blacklist | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open it: fetch and verify manifest, certificate, whitelist and root catalog. Raises CvmfsError."""
        self.name = check_repository_name(name)
        self.keys = keys
        self.store = store
        self.pin = pin or Pin()
        self.variables = dict(variables or {})
        self.catalogs = Catalogs(store)
        self._clock = clock
        self.activity = Activity()
        self._authority = Authority(name, keys, store, cache, clock, blacklist)
        self._refreshing = threading.Lock()
        self.revision = self._open(self._authority.current())

    @property
    def tree(self) -> Tree:
        """The tree of the current revision."""
        return self.revision.tree

    def refresh(self) -> bool:
        """Look for a newer revision and switch to it; False if there is none. Files that are open stay as they are.

        Raises CvmfsError: the revision then stays as it was.
        """
        if self.pin:
            return False
        with self._refreshing:
            verdict = self._authority.current()
            now = self.revision
            if verdict.manifest.root == now.tree.root.hash:
                if verdict.warning != now.warning or verdict.manifest != now.manifest:
                    self.revision = Revision(now.tree, verdict.manifest.revision, verdict.manifest, "", verdict.warning)
                return False
            self.revision = self._open(verdict)
            return True

    @property
    def ttl(self) -> int:
        """Seconds after which to refresh."""
        return self.revision.manifest.ttl or DEFAULT_TTL

    def tags(self) -> tuple[Tag, ...]:
        """The named revisions, newest first. Raises CvmfsError."""
        return self._tags(self.revision.manifest)

    def metainfo(self) -> bytes | None:
        """What the owner tells about the repository (JSON), or None. Raises CvmfsError."""
        hash_ = self.revision.manifest.metainfo
        if hash_ is None:
            return None
        content = self.store.content(ObjectRef(hash_, "M", limit=_MAX_METAINFO))
        return content.read(0, content.size)

    def target(self, located: Located) -> bytes:
        """The target of a link as it is shown here."""
        return expand(located.entry.target, self.variables)

    def xattrs(self, located: Located) -> dict[bytes, bytes]:
        """The stored extended attributes. Raises Damaged."""
        return parse_xattrs(located.entry.xattrs)

    def open(self, located: Located) -> File:
        """Open a file. Raises CvmfsError."""
        if located.entry.kind is not Kind.FILE:
            raise Unsupported(f"{located.inner!r}: not a file")
        return open_file(self.tree, self.store, located)

    def read(self, located: Located) -> Iterator[bytes]:
        """The content of a file in pieces. Raises CvmfsError."""
        return stream(self.open(located))

    def close(self) -> None:
        """Close connections, and stop fetching ahead."""
        self.store.close()

    def _tags(self, manifest: Manifest) -> tuple[Tag, ...]:
        if manifest.history is None:
            return ()
        content = self.store.content(ObjectRef(manifest.history, "H", limit=_MAX_HISTORY))
        return read_tags(content, manifest.history)

    def _open(self, verdict: Verdict) -> Revision:
        manifest = verdict.manifest
        root, number, tag = Nested(manifest.root, manifest.root_size, manifest.alternative), manifest.revision, ""
        if self.pin:
            root, number, tag = self._pinned(manifest)
        self.catalogs.get(root)
        if self.pin and not number:
            number = self.catalogs.get(root).revision
        return Revision(Tree(self.catalogs, root), number, manifest, tag, verdict.warning, self._clock())

    def _pinned(self, manifest: Manifest) -> tuple[Nested, int, str]:
        pin = self.pin
        if pin.root is not None:
            return Nested(pin.root, 0), 0, ""
        if pin.revision is not None and pin.revision == manifest.revision:
            return Nested(manifest.root, manifest.root_size, manifest.alternative), manifest.revision, ""
        for tag in self._tags(manifest):
            if (
                (pin.tag is not None and tag.name == pin.tag)
                or (pin.revision is not None and tag.revision == pin.revision)
                or (pin.before is not None and tag.timestamp <= pin.before)
            ):
                return Nested(tag.root, tag.size), tag.revision, tag.name
        what = f"tag {pin.tag!r}" if pin.tag is not None else "tag of that revision or date"
        raise BadConfiguration(f"repository {self.name}: has no {what} (see the command tags)")
