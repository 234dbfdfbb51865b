"""When a running machine has to end, as pure functions of what was seen of it. Rules of spec 7.3 without its faults:
a heartbeat file is asked for when fizzle_seconds have passed, and then from every machine, however it was adopted.
"""

from dataclasses import dataclass

from lmd.environment.outcome import Why


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a machine may do: times in Unix seconds, durations in seconds.

    `heartbeat_seconds` 0: that the file exists is enough."""

    started: float
    shutdown_time: float
    fizzle_seconds: float
    heartbeat_file: str | None = None
    heartbeat_seconds: float = 0
    outputs_bytes: int
    outputs_files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What was seen: seconds since the last heartbeat (None: no such file), and the size of the joboutputs."""

    heartbeat_age: float | None
    outputs_bytes: int
    outputs_files: int


def reason_to_end(terms: Terms, seen: Observed, now: float) -> tuple[Why, str] | None:
    """Why the machine has to end now, with a sentence of figures; None if it may go on."""
    if seen.outputs_bytes > terms.outputs_bytes:
        return Why.QUOTA, f"joboutputs hold more than {terms.outputs_bytes} bytes"
    if seen.outputs_files > terms.outputs_files:
        return Why.QUOTA, f"joboutputs hold more than {terms.outputs_files} files"
    if now >= terms.shutdown_time:
        return Why.TIMED_OUT, f"its time was over after {now - terms.started:.0f} s"
    if terms.heartbeat_file and now - terms.started >= terms.fizzle_seconds:
        if seen.heartbeat_age is None:
            return Why.HEARTBEAT_MISSING, f"no {terms.heartbeat_file} after {now - terms.started:.0f} s"
        if 0 < terms.heartbeat_seconds < seen.heartbeat_age:
            return Why.HEARTBEAT_LOST, f"{terms.heartbeat_file} is {seen.heartbeat_age:.0f} s old"
    return None
