"""Run the checks one after another and tell each result as it comes."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable

from lmd.config.models import Config
from lmd.conformance.check import Check, NotApplicable, Outcome, Result, Violation
from lmd.conformance.checks import CHECKS
from lmd.conformance.contract import context
from lmd.conformance.ground import Ground, prepare, working_directory
from lmd.conformance.trial import Interrupted, Trial
from lmd.environment.directory import DirectoryError
from lmd.places import Places
from runtimes.contract import Image, RuntimeFault

CLEAR_SECONDS = 30.0
"""How long the clean-up after one check may take; where machines are slow to start, as long as that takes."""

NO_SHELL = "machines of this runtime have no shell, so no payload can look around in them"


async def run(
    runtime_name: str, config: Config, places: Places, image: Image, checks: Iterable[Check] = CHECKS
) -> AsyncGenerator[Result, None]:
    """Yield the result of each check; what a check made is removed before its result is told.

    The image needs a POSIX shell and the usual small commands; `lmd:busybox` has them. Raises `NotAvailable`, and
    `Interrupted` where a signal ended a machine.
    """
    with working_directory(places) as directory:
        ground = await prepare(runtime_name, config, places, image, directory)
        shell = context(runtime_name, config, places, image, directory).payloads.shell(":")
        for check in checks:
            if shell is None:
                yield Result(check, Outcome.NOT_APPLICABLE, NO_SHELL, 0.0)
            else:
                yield await run_one(check, ground)


async def run_one(check: Check, ground: Ground) -> Result:
    """Make one check. Something left behind turns `passed` into `failed`."""
    began = time.monotonic()
    trial = Trial(ground)
    try:
        outcome, reason = await _attempt(check, trial)
    finally:
        problems = await _clear(trial, max(CLEAR_SECONDS, ground.patience))
    if problems and outcome is not Outcome.FAILED:
        outcome, reason = Outcome.FAILED, "; ".join(problems)
    return Result(check, outcome, reason, time.monotonic() - began)


async def _attempt(check: Check, trial: Trial) -> tuple[Outcome, str]:
    try:
        return Outcome.PASSED, await check.body(trial) or ""
    except Violation as violation:
        return Outcome.FAILED, str(violation)
    except NotApplicable as absent:
        return Outcome.NOT_APPLICABLE, str(absent)
    except Interrupted:
        raise
    except Exception as error:  # whatever else goes wrong is told, and the next check goes on
        return Outcome.FAILED, f"unexpected {type(error).__name__}: {error}"


async def _clear(trial: Trial, seconds: float) -> list[str]:
    try:
        async with asyncio.timeout(seconds):
            return await trial.clear()
    except TimeoutError:
        return [f"clean-up took more than {seconds:g} s"]
    except (RuntimeFault, DirectoryError) as error:
        return [f"clean-up: {error}"]
