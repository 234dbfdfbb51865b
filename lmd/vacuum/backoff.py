"""When a type may be started again after machines of it ended badly (spec 7.6), without its faults C1 and C8.

- An abort is a shutdown message of 300 or above, or an end younger than fizzle_seconds without any message. All
  finished machines count, not the last one alone.
- After an abort nothing of the type starts for backoff_seconds. Then one machine tries it out, and the others wait
  until one that was started after the abort has passed fizzle_seconds.
- So that not all factories try at once, each waits for a time of its own, drawn from its name and the abort.
- A factory whose machines of the type fail round after round for anything but a lack of work waits twice as long
  each time, up to an hour: a black hole does not use up the work of the space.
- A type whose last machines here all ended early, though without an abort code, waits for backoff_seconds too: whatever
  makes them so short, a restart a second helps nobody.
- In a large space, aborts on a few factories hold back those factories alone as long as ten times as many others see
  new machines of the type work.
"""

import heapq
import math
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lmd.vacuum.decision import Code
from lmd.vacuum.facts import Machine, Phase, TypeRules
from lmd.vacuum.space import NOTHING, Space, TypeInSpace

FIRST_ABORT_CODE = 300
NO_WORK = range(300, 400)
LONGEST_BACKOFF = 3600.0
STAGGER_SECONDS = 60.0
"""Between the times at which two factories may try a type out: how often factories ask each other."""
MOST_STAGGERS = 30
FEW = 0.1
HASTY = 8
"""So many machines in a row that end early, though well, make a type wait."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a type is not started now, and until when where that is known."""

    code: Code
    sentence: str
    until: float | None


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a type may be started: not at all (`hold`), one machine to try it out (`trial`), or freely."""

    hold: Hold | None = None
    trial: bool = False


FREE = Standing()


@dataclass(frozen=True, slots=True)
class History:
    """This factory's machines of one type: those that are alive, and those that ended lately."""

    alive: Sequence[Machine]
    ended: Sequence[Machine]


def aborted(machine: Machine, kind: TypeRules) -> bool:
    """Whether a finished machine's end speaks against starting more of its type now."""
    if machine.excused or machine.phase is not Phase.FINISHED:
        return False
    if machine.code is not None:
        return machine.code >= FIRST_ABORT_CODE
    return age(machine, machine.finished) < kind.fizzle_seconds


def age(machine: Machine, at: float | None) -> float:
    """Seconds from the machine's start (its creation, where it never started) to `at`; 0 where that is not known."""
    begun = machine.started if machine.started is not None else machine.created
    return max(0.0, at - begun) if at is not None else 0.0


def proven(now: float, machines: Iterable[Machine], kind: TypeRules) -> float | None:
    """Newest start of a machine that is known to work: it has passed fizzle_seconds, or ended well."""
    starts = [
        machine.started
        for machine in machines
        if machine.started is not None
        and machine.started <= now
        and (
            age(machine, now if machine.phase is not Phase.FINISHED else machine.finished) >= kind.fizzle_seconds
            or (machine.code is not None and machine.code < FIRST_ABORT_CODE)
        )
        and not aborted(machine, kind)
    ]
    return max(starts, default=None)


def newest_abort(now: float, ended: Iterable[Machine], kind: TypeRules) -> Machine | None:
    """The abort of this factory that ended last; what a clock that has jumped puts far ahead is passed over."""
    horizon = now + kind.backoff_seconds + kind.fizzle_seconds
    newest, at = None, -math.inf
    for machine in ended:
        if machine.code is not None and machine.code < FIRST_ABORT_CODE:
            continue  # `aborted` would say so, as of most machines
        if machine.finished is not None and at < machine.finished <= horizon and aborted(machine, kind):
            newest, at = machine, machine.finished
    return newest


def standing(now: float, kind: TypeRules, own: History, space: Space, this: str) -> Standing:
    """Where the type stands on this factory."""
    there = space.types.get(kind.name, NOTHING)
    if not own.ended and not there.aborts:
        return FREE
    foreign = _foreign(now, kind, there)
    until, at, words = _backed_off(kind, own, newest_abort(now, own.ended, kind), foreign)
    if pause := _in_haste(now, own.ended, kind):
        return Standing(pause)
    if at is None:
        return FREE
    if now < until:
        return Standing(Hold(Code.BACKOFF, f"waits {until - at:.0f} s after {words}", until))
    if there.proofs and there.proofs[0] > at:
        return FREE
    worked = proven(now, [*own.alive, *own.ended], kind)
    if worked is not None and worked > at:
        return FREE
    return _trial(now, kind, own.alive, space, this, until, at)


