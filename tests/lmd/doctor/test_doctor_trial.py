"""The doctor's trial beside an engine that fails: it is told, and nothing of it stays."""

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lmd.config.models import Config
from lmd.doctor import Asked
from lmd.doctor.trial import SPACE, tried
from lmd.places import Places
from runtimes.contract import Capabilities, Image, ImageKind, Seen, Settings, Spec
from runtimes.fake import Fake, Faults
from runtimes.fake.engine import WallClock


class LongAgo(WallClock):
    """A clock of ten minutes ago."""

    def time(self) -> float:
        return time.time() - 600


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    places = Places(tmp_path / "state", tmp_path / "run", tmp_path / "cache").make()
    return Asked(uid=os.geteuid(), user="root", environment={}, config=Config(), places=places, runtimes=("fake",))


class Shellless(Fake):
    """The fake has no shell to run: any other script stands in for the trial's."""

    async def create(self, spec: Spec) -> Seen:
        return await super().create(replace(spec, entrypoint=None, args=("forever",)))


@pytest.fixture
def fake(asked: Asked) -> Fake:
    return Shellless(_settings(asked))


def _settings(asked: Asked) -> Settings:
    return Settings(state_dir=asked.places.state, run_dir=asked.places.run, cache_dir=asked.places.cache)


async def can(fake: Fake) -> Capabilities:
    found = (await fake.probe()).capabilities
    assert found
    return found


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (Faults(reject="cgroups in hybrid mode not supported"), "hybrid mode"),
        (Faults(exhaust="no disk left"), "no disk left"),
        (Faults(unavailable=frozenset({"create"})), "fake"),
        (Faults(lose_reply=frozenset({"create.show"})), "list before"),
    ],
)
async def test_what_the_engine_says_is_told_and_no_machine_stays(asked: Asked, fake: Fake, faults, words: str) -> None:
    able = await can(fake)
    fake.engine.faults = faults
    made = await tried(fake, able, asked)
    assert made is not None
    assert words in made.failed
    assert made.without_network  # tried again without one, and told, too
    fake.engine.faults = Faults()
    assert await fake.machines() == []


async def test_a_trial_that_is_cancelled_leaves_no_machine(asked: Asked, fake: Fake) -> None:
    able = await can(fake)
    fake.engine.faults = Faults(hang=frozenset({"create.show"}))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await tried(fake, able, asked)
    fake.engine.faults = Faults()
    assert await fake.machines() == []


async def test_what_a_killed_doctor_has_left_is_removed_and_nothing_else(asked: Asked, fake: Fake) -> None:
    spec = Spec(
        id="lmx-left",
        owner=f"run:{asked.uid}",
        space=SPACE,
        machinetype="doctor",
        image=Image(kind=ImageKind.REFERENCE, location="localhost/example"),
        args=("forever",),
    )
    before = Fake(_settings(asked), LongAgo())
    for one in (
        spec,
        replace(spec, id="of-another", owner="run:4711"),
        replace(spec, id="of-a-run", space="lm-run"),
    ):
        await before.create(one)
    await fake.create(replace(spec, id="lmx-at-work"))
    fake.engine.faults = Faults(reject="not now")
    await tried(fake, await can(fake), asked)
    assert {seen.id for seen in await fake.machines()} == {"of-another", "of-a-run", "lmx-at-work"}


async def test_virtual_machines_are_tried_by_their_own_probe(asked: Asked, fake: Fake) -> None:
    assert await tried(fake, replace(await can(fake), isolation="vm"), asked) is None


async def test_a_runtime_that_takes_no_archive_is_not_tried_and_that_is_told(asked: Asked, fake: Fake) -> None:
    made = await tried(fake, replace(await can(fake), images=frozenset()), asked)
    assert made is not None
    assert made.skipped == "lm conformance fake tries it with machines"
