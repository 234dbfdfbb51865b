"""One factory: observe, join, decide, write down, act. Level-triggered: each pass starts from what is.

The rules are elsewhere (`join`, `vacuum.decide`, `machine.rules`); this is the loop around them.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lmd import engines
from lmd.choosing import offer
from lmd.config.models import Config, MachineType
from lmd.environment.directory import DirectoryError
from lmd.environment.identity import boot_id
from lmd.environment.outcome import Why
from lmd.factory import adopt, facts, plans
from lmd.factory.actors import Actors, sentence
from lmd.factory.acts import SHORT_GRACE, Acts
from lmd.factory.budget import READ_SECONDS, BudgetError, total_processors
from lmd.factory.join import Do, Joined, Step, join
from lmd.factory.ledger import Ledger
from lmd.factory.ready import Ready
from lmd.factory.rows import Clocks, Event, Phase, Row
from lmd.factory.store import Store, StoreFault
from lmd.factory.sweep import Sweeper, watched
from lmd.factory.tidy import tidy
from lmd.factory.warnings import Kind
from lmd.factory.watched import Watched
from lmd.machine.material import Material
from lmd.machine.spec import Plan, needed
from lmd.places import Places
from lmd.vacuum.configured import kinds, rules
from lmd.vacuum.decide import decide
from lmd.vacuum.decision import Decision, Ending, Start
from lmd.vacuum.space import Space
from runtimes import registry
from runtimes.contract import Runtime, Seen, Spec

DRAIN, HOST_SHUTDOWN = "drain", "host-shutdown"
"""Intents that the whole factory is drained: an operator's, and that of the host's shutdown."""
TICK_SECONDS = 5.0
FIRST_ANSWERS_SECONDS = 5.0
"""How long the first decision waits for runtimes to answer: what is already there has to be booked."""
TIDY_SECONDS = 600.0
JUMP_SECONDS = 60.0
RECENT_SECONDS = 86_400.0
LEAVE_SECONDS = 5.0
"""How long acts may take to end when the daemon does."""


@dataclass(frozen=True, slots=True)
class Host:
    """What a factory is given: its directories, clocks, how its configuration and its runtimes are made, its log."""

    places: Places
    clocks: Clocks
    environment: Mapping[str, str]
    load: Callable[[str, Config], Runtime]
    log: Callable[[Event], None]


def loaded(places: Places) -> Callable[[str, Config], Runtime]:
    """The runtimes of this host, as `Host.load` makes them."""
    return lambda name, config: registry.load(name, engines.settings(name, config, places))


class Factory:
    """The daemon's heart. `open` before `run`; `end` lets `run` return, machines go on."""

    def __init__(self, host: Host, config: Config) -> None:
        self.host, self.config, self.clocks, self.places = host, config, host.clocks, host.places
        self.name = config.settings.factory_name or os.uname().nodename.lower()
        self.owner = f"factory:{self.name}"
        self.boot_id = boot_id()
        self.store = Store(self.places.state / "factory.sqlite", self.places.run)
        self.engines: dict[str, Watched] = {}
        self.decision = Decision()
        self.passes = 0
        self.total = 0
        self.ledger: Ledger
        self.acts: Acts
        self._wake = asyncio.Event()
        self._ended = False
        self._actors = Actors(self.clocks, self._wake.set, self._failed)
        self._needs: dict[str, tuple[MachineType, Spec | None]] = {}
        self._ready = Ready(
            lambda: self.config, self.places, self.clocks, self._wake.set, lambda text: self._say("image", text=text)
        )
        self._sweeper = Sweeper(self.places.machines)
        self._others: dict[str, tuple[Seen, ...]] = {}
        self._due: dict[str, float] = {}
        self._side: dict[str, asyncio.Task[None]] = {}
        self._opened = self._skew = 0.0
        self._pass_cost = 0.0
        self._passed = float("-inf")
        self._stirred = True
        self._counted = False

    async def open(self) -> None:
        """Read what is known, begin to observe. Never fails for what the database holds, or for an engine."""
        content = await self.store.open()
        self.ledger = Ledger(self.store, content, self.clocks, self.host.log)
        self.acts = Acts(self.ledger, self.engines, self.places, self.clocks, lambda: self.config)
        self._opened, self._skew = self.clocks.boot(), self.clocks.wall() - self.clocks.boot()
        for row in await asyncio.to_thread(
            adopt.left_behind,
            self.places.machines,
            set(self.ledger.rows),
            self.owner,
            self.clocks,
            self.boot_id,
            self.config,
        ):
            with suppress(StoreFault):
                if (stored := await self.ledger.find(row.id)) is not None and not stored.live:
                    continue
            self.ledger.set(row)
        self._rebase()
        self._make_engines()
        self._say("factory-started", name=self.name, machines=len(self.ledger.live()))
        await self.ledger.flush()

    async def run(self) -> None:
        """Pass after pass, until `end`. What goes wrong in one is told, and the next begins."""
        while not self._ended:
            self._wake.clear()
            began = self.clocks.boot()
            try:
                if self._stirred or began - self._passed >= TICK_SECONDS:
                    self._passed = began
                    await self.one_pass()
                else:
                    self._go_beside()
            except Exception as error:
                self._failed("", error)
                await asyncio.sleep(1)
            self._pass_cost = self.clocks.boot() - began
            self._stirred = True
            try:
                async with asyncio.timeout(self._until_next()):
                    await self._wake.wait()
            except TimeoutError:
                self._stirred = self._due_now()
            await asyncio.sleep(min(0.2, 2 * self._pass_cost))  # most of the time is for the acts

    def end(self) -> None:
        """Let `run` return."""
        self._ended = True
        self._wake.set()

    async def aclose(self) -> None:
        """Stop observing and acting; machines go on, and the next start adopts them."""
        for task in self._side.values():
            task.cancel()
        await asyncio.gather(*self._side.values(), return_exceptions=True)
        await self._ready.aclose()
        await self._actors.aclose(LEAVE_SECONDS)
        await asyncio.gather(*(engine.aclose() for engine in self.engines.values()))
        self._say("factory-stopped", name=self.name, machines=len(self.ledger.live()))
        await self.ledger.flush()
        await self.store.aclose()

    def wake(self) -> None:
        """Begin a pass now."""
        self._wake.set()

    async def one_pass(self) -> None:
        """Join what was observed, look after what runs, decide, write down, act."""
        self.passes += 1
        self._clock_jumped()
        for engine in self.engines.values():
            engine.catch_up()
        self._take(self._join())
        self._tend()
        self._go_beside()
        await self._decide()
        await self.ledger.flush()

    def reconfigure(self, config: Config) -> None:
        """Go on with another configuration. A factory's name and its runtimes' options hold until the next start."""
        self.config = config
        self._due.pop("budget", None)
        self.ledger.warnings.resolved(Kind.CONFIGURATION)
        found = {name: "; ".join(p.text for p in problems) for name, problems in config.disabled.items()}
        self.ledger.warnings.hold(Kind.MACHINETYPE, found)
        self._make_engines()
        self._wake.set()

    # Observation

    def _make_engines(self) -> None:
        for name in engines.here(self.host.environment):
            if name in self.engines:
                continue
            try:
                runtime = self.host.load(name, self.config)
            except (ImportError, LookupError, ValueError) as error:
                if self._wanted(name) or any(t.runtime == name for t in self.config.machinetypes.values()):
                    self.ledger.warnings.raised(Kind.RUNTIME, name, str(error))
                continue
            made = Watched(runtime, self.clocks, self._wake.set, self._actors.names, partial(self._wanted, name))
            self.engines[name] = made
            made.start()

    def _wanted(self, runtime: str) -> bool:
        return any(row.runtime == runtime and not row.cleaned for row in self.ledger.rows.values())

    def _join(self) -> Joined:
        observations = [engine.observation for engine in self.engines.values() if engine.observation is not None]
        joined = join(
            self.ledger.rows,
            observations,
            owner=self.owner,
            boot_id=self.boot_id,
            acted=self._actors.acted,
            busy=self._actors.busy,
        )
        for one in observations:
            if one.machines is not None:
                self._others[one.runtime] = tuple(seen for seen in joined.others if seen.runtime == one.runtime)
        troubled = {name: why for name, why in joined.silent.items() if self._wanted(name) or self._configured(name)}
        self.ledger.warnings.hold(Kind.RUNTIME, troubled)
        return joined

    def _configured(self, name: str) -> bool:
        return any(type_.runtime == name for type_ in self.config.machinetypes.values())

    def others(self) -> list[Seen]:
        """The machines of this host that are not ours, as last seen."""
        return [seen for found in self._others.values() for seen in found]

    def _take(self, joined: Joined) -> None:
        for step in joined.steps:
            row = self.ledger.rows.get(step.id)
            if step.do is Do.ADOPT and step.seen is not None:
                self._do(step.id, partial(self._adopt, step))
            elif step.do is Do.CLEAN:
                if step.why:
                    self.ledger.warnings.raised(Kind.DOUBLED, f"{step.id} on {step.runtime}", step.why)
                self._do(step.id, partial(self.acts.clean, step.id, step.runtime))
            elif row is None:
                continue
            elif step.do is Do.NOTE and step.seen is not None:
                self.acts.note(step.seen)
            elif step.do is Do.RESUME:
                self._do(step.id, partial(self.acts.resume, row))
            elif step.do is Do.END:
                self.acts.condemn(row, Why.PAUSED, step.why, 0.0)
            elif step.do is Do.FINISH:
                self._finish(step, row)

    def _finish(self, step: Step, row: Row) -> None:
        if step.seen is None and not self._actors.rests(row.id):
            self.ledger.events.add("machine-gone", row.id, why=step.why)
        self._do(row.id, partial(self.acts.finish, row, step.seen, step.why))

    async def _adopt(self, step: Step) -> None:
        """A machine with our stamp and no row: from history, its own record, or what the engine shows."""
        seen = step.seen
        if seen is None:
            return
        row: Row | None = None
        with suppress(StoreFault):
            row = await self.ledger.find(seen.id)
        if row is None:
            directory = self.acts.directory(seen.id)
            try:
                record = await asyncio.to_thread(directory.load)
                row = adopt.from_record(record, directory, self.clocks, self.boot_id, self.config)
            except DirectoryError:
                row = adopt.from_seen(seen, self.clocks, self.boot_id, self.config)
        self.ledger.set(row)
        self._say("machine-adopted", seen.id, phase=row.phase)
        if row.live:
            self.acts.note(seen)
        await self.ledger.flush()

    # Supervision

    def _tend(self) -> None:
        """Go on with what is written down about each machine."""
        now, busy = self.clocks.boot(), self._actors.busy
        for row in self.ledger.live():
            engine = self.engines.get(row.runtime)
            if engine is None or not engine.complete or row.id in busy:
                continue
            if row.phase is Phase.RUNNING and self._notice_due(row, now):
                self.acts.condemn(row, Why.EARLIER, row.moved_because, row.deadline - now)
            elif row.phase is Phase.RUNNING and row.moved is not None and row.noticed != row.shutdown_time:
                self._do(row.id, partial(self.acts.notify, row))
            elif row.phase is Phase.STOPPING and row.shown:
                self._bring_to_end(row, now)

    def _notice_due(self, row: Row, now: float) -> bool:
        by_signal = row.conditions.notice == "sigterm"
        return row.moved is not None and by_signal and now >= row.deadline - row.conditions.grace

    def _bring_to_end(self, row: Row, now: float) -> None:
        left = (row.kill or 0.0) - now
        if row.told is None:
            self._do(row.id, partial(self.acts.tell, row))
        elif (left <= SHORT_GRACE or row.conditions.notice == "sigterm") and not self._just_stopped(row):
            self._do(row.id, partial(self.acts.stop, row))

    def _just_stopped(self, row: Row) -> bool:
        """Whether its engine has not been looked at since it was stopped: stopping it again would only put that off."""
        observation = self.engines[row.runtime].observation
        last = self.acts.stopped.get(row.id)
        return last is not None and (observation is None or observation.began <= last)

    async def _sweep(self) -> None:
        rows = [row for row in self.ledger.live() if watched(row) and self._seen_here(row)]
        found = await asyncio.to_thread(self._sweeper.sweep, rows, self.clocks.boot(), self.clocks.wall())
        for name, (why, detail) in found.items():
            row = self.ledger.rows.get(name)
            if row is None or (row.why is not None and why is not Why.QUOTA):
                continue
            if why is Why.TIMED_OUT and row.moved is not None:
                why, detail = Why.EARLIER, row.moved_because
            self.condemn(row, why, detail, 0.0 if why is Why.QUOTA else SHORT_GRACE)

    def condemn(self, row: Row, why: Why, detail: str, grace: float) -> None:
        """Write it down; a stop with a longer grace that is under way gives way."""
        condemned = self.acts.condemn(row, why, detail, grace)
        if condemned is not None and row.phase is Phase.STOPPING and row.id in self._actors.busy and row.told:
            self._do(row.id, partial(self.acts.stop, condemned), instead=True)
        self._wake.set()

    def _seen_here(self, row: Row) -> bool:
        engine = self.engines.get(row.runtime)
        return engine is not None and engine.complete > 0

    def _move_end(self, ending: Ending) -> None:
        row = self.ledger.rows.get(ending.id)
        deadline = self.clocks.boot() + (ending.by - self.clocks.wall())
        if row is None or not row.live or deadline >= row.deadline - 1.0:
            return
        self.ledger.set(
            replace(
                row,
                deadline=deadline,
                shutdown_time=min(row.shutdown_time, ending.by),
                moved=row.moved or self.clocks.boot(),
                moved_because=ending.because,
            )
        )
        self._say("end-moved", row.id, by=ending.by, because=ending.because)
        self._wake.set()

    # Decision

    async def _decide(self) -> None:
        if not self._all_answered():
            return
        unusable, chosen = self._usable()
        now, here = self.clocks.wall(), self.clocks
        machines = [facts.machine(row, here, self.boot_id, self.config.machinetypes) for row in self._recent()]
        machines += [booked for seen in self.others() if (booked := facts.other(seen)) is not None]
        self.decision = decide(
            now,
            facts.factory(
                self.name,
                self.config,
                total=self.total,
                machines=self.places.machines,
                draining=self.draining(),
                unusable=unusable,
                shutdown_time=self.shutdown_time(),
            ),
            machines,
            Space(),
            kinds(self.config),
            rules(self.config),
            seed=self.passes,
        )
        for ending in self.decision.endings:
            self._move_end(ending)
        await self._start_all(self.decision.starts, chosen)

    def _all_answered(self) -> bool:
        late = self.clocks.boot() - self._opened > FIRST_ANSWERS_SECONDS
        answered = all(engine.observation is not None for engine in self.engines.values())
        return self._counted and (late or answered)

    def free(self) -> int:
        """Processors that no machine holds."""
        others = (facts.other(seen) for seen in self.others())
        booked = sum(row.processors for row in self.ledger.live() if not row.idle)
        return self.total - booked - sum(one.processors for one in others if one is not None)

    def _recent(self) -> list[Row]:
        return [row for row in self.ledger.rows.values() if row.live or row.outcome is not None]

    def draining(self) -> str | None:
        """Why nothing is started; None if machines may be."""
        if not self.ledger.writable:
            return f"the database cannot be written: {self.ledger.fault}"
        if self.config.settings.draining:
            return "draining = true in [settings]"
        return next((str(drain.get("reason") or "drained by the operator") for drain in self._drains()), None)

    def _drains(self) -> list[dict[str, Any]]:
        """The drains of the whole factory that are in force; one for a host's shutdown ends with the boot."""
        drains = [self.ledger.intents.get(DRAIN), self.ledger.intents.get(HOST_SHUTDOWN)]
        if drains[1] is not None and drains[1].get("boot_id") != self.boot_id:
            drains[1] = None
        return [drain for drain in drains if drain is not None]

    def end_type(self, machinetype: str, by: float, because: str) -> None:
        """Move the ends of all machines of a type."""
        for row in self.ledger.live():
            if row.machinetype == machinetype:
                self._move_end(Ending(id=row.id, by=by, because=because))

    def shutdown_time(self) -> float | None:
        """The earlier one of the configuration and of a drain with a deadline."""
        times = [self.config.settings.shutdown_time, *(drain.get("by_time") for drain in self._drains())]
        return min((float(time) for time in times if time is not None), default=None)

    def _usable(self) -> tuple[dict[str, str], dict[str, tuple[str, Material]]]:
        """Why types cannot be started now; and for the others, on which runtime and of which image."""
        unusable: dict[str, str] = {}
        chosen: dict[str, tuple[str, Material]] = {}
        for name, type_ in self.config.machinetypes.items():
            if not type_.target_share:
                continue
            found = self.placed(type_)
            if isinstance(found, str):
                unusable[name] = found
            else:
                chosen[name] = found
        return unusable, chosen

    def placed(self, type_: MachineType) -> tuple[str, Material] | str:
        """The runtime and the image for a machine of this type, or why it cannot be started now."""
        if drain := self.ledger.intents.get(f"drain:{type_.name}"):
            return str(drain.get("reason") or "drained by the operator")
        backoff = self.ledger.backoffs.get(type_.name)
        if backoff and 0 < backoff["until"] - self.clocks.wall() <= backoff["seconds"]:
            return f"machines of it cannot be started: {backoff['reason']}"
        names = engines.fitting(type_)
        wanted = self._needed(type_)
        problems = {name: self._unfit(name, type_, wanted) for name in names}
        usable = [name for name in names if not problems[name]]
        if not usable:
            return f"no runtime for it is available: {'; '.join(f'{n}: {problems[n]}' for n in names)}"
        image = self._ready.image(type_, self.engines[usable[0]].runtime)
        return image if isinstance(image, str) else (usable[0], image)

    def _needed(self, type_: MachineType) -> Spec | None:
        """What a type asks of a runtime, found out once for each configuration."""
        kept = self._needs.get(type_.name)
        if kept is None or kept[0] is not type_:
            kept = self._needs[type_.name] = (type_, needed(type_))
        return kept[1]

    def _unfit(self, name: str, type_: MachineType, wanted: Spec | None) -> str:
        """Why a runtime cannot be asked for a machine of this type now; "" if it can."""
        engine = self.engines.get(name)
        if engine is None:
            return "is not installed"
        if not engine.usable or engine.probe is None:
            return engine.problem
        return "; ".join(offer(name, engine.probe, wanted, type_.isolation).lacking)

    async def _start_all(self, starts: tuple[Start, ...], chosen: Mapping[str, tuple[str, Material]]) -> None:
        """All that was decided in one transaction, then all at the same time."""
        made = [self.plan(start, *chosen[start.machinetype]) for start in starts if start.machinetype in chosen]
        if made:
            await self.begin(made)

    def plan(self, start: Start, runtime: str, material: Material, *, detached: bool = False) -> tuple[Plan, Row]:
        """A machine on paper, and its row."""
        type_ = self.config.machinetypes[start.machinetype]
        return self.planned(type_, start, runtime, material, detached=detached)

    def planned(
        self, type_: MachineType, start: Start, runtime: str, material: Material, *, detached: bool
    ) -> tuple[Plan, Row]:
        """The same of any type, also one that is not configured here."""
        wall, boot = self.clocks.wall(), self.clocks.boot()
        return plans.planned(
            type_,
            start,
            runtime,
            material,
            name=self.name,
            settings=self.config.settings,
            wall=wall,
            boot=boot,
            boot_id=self.boot_id,
            detached=detached,
        )

    async def begin(self, machines: list[tuple[Plan, Row]]) -> bool:
        """Write the machines down, then make them; False, and nothing is made, if they cannot be written."""
        for _, row in machines:
            self.ledger.set(row)
        if not await self.ledger.flush():
            for _, row in machines:
                self.ledger.drop(row.id)
            return False
        for plan, row in machines:
            self._do(row.id, partial(self.acts.start, plan, row.runtime))
        return True

    # Beside the loop

    def _go_beside(self) -> None:
        """What has its own rhythm, and wakes the loop only if it finds something."""
        self._beside("sweep", self._sweeper.rest, self._sweep)
        fixed = not isinstance(self.config.settings.total_processors, (str, tuple))
        self._beside("budget", TIDY_SECONDS if fixed else READ_SECONDS, self._count)
        self._beside("tidy", TIDY_SECONDS, self._tidy)
        self._beside("mend", TICK_SECONDS, self.ledger.mend)

    def _due_now(self) -> bool:
        """Whether the time of a machine, or of another try, has come."""
        now = self.clocks.boot()
        kills = any(row.kill is not None and row.kill - SHORT_GRACE <= now for row in self.ledger.live())
        notices = any(row.moved is not None and row.why is None for row in self.ledger.live())
        retry = self._actors.next_try()
        return kills or notices or (retry is not None and retry <= now)

    def _beside(self, name: str, rest: float, work: Callable[[], Any]) -> None:
        """Run `work` in the background, `rest` seconds after its last end, never twice at the same time."""
        if name in self._side or self.clocks.boot() < self._due.get(name, 0.0):
            return

        async def run() -> None:
            try:
                await work()
            except Exception as error:
                self._failed("", error)
            finally:
                self._due[name] = self.clocks.boot() + (self._sweeper.rest if name == "sweep" else rest)
                self._side.pop(name, None)

        self._side[name] = asyncio.create_task(run())

    async def _count(self) -> None:
        try:
            total = await total_processors(self.config.settings.total_processors)
            self.ledger.warnings.resolved(Kind.PROCESSORS)
        except BudgetError as error:
            self.ledger.warnings.raised(Kind.PROCESSORS, "", f"{error}; going on with {self.total}")
            total = self.total
        if total != self.total or not self._counted:
            self._counted = True
            self.total = total
            self._say("processors", total=total)
            self._wake.set()

    async def _tidy(self) -> None:
        await tidy(self.ledger, self.places.machines, self.owner, self.clocks, self.config)
        for row in [row for row in self.ledger.rows.values() if row.cleaned and not row.live]:
            if (row.ended or 0.0) < self.clocks.wall() - RECENT_SECONDS:
                self.ledger.forget(row.id)
                self._actors.forget(row.id)

    def _until_next(self) -> float:
        now = self.clocks.boot()
        times = [due for name, due in self._due.items() if name not in self._side]
        times += [row.deadline for row in self.ledger.live() if row.why is None]
        times += [row.kill - SHORT_GRACE for row in self.ledger.live() if row.kill is not None]
        if (retry := self._actors.next_try()) is not None:
            times.append(retry)
        ahead = [time - now for time in times if time > now]
        return min([TICK_SECONDS, *ahead])

    def _clock_jumped(self) -> None:
        skew = self.clocks.wall() - self.clocks.boot()
        if abs(skew - self._skew) > JUMP_SECONDS:
            text = f"the wall clock was set by {skew - self._skew:+.0f} s; lifetimes follow the boot's clock"
            self.ledger.warnings.raised(Kind.CLOCK, "", text)
            self._say("clock-jumped", seconds=skew - self._skew)
        self._skew = skew

    def _rebase(self) -> None:
        """Rows of an earlier boot get times of this one, so that each clock is compared with itself."""
        for row in self.ledger.live():
            if row.boot_id != self.boot_id:
                left = row.shutdown_time - self.clocks.wall()
                kill = None if row.kill is None else self.clocks.boot()
                self.ledger.set(replace(row, deadline=self.clocks.boot() + left, kill=kill, created_boot=0.0))

    def _do(self, name: str, act: Callable[[], Any], *, instead: bool = False) -> None:
        self._actors.do(name, act, instead=instead)

    def _failed(self, name: str, error: Exception) -> None:
        """An act that failed is tried again; what it said is kept where an administrator looks."""
        self._say("failed", name, problem=sentence(error))
        row = self.ledger.rows.get(name)
        if row is not None and row.phase in (Phase.STOPPING, Phase.FINISHED):
            self.ledger.warnings.raised(Kind.WILL_NOT_DIE, name, sentence(error))

    def _say(self, kind: str, machine: str = "", **data: Any) -> None:
        self.ledger.events.add(kind, machine, **data)
