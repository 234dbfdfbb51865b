"""Run the checks one after another and tell each result as it comes."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable

from runtimes.conformance.bench import Bench
from runtimes.conformance.check import Check, NotApplicable, Outcome, Result, Violation
from runtimes.conformance.checks import CHECKS
from runtimes.conformance.context import Context

CLEAR_SECONDS = 30.0
"""How long the clean-up after one check may take, unless the context's deadline leaves it more: a third of that."""


async def run(context: Context, checks: Iterable[Check] = CHECKS) -> AsyncIterator[Result]:
    """Yield the result of each check; what a check created is destroyed before its result is told."""
    for check in checks:
        yield await run_one(check, context)


async def run_one(check: Check, context: Context) -> Result:
    """Make one check. A clean-up that fails turns `passed` into `failed`."""
    began = time.monotonic()
    bench = Bench(check.name, context)
    try:
        outcome, reason = await _attempt(check, bench)
    finally:
        problems = await _clear(bench)
    if problems and outcome is not Outcome.FAILED:
        outcome, reason = Outcome.FAILED, "; ".join(problems)
    return Result(check, outcome, reason, time.monotonic() - began)


async def _attempt(check: Check, bench: Bench) -> tuple[Outcome, str]:
    try:
        async with asyncio.timeout(bench.context.deadline) as deadline:
            return Outcome.PASSED, await check.body(bench) or ""
    except Violation as violation:
        return Outcome.FAILED, str(violation)
    except NotApplicable as absent:
        return Outcome.NOT_APPLICABLE, str(absent)
    except TimeoutError as error:
        if deadline.expired():
            return Outcome.FAILED, f"no result within {bench.context.deadline:g} s"
        return Outcome.FAILED, f"unexpected {error!r}"
    except Exception as error:  # whatever else a runtime raises breaks the contract, and the next check goes on
        return Outcome.FAILED, f"unexpected {type(error).__name__}: {error}"


async def _clear(bench: Bench) -> list[str]:
    seconds = max(CLEAR_SECONDS, bench.soon)
    try:
        async with asyncio.timeout(seconds):
            return await bench.clear()
    except TimeoutError:
        return [f"clean-up took more than {seconds:g} s"]
