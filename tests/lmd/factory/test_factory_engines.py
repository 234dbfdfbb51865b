"""Docker and libvirt stopped, killed, hung, silent, their answers lost under a daemon: no machine twice, none lost."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from factory_ground import Site, config, machinetype, rows, until

from lmd.factory.factory import Factory
from lmd.factory.rows import Phase
from runtimes import registry
from runtimes.contract import Runtime, Seen, Settings, Spec, Unavailable

SCRIPT = "#!/bin/sh\ntrap 'exit 0' TERM\nwhile :; do sleep 0.2; done\n"
SECONDS = 100.0
"""How long an engine may take; a test waits for what happens, not for so long."""


class Docker:
    """A Docker whose containers end with it, in good order or not."""

    name = "docker"
    kept = False
    # its methods are called in the thread in which it was made: with the one that starts it again, it ends

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.options = engine.options | {"ping_seconds": "1"}
        self.stop, self.kill, self.start = engine.stop, engine.kill, engine.start

    def hang(self) -> None:
        os.kill(self.engine.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.engine.process.pid, signal.SIGCONT)


class Libvirt:
    """A libvirt whose machines outlive it."""

    name = "kvm"
    kept = True

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.options = engine.options | {"call_seconds": "5"}

    def stop(self) -> None:
        self.engine.tell("end")

    def kill(self) -> None:
        self.engine.tell("kill")

    def start(self) -> None:
        self.engine.tell("start")

    def hang(self) -> None:
        self.engine.tell("stop")

    def go_on(self) -> None:
        self.engine.tell("continue")


class Ground:
    """A site with one real engine and a type whose machines run until they are told to end."""

    def __init__(self, site: Site, engine: Docker | Libvirt, image: str, script: Path) -> None:
        self.site, self.engine, self.script = site, engine, script
        script.write_text(SCRIPT)
        self.made: dict[str, int] = {}
        self.lose = self.silent = False
        keys: dict[str, Any] = {"root_image": image, "network": "none", "user_data": str(script), "entrypoint": None}
        keys |= {"pull": "never"} if engine.name == "docker" else {"isolation": "vm", "mb_per_processor": 128}
        self.type = machinetype("work", runtime=engine.name, max_processors=1, **keys)
        site.environment = {}
        site.load = self.load

    @property
    def configured(self) -> Any:
        return config(self.type, total=2)

    def runtime(self) -> Runtime:
        """One that this test can use beside the factory's."""
        places = self.site.places
        made = Settings(state_dir=places.state, run_dir=places.run, cache_dir=places.cache, options=self.engine.options)
        return registry.load(self.engine.name, made)

    def load(self, name: str, _: Any) -> Any:
        """The factory's runtime: its events can be silent, and its answers to create be lost."""
        if name != self.engine.name:
            raise LookupError(f"no runtime {name} in this test")
        inner, ground = self.runtime(), self

        async def create(_: Any, spec: Spec) -> Seen:
            seen = await inner.create(spec)
            ground.made[spec.id] = ground.made.get(spec.id, 0) + 1
            if ground.lose:
                raise Unavailable("the answer was lost")
            return seen

        async def watch(_: Any) -> AsyncIterator[str]:
            async for machine in inner.watch():
                if ground.silent:
                    return
                yield machine

        outer = type("Steered", (type(inner),), {"create": create, "watch": watch})
        made = outer.__new__(outer)
        made.__dict__ = inner.__dict__
        return made

    async def running(self, factory: Factory) -> dict[str, float | None]:
        """The ids of the two machines that the factory knows to run, and since when."""
        await until(lambda: len(rows(factory, Phase.RUNNING)) == 2 == len(factory.ledger.live()), SECONDS)
        return {row.id: row.started for row in rows(factory, Phase.RUNNING)}

    async def there(self) -> dict[str, Seen]:
        """What the engine itself shows."""
        runtime = self.runtime()
        try:
            return {seen.id: seen for seen in await runtime.machines()}
        finally:
            await runtime.aclose()

    async def process(self, machine: str) -> int:
        """The first process of a container, or a virtual machine's QEMU."""
        pid = (await self.there())[machine].pid
        return pid or next(
            int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if _qemu(path, machine)
        )

    async def emptied(self, factory: Factory) -> None:
        """End all; in the engine nothing is left, and in the history nothing that lives."""
        factory.ledger.intend("drain", {"reason": "the end", "by_time": time.time()})
        factory.wake()
        await until(lambda: not factory.ledger.live() and all(row.cleaned for row in rows(factory)), SECONDS)
        assert await self.there() == {}
        assert set(self.made) <= set(factory.ledger.rows)
        for name in factory.ledger.rows:
            assert self.site.kinds(name).count("machine-finished") == 1


