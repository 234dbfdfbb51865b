"""The reference of all keys, made from the models. `python -m lmd.config.reference FILE` writes it into a page."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lmd.config.keys import PREFIXES, VAC
from lmd.config.keys import key as written_as
from lmd.config.load import INHERITED
from lmd.config.models import OPTIONS, Cvmfs, MachineType, NetworkOptions, Policy, Settings, Table
from lmd.config.schema import table_schema
from lmd.config.show import toml
from lmd.config.values import Unit

BEGIN = "<!-- the keys: begin (python -m lmd.config.reference docs/configuration.md) -->"
END = "<!-- the keys: end -->"
_TABLES: Mapping[str, type[Table]] = {
    "[settings]": Settings,
    "[policy]": Policy,
    "[cvmfs]": Cvmfs,
    "[network]": NetworkOptions,
    **{f"[runtimes.{name}]": model for name, model in OPTIONS.items()},
    "[machinetypes.NAME]": MachineType,
}
_DEFAULTS = {
    "isolation": "machine_model",
    "max_processors": "min_processors",
    "min_wallclock_seconds": "max_wallclock_seconds",
}
_TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}


def reference() -> str:
    """All keys as Markdown: a table for each table of the configuration."""
    return "\n".join(line for name, model in _TABLES.items() for line in _section(name, model))


def filled(page: str) -> str:
    """The page with the keys between its two marks. Raises ValueError if it lacks the marks."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"the page lacks the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{reference()}{END}{after}"


def _section(name: str, model: type[Table]) -> Iterator[str]:
    schema = table_schema(model)
    about = (model.__doc__ or "").partition(": ")[2]
    yield from (f"### `{name}`", "", about[:1].upper() + about[1:], "")
    yield from ("| key | value | default | meaning |", "| --- | --- | --- | --- |")
    collected = {field: prefix for prefix, field in PREFIXES.items()}
    for field in model.model_fields:
        if field in collected:
            key, kind, default = f"{collected[field]}NAME", "text", ""
        elif field != "name":
            key = written_as(field, model)
            kind, default = _kind(field, model, schema["properties"][key]), _default(field, model)
        else:
            continue
        yield f"| `{key}` | {kind} | {default} | {_meaning(field, model)} |"
    yield ""


def _meaning(field: str, model: type[Table]) -> str:
    text = (model.model_fields[field].description or "").replace("|", "\\|")
    vac = [f"`{old}`" for old, new in VAC.items() if new == field and old != field]
    return f"{text} Vac: {', '.join(vac)}." if vac else text


def _kind(field: str, model: type[Table], schema: Mapping[str, Any]) -> str:
    unit = next((item.name for item in model.model_fields[field].metadata if isinstance(item, Unit)), None)
    if unit == "seconds":
        return "seconds"
    if unit is not None:
        return f"size; a bare number is in {unit}"
    return _words(schema)


def _words(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(f'`"{choice}"`' for choice in schema["enum"])
    if any(kind.get("format") == "date-time" for kind in schema.get("anyOf", ())):
        return "date-time with an offset, or Unix seconds"
    if "anyOf" in schema:
        kinds = [_words(kind) for kind in schema["anyOf"]]
        return "size" if kinds == ["whole number", "text"] else ", or ".join(kinds)
    if schema["type"] == "array":
        return f"list of {_words(schema['items'])}"
    if schema["type"] == "object":
        inside = schema.get("additionalProperties") or next(iter(schema["patternProperties"].values()))
        return f"table of {_words(inside)}"
    return _TYPES[schema["type"]]


def _default(field: str, model: type[Table]) -> str:
    info = model.model_fields[field]
    if field in _DEFAULTS:
        return f"`{_DEFAULTS[field]}`"
    if model is MachineType and field in INHERITED:
        return "that of `[settings]`"
    if info.is_required():
        return "**required**"
    value = info.get_default(call_default_factory=True, validated_data={})
    return "" if value is None else f"`{toml(value)}`"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(filled(target.read_text()))
