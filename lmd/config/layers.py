"""Where configuration comes from: files of the host, a file named on the command line, single keys set there."""

import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmd.config.problems import ConfigError, Problem
from lmd.config.rules import USER_DATA_FILE, split_image
from runtimes.contract import ImageKind

LARGEST_FILE = 1024 * 1024
DEEPEST_KEY = 4
MOST_PARTS = 64
_PART = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+"""
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-])(?:{_PART}){{{MOST_PARTS}}}")
"""tomllib's time grows with the square of a key's parts: a key as long as a file may be would take an hour."""
_PLACE = re.compile(r"(.*) \(at line ([0-9]+), column ([0-9]+)\)")


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of configuration. `source` names it in messages; relative paths in `table` start at `directory`.

    `only_types`: from a file that somebody wants to run, not from the host's own; it may define machinetypes only.
    """

    source: str
    directory: Path
    table: Mapping[str, Any]
    only_types: bool = False

    @property
    def machinetypes(self) -> tuple[str, ...]:
        """The names of the types that it sets keys of."""
        types = self.table.get("machinetypes")
        return tuple(types) if isinstance(types, dict) else ()


def host_files(uid: int, environment: Mapping[str, str]) -> list[Path]:
    """The files of this host's configuration that exist, in the order in which later ones win.

    For root `/etc/lmd/conf.d/*.toml`, `/etc/lmd/lmd.toml`, `/run/lmd/lmd.toml`; for others the same names below
    $XDG_CONFIG_HOME/lmd and $XDG_RUNTIME_DIR/lmd. LMD_CONFIG_DIR in the environment replaces the first directory, and
    then the run-time file is not read.
    """
    home = Path(environment.get("HOME") or "/")
    if chosen := environment.get("LMD_CONFIG_DIR"):
        directory, transient = Path(chosen), None
    elif uid == 0:
        directory, transient = Path("/etc/lmd"), Path("/run/lmd")
    else:
        directory = Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "lmd"
        transient = Path(environment.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}") / "lmd"
    found = [*_toml_files(directory / "conf.d"), directory / "lmd.toml"]
    if transient is not None:
        found.append(transient / "lmd.toml")
    return [path for path in found if os.path.lexists(path)]


def _toml_files(directory: Path) -> list[Path]:
    """The directory's `*.toml`, sorted by name; one that cannot be listed stands for its own error."""
    try:
        return sorted(path for path in directory.iterdir() if path.suffix == ".toml" and path.name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError:
        return [directory]


def read(path: Path, *, only_types: bool = False, guarded: bool = False) -> Layer:
    """Read one TOML file. Raises `ConfigError` with one problem: not there, not readable, too large, or its syntax.

    `guarded`: refuse a file that somebody other than root, or the caller, could have written.
    """
    try:
        content = _content(path, guarded)
        text = content.decode()
        if _LONG_KEY.search(text):
            raise _failure(path, f"has a key of more than {MOST_PARTS} parts")
        table = tomllib.loads(text)
    except OSError as error:
        raise _failure(path, f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise _failure(path, f"is not UTF-8 text (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise _failure(path, _syntax(str(error))) from error
    except RecursionError as error:
        raise _failure(path, "is nested too deeply") from error
    except ValueError as error:
        raise _failure(path, f"is not TOML: {error}") from error
    return Layer(str(path), path.absolute().parent, table, only_types)


def read_all(paths: Iterable[Path], *, guarded: bool = False) -> tuple[list[Layer], list[Problem]]:
    """Read the files in their order; those that fail become problems."""
    layers: list[Layer] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            layers.append(read(path, guarded=guarded))
        except ConfigError as error:
            problems.extend(error.problems)
    return layers, problems


def _content(path: Path, guarded: bool) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _failure(path, "is not a regular file")
        if guarded:
            _guard(path, status)
            _guard(path.parent, path.parent.stat())
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(LARGEST_FILE + 1)
    finally:
        os.close(descriptor)
    if len(content) > LARGEST_FILE:
        raise _failure(path, f"is larger than {LARGEST_FILE // 1024} KiB")
    return content


def _guard(path: Path, status: os.stat_result) -> None:
    """Raises `ConfigError` if others could have written it: what root reads decides what root runs."""
    if status.st_uid not in (0, os.geteuid()):
        raise _failure(path, f"belongs to user {status.st_uid}, who could change it: chown root {path}")
    by_group = status.st_mode & stat.S_IWGRP and status.st_gid != 0
    if by_group or status.st_mode & stat.S_IWOTH:
        raise _failure(path, f"can be written by others (mode {stat.S_IMODE(status.st_mode):04o}): chmod go-w {path}")


def _syntax(message: str) -> str:
    found = _PLACE.fullmatch(message)
    return f"line {found[2]}, column {found[3]}: {found[1]}" if found else f"is not TOML: {message}"


def _failure(path: Path, text: str) -> ConfigError:
    return ConfigError([Problem(str(path), (), text)])


def anchored(layer: Layer) -> dict[str, Any]:
    """The layer's table with its relative paths made absolute."""
    table = dict(layer.table)
    if isinstance(settings := table.get("settings"), dict):
        table["settings"] = {key: _anchor(key, value, layer.directory) for key, value in settings.items()}
    if isinstance(types := table.get("machinetypes"), dict):
        table["machinetypes"] = {
            name: {key: _anchor(key, value, layer.directory) for key, value in keys.items()}
            if isinstance(keys, dict)
            else keys
            for name, keys in types.items()
        }
    return table


def _anchor(key: str, value: Any, directory: Path) -> Any:
    if key == "secret_files" and isinstance(value, dict):
        return {target: _absolute(source, directory) for target, source in value.items()}
    if key == "root_image" and isinstance(value, str):
        kind, location = split_image(value)
        if kind is ImageKind.REFERENCE or not location:
            return value
        return value.removesuffix(location) + _absolute(location, directory)
    if key == "user_data" and isinstance(value, str) and "://" in value:
        return value
    if key in ("user_data", "kernel", "initramfs", "root_public_key") or key.startswith(USER_DATA_FILE):
        return _absolute(value, directory)
    return value


def _absolute(value: Any, directory: Path) -> Any:
    """The path from the directory; what is no path is left for the check to find."""
    return str(directory / value) if isinstance(value, str) and value else value


def merge(layers: Sequence[Layer]) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """All layers in one table, and which source set each key last. Tables merge; lists and plain values replace."""
    merged: dict[str, Any] = {}
    origins: dict[tuple[str, ...], str] = {}
    for layer in layers:
        _merge_into(merged, anchored(layer), (), layer.source, origins)
    return merged, origins


def _merge_into(
    target: dict[str, Any],
    table: Mapping[str, Any],
    path: tuple[str, ...],
    source: str,
    origins: dict[tuple[str, ...], str],
) -> None:
    for key, value in table.items():
        here = (*path, key)
        origins[here] = source
        if isinstance(value, dict) and len(here) < DEEPEST_KEY:
            below = target.get(key)
            target[key] = below if isinstance(below, dict) else {}
            _merge_into(target[key], value, here, source, origins)
        else:
            target[key] = value


def origin(origins: Mapping[tuple[str, ...], str], key: tuple[str, ...]) -> str:
    """The source of a key, or of the nearest table around it."""
    return next((origins[key[:n]] for n in range(len(key), 0, -1) if key[:n] in origins), "configuration")
