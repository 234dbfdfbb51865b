"""Engines that hang, answer in part or say nothing; clocks that jump; few descriptors; many lives."""

import asyncio
import gc
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from factory_ground import Site, config, machinetype, rows, running, until

from lmd.factory.rows import Phase
from runtimes.contract import EndReason
from runtimes.fake import Faults

WORK = machinetype("work")


@pytest.mark.parametrize(
    "faults",
    [
        Faults(hang=frozenset({"machines", "usage"})),
        Faults(partial=True),
        Faults(unavailable=frozenset({"machines"})),
        Faults(lose_reply=frozenset({"machines"})),
    ],
    ids=["hung", "partial", "unreachable", "answers lost"],
)
async def test_an_engine_that_cannot_tell_changes_nothing(
    site: Site, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmd.factory.watched.LIST_SECONDS", 0.3)
    async with site.running(config(WORK, total=3)) as factory:
        before = await running(factory, 3)
        site.engine.faults = faults
        factory.engines["fake"].look()
        await until(lambda: factory.engines["fake"].observation.machines is None)  # no listing is under way any more
        site.engine.cut(min(before), EndReason.KILLED, 137)
        factory.engines["fake"].look()
        for _ in range(5):
            factory.wake()
            await asyncio.sleep(0.05)
        assert set(factory.ledger.rows) == set(before)
        assert all(row.phase is Phase.RUNNING for row in factory.ledger.rows.values())
        assert len([call for call in site.engine.calls() if call[0] == "create.insert"]) == 3
        site.engine.faults = Faults()
        factory.engines["fake"].look()
        await until(lambda: not factory.ledger.rows[min(before)].live)
        await running(factory, 3)


@pytest.mark.parametrize("exchange", ["create.insert", "create.start", "create.show", "destroy.remove", "stop.ask"])
async def test_a_lost_answer_costs_no_machine(site: Site, exchange: str) -> None:
    site.engine.faults = Faults(lose_reply=frozenset({exchange}))
    async with site.running(config(machinetype("work", "sleep", "0.5", "exit", "0"), total=2)) as factory:
        await until(lambda: [call for call in site.engine.calls() if call[0] == exchange or exchange == "stop.ask"])
        await asyncio.sleep(0.5)
        site.engine.faults = Faults()
        await until(lambda: len([row for row in rows(factory, Phase.FINISHED) if row.cleaned]) >= 2)
        factory.ledger.intend("drain", {"reason": "enough"})
        await until(lambda: not factory.ledger.live())
        await until(lambda: all(row.cleaned for row in rows(factory)))
        made = {name for call, name in site.engine.calls() if call == "create.insert"}
        assert made <= set(factory.ledger.rows)
        assert not site.engine.listing().records


async def test_an_event_stream_that_ends_silently_is_no_news(site: Site) -> None:
    site.engine.faults = Faults(end_events=True)
    async with site.running(config(WORK, total=1)) as factory:
        name = next(iter(await running(factory, 1)))
        site.engine.cut(name, EndReason.KILLED, 137)
        await until(lambda: not factory.ledger.rows[name].live)


async def test_an_event_leads_to_a_decision_at_once(site: Site) -> None:
    """Figures come from the benchmark; here: long before the next listing would be due."""
    async with site.running(config(WORK, total=2)) as factory:
        name = min(await running(factory, 2))
        await asyncio.sleep(0.2)
        site.engine.cut(name, EndReason.KILLED, 137)
        began = time.monotonic()
        await until(lambda: len(factory.ledger.rows) == 3)
        assert time.monotonic() - began < 5 < factory.engines["fake"]._rest


async def test_a_call_that_comes_as_the_time_runs_out_is_heard(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the end of a rest and the next pass, too; it would else be noticed at the next tick only."""
    monkeypatch.setattr("lmd.factory.factory.TICK_SECONDS", 1000.0)
    async with site.running(config(WORK, total=1)) as factory:
        await running(factory, 1)

        def call_late() -> bool:
            factory.wake()
            return False

        monkeypatch.setattr(factory, "_due_now", call_late)
        monkeypatch.setattr(factory, "_until_next", lambda: 0.01)
        factory.wake()
        before = factory.passes
        await until(lambda: factory.passes > before + 10)  # one that is not heard is followed by none for 10 s


@pytest.mark.parametrize("years", [10, -10, 1 / 8766, -1 / 8766], ids=["+10 years", "-10 years", "+1 h", "-1 h"])
async def test_a_clock_that_jumps_ends_no_machine_and_lets_none_live_longer(site: Site, years: float) -> None:
    type_ = machinetype("work", heartbeat_file="beat", heartbeat_seconds=1800, fizzle_seconds=600)
    short = machinetype("short", max_wallclock_seconds=3)
    async with site.running(config(type_, short, total=2)) as factory:
        before = await running(factory, 2)
        work = next(row.id for row in before.values() if row.machinetype == "work")
        other = next(row.id for row in before.values() if row.machinetype == "short")
        site.clocks.shift = years * 365.25 * 86_400
        factory.wake()
        await until(lambda: "clock-jumped" in site.kinds())
        await until(lambda: not factory.ledger.rows[other].live)  # when its three seconds are over, as they were
        assert factory.ledger.rows[other].why[0] == "timed out"
        assert factory.ledger.rows[work].phase is Phase.RUNNING
        await running(factory, 2)  # and another is started
    async with site.running(config(type_, short, total=2)) as factory:
        await until(lambda: factory.engines["fake"].complete)
        await asyncio.sleep(0.2)
        assert factory.ledger.rows[work].phase is Phase.RUNNING
        assert work in site.alive()


FEW_DESCRIPTORS = """
import asyncio, resource, sys
from pathlib import Path
from factory_ground import Site, config, machinetype, rows, until
from lmd.factory.rows import Phase

async def live(site):
    async with site.running(config(machinetype("work", "sleep", "0.2", "exit", "0"), total=60)) as factory:
        await until(lambda: len(rows(factory, Phase.FINISHED)) > 60, seconds=50)
        return [event for event in site.events if event.kind == "failed"]

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
print(asyncio.run(live(Site(Path(sys.argv[1])))))
"""


def test_few_descriptors_are_enough(tmp_path: Path) -> None:
    """In a process of its own: what this one has open besides is nobody's to know."""
    places = [str(Path(__file__).parent), str(Path(__file__).parents[3])]
    command = [sys.executable, "-c", FEW_DESCRIPTORS, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


LIVES = int(os.environ.get("LMD_LIVES", "150"))


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_many_lives_leave_nothing_open(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors and tasks as before; memory is looked at where there are enough lives to see it grow (make soak)."""
    monkeypatch.setattr("lmd.factory.factory.RECENT_SECONDS", 0.0)
    monkeypatch.setattr("lmd.factory.factory.TIDY_SECONDS", 0.5)
    monkeypatch.setattr("lmd.factory.events.KEPT", 100)
    type_ = machinetype("work", "sleep", "0.05", "exit", "0", machines_dir_days=0.0)
    async with site.running(config(type_, total=10)) as factory:

        async def lives(count: int) -> SimpleNamespace:
            until_then = len(ended()) + count
            await until(lambda: len(ended()) >= until_then, seconds=500)
            factory.ledger.intend("drain", {"reason": "to look"})
            await until(lambda: not factory.ledger.live() and not factory._actors.busy)
            site.events[:] = [event for event in site.events if event.kind == "machine-finished"]
            await until(lambda: len(factory.ledger.rows) < 20, seconds=30)
            gc.collect()
            found = SimpleNamespace(
                descriptors=len(list(Path("/proc/self/fd").iterdir())),
                tasks=len(asyncio.all_tasks()),
                memory=int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize(),
            )
            factory.ledger.intend("drain", None)
            return found

        def ended() -> list[object]:
            return [event for event in site.events if event.kind == "machine-finished"]

        before = await lives(50)
        after = await lives(LIVES)
        assert abs(after.descriptors - before.descriptors) <= 2
        assert abs(after.tasks - before.tasks) <= 2
        if LIVES >= 1000:
            assert after.memory - before.memory < 5_000_000
        print(f"growth over {LIVES} lives: {(after.memory - before.memory) / 1e6:.1f} MB")


async def test_one_runtime_that_hangs_holds_up_no_other(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtimes.fake import Fake

    class Second(Fake):
        name = "docker"

    other = Site(site.places.state.parent / "other")
    monkeypatch.setattr("lmd.engines.here", lambda environment: ("fake", "docker"))
    original = site.host

    def load(name: str, configured: object) -> object:
        return Second(other.settings) if name == "docker" else original.load(name, configured)

    site.load = load
    other.engine.faults = Faults(hang=frozenset({"probe", "machines", "usage", "watch"}))
    async with site.running(config(WORK, machinetype("there", runtime="docker"), total=2)) as factory:
        await running(factory, 2)
        assert {row.runtime for row in rows(factory)} == {"fake"}
        await until(lambda: {refusal.machinetype for refusal in factory.decision.refusals} == {"work", "there"})
        why = next(refusal for refusal in factory.decision.refusals if refusal.machinetype == "there")
        assert "no runtime for it is available" in why.sentence
