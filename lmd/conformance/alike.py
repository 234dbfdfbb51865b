"""Whether a machine finds the same on every runtime of a host: the same payload's portraits, field by field."""

import time
from collections.abc import AsyncGenerator, Sequence

from lmd.config.models import Config
from lmd.conformance.check import NotApplicable
from lmd.conformance.ground import prepare, working_directory
from lmd.conformance.report import Difference, Report, compare
from lmd.conformance.trial import Trial
from lmd.places import Places
from runtimes.contract import Image

SHOWN = 60
"""So many characters of a field are told."""


async def portrait(runtime: str, config: Config, places: Places, image: Image) -> Report:
    """What the suite's payload sees there. Raises `NotAvailable`, `NotApplicable`, `Violation`, `Interrupted`."""
    with working_directory(places) as directory:
        trial = Trial(await prepare(runtime, config, places, image, directory))
        if image.kind not in trial.ground.can.images:
            raise NotApplicable(f"{runtime} makes no machines of an image of kind {image.kind}")
        try:
            return (await trial.portrait()).report()
        finally:
            await trial.clear()


async def compared(
    runtimes: Sequence[str], config: Config, places: Places, image: Image
) -> AsyncGenerator[tuple[str, str | None, str, float], None]:
    """For each runtime after the first that has a portrait: its name, what differs (None: it has no portrait, "" if
    nothing does), a remark, and how long it took in seconds. Raises `Violation` for a machine that failed."""
    first: tuple[str, Report] | None = None
    for name in runtimes:
        began = time.monotonic()
        try:
            report = await portrait(name, config, places, image)
        except NotApplicable as error:
            yield name, None, str(error), time.monotonic() - began
            continue
        if first is None:
            first = (name, report)
            continue
        there, other = first
        differences = "; ".join(told(one, there, name) for one in compare(other, report))
        yield name, differences, f"{len(report.fields())} fields as on {there}", time.monotonic() - began


def told(difference: Difference, one: str, other: str) -> str:
    """A field in which two runtimes differ, for people."""
    return f"{difference.key}: {_short(difference.one)} on {one}, {_short(difference.other)} on {other}"


def _short(text: str | None) -> str:
    if text is None:
        return "none"
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "…")
