"""One check's machines: each lives its whole life as under `lm run`, and is looked at while it runs and afterwards."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from lmd import engines
from lmd.config.chosen import Chosen
from lmd.config.load import machinetype
from lmd.config.models import MachineType
from lmd.conformance.beside import TYPE, Act, Beside, mine
from lmd.conformance.check import NotApplicable, Violation
from lmd.conformance.ground import Ground
from lmd.conformance.report import Report, parse
from lmd.environment.directory import Directory, Record
from lmd.environment.outcome import WORDS, Decided, Outcome, Why
from lmd.machine.foreground import CannotRun, Request, Summary, run

PORTRAIT = "portrait"


class Interrupted(Exception):
    """Somebody wants the suite to end: a signal came while a machine ran or started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What came of a machine, after its end."""

    type: MachineType
    record: Record
    summary: Summary
    told: tuple[str, ...]
    shown: bytes

    @property
    def seconds(self) -> float:
        """How long it ran, by its engine's clock."""
        return self.summary.seconds

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

        `act` is awaited while it runs. `seconds` shortens its wallclock, `grace` is its notice. `Violation` if it
        cannot be started, or has not ended by the deadline.
        """
        if script is not None:
            table["user_data"] = str(self.file("user_data", script.encode()))
        type_ = self._type(table)
        config = replace(self.ground.config, machinetypes={TYPE: type_})
        folder = self.ground.directory / secrets.token_hex(4)
        request = Request(chosen=Chosen(config, type_), outputs=folder, seconds=seconds, grace=grace)
        beside = Beside(self.ground, self._ids)
        try:
            async with beside.looking(act):
                summary = await run(request, self.ground.places, beside.voice, None)
                if _interrupted(summary.outcome):
                    raise Interrupted
        except CannotRun as error:
            if isinstance(error.__cause__, asyncio.CancelledError):
                raise Interrupted from error
            raise Violation(f"the machine could not be run: {error}") from error
        return Left(
            type=type_,
            record=beside.record(),
            summary=summary,
            told=tuple(beside.told),
            shown=bytes(beside.shown),
        )

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

    async def slack(self) -> int:
        """Seconds that a machine may take to start, which containers do at once: two more than the portrait's took."""
        if self.ground.can.isolation == "container":
            return 0
        left = await self.portrait()
        return max(1, int(left.report().text("clock")) - int(left.record.created)) + 2

    def file(self, name: str, content: bytes) -> Path:
        """A file of the host, for this check alone."""
        path = self.ground.directory / secrets.token_hex(4) / name
        path.parent.mkdir(mode=0o700)
        path.write_bytes(content)
        return path

    async def clear(self) -> list[str]:
        """Remove what is left of the machines; says what was found, a line each."""
        problems: list[str] = []
        names = dict.fromkeys([*self._ids, *(record.id for _, record in mine(self.ground))])
        if not names:
            return problems
        async with engines.opened(self.ground.runtime, self.ground.config, self.ground.places) as runtime:
            there = {seen.id for seen in await runtime.machines()}
            for name in names:
                directory = Directory(self.ground.places.machines / name)
                if name in there or directory.path.exists():
                    problems.append(f"machine {name}, or its directory, was left behind")
                    await runtime.destroy(name)
                    await asyncio.to_thread(directory.remove)
        return problems

    def _type(self, table: Mapping[str, Any]) -> MachineType:
        image = {"root_image": self.ground.root_image, "pull": self.ground.image.pull}
        settings, policy = self.ground.config.settings, self.ground.config.policy
        plain = {**_PLAIN, "max_wallclock_seconds": max(120, int(self.ground.deadline))}  # a busy host needs it to boot
        made, wrong = machinetype(TYPE, {**plain, **image, **table, "runtime": self.ground.runtime}, settings, policy)
        if made is None:
            reasons = "; ".join(f"{'.'.join(key)}: {text}" for key, text in wrong)
            if table.get("nested_containers") and not policy.nested_containers:
                raise NotApplicable(reasons)
            raise Violation(f"the suite's machinetype is refused: {reasons}")
        return made


_PLAIN: Mapping[str, Any] = {
    "network": "none",
    "mb_per_processor": 128,
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


def _interrupted(outcome: Outcome) -> bool:
    if outcome.decided is Decided.SUPERVISOR:
        return outcome.message == WORDS[Why.INTERRUPTED][0]
    return outcome.detail.startswith(f"{Why.INTERRUPTED}: ")
