from lmd.vacuum.decide import decide
from lmd.vacuum.decision import Code, Refusal
from lmd.vacuum.facts import Factory, Machine, Phase, Rules, TypeRules
from lmd.vacuum.space import Space, TypeInSpace

NOW = 1_800_000_000.0


def factory(processors: int = 8) -> Factory:
    return Factory(name="wn1.example.org", total_processors=processors)


def one(share: float = 1.0, name: str = "one") -> TypeRules:
    return TypeRules(name=name, target_share=share, backoff_seconds=600, fizzle_seconds=600)


def ended(code: int | None, *, at: float, life: float = 5.0) -> Machine:
    return Machine(
        id="m1",
        machinetype="one",
        phase=Phase.FINISHED,
        processors=1,
        created=at - life,
        started=at - life,
        finished=at,
        code=code,
    )


def test_free_processors_are_filled_in_one_pass_by_shares() -> None:
    kinds = [one(3.0), one(1.0, "other")]
    decision = decide(NOW, factory(8), [], Space(), kinds, Rules())
    assert sorted(start.machinetype for start in decision.starts) == ["one"] * 6 + ["other"] * 2
    assert {refusal.code for refusal in decision.refusals} == {Code.PROCESSORS}


def test_an_early_silent_death_holds_the_type_back() -> None:
    decision = decide(NOW, factory(), [ended(None, at=NOW - 1)], Space(), [one()], Rules())
    assert not decision.starts
    (refusal,) = decision.refusals
    assert (refusal.code, refusal.until) == (Code.BACKOFF, NOW + 599)


def test_an_abort_elsewhere_holds_the_type_back() -> None:
    space = Space(types={"one": TypeInSpace(aborts=((NOW - 10, "wn2", "300 no work"),))})
    decision = decide(NOW, factory(), [], space, [one()], Rules())
    assert not decision.starts
    assert "wn2 (300 no work)" in decision.refusals[0].sentence


def test_one_machine_tries_a_type_out_after_a_back_off() -> None:
    decision = decide(NOW, factory(), [ended(300, at=NOW - 700)], Space(), [one()], Rules())
    assert len(decision.starts) == 1


def test_a_refusal_survives_json() -> None:
    refusal = Refusal(machinetype="one", code=Code.MEMORY, sentence="no room", until=NOW)
    assert Refusal.read(refusal.plain()) == refusal
