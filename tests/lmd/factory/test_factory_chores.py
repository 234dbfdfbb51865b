"""What is done now and then: none of it can hold up the loop, or be done twice at the same time."""

import asyncio
import threading
import time

from factory_ground import SetClocks, Site, config, machinetype, rows, running, until

from lmd.factory.chores import Chore, Chores
from lmd.factory.rows import Phase
from lmd.network.bridge import NetworkFault
from runtimes.contract import Image, ImageKind
from runtimes.fake import Fake


class Heard:
    def __init__(self) -> None:
        self.ends: list[tuple[str, str]] = []

    def __call__(self, name: str, error: Exception | None) -> None:
        self.ends.append((name, type(error).__name__ if error else ""))


async def test_a_chore_that_hangs_is_told_cancelled_and_tried_again_others_go_on() -> None:
    heard, begun = Heard(), []

    async def hangs() -> None:
        begun.append(1)
        await asyncio.sleep(1000)

    async def works() -> None: ...

    chores = Chores(SetClocks(), heard)
    both = [
        Chore(name="hangs", work=hangs, rest=0.0, within=0.05),
        Chore(name="works", work=works, rest=0.0, within=5.0),
    ]
    while len(begun) < 3:
        chores.go(both)
        await asyncio.sleep(0.01)
    await chores.aclose()
    assert heard.ends.count(("hangs", "Late")) >= 2
    assert heard.ends.count(("works", "")) >= 3


async def test_a_thread_that_hangs_is_told_once_and_not_begun_a_second_time() -> None:
    heard, release, begun = Heard(), threading.Event(), []
    chores = Chores(SetClocks(), heard)

    def blocks() -> None:
        begun.append(1)
        release.wait(30)

    one = Chore(name="blocks", work=lambda: chores.thread(blocks), rest=0.0, within=0.02)
    for _ in range(20):
        chores.go([one])
        await asyncio.sleep(0.01)
    assert (heard.ends, begun) == ([("blocks", "Late")], [1])
    release.set()
    while len(begun) < 2:
        chores.go([one])
        await asyncio.sleep(0.01)
    await chores.aclose()


async def test_an_end_does_not_wait_for_a_thread_that_hangs() -> None:
    release = threading.Event()
    chores = Chores(SetClocks(), Heard())
    chores.go([Chore(name="blocks", work=lambda: chores.thread(lambda: release.wait(30)), rest=0.0, within=10.0)])
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await chores.aclose()
    assert time.monotonic() - began < 10
    release.set()


async def test_what_a_chore_raises_is_a_warning_until_it_works(site: Site, monkeypatch) -> None:
    broken = [True]

    async def prune(*_: object) -> tuple[list[object], list[str]]:
        if broken:
            raise RuntimeError("the disk is not there")
        return [], []

    monkeypatch.setattr("lmd.factory.upkeep.keep_within_budget", prune)
    monkeypatch.setattr("lmd.factory.upkeep.IMAGES_SECONDS", 0.05)
    monkeypatch.setattr("lmd.factory.factory.TICK_SECONDS", 0.05)
    async with site.running(config(machinetype("work"), total=1)) as factory:
        warnings = factory.ledger.warnings
        await until(lambda: [w for w in warnings.open() if w.key == "chore:images" and "the disk" in w.text])
        await running(factory, 1)
        broken.clear()
        await until(lambda: not warnings.open())


async def test_the_network_is_mended_between_starts_or_a_warning_says_why_not(site: Site, monkeypatch) -> None:
    answers: list[object] = [NetworkFault("the bridge cannot be made"), True, False]

    def check_and_mend(*_: object) -> object:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("lmd.factory.upkeep.factory_network.check_and_mend", check_and_mend)
    monkeypatch.setattr("lmd.factory.upkeep.NETWORK_SECONDS", 0.05)
    monkeypatch.setattr("lmd.factory.factory.TICK_SECONDS", 0.05)
    async with site.running(config(machinetype("work"), total=1)) as factory:
        await running(factory, 1)
        await until(lambda: site.kinds().count("network-mended") == 1)
        told = next(event for event in site.events if event.kind == "warning-raised")
        assert told.data == {"warning": "network:", "text": "the bridge cannot be made"}
        assert not factory.ledger.warnings.open()


async def test_images_are_held_to_their_budget_and_what_machines_and_types_need_stays(site: Site, monkeypatch) -> None:
    monkeypatch.setattr("lmd.factory.upkeep.IMAGES_SECONDS", 0.05)
    monkeypatch.setattr("lmd.factory.ready.FRESH_SECONDS", 0.0)
    monkeypatch.setattr("lmd.factory.factory.TICK_SECONDS", 0.05)
    fake = Fake(site.settings)
    for name in ("example", "other", "old", "older"):
        await fake.ensure(Image(kind=ImageKind.REFERENCE, location=name))
    short = machinetype("work", root_image="docker://example")
    no_more = machinetype("other", root_image="docker://other", max_processors=1)
    async with site.running(config(short, no_more, total=2)) as factory:
        await running(factory, 2)
        assert {row.machinetype for row in rows(factory, Phase.RUNNING)} == {"work", "other"}
        await asyncio.sleep(0.2)
        assert len(site.engine.images()) == 4  # without a budget nothing is removed unasked
        factory.reconfigure(config(short, total=2, image_budget=1))  # `other` has a machine, and is no type any more
        event = await until(lambda: [event for event in site.events if event.kind == "images-removed"])
        assert set(site.engine.images()) == {"example", "other"}
        assert len(event[0].data["images"]) == 2
        assert not factory.ledger.warnings.open()
