"""The extended attributes that the client makes up: what it knows of a file, of the repository and of itself."""

from __future__ import annotations

import os
import resource
import time
import zlib
from collections.abc import Callable, Mapping

from cvmfs.entry import Kind
from cvmfs.hashes import hasher
from cvmfs.reader import whole_ref
from cvmfs.repository import Repository
from cvmfs.routes import DIRECT
from cvmfs.tree import Located

_PAGE = 40_000
_PIECE = 1 << 18
_CHUNK_HEADER = "hash,offset,size\n"
_RAWLINK = ("user.rawlink", "xfsroot.rawlink")


def _chunk_lines(repository: Repository, located: Located) -> list[str]:
    entry = located.entry
    if entry.chunked:
        return [f"{chunk.hash},{chunk.offset},{chunk.size}\n" for chunk in repository.tree.chunks(located)]
    return [f"{entry.hash or '0' * 40},0,{entry.size}\n"]


def _counters(repository: Repository, nested: Located | None) -> str:
    catalog = repository.catalogs.get(nested.catalog if nested else repository.tree.root)
    return "".join(f"{name},{value}\n" for name, value in catalog.counters().items())


def _local_hash(repository: Repository, located: Located) -> str:
    """The hash of what the cache holds, compressed again as publishers do."""
    entry = located.entry
    ref = None if entry.external or entry.hash is None else whole_ref(located)
    content = repository.store.cache.open(ref.key) if ref is not None else None
    if ref is None or content is None:
        return "Not in cache"
    state, deflater = hasher(ref.hash.algorithm), zlib.compressobj() if ref.compressed else None
    for offset in range(0, content.size, _PIECE):
        piece = content.read(offset, _PIECE)
        state.update(piece if deflater is None else deflater.compress(piece))
    if deflater is not None:
        state.update(deflater.flush())
    return str(type(ref.hash)(state.digest(), ref.hash.algorithm))


def _speed(repository: Repository) -> str:
    counters = repository.store.transport.counters
    return f"{counters.bytes / 1024 / counters.seconds:.0f}" if counters.seconds else "n/a"


def _hit_rate(repository: Repository) -> str:
    store = repository.store
    return f"{100 * (1 - store.fetched / store.asked):.3f}" if store.asked else "n/a"


