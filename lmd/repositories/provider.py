"""Who mounts repositories on this host, by the configuration and by what is installed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lmd.config.models import Cvmfs
from lmd.places import Places

if TYPE_CHECKING:
    from cvmfs.hosting import Provider

ALL = "*"
"""In place of names: all repositories that there are."""
EXTRA = "install lmd with its extra: pip install 'lmd[cvmfs]' (it needs fuse3 and /dev/fuse)"


class NoRepositories(Exception):
    """Repositories cannot be had on this host; the text says why, and what to do."""


def provider(options: Cvmfs, places: Places) -> "Provider":
    """The provider that the configuration names; `auto` is the distribution's client where there is one.

    Raises `NoRepositories`.
    """
    try:
        from cvmfs import asking, hosting
    except ImportError as error:
        raise NoRepositories(f"CernVM-FS: {error.name} is not installed: {EXTRA}") from error
    client = hosting.client()
    if options.provider == "system" and client is None:
        raise NoRepositories(
            "CernVM-FS: the provider is to be the distribution's client, and cvmfs2 is not installed here"
            ' (install the package cvmfs, or set provider = "embedded" in [cvmfs])'
        )
    if client is not None and options.provider != "embedded":
        root = Path(options.settings.get("CVMFS_MOUNT_DIR") or asking.CONVENTIONAL)
        return hosting.System(root, float(options.probe_seconds))
    if why := lacking():
        raise NoRepositories(f"CernVM-FS: the embedded reader cannot work here: {why}")
    base = places.run / "cvmfs"
    return hosting.Embedded(base, reader_file(options, places), float(options.idle_seconds))


def lacking() -> str:
    """What the embedded reader needs and this host lacks; empty if it has all."""
    import shutil
    from importlib.util import find_spec

    for name in ("pyfuse3", "cryptography"):
        if find_spec(name) is None:
            return f"{name} is not installed: {EXTRA}"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened: modprobe fuse"
    if shutil.which("fusermount3") is None:
        return "fusermount3 is not installed: apt-get install fuse3"
    return ""


def reader_file(options: Cvmfs, places: Places) -> Path:
    """What the configuration says, as a file that the embedded reader takes; written anew each time, for us alone."""
    base = places.run / "cvmfs"
    base.mkdir(mode=0o711, parents=True, exist_ok=True)  # lm doctor may come before all else
    file = base / "reader.toml"
    draft = base / f"reader.{os.getpid()}"
    draft.touch(mode=0o600)
    draft.write_text("\n".join(["[cvmfs]", *_lines(options, places)]) + "\n")
    draft.replace(file)
    return file


def _lines(options: Cvmfs, places: Places) -> Iterator[str]:
    yield f"cache_dir = {json.dumps(str(cache(places)))}"
    for name, values in (
        ("server_url", options.server_url),
        ("http_proxy", options.http_proxy),
        ("public_key", options.public_key),
    ):
        if values:
            yield f"{name} = {json.dumps(list(values))}"
    if options.quota_mb is not None:
        yield f"quota_limit = {options.quota_mb}"
    if options.settings:
        yield "[cvmfs.variables]"
        yield from (f"{name} = {json.dumps(text)}" for name, text in options.settings.items())


def cache(places: Places) -> Path:
    """The embedded reader's cache, which all mounts of this user share."""
    return places.cache / "cvmfs"
