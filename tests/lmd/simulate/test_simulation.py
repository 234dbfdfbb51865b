from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmd.simulate.figures import figures
from lmd.simulate.payload import Payloads
from lmd.simulate.scenario import Behaviour, Group, Job, Phase, Scenario
from lmd.simulate.world import World
from lmd.vacuum.facts import Rules, TypeRules

ONE = TypeRules(name="one", target_share=3.0, backoff_seconds=600, min_wallclock_seconds=3600)
TWO = replace(ONE, name="two", target_share=1.0)
EIGHT = replace(ONE, name="eight", min_processors=8, max_processors=8, target_share=2.0)
FILLER = replace(ONE, name="filler", interruptible=True, target_share=0.5)
IDLE = replace(ONE, name="idle", idle=True)
RULES = Rules(processors_per_superslot=8, accounting_window_seconds=86400)


def world(kinds: Sequence[TypeRules], scenario: Scenario, jobs: dict[str, list[Job]] | None = None) -> World:
    return World(list(kinds), RULES, scenario, jobs or {})


behaviours = st.builds(
    Behaviour,
    job_hours=st.none() | st.tuples(st.floats(0.1, 2), st.floats(2, 30)),
    jobs=st.integers(0, 3),
    fails=st.sampled_from([0.0, 0.1, 1.0]),
    deaf=st.booleans(),
    phases=st.lists(
        st.builds(
            Phase,
            hours=st.tuples(st.floats(0, 20), st.floats(20, 50)),
            every=st.sampled_from([0, 12, 24]),
            meets=st.sampled_from(["no-work", "failure", "silence"]),
        ),
        max_size=2,
    ).map(tuple),
)


@settings(max_examples=12, deadline=None)
@given(st.dictionaries(st.sampled_from(["one", "two", "eight", "filler", "idle"]), behaviours), st.integers(1, 3))
def test_in_any_scenario_no_budget_is_exceeded_and_all_time_is_accounted_for(
    types: dict[str, Behaviour], count: int
) -> None:
    scenario = Scenario(days=1.5, factories=(Group(count=count, processors=16, up=((0, 10), (12, 40))),), types=types)
    kinds = [ONE, TWO, EIGHT, FILLER, IDLE]
    tally = world(kinds, scenario).run()
    assert tally.worst == 0
    held = sum(amount for day in tally.work.values() for name, amount in day.items() if name != "idle")
    offered = sum(tally.offered.values())
    assert held + sum(tally.free.values()) == pytest.approx(offered, rel=1e-6)
    spent = sum(sum(amounts.values()) for amounts in (tally.useful, tally.fizzled, tally.lost, tally.booting))
    assert spent == pytest.approx(sum(sum(day.values()) for day in tally.work.values()), rel=1e-6)


@settings(max_examples=5, deadline=None)
@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, 5.0]), min_size=2, max_size=4), st.integers(0, 1000))
def test_shares_are_met(shares: list[float], seed: int) -> None:
    kinds = [replace(ONE, name=f"t{number}", target_share=share) for number, share in enumerate(shares)]
    scenario = Scenario(
        days=4,
        seed=seed,
        factories=(Group(count=3, processors=16),),
        types={kind.name: Behaviour(job_hours=(1, 4), jobs=2) for kind in kinds},
    )
    made = figures("x", {kind.name: kind for kind in kinds}, RULES, 4, world(kinds, scenario).run())
    for one in made.types:
        assert one.share == pytest.approx(one.target, abs=0.03)


def test_what_a_type_has_missed_it_gets_back_within_the_window() -> None:
    dry = Behaviour(job_hours=(1, 3), jobs=1, phases=(Phase(hours=(0, 24), meets="no-work"),))
    scenario = Scenario(
        days=3,
        factories=(Group(count=4, processors=16),),
        types={"one": dry, "two": Behaviour(job_hours=(1, 3), jobs=1)},
    )
    equal = replace(ONE, target_share=1.0)
    made = figures("x", {"one": equal, "two": TWO}, RULES, 3, world([equal, TWO], scenario).run())
    assert made.shares[0]["one"] < 0.02
    assert 0.55 < made.shares[1]["one"] < 0.8


def test_the_same_seed_gives_the_same_space() -> None:
    scenario = Scenario(days=2, factories=(Group(count=3, processors=16),), types={"one": Behaviour(job_hours=(1, 5))})
    tallies = [world([ONE, TWO, EIGHT, FILLER], scenario).run() for _ in range(2)]
    assert tallies[0] == tallies[1]


def test_jobs_of_an_arrivals_list_are_each_done_once() -> None:
    jobs = {"one": [Job(600.0 * number, 1800.0) for number in range(100)]}
    tally = world([ONE], Scenario(days=2, factories=(Group(processors=16),)), jobs).run()
    assert tally.useful["one"] == pytest.approx(100 * 1800.0)


def test_a_deaf_machine_loses_its_last_job_and_one_that_listens_none() -> None:
    for deaf in (True, False):
        payloads = Payloads({"one": Behaviour(job_hours=(1, 1), deaf=deaf)}, {}, seed=1)
        course = payloads.course("one", 0.0, 0.0, 86400.0)
        told = payloads.told("one", course, 5000.0, 5000.0 + 1800.0)
        assert told.seconds <= 6800.0
        assert told.killed is deaf
        assert told.worked == (3600.0 if deaf else told.seconds - 30.0)


def test_idle_machines_use_what_the_others_leave_and_no_more() -> None:
    scenario = Scenario(
        days=1, factories=(Group(processors=16),), types={"one": Behaviour(efficiency=0.75), "idle": Behaviour()}
    )
    made = figures("x", {"one": ONE, "idle": IDLE}, RULES, 1, world([ONE, IDLE], scenario).run())
    assert made.harvested == pytest.approx(0.25, abs=0.01)
    assert made.use == pytest.approx(1.0, abs=0.01)
