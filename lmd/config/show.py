"""The configuration in force, as TOML that could be read back and as plain data, with the source of each value."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from lmd.config.keys import PREFIXES
from lmd.config.keys import key as written_as
from lmd.config.load import INHERITED
from lmd.config.models import OPTIONS, Config, Table
from lmd.config.problems import dotted

DEFAULT = "default"
_NUMBERS = frozenset({"first_uid", "uid_count", "call_seconds", "image_file_bytes"})


@dataclass(frozen=True, slots=True)
class Value:
    """One key in force: the table it is in, its name there, its value as TOML has it (None: not set), its source."""

    table: tuple[str, ...]
    key: str
    value: Any
    source: str


def values(config: Config) -> Iterator[Value]:
    """Every key of the configuration in the order of the reference; disabled machinetypes are left out."""
    yield from _of_table(config, ("settings",), config.settings)
    yield from _of_table(config, ("policy",), config.policy)
    yield from _of_table(config, ("network",), config.network)
    yield from _of_table(config, ("cvmfs",), config.cvmfs)
    for name, options in config.runtimes.items():
        table = ("runtimes", name)
        for key, text in options.items():
            value = int(text) if name in OPTIONS and key in _NUMBERS else text
            yield Value(table, key, value, config.origins.get((*table, key), DEFAULT))
    for name, machinetype in config.machinetypes.items():
        yield from _of_table(config, ("machinetypes", name), machinetype)


def _of_table(config: Config, table: tuple[str, ...], model: Table) -> Iterator[Value]:
    collected = {field: prefix for prefix, field in PREFIXES.items()}
    for field in type(model).model_fields:
        value = getattr(model, field)
        if field in collected:
            for name, text in value.items():
                key = collected[field] + name
                yield Value(table, key, text, _source(config, table, key))
        elif field != "name":
            key = written_as(field, type(model))
            yield Value(table, key, _plain(value), _source(config, table, key))


def _source(config: Config, table: tuple[str, ...], key: str) -> str:
    own = config.origins.get((*table, key))
    if own is None and (key in INHERITED or key.startswith(tuple(PREFIXES))):
        own = config.origins.get(("settings", key))
    return own or DEFAULT


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, frozenset):
        return sorted(_plain(element) for element in value)
    if isinstance(value, (list, tuple)):
        return [_plain(element) for element in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(element) for key, element in value.items()}
    return value


def as_data(config: Config) -> dict[str, Any]:
    """`{"values": {table: {key: value}}, "origins": {table: {key: source}}, "disabled": {type: [sentence]}}`.

    Tables are named as in TOML (`machinetypes.atlas`); None is a key that is not set.
    """
    shown: dict[str, dict[str, Any]] = {}
    origins: dict[str, dict[str, str]] = {}
    for entry in values(config):
        shown.setdefault(dotted(entry.table), {})[entry.key] = entry.value
        origins.setdefault(dotted(entry.table), {})[entry.key] = entry.source
    disabled = {name: [str(problem) for problem in found] for name, found in config.disabled.items()}
    return {"values": shown, "origins": origins, "disabled": disabled}


def as_toml(config: Config, *, origin: bool = False) -> str:
    """The configuration as TOML; defaults are marked in a comment, with `origin` each value's source is.

    Read back, it makes the same configuration.
    """
    lines: list[str] = []
    table: tuple[str, ...] = ()
    for entry in values(config):
        if entry.table != table:
            table = entry.table
            lines += ["", f"[{dotted(table)}]"]
        lines.append(_line(entry, origin))
    for name, found in config.disabled.items():
        lines += ["", f"# machinetype {_key(name)} is disabled:", *(f"#   {problem}" for problem in found)]
    return "\n".join(lines[1:]) + "\n"


def _line(entry: Value, origin: bool) -> str:
    if entry.value is None:
        return f"# {dotted((entry.key,))} is not set"
    text = f"{dotted((entry.key,))} = {toml(entry.value)}"
    if origin or entry.source == DEFAULT:
        return f"{text}  # {''.join(c if c.isprintable() else '?' for c in entry.source)}"
    return text


def toml(value: Any) -> str:
    """A value of a model as TOML writes it."""
    plain = _plain(value)
    if isinstance(plain, str):
        return _quoted(plain)
    if isinstance(plain, list):
        return f"[{', '.join(map(toml, plain))}]"
    if isinstance(plain, dict):
        inside = ", ".join(f"{_key(key)} = {toml(element)}" for key, element in plain.items())
        return f"{{ {inside} }}" if inside else "{}"
    return json.dumps(plain)


def _key(key: str) -> str:
    short = dotted((key,))
    return short if len(key) <= 100 and not short.startswith('"') else _quoted(key)


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's but for the one control character that JSON leaves alone."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
