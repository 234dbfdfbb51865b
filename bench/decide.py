"""Processor time of one decision, as machines and machinetypes grow.

    python bench/decide.py [--rounds 20] [--json]

Three cases for each size: a full factory (the usual tick), one that is empty and is filled in one pass, and one where a
type that needs eight processors claims them from interruptible machines. Times are medians of processor time.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

from lmd.vacuum.decide import decide
from lmd.vacuum.decision import Decision
from lmd.vacuum.facts import Factory, Machine, Phase, Rules, TypeRules
from lmd.vacuum.space import Report, TypeReport, summarise

NOW = 1_800_000_000.0
RULES = Rules(processors_per_superslot=8, accounting_window_seconds=86400)
SIZES = ((100, 20), (1000, 20), (1000, 100), (4000, 20), (10_000, 20))


def kinds(count: int) -> list[TypeRules]:
    return [
        TypeRules(
            name=f"type{number}",
            target_share=1.0 + number % 3,
            min_processors=8 if number % 5 == 4 else 1,
            max_processors=8,
            min_wallclock_seconds=3600 if number % 2 else 86400,
            interruptible=number % 5 == 0,
        )
        for number in range(count)
    ]


def machines(count: int, types: int) -> list[Machine]:
    """All of one processor, as if the wide types had been without work; one of ten has ended."""
    made = []
    for number in range(count):
        created = NOW - 3600 - number * 37 % 7200
        ended = number % 10 == 0
        made.append(
            Machine(
                id=f"m{number}",
                machinetype=f"type{number % types - (number % types) % 5}",
                phase=Phase.FINISHED if ended else Phase.RUNNING,
                processors=1,
                created=created,
                started=created + 20,
                finished=NOW - 30 if ended else None,
                code=200 if ended else None,
                shutdown_time=created + 86400,
                memory_bytes=2**31,
            )
        )
    return made


def case(count: int, types: int, name: str) -> Callable[[int], Decision]:
    rules = kinds(types)
    known = machines(count, types) if name != "filling" else []
    alive = sum(machine.phase is not Phase.FINISHED for machine in known)
    factory = Factory(name="wn1", total_processors=alive if name != "filling" else count, memory_bytes=count * 2**33)
    there = tuple(TypeReport(machinetype=kind.name, running_hs06=1000.0, running_processors=1000.0) for kind in rules)
    others = [Report(factory=f"wn{n}", sent=NOW, received=NOW, types=there) for n in range(2, 4)]
    space = summarise(NOW, others if name == "full" else [], this="wn1")
    return lambda seed: decide(NOW, factory, known, space, rules, RULES, seed=seed)


def timed(run: Callable[[int], Decision], rounds: int) -> tuple[float, Decision]:
    taken = []
    decision = run(0)
    for seed in range(rounds):
        began = time.process_time()
        decision = run(seed)
        taken.append(time.process_time() - began)
    return statistics.median(taken), decision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found = []
    for count, types in SIZES:
        for name in ("full", "filling", "claim"):
            seconds, decision = timed(case(count, types, name), chosen.rounds)
            figure = {"machines": count, "types": types, "case": name, "milliseconds": round(seconds * 1000, 2)}
            figure |= {"starts": len(decision.starts), "endings": len(decision.endings)}
            found.append(figure)
            if not chosen.json:
                print(
                    f"{count:6} machines {types:4} types  {name:8} {seconds * 1000:8.2f} ms"
                    f"   ({len(decision.starts)} starts, {len(decision.endings)} endings)"
                )
    if chosen.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