def _in_haste(now: float, machines: Sequence[Machine], kind: TypeRules) -> Hold | None:
    """A hold where the last machines of the type all ended early and well, the last one just now."""
    if len(machines) < HASTY:
        return None
    least = kind.fizzle_seconds
    late = [
        m
        for m in machines  # where most lived on, as they mostly do, that is all that is looked at
        if m.finished is None or m.finished - (m.created if m.started is None else m.started) >= least
    ]
    if len(machines) - len(late) < HASTY:
        return None
    ended = [m for m in machines if m.finished is not None and not m.excused]
    last = heapq.nlargest(HASTY, ended, key=lambda machine: machine.finished or 0.0)
    if any(age(machine, machine.finished) >= least for machine in last):
        return None
    until = (last[0].finished or 0.0) + kind.backoff_seconds
    if not now < until <= now + kind.backoff_seconds:
        return None
    return Hold(Code.BACKOFF, f"its last {HASTY} machines here ended within {kind.fizzle_seconds:.0f} s", until)


def _foreign(now: float, kind: TypeRules, there: TypeInSpace) -> tuple[float, str, str] | None:
    """The abort elsewhere that counts here: the newest, after the few that a space of working machines bears."""
    if not there.aborts:
        return None
    since = now - kind.backoff_seconds - 2 * kind.fizzle_seconds
    working = bisect_left([-start for start in there.proofs], -since)
    set_aside = int(FEW * working)
    return there.aborts[set_aside] if set_aside < len(there.aborts) else None


def _backed_off(
    kind: TypeRules, history: History, own: Machine | None, foreign: tuple[float, str, str] | None
) -> tuple[float, float | None, str]:
    """Until when the back-off lasts, the abort that it counts from, and that abort in words."""
    until, at, words = 0.0, None, ""
    if own is not None and own.finished is not None:
        wait = max(
            kind.backoff_seconds, min(kind.backoff_seconds * 2 ** _failed_again(history.ended, kind), LONGEST_BACKOFF)
        )
        until, at = own.finished + wait, own.finished
        ended = f"ended with code {own.code}" if own.code is not None else "ended early without a message"
        words = f"{own.id} {ended}"
    if foreign is not None:
        if at is None or foreign[0] > at:
            at = foreign[0]
        if foreign[0] + kind.backoff_seconds > until:
            until = foreign[0] + kind.backoff_seconds
            words = f"an abort on {foreign[1]}" + (f" ({foreign[2]})" if foreign[2] else "")
    return until, at, words


def _failed_again(machines: Iterable[Machine], kind: TypeRules) -> int:
    """How many rounds of machines failed here before the last one, without one between that worked; at most 12.

    Machines that ran at the same time are one round. A lack of work is no failure.
    """
    ended = [m for m in machines if m.finished is not None and not m.excused]
    rounds, before = 0, float("inf")
    for machine in sorted(ended, key=lambda machine: -(machine.finished or 0.0)):
        if not aborted(machine, kind) or (machine.code is not None and machine.code in NO_WORK):
            break
        if (machine.finished or 0.0) <= before:
            rounds += 1
            before = machine.created
    return min(max(rounds - 1, 0), 12)


def _trial(
    now: float, kind: TypeRules, alive: Iterable[Machine], space: Space, this: str, until: float, at: float
) -> Standing:
    young = [m for m in alive if m.created >= at and age(m, now) < kind.fizzle_seconds]
    if young:
        passes = max((m.started if m.started is not None else m.created) for m in young) + kind.fizzle_seconds
        return Standing(Hold(Code.TESTING, f"{young[0].id} is trying it out", passes))
    elsewhere = space.types.get(kind.name, NOTHING).num_before_fizzle
    if elsewhere and now < until + kind.fizzle_seconds:
        return Standing(
            Hold(Code.TESTING, "another factory is trying it out after a back-off", until + kind.fizzle_seconds)
        )
    turn = until + STAGGER_SECONDS * min(_rank(kind, space, this, at), MOST_STAGGERS)
    if now < turn:
        return Standing(Hold(Code.TESTING, "another factory's turn to try it out after a back-off comes first", turn))
    return Standing(trial=True)


def _rank(kind: TypeRules, space: Space, this: str, at: float) -> int:
    """How many factories with room for the type come before this one; another order for each abort."""

    def place(name: str) -> int:
        return zlib.crc32(f"{kind.name}/{at:.0f}/{name}".encode())

    own = place(this)
    return sum(
        1
        for name, free in space.factories.items()
        if (free is None or free >= kind.min_processors) and place(name) < own
    )
