"""Where settings come from: profiles, the conventional files, the configuration repository, TOML, the command line.

Later wins: profile of the domain; default.conf, default.d/*.conf, default.local; domain.d/DOMAIN.conf and .local;
config.d/REPOSITORY.conf and .local; TOML; the command line. The configuration repository, where one is named, has
its default.conf read after default.d, and the other two before this host's files of their kind (CernVM-FS
documentation, "Configuration layout"); the latter leave at once if they see that it was there.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvmfs.asking import CONVENTIONAL, asked
from cvmfs.errors import BadConfiguration, CvmfsError
from cvmfs.profiles import profile
from cvmfs.repository import Repository
from cvmfs.settings import Settings, make_settings, open_repository
from cvmfs.shell import read_shell, read_shell_file
from cvmfs.trust import check_repository_name

_MAX_FILE = 1 << 20
_NAMES = (
    *("server_url", "http_proxy", "fallback_proxy", "pac_urls", "public_key", "keys_dir", "quota_limit", "cache_base"),
    *("cache_dir", "config_repository", "timeout", "timeout_direct", "follow_redirects", "proxy_reset_after"),
    *("host_reset_after", "repository_tag", "repository_revision", "repository_date", "root_hash", "kcache_timeout"),
    *("auto_update", "max_ttl", "claim_ownership", "check_permissions", "suid", "use_cdn", "default_domain"),
    *("uid_map", "gid_map", "world_readable", "magic_xattrs_visibility", "blacklist"),
)
_TEMPLATED = tuple(
    f"CVMFS_{name}"
    for name in ("PUBLIC_KEY", "KEYS_DIR", "CACHE_DIR", "CACHE_BASE", "UID_MAP", "GID_MAP", "BLACKLIST", "PAC_URLS")
)
_JOINED = {"blacklist": ":", "server_url": ";", "http_proxy": ";", "pac_urls": ";", "public_key": ":", "keys_dir": ":"}
Values = dict[str, str]
ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be opened: a repository, with what was given on the command line under conventional names."""

    repository: str
    given: Mapping[str, str]
    toml: Path | None = None
    etc: Path = Path("/etc/cvmfs")


def load_settings(request: Request) -> Settings:
    """The settings for a repository. Raises BadConfiguration, or what opening the configuration repository raises."""
    values = load_values(request)
    return make_settings(_full_name(request.repository, values), values)


def load_values(request: Request) -> Values:
    """The same, as conventional names and values."""
    return _load(request, with_config_repository=True)


def _load(request: Request, *, with_config_repository: bool) -> Values:
    """Everything but the configuration repository is read first, to learn which one that is."""
    toml = _read_toml(request.toml, request.repository) if request.toml is not None else {}
    plain = _layers(request, None, toml)
    config = plain.get("CVMFS_CONFIG_REPOSITORY", "")
    name = _full_name(request.repository, plain)
    if not with_config_repository or not config or config == name:
        return _finished(plain)
    if plain.get("CVMFS_SERVER_URL") and plain.get("CVMFS_PUBLIC_KEY") and request.given.get("CVMFS_SERVER_URL"):
        return _finished(plain)  # all that it could say is on the command line
    below = CONVENTIONAL / check_repository_name(config)
    if _answers(below / "etc/cvmfs"):  # mounted here, by whatever client
        values = _layers(request, lambda path: _local(below / path), toml)
        values["CVMFS_BLACKLIST"] += f":{below}/etc/cvmfs/blacklist"
        return _finished(values)
    inherited = {key: value for key, value in request.given.items() if key in ("CVMFS_HTTP_PROXY", "CVMFS_CACHE_DIR")}
    own = Request(config, inherited, request.toml, request.etc)
    try:
        repository = open_repository(make_settings(config, _load(own, with_config_repository=False)))
    except CvmfsError as error:
        if not plain.get("CVMFS_SERVER_URL") or not (plain.get("CVMFS_PUBLIC_KEY") or plain.get("CVMFS_KEYS_DIR")):
            raise
        logging.getLogger("cvmfs").warning("configuration repository: %s; going on without it", error)
        return _finished(plain)
    try:
        values = _layers(request, lambda path: _inside(repository, path), toml)
        _with_blacklist(values, repository)
        return _finished(_with_keys(values, repository, str(below)))
    finally:
        repository.close()


