"""Whatever a file holds, the answer is a configuration or a list of lines."""

import datetime
import tomllib
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmd.config.chosen import choose
from lmd.config.keys import names
from lmd.config.layers import Layer, read
from lmd.config.load import check
from lmd.config.models import Config, MachineType, PodmanOptions, Policy, Settings
from lmd.config.problems import ConfigError, Problem
from lmd.config.show import as_toml

_WORDS = [
    "",
    "x",
    "host",
    "auto",
    "docker://a",
    "/a",
    "./a",
    "10G",
    "300 no work",
    "75",
    "NET_RAW",
    "true",
    "\0",
    "\x1b",
]
_SCALARS = st.one_of(
    st.sampled_from(_WORDS),
    st.text(max_size=20),
    st.integers(),
    st.sampled_from([0, 1, 2, 60, 4096, 10**6]),
    st.floats(),
    st.booleans(),
    st.datetimes(),
    st.dates(),
    st.just(datetime.time(1)),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def _table(*keys: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(keys) | st.text(max_size=12), _VALUES, max_size=8)


_TYPES = _table("name", "user_data_option_x", "user_data_option_", "user_data_file_x", *names(MachineType))
_FILES = st.fixed_dictionaries(
    {},
    optional={
        "settings": _table("user_data_file_x", *names(Settings)) | _VALUES,
        "policy": _table(*names(Policy)) | _VALUES,
        "runtimes": st.dictionaries(st.sampled_from(["podman", "fake", "x"]), _table(*names(PodmanOptions)) | _VALUES)
        | _VALUES,
        "machinetypes": st.dictionaries(
            st.sampled_from(["a", "b", "C"]) | st.text(max_size=4), _TYPES | _VALUES, max_size=3
        )
        | _VALUES,
        "else": _VALUES,
    },
)


def lines_of(problems: tuple[Problem, ...]) -> None:
    assert problems
    assert all(str(problem).isprintable() and str(problem).startswith("f: ") for problem in problems)


@settings(max_examples=400, deadline=None)
@given(st.lists(_FILES, min_size=1, max_size=2), st.booleans())
def test_any_table_makes_a_configuration_or_lines(tables: list[dict[str, Any]], only_types: bool) -> None:
    layers = [Layer("f", Path("/d"), table, only_types=only_types) for table in tables]
    try:
        config = check(layers)
    except ConfigError as error:
        lines_of(error.problems)
        return
    for found in config.disabled.values():
        lines_of(found)
    shown = tomllib.loads(as_toml(config, origin=True))
    assert read_back(shown) == (config.settings, config.policy, config.runtimes, config.machinetypes)


def read_back(table: dict[str, Any]) -> tuple[Any, ...]:
    config: Config = check([Layer("f", Path("/d"), table)])
    return (config.settings, config.policy, config.runtimes, config.machinetypes)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(names(MachineType)), _VALUES, max_size=12))
def test_a_type_is_usable_or_disabled_never_both_and_never_neither(keys: dict[str, Any]) -> None:
    config = check([Layer("f", Path("/d"), {"machinetypes": {"x": {"root_image": "a", **keys}}})])
    assert (set(config.machinetypes), set(config.disabled)) in ((({"x"}), set()), (set(), {"x"}))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.text(alphabet="[]{}=\"'\\.,#\n ax1", max_size=200).map(str.encode))
def test_any_bytes_make_a_table_or_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    try:
        assert isinstance(read(path).table, dict)
    except ConfigError as error:
        (problem,) = error.problems
        assert str(problem).isprintable()


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=30) | st.sampled_from(["a", "a/b", "./x", "x.toml"]), st.lists(st.text(max_size=30), max_size=2)
)
def test_any_command_line_makes_a_choice_or_lines(target: str, sets: list[str]) -> None:
    try:
        found = choose(target, sets, host=[], directory=Path("/nonexistent"))
    except ConfigError as error:
        assert error.problems
        assert all(str(problem).isprintable() for problem in error.problems)
    else:
        assert found.machinetype.name in found.config.machinetypes
