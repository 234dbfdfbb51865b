"""The keys of each table as files write them, and what to say of a key that no table has."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from lmd.config.models import Cvmfs, MachineType, NetworkOptions, Policy, Settings, Table
from lmd.config.rules import USER_DATA_FILE, USER_DATA_OPTION, nearest

TABLES: Mapping[str, type[Table]] = {
    "settings": Settings,
    "policy": Policy,
    "network": NetworkOptions,
    "cvmfs": Cvmfs,
    "machinetypes.NAME": MachineType,
}
TOP = ("settings", "policy", "cvmfs", "network", "runtimes", "machinetypes")
PREFIXES = {USER_DATA_OPTION: "user_data_options", USER_DATA_FILE: "user_data_files"}
"""Vac's keys that carry a name of their own, and the field that collects them."""

VAC = {"vac_space": "space", "container_command": "entrypoint"}
"""Vac's names that are not ours."""

MOST_HINTS = 50
"""How many unknown keys of a table get a suggestion: finding one costs a millisecond."""

_GUESSES = VAC | {
    "cap_add": "capabilities",
    "cmd": "args",
    "command": "entrypoint",
    "cpus": "max_processors",
    "env": "environment",
    "grace_seconds": "grace_secs",
    "image": "root_image",
    "memory": "mb_per_processor",
    "root_device": "disk_gb_per_processor",
    "scratch_device": "disk_gb_per_processor",
    "scratch_gb": "disk_gb_per_processor",
    "cmdline": "kernel_arguments",
    "initrd": "initramfs",
    "vnc": "graphics",
    "secrets": "secret_files",
    "vm_model": "machine_model",
    "timeout": "max_wallclock_seconds",
    "user_data_options": f"{USER_DATA_OPTION}NAME",
    "user_data_files": f"{USER_DATA_FILE}NAME",
    "user_data_option": f"{USER_DATA_OPTION}NAME",
    "user_data_file": f"{USER_DATA_FILE}NAME",
}


def names(model: type[Table]) -> tuple[str, ...]:
    """The plain keys of a table, without those that `PREFIXES` begins, in the order of the reference."""
    return tuple(key(name, model) for name in model.model_fields if name != "name" and name not in PREFIXES.values())


def key(field: str, model: type[BaseModel]) -> str:
    """How files write a field: its name, but for those that Python keeps for itself (`class`)."""
    return model.model_fields[field].alias or field


def written(path: tuple[str, ...]) -> tuple[str, ...]:
    """A model's path as files write it: `("user_data_options", "x")` is the key user_data_option_x."""
    for prefix, collected in PREFIXES.items():
        if len(path) > 1 and path[0] == collected:
            return (prefix + path[1], *path[2:])
    return path


def collect(table: Mapping[str, Any], model: type[Table]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """A file's table as the model wants it, and for each key that the model does not have, what to say of it."""
    known = frozenset(names(model))
    prefixes = {prefix: name for prefix, name in PREFIXES.items() if name in model.model_fields}
    values: dict[str, Any] = {}
    unknown: list[tuple[str, str]] = []
    for key, value in table.items():
        prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
        if key in known:
            values[key] = value
        elif prefix is not None:
            values.setdefault(prefixes[prefix], {})[key.removeprefix(prefix)] = value
        else:
            hint = _meant(key, model) if len(unknown) < MOST_HINTS else ""
            unknown.append((key, "unknown key" + hint))
    return values, unknown


def _meant(key: str, model: type[Table]) -> str:
    if key in _GUESSES and (_GUESSES[key] in model.model_fields or _GUESSES[key].endswith("_NAME")):
        return f", did you mean {_GUESSES[key]}?"
    if close := nearest(key, names(model)):
        return close
    return next((f", it belongs in [{table}]" for table in _homes(key) if TABLES[table] is not model), "")


def _homes(key: str) -> Iterator[str]:
    return (table for table, model in TABLES.items() if key in names(model))
