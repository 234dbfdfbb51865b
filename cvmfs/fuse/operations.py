"""The file system's operations: quick answers in the event loop, everything that may wait in threads."""

from __future__ import annotations

import errno
import functools
import itertools
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cvmfs.entry import Entry, Kind
from cvmfs.errors import CvmfsError
from cvmfs.fuse.inodes import ROOT, Inodes, Node
from cvmfs.fuse.loop import Loop, pyfuse3
from cvmfs.magic import magic_attribute, magic_names
from cvmfs.objects import ObjectRef
from cvmfs.ownership import Ownership
from cvmfs.reader import File, WholeFile, whole_ref
from cvmfs.repository import Repository
from cvmfs.settings import Listed, Settings
from cvmfs.tree import Located

_BLOCK = 4096
_DOTS = 2
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC
Result = TypeVar("Result")
log = logging.getLogger("cvmfs")


@dataclass(frozen=True, slots=True)
class Shown:
    """How entries are shown. `kernel_timeout` (s) is how long the kernel may keep names and attributes."""

    kernel_timeout: float
    ownership: Ownership
    world_readable: bool
    attributes_listed: Listed


def shown_by(settings: Settings) -> Shown:
    """What the settings say of it."""
    return Shown(settings.kernel_timeout, settings.ownership, settings.world_readable, settings.attributes_listed)


