from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from vacuum_strategies import (
    NOW,
    factories,
    machines,
    reports,
    rules,
    sane_kinds,
    spaces,
    wild_kinds,
)

from lmd.vacuum.decide import decide
from lmd.vacuum.decision import Code, Decision
from lmd.vacuum.facts import Factory, Machine, Phase, Rules, TypeRules
from lmd.vacuum.space import Report, Space, summarise

wild = given(factories(), st.lists(machines(), max_size=30), spaces, wild_kinds | sane_kinds, rules, st.integers())
sane = given(factories(1, 64), st.lists(machines(), max_size=12), spaces, sane_kinds, rules, st.integers(0, 9))


def held(alive: Sequence[Machine], *, idle: bool) -> int:
    return sum(max(m.processors, 0) for m in alive if m.phase is not Phase.FINISHED and m.idle is idle)


@settings(max_examples=100, deadline=None)
@wild
def test_whatever_is_given_the_budget_and_each_type_s_limits_hold(
    factory: Factory, known: list[Machine], space: Space, kinds: list[TypeRules], ruled: Rules, seed: int
) -> None:
    decision = decide(NOW, factory, known, space, kinds, ruled, seed=seed)
    by_name = {kind.name: kind for kind in kinds}
    for idle in (False, True):
        begun = sum(start.processors for start in decision.starts if start.idle is idle)
        assert begun <= max(0, factory.total_processors - held(known, idle=idle))
    for start in decision.starts:
        kind = by_name[start.machinetype]
        assert kind.min_processors <= start.processors <= kind.max_processors
        assert NOW < start.until <= NOW + kind.max_wallclock_seconds
        assert factory.shutdown_time is None or not start.until > factory.shutdown_time
    assert [refusal.machinetype for refusal in decision.refusals] == [kind.name for kind in kinds]
    alive = {machine.id: machine for machine in known if machine.phase is not Phase.FINISHED}
    assert {ending.id for ending in decision.endings} <= alive.keys()
    assert decision == decide(NOW, factory, known, space, kinds, ruled, seed=seed)


def memory_left(factory: Factory, known: list[Machine], decision: Decision, by_name: dict[str, TypeRules]) -> int:
    booked = sum(max(m.memory_bytes, 0) for m in known if m.phase is not Phase.FINISHED)
    begun = sum(s.processors * by_name[s.machinetype].memory_bytes_per_processor for s in decision.starts)
    bounds = [factory.memory_bytes - booked] if factory.memory_bytes is not None else []
    bounds += [factory.free_memory_bytes] if factory.free_memory_bytes is not None else []
    return min(bounds, default=2**60) - begun


@settings(max_examples=80, deadline=None)
@sane
def test_no_processors_are_stranded(
    factory: Factory, known: list[Machine], space: Space, kinds: list[TypeRules], ruled: Rules, seed: int
) -> None:
    """A type goes without free processors only for a reason that is not processors, or because they are kept."""
    decision = decide(NOW, factory, known, space, kinds, ruled, seed=seed)
    by_name = {kind.name: kind for kind in kinds}
    free = factory.total_processors - held(known, idle=False)
    free -= sum(start.processors for start in decision.starts if not start.idle)
    assert not decision.starts or memory_left(factory, known, decision, by_name) >= 0
    kept_for = [r for r in decision.refusals if r.code is Code.PROCESSORS and "being kept" in r.sentence]
    assert len(kept_for) <= 1
    for refusal in decision.refusals:
        kind = by_name[refusal.machinetype]
        if refusal.code is Code.PROCESSORS and not kind.idle and free >= kind.min_processors:
            assert kept_for
        if refusal.code is Code.RESERVED:
            (wide,) = kept_for
            assert by_name[wide.machinetype].min_processors > free - kind.min_processors
            assert refusal.until is not None
            assert refusal.until > NOW


@settings(max_examples=100, deadline=None)
@sane
def test_less_is_never_more(
    factory: Factory, known: list[Machine], space: Space, kinds: list[TypeRules], ruled: Rules, seed: int
) -> None:
    """Draining, a passed shutdown time, no processors and no memory each start nothing, whatever else holds."""
    for less in (
        replace(factory, draining="repairs"),
        replace(factory, shutdown_time=NOW - 1),
        replace(factory, total_processors=0),
        replace(factory, memory_bytes=0),
    ):
        assert not decide(NOW, less, known, space, kinds, ruled, seed=seed).starts


