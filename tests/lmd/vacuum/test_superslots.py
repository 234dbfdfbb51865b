"""Types that need several processors: never stranding any, never starving."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from lmd.vacuum.decide import decide
from lmd.vacuum.decision import Code, Decision
from lmd.vacuum.facts import Factory, Machine, Phase, Rules, TypeRules
from lmd.vacuum.space import Space, TypeInSpace
from lmd.vacuum.timeline import cheapest

T0 = 1_800_000_000.0
HOUR = 3600.0
RULES = Rules(processors_per_superslot=8)
SINGLE = TypeRules(name="single", target_share=1.0)
EIGHT = TypeRules(name="eight", target_share=1.0, min_processors=8, max_processors=8)
FILLER = TypeRules(name="filler", target_share=0.1, interruptible=True, min_wallclock_seconds=HOUR, grace_secs=1800)


def runs(
    count: int, name: str, end: float, *, spread: float = 0.0, processors: int = 1, first: int = 0
) -> list[Machine]:
    return [
        Machine(
            id=f"{name}{first + number}",
            machinetype=name,
            phase=Phase.RUNNING,
            processors=processors,
            created=T0 - 7200 - number,
            started=T0 - 7200 - number,
            shutdown_time=end + spread * number,
        )
        for number in range(count)
    ]


def here(processors: int) -> Factory:
    return Factory(name="wn1", total_processors=processors)


def begun(decision: Decision) -> list[tuple[str, int]]:
    return [(start.machinetype, start.processors) for start in decision.starts]


def test_one_processor_that_comes_free_is_used_at_once_where_nobody_needs_several() -> None:
    """Vac's default case (spec 7.7): min = max wallclock cannot join a superslot, and Vac leaves the processor idle."""
    machines = runs(7, "single", T0 + 10 * HOUR)
    decision = decide(T0, here(8), machines, Space(), [SINGLE], RULES)
    assert begun(decision) == [("single", 1)]
    assert decision.starts[0].until == T0 + 24 * HOUR


def test_eight_that_are_free_together_go_to_the_type_that_needs_them_before_others_break_them_up() -> None:
    machines = runs(8, "single", T0 + 10 * HOUR)
    small = replace(SINGLE, name="small", target_share=0.2)
    assert begun(decide(T0, here(16), machines, Space(), [SINGLE, small, EIGHT], RULES)) == [("eight", 8)]


def test_processors_are_kept_for_a_type_that_lacks_its_share_in_the_cheapest_way() -> None:
    """Seven end within the hour: the one that is free waits for them, and what cannot be gone by then is refused."""
    machines = runs(7, "single", T0 + 0.5 * HOUR, spread=60) + runs(24, "single", T0 + 9 * HOUR, spread=1800, first=7)
    decision = decide(T0, here(32), machines, Space(), [SINGLE, EIGHT], RULES)
    assert not decision.starts
    codes = {refusal.machinetype: refusal for refusal in decision.refusals}
    assert codes["single"].code is Code.RESERVED
    assert codes["eight"].until == codes["single"].until == T0 + 0.5 * HOUR + 6 * 60


def test_kept_processors_are_filled_by_what_is_gone_in_time() -> None:
    machines = runs(7, "single", T0 + 2 * HOUR, spread=60) + runs(24, "single", T0 + 9 * HOUR, spread=1800, first=7)
    short = replace(SINGLE, name="short", min_wallclock_seconds=HOUR)
    decision = decide(T0, here(32), machines, Space(), [SINGLE, EIGHT, short], RULES)
    assert begun(decision) == [("short", 1)]
    assert decision.starts[0].until == T0 + 2 * HOUR + 6 * 60


def test_interruptible_machines_are_told_with_their_grace_when_a_starved_type_needs_their_processors() -> None:
    machines = runs(24, "single", T0 + 20 * HOUR) + runs(8, "filler", T0 + 20 * HOUR)
    decision = decide(T0, here(32), machines, Space(), [SINGLE, EIGHT, FILLER], RULES)
    assert {ending.id for ending in decision.endings} == {f"filler{number}" for number in range(8)}
    assert {ending.by for ending in decision.endings} == {T0 + 1800}
    told = [replace(m, told=T0, shutdown_time=T0 + 1800) if m.machinetype == "filler" else m for m in machines]
    again = decide(T0 + 60, here(32), told, Space(), [SINGLE, EIGHT, FILLER], RULES)
    assert not again.endings
    gone = [m for m in told if m.machinetype != "filler"] + told[-3:]
    waiting = decide(T0 + 900, here(32), gone, Space(), [SINGLE, EIGHT, FILLER], RULES)
    assert not waiting.starts
    assert begun(decide(T0 + 1801, here(32), gone[:-3], Space(), [SINGLE, EIGHT, FILLER], RULES)) == [("eight", 8)]


def test_nobody_is_interrupted_in_vain_or_twice() -> None:
    few = runs(28, "single", T0 + 20 * HOUR) + runs(4, "filler", T0 + 20 * HOUR)
    assert not decide(T0, here(32), few, Space(), [SINGLE, EIGHT, FILLER], RULES).endings


