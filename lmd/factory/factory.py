"""One factory: observe, join, decide, write down, act. Level-triggered: each pass starts from what is.

The rules are elsewhere (`join`, `vacuum.decide`, `machine.rules`), and so are the parts that act; this is the loop.
"""

import asyncio
import os
from contextlib import suppress
from dataclasses import replace

from lmd.config.models import Config
from lmd.environment.identity import boot_id
from lmd.environment.outcome import Why
from lmd.factory import adopt, drains
from lmd.factory.actors import Actors, sentence
from lmd.factory.acts import Acts
from lmd.factory.budget import READ_SECONDS, BudgetError, total_processors, unbindable
from lmd.factory.chores import Chore, Chores
from lmd.factory.filling import Filling
from lmd.factory.host import Host, Premises
from lmd.factory.ledger import Ledger
from lmd.factory.observing import Observing
from lmd.factory.placing import Placing
from lmd.factory.ready import Ready
from lmd.factory.rows import Phase, Row
from lmd.factory.store import Store, StoreFault
from lmd.factory.tending import Tending
from lmd.factory.tidy import tidy
from lmd.factory.upkeep import Upkeep
from lmd.factory.warnings import Kind
from lmd.repositories.keeping import Keeping
from lmd.vacuum.decision import Decision
from runtimes.contract import Seen

TICK_SECONDS = 5.0
FIRST_ANSWERS_SECONDS = 5.0
"""How long the first decision waits for runtimes to answer: what is already there has to be booked."""
TIDY_SECONDS = 600.0
JUMP_SECONDS = 60.0
RECENT_SECONDS = 86_400.0
LEAVE_SECONDS = 5.0
"""How long acts may take to end when the daemon does."""


