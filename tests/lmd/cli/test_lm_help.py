"""What `lm --help` and each command's help say, laid out to be read."""

import importlib

import pytest
import typer
from typer.testing import CliRunner

from lmd.cli import helping
from lmd.cli.main import COMMANDS, app


def said(*words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--help"])
    assert done.exit_code == 0, done.output
    return done.output


def test_every_command_is_shown_and_most_in_sections() -> None:
    text = said()
    for title in helping.SECTIONS:
        assert f"\n{title}:\n" in text
    assert {line.split()[0] for line in text.splitlines() if line.startswith("  ") and line.split()} >= set(COMMANDS)


def test_a_command_that_no_section_names_is_shown_all_the_same() -> None:
    assert list(helping.sections({"ps": "List.", "new": "Do it."})) == [
        ("Machines", [("ps", "List.")]),
        (helping.MORE, [("new", "Do it.")]),
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_and_each_of_a_group_has_help_and_examples_a_line_each(name: str) -> None:
    command = typer.main.get_command(importlib.import_module(COMMANDS[name][0]).app)
    for words in [(name, one) for one in getattr(command, "commands", {})] or [(name,)]:
        text = said(*words)
        for line in text.splitlines():
            assert line.count(" lm ") <= 1 or "   " not in line.strip(), line
        assert "..." not in text.partition("Commands:")[2]


def test_examples_are_taken_apart_and_pipes_within_them_are_not() -> None:
    text = helping.examples("Examples:  lm ps   |   lm ps --json | jq .   ·   lm show x")
    assert text == "Examples:\n\n\b\n  lm ps\n  lm ps --json | jq .\n  lm show x"
    assert helping.examples("Exit codes: 0") == "Exit codes: 0"
    assert helping.examples(None) is None