def _qemu(path: Path, machine: str) -> bool:
    with suppress(OSError):
        words = path.read_bytes().split(b"\0")
        return b"qemu" in words[0] and any(f"guest={machine}".encode() in word for word in words)
    return False


@pytest.fixture(scope="module", params=["docker", pytest.param("kvm", marks=pytest.mark.soak)])
def real(request: pytest.FixtureRequest, busybox_root: Path) -> Iterator[tuple[Docker | Libvirt, str]]:
    """An engine that may be ill-treated, and its image."""
    with ExitStack() as stack:
        if request.param == "docker":
            made = stack.enter_context(request.getfixturevalue("private_docker")("ill"))
            image = made.import_image(busybox_root, "localhost/lmd-test/factory:1").location
            yield Docker(made), f"docker://{image}"
        else:
            request.getfixturevalue("micro_kit")
            yield Libvirt(request.getfixturevalue("libvirt_engine")), str(busybox_root)


@pytest.fixture
def ground(site: Site, real: tuple[Docker | Libvirt, str], short_tmp: Path) -> Ground:
    return Ground(site, *real, short_tmp / "ill.sh")


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # docker-py leaves the socket of a connection that is refused to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_an_engine_that_ends_freezes_its_rows_and_tells_all_when_it_is_back(ground: Ground, how: str) -> None:
    async with ground.site.running(ground.configured) as factory:
        before = await ground.running(factory)
        observed = factory.engines[ground.engine.name]
        getattr(ground.engine, how)()
        try:
            observed.look()
            await until(lambda: observed.observation.machines is None, SECONDS)
            for _ in range(5):
                factory.wake()
                await asyncio.sleep(0.1)
            assert set(factory.ledger.rows) == set(before)
            assert [w.key for w in factory.ledger.warnings.open()] == [f"runtime:{ground.engine.name}"]
        finally:
            ground.engine.start()
        observed.look()
        await until(lambda: observed.observation.machines is not None, SECONDS)
        if not ground.engine.kept:
            await until(lambda: not any(factory.ledger.rows[name].live for name in before), SECONDS)
        after = await ground.running(factory)
        assert after == before or not ground.engine.kept
        await ground.emptied(factory)


async def test_an_engine_that_hangs_changes_nothing(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmd.factory.watched.LIST_SECONDS", 3.0)
    async with ground.site.running(ground.configured) as factory:
        before = await ground.running(factory)
        observed = factory.engines[ground.engine.name]
        process = await ground.process(min(before))
        ground.engine.hang()
        try:
            os.kill(process, signal.SIGKILL)
            observed.look()
            await until(lambda: observed.observation.machines is None, SECONDS)
            for _ in range(5):
                factory.wake()
                await asyncio.sleep(0.1)
            assert set(factory.ledger.rows) == set(before)
            assert len(rows(factory, Phase.RUNNING)) == 2
        finally:
            ground.engine.go_on()
        await until(lambda: not factory.ledger.rows[min(before)].live, SECONDS)
        after = await ground.running(factory)
        assert set(after) & set(before) == {max(before)}
        assert after[max(before)] == before[max(before)]
        await ground.emptied(factory)


async def test_a_lost_answer_to_create_makes_no_machine_twice(ground: Ground) -> None:
    ground.lose = True
    async with ground.site.running(ground.configured) as factory:
        after = await ground.running(factory)
        assert "create-unsure" in ground.site.kinds()
        assert set(after) == set(await ground.there()) == set(factory.ledger.rows)
        await ground.emptied(factory)


async def test_events_that_end_silently_are_no_news(ground: Ground) -> None:
    async with ground.site.running(ground.configured) as factory:
        before = await ground.running(factory)
        ground.silent = True
        os.kill(await ground.process(min(before)), signal.SIGKILL)
        await until(lambda: not factory.ledger.rows[min(before)].live, SECONDS)
        assert len(set(await ground.running(factory)) & set(before)) == 1
        await ground.emptied(factory)
