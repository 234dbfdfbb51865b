"""What can be wrong with a configuration, a line each, and how pydantic's findings become such lines."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from lmd.config.clashes import Clashes
from lmd.config.values import shorten

_BARE = re.compile(r"[A-Za-z0-9_-]{1,100}")
_TYPES = {
    "missing": "is missing: {description}",
    "string_unicode": "is not UTF-8 text",
    "string_type": "expected a string, got {got}",
    "int_type": "expected a whole number, got {got}",
    "float_type": "expected a number, got {got}",
    "bool_type": "expected true or false, got {got}",
    "finite_number": "expected a finite number, got {got}",
    "string_too_short": "expected at least {min_length} character",
    "string_too_long": "is longer than {max_length} characters",
    "too_short": "expected a list of at least {min_length} element",
    "too_long": "expected a list of at most {max_length} elements",
    "tuple_type": "expected a list, got {got}",
    "frozen_set_type": "expected a list, got {got}",
    "mapping_type": "expected a table, got {got}",
    "dict_type": "expected a table, got {got}",
    "model_type": "expected a table, got {got}",
    "model_attributes_type": "expected a table, got {got}",
    "literal_error": "expected {expected}, got {got}",
    "enum": "expected {expected}, got {got}",
    "greater_than_equal": "expected at least {ge}, got {got}",
    "less_than_equal": "expected at most {le}, got {got}",
}
_PATTERNS = {
    "name": "expected a DNS label as the type's name: a-z, 0-9 and hyphen, at most 63 characters",
    "space": "expected a DNS name: a-z, 0-9, hyphen and dot",
    "user": "expected NAME, UID, NAME:GROUP or UID:GID",
    "user_data_options": "expected a name of a-z, 0-9 and _ after the prefix",
    "user_data_files": "expected a name of a-z, 0-9 and _ after the prefix",
}
_FOLLOW_UPS = frozenset({"default_factory_not_called"})


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: the file, or what else set the key; the key's path in it, empty for the whole file."""

    source: str
    key: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        """`FILE: machinetypes.atlas.max_procesors: unknown key, did you mean max_processors?`, always in one line."""
        parts = [self.source, *([dotted(self.key)] if self.key else []), self.text]
        return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in ": ".join(parts))


class ConfigError(Exception):
    """A configuration that cannot be used; `problems` has all that is wrong with it, `str` a line for each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def dotted(key: Sequence[str]) -> str:
    """A key's path as TOML writes it."""
    return ".".join(part if _BARE.fullmatch(part) else json.dumps(part[:100], ensure_ascii=False) for part in key)


def translate(error: ValidationError, descriptions: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """What pydantic found, as key path below the table and sentence; `descriptions` says what each missing key is."""
    for found in error.errors():
        path = tuple(str(part) for part in found["loc"] if part != "[key]")
        context: dict[str, Any] = found.get("ctx", {})
        reason = context.get("error")
        if found["type"] in _FOLLOW_UPS:
            continue
        if isinstance(reason, Clashes):
            yield from (((keys[0],), text) for keys, text in reason.found)
        elif isinstance(reason, ValueError):
            yield path, str(reason)
        elif found["type"] == "string_pattern_mismatch":
            yield (
                path,
                f"{_PATTERNS.get(path[0], 'has characters that are not allowed')}, got {shorten(found['input'])}",
            )
        else:
            known = _TYPES.get(found["type"], "{msg}")
            description = descriptions.get(path[0] if path else "", "").partition(". ")[0]
            yield (
                path,
                known.format_map(
                    {**context, "got": shorten(found["input"]), "msg": found["msg"], "description": description}
                ),
            )
