"""Whether the clock can be trusted: shutdown times, certificates and signatures hang on it."""

import ctypes
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lmd.doctor.check import Asked, Check
from lmd.doctor.finding import Finding, note, ok, problem, warning

CHRONY = "apt-get install chrony (dnf install chrony)"
STA_UNSYNC = 0x40
FAR_OFF_MICROSECONDS = 1_000_000
END_OF_TIME = 4_102_444_800  # 2100-01-01
_TIMEX_BYTES = 256
"""More than struct timex has on any architecture; its first members are modes, offset, freq, maxerror, esterror,
status (adjtimex(2)): an int, four longs, an int."""


class _Timex(ctypes.Structure):
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * _TIMEX_BYTES),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Unix seconds. `synchronised` None where the kernel does not tell; `error_microseconds` is the kernel's bound."""

    now: float
    installed: float
    synchronised: bool | None
    error_microseconds: int | None


def gather(asked: Asked) -> Clock:
    """The kernel is asked (adjtimex); lmd's own files cannot be younger than now."""
    asked_of_kernel = _Timex()
    told = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(asked_of_kernel)) >= 0
    return Clock(
        now=time.time(),
        installed=Path(__file__).stat().st_mtime,
        synchronised=not asked_of_kernel.status & STA_UNSYNC if told else None,
        error_microseconds=asked_of_kernel.maxerror if told else None,
    )


def rule(clock: Clock) -> Iterator[Finding]:
    """A clock that is impossible is a problem; one that nothing corrects, a warning."""
    shown = datetime.fromtimestamp(clock.now, UTC).isoformat(sep=" ", timespec="seconds")
    if clock.now < clock.installed - 1 or clock.now > END_OF_TIME:
        yield problem(
            f"the clock says {shown}, before lmd was installed or beyond 2100", f"{CHRONY}; then: chronyc makestep"
        )
    elif clock.synchronised is None:
        yield note(f"the clock says {shown}; whether it is synchronised cannot be told")
    elif not clock.synchronised:
        yield warning(f"the clock says {shown}, but nothing synchronises it", CHRONY)
    elif (clock.error_microseconds or 0) > FAR_OFF_MICROSECONDS:
        yield warning(f"the clock may be wrong by {(clock.error_microseconds or 0) / 1e6:.1f} s", "chronyc makestep")
    else:
        yield ok(f"the clock says {shown} and is synchronised")


CHECK = Check("clock", gather, rule)
