"""What `lm run` is asked to run: a configured type, a file that defines one, or a bare image; and `--set`."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmd.config.keys import PREFIXES
from lmd.config.layers import Layer, read, read_all
from lmd.config.load import check
from lmd.config.models import Config, MachineType
from lmd.config.problems import ConfigError, Problem
from lmd.config.rules import nearest
from lmd.config.values import shorten

IMAGE_TYPE = "bare-image"
"""The name of the type that is made for an image."""

LONGEST_SET = 65_536
_TYPE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_FILE = re.compile(r"(?P<path>.+\.toml)(:(?P<type>[a-z0-9-]{1,63}))?")
_TEXT_TABLES = frozenset({"environment", "secret_files", "outcome"})
_TEXT_KEYS = frozenset({"root_image", "user", "user_data", "heartbeat_file"})


@dataclass(frozen=True, slots=True)
class Chosen:
    """A machinetype, and the configuration that it stands in."""

    config: Config
    machinetype: MachineType


def choose(target: str, sets: Sequence[str], *, host: Sequence[Path], directory: Path, guarded: bool = False) -> Chosen:
    """The machinetype that `target` means, with the `key=value` of `sets` on top of all files.

    `target`: the name of a configured type, `FILE.toml` (or `FILE.toml:TYPE`), or an image as `root_image` has it.
    `host`: the files of the host's configuration; `directory`: where relative paths of `target` and `sets` start.
    Raises `ConfigError` with all that is wrong, of the host's files and of this type, not of other types.
    """
    layers, problems = read_all(host, guarded=guarded)
    try:
        name, added = _target(target, layers, directory)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    for assignment in sets:
        try:
            added.append(set_layer(name, assignment, directory))
        except ConfigError as error:
            problems.extend(error.problems)
    try:
        config = check([*layers, *added], problems)
    except ConfigError as error:
        raise ConfigError(problem for problem in error.problems if not _of_another(problem, name)) from error
    if name in config.disabled:
        raise ConfigError(config.disabled[name])
    return Chosen(config, config.machinetypes[name])


def _of_another(problem: Problem, name: str) -> bool:
    return problem.key[:1] == ("machinetypes",) and problem.key[1:2] not in ((), (name,))


def _target(target: str, host: Sequence[Layer], directory: Path) -> tuple[str, list[Layer]]:
    """The type's name and the layers that the target adds."""
    known = {name for layer in host for name in layer.machinetypes}
    if target in known:
        return target, []
    if found := _FILE.fullmatch(target):
        layer = read(directory / found["path"], only_types=True)
        return _type_of(layer, found["type"]), [layer]
    if _TYPE_NAME.fullmatch(target):
        listed = f" (known: {', '.join(sorted(known)[:20])})" if known else " (none is configured)"
        text = (
            f"no machinetype of this name{nearest(target, known)}{listed}; an image of this name is docker://{target}"
        )
        raise ConfigError([Problem(target, (), text)])
    table = {"machinetypes": {IMAGE_TYPE: {"root_image": target}}}
    return IMAGE_TYPE, [Layer("command line", directory, table, only_types=True)]


def _type_of(layer: Layer, wanted: str | None) -> str:
    names = layer.machinetypes
    if wanted is not None and wanted in names:
        return wanted
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is not None:
        text = f"defines no machinetype {wanted}{nearest(wanted, names)}"
    elif not names:
        text = "defines no machinetype; it needs a table [machinetypes.NAME]"
    else:
        text = f"defines several machinetypes; choose one, as in {layer.source}:{names[0]}"
    raise ConfigError([Problem(layer.source, (), text)])


def set_layer(machinetype: str, assignment: str, directory: Path) -> Layer:
    """The layer that `key=value` of `--set` is; dotted keys reach into tables, as in `environment.DEBUG=1`.

    The value is TOML, or where it is none, or where the key holds text, the text itself. Raises `ConfigError`.
    """
    key, equals, text = assignment[: LONGEST_SET + 1].partition("=")
    source = f"--set {shorten(assignment)[1:-1]}"
    path = _key_path(key) if equals and len(assignment) <= LONGEST_SET else None
    if path is None:
        raise ConfigError([Problem(source, (), "expected KEY=VALUE, as in max_processors=4 or environment.DEBUG=1")])
    table: Any = _value(path, text)
    for part in reversed(("machinetypes", machinetype, *path)):
        table = {part: table}
    return Layer(source, directory, table)


def _key_path(key: str) -> tuple[str, ...] | None:
    """The parts of a TOML key, one or two; None if it is no such key."""
    try:
        table: Any = tomllib.loads(f"{key} = 0") if "\n" not in key else {}
    except (ValueError, RecursionError):
        return None
    path: list[str] = []
    while isinstance(table, dict) and len(table) == 1 and len(path) < 3:
        path.extend(table)
        table = table[path[-1]]
    return tuple(path) if 1 <= len(path) <= 2 and table == 0 else None


def _value(path: tuple[str, ...], text: str) -> Any:
    try:
        parsed: Mapping[str, Any] = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    value = parsed.get("value")
    if len(parsed) != 1 or (isinstance(value, (int, float)) and _holds_text(path)):
        return text
    return value


def _holds_text(path: tuple[str, ...]) -> bool:
    if len(path) == 2:
        return path[0] in _TEXT_TABLES
    return path[0] in _TEXT_KEYS or path[0].startswith(tuple(PREFIXES))
