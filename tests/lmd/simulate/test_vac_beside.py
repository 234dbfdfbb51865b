"""Vac's rule beside ours on the same scenarios; `docs/decision.md` has the figures."""

from dataclasses import replace

import pytest
from vac_rule import CYCLE, vac

from lmd.simulate.figures import Figures, figures
from lmd.simulate.scenario import Behaviour, Group, Phase, Scenario
from lmd.simulate.world import World
from lmd.vacuum.facts import Rules, TypeRules

SINGLE = TypeRules(name="single", target_share=1.0, backoff_seconds=600)
EIGHT = replace(SINGLE, name="eight", min_processors=8, max_processors=8)
RULES = Rules(processors_per_superslot=8, accounting_window_seconds=86400)


def simulated(kinds: list[TypeRules], scenario: Scenario, *, by_vac: bool) -> Figures:
    world = World(kinds, RULES, scenario, {}, rule=vac, period=CYCLE) if by_vac else World(kinds, RULES, scenario, {})
    return figures("vac" if by_vac else "ours", world.kinds, RULES, scenario.days, world.run())


def test_vac_s_default_case_uses_an_eighth_of_a_factory_and_ours_nearly_all() -> None:
    scenario = Scenario(days=3, factories=(Group(processors=64),))
    assert simulated([SINGLE], scenario, by_vac=True).use == pytest.approx(0.125, abs=0.01)
    assert simulated([SINGLE], scenario, by_vac=False).use > 0.99


def test_with_short_lives_allowed_vac_s_rule_is_itself_again() -> None:
    """Spec 7.7: min_wallclock_seconds of an hour gives 98.9 %: the second rule is Vac's."""
    short = replace(SINGLE, min_wallclock_seconds=3600)
    scenario = Scenario(days=3, factories=(Group(processors=64),))
    assert simulated([short], scenario, by_vac=True).use == pytest.approx(0.989, abs=0.02)


def test_an_eight_processor_type_beside_singles_is_not_starved_and_nothing_is_stranded() -> None:
    """Single jobs end at random; the wide type has work from the second day on."""
    scenario = Scenario(
        days=5,
        factories=(Group(processors=64),),
        types={
            "single": Behaviour(job_hours=(1, 6), jobs=2),
            "eight": Behaviour(job_hours=(2, 8), jobs=3, phases=(Phase(hours=(0, 24), meets="no-work"),)),
        },
    )
    ours = simulated([SINGLE, EIGHT], scenario, by_vac=False)
    theirs = simulated([SINGLE, EIGHT], scenario, by_vac=True)
    assert ours.use > 0.95
    assert ours.use > theirs.use
    assert ours.shares[4]["eight"] > 0.4
    assert ours.over_budget == 0


def test_silent_early_deaths_are_a_storm_in_vac_and_few_starts_here() -> None:
    scenario = Scenario(
        days=0.5,
        factories=(Group(count=5, processors=8),),
        types={"single": Behaviour(phases=(Phase(hours=(0, 24), meets="silence", after_seconds=5),))},
    )
    theirs = simulated([SINGLE], scenario, by_vac=True)
    ours = simulated([SINGLE], scenario, by_vac=False)
    assert theirs.types[0].wasted_starts > 1000
    assert ours.types[0].wasted_starts < theirs.types[0].wasted_starts / 10
