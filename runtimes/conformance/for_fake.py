"""How the suite is made on the fake runtime: its scripts, machines of others, and engines that go away."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from runtimes.conformance.context import Context, Outage
from runtimes.conformance.payloads import Payload
from runtimes.contract import Image, ImageKind, Runtime, Settings
from runtimes.fake import EXCHANGES, Fake, FakeEngine, Faults


class FakePayloads:
    """The suite's programs as scripts of the fake's words."""

    def exit(self, code: int, *, after: float = 0.0) -> Payload:
        return _script("sleep", str(after), "exit", str(code))

    def sleep(self, seconds: float) -> Payload:
        return _script("sleep", str(seconds))

    def polite(self, after: float) -> Payload:
        return _script("forever", "when-asked", "sleep", str(after))

    def deaf(self) -> Payload:
        return _script("deaf", "forever")

    def spin(self) -> Payload:
        return _script("spin", "1000000")

    def oom(self) -> Payload:
        return _script("sleep", "0.1", "oom")

    def killed_by_signal(self, number: int) -> Payload | None:
        return _script("signal", str(number))

    def shout(self, size: int) -> Payload:
        return _script("print", "first", "shout", str(size), "print", "last")

    def talk(self, pause: float) -> Payload:
        return _script("print", "first", "sleep", str(pause), "print", "last")

    def write(self, path: str, text: str) -> Payload:
        return _script("write", path, text)

    def fork_bomb(self, bound: int) -> Payload | None:
        return None

    def shell(self, script: str) -> Payload | None:
        return None

    def command(self, text: str, code: int) -> tuple[str, ...]:
        return ("print", text, "exit", str(code))


class FakeForeign:
    """Machines of the fake engine that are not ours."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    async def make(self, name: str) -> None:
        self._engine.add_foreign(name)

    async def state(self, name: str) -> str | None:
        record = self._engine.get(name)
        return None if record is None else record.dump()

    async def remove(self, name: str) -> None:
        self._engine.remove(name)


def fake_context(settings: Settings, directory: Path, *, make: Callable[[], Runtime] | None = None) -> Context:
    """The suite's context for the fake in `settings.state_dir`; `make` gives another runtime over the same engine."""
    engine = FakeEngine(settings.state_dir / "fake")
    new = make or (lambda: Fake(settings))

    async def leftovers(machine_id: str) -> Sequence[str]:
        return engine.leftovers(machine_id)

    image = Image(kind=ImageKind.REFERENCE, location="localhost/conformance")
    return Context(
        make=new,
        image=image,
        payloads=FakePayloads(),
        directory=directory,
        settings=settings,
        missing_image=replace(image, location="localhost/missing"),
        foreign=FakeForeign(engine),
        leftovers=leftovers,
        outages={
            "no answer": _outage(engine, Faults(unavailable=frozenset(EXCHANGES)), new),
            "half a listing": _outage(engine, Faults(partial=True), new),
            "answers lost": _outage(engine, Faults(lose_reply=frozenset(EXCHANGES)), new),
        },
    )


def _outage(engine: FakeEngine, faults: Faults, make: Callable[[], Runtime]) -> Outage:
    @asynccontextmanager
    async def lasting() -> AsyncIterator[Runtime]:
        before = engine.faults
        engine.faults = faults
        try:
            yield make()
        finally:
            engine.faults = before

    return lasting


def _script(*words: str) -> Payload:
    return Payload(None, words)
