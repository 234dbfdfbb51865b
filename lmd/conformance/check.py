"""What a check of the environment is, and what comes out of it; its verdicts are those of the contract's suite."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtimes.conformance.check import NotApplicable, Outcome, Violation, expect, needs

if TYPE_CHECKING:
    from lmd.conformance.trial import Trial

Body = Callable[["Trial"], Awaitable[str | None]]
"""A check's code: returns None, or a remark on how it passed; raises `Violation` or `NotApplicable`."""


@dataclass(frozen=True, slots=True)
class Check:
    """One sentence about every machine, whatever runs it, and the code that tries it."""

    name: str
    sentence: str
    body: Body


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one check; `reason` is empty only for a check that passed without remark."""

    check: Check
    outcome: Outcome
    reason: str
    seconds: float


def check(sentence: str) -> Callable[[Body], Check]:
    """Make a `Check` of a function; its name is the function's, with hyphens for underscores."""

    def made(body: Body) -> Check:
        return Check(getattr(body, "__name__", "check").replace("_", "-"), sentence, body)

    return made


__all__ = ["Body", "Check", "NotApplicable", "Outcome", "Result", "Violation", "check", "expect", "needs"]
