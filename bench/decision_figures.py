"""Vac's rule beside ours on the same scenarios: the figures of docs/decision.md.

    python bench/decision_figures.py [--json]

Vac's rule is the one that the tests compare with (tests/lmd/simulate/vac_rule.py); it looks once in 62 seconds. Both
see the same seed, the same behaviour of the types and the same factories.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/lmd/simulate"))

from vac_rule import CYCLE, vac

from lmd.simulate.figures import Figures, figures
from lmd.simulate.scenario import Behaviour, Group, Phase, Scenario
from lmd.simulate.tally import Tally
from lmd.simulate.world import World
from lmd.vacuum.facts import Rules, TypeRules

RULES = Rules(processors_per_superslot=8, accounting_window_seconds=86400)
SINGLE = TypeRules(name="single", target_share=1.0, backoff_seconds=600)
SHORT = replace(SINGLE, name="short", min_wallclock_seconds=3600)
EIGHT = replace(SINGLE, name="eight", min_processors=8, max_processors=8)
JOBS = Behaviour(job_hours=(1, 6), jobs=2)
ONE, TEN, HUNDRED = Group(processors=64), Group(count=10, processors=64), Group(count=100, processors=64)


def no_work(begin: float, end: float, every: float = 0) -> Phase:
    return Phase(hours=(begin, end), meets="no-work", every=every)


WIDE = Behaviour(job_hours=(2, 8), jobs=3, phases=(no_work(0, 24),))
SILENT = Behaviour(phases=(Phase(hours=(6, 12), meets="silence", after_seconds=10),), job_hours=(1, 6), jobs=2)
CASES = {
    "Vac's default case: one single type, 1 factory": ([SINGLE], {}, ONE, 3),
    "the same, lives of an hour allowed": ([SHORT], {}, ONE, 3),
    "single jobs that end at random": ([SINGLE], {"single": JOBS}, ONE, 7),
    "and a type of eight, with work from day 1": ([SINGLE, EIGHT], {"single": JOBS, "eight": WIDE}, ONE, 7),
    "the same, singles of an hour allowed": ([SHORT, EIGHT], {"short": JOBS, "eight": WIDE}, ONE, 7),
    "ten factories": ([SINGLE, EIGHT], {"single": JOBS, "eight": WIDE}, TEN, 7),
    "two types, one dry for 6 h a day, 10 factories": (
        [SHORT, replace(SHORT, name="dry", target_share=3.0)],
        {"short": JOBS, "dry": Behaviour(job_hours=(1, 6), jobs=2, phases=(no_work(12, 18, 24),))},
        TEN,
        7,
    ),
    "silent failures for 6 h, 100 factories": (
        [SHORT, replace(SHORT, name="silent")],
        {"short": JOBS, "silent": SILENT},
        HUNDRED,
        1,
    ),
}


def simulated(case: tuple, *, by_vac: bool) -> tuple[Figures, Tally]:
    kinds, types, group, days = case
    scenario = Scenario(days=days, factories=(group,), types=types)
    world = World(kinds, RULES, scenario, {}, rule=vac, period=CYCLE) if by_vac else World(kinds, RULES, scenario, {})
    tally = world.run()
    return figures("vac" if by_vac else "lmd", world.kinds, RULES, days, tally), tally


def superslot_hours(tally: Tally) -> float | None:
    """Hours from when the type of eight has work (day 1) until its first machine that did some has begun."""
    first = tally.worked.get("eight")
    return None if first is None else first / 3600 - 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found = []
    for name, case in CASES.items():
        row: dict[str, object] = {"case": name}
        for by_vac in (True, False):
            made, tally = simulated(case, by_vac=by_vac)
            wide = superslot_hours(tally)
            row |= {
                f"{made.name} use": round(made.use, 4),
                f"{made.name} share error": round(made.share_error, 4),
                f"{made.name} wasted per 1,000 h": round(made.wasted_per_1000, 2),
                f"{made.name} hours to a first superslot": None if wide is None else round(wide, 2),
            }
        found.append(row)
        if not chosen.json:
            print(" | ".join(str(value) for value in row.values()), flush=True)
    if chosen.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
