"""Worked examples of Vac's documents (spec 17.4), and each fault of Vac's decision (spec 16.2, 16.4) shown absent."""

from dataclasses import replace

import pytest

from lmd.vacuum.decide import decide
from lmd.vacuum.decision import Code, Decision
from lmd.vacuum.facts import Factory, Machine, Phase, Rules, TypeRules
from lmd.vacuum.space import Report, Space, TypeInSpace, TypeReport, summarise

T0 = 1_800_000_000.0
DAY = 86400.0


def kind(name: str, share: float = 1.0, *, low: int = 1, high: int | None = None, least: float = DAY) -> TypeRules:
    return TypeRules(
        name=name,
        target_share=share,
        min_processors=low,
        max_processors=high or low,
        min_wallclock_seconds=least,
        backoff_seconds=600,
        fizzle_seconds=600,
    )


def running(number: int, name: str | None, end: float, *, processors: int = 1, age: float = 7200) -> Machine:
    return Machine(
        id=f"m{number}",
        machinetype=name,
        phase=Phase.RUNNING,
        processors=processors,
        created=T0 - age,
        started=T0 - age,
        shutdown_time=end,
    )


def ended(number: int, name: str, at: float, code: int | None, *, life: float = 5.0) -> Machine:
    started = at - life
    return Machine(
        id=f"e{number}",
        machinetype=name,
        phase=Phase.FINISHED,
        processors=1,
        created=started,
        started=started,
        finished=at,
        code=code,
    )


def here(processors: int, **facts: object) -> Factory:
    return replace(Factory(name="wn1", total_processors=processors), **facts)  # type: ignore[arg-type]


def begun(decision: Decision) -> list[str]:
    return [start.machinetype for start in decision.starts]


def why(decision: Decision, name: str) -> Code:
    return next(refusal.code for refusal in decision.refusals if refusal.machinetype == name)


@pytest.mark.parametrize("group", [None, "both"])
def test_the_type_further_below_its_share_is_next_within_and_across_groups(group: str | None) -> None:
    """Types a (share 1, 21 HS06 run) and b (share 3, 42 HS06): scores 21 and 14, so b is next."""
    kinds = [replace(kind("a", 1.0), machinegroup=group), replace(kind("b", 3.0), machinegroup=group)]
    space = Space(types={"a": TypeInSpace(running_hs06=21), "b": TypeInSpace(running_hs06=42)})
    assert begun(decide(T0, here(1), [], space, kinds, Rules())) == ["b"]


def test_a_group_counts_as_one() -> None:
    """a and b of one group have 35 together, c alone has 20: c is next, though b alone has less."""
    kinds = [replace(kind("a"), machinegroup="g"), replace(kind("b", 3.0), machinegroup="g"), kind("c")]
    told = {"a": 21.0, "b": 42.0, "c": 20.0}
    space = Space(types={name: TypeInSpace(running_hs06=amount) for name, amount in told.items()})
    assert begun(decide(T0, here(1), [], space, kinds, Rules())) == ["c"]


def test_back_off_then_one_trial_then_freely() -> None:
    """Message 300 at t0, back-off 600 s, fizzle 600 s."""
    abort = ended(1, "a", T0, 300)

    def at(seconds: float, *others: Machine) -> list[str]:
        return begun(decide(T0 + seconds, here(4), [abort, *others], Space(), [kind("a")], Rules()))

    assert at(599) == []
    assert at(600) == ["a"]
    trial = replace(running(2, "a", T0 + DAY), created=T0 + 600, started=T0 + 610)
    assert at(700, trial) == []
    assert at(1199, trial) == []
    assert at(1210, trial) == ["a"] * 3
    failed = replace(ended(2, "a", T0 + 700, 300, life=90))
    assert at(1299, failed) == []


def test_a_trial_that_starts_late_is_awaited_all_the_same() -> None:
    """Vac lets the type run freely backoff + fizzle after the abort, whether the trial has passed or not."""
    abort = ended(1, "a", T0, 300)
    trial = replace(running(2, "a", T0 + DAY), created=T0 + 1100, started=T0 + 1100)
    decision = decide(T0 + 1300, here(4), [abort, trial], Space(), [kind("a")], Rules())
    assert (begun(decision), why(decision, "a")) == ([], Code.TESTING)
    assert decision.refusals[0].until == T0 + 1700


def test_a_superslot_is_joined_by_what_can_end_with_it() -> None:
    """S=8, 16 processors: 3 run until T1, 8 until T2. A type of 1 to 8 processors gets 5 until T1, one of 8 waits."""
    t1, t2 = T0 + 3 * 3600, T0 + 9 * 3600
    machines = [running(1, "a", t1, processors=3), running(2, "a", t2, processors=8)]
    rules = Rules(processors_per_superslot=8)
    small = kind("a", low=1, high=8, least=3600)
    decision = decide(T0, here(16), machines, Space(), [small], rules)
    assert [(start.processors, start.until) for start in decision.starts] == [(5, t1)]
    decision = decide(T0, here(16), machines, Space(), [kind("wide", low=8)], rules)
    assert not decision.starts
    assert decision.refusals[0].sentence.startswith("it needs 8 processors, 5 are free")