@settings(max_examples=80, deadline=None)
@sane
def test_a_time_that_is_given_for_a_back_off_is_kept(
    factory: Factory, known: list[Machine], space: Space, kinds: list[TypeRules], ruled: Rules, seed: int
) -> None:
    """In a world that stays as it is, the type stays refused until then, and the time does not move."""
    decision = decide(NOW, factory, known, space, kinds, ruled, seed=seed)
    for refusal in decision.refusals:
        if refusal.code is not Code.BACKOFF:
            continue
        assert refusal.until is not None
        assert refusal.until > NOW
        for at in (NOW + (refusal.until - NOW) * 0.5, refusal.until - 0.001):
            later = decide(at, factory, known, space, kinds, ruled, seed=seed)
            assert refusal.machinetype not in {start.machinetype for start in later.starts}
            again = next(one for one in later.refusals if one.machinetype == refusal.machinetype)
            assert again.code is not Code.BACKOFF or again.until == refusal.until


@settings(max_examples=100, deadline=None)
@given(st.lists(reports, max_size=8), st.permutations(range(8)))
def test_reports_are_summed_up_whatever_they_say(told: list[Report], order: list[int]) -> None:
    space = summarise(NOW, told, this="wn1")
    assert "wn1" not in space.factories
    for there in space.types.values():
        assert 0 <= there.running_hs06 <= 3e9
        assert all(abort <= NOW + 4000 for abort, _, _ in there.aborts)


LASTING = {Code.NO_SHARE, Code.MISCONFIGURED, Code.UNUSABLE, Code.TOO_LARGE, Code.SHUTDOWN}
HELD = LASTING | {Code.BACKOFF, Code.TESTING, Code.DRAINING, Code.OVERLOAD}


@settings(max_examples=80, deadline=None)
@sane
def test_a_reason_that_stands_is_not_lifted_by_having_less(
    factory: Factory, known: list[Machine], space: Space, kinds: list[TypeRules], ruled: Rules, seed: int
) -> None:
    """With fewer processors, less memory or disk, or an earlier end, what was held still is; what lasts lasts."""
    calm = replace(factory, load=None, draining=None, shutdown_time=NOW + 50_000)
    before = decide(NOW, calm, known, space, kinds, ruled, seed=seed)
    begun = {start.machinetype for start in before.starts}
    stood = {one.machinetype: one.code for one in before.refusals if one.code in HELD and one.machinetype not in begun}
    for less in (
        replace(calm, total_processors=calm.total_processors // 2),
        replace(calm, memory_bytes=(2**40 if calm.memory_bytes is None else calm.memory_bytes) // 2),
        replace(calm, free_disk_bytes=0),
        replace(calm, shutdown_time=NOW + 1000),
        replace(calm, load=1e6, cpus=4),
    ):
        after = decide(NOW, less, known, space, kinds, ruled, seed=seed)
        assert not stood.keys() & {start.machinetype for start in after.starts}
        codes = {one.machinetype: one.code for one in after.refusals}
        for name, code in stood.items():
            assert codes[name] in HELD
            assert code not in LASTING or codes[name] in LASTING


@settings(max_examples=60, deadline=None)
@sane
def test_one_obstacle_more_is_named_and_the_other_types_keep_theirs(
    factory: Factory, known: list[Machine], space: Space, kinds: list[TypeRules], ruled: Rules, seed: int
) -> None:
    """A type that becomes unusable is refused for that alone; no lasting reason of another type changes."""
    calm = replace(factory, load=None, draining=None, shutdown_time=None)
    worse = replace(calm, unusable={**calm.unusable, "one": "its image is gone"})
    before = {r.machinetype: r for r in decide(NOW, calm, known, space, kinds, ruled, seed=seed).refusals}
    after = decide(NOW, worse, known, space, kinds, ruled, seed=seed)
    assert "one" not in {start.machinetype for start in after.starts}
    for refusal in after.refusals:
        if refusal.machinetype == "one":
            assert refusal.code in LASTING
        elif before[refusal.machinetype].code in LASTING:
            assert refusal == before[refusal.machinetype]


@settings(max_examples=60, deadline=None)
@given(
    factories(1, 64),
    st.lists(machines(), max_size=12),
    spaces,
    sane_kinds,
    rules,
    st.sampled_from([-1e9, -7200.0, 7200.0, 1e9]),
)
def test_a_clock_that_jumps_between_calls_neither_raises_nor_exceeds_the_budget(
    factory: Factory, known: list[Machine], space: Space, kinds: list[TypeRules], ruled: Rules, jump: float
) -> None:
    first = decide(NOW, factory, known, space, kinds, ruled)
    begun = [
        Machine(
            id=f"new-{number}",
            machinetype=start.machinetype,
            phase=Phase.RUNNING,
            processors=start.processors,
            created=NOW,
            started=NOW,
            shutdown_time=start.until,
            idle=start.idle,
        )
        for number, start in enumerate(first.starts)
    ]
    then = decide(NOW + jump, factory, [*known, *begun], space, kinds, ruled)
    assert sum(s.processors for s in then.starts if not s.idle) <= max(
        0, factory.total_processors - held([*known, *begun], idle=False)
    )
    assert all(NOW + jump < start.until for start in then.starts)