def _answers(folder: Path) -> bool:
    """Whether there is such a directory, by an answer in time."""
    answer = asked(["test", "-d", str(folder)], ANSWER_SECONDS)
    if answer is None:
        logging.getLogger("cvmfs").warning("%s: no answer within %g s; going on without it", folder, ANSWER_SECONDS)
    return answer is not None and answer[0] == 0


def _full_name(name: str, values: Mapping[str, str]) -> str:
    if "." not in name and values.get("CVMFS_DEFAULT_DOMAIN"):
        name = f"{name}.{values['CVMFS_DEFAULT_DOMAIN']}"
    return check_repository_name(name)


def _layers(request: Request, remote: Callable[[str], str | None] | None, toml: Values) -> Values:
    values: Values = {"CVMFS_MOUNT_DIR": "/cvmfs", "CVMFS_FQRN": request.repository}
    etc = request.etc

    def from_repository(kind: str) -> None:
        where = f"etc/cvmfs/{kind}.conf"
        text = remote(where) if remote is not None else None
        if remote is not None and text is not None:
            folder = posixpath.dirname(where)
            read_shell(
                text, values, f"configuration repository: {kind}.conf", lambda name: _beside(remote, folder, name)
            )

    read_shell_file(etc / "default.conf", values)
    with contextlib.suppress(OSError):
        for file in sorted((etc / "default.d").glob("*.conf")):
            read_shell_file(file, values)
    named = values.get("CVMFS_CONFIG_REPOSITORY", "")
    from_repository("default")
    read_shell_file(etc / "default.local", values)
    if remote is not None and named:
        values["CVMFS_CONFIG_REPOSITORY"] = named  # which one it is may not be changed by itself
    name = _full_name(request.repository, {**values, **toml, **request.given})
    domain = name.partition(".")[2]
    text = profile(domain)
    if text is not None:
        # what default files say about the switch that profiles know counts; whatever else they say wins
        below = dict(values)
        below.update({key: value for key, value in toml.items() if key == "CVMFS_USE_CDN"})
        read_shell(text, below, f"profile {domain}")
        values.update({key: value for key, value in below.items() if key not in values})
    values["CVMFS_FQRN"] = name
    for kind in (f"domain.d/{domain}", f"config.d/{name}"):
        from_repository(kind)
        read_shell_file(etc / f"{kind}.conf", values)
        read_shell_file(etc / f"{kind}.local", values)
    values.update(toml)
    values.update(request.given)
    values.setdefault("CVMFS_BLACKLIST", str(etc / "blacklist"))
    return values


def _beside(remote: Callable[[str], str | None], folder: str, name: str) -> str | None:
    """A file that one of the configuration repository includes, by a path from where that one is."""
    path = posixpath.normpath(posixpath.join(folder, name))
    return None if path.startswith(("/", "..")) else remote(path)


def _finished(values: Values) -> Values:
    """Defaults that depend on where things are."""
    if not values.get("CVMFS_HTTP_PROXY"):
        values["CVMFS_HTTP_PROXY"] = "DIRECT"
    name = values["CVMFS_FQRN"]
    for setting in _TEMPLATED:
        if "@" in values.get(setting, ""):
            values[setting] = values[setting].replace("@fqrn@", name).replace("@org@", name.partition(".")[0])
    return values


def _local(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_FILE).decode("utf-8", "surrogateescape")
    except OSError:
        return None


def _inside(repository: Repository, path: str) -> str | None:
    """A file of the configuration repository; a link is followed once."""
    data = _read_inside(repository, b"/" + os.fsencode(path))
    return None if data is None else data.decode("utf-8", "surrogateescape")


def _read_inside(repository: Repository, path: bytes) -> bytes | None:
    for _ in range(4):
        located = repository.tree.lookup(path)
        if located is None:
            return None
        if not located.entry.target:
            break
        path = os.path.normpath(os.path.join(os.path.dirname(path), repository.target(located)))  # noqa: PTH118, PTH120
    if located is None or located.entry.target or located.entry.size > _MAX_FILE:
        return None
    return b"".join(repository.read(located))


