"""Both suites on one host: the runtime contract's, then the environment's, told in the same words."""

import os
import time
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from images import cache, recipe
from images.builder import chosen_epoch
from images.kinds.source import Progress
from lmd.config.models import Config
from lmd.conformance import alike, check, checks, contract, ground, runner
from lmd.places import Places
from runtimes import conformance
from runtimes.conformance import Outcome
from runtimes.contract import Image, ImageKind

CONTRACT, ENVIRONMENT = "contract", "environment"
IMAGE = "busybox"
_ENVIRONMENTS = (*checks.CHECKS, *checks.WITH_REPOSITORY, *checks.BY_HTTP)


@dataclass(frozen=True, slots=True)
class Entry:
    """A check of either suite. Names are unique over both."""

    suite: str
    name: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a check on a runtime; `seconds` is how long it took."""

    runtime: str
    entry: Entry
    outcome: Outcome
    reason: str
    seconds: float

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "runtime": self.runtime,
            "suite": self.entry.suite,
            "check": self.entry.name,
            "sentence": self.entry.sentence,
            "outcome": self.outcome.value,
            "reason": self.reason,
            "seconds": round(self.seconds, 3),
        }


ALIKE = Entry(ENVIRONMENT, "same-on-every-runtime", "the payload finds the same on every runtime, field by field")
"""Made once for all runtimes that are tried, after all others."""


def listed() -> list[Entry]:
    """Every check, in the order in which they are made."""
    return [
        *(Entry(CONTRACT, c.name, c.sentence) for c in conformance.CHECKS),
        *(Entry(ENVIRONMENT, c.name, c.sentence) for c in _ENVIRONMENTS),
        ALIKE,
    ]


def chosen(entries: Sequence[Entry], names: Collection[str], *, http: bool = False) -> list[Entry]:
    """The checks that are named; if none is, all but those for which the factory's network would be made, unless
    `http`."""
    if names:
        return [entry for entry in entries if entry.name in names]
    by_http = {c.name for c in checks.BY_HTTP}
    return [entry for entry in entries if http or entry.name not in by_http]


def image(places: Places, progress: Progress) -> Image:
    """The image that the suites' machines run, built at the first time. Blocks; raises `ImageError`."""
    folder = places.cache / "images"
    path = cache.find(IMAGE, (folder,))
    if path is None:
        progress(f"building the image {IMAGE}, once")
        epoch = chosen_epoch(os.environ, time.time())
        path = cache.ensure(folder, recipe.find_recipe(IMAGE), epoch, progress=progress).path
    return Image(kind=ImageKind.OCI_ARCHIVE, location=str(path))


async def run(
    runtime: str, config: Config, places: Places, image: Image, wanted: Collection[Entry]
) -> AsyncGenerator[Told, None]:
    """Make the checks of `wanted` on a runtime that is healthy, in the order of `listed`, and tell each result.

    Raises `NotAvailable`, and `Interrupted` where a signal ended a machine.
    """
    names = {entry.name for entry in wanted}
    contracts = [c for c in conformance.CHECKS if c.name in names]
    if contracts:
        with ground.working_directory(places) as directory:
            context = contract.context(runtime, config, places, image, directory)
            async for result in conformance.run(context, contracts):
                yield _told(runtime, CONTRACT, result)
    environments = [c for c in _ENVIRONMENTS if c.name in names]
    if environments:
        async with aclosing(runner.run(runtime, config, places, image, environments)) as results:
            async for made in results:
                yield _told(runtime, ENVIRONMENT, made)


async def run_alike(
    runtimes: Sequence[str], config: Config, places: Places, image: Image
) -> AsyncGenerator[Told, None]:
    """Compare what the payload finds on each runtime with what it finds on the first. Raises as `run` does."""
    if len(runtimes) < 2:
        yield Told(runtimes[0], ALIKE, Outcome.NOT_APPLICABLE, "only one runtime is tried", 0.0)
        return
    try:
        async with aclosing(alike.compared(runtimes, config, places, image)) as results:
            async for name, differences, remark, seconds in results:
                outcome = Outcome.FAILED if differences else Outcome.PASSED
                if differences is None:
                    outcome = Outcome.NOT_APPLICABLE
                yield Told(name, ALIKE, outcome, differences or remark, seconds)
    except check.Violation as violation:
        yield Told(", ".join(runtimes), ALIKE, Outcome.FAILED, str(violation), 0.0)


def _told(runtime: str, suite: str, result: conformance.Result | check.Result) -> Told:
    entry = Entry(suite, result.check.name, result.check.sentence)
    return Told(runtime, entry, result.outcome, result.reason, result.seconds)
