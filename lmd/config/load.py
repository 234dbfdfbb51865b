"""From layers of TOML to one checked configuration, with all that is wrong found at once.

What is wrong with one machinetype disables that type alone; anything else makes the whole configuration unusable.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from lmd.config import layers as sources
from lmd.config.clashes import Clashes
from lmd.config.files import check_files
from lmd.config.keys import TOP, collect, written
from lmd.config.layers import Layer
from lmd.config.models import OPTIONS, Config, Cvmfs, MachineType, NetworkOptions, Policy, Settings, Table
from lmd.config.policy import violations
from lmd.config.problems import ConfigError, Problem, translate
from lmd.config.rules import nearest
from lmd.config.values import shorten
from runtimes import registry

INHERITED = (
    "mb_per_processor",
    "disk_gb_per_processor",
    "console_bytes",
    "joboutputs_bytes",
    "joboutputs_files",
    "machines_dir_days",
)
"""Keys of a machinetype whose default is the key of the same name in [settings]."""

Model = TypeVar("Model", bound=Table)
Finding = tuple[tuple[str, ...], str]


def load(paths: Iterable[Path], *, extra: Sequence[Layer] = (), guarded: bool = False) -> Config:
    """Read the files in their order, put `extra` on top, check everything.

    Raises `ConfigError` with every problem of every file if anything but single machinetypes is wrong; what is wrong
    with those is in `Config.disabled`. `guarded` as for `layers.read`.
    """
    layers, problems = sources.read_all(paths, guarded=guarded)
    return check([*layers, *extra], problems)


def load_host(uid: int, environment: Mapping[str, str], files: Iterable[Path] = ()) -> Config:
    """This host's configuration as `uid` has it, with `files` on top as if they were part of it. Raises as `load`."""
    layers, problems = sources.read_all(sources.host_files(uid, environment), guarded=uid == 0)
    added, found = sources.read_all(files)
    return check([*layers, *added], [*problems, *found])


def all_problems(config: Config) -> list[Problem]:
    """What is wrong with single machinetypes: keys, and files that they need. The files are looked at now."""
    found = [problem for problems in config.disabled.values() for problem in problems]
    return found + [problem for name in config.machinetypes for problem in check_files(config, name)]


def check(layers: Sequence[Layer], problems: Iterable[Problem] = ()) -> Config:
    """The configuration that the layers make, the last one winning. Raises as `load`; `problems` were found before."""
    merged, origins = sources.merge([_own_tables(layer) for layer in layers])
    checked = _Check(origins, [*problems, *_foreign_tables(layers)])
    config = checked.config(merged)
    if checked.problems:
        raise ConfigError([*checked.problems, *(p for found in config.disabled.values() for p in found)])
    return config


def _own_tables(layer: Layer) -> Layer:
    if not layer.only_types:
        return layer
    table = {name: value for name, value in layer.table.items() if name == "machinetypes"}
    return Layer(layer.source, layer.directory, table, only_types=True)


def _foreign_tables(layers: Iterable[Layer]) -> Iterator[Problem]:
    """What a file that is run brings along and may not: the host's own tables."""
    for layer in layers:
        for name in layer.table if layer.only_types else ():
            if name in TOP and name != "machinetypes":
                yield Problem(layer.source, (name,), "only the configuration of the host may have this table")
            elif name not in TOP:
                yield Problem(layer.source, (name,), f"unknown table{nearest(name, TOP)}")