def test_a_deaf_type_is_interrupted_last_and_stays_booked_until_it_is_gone() -> None:
    deaf = replace(FILLER, name="deaf")
    machines = runs(16, "single", T0 + 20 * HOUR) + runs(8, "filler", T0 + 20 * HOUR) + runs(8, "deaf", T0 + 20 * HOUR)
    ignored = Machine(
        id="old",
        machinetype="deaf",
        phase=Phase.FINISHED,
        processors=1,
        created=T0 - 9000,
        started=T0 - 9000,
        told=T0 - 4000,
        shutdown_time=T0 - 2200,
        finished=T0 - 2190,
        code=700,
        excused=True,
    )
    one_lacks = replace(EIGHT, target_share=0.5)
    decision = decide(T0, here(32), [*machines, ignored], Space(), [SINGLE, one_lacks, FILLER, deaf], RULES)
    assert {ending.id.rstrip("0123456789") for ending in decision.endings} == {"filler"}
    overdue = [replace(machine, told=T0 - 1900, shutdown_time=T0 - 100) for machine in runs(8, "deaf", T0)]
    assert not decide(T0, here(8), overdue, Space(), [EIGHT, deaf], RULES).starts


def test_in_a_space_only_as_many_factories_keep_processors_as_the_type_lacks_machines() -> None:
    names = [f"wn{number}" for number in range(40)]
    keeping = 0
    for name in names:
        others: dict[str, float | None] = {other: 0.0 for other in names if other != name}
        machines = runs(8, "single", T0 + HOUR, spread=60)
        space = Space(
            types={"single": TypeInSpace(running_hs06=165), "eight": TypeInSpace(running_hs06=148)}, factories=others
        )
        factory = Factory(name=name, total_processors=8)
        decision = decide(T0, factory, machines, space, [SINGLE, EIGHT], RULES)
        keeping += "being kept" in next(r.sentence for r in decision.refusals if r.machinetype == "eight")
    assert 1 <= keeping <= 2


def test_on_borrowed_processors_machines_do_not_live_as_long_as_they_could() -> None:
    """A type that is dry each night would else never find a processor that was not taken in its last absence."""
    dry = replace(SINGLE, name="dry", target_share=3.0, backoff_seconds=600)
    idle = replace(SINGLE, name="idle", idle=True)
    busy = replace(SINGLE, name="busy", min_wallclock_seconds=2 * HOUR)
    aborts = {name: TypeInSpace(aborts=((T0, "wn2", "300"),)) for name in ("dry", "idle")}
    space = Space(types={**aborts, "busy": TypeInSpace(running_hs06=100)})
    ends = {
        decide(T0 + 60, here(8), [], space, [dry, busy, idle], Rules(), seed=seed).starts[0].until - T0 - 60
        for seed in range(20)
    }
    assert len(ends) > 10
    assert 2.4 * HOUR <= min(ends) < max(ends) < 24 * HOUR
    owed = Space(types={"dry": aborts["dry"]})
    assert decide(T0 + 60, here(8), [], owed, [dry, busy], Rules()).starts[0].until == T0 + 60 + 24 * HOUR


def test_idle_machines_run_beside_a_full_factory_and_give_their_memory_back() -> None:
    idle = TypeRules(name="idle", target_share=1.0, idle=True, memory_bytes_per_processor=2**30)
    needy = replace(SINGLE, memory_bytes_per_processor=2 * 2**30)
    full = [replace(machine, memory_bytes=2 * 2**30) for machine in runs(4, "single", T0 + 20 * HOUR)]
    factory = replace(here(4), memory_bytes=10 * 2**30)
    decision = decide(T0, factory, full, Space(), [needy, idle], RULES)
    assert begun(decision) == [("idle", 1)] * 2
    assert all(start.idle for start in decision.starts)
    harvesting = [
        replace(machine, idle=True, memory_bytes=2**30) for machine in runs(2, "idle", T0 + 20 * HOUR, first=50)
    ]
    tight = replace(here(4), memory_bytes=9 * 2**30)
    decision = decide(T0, tight, [*full[:3], *harvesting], Space(), [needy, idle], RULES)
    assert [(ending.id, ending.by) for ending in decision.endings] == [("idle50", T0 + 1800)]


def test_free_processors_are_left_the_memory_that_they_may_want() -> None:
    idle = TypeRules(name="idle", target_share=1.0, idle=True, memory_bytes_per_processor=2**30)
    held_back = replace(SINGLE, memory_bytes_per_processor=2 * 2**30, max_processors=1, backoff_seconds=600)
    factory = replace(here(4), memory_bytes=8 * 2**30)
    assert begun(decide(T0, factory, [], Space(), [held_back, idle], RULES)) == [("single", 1)] * 4


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 8),
    st.lists(st.tuples(st.floats(T0, T0 + 90_000), st.integers(1, 8)), max_size=20),
    st.integers(1, 16),
    st.floats(0.0, 2.0),
)
def test_a_plan_is_the_cheapest_there_is(free: int, ends: list[tuple[float, int]], needs: int, price: float) -> None:
    """Against trying every time at which something ends."""
    slots = [(T0, free), *sorted(ends)]
    costs = []
    for end, _ in slots:
        left, idle = needs, 0.0
        for other, processors in sorted((one for one in slots if one[0] <= end), reverse=True):
            used = min(left, processors)
            left -= used
            idle += used * (end - other)
        if left == 0:
            costs.append((idle + price * needs * (end - T0), end))
    plan = cheapest(T0, free, needs, sorted(ends), delay_price=price)
    assert (plan is None) == (not costs)
    if plan is not None:
        (found,) = {cost for cost, end in costs if end == plan.at}
        assert found <= min(costs)[0] + 1e-3
        assert 0 <= plan.held <= free
