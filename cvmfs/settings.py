"""What a repository is read with: checked settings, made from the conventional names whatever file they came from."""

from __future__ import annotations

import calendar
import enum
import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cvmfs.blacklist import read_blacklist
from cvmfs.cache import Cache
from cvmfs.errors import BadConfiguration, Damaged, Unreachable
from cvmfs.hashes import ContentHash
from cvmfs.http import Http, Limits
from cvmfs.ownership import Ownership, read_ids
from cvmfs.repository import Pin, Repository
from cvmfs.routes import AUTO, DIRECT, ProxyGroups, ResetAfter, Routes, parse_proxies, parse_servers
from cvmfs.store import ObjectStore
from cvmfs.transport import Transport
from cvmfs.trust import MasterKeys, check_repository_name

AGENT = "lmd-cvmfs/1"
DEFAULT_QUOTA_MB = 4000
DEFAULT_KEYS = Path("/etc/cvmfs/keys")
DEFAULT_PAC = "http://wpad/wpad.dat"
_YES = ("yes", "on", "1", "true")
_NO = ("no", "off", "0", "false", "")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class Listed(enum.StrEnum):
    """Where the attributes that the client makes up appear in lists; they are found by name in any case."""

    NEVER = "never"
    ROOT = "rootonly"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything needed to open one repository. `quota` in bytes (None: no limit), `kernel_timeout` in seconds is
    how long the kernel may keep names and attributes, `ownership` says which owners to show,
    `max_ttl` (s) is the longest time between looks for a new revision, None for no such limit."""

    repository: str
    servers: tuple[str, ...]
    proxies: ProxyGroups
    keys: tuple[Path, ...]
    cache: Path
    quota: int | None
    through_proxy: Limits
    direct: Limits
    reset: ResetAfter
    pin: Pin
    pac_urls: tuple[str, ...]
    variables: Mapping[str, str]
    kernel_timeout: float
    refresh: bool
    max_ttl: float | None
    ownership: Ownership
    world_readable: bool
    attributes_listed: Listed
    check_permissions: bool
    setuid: bool
    blacklists: tuple[Path, ...] = ()


def make_settings(repository: str, values: Mapping[str, str]) -> Settings:
    """Settings from conventional values (CVMFS_SERVER_URL and so on). Raises BadConfiguration."""
    check_repository_name(repository)
    redirects = _yes(values, "CVMFS_FOLLOW_REDIRECTS", False)
    return Settings(
        repository=repository,
        servers=parse_servers(values.get("CVMFS_SERVER_URL", ""), repository),
        proxies=_proxies(values),
        keys=_keys(values),
        cache=cache_directory(values),
        quota=_quota(values),
        through_proxy=Limits(_seconds(values, "CVMFS_TIMEOUT", 5), redirects),
        direct=Limits(_seconds(values, "CVMFS_TIMEOUT_DIRECT", 10), redirects),
        reset=ResetAfter(
            _seconds(values, "CVMFS_PROXY_RESET_AFTER", 300), _seconds(values, "CVMFS_HOST_RESET_AFTER", 1800)
        ),
        pin=_pin(values),
        pac_urls=tuple(word for word in re.split(r"[;\s]+", values.get("CVMFS_PAC_URLS") or DEFAULT_PAC) if word),
        variables={name: value for name, value in values.items() if _NAME.fullmatch(name)},
        kernel_timeout=_seconds(values, "CVMFS_KCACHE_TIMEOUT", 60),
        refresh=_yes(values, "CVMFS_AUTO_UPDATE", True),
        max_ttl=60 * _seconds(values, "CVMFS_MAX_TTL", 0) or None,
        ownership=Ownership(
            read_ids("CVMFS_UID_MAP", values.get("CVMFS_UID_MAP", "")),
            read_ids("CVMFS_GID_MAP", values.get("CVMFS_GID_MAP", "")),
            (os.geteuid(), os.getegid()) if _yes(values, "CVMFS_CLAIM_OWNERSHIP", False) else None,
        ),
        world_readable=_yes(values, "CVMFS_WORLD_READABLE", False),
        attributes_listed=_listed(values),
        check_permissions=_yes(values, "CVMFS_CHECK_PERMISSIONS", False),
        setuid=_yes(values, "CVMFS_SUID", False),
        blacklists=tuple(Path(word) for word in values.get("CVMFS_BLACKLIST", "").split(":") if word),
    )


def open_repository(settings: Settings, cache: Cache | None = None) -> Repository:
    """Open the repository; the cache is opened too unless given. Raises CvmfsError."""
    keys = MasterKeys.load(settings.keys)
    cache = cache or Cache(settings.cache, settings.quota)
    http = Http(AGENT)
    routes = Routes(settings.servers, lambda: _automatic(settings, http), settings.reset)
    transport = Transport(http, routes, through_proxy=settings.through_proxy, direct=settings.direct)
    store = ObjectStore(cache, transport)
    try:
        return Repository(
            settings.repository,
            keys,
            store,
            cache,
            pin=settings.pin,
            variables=settings.variables,
            blacklist=read_blacklist(settings.blacklists, settings.repository),
        )
    except BaseException:
        store.close()
        raise


def _automatic(settings: Settings, http: Http) -> ProxyGroups:
    """The proxy groups, with each `auto` replaced by what the proxy auto-configuration says."""
    if not any(AUTO in group for group in settings.proxies):
        return settings.proxies
    from cvmfs.pac import find_proxies  # a mount without automatic configuration starts sooner

    groups: list[tuple[str, ...]] = []
    for group in settings.proxies:
        if AUTO not in group:
            groups.append(group)
            continue
        try:
            groups += find_proxies(settings.pac_urls, settings.servers, http, settings.direct)
        except Unreachable as error:
            if len(settings.proxies) == 1:
                raise
            logging.getLogger("cvmfs").warning("%s: %s; going on with the other proxies", settings.repository, error)
    return tuple(groups)


def _proxies(values: Mapping[str, str]) -> ProxyGroups:
    text = values.get("CVMFS_HTTP_PROXY", "")
    groups = parse_proxies(text)
    fallback = values.get("CVMFS_FALLBACK_PROXY", "")
    if not fallback.strip():
        return groups
    # fallback proxies come last and take the place of direct connections
    kept = tuple(tuple(name for name in group if name != DIRECT) for group in groups)
    return tuple(group for group in kept if group) + parse_proxies(fallback)


def _keys(values: Mapping[str, str]) -> tuple[Path, ...]:
    files = [Path(word) for word in values.get("CVMFS_PUBLIC_KEY", "").split(":") if word]
    if not files:
        files = [Path(word) for word in values.get("CVMFS_KEYS_DIR", "").split(":") if word]
    return tuple(files) or ((DEFAULT_KEYS,) if DEFAULT_KEYS.is_dir() else ())


def cache_directory(values: Mapping[str, str]) -> Path:
    """Where the cache is: CVMFS_CACHE_DIR exactly, or a directory of ours below CVMFS_CACHE_BASE, or the default."""
    exact = values.get("CVMFS_CACHE_DIR")
    if exact:
        return Path(exact).absolute()
    base = values.get("CVMFS_CACHE_BASE")
    if base:
        return Path(base).absolute() / "lmd"
    if os.geteuid() == 0:
        return Path("/var/cache/lmd/cvmfs")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmd" / "cvmfs"


def _quota(values: Mapping[str, str]) -> int | None:
    text = values.get("CVMFS_QUOTA_LIMIT", "").strip() or str(DEFAULT_QUOTA_MB)
    if not re.fullmatch(r"-1|[0-9]{1,12}", text, re.ASCII):
        raise BadConfiguration(f"CVMFS_QUOTA_LIMIT {text[:40]!r}: not a number of megabytes (-1: no limit)")
    return None if text == "-1" else int(text) << 20


def _seconds(values: Mapping[str, str], name: str, default: float) -> float:
    text = values.get(name, "").strip()
    if not text:
        return default
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text, re.ASCII):
        raise BadConfiguration(f"{name} {text[:40]!r}: not a number")
    return float(text)


def _yes(values: Mapping[str, str], name: str, default: bool) -> bool:
    text = values.get(name)
    if text is None:
        return default
    if text.strip().lower() not in _YES + _NO:
        raise BadConfiguration(f"{name} {text[:40]!r}: neither yes nor no")
    return text.strip().lower() in _YES


def _listed(values: Mapping[str, str]) -> Listed:
    text = values.get("CVMFS_MAGIC_XATTRS_VISIBILITY", "never").strip().lower()
    if text not in ("never", "rootonly", "always"):
        raise BadConfiguration(f"CVMFS_MAGIC_XATTRS_VISIBILITY {text[:40]!r}: not never, rootonly or always")
    return Listed(text)


def _pin(values: Mapping[str, str]) -> Pin:
    """A root hash wins over a tag, a tag over a revision, that over a date."""
    if text := values.get("CVMFS_ROOT_HASH", ""):
        try:
            return Pin(root=ContentHash.parse(text))
        except Damaged as error:
            raise BadConfiguration(f"CVMFS_ROOT_HASH: {error}") from error
    if text := values.get("CVMFS_REPOSITORY_TAG", ""):
        return Pin(tag=text)
    if text := values.get("CVMFS_REPOSITORY_REVISION", ""):
        if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
            raise BadConfiguration(f"revision {text[:40]!r}: not a number")
        return Pin(revision=int(text))
    if text := values.get("CVMFS_REPOSITORY_DATE", ""):
        try:
            return Pin(before=calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))
        except ValueError:
            raise BadConfiguration(f"CVMFS_REPOSITORY_DATE {text[:40]!r}: not like 2026-01-31T12:00:00Z") from None
    return Pin()
