"""What the database says joined with what the engines show: what has to be done about each machine. Pure.

Three answers: here, gone, cannot tell. Only a complete listing says gone, and only one that was begun after the last
of our own acts on that machine had ended.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from lmd.factory.rows import Phase, Row
from runtimes.contract import Seen, State


class Do(StrEnum):
    """What has to be done about one machine."""

    ADOPT = "adopt"  # it bears our stamp and has no row
    NOTE = "note"  # its engine shows something new of it
    RESUME = "resume"  # it was made and not started: go on
    END = "end"  # it is paused, or never started, and has to be ended
    FINISH = "finish"  # it has ended, or is gone: judge, write down, clean up
    CLEAN = "clean"  # it is written down, and its engine may still hold something of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One runtime's answer. `began` in seconds of the boot; `machines` None: it cannot tell, because of `problem`."""

    runtime: str
    began: float
    machines: Mapping[str, Seen] | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something to do about machine `id` on `runtime`; `seen` as its engine shows it, None if it does not."""

    do: Do
    id: str
    runtime: str
    seen: Seen | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """`steps` to take, `others` that belong to somebody else and are only booked, `silent` runtimes that cannot tell,
    each with its reason."""

    steps: tuple[Step, ...] = ()
    others: tuple[Seen, ...] = ()
    silent: Mapping[str, str] = field(default_factory=dict)


def join(
    rows: Mapping[str, Row],
    observations: Sequence[Observation],
    *,
    owner: str,
    boot_id: str,
    acted: Mapping[str, float],
    busy: Collection[str] = (),
) -> Joined:
    """What to do. `acted`: when, in seconds of the boot, our last act on a machine ended; `busy`: machines on which
    one is under way. About either nothing older is concluded."""
    steps: list[Step] = []
    others: list[Seen] = []
    told = {one.runtime: one for one in observations if one.machines is not None}
    for one in told.values():
        for seen in (one.machines or {}).values():
            if seen.owner != owner:
                others.append(seen)
            elif seen.id not in busy and acted.get(seen.id, -1.0) < one.began:
                steps.extend(_shown(rows.get(seen.id), seen, one.runtime))
    for row in rows.values():
        answer = told.get(row.runtime)
        if answer is None or row.id in busy or row.id in (answer.machines or {}):
            continue
        if max(acted.get(row.id, -1.0), row.created_boot if row.boot_id == boot_id else -1.0) < answer.began:
            steps.extend(_missing(row, boot_id))
    silent = {one.runtime: one.problem for one in observations if one.machines is None}
    return Joined(steps=tuple(steps), others=tuple(others), silent=silent)


def _shown(row: Row | None, seen: Seen, runtime: str) -> Iterator[Step]:
    if row is None:
        yield Step(do=Do.ADOPT, id=seen.id, runtime=runtime, seen=seen)
    elif row.runtime != runtime:
        yield Step(do=Do.CLEAN, id=seen.id, runtime=runtime, seen=seen, why=f"it belongs on {row.runtime}")
    elif row.phase is Phase.FINISHED:
        yield Step(do=Do.CLEAN, id=seen.id, runtime=runtime, seen=seen)
    elif seen.state is State.EXITED:
        yield Step(do=Do.FINISH, id=seen.id, runtime=runtime, seen=seen)
    elif seen.state is State.CREATED:
        again = row.phase in (Phase.PREPARING, Phase.STARTING) and not row.why
        yield Step(do=Do.RESUME if again else Do.END, id=seen.id, runtime=runtime, seen=seen, why="it never started")
    else:
        if not row.shown or row.state is not seen.state or row.phase in (Phase.PREPARING, Phase.STARTING):
            yield Step(do=Do.NOTE, id=seen.id, runtime=runtime, seen=seen)
        if seen.state is State.PAUSED and row.why is None:
            yield Step(do=Do.END, id=seen.id, runtime=runtime, seen=seen, why="its engine shows it as paused")


def _missing(row: Row, boot_id: str) -> Iterator[Step]:
    if row.phase is Phase.FINISHED:
        if not row.cleaned:
            yield Step(do=Do.CLEAN, id=row.id, runtime=row.runtime)
        return
    if row.boot_id != boot_id:
        why = "the host was started anew"
    elif row.shown:
        why = "another has destroyed it"
    else:
        why = "it was never made"
    yield Step(do=Do.FINISH, id=row.id, runtime=row.runtime, why=why)
