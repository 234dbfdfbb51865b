"""`lm why`: the reasons of the last decision as a person reads them."""

import datetime
from collections.abc import Iterable, Iterator

from lmd.vacuum.decision import Refusal


def lines(now: float, refusals: Iterable[Refusal], machinetype: str | None = None) -> Iterator[str]:
    """`atlas: back-off: waits 600 s after …; may change at 14:05:00 (in 3 min)`, for one type or for all."""
    for refusal in refusals:
        if machinetype is None or refusal.machinetype == machinetype:
            yield f"{refusal.machinetype}: {refusal.code}: {refusal.sentence}{_when(now, refusal.until)}"


def _when(now: float, until: float | None) -> str:
    if until is None:
        return ""
    try:
        moment = datetime.datetime.fromtimestamp(until).astimezone()
    except (OverflowError, ValueError, OSError):
        return ""
    return f"; may change at {moment:%Y-%m-%d %H:%M:%S %z} ({_away(until - now)})"


def _away(seconds: float) -> str:
    if seconds <= 0:
        return "any moment"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"in {seconds / size:.0f} {unit}"
    return f"in {max(seconds, 1):.0f} s"
