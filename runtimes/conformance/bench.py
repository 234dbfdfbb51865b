"""The bench on which one check is made: machines of its own, instances of the runtime, and a clean end."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from runtimes.conformance.check import NotApplicable, Violation
from runtimes.conformance.context import Context
from runtimes.conformance.payloads import Payload
from runtimes.contract import Boot, Capabilities, Image, Logs, Network, Runtime, RuntimeFault, Seen, Spec, State

T = TypeVar("T")
OWNER = "run:conformance"
SPACE = "conformance.invalid"
MACHINETYPE = "conformance"


def plain_spec(machine_id: str, image: Image, payload: Payload, boot: Boot | None = None) -> Spec:
    """A spec without network or limits; the same in every process, so that its digest is too."""
    return Spec(
        id=machine_id,
        owner=OWNER,
        space=SPACE,
        machinetype=MACHINETYPE,
        image=image,
        entrypoint=payload.entrypoint,
        args=payload.args,
        network=Network.NONE,
        boot=boot,
    )


class Bench:
    """Hands out ids, specs and instances of the runtime to one check, and destroys what came of them."""

    def __init__(self, name: str, context: Context) -> None:
        self.context = context
        self.payloads = context.payloads
        self.soon = context.deadline / 3
        """Seconds within which a thing has to happen that does not depend on the payload."""
        self.ids: list[str] = []
        self._name = name
        self._runtimes: list[Runtime] = []
        self._finally: list[Callable[[], Awaitable[None]]] = []
        self._can: Capabilities | None = None
        self.runtime = self.instance()

    def instance(self) -> Runtime:
        """Another instance of the runtime, closed at the end of the check."""
        made = self.context.make()
        self.close_at_end(made)
        return made

    def close_at_end(self, runtime: Runtime) -> None:
        """Have this instance closed when the check is over."""
        self._runtimes.append(runtime)

    def at_end(self, act: Callable[[], Awaitable[None]]) -> None:
        """Have `act` awaited when the check is over, however it ended; the last one first."""
        self._finally.append(act)

    async def can(self) -> Capabilities:
        """The runtime's capabilities; `Violation` if it is healthy and tells none."""
        if self._can is None:
            probe = await self.runtime.probe()
            if probe.capabilities is None:
                raise Violation(f"probe says {probe.health} ({probe.reason or 'no reason'}) and tells no capabilities")
            self._can = probe.capabilities
        return self._can

    def new_id(self) -> str:
        """An id that no machine has; what exists under it is destroyed at the end."""
        self.ids.append(f"lmc-{secrets.token_hex(6)}")
        return self.ids[-1]

    def spec(self, payload: Payload, **changes: Any) -> Spec:
        """A spec without network or limits for `payload` under a new id, with `changes` to its fields."""
        machine_id = changes.pop("id", None) or self.new_id()
        return replace(plain_spec(machine_id, self.context.image, payload, self.context.boot), **changes)

    def shell(self, script: str, **changes: Any) -> Spec:
        """A spec that runs `script`; `NotApplicable` where machines have no shell."""
        payload = self.payloads.shell(script)
        if payload is None:
            raise NotApplicable("machines of this runtime have no shell")
        return self.spec(payload, **changes)

    async def start(self, payload: Payload, **changes: Any) -> Seen:
        """Create a machine that runs `payload`."""
        return await self.runtime.create(self.spec(payload, **changes))

    async def find(self, machine_id: str, runtime: Runtime | None = None) -> Seen | None:
        """The machine as `machines` shows it, or None; `Violation` if it is listed twice."""
        found = [m for m in await (runtime or self.runtime).machines() if m.id == machine_id]
        if len(found) > 1:
            raise Violation(f"machine {machine_id} is listed {len(found)} times")
        return found[0] if found else None

    async def get(self, machine_id: str, runtime: Runtime | None = None) -> Seen:
        """The machine as `machines` shows it; `Violation` if it is not listed."""
        found = await self.find(machine_id, runtime)
        if found is None:
            raise Violation(f"machine {machine_id} is not listed")
        return found

    async def until(self, what: str, probe: Callable[[], Awaitable[T | None]], within: float | None = None) -> T:
        """Ask `probe` again until it gives something; `Violation` after `within` seconds (default: soon)."""
        limit = self.soon if within is None else within
        last = time.monotonic() + limit
        while True:
            found = await probe()
            if found is not None:
                return found
            if time.monotonic() > last:
                raise Violation(f"{what}: not within {limit:.1f} s")
            await asyncio.sleep(self.context.pause)

    async def ended(self, machine_id: str, within: float | None = None) -> Seen:
        """The machine once it is listed as exited; `Violation` if it vanishes, or has not ended in time."""

        async def probe() -> Seen | None:
            seen = await self.get(machine_id)
            return seen if seen.state is State.EXITED else None

        return await self.until(f"end of machine {machine_id}", probe, within)

    async def console(self, machine_id: str) -> bytes:
        """All that is kept of the console; `NotApplicable` where the runtime keeps none."""
        return b"".join([chunk.data async for chunk in self.logs().console(machine_id, follow=False)])

    def logs(self) -> Logs:
        """The runtime as one that keeps consoles; `NotApplicable` where it keeps none."""
        if not isinstance(self.runtime, Logs):
            raise NotApplicable("this runtime keeps no console")
        return self.runtime

    async def inside(self, script: str, **changes: Any) -> str:
        """What `script` prints in a machine of its own, as text; `Violation` if it does not end with code 0."""
        spec = self.shell(script, **changes)
        self.logs()
        await self.runtime.create(spec)
        seen = await self.ended(spec.id)
        said = (await self.console(spec.id)).decode(errors="replace")
        if seen.end is None or seen.end.exit_code != 0:
            raise Violation(f"the script in machine {spec.id} ended with {seen.end} and said {said[-300:]!r}")
        await self.runtime.destroy(spec.id)
        return said

    def folder(self, name: str) -> Path:
        """An empty directory on the host, for this check alone."""
        made = self.context.directory / secrets.token_hex(4) / name
        made.mkdir(parents=True)
        return made

    async def left(self, machine_id: str) -> list[str]:
        """What the host still has of a machine; empty as well where no hook can tell."""
        return list(await self.context.leftovers(machine_id)) if self.context.leftovers else []

    async def clear(self) -> list[str]:
        """Undo all that the check did; the problems met on the way, a line each."""
        problems: list[str] = []
        for act in reversed(self._finally):
            try:
                await act()
            except Exception as error:
                problems.append(f"clean-up: {error!r}")
        last = self.instance()
        for machine_id in self.ids:
            try:
                await last.destroy(machine_id)
            except Exception as error:
                problems.append(f"destroy {machine_id}: {error!r}")
        for runtime in self._runtimes:
            with suppress(RuntimeFault):
                await runtime.aclose()
        return problems