class Operations(pyfuse3.Operations):
    """One repository, read-only."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, repository: Repository, loop: Loop, shown: Shown) -> None:
        """Raises CvmfsError if the root directory cannot be read."""
        super().__init__()
        self._repository = repository
        self._activity = repository.activity
        self._shown = shown
        self._timeout = shown.kernel_timeout
        root = repository.tree.lookup(b"")
        if root is None or root.entry.kind is not Kind.DIRECTORY:
            raise CvmfsError(f"repository {repository.name}: its root catalog has no root directory")
        self.inodes = Inodes(root)
        self._handles: dict[int, File] = {}
        self._directories: dict[int, tuple[Node, list[Located]]] = {}
        self._serial = itertools.count(1)
        self._loop = loop

    async def _answer(self, quick: bool, what: object, work: Callable[[], Result]) -> Result:
        """Do `work` here or in a thread, and turn its errors into what the kernel understands."""
        try:
            return work() if quick else await self._loop.in_thread(work)
        except CvmfsError as error:
            log.warning("%s: %s: %s", self._repository.name, what, error)
            self._activity.failed()
            raise pyfuse3.FUSEError(error.errno) from error
        except OSError as error:
            log.warning("%s: %s: %s", self._repository.name, what, error)
            self._activity.failed()
            raise pyfuse3.FUSEError(errno.EIO) from error

    def _node(self, number: int) -> Node:
        node = self.inodes.get(number)
        if node is None:
            raise pyfuse3.FUSEError(errno.ESTALE)
        return node

    def attributes(self, node: Node, *, keep: bool = True) -> pyfuse3.EntryAttributes:
        """What stat shows. The times of a change and of an access are those of the content."""
        entry = node.located.entry
        found = pyfuse3.EntryAttributes()
        found.st_ino = node.number
        found.generation = 0
        found.entry_timeout = self._timeout
        found.attr_timeout = self._timeout if keep else 0
        found.st_mode = entry.mode | _readable(entry) if self._shown.world_readable else entry.mode
        found.st_nlink = entry.nlink
        found.st_uid, found.st_gid = self._shown.ownership.shown(entry.uid, entry.gid)
        found.st_rdev = entry.device
        size = len(self._repository.target(node.located)) if entry.kind is Kind.LINK else entry.size
        found.st_size = size
        found.st_blksize = _BLOCK
        found.st_blocks = 1 + size // 512
        moment = entry.mtime * 1_000_000_000 + entry.mtime_ns
        found.st_atime_ns = found.st_mtime_ns = found.st_ctime_ns = moment
        return found

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """The entry of this name; one without a number where there is none, which the kernel keeps as well."""
        parent = self._node(parent_inode)
        path = parent.path + b"/" + name
        while True:
            tree = self._repository.tree
            located = await self._answer(tree.quick(path), path, lambda: tree.lookup(path))  # noqa: B023 — done here
            if tree is self._repository.tree:  # else a new revision has come, and the kernel must not keep the old
                break
        if located is None:
            absent = pyfuse3.EntryAttributes()
            absent.st_ino = 0
            absent.entry_timeout = self._timeout if self.inodes.tell(parent, name, 0) else 0
            return absent
        node = self.inodes.admit(path, located)
        node.lookups += 1
        self.inodes.tell(parent, name, node.number)
        return self.attributes(node)

    async def getattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """See attributes. A directory that was only listed so far, and starts a catalog, is looked up now."""
        node = self._node(inode)
        if node.located.entry.mountpoint:
            tree = self._repository.tree
            located = await self._answer(tree.quick(node.path), node.path, lambda: tree.lookup(node.path))
            if located is not None:
                node.located = located
        return self.attributes(node)

    async def readlink(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileNameT:
        """The target, with its variables replaced."""
        return self._repository.target(self._node(inode).located)

    async def forget(self, inode_list: Sequence[tuple[pyfuse3.InodeT, int]]) -> None:
        """See Inodes.forget."""
        for number, lookups in inode_list:
            self.inodes.forget(number, lookups)

    async def opendir(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileHandleT:
        """Take down the listing, which stays the same for this handle."""
        node = self._node(inode)
        tree = self._repository.tree
        listing = await self._answer(tree.quick(node.path), node.path, lambda: tree.listing(node.path))
        handle = next(self._serial)
        self._directories[handle] = (node, listing)
        self._activity.directory_opens += 1
        self._activity.open_directories += 1
        return handle

    async def readdir(self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Names with attributes, so that the kernel need not ask for each."""
        folder, entries = self._directories[fh]
        for position in range(start_id, _DOTS):  # the kernel takes no reference for these two
            if not pyfuse3.readdir_reply(token, b"." * (position + 1), self.attributes(folder), position + 1):
                return
        for position in range(max(start_id, _DOTS), _DOTS + len(entries)):
            located = entries[position - _DOTS]
            name = located.entry.name
            node = self.inodes.admit(folder.path + b"/" + name, located)
            attributes = self.attributes(node, keep=not node.located.entry.mountpoint)
            if not pyfuse3.readdir_reply(token, name, attributes, position + 1):
                self.inodes.drop_unused(node)
                return
            node.lookups += 1
            self.inodes.tell(folder, name, node.number)

    async def releasedir(self, fh: pyfuse3.FileHandleT) -> None:
        """Forget the listing."""
        if self._directories.pop(fh, None) is not None:
            self._activity.open_directories -= 1

    async def open(self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """Fetch what reading needs. Pages that the kernel has stay valid: a number never changes its content."""
        if flags & _WRITING:
            raise pyfuse3.FUSEError(errno.EROFS)
        located = self._node(inode).located
        ref = await self._answer(True, located.inner, lambda: whole_ref(located))
        file = self._ready(ref)
        if file is None:
            file = await self._answer(False, located.inner, lambda: self._repository.open(located))
        handle = next(self._serial)
        self._handles[handle] = file
        self._activity.opens += 1
        self._activity.open_files += 1
        direct = located.entry.direct_io
        return pyfuse3.FileInfo(fh=handle, keep_cache=not direct, direct_io=direct)

    def _ready(self, ref: ObjectRef | None) -> File | None:
        content = self._repository.store.ready(ref) if ref is not None else None
        return None if content is None else WholeFile(content)

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        """Bytes of an open file."""
        file = self._handles[fh]
        data = await self._answer(True, "read", lambda: file.read_now(off, size))
        if data is None:
            data = await self._answer(False, "read", lambda: file.read(off, size))
        return data

    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        """Nothing is ever written, and the kernel need not ask again."""
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        """Close the file."""
        if self._handles.pop(fh, None) is not None:
            self._activity.open_files -= 1

    async def getxattr(self, inode: pyfuse3.InodeT, name: pyfuse3.XAttrNameT, ctx: pyfuse3.RequestContext) -> bytes:
        """A made-up attribute, else a stored one."""
        located = self._node(inode).located
        text = name.decode("utf-8", "replace")
        value: bytes | None = None
        if text == "user.inode_max":
            self._activity.highest_inode = self.inodes.highest
        if text.startswith(("user.", "xfsroot.")):
            value = await self._answer(False, located.inner, lambda: magic_attribute(self._repository, located, text))
        if value is None and located.entry.xattrs:
            value = (await self._answer(True, located.inner, lambda: self._repository.xattrs(located))).get(name)
        if value is None:
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        return value

    async def listxattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> Sequence[pyfuse3.XAttrNameT]:
        """The stored attributes, and those that are made up where the settings say so."""
        located = self._node(inode).located
        found = [*await self._answer(True, located.inner, lambda: self._repository.xattrs(located))]
        listed = self._shown.attributes_listed
        if listed is Listed.ALWAYS or (listed is Listed.ROOT and inode == ROOT):
            found += [name.encode() for name in magic_names(located) if name.encode() not in found]
        return found

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """The cache as a file system: its quota, and what is free of it."""
        cache = self._repository.store.cache
        used = await self._answer(True, "statfs", cache.used)
        found = pyfuse3.StatvfsData()
        found.f_bsize = found.f_frsize = _BLOCK
        found.f_blocks = (cache.quota if cache.quota is not None else used) // _BLOCK
        found.f_bfree = found.f_bavail = max(0, found.f_blocks - used // _BLOCK)
        found.f_files = len(self.inodes)
        found.f_ffree = found.f_favail = 0
        found.f_namemax = 255
        return found


def _readable(entry: Entry) -> int:
    return 0o555 if entry.kind is Kind.DIRECTORY else 0o444


def _refuse(name: str) -> Callable[..., Any]:
    async def refused(self: Operations, *_: object) -> None:
        raise pyfuse3.FUSEError(errno.EROFS)

    refused.__name__ = name
    return refused


def _guard(operation: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """An error of this program fails one request, not the whole mount."""

    @functools.wraps(operation)
    async def guarded(*arguments: Any) -> Any:
        try:
            return await operation(*arguments)
        except pyfuse3.FUSEError:
            raise
        except Exception:
            log.exception("an error of this program in %s", operation.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from None

    return guarded


# a descriptor that somebody else has mounted may not be mounted read-only
for _name in (
    *("create", "mkdir", "mknod", "symlink", "link", "unlink", "rmdir", "rename", "setattr", "write"),
    *("setxattr", "removexattr"),
):
    setattr(Operations, _name, _refuse(_name))
for _name in (
    *("lookup", "getattr", "readlink", "forget", "opendir", "readdir", "releasedir", "open", "read", "release"),
    *("getxattr", "listxattr", "statfs"),
):
    setattr(Operations, _name, _guard(getattr(Operations, _name)))