class _Check:
    """One check of a merged table; collects what is wrong outside the machinetypes in `problems`."""

    def __init__(self, origins: Mapping[tuple[str, ...], str], problems: list[Problem]) -> None:
        self.origins = origins
        self.problems = problems

    def config(self, merged: Mapping[str, Any]) -> Config:
        for name in merged:
            if name not in TOP:
                self._wrong((name,), f"unknown table{nearest(name, TOP)}")
        settings = self._table(merged, "settings", Settings)
        policy = self._table(merged, "policy", Policy)
        network = self._table(merged, "network", NetworkOptions)
        cvmfs = self._table(merged, "cvmfs", Cvmfs)
        runtimes = self._runtimes(self._tables(merged, "runtimes"))
        machinetypes: dict[str, MachineType] = {}
        disabled: dict[str, tuple[Problem, ...]] = {}
        for name, table in self._tables(merged, "machinetypes").items():
            made, found = machinetype(name, table, settings, policy)
            if made is not None:
                machinetypes[name] = made
            else:
                disabled[name] = tuple(self._problem(("machinetypes", name, *path), text) for path, text in found)
        return Config(settings, policy, runtimes, machinetypes, disabled, self.origins, network, cvmfs)

    def _problem(self, key: tuple[str, ...], text: str) -> Problem:
        return Problem(sources.origin(self.origins, key), key, text)

    def _wrong(self, key: tuple[str, ...], text: str) -> None:
        self.problems.append(self._problem(key, text))

    def _tables(self, merged: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        value = merged.get(name, {})
        if isinstance(value, dict):
            return value
        self._wrong((name,), f"expected tables [{name}.NAME], got {shorten(value)}")
        return {}

    def _table(self, merged: Mapping[str, Any], name: str, model: type[Model]) -> Model:
        """The checked table, or the defaults where it is wrong, so that the rest can still be checked."""
        made, found = validated(merged.get(name, {}), model)
        for path, text in found:
            self._wrong((name, *path), text)
        return made if made is not None else model()

    def _runtimes(self, tables: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
        known = registry.locations()
        options: dict[str, Mapping[str, str]] = {}
        for name, table in tables.items():
            if name not in known:
                self._wrong(
                    ("runtimes", name),
                    f"no runtime of this name{nearest(name, known)} (known: {', '.join(sorted(known))})",
                )
                continue
            model = OPTIONS.get(name)
            made, found = _options(table, model) if model is not None else _other_runtime(table)
            if made:
                options[name] = made
            for path, text in found:
                self._wrong(("runtimes", name, *path), text)
        return options


def _options(table: Any, model: type[Table]) -> tuple[dict[str, str], list[Finding]]:
    made, found = validated(table, model)
    values = made.model_dump(exclude_none=True) if made is not None else {}
    return {key: str(value) for key, value in values.items()}, found


def _other_runtime(table: Any) -> tuple[dict[str, str], list[Finding]]:
    """Options of a runtime that checks them itself: any plain values, handed on as strings."""
    if not isinstance(table, dict):
        return {}, [((), f"expected a table, got {shorten(table)}")]
    plain = {key: value for key, value in table.items() if isinstance(value, (str, int, float))}
    found: list[Finding] = [
        ((key,), f"expected a string, a number, true or false, got {shorten(value)}")
        for key, value in table.items()
        if key not in plain
    ]
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in plain.items()}, found


def machinetype(name: str, table: Any, settings: Settings, policy: Policy) -> tuple[MachineType | None, list[Finding]]:
    """The checked type, or None and all that is wrong with it, each with the key's path in its table."""
    if not isinstance(table, dict):
        return None, [((), f"expected a table, got {shorten(table)}")]
    made, found = validated(table, MachineType, name=name, **{key: getattr(settings, key) for key in INHERITED})
    if made is None:
        return None, found
    made = _with_site_options(made, settings)
    return (None, refused) if (refused := violations(made, policy)) else (made, [])


def _with_site_options(made: MachineType, settings: Settings) -> MachineType:
    """Add the host's user_data patterns to those of the type, which win."""
    if made.user_data is None:
        return made
    own = {*made.user_data_options, *made.user_data_files}
    options = {name: text for name, text in settings.user_data_options.items() if name not in own}
    files = {name: path for name, path in settings.user_data_files.items() if name not in own}
    return made.model_copy(
        update={
            "user_data_options": {**options, **made.user_data_options},
            "user_data_files": {**files, **made.user_data_files},
        }
    )


def validated(table: Any, model: type[Model], **defaults: Any) -> tuple[Model | None, list[Finding]]:
    """The table as its model, or None and all that is wrong with it: unknown keys, values, combinations."""
    if not isinstance(table, dict):
        return None, [((), f"expected a table, got {shorten(table)}")]
    values, unknown = collect(table, model)
    found: list[Finding] = [((key,), text) for key, text in unknown]
    values = {**defaults, **values}
    try:
        made = model.model_validate(values)
    except ValidationError as error:
        found += _findings(error, model, values)
        return None, found
    return (None, found) if found else (made, [])


def _findings(error: ValidationError, model: type[Table], values: Mapping[str, Any]) -> Iterator[Finding]:
    descriptions = {name: field.description or "" for name, field in model.model_fields.items()}
    wrong: set[str] = set()
    for path, text in translate(error, descriptions):
        wrong.add(path[0] if path else "")
        shown = written(path)
        yield (() if path[:1] == ("name",) else shown), text
    if not any(isinstance(entry.get("ctx", {}).get("error"), Clashes) for entry in error.errors()):
        yield from _hidden_clashes(model, values, wrong)


def _hidden_clashes(model: type[Table], values: Mapping[str, Any], wrong: set[str]) -> Iterator[Finding]:
    """Combinations are checked when all values are right; find those of the keys that are."""
    stand_ins = {"name": "x", "root_image": "x"} if model is MachineType else {}
    rest = {key: value for key, value in values.items() if key not in wrong}
    try:
        model.model_validate({**{key: text for key, text in stand_ins.items() if key in wrong}, **rest})
    except ValidationError as again:
        reasons = [entry.get("ctx", {}).get("error") for entry in again.errors()]
        for reason in reasons:
            if isinstance(reason, Clashes):
                yield from (((keys[0],), text) for keys, text in reason.found if not wrong.intersection(keys))
