"""What a check is, how it says that something is wrong, and what comes out of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtimes.conformance.bench import Bench


class Violation(Exception):
    """The runtime does not keep the contract; the text says what was seen and what was expected."""


class NotApplicable(Exception):
    """The check cannot be made on this runtime; the text names the capability that is absent."""


class Outcome(StrEnum):
    """The three results of a check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"


Body = Callable[["Bench"], Awaitable[str | None]]
"""A check's code: returns None, or a remark on how it passed; raises `Violation` or `NotApplicable`."""


@dataclass(frozen=True, slots=True)
class Check:
    """One sentence about every runtime, the invariant of the contract it holds, and the code that tries it.

    `invariant` counts as `runtimes.contract` does; 0 is for promises of the protocol outside the numbered ones.
    """

    name: str
    sentence: str
    invariant: int
    body: Body


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one check; `reason` is empty only for a check that passed without remark."""

    check: Check
    outcome: Outcome
    reason: str
    seconds: float


def check(sentence: str, *, invariant: int = 0) -> Callable[[Body], Check]:
    """Make a `Check` of a function; its name is the function's, with hyphens for underscores."""

    def made(body: Body) -> Check:
        name = getattr(body, "__name__", "check").replace("_", "-")
        return Check(name, sentence, invariant, body)

    return made


def expect(fulfilled: bool, otherwise: str) -> None:
    """Raise `Violation(otherwise)` unless `fulfilled`."""
    if not fulfilled:
        raise Violation(otherwise)


def needs(present: bool, absent: str) -> None:
    """Raise `NotApplicable(absent)` unless `present`."""
    if not present:
        raise NotApplicable(absent)