def _with_keys(values: Values, repository: Repository, below: str) -> Values:
    """Bring keys that are in the configuration repository to the cache, as no client has mounted it."""
    for setting in ("CVMFS_PUBLIC_KEY", "CVMFS_KEYS_DIR"):
        words = [word for word in values.get(setting, "").split(":") if word]
        if not any(word.startswith(below + "/") for word in words):
            continue
        folder = repository.store.cache.directory / "repositories" / repository.name / "keys"
        values[setting] = ":".join(
            _brought(repository, word[len(below) :], folder) if word.startswith(below + "/") else word for word in words
        )
    return values


def _with_blacklist(values: Values, repository: Repository) -> None:
    data = _read_inside(repository, b"/etc/cvmfs/blacklist")
    folder = repository.store.cache.directory / "repositories" / repository.name
    repository.store.cache.keep_state(repository.name, "blacklist", data or b"")
    values["CVMFS_BLACKLIST"] += f":{folder}/blacklist"


def _brought(repository: Repository, path: str, folder: Path) -> str:
    """Copy a key, or the keys of a directory, and return where they are now."""
    inner = os.fsencode(path.rstrip("/"))
    target = folder / hashlib.sha1(inner, usedforsecurity=False).hexdigest()[:16]
    located = repository.tree.lookup(inner)
    if located is None:
        raise BadConfiguration(f"public key {path}: not in the configuration repository {repository.name}")
    paths = [inner]
    if located.entry.kind == "dir":
        paths = [inner + b"/" + child.entry.name for child in repository.tree.listing(inner)]
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = [data for one in paths if one.endswith(b".pub") and (data := _read_inside(repository, one)) is not None]
    wanted = {hashlib.sha256(data).hexdigest()[:32] + ".pub": data for data in found}
    for name, data in wanted.items():
        draft = target / f"{name}.{os.getpid()}"
        draft.write_bytes(data)
        draft.replace(target / name)
    for old in target.glob("*.pub"):
        if old.name not in wanted:
            old.unlink(missing_ok=True)
    return str(target)


def _read_toml(file: Path, repository: str) -> Values:
    """Values from TOML: tables cvmfs, cvmfs.domains.DOMAIN and cvmfs.repositories.NAME, each of the settings in lower
    case without CVMFS_, with a table of variables. Raises BadConfiguration."""
    import tomllib  # a mount without this file starts sooner

    try:
        with file.open("rb") as stream:
            document = tomllib.load(stream)
    except OSError as error:
        raise BadConfiguration(f"{file}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"{file}: not TOML ({error})") from error
    top = _table(file, "cvmfs", document.get("cvmfs", {}))
    domain = repository.partition(".")[2]
    values: Values = {}
    for where, table in (
        ("cvmfs", {key: value for key, value in top.items() if key not in ("domains", "repositories")}),
        (f"cvmfs.domains.{domain}", _table(file, "cvmfs.domains", top.get("domains", {})).get(domain, {})),
        (f"cvmfs.repositories.{repository}", _table(file, "cvmfs", top.get("repositories", {})).get(repository, {})),
    ):
        _read_table(file, where, _table(file, where, table), values)
    return values


def _table(file: Path, where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadConfiguration(f"{file}: {where}: not a table")
    return value


def _read_table(file: Path, where: str, table: Mapping[str, Any], values: Values) -> None:
    for key, value in table.items():
        if key == "variables":
            for name, text in _table(file, f"{where}.variables", value).items():
                values[name] = _text(file, f"{where}.variables.{name}", text, None)
            continue
        if key not in _NAMES:
            import difflib

            close = difflib.get_close_matches(key, _NAMES, 1)
            hint = f": did you mean {close[0]}?" if close else ""
            raise BadConfiguration(f"{file}: {where}.{key}: unknown setting{hint}")
        values[f"CVMFS_{key.upper()}"] = _text(file, f"{where}.{key}", value, _JOINED.get(key))


def _text(file: Path, where: str, value: object, joined: str | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int | float):
        return str(value)
    if joined is not None and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return joined.join(value)
    raise BadConfiguration(f"{file}: {where}: neither a text, a number nor a truth value")
