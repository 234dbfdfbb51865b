"""The extended attributes that the client makes up: what it knows of a file, of the repository and of itself."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping

from cvmfs.entry import Kind
from cvmfs.repository import Repository
from cvmfs.routes import DIRECT
from cvmfs.tree import Located

_PAGE = 40_000
_CHUNK_HEADER = "hash,offset,size\n"


def _chunk_lines(repository: Repository, located: Located) -> list[str]:
    entry = located.entry
    if entry.chunked:
        return [f"{chunk.hash},{chunk.offset},{chunk.size}\n" for chunk in repository.tree.chunks(located)]
    return [f"{entry.hash or '0' * 40},0,{entry.size}\n"]


def _counters(repository: Repository, nested: Located | None) -> str:
    catalog = repository.catalogs.get(nested.catalog if nested else repository.tree.root)
    return "".join(f"{name},{value}\n" for name, value in catalog.counters().items())


_Value = Callable[[Repository, Located], str | None]

_OF_FILES: Mapping[str, _Value] = {
    "user.compression": lambda _, located: located.entry.compression,
    "user.chunks": lambda repository, located: str(len(_chunk_lines(repository, located))),
    "user.external_file": lambda _, located: str(int(located.entry.external)),
    "user.direct_io": lambda _, located: str(int(located.entry.direct_io)),
}
_OF_ALL: Mapping[str, _Value] = {
    "user.fqrn": lambda repository, _: repository.name,
    "user.revision": lambda repository, _: str(repository.revision.number),
    "user.root_hash": lambda repository, _: str(repository.tree.root.hash),
    "user.tag": lambda repository, _: repository.revision.tag,
    "user.host": lambda repository, _: repository.store.transport.routes.servers()[0],
    "user.host_list": lambda repository, _: ";".join(repository.store.transport.routes.servers()),
    "user.proxy": lambda repository, _: repository.store.transport.proxy or DIRECT,
    "user.pubkeys": lambda repository, _: repository.keys.pem,
    "user.nclg": lambda repository, _: str(len(repository.catalogs)),
    "user.ndownload": lambda repository, _: str(repository.store.transport.counters.downloads),
    "user.rx": lambda repository, _: str(repository.store.transport.counters.bytes // 1024),
    "user.timeout": lambda repository, _: f"{repository.store.transport.through_proxy.timeout:g}",
    "user.timeout_direct": lambda repository, _: f"{repository.store.transport.direct.timeout:g}",
    "user.maxfd": lambda _, __: str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
    "user.pid": lambda _, __: str(os.getpid()),
    "user.usedfd": lambda _, __: str(len(os.listdir("/proc/self/fd"))),  # noqa: PTH208 — only counted
    "user.repo_counters": lambda repository, _: _counters(repository, None),
    "user.catalog_counters": lambda repository, located: (
        f"catalog_hash: {located.catalog.hash}\ncatalog_mountpoint: {os.fsdecode(located.mount)}\n"
        + _counters(repository, located)
    ),
    "user.repo_metainfo": lambda repository, _: (repository.metainfo() or b"").decode("utf-8", "replace"),
    "user.version": lambda _, __: "lmd-cvmfs 1",
}


def magic_attribute(repository: Repository, located: Located, name: str) -> bytes | None:
    """The value of a made-up attribute, or None if the entry has none of this name.

    `~N` behind `user.chunk_list` asks for page N, `~?` for the number of pages, since a list can be longer than
    an attribute may be. Raises CvmfsError.
    """
    entry = located.entry
    base, tilde, page = name.partition("~")
    value: str | None = None
    if base in ("user.rawlink", "xfsroot.rawlink"):
        return entry.target if entry.kind is Kind.LINK and not tilde else None
    if base == "user.hash":
        value = str(entry.hash) if entry.hash is not None else None
    elif base == "user.chunk_list" and entry.kind is Kind.FILE:
        return _paged([_CHUNK_HEADER, *_chunk_lines(repository, located)], page if tilde else "0")
    elif base in _OF_FILES and entry.kind is Kind.FILE:
        value = _OF_FILES[base](repository, located)
    elif base in _OF_ALL:
        value = _OF_ALL[base](repository, located)
    if value is None or page not in ("", "0"):
        return None
    return value.encode("utf-8", "surrogateescape")


def _paged(lines: list[str], page: str) -> bytes | None:
    pages = [""]
    for line in lines:
        if len(pages[-1]) + len(line) > _PAGE:
            pages.append("")
        pages[-1] += line
    if page == "?":
        return f"num_pages, {len(pages)}".encode()
    if not page.isascii() or not page.isdigit() or int(page[:9]) >= len(pages):
        return None
    return pages[int(page[:9])].encode()
