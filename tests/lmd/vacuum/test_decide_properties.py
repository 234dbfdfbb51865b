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