def test_fault_c1_an_early_silent_death_is_an_abort() -> None:
    assert begun(decide(T0, here(4), [ended(1, "a", T0 - 1, None)], Space(), [kind("a")], Rules())) == []
    assert begun(decide(T0, here(1), [ended(1, "a", T0 - 1, None, life=4000)], Space(), [kind("a")], Rules())) == ["a"]


def test_fault_c8_an_abort_counts_though_a_machine_that_was_made_later_ended_well() -> None:
    old = ended(1, "a", T0 - 10, 500, life=50_000)
    young = ended(2, "a", T0 - 5, 200, life=3000)
    assert begun(decide(T0, here(4), [old, young], Space(), [kind("a")], Rules())) == []


def test_fault_c11_a_machine_that_starts_holds_all_its_processors() -> None:
    starting = replace(running(1, "wide", T0 + DAY, processors=8), phase=Phase.STARTING, started=None)
    assert begun(decide(T0, here(8), [starting], Space(), [kind("a")], Rules())) == []


def test_a_factory_counts_itself_though_nobody_reports_it() -> None:
    """In Vac a factory that is not in its own list, or whose responder is silent, never backs off."""
    space = summarise(T0, [Report(factory="wn1", sent=T0, received=T0)], this="wn1")
    assert not space.factories
    assert begun(decide(T0, here(4), [ended(1, "a", T0 - 1, 300)], space, [kind("a")], Rules())) == []


def test_not_all_factories_try_a_type_out_at_once() -> None:
    """Spec 16.4: the first retry after a back-off is a herd. Here each factory has a time of its own."""
    names = [f"wn{number}" for number in range(20)]
    turns = []
    for name in names:
        others: dict[str, float | None] = {other: 4.0 for other in names if other != name}
        space = Space(types={"a": TypeInSpace(aborts=((T0, "elsewhere", "300"),))}, factories=others)
        factory = Factory(name=name, total_processors=4)
        for minute in range(0, 31):
            if decide(T0 + 600 + minute * 60, factory, [], space, [kind("a")], Rules()).starts:
                turns.append(minute)
                break
    assert len(turns) == 20
    assert turns.count(0) == 1
    assert len(set(turns)) == 20


def test_a_trial_elsewhere_is_awaited() -> None:
    there = TypeInSpace(aborts=((T0, "wn2", "300"),), num_before_fizzle=1)
    decision = decide(T0 + 700, here(4), [], Space(types={"a": there}), [kind("a")], Rules())
    assert (begun(decision), why(decision, "a")) == ([], Code.TESTING)
    passed = replace(there, num_before_fizzle=0, proofs=(T0 + 610,))
    assert len(begun(decide(T0 + 1300, here(4), [], Space(types={"a": passed}), [kind("a")], Rules()))) == 4


def test_a_black_hole_does_not_hold_a_space_of_working_machines_back() -> None:
    proofs = tuple(T0 - 60.0 * number for number in range(20))
    there = TypeInSpace(aborts=((T0, "wn66", "500"),), proofs=proofs)
    assert len(begun(decide(T0 + 1, here(4), [], Space(types={"a": there}), [kind("a")], Rules()))) == 4
    many = replace(there, aborts=tuple((T0, f"wn{n}", "500") for n in range(5)))
    assert begun(decide(T0 + 1, here(4), [], Space(types={"a": many}), [kind("a")], Rules())) == []


def test_failing_again_and_again_makes_the_wait_longer_up_to_an_hour_but_no_work_does_not() -> None:
    def until(code: int) -> float:
        rounds = [ended(number, "a", T0 - 700.0 * number, code) for number in range(4)]
        refusal = decide(T0 + 1, here(4), rounds, Space(), [kind("a")], Rules()).refusals[0]
        assert refusal.until is not None
        return refusal.until - T0

    assert until(300) == 600
    assert until(500) == 3600


def test_ends_that_are_ours_say_nothing_about_the_type() -> None:
    killed = replace(ended(1, "a", T0 - 1, 700), excused=True)
    assert len(begun(decide(T0, here(4), [killed], Space(), [kind("a")], Rules()))) == 4


def test_machines_that_end_early_and_well_are_not_restarted_every_second() -> None:
    short = [ended(number, "a", T0 - number, 200, life=0.5) for number in range(8)]
    decision = decide(T0, here(4), short, Space(), [kind("a")], Rules())
    assert (begun(decision), why(decision, "a")) == ([], Code.BACKOFF)
    assert decision.refusals[0].until == T0 + 600