class Factory:
    """The daemon's heart. `open` before `run`; `end` lets `run` return, machines go on."""

    def __init__(self, host: Host, config: Config) -> None:
        self.host, self.clocks, self.places = host, host.clocks, host.places
        self.name = config.settings.factory_name or os.uname().nodename.lower()
        self.boot_id = boot_id()
        self.store = Store(self.places.state / "factory.sqlite", self.places.run)
        self.ledger = Ledger(self.store, self.clocks, host.log)
        self.decision = Decision()
        self.passes = 0
        self._wake = asyncio.Event()
        self._actors = Actors(self.clocks, self._wake.set, self._failed)
        self._chores = Chores(self.clocks, self._chore_ended)
        self._here = here = Premises(
            host=host,
            config=config,
            name=self.name,
            owner=f"factory:{self.name}",
            boot_id=self.boot_id,
            ledger=self.ledger,
            engines={},
            actors=self._actors,
            wake=self._wake.set,
        )
        self.engines = here.engines
        self.acts = Acts(self.ledger, here.engines, self.places, self.clocks, lambda: here.config)
        self._ready = Ready(
            lambda: here.config, self.places, self.clocks, here.wake, lambda text: here.say("image", text=text)
        )
        repositories = Keeping(self.places)
        self._upkeep = Upkeep(here, self._ready, self._chores, repositories)
        self.placing = Placing(here, self._ready, repositories)
        self.observing = Observing(here)
        self.tending = Tending(here, self.acts)
        self.filling = Filling(here, self.observing, self.placing, self.acts)
        self._ended = self._counted = False
        self._opened = self._skew = self._pass_cost = 0.0
        self._passed = float("-inf")
        self._stirred = True

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._here.config

    @property
    def owner(self) -> str:
        """What is stamped on its machines."""
        return self._here.owner

    @property
    def total(self) -> int:
        """Processors that machines may use."""
        return self._here.total

    async def open(self) -> None:
        """Read what is known, begin to observe. Never fails for what the database holds, or for an engine."""
        self.ledger.load(await self.store.open())
        self._opened, self._skew = self.clocks.boot(), self.clocks.wall() - self.clocks.boot()
        here = self._here
        for row in await asyncio.to_thread(
            adopt.left_behind,
            self.places.machines,
            set(self.ledger.rows),
            here.owner,
            self.clocks,
            here.boot_id,
            here.config,
        ):
            with suppress(StoreFault):
                if (stored := await self.ledger.find(row.id)) is not None and not stored.live:
                    continue
            self.ledger.set(row)
        self._rebase()
        self.observing.begin()
        here.say("factory-started", name=self.name, machines=len(self.ledger.live()))
        await self.ledger.flush()

    async def run(self) -> None:
        """Pass after pass, until `end`. What goes wrong in one is told, and the next begins."""
        while not self._ended:
            stirred = self._stirred or self._wake.is_set()  # also by what came after the time was up
            self._wake.clear()
            began = self.clocks.boot()
            try:
                if stirred or began - self._passed >= TICK_SECONDS:
                    self._passed = began
                    await self.one_pass()
                else:
                    self._do_chores()
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
            await asyncio.sleep(min(0.2, 4 * self._pass_cost))  # most of the time is for the acts

    def end(self) -> None:
        """Let `run` return."""
        self._ended = True
        self._wake.set()

    async def aclose(self) -> None:
        """Stop observing and acting; machines go on, and the next start adopts them."""
        await self._chores.aclose()
        await self._ready.aclose()
        await self._actors.aclose(LEAVE_SECONDS)
        await asyncio.gather(*(engine.aclose() for engine in self.engines.values()))
        self._here.say("factory-stopped", name=self.name, machines=len(self.ledger.live()))
        await self.ledger.mend()
        await self.ledger.flush()
        await self.store.aclose()

    def wake(self) -> None:
        """Begin a pass now."""
        self._wake.set()

    async def one_pass(self) -> None:
        """Join what was observed, look after what runs, decide, write down, act."""
        self.passes += 1
        self._clock_jumped()
        self.observing.catch_up()
        self.tending.take(self.observing.joined())
        self.tending.tend()
        self._do_chores()
        if self._can_decide():
            self.decision, chosen = self.filling.decide(self.passes)
            for ending in self.decision.endings:
                self.tending.move_end(ending)
            await self.filling.start(self.decision.starts, chosen)
        await self.ledger.flush()

    def reconfigure(self, config: Config) -> None:
        """Go on with another configuration. A factory's name and its runtimes' options hold until the next start."""
        self._here.config = config
        self._chores.soon("budget")
        self.ledger.warnings.resolved(Kind.CONFIGURATION)
        found = {name: "; ".join(p.text for p in problems) for name, problems in config.disabled.items()}
        self.ledger.warnings.hold(Kind.MACHINETYPE, found)
        self.observing.begin()
        self._wake.set()

    def condemn(self, row: Row, why: Why, detail: str, grace: float) -> None:
        """Write down that a machine has to end, by force after `grace` seconds."""
        self.tending.condemn(row, why, detail, grace)

    def others(self) -> list[Seen]:
        """The machines of this host that are not ours, as last seen."""
        return self.observing.others()

    def draining(self) -> str | None:
        """Why nothing is started; None if machines may be."""
        return drains.draining(self._here)

    def shutdown_time(self) -> float | None:
        """By when all has to have ended, in Unix seconds; None: no end in sight."""
        return drains.shutdown_time(self._here)

    def _can_decide(self) -> bool:
        late = self.clocks.boot() - self._opened > FIRST_ANSWERS_SECONDS
        return self._counted and (late or self.observing.all_answered())

    def _do_chores(self) -> None:
        fixed = not isinstance(self.config.settings.total_processors, (str, tuple))
        budget_rest = TIDY_SECONDS if fixed else READ_SECONDS
        sweep = Chore(name="sweep", work=self.tending.sweep, rest=lambda: self.tending.sweep_rest, within=300)
        budget = Chore(name="budget", work=self._count, rest=budget_rest, within=60)
        tidying = Chore(name="tidy", work=self._tidy, rest=TIDY_SECONDS, within=3600)
        mend = Chore(name="mend", work=self.ledger.mend, rest=TICK_SECONDS, within=300)
        self._chores.go([sweep, budget, tidying, mend, *self._upkeep.chores()])

    def _chore_ended(self, name: str, error: Exception | None) -> None:
        if error is None:
            self.ledger.warnings.resolved(Kind.CHORE, name)
        else:
            self._here.say("failed", problem=f"{name}: {sentence(error)}")
            self.ledger.warnings.raised(Kind.CHORE, name, sentence(error))

    async def _count(self) -> None:
        here = self._here
        try:
            total = await total_processors(here.config.settings.total_processors)
            self.ledger.warnings.resolved(Kind.PROCESSORS)
        except BudgetError as error:
            self.ledger.warnings.raised(Kind.PROCESSORS, "", f"{error}; going on with {here.total}")
            total = here.total
        here.ledger.warnings.hold(Kind.PINNING, unbindable(total, here.config.machinetypes.values()))
        if total != here.total or not self._counted:
            self._counted = True
            here.total = total
            here.say("processors", total=total)
            self._wake.set()

    async def _tidy(self) -> None:
        await tidy(self.ledger, self.places.machines, self.owner, self.clocks, self.config)
        for row in [row for row in self.ledger.rows.values() if row.cleaned and not row.live]:
            if (row.ended or 0.0) < self.clocks.wall() - RECENT_SECONDS:
                self.ledger.forget(row.id)
                self._actors.forget(row.id)

    def _due_now(self) -> bool:
        """Whether the time of a machine, or of another try, has come."""
        now, retry = self.clocks.boot(), self._actors.next_try()
        return self.tending.due(now) or (retry is not None and retry <= now)

    def _until_next(self) -> float:
        now, retry = self.clocks.boot(), self._actors.next_try()
        times = self._chores.times() + self.tending.times() + ([] if retry is None else [retry])
        return min([TICK_SECONDS, *(time - now for time in times if time > now)])

    def _clock_jumped(self) -> None:
        skew = self.clocks.wall() - self.clocks.boot()
        if abs(skew - self._skew) > JUMP_SECONDS:
            text = f"the wall clock was set by {skew - self._skew:+.0f} s; lifetimes follow the boot's clock"
            self.ledger.warnings.raised(Kind.CLOCK, "", text)
            self._here.say("clock-jumped", seconds=skew - self._skew)
        self._skew = skew

    def _rebase(self) -> None:
        """Rows of an earlier boot get times of this one, so that each clock is compared with itself."""
        for row in self.ledger.live():
            if row.boot_id != self.boot_id:
                left = row.shutdown_time - self.clocks.wall()
                kill = None if row.kill is None else self.clocks.boot()
                self.ledger.set(replace(row, deadline=self.clocks.boot() + left, kill=kill, created_boot=0.0))

    def _failed(self, name: str, error: Exception) -> None:
        """An act that failed is tried again; what it said is kept where an administrator looks."""
        self._here.say("failed", name, problem=sentence(error))
        row = self.ledger.rows.get(name)
        if row is not None and row.phase in (Phase.STOPPING, Phase.FINISHED):
            self.ledger.warnings.raised(Kind.WILL_NOT_DIE, name, sentence(error))
