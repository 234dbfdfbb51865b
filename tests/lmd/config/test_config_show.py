"""The configuration in force, its schema, and the page that describes it."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from lmd.config.keys import PREFIXES, names
from lmd.config.layers import Layer
from lmd.config.load import check
from lmd.config.models import Config, MachineType, PodmanOptions, Policy, Settings
from lmd.config.reference import BEGIN, END, filled
from lmd.config.schema import schema
from lmd.config.show import as_data, as_toml

PAGE = Path(__file__).parents[3] / "docs/configuration.md"
FULL: dict[str, Any] = {
    "settings": {"space": "a.example.org", "joboutputs_files": 7, "user_data_option_site": "Here"},
    "policy": {"capabilities": ["NET_RAW"], "devices": ["/dev/fuse"]},
    "runtimes": {"podman": {"socket": "/run/p.sock", "first_uid": 200000}},
    "machinetypes": {
        "x": {
            "root_image": "docker://example.org/a",
            "user_data": "/x",
            "user_data_option_odd": 'a"b\\\n\x7f\x01€',
            "environment": {"A": "1"},
            "tmpfs": {"/a b": "1Gi"},
            "outcome": {"75": "300 no work"},
            "require_limits": True,
            "capabilities": ["CAP_NET_RAW"],
            "secret_files": {"/" + "long/" * 60 + "x": "/y"},
        },
        "bad": {},
    },
}


def configured(table: dict[str, Any], source: str = "a.toml") -> Config:
    return check([Layer(source, Path("/"), table)])


def test_what_is_shown_makes_the_same_configuration_when_read_back() -> None:
    config = configured(FULL)
    again = configured(tomllib.loads(as_toml(config, origin=True)))
    assert again.machinetypes == config.machinetypes
    assert (again.settings, again.policy, again.runtimes) == (config.settings, config.policy, config.runtimes)


def test_defaults_are_marked_and_origins_shown_on_request() -> None:
    lines = as_toml(configured(FULL)).splitlines()
    assert "min_processors = 1  # default" in lines
    assert 'space = "a.example.org"' in lines
    assert "# open_files is not set" in lines
    assert "# machinetype bad is disabled:" in lines
    lines = as_toml(configured(FULL), origin=True).splitlines()
    assert 'space = "a.example.org"  # a.toml' in lines
    assert lines.count("joboutputs_files = 7  # a.toml") == 2


def test_the_data_for_programs_has_values_origins_and_what_is_disabled() -> None:
    data = as_data(configured(FULL))
    assert data["values"]["machinetypes.x"]["outcome"] == {"75": "300 no work"}
    assert data["values"]["machinetypes.x"]["require_limits"] == ["memory", "open_files", "pids", "processors"]
    assert data["values"]["settings"]["hs06_per_processor"] is None
    assert data["origins"]["machinetypes.x"]["user_data_option_site"] == "a.toml"
    assert data["origins"]["machinetypes.x"]["pull"] == "default"
    assert list(data["disabled"]) == ["bad"]


def test_the_schema_describes_every_key() -> None:
    properties = schema()["properties"]
    (machinetype,) = properties["machinetypes"]["patternProperties"].values()
    for model, table in (
        (Settings, properties["settings"]),
        (Policy, properties["policy"]),
        (PodmanOptions, properties["runtimes"]["properties"]["podman"]),
        (MachineType, machinetype),
    ):
        assert set(table["properties"]) == set(names(model))
        assert all(len(entry["description"]) > 10 for entry in table["properties"].values())
        assert table["additionalProperties"] is False
    assert len(machinetype["patternProperties"]) == len(PREFIXES)


def test_the_schema_uses_no_word_that_editors_for_toml_do_not_know() -> None:
    def words(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value).union(*map(words, value.values()))
        return set().union(*map(words, value)) if isinstance(value, list) else set()

    assert not words(schema()) & {"const", "$defs", "$ref", "exclusiveMinimum", "exclusiveMaximum", "null", "if"}


def test_the_page_has_the_keys_as_they_are() -> None:
    page = PAGE.read_text()
    assert filled(page) == page, "run: python -m lmd.config.reference docs/configuration.md"


def test_the_examples_on_the_page_are_right() -> None:
    examples = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        config = configured(tomllib.loads(example))
        assert config.machinetypes
        assert not config.disabled


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the lines"):
        filled("text")
    assert filled(f"a\n{BEGIN}\nold\n{END}\nb").startswith(f"a\n{BEGIN}\n### `[settings]`")
