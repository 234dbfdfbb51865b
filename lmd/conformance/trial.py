"""One check's machines: each lives its whole life as under `lm run`, and is looked at while it runs and afterwards."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from lmd import engines
from lmd.config.chosen import Chosen
from lmd.config.load import machinetype
from lmd.config.models import MachineType
from lmd.conformance.check import NotApplicable, Violation
from lmd.conformance.ground import Ground
from lmd.conformance.report import Report, parse
from lmd.environment.directory import Directory, Record
from lmd.environment.outcome import WORDS, Decided, Outcome, Why
from lmd.machine.foreground import CannotRun, Request, Summary, Voice, run
from runtimes.contract import Runtime, Seen, State

TYPE = "conformance"
POLL_SECONDS = 0.03
PORTRAIT = "portrait"


class Interrupted(Exception):
    """Somebody wants the suite to end: a signal came while a machine ran or started."""


@dataclass(slots=True, kw_only=True)
class Live:
    """A machine that runs, seen from its host. `told` grows with what `lm run` says, `shown` with the console."""

    runtime: Runtime
    seen: Seen
    directory: Directory
    record: Record
    told: list[str]
    shown: bytearray

    async def left(self, name: str, within: float = 5.0) -> bytes:
        """A file of its joboutputs, once it is there and not empty; `Violation` after `within` seconds."""
        last = time.monotonic() + within
        while True:
            try:
                if content := (self.directory.joboutputs / name).read_bytes():
                    return content
            except FileNotFoundError:
                pass
            if time.monotonic() > last:
                raise Violation(f"the payload has not written {name} within {within:g} s")
            await asyncio.sleep(POLL_SECONDS)

    async def ended(self) -> None:
        """Return when it no longer runs."""
        while True:
            found = [m for m in await self.runtime.machines() if m.id == self.seen.id]
            if not found or found[0].state is State.EXITED:
                return
            await asyncio.sleep(POLL_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What came of a machine, after its end. `seconds` is from its being there to its end, by our clock."""

    type: MachineType
    seen: Seen
    record: Record
    summary: Summary
    told: tuple[str, ...]
    shown: bytes
    seconds: float

    @property
    def outcome(self) -> Outcome:
        """How it was judged."""
        return self.summary.outcome

    @property
    def joboutputs(self) -> Path:
        """The folder with what it left there."""
        return self.summary.outputs / "joboutputs"

    def file(self, name: str) -> bytes:
        """A file it left in its joboutputs; `Violation` if there is none."""
        try:
            return (self.joboutputs / name).read_bytes()
        except FileNotFoundError:
            ending = f"it ended with: {self.outcome.message or self.outcome.detail}; console: {self.shown[-300:]!r}"
            raise Violation(f"the payload left no {name}; {ending}") from None

    def report(self) -> Report:
        """The portrait that its payload made."""
        return parse(self.file(PORTRAIT))


Act = Callable[[Live], Awaitable[None]]
"""What is done to a machine while it runs."""


@dataclass(slots=True)
class Trial:
    """Hands machines to one check, and removes what might stay of them."""

    ground: Ground
    _ids: list[str] = field(default_factory=list)

    async def run(
        self,
        script: str | None = None,
        *,
        act: Act | None = None,
        seconds: int | None = None,
        grace: int = 1,
        **table: Any,
    ) -> Left:
        """Run a machine to its end. `script` is its user_data; `table` are keys of its type as in a file.

        `act` is awaited while it runs. `seconds` shortens its wallclock, `grace` is its notice. `Violation` if it cannot
        be started, or has not ended by the deadline.
        """
        if script is not None:
            table["user_data"] = str(self.file("user_data", script.encode()))
        type_ = self._type(table)
        config = replace(self.ground.config, machinetypes={TYPE: type_})
        folder = self.ground.directory / secrets.token_hex(4)
        request = Request(chosen=Chosen(config, type_), outputs=folder, seconds=seconds, grace=grace)
        watched = _Watched(self.ground, act, self._ids)
        try:
            summary = await run(request, self.ground.places, watched.voice, watched.joined)
        except CannotRun as error:
            if isinstance(error.__cause__, asyncio.CancelledError):
                raise Interrupted from error
            raise Violation(f"the machine could not be run: {error}") from error
        return watched.left(type_, summary)

    async def portrait(self) -> Left:
        """The machine of a type that has everything, which has drawn what it sees; one for all checks of a run."""
        if PORTRAIT not in self.ground.kept:
            letter = self.file("letter", b"a line of a file")
            secret = [self.file(name, content) for name, content in SECRETS.items()]
            self.ground.kept[PORTRAIT] = await self.run(
                portrait_script(),
                args=list(ARGUMENTS),
                environment=dict(VARIABLES),
                user_data_option_greeting=GREETING,
                user_data_file_letter=str(letter),
                secret_files={f"/lmc/{path.name}": str(path) for path in secret},
                max_processors=2,
                tmpfs={"/lmc-memory": 1_000_000},
                tmp_binds=["/lmc-scratch"],
            )
        return self.ground.kept[PORTRAIT]

    def file(self, name: str, content: bytes) -> Path:
        """A file of the host, for this check alone."""
        path = self.ground.directory / secrets.token_hex(4) / name
        path.parent.mkdir(mode=0o700)
        path.write_bytes(content)
        return path

    async def clear(self) -> list[str]:
        """Remove what is left of the machines; says what was found, a line each."""
        problems: list[str] = []
        if not self._ids:
            return problems
        async with engines.opened(self.ground.runtime, self.ground.config, self.ground.places) as runtime:
            there = {seen.id for seen in await runtime.machines()}
            for name in self._ids:
                directory = Directory(self.ground.places.machines / name)
                if name in there or directory.path.exists():
                    problems.append(f"machine {name}, or its directory, was left behind")
                    await runtime.destroy(name)
                    await asyncio.to_thread(directory.remove)
        return problems

    def _type(self, table: Mapping[str, Any]) -> MachineType:
        whole = {"root_image": self.ground.root_image, "pull": self.ground.image.pull} | _PLAIN | dict(table)
        settings, policy = self.ground.config.settings, self.ground.config.policy
        made, wrong = machinetype(TYPE, whole | {"runtime": self.ground.runtime}, settings, policy)
        if made is None:
            raise NotApplicable("; ".join(f"{'.'.join(key)}: {text}" for key, text in wrong))
        return made


