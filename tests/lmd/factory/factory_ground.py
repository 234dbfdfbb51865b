"""A factory in this process, on the fake engine, that a test can steer; and `lmd` as a process of its own."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from lmd.cli.asking import Daemon, NoDaemon
from lmd.config.models import Config, MachineType, Settings
from lmd.factory.factory import Factory
from lmd.factory.host import Host
from lmd.factory.rows import Phase, Row
from lmd.places import PlaceError, Places
from runtimes.contract import Settings as RuntimeSettings
from runtimes.contract import State
from runtimes.fake import Fake, FakeEngine

LM = [sys.executable, "-c", "from lmd.cli.main import main; main()"]
LMD = [sys.executable, "-c", "from lmd.factory.main import main; main()"]


class SetClocks:
    """The host's clocks; the wall clock can be set."""

    def __init__(self) -> None:
        self.shift = 0.0

    def wall(self) -> float:
        return time.time() + self.shift

    def boot(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)


def machinetype(name: str, *words: str, **keys: Any) -> MachineType:
    """A type whose machines run a script of the fake."""
    plain: dict[str, Any] = {
        "root_image": "docker://example",
        "runtime": "fake",
        "target_share": 1.0,
        "mb_per_processor": 64,
        "entrypoint": words or ("forever",),
        "joboutputs_bytes": 100_000,
        "console_bytes": 131_072,
        "fizzle_seconds": 0,
        "backoff_seconds": 0,
        "machines_dir_days": 1.0,
    }
    return MachineType.model_validate({"name": name, **plain, **keys})


def config(*types: MachineType, total: object = 4, **settings: Any) -> Config:
    """A configuration of these types."""
    plain = {"factory_name": "wn1", "total_processors": total, "overload_per_processor": 1e6}
    made = Settings.model_validate({**plain, **settings})
    return Config(settings=made, machinetypes={type_.name: type_ for type_ in types})


class Site:
    """The directories and the engine of one factory; any number of daemons can live on them, one after the other."""

    def __init__(self, directory: Path, *, engine: Path | None = None, run: Path | None = None) -> None:
        self.places = Places(directory / "state", run or directory / "run", directory / "cache")
        with suppress(PlaceError):
            self.places.make()
        self.clocks = SetClocks()
        self.environment = {"LMD_FAKE": "1"}
        self.events: list[Any] = []
        self.load: Callable[[str, Config], Any] | None = None
        self.engine_at = engine or self.places.state
        made = RuntimeSettings(
            state_dir=self.engine_at, run_dir=self.places.run, cache_dir=self.places.cache, options={}
        )
        self.settings = made
        self.engine: FakeEngine = Fake(made).engine

    @property
    def host(self) -> Host:
        def load(name: str, configured: Config) -> Any:
            if name != "fake":
                raise LookupError(f"no runtime {name} in this test")
            return Fake(self.settings)

        return Host(self.places, self.clocks, self.environment, self.load or load, self.events.append)

    @asynccontextmanager
    async def running(self, configured: Config) -> AsyncIterator[Factory]:
        """A daemon that is ended in good order at the end."""
        factory = Factory(self.host, configured)
        await factory.open()
        loop = asyncio.create_task(factory.run())
        try:
            yield factory
        finally:
            factory.end()
            await loop
            await factory.aclose()

    def alive(self) -> list[str]:
        """The machines that run in the engine."""
        now = self.engine.clock.time()
        return [r.name for r in self.engine.listing().records if r.labels and r.state(now)[0] is State.RUNNING]

    def kinds(self, machine: str = "") -> list[str]:
        """The kinds of the events so far, of one machine if it is named."""
        return [event.kind for event in self.events if machine in ("", event.machine)]


async def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What the condition gives as soon as it is true."""
    last = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < last, f"not within {seconds:g} s"
        await asyncio.sleep(0.005)
    return found


def rows(factory: Factory, phase: Phase | None = None) -> list[Row]:
    return [row for row in factory.ledger.rows.values() if phase in (None, row.phase)]


async def running(factory: Factory, count: int) -> dict[str, Row]:
    """The rows by id, when so many run."""
    await until(lambda: len(rows(factory, Phase.RUNNING)) == count)
    return {row.id: row for row in rows(factory, Phase.RUNNING)}


class Lmd:
    """`lmd` and `lm` as processes, with directories of their own."""

    def __init__(self, home: Path, text: str, environment: dict[str, str]) -> None:
        self.home = home
        (home / "config").mkdir(parents=True)
        names = {"LMD_CONFIG_DIR": "config", "LMD_STATE_DIR": "state", "LMD_RUN_DIR": "run", "LMD_CACHE_DIR": "cache"}
        paths = {name: str(home / part) for name, part in names.items()}
        self.environment = os.environ | paths | {"NO_COLOR": "1"} | environment
        self.process: subprocess.Popen[bytes] | None = None
        self.configure(text)

    def configure(self, text: str) -> None:
        (self.home / "config/lmd.toml").write_text(text)

    def start(self, *, wait: bool = True) -> "Lmd":
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*LMD, "--log", "json"],
                env=self.environment,
                stderr=log,
                stdout=log,
                stdin=subprocess.DEVNULL,
                cwd=self.home,  # Python takes packages from here first, also where PYTHONPATH names others
            )
        last = time.monotonic() + 90  # on a busy host, a new copy of the code takes half a minute to be compiled
        while wait and not self.answers():
            assert self.process.poll() is None, f"lmd has ended by itself: {self.log()[-5000:]}"
            assert time.monotonic() < last, f"lmd does not answer: {self.log()[-5000:]}"
            time.sleep(0.02)
        return self

    @property
    def daemon(self) -> Daemon:
        """Its API, asked from this process."""
        return Daemon(self.home / "run/lmd.sock")

    def answers(self) -> bool:
        try:
            return bool(self.daemon.get("/v1/factory"))
        except NoDaemon:
            return False

    def __call__(
        self, *arguments: str, seconds: float = 50, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*LM, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd=cwd or self.home,
        )

    def machines(self, *, ended: bool = False) -> list[dict[str, Any]]:
        return self.daemon.get("/v1/machines", **({"all": 1} if ended else {}))

    def until(self, condition: Callable[[], Any], seconds: float = 30) -> Any:
        last = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < last, f"not within {seconds:g} s; {self.log()[-3000:]}"
            time.sleep(0.05)
        return found

    def running(self, count: int) -> list[dict[str, Any]]:
        return self.until(lambda: len(m := [m for m in self.machines() if m["phase"] == "running"]) == count and m)

    def machine_ids(self, count: int) -> list[str]:
        """The ids, when so many run."""
        return [machine["id"] for machine in self.running(count)]

    def empty(self) -> None:
        """End all machines, and see that nothing is left of them."""
        if not self.answers():
            self.start()
        self("drain", "--deadline", "0")
        self.until(lambda: not self.machines() and all(one["cleaned"] for one in self.machines(ended=True)), seconds=60)

    def log(self) -> str:
        return (self.home / "log").read_text(errors="replace")

    def send(self, number: int) -> None:
        assert self.process
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> int:
        """End the daemon; its exit code."""
        assert self.process
        with suppress(ProcessLookupError):
            self.process.send_signal(number)
        return self.process.wait(30)
