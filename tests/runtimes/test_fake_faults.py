"""Each fault of the fake strikes as its name says, and after each crash another instance finds its way."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path, PurePosixPath

import pytest

from runtimes.conformance.order import Order
from runtimes.conformance.payloads import Payload
from runtimes.contract import Exhausted, Health, Rejected, Settings, Spec, Started, State, Unavailable
from runtimes.fake import CRASH_POINTS, EXCHANGES, Crash, Fake, FakeEngine, Faults

MakeSpec = Callable[..., Spec]


def only(*names: str) -> frozenset[str]:
    return frozenset(names)


async def test_a_refused_create_says_why_and_leaves_nothing(fake: Fake, make_spec: MakeSpec) -> None:
    for faults, error in ((Faults(reject="no such disk"), Rejected), (Faults(exhaust="no disk left"), Exhausted)):
        fake.engine.faults = faults
        with pytest.raises(error, match=r"no .*disk"):
            await fake.create(make_spec("forever"))
        assert await fake.machines() == []


async def test_slots_exhaust_the_engine_and_room_comes_back(fake: Fake, make_spec: MakeSpec) -> None:
    fake.engine.faults = Faults(slots=1)
    await fake.create(make_spec("forever"))
    await fake.create(make_spec("forever"))  # the same machine again takes no second slot
    with pytest.raises(Exhausted):
        await fake.create(make_spec("forever", id="lm-2"))
    await fake.destroy("lm-1")
    assert (await fake.create(make_spec("forever", id="lm-2"))).state is State.RUNNING


async def test_an_engine_that_is_not_there_does_nothing(fake: Fake, make_spec: MakeSpec) -> None:
    fake.engine.faults = Faults(unavailable=only("create"))
    with pytest.raises(Unavailable):
        await fake.create(make_spec("forever"))
    assert await fake.machines() == []


async def test_a_lost_reply_is_of_something_that_was_done(fake: Fake, make_spec: MakeSpec) -> None:
    fake.engine.faults = Faults(lose_reply=only("create.start", "destroy"))
    with pytest.raises(Unavailable, match="list before"):
        await fake.create(make_spec("forever"))
    assert [seen.state for seen in await fake.machines()] == [State.RUNNING]
    with pytest.raises(Unavailable):
        await fake.destroy("lm-1")
    assert await fake.machines() == []


async def test_a_probe_of_an_engine_that_is_not_there_is_unhealthy_and_raises_nothing(fake: Fake) -> None:
    fake.engine.faults = Faults(unavailable=only("probe"))
    assert (await fake.probe()).health is Health.UNHEALTHY


async def test_a_hung_call_goes_on_when_the_fault_is_lifted_and_others_are_not_held_up(
    fake: Fake, make_spec: MakeSpec
) -> None:
    fake.engine.faults = Faults(hang=only("create"))
    creating = asyncio.create_task(fake.create(make_spec("forever")))
    await asyncio.sleep(0.1)
    assert not creating.done()
    assert await fake.machines() == []
    fake.engine.faults = Faults()
    assert (await creating).state is State.RUNNING


async def test_a_late_answer_comes_late(fake: Fake) -> None:
    fake.engine.faults = Faults(late_seconds=0.2)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(fake.machines(), 0.1)
    assert await asyncio.wait_for(fake.machines(), 5) == []


async def test_half_a_listing_is_no_listing(fake: Fake, make_spec: MakeSpec) -> None:
    for number in range(2):
        await fake.create(make_spec("forever", id=f"lm-{number}"))
    fake.engine.faults = Faults(partial=True)
    assert len(fake.engine.listing().records) == 1
    for ask in (fake.machines, fake.usage):
        with pytest.raises(Unavailable):
            await ask()


@pytest.mark.parametrize(
    ("faults", "heard"),
    [(Faults(), 1), (Faults(lose_events=True), 0), (Faults(repeat_events=True), 2)],
    ids=["each once", "lost", "repeated"],
)
async def test_events_are_lost_and_repeated(fake: Fake, make_spec: MakeSpec, faults: Faults, heard: int) -> None:
    fake.engine.faults = faults
    events: list[str] = []

    async def listen(source: AsyncIterator[str]) -> None:
        async for machine_id in source:
            events.append(machine_id)

    listener = asyncio.create_task(listen(fake.watch()))
    await asyncio.sleep(0.1)
    await fake.create(make_spec("forever"))
    await asyncio.sleep(0.2)
    fake.engine.faults = Faults(end_events=True)
    await asyncio.wait_for(listener, 5)
    assert events == ["lm-1"] * heard


def test_faults_are_the_same_for_every_user_of_the_engine(settings: Settings) -> None:
    one, other = (Fake(settings).engine for _ in range(2))
    strange = Faults(
        reject="no", exhaust="no", slots=3, unavailable=only("create"), lose_reply=only("stop.ask"), hang=only("usage"),
        late_seconds=0.5, partial=True, lose_events=True, repeat_events=True, end_events=True,
        crash_at="create.start:after", crash_exits=True,
    )  # fmt: skip
    assert all(getattr(strange, f.name) != getattr(Faults(), f.name) for f in fields(Faults))
    one.faults = strange
    assert other.faults == strange


def test_a_fault_that_could_never_strike_is_refused() -> None:
    with pytest.raises(ValueError, match="no crash point"):
        Faults(crash_at="create.start")
    with pytest.raises(ValueError, match="no exchange"):
        Faults(hang=only("creat"))


async def test_the_engine_remembers_what_it_was_asked(fake: Fake, make_spec: MakeSpec) -> None:
    await fake.create(make_spec("forever"))
    await fake.destroy("lm-1")
    assert fake.engine.calls() == [
        ("create.insert", "lm-1"),
        ("create.start", "lm-1"),
        ("create.show", "lm-1"),
        ("destroy.remove", "lm-1"),
    ]


async def everything(fake: Fake, spec: Spec) -> None:
    """Use all that the runtime has, so that every exchange takes place."""

    async def good(started: Started) -> None:
        await asyncio.sleep(0)

    async def bad(started: Started) -> None:
        raise OSError(started.id)

    await fake.probe()
    await fake.ensure(spec.image)
    await fake.images()
    await fake.remove_image("localhost/other")
    with suppress(OSError):
        await fake.create(replace(spec, before_start=bad))
    await fake.create(replace(spec, before_start=good))
    await fake.machines()
    await fake.usage()
    with suppress(TimeoutError):
        await asyncio.wait_for(anext(fake.watch()), 0.05)  # reads once and has nothing to tell
    _ = [chunk async for chunk in fake.console(spec.id, follow=False)]
    await fake.execute(spec.id, ("print", "x"))
    await fake.stop(spec.id, grace=0.03)
    await fake.destroy(spec.id)


@pytest.mark.parametrize("point", CRASH_POINTS)
async def test_after_a_crash_at_any_await_the_listing_explains_what_is_left(
    point: str, settings: Settings, make_spec: MakeSpec
) -> None:
    spec = make_spec("deaf", "forever", scratch=(PurePosixPath("/scratch"),))
    first = Fake(settings)
    first.engine.faults = Faults(crash_at=point)
    with pytest.raises(Crash, match=point):
        await everything(first, spec)
    first.engine.faults = Faults()
    second = Fake(settings)
    for seen in await second.machines():
        assert (seen.id, seen.digest) == (spec.id, spec.digest())
    forced = point in ("stop.force:after", "destroy.remove:before")
    assert (await second.create(spec)).state is (State.EXITED if forced else State.RUNNING)
    await second.destroy(spec.id)
    assert await second.machines() == []
    assert second.engine.leftovers(spec.id) == []


async def test_a_process_can_be_made_to_die_at_a_point(settings: Settings, make_spec: MakeSpec) -> None:
    engine = FakeEngine(settings.state_dir / "fake")
    engine.faults = Faults(crash_at="create.start:after", crash_exits=True)
    order = Order(
        runtime="fake",
        settings=settings,
        image=make_spec().image,
        payload=Payload(None, ("forever",)),
        keep=("lm-1",),
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runtimes.conformance.victim", order.dump(), cwd=Path(__file__).parents[2]
    )
    assert await process.wait() == 137
    engine.faults = Faults()
    assert [(seen.id, seen.state) for seen in await Fake(settings).machines()] == [("lm-1", State.RUNNING)]


def test_every_exchange_is_named_once() -> None:
    assert len(set(EXCHANGES)) == len(EXCHANGES)
    assert len(CRASH_POINTS) == 2 * len(EXCHANGES)