_PLAIN: Mapping[str, Any] = {
    "network": "none",
    "mb_per_processor": 128,
    "max_wallclock_seconds": 120,
    "fizzle_seconds": 1,
}
ARGUMENTS: Sequence[str] = ("one", "two words", "", "$HOME `id` 'quoted' \"twice\" \\ *", "été")
GREETING = "grüße, $USER & \\1 'all'"
VARIABLES: Mapping[str, str] = {
    "LMC_PLAIN": "plain",
    "LMC_EMPTY": "",
    "LMC_HARD": "a b\tc=$HOME `id` 'x' \"y\" \\ * %s\nsecond line",
    "TZ": "<+14>-14",
}
SECRETS: Mapping[str, bytes] = {
    "token": b"lmc-secret-" + bytes(range(1, 256)),
    "key": b"-----BEGIN LMC KEY-----\nbG1jLXNlY3JldC1rZXk\n-----END LMC KEY-----\n",
}


def portrait_script() -> str:
    """The program with which a payload draws what it sees."""
    return resources.files("lmd.conformance").joinpath("portrait.sh").read_text()


class _Watched:
    """One run's ears, and what is done beside it; gathers what `Left` is made of."""

    def __init__(self, ground: Ground, act: Act | None, ids: list[str]) -> None:
        self._ground, self._act, self._ids = ground, act, ids
        self._live: Live | None = None
        self._failure: Exception | None = None
        self._told: list[str] = []
        self._shown = bytearray()
        self._began = self._ended = 0.0
        self.voice = Voice(tell=self._told.append, show=self._shown.extend)

    async def joined(self, runtime: Runtime, seen: Seen) -> None:
        """Do what is to be done and wait for the end. It keeps its failure, since it has to return for the clean-up."""
        self._ids.append(seen.id)
        self._began = time.monotonic()
        directory = Directory(self._ground.places.machines / seen.id)
        try:
            async with asyncio.timeout(self._ground.deadline):
                self._live = Live(
                    runtime=runtime,
                    seen=seen,
                    directory=directory,
                    record=directory.load(),
                    told=self._told,
                    shown=self._shown,
                )
                if self._act:
                    await self._act(self._live)
                await self._live.ended()
        except TimeoutError:
            self._failure = Violation(f"the machine has not ended within {self._ground.deadline:g} s")
        except Exception as error:
            self._failure = error
        self._ended = time.monotonic()

    def left(self, type_: MachineType, summary: Summary) -> Left:
        """All that came of it; raises what failed meanwhile."""
        if _interrupted(summary.outcome):
            raise Interrupted
        if self._failure:
            raise self._failure
        if self._live is None:
            raise Violation("the machine ended before it was there")
        return Left(
            type=type_,
            seen=self._live.seen,
            record=self._live.record,
            summary=summary,
            told=tuple(self._told),
            shown=bytes(self._shown),
            seconds=self._ended - self._began,
        )


def _interrupted(outcome: Outcome) -> bool:
    if outcome.decided is Decided.SUPERVISOR:
        return outcome.message == WORDS[Why.INTERRUPTED][0]
    return outcome.detail.startswith(f"{Why.INTERRUPTED}: ")
