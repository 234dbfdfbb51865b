import math
from dataclasses import replace

import pytest

from lmd.vacuum.accounting import advance, of_machines
from lmd.vacuum.decide import decide
from lmd.vacuum.facts import Factory, Machine, Phase, Rules, TypeRules
from lmd.vacuum.space import Space

NOW = 1_800_000_000.0


def test_an_average_forgets_over_its_window() -> None:
    halves = advance({}, {"a": 10.0}, 3600 * math.log(2), 3600)
    assert halves["a"] == pytest.approx(5.0)
    assert advance(halves, {}, 3600 * math.log(2), 3600)["a"] == pytest.approx(2.5)


@pytest.mark.parametrize("seconds", [-5.0, 0.0, math.nan, math.inf, 1e300])
def test_a_clock_that_jumps_makes_no_nonsense_of_averages(seconds: float) -> None:
    found = advance({"a": 4.0}, {"a": math.inf, "b": 1.0}, seconds, 3600)
    assert all(0 <= value < 1e12 for value in found.values())
    assert advance({"a": 4.0}, {"a": 1.0}, seconds, 0) == {}


def ran(name: str, begin: float, end: float | None, processors: int = 1) -> Machine:
    """A machine that ran so many seconds before now, until `end` seconds before now, or still does."""
    return Machine(
        id=f"{name}{begin}",
        machinetype=name,
        phase=Phase.RUNNING if end is None else Phase.FINISHED,
        processors=processors,
        created=NOW - begin,
        started=NOW - begin,
        finished=None if end is None else NOW - end,
        code=None if end is None else 200,
        shutdown_time=NOW + 40_000,
    )


def test_machines_tell_the_same_as_averages_that_were_kept() -> None:
    kept = advance(advance({}, {"a": 8.0}, 5000, 86400), {"a": 3.0}, 2000, 86400)
    machines = [ran("a", 7000, 2000, 5), ran("a", 7000, None, 3)]
    assert of_machines(NOW, {"a": machines}, 86400)["a"] == pytest.approx(kept["a"])


def test_a_single_factory_gives_back_what_a_type_has_missed_and_knows_it_after_a_restart() -> None:
    kinds = [TypeRules(name=name, target_share=1.0) for name in ("had", "missed")]
    machines = [ran("had", 80_000, 1000, 8), *(ran(name, 900, None, 2) for name in ("had", "missed"))]
    factory = Factory(name="wn1", total_processors=6)
    rules = Rules(accounting_window_seconds=86400)
    begun = [start.machinetype for start in decide(NOW, factory, machines, Space(), kinds, rules).starts]
    assert begun == ["missed", "missed"]
    equal = decide(NOW, factory, machines, Space(), kinds, replace(rules, accounting_window_seconds=0)).starts
    assert sorted(start.machinetype for start in equal) == ["had", "missed"]


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 1e300, NOW + 1e8])
def test_a_history_with_holes_makes_no_nonsense(odd: float) -> None:
    for machine in (
        replace(ran("a", 5000, None), started=odd),
        replace(ran("a", 5000, 10), finished=odd),
        replace(ran("a", 5000, None), processors=-3),
    ):
        assert 0 <= of_machines(NOW, {"a": [machine]}, 86400)["a"] <= 1
