"""Machines looked after: what was observed of each is taken, what is written down of each is carried on."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from functools import partial

from lmd.environment.directory import DirectoryError
from lmd.environment.outcome import Why
from lmd.factory import adopt
from lmd.factory.acts import SHORT_GRACE, Acts
from lmd.factory.host import Premises
from lmd.factory.join import Do, Joined, Step
from lmd.factory.rows import Phase, Row
from lmd.factory.store import StoreFault
from lmd.factory.sweep import Sweeper, watched
from lmd.factory.warnings import Kind
from lmd.vacuum.decision import Ending


class Tending:
    """Looks after the machines of one factory, by acts."""

    def __init__(self, here: Premises, acts: Acts) -> None:
        self._here, self._acts = here, acts
        self._sweeper = Sweeper(here.places.machines)

    @property
    def sweep_rest(self) -> float:
        """Seconds to wait for the next sweep."""
        return self._sweeper.rest

    def take(self, joined: Joined) -> None:
        """Do what follows from what the engines show."""
        for step in joined.steps:
            self._take(step, self._here.ledger.rows.get(step.id))

    def _take(self, step: Step, row: Row | None) -> None:
        here, acts = self._here, self._acts
        if step.do is Do.ADOPT and step.seen is not None:
            here.do(step.id, partial(self._adopt, step))
        elif step.do is Do.CLEAN:
            if step.why:
                here.ledger.warnings.raised(Kind.DOUBLED, f"{step.id} on {step.runtime}", step.why)
            here.do(step.id, partial(acts.clean, step.id, step.runtime))
        elif row is None:
            return
        elif step.do is Do.NOTE and step.seen is not None:
            acts.note(step.seen)
        elif step.do is Do.RESUME:
            here.do(step.id, partial(acts.resume, row))
        elif step.do is Do.END:
            acts.condemn(row, Why.PAUSED, step.why, 0.0)
        elif step.do is Do.FINISH:
            self._finish(step, row)

    def _finish(self, step: Step, row: Row) -> None:
        if step.seen is None and not self._here.actors.rests(row.id):
            self._here.say("machine-gone", row.id, why=step.why)
        self._here.do(row.id, partial(self._acts.finish, row, step.seen, step.why))

    async def _adopt(self, step: Step) -> None:
        """A machine with our stamp and no row: from history, its own record, or what the engine shows."""
        here, seen = self._here, step.seen
        if seen is None:
            return
        row: Row | None = None
        with suppress(StoreFault):
            row = await here.ledger.find(seen.id)
        if row is None:
            directory = self._acts.directory(seen.id)
            try:
                record = await asyncio.to_thread(directory.load)
                row = adopt.from_record(record, directory, here.clocks, here.boot_id, here.config)
            except DirectoryError:
                row = adopt.from_seen(seen, here.clocks, here.boot_id, here.config)
        here.ledger.set(row)
        here.say("machine-adopted", seen.id, phase=row.phase)
        if row.live:
            self._acts.note(seen)
        await here.ledger.flush()

    def tend(self) -> None:
        """Go on with what is written down about each machine."""
        here = self._here
        now, busy = here.clocks.boot(), here.actors.busy
        for row in here.ledger.live():
            engine = here.engines.get(row.runtime)
            if engine is None or not engine.complete or row.id in busy:
                continue
            if row.phase is Phase.RUNNING and _notice_due(row, now):
                self._acts.condemn(row, Why.EARLIER, row.moved_because, row.deadline - now)
            elif row.phase is Phase.RUNNING and row.moved is not None and row.noticed != row.shutdown_time:
                here.do(row.id, partial(self._acts.notify, row))
            elif row.phase is Phase.STOPPING and row.shown:
                self._bring_to_end(row, now)

    def _bring_to_end(self, row: Row, now: float) -> None:
        left = (row.kill or 0.0) - now
        if row.told is None:
            self._here.do(row.id, partial(self._acts.tell, row))
        elif (left <= SHORT_GRACE or row.conditions.notice == "sigterm") and not self._just_stopped(row):
            self._here.do(row.id, partial(self._acts.stop, row))

    def _just_stopped(self, row: Row) -> bool:
        """Whether its engine has not been looked at since it was stopped: stopping it again would only put that off."""
        observation = self._here.engines[row.runtime].observation
        last = self._acts.stopped.get(row.id)
        return last is not None and (observation is None or observation.began <= last)

    def due(self, now: float) -> bool:
        """Whether the time of a machine has come, `now` in seconds of the boot."""
        live = self._here.ledger.live()
        kills = any(row.kill is not None and row.kill - SHORT_GRACE <= now for row in live)
        return kills or any(row.moved is not None and row.why is None for row in live)

    def times(self) -> list[float]:
        """When something has to be done about machines, in seconds of the boot."""
        live = self._here.ledger.live()
        ends = [row.deadline for row in live if row.why is None]
        return ends + [row.kill - SHORT_GRACE for row in live if row.kill is not None]

    async def sweep(self) -> None:
        """Look at what the machines have left and at their heartbeats; condemn those that have to end."""
        here = self._here
        rows = [row for row in here.ledger.live() if watched(row) and self._seen_here(row)]
        found = await asyncio.to_thread(self._sweeper.sweep, rows, here.clocks.boot(), here.clocks.wall())
        for name, (why, detail) in found.items():
            row = here.ledger.rows.get(name)
            if row is None or (row.why is not None and why is not Why.QUOTA):
                continue
            if why is Why.TIMED_OUT and row.moved is not None:
                why, detail = Why.EARLIER, row.moved_because
            self.condemn(row, why, detail, 0.0 if why is Why.QUOTA else SHORT_GRACE)

    def _seen_here(self, row: Row) -> bool:
        engine = self._here.engines.get(row.runtime)
        return engine is not None and engine.complete > 0

    def condemn(self, row: Row, why: Why, detail: str, grace: float) -> None:
        """Write it down; a stop with a longer grace that is under way gives way."""
        condemned = self._acts.condemn(row, why, detail, grace)
        if condemned is not None and row.phase is Phase.STOPPING and row.id in self._here.actors.busy and row.told:
            self._here.do(row.id, partial(self._acts.stop, condemned), instead=True)
        self._here.wake()

    def end_type(self, machinetype: str, by: float, because: str) -> None:
        """Move the ends of all machines of a type to `by` (Unix seconds)."""
        for row in self._here.ledger.live():
            if row.machinetype == machinetype:
                self.move_end(Ending(id=row.id, by=by, because=because))

    def move_end(self, ending: Ending) -> None:
        """Move the end of a machine earlier; it is told at the next pass. Never later."""
        here = self._here
        row = here.ledger.rows.get(ending.id)
        deadline = here.clocks.boot() + (ending.by - here.clocks.wall())
        if row is None or not row.live or deadline >= row.deadline - 1.0:
            return
        here.ledger.set(
            replace(
                row,
                deadline=deadline,
                shutdown_time=min(row.shutdown_time, ending.by),
                moved=row.moved or here.clocks.boot(),
                moved_because=ending.because,
            )
        )
        here.say("end-moved", row.id, by=ending.by, because=ending.because)
        here.wake()


def _notice_due(row: Row, now: float) -> bool:
    by_signal = row.conditions.notice == "sigterm"
    return row.moved is not None and by_signal and now >= row.deadline - row.conditions.grace