def _minutes_up(repository: Repository) -> str:
    return str(int(time.time() - repository.activity.started) // 60)


_Value = Callable[[Repository, Located], str | None]

_OF_FILES: Mapping[str, _Value] = {
    "user.chunk_list": lambda repository, located: "".join([_CHUNK_HEADER, *_chunk_lines(repository, located)]),
    "user.chunks": lambda repository, located: str(len(_chunk_lines(repository, located))),
    "user.compression": lambda _, located: located.entry.compression,
    "user.direct_io": lambda _, located: str(int(located.entry.direct_io)),
    "user.external_file": lambda _, located: str(int(located.entry.external)),
}
_OF_HASHED: Mapping[str, _Value] = {
    "user.hash": lambda _, located: str(located.entry.hash),
    "user.lhash": _local_hash,
}
_OF_ALL: Mapping[str, _Value] = {
    "user.catalog_counters": lambda repository, located: (
        f"catalog_hash: {located.catalog.hash}\ncatalog_mountpoint: {os.fsdecode(located.mount)}\n"
        + _counters(repository, located)
    ),
    "user.expires": lambda repository, _: repository.activity.minutes_left(),
    "user.external_host": lambda _, __: "internal error: no hosts defined",
    "user.external_timeout": lambda repository, _: f"{repository.store.transport.direct.timeout:g}",
    "user.fqrn": lambda repository, _: repository.name,
    "user.hitrate": lambda repository, _: _hit_rate(repository),
    "user.host": lambda repository, _: repository.store.transport.routes.servers()[0],
    "user.host_list": lambda repository, _: ";".join(repository.store.transport.routes.servers()),
    "user.inode_max": lambda repository, _: str(repository.activity.highest_inode),
    "user.logbuffer": lambda repository, _: repository.activity.log(),
    "user.maxfd": lambda _, __: str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
    "user.ncleanup24": lambda repository, _: str(repository.store.cache.cleanups(24 * 3600)),
    "user.nclg": lambda repository, _: str(len(repository.catalogs)),
    "user.ndiropen": lambda repository, _: str(repository.activity.directory_opens),
    "user.ndownload": lambda repository, _: str(repository.store.fetched),
    "user.nioerr": lambda repository, _: str(repository.activity.errors),
    "user.nopen": lambda repository, _: str(repository.activity.opens),
    "user.pid": lambda _, __: str(os.getpid()),
    "user.proxy": lambda repository, _: repository.store.transport.proxy or DIRECT,
    "user.pubkeys": lambda repository, _: repository.keys.pem,
    "user.repo_counters": lambda repository, _: _counters(repository, None),
    "user.repo_metainfo": lambda repository, _: (repository.metainfo() or b"metainfo not available").decode(
        "utf-8", "replace"
    ),
    "user.revision": lambda repository, _: str(repository.revision.number),
    "user.root_hash": lambda repository, _: str(repository.tree.root.hash),
    "user.rx": lambda repository, _: str(repository.store.transport.counters.bytes // 1024),
    "user.speed": lambda repository, _: _speed(repository),
    "user.tag": lambda repository, _: repository.revision.tag,
    "user.timeout": lambda repository, _: f"{repository.store.transport.through_proxy.timeout:g}",
    "user.timeout_direct": lambda repository, _: f"{repository.store.transport.direct.timeout:g}",
    "user.timestamp_last_ioerr": lambda repository, _: str(repository.activity.last_error),
    "user.uptime": lambda repository, _: _minutes_up(repository),
    "user.useddirp": lambda repository, _: str(repository.activity.open_directories),
    "user.usedfd": lambda repository, _: str(repository.activity.open_files),
    "user.version": lambda _, __: "lmd-cvmfs 1",
}


def magic_names(located: Located) -> list[str]:
    """The attributes that the client makes up for this entry."""
    entry = located.entry
    names = [*_OF_ALL]
    if entry.hash is not None:
        names += _OF_HASHED
    if entry.kind is Kind.FILE:
        names += _OF_FILES
    if entry.external:
        names.append("user.external_url")
    return sorted([*names, *_RAWLINK] if entry.kind is Kind.LINK else names)


def magic_attribute(repository: Repository, located: Located, name: str) -> bytes | None:
    """The value of a made-up attribute, or None if the entry has none of this name.

    `~N` behind a name asks for page N of the value, `~?` for the number of pages, since a value can be longer than
    an attribute may be. Raises CvmfsError.
    """
    entry = located.entry
    base, tilde, page = name.partition("~")
    if base in _RAWLINK:
        return entry.target if entry.kind is Kind.LINK and not tilde else None
    value: str | None = None
    if base in _OF_HASHED and entry.hash is not None:
        value = _OF_HASHED[base](repository, located)
    elif base in _OF_FILES and entry.kind is Kind.FILE:
        value = _OF_FILES[base](repository, located)
    elif base in _OF_ALL:
        value = _OF_ALL[base](repository, located)
    elif base == "user.external_url" and entry.external:
        value = ""  # no servers of external content are known
    return None if value is None else _paged(value, page if tilde else "0")


def _paged(value: str, page: str) -> bytes | None:
    pages = [""]
    for line in value.splitlines(keepends=True):
        if len(pages[-1]) + len(line) > _PAGE:
            pages.append("")
        pages[-1] += line
    if page == "?":
        return f"num_pages, {len(pages)}".encode()
    if not page.isascii() or not page.isdigit() or int(page[:9]) >= len(pages):
        return None
    return pages[int(page[:9])].encode("utf-8", "surrogateescape")
