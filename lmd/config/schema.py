"""The configuration as JSON Schema, for editors.

Draft 7, with no keyword that means something else in draft 4, which is what TOML editors know (taplo, for one). A file
names its schema in its first line: `#:schema ./lmd.schema.json`.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from lmd.config.keys import PREFIXES
from lmd.config.models import OPTIONS, Cvmfs, MachineType, NetworkOptions, Policy, Settings

NAME = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


def schema() -> dict[str, Any]:
    """The schema of a whole file. Nothing is required in it, as a file may add to what another one says."""
    tables = {model: table_schema(model) for model in (Settings, Policy, NetworkOptions, Cvmfs, MachineType)}
    others = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "lmd configuration",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "settings": tables[Settings],
            "policy": tables[Policy],
            "cvmfs": tables[Cvmfs],
            "network": tables[NetworkOptions],
            "runtimes": {
                "type": "object",
                "description": "How each runtime works on this host.",
                "properties": {name: table_schema(model) for name, model in OPTIONS.items()},
                "additionalProperties": others,
            },
            "machinetypes": {
                "type": "object",
                "description": "What can be run, by name.",
                "patternProperties": {NAME: tables[MachineType]},
                "additionalProperties": False,
            },
        },
    }


def table_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of one table, complete in itself."""
    made = model.model_json_schema(mode="validation")
    shared = made.pop("$defs", {})
    properties = {name: _plain(value, shared) for name, value in made["properties"].items()}
    properties.pop("name", None)
    patterns = {}
    for prefix, field in PREFIXES.items():
        if collected := properties.pop(field, None):
            (value,) = collected["patternProperties"].values()
            patterns[f"^{prefix}[a-z0-9_]{{1,64}}$"] = value | {"description": collected["description"]}
    table = {"type": "object", "description": made["description"], "properties": properties}
    return table | ({"patternProperties": patterns} if patterns else {}) | {"additionalProperties": False}


def _plain(value: Any, shared: Mapping[str, Any]) -> Any:
    """Without null, which TOML has not, titles, which say nothing, and what draft 4 lacks: const, an extended $ref."""
    if isinstance(value, list):
        return [_plain(element, shared) for element in value]
    if not isinstance(value, Mapping):
        return value
    if "$ref" in value:
        value = shared[value["$ref"].rpartition("/")[2]] | {key: kept for key, kept in value.items() if key != "$ref"}
    made = {
        key: _plain(element, shared)
        for key, element in value.items()
        if not (key == "title" and isinstance(element, str)) and not (key == "default" and element is None)
    }
    if "const" in made:
        made["enum"] = [made.pop("const")]
    if "anyOf" in made:
        kinds = [kind for kind in made.pop("anyOf") if kind != {"type": "null"}]
        made |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    return made
