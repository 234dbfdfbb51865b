"""Join and decision together, in any order of whatever can happen: a machine keeps its one life."""

from dataclasses import replace

from factory_ground import SetClocks, config, machinetype
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lmd.factory import facts
from lmd.factory.join import Do, Joined, Observation, join
from lmd.factory.rows import Phase, Row
from lmd.machine.conditions import Conditions
from lmd.vacuum.configured import kinds, rules
from lmd.vacuum.decide import decide
from lmd.vacuum.facts import Factory
from lmd.vacuum.space import Space
from runtimes.contract import End, EndReason, Seen, State

TOTAL = 8
OWNER, BOOT = "factory:wn1", "boot-1"
RUNTIMES = ("one", "two")
TYPES = config(
    machinetype("small"), machinetype("large", min_processors=3, max_processors=3), total=TOTAL, share_unit="processors"
)


class Lives(RuleBasedStateMachine):
    """A factory on paper: engines that come and go, a daemon that dies, acts whose answers are lost."""

    @initialize()
    def begin(self) -> None:
        self.now = 1000.0
        self.rows: dict[str, Row] = {}
        self.acted: dict[str, float] = {}
        self.engines: dict[str, dict[str, Seen]] = {name: {} for name in RUNTIMES}
        self.up = dict.fromkeys(RUNTIMES, True)
        self.seen: dict[str, Observation] = {}
        self.made: list[str] = []
        self.ended: set[str] = set()

    def clocks(self) -> SetClocks:
        clocks = SetClocks()
        clocks.wall = clocks.boot = lambda: self.now  # type: ignore[method-assign]
        return clocks

    @rule(name=st.sampled_from(RUNTIMES))
    def engine_goes_or_comes(self, name: str) -> None:
        self.up[name] = not self.up[name]

    @rule(name=st.sampled_from(RUNTIMES))
    def observe(self, name: str) -> None:
        self.now += 1
        shown = dict(self.engines[name]) if self.up[name] else None
        self.seen[name] = Observation(runtime=name, began=self.now, machines=shown, problem="" if shown else "down")
        self.now += 1

    @rule(delay=st.integers(0, 3), lost=st.booleans(), runtime=st.sampled_from(RUNTIMES))
    def decide_and_act(self, delay: int, lost: bool, runtime: str) -> None:
        """One pass. With `lost` the daemon dies when the engines have made the machines, before it knows."""
        self.now += delay
        self.take(self.joined())
        if not self.up[runtime] or runtime not in self.seen or self.seen[runtime].machines is None:
            return
        machines = [facts.machine(row, self.clocks(), BOOT, TYPES.machinetypes) for row in self.rows.values()]
        machines += [booked for seen in self.joined().others if (booked := facts.other(seen)) is not None]
        here = Factory(name="wn1", total_processors=TOTAL)
        for start in decide(self.now, here, machines, Space(), kinds(TYPES), rules(TYPES)).starts:
            name = f"m-{len(self.made)}"
            self.made.append(name)
            self.rows[name] = self.row(name, runtime, start.machinetype, start.processors)
            self.create(name, runtime, answered=not lost)

    def create(self, name: str, runtime: str, *, answered: bool) -> None:
        row = self.rows[name]
        self.engines[runtime][name] = Seen(
            id=name,
            runtime=runtime,
            owner=OWNER,
            space="s",
            machinetype=row.machinetype,
            digest="d",
            state=State.RUNNING,
            created=self.now,
            started=self.now,
            processors=row.processors,
        )
        self.now += 0.5
        self.acted[name] = self.now
        if answered:
            self.rows[name] = replace(row, phase=Phase.RUNNING, shown=True, state=State.RUNNING)
        else:
            self.rows[name] = replace(row, phase=Phase.STARTING)

    def row(self, name: str, runtime: str, type_: str, processors: int) -> Row:
        return Row(
            id=name,
            job_id="j",
            runtime=runtime,
            owner=OWNER,
            space="s",
            machinetype=type_,
            processors=processors,
            memory_bytes=0,
            conditions=Conditions(),
            boot_id=BOOT,
            created=self.now,
            created_boot=self.now,
            shutdown_time=self.now + 1e6,
            deadline=self.now + 1e6,
        )

    @rule(forget=st.booleans())
    def daemon_dies(self, forget: bool) -> None:
        """Its memory goes; with `forget` its database too, and the directories have the rows."""
        self.acted, self.seen = {}, {}
        if forget:
            self.rows = {
                name: replace(row, phase=Phase.STARTING, shown=False, state=None)
                for name, row in self.rows.items()
                if row.live
            }

    @rule(data=st.data(), runtime=st.sampled_from(RUNTIMES))
    def machine_ends(self, data: st.DataObject, runtime: str) -> None:
        running = [name for name, seen in self.engines[runtime].items() if seen.state is State.RUNNING]
        if running:
            name = data.draw(st.sampled_from(sorted(running)))
            end = End(reason=EndReason.CLEAN, exit_code=0, at=self.now)
            self.engines[runtime][name] = replace(self.engines[runtime][name], state=State.EXITED, end=end)

    @rule(runtime=st.sampled_from(RUNTIMES))
    def somebody_runs_one(self, runtime: str) -> None:
        name = f"run-{runtime}-{len(self.engines[runtime])}-{self.now:.0f}"
        self.engines[runtime][name] = Seen(
            id=name,
            runtime=runtime,
            owner="run:1000",
            space="s",
            machinetype="t",
            digest="d",
            state=State.EXITED,
            created=self.now,
            processors=2,
        )

    def joined(self) -> Joined:
        return join(self.rows, list(self.seen.values()), owner=OWNER, boot_id=BOOT, acted=self.acted)

    def take(self, joined: Joined) -> None:
        for step in joined.steps:
            observation = self.seen[step.runtime]
            assert observation.machines is not None, "a runtime that cannot tell has changed something"
            row, there = self.rows.get(step.id), self.engines[step.runtime].get(step.id)
            running = there is not None and there.state is State.RUNNING
            if step.do is Do.FINISH:
                assert not running, "a running machine was taken for ended"
                assert row is not None and row.live
                self.rows[step.id] = replace(row, phase=Phase.FINISHED, ended=self.now, outcome={"code": 200})
                self.ended.add(step.id)
            elif step.do is Do.CLEAN:
                assert not running, "a running machine would be destroyed"
                if not self.up[step.runtime]:
                    continue
                self.engines[step.runtime].pop(step.id, None)
                self.acted[step.id] = self.now
                if row is not None:
                    self.rows[step.id] = replace(row, cleaned=True)
            elif step.do is Do.NOTE and row is not None and step.seen is not None:
                phase = Phase.RUNNING if row.phase in (Phase.PREPARING, Phase.STARTING) else row.phase
                self.rows[step.id] = replace(row, phase=phase, shown=True, state=step.seen.state)
            elif step.do is Do.ADOPT and step.seen is not None:
                done = step.id in self.ended
                adopted = self.row(step.id, step.runtime, step.seen.machinetype, round(step.seen.processors or 1))
                phase = Phase.FINISHED if done else Phase.RUNNING
                self.rows[step.id] = replace(adopted, phase=phase, shown=True, created_boot=0.0)

    @invariant()
    def no_machine_has_two_lives(self) -> None:
        names = [name for shown in getattr(self, "engines", {}).values() for name in shown]
        assert len(names) == len(set(names))
        assert len(getattr(self, "made", [])) == len(set(getattr(self, "made", [])))

    @invariant()
    def never_more_than_the_budget(self) -> None:
        running = [
            seen
            for shown in getattr(self, "engines", {}).values()
            for seen in shown.values()
            if seen.state is State.RUNNING and seen.owner == OWNER
        ]
        assert sum(round(seen.processors or 1) for seen in running) <= TOTAL

    @invariant()
    def what_runs_is_known(self) -> None:
        """Each running machine has a row that is alive."""
        for shown in getattr(self, "engines", {}).values():
            for name, seen in shown.items():
                if seen.owner == OWNER and seen.state is State.RUNNING:
                    assert self.rows[name].live


TestLives = Lives.TestCase
TestLives.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_an_engine_that_cannot_tell_changes_nothing() -> None:
    joined = join({}, [Observation(runtime="one", began=5.0, problem="down")], owner=OWNER, boot_id=BOOT, acted={})
    assert joined.steps == ()
    assert joined.silent == {"one": "down"}
