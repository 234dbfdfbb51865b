"""What a check says: a level, a sentence, and the line to type where something can be done."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any


class Level(IntEnum):
    """How bad a finding is. The greatest of a report, less the notes, is the exit code."""

    OK = 0
    NOTE = 1  # good to know; nothing that lmd does by default fails
    WARNING = 2  # something that machines may ask for fails or is weaker here
    PROBLEM = 3  # machines do not run, or soon will not

    @property
    def word(self) -> str:
        """The level as it is printed."""
        return self.name.lower()


EXIT_CODES = {Level.OK: 0, Level.NOTE: 0, Level.WARNING: 1, Level.PROBLEM: 2}
"""As monitoring plugins have it: 0 ok, 1 warning, 2 critical."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found out. `remedy` is a line to type, or what to write where; `check` is set by who examines."""

    level: Level
    sentence: str
    remedy: str = ""
    check: str = ""

    def of(self, check: str) -> "Finding":
        """The same, as found by this check."""
        return replace(self, check=check)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"check": self.check, "level": self.level.word, "sentence": self.sentence, "remedy": self.remedy}


def ok(sentence: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, sentence)


def note(sentence: str, remedy: str = "") -> Finding:
    """Good to know."""
    return Finding(Level.NOTE, sentence, remedy)


def warning(sentence: str, remedy: str = "") -> Finding:
    """Something fails or is weaker here."""
    return Finding(Level.WARNING, sentence, remedy)


def problem(sentence: str, remedy: str = "") -> Finding:
    """Machines do not run."""
    return Finding(Level.PROBLEM, sentence, remedy)


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, in the order of the checks. `hung`: something still has not answered and must not be waited for."""

    findings: Sequence[Finding]
    hung: bool = False

    @property
    def level(self) -> Level:
        """The worst."""
        return max((found.level for found in self.findings), default=Level.OK)

    @property
    def exit_code(self) -> int:
        """0 nothing to do, 1 warnings, 2 problems."""
        return EXIT_CODES[self.level]

    def count(self, level: Level) -> int:
        """How many findings are of this level."""
        return sum(found.level is level for found in self.findings)
