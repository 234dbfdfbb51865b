"""What is wrong with the configuration, in short; `lm config check` says all."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lmd.config.load import all_problems
from lmd.config.problems import Problem
from lmd.doctor.check import Asked, Check
from lmd.doctor.finding import Finding, note, ok, problem, warning


@dataclass(frozen=True, slots=True)
class Configuration:
    """`unreadable`: why it cannot be used at all; `wrong`: what is wrong with single machinetypes."""

    unreadable: Sequence[Problem]
    wrong: Sequence[Problem]
    types: int


def gather(asked: Asked) -> Configuration:
    """The files that types name are looked at."""
    return Configuration(asked.unreadable, all_problems(asked.config), len(asked.config.machinetypes))


def rule(configuration: Configuration) -> Iterator[Finding]:
    """Each problem is a line, as everywhere."""
    for found in configuration.unreadable:
        yield problem(str(found), "lm config check")
    for found in configuration.wrong:
        yield warning(str(found), "lm config check")
    if configuration.unreadable or configuration.wrong:
        return
    if configuration.types:
        yield ok(f"the configuration is right; {configuration.types} machinetype(s)")
    else:
        yield note("no machinetype is configured; lm run FILE.toml needs none")


CHECK = Check("configuration", gather, rule)