def test_a_clock_that_is_years_ahead_elsewhere_does_not_hold_a_type_back() -> None:
    year = 365 * DAY
    wrong = Report(
        factory="wn2", sent=T0 + year, received=T0, types=(TypeReport(machinetype="a", last_abort=T0 + year - 700),)
    )
    space = summarise(T0, [wrong], this="wn1")
    assert len(begun(decide(T0, here(4), [], space, [kind("a")], Rules()))) == 1


def test_stale_and_missing_reports_leave_the_factory_to_itself() -> None:
    old = Report(factory="wn2", sent=T0 - 7200, received=T0 - 7200, types=(TypeReport(machinetype="a", last_abort=T0),))
    assert len(begun(decide(T0, here(4), [], summarise(T0, [old], this="wn1"), [kind("a")], Rules()))) == 4


def test_nothing_starts_that_could_not_live_its_shortest_life() -> None:
    decision = decide(
        T0, here(2, shutdown_time=T0 + 3600), [], Space(), [kind("long"), kind("short", least=1800)], Rules()
    )
    assert set(begun(decision)) == {"short"}
    assert {start.until for start in decision.starts} == {T0 + 3600}
    assert why(decision, "long") is Code.SHUTDOWN


def test_running_machines_are_told_of_the_factory_s_shutdown() -> None:
    machines = [running(1, "a", T0 + DAY), running(2, "a", T0 + 60), running(3, None, T0 + DAY)]
    decision = decide(T0, here(4, shutdown_time=T0 + 3600), machines, Space(), [kind("a")], Rules())
    assert [(ending.id, ending.by) for ending in decision.endings] == [("m1", T0 + 3600)]


def test_the_load_of_idle_machines_brakes_nothing() -> None:
    busy = [running(number, "a", T0 + DAY) for number in range(6)]
    loaded = here(8, cpus=8, load=13.0)
    assert why(decide(T0, loaded, busy, Space(), [kind("a")], Rules()), "a") is Code.OVERLOAD
    harvesting = [replace(running(10 + number, "i", T0 + DAY), idle=True) for number in range(8)]
    assert len(begun(decide(T0, loaded, [*busy, *harvesting], Space(), [kind("a")], Rules()))) == 2


def test_the_ramp_is_limited_by_machines_that_start() -> None:
    starting = replace(running(1, "a", T0 + DAY), phase=Phase.STARTING)
    decision = decide(T0, here(64), [starting], Space(), [kind("a")], Rules(max_starting_machines=5))
    assert (len(begun(decision)), why(decision, "a")) == (4, Code.STARTING)


def test_memory_and_disk_bound_what_is_started() -> None:
    needy = replace(kind("a"), memory_bytes_per_processor=2**31, disk_bytes=10**9)
    known = [replace(running(1, "a", T0 + DAY), memory_bytes=2**31)]
    decision = decide(T0, here(8, memory_bytes=4 * 2**31), known, Space(), [needy], Rules())
    assert (len(begun(decision)), why(decision, "a")) == (3, Code.MEMORY)
    free = here(8, free_disk_bytes=2**30 + 25 * 10**8)
    decision = decide(T0, free, [], Space(), [needy], Rules())
    assert (len(begun(decision)), why(decision, "a")) == (2, Code.DISK)


def test_memory_that_young_machines_have_not_used_yet_is_not_given_away_twice() -> None:
    needy = replace(kind("a"), memory_bytes_per_processor=2**31)
    factory = here(8, free_memory_bytes=4 * 2**31)
    young = [replace(running(n, "a", T0 + DAY, age=1.0), memory_bytes=2**31) for n in range(4)]
    assert not decide(T0, factory, young, Space(), [needy], Rules()).starts


def test_a_type_too_large_for_the_factory_is_told_so() -> None:
    decision = decide(T0, here(8), [], Space(), [kind("wide", low=16)], Rules(processors_per_superslot=64))
    assert why(decision, "wide") is Code.TOO_LARGE
    assert len(begun(decide(T0, here(8), [], Space(), [kind("a")], Rules(processors_per_superslot=64)))) == 8


def test_a_thousand_types_on_a_thousand_processors_are_one_pass() -> None:
    kinds = [
        replace(kind(f"t{n}", 1.0 + n % 7, low=1 + n % 3), max_processors=8, interruptible=n % 2 == 0)
        for n in range(1000)
    ]
    known = [running(n, f"t{n}", T0 + DAY + n) for n in range(512)]
    decision = decide(T0, here(1024), known, Space(), kinds, Rules(processors_per_superslot=8))
    assert sum(start.processors for start in decision.starts) == 512
    assert len(decision.refusals) == 1000


@pytest.mark.parametrize("share", [0.0, -1.0, float("nan"), float("inf")])
def test_a_share_that_is_no_share_starts_nothing(share: float) -> None:
    decision = decide(T0, here(4), [], Space(), [kind("a", share), kind("b", 1e300)], Rules())
    assert begun(decision) == ["b"] * 4
    assert why(decision, "a") is Code.NO_SHARE
