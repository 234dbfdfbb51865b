"""The contract's calls as requests to an engine's HTTP interface, where the engines agree; a subclass says the rest."""

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from runtimes import cgroups, kernellog
from runtimes.containers import streams, translate, verify
from runtimes.containers.console import Reader, kept
from runtimes.containers.engine import Answer, Engine
from runtimes.containers.stamp import LABEL, listed_name, stamped
from runtimes.contract import (
    Capabilities,
    ConsoleChunk,
    ExecResult,
    Rejected,
    RuntimeFault,
    Seen,
    Settings,
    Spec,
    State,
    Unavailable,
    Usage,
    unmet,
)
from runtimes.locks import held

LABELLED = {"label": [f"{LABEL}id"]}
OURS = json.dumps(LABELLED)
"""The filter of a listing that leaves only containers with our stamp."""
KILL_SECONDS = 15.0
POLL_SECONDS = 0.05


class Containers(ABC):
    """Machines as an engine's containers; one object talks to one service, found at the first call."""

    name: ClassVar[str]
    gone: ClassVar[tuple[str, ...]]
    """What the engine says, not always with status 404, of a container that vanishes while it is looked at."""
    one_range_each: ClassVar[bool]
    """Whether a machine that has user ids of its own shares them with no other."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._engine: Engine | None = None
        self._finding = asyncio.Lock()
        self._capabilities: Capabilities | None = None
        self._version = ""
        self._cgroups = cgroups.mounts()

    @abstractmethod
    async def _service(self) -> Engine:
        """The engine, found at the first call."""

    @abstractmethod
    async def _ready(self) -> Engine:
        """The engine, which may have gone since; raises `Unavailable`."""

    @abstractmethod
    async def _known(self, engine: Engine) -> Capabilities:
        """What the engine can do, asked once."""

    @abstractmethod
    async def _make(self, engine: Engine, spec: Spec) -> bool:
        """True if the container has been made now, False if this very machine was there. Raises `Conflict` if another
        was."""

    @abstractmethod
    async def _run(self, engine: Engine, spec: Spec) -> Any:
        """Start a container that is there, with its `before_start`; the container as `inspect` shows it then."""

    @abstractmethod
    async def _pids(self, engine: Engine, running: Sequence[Any]) -> Mapping[str, int]:
        """The first process of each listed container, by the container's id."""

    @abstractmethod
    async def _volumes(self, engine: Engine, machine_id: str) -> Sequence[str]:
        """The names of the volumes that hold a machine's scratch."""

    @abstractmethod
    def _reader(self, found: Mapping[str, Any], cap: int) -> Reader:
        """A reader of the console of a container that `inspect` shows so; `cap` in bytes of console."""

    async def machines(self) -> Sequence[Seen]:
        """Every container with our stamp."""
        engine = await self._ready()
        ids = [c["Id"] for c in await self._listed(engine) if stamped(c.get("Labels"), listed_name(c))]
        found = await asyncio.gather(*(self._inspect(engine, container) for container in ids))
        return await self._translate([one for one in found if one])

    async def create(self, spec: Spec) -> Seen:
        """As the contract says; a create that fails after the container was made removes it again."""
        engine = await self._ready()
        if lacking := unmet(spec, await self._known(engine)):
            raise Rejected(f"machine {spec.id}: {self.name} here lacks {'; '.join(lacking)}")
        if spec.nic is not None:
            from runtimes.containers import nic  # netlink, for machines in the factory's own network alone

            spec = nic.joined(spec)
        async with held(self._locks, f"machine {spec.id}"):
            made = await self._make(engine, spec)
            try:
                return await self._start(engine, spec, made)
            except BaseException as error:
                if made and not isinstance(error, Unavailable):
                    await asyncio.shield(self._destroy(engine, spec.id))
                raise

    async def stop(self, machine_id: str, *, grace: float) -> None:
        """SIGTERM, `grace` seconds, SIGKILL. Raises `Unavailable` if the machine lives on even so."""
        engine = await self._ready()
        if not (found := await self._ours(engine, machine_id)):
            return
        if grace > 0:
            await self._signal(engine, found["Id"], "SIGTERM")
            if await self._ended(engine, found["Id"], grace):
                return
        await self._signal(engine, found["Id"], "SIGKILL")
        if not await self._ended(engine, found["Id"], KILL_SECONDS):
            raise Unavailable(
                f"machine {machine_id} still runs {KILL_SECONDS:g} s after SIGKILL; its host may hang in I/O"
            )

    async def destroy(self, machine_id: str) -> None:
        """Kill and remove the container and its volumes; repeated until the engine knows nothing of either."""
        await self._destroy(await self._ready(), machine_id)

    async def usage(self) -> Mapping[str, Usage]:
        """From the control groups of each running machine's first process.

        A machine without a control group of its own (rootless on v1) is left out.
        """
        engine = await self._ready()
        listed = await self._listed(engine, filters=json.dumps(LABELLED | {"status": ["running"]}))
        running = [c for c in listed if stamped(c.get("Labels"), listed_name(c))]
        pids = await self._pids(engine, running)

        def read() -> dict[str, Usage]:
            used = {}
            for found in running:
                try:
                    used[listed_name(found)] = cgroups.usage(pids[found["Id"]], self._cgroups, found["Id"])
                except (ProcessLookupError, KeyError):
                    continue
            return used

        return await engine.run(read)

    async def watch(self) -> AsyncIterator[str]:
        """Ids from the engine's event stream; ends when the stream does."""
        engine = await self._ready()
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[str | None]()
        stop = streams.Stop()

        def read() -> None:
            try:
                for name in streams.event_names(engine, {"type": ["container"], **LABELLED}, stop):
                    loop.call_soon_threadsafe(queue.put_nowait, name)
            except RuntimeFault:
                pass
            finally:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(queue.put_nowait, None)

        reading = loop.run_in_executor(None, read)
        try:
            while (name := await queue.get()) is not None:
                yield name
        finally:
            stop.now()
            await asyncio.wait({reading}, timeout=5)

    async def console(self, machine_id: str, *, follow: bool) -> AsyncIterator[ConsoleChunk]:
        """From the file that the engine writes; see `runtimes.containers.console`."""
        engine = await self._ready()
        found = await self._ours(engine, machine_id)
        if found is None:
            return
        cap = int(found["Config"]["Labels"].get(f"{LABEL}console", 1_000_000))
        reader = self._reader(found, cap)
        pid, ended = found["State"].get("Pid") or 0, False
        try:
            if not follow:
                for chunk in await engine.run(kept, reader, cap):
                    if chunk.data or chunk.skipped:
                        yield chunk
                return
            while True:
                chunk = await engine.run(reader.read)
                if chunk.data or chunk.skipped:
                    yield chunk
                elif ended:
                    return
                else:
                    ended = not _alive(pid) and await self._ended(engine, found["Id"], 0)
                    await asyncio.sleep(POLL_SECONDS)
                    if not pid and not ended:
                        again = await self._ours(engine, machine_id)
                        pid = (again["State"].get("Pid") or 0) if again else 0
        finally:
            reader.close()

    async def execute(self, machine_id: str, command: Sequence[str], *, limit: int = 1_000_000) -> ExecResult:
        """Run `command` in the machine. Raises `Rejected` if the machine does not run or has no such command."""
        engine = await self._ready()
        found = await self._ours(engine, machine_id)
        if found is None:
            raise Rejected(f"machine {machine_id} is not there")
        return await engine.run(streams.run, engine, machine_id, found["Id"], list(command), limit)

    async def aclose(self) -> None:
        """Close the connections; machines, and an own service, go on."""
        if self._engine:
            self._engine.close()
            self._engine = None

    @property
    def _locks(self) -> Path:
        return self.settings.run_dir / "locks"

    async def _get(self, engine: Engine, path: str, **params: Any) -> Any:
        answer = await engine.call("GET", path, params=params)
        if answer.status != 200:
            raise Unavailable(f"{self.name} answered {answer.status} to {path}: {answer.message}")
        return answer.body

    async def _listed(self, engine: Engine, **params: Any) -> Sequence[Any]:
        """Containers with our label, of all states unless the parameters say another thing."""
        return await self._get(engine, "/containers/json", **(params or {"all": True, "filters": OURS})) or ()

    async def _inspect(self, engine: Engine, name: str) -> Any:
        answer = await engine.call("GET", f"/containers/{name}/json")
        if answer.status == 404 or any(words in answer.message for words in self.gone):
            return None
        if answer.status != 200:
            raise Unavailable(f"{self.name} could not look at {name}: {answer.message}")
        return answer.body

    async def _ours(self, engine: Engine, machine_id: str) -> Any:
        """The container of this id if it is there and carries our stamp; what lacks the stamp is not there for us."""
        found = await self._inspect(engine, machine_id)
        return found if found and stamped(found["Config"].get("Labels"), machine_id) else None

    async def _translate(self, found: Sequence[Any]) -> list[Seen]:
        suspects = any(c["State"].get("ExitCode") == 137 for c in found)
        killed = await asyncio.to_thread(kernellog.groups_killed_by_memory_limit) if suspects else frozenset()
        return [self._seen(container, killed) for container in found]

    def _seen(self, found: Mapping[str, Any], out_of_memory: frozenset[str]) -> Seen:
        return translate.seen(found, self.name, out_of_memory)

    async def _start(self, engine: Engine, spec: Spec, made: bool) -> Seen:
        """Start it unless it has been; what was asked of the kernel is verified before it counts as created."""
        found = None if made and not spec.before_start else await self._inspect(engine, spec.id)
        if found is None or self._seen(found, frozenset()).state is State.CREATED:
            found = await self._run(engine, spec)
            check = verify.not_in_force
            if complaint := await engine.run(lambda: check(spec, found, self._cgroups, own_ids=self.one_range_each)):
                raise Rejected(f"machine {spec.id}: {complaint}")
            if spec.idle:
                await engine.run(self._rest, found)
        return (await self._translate([found]))[0]

    def _rest(self, found: Mapping[str, Any]) -> None:
        """Engines set the least weight; what is below every weight is the kernel's, where it has it."""
        with suppress(ProcessLookupError):
            cgroups.rest(int(found["State"].get("Pid") or 0), self._cgroups, found["Id"])

    async def _post(self, engine: Engine, path: str, doing: str, good: tuple[int, ...]) -> Answer:
        answer = await engine.call("POST", path, seconds=120.0)
        if answer.status not in good:
            raise answer.fault(doing)
        return answer

    async def _signal(self, engine: Engine, container: str, signal: str) -> None:
        answer = await engine.call("POST", f"/containers/{container}/kill", params={"signal": signal})
        if answer.status not in (204, 404, 409, 500):
            raise answer.fault(f"signal container {container}")

    async def _ended(self, engine: Engine, container: str, within: float) -> bool:
        """True once the container is gone or has ended; False if it has not within that many seconds."""
        deadline, pause = time.monotonic() + within, 0.02
        while True:
            found = await self._inspect(engine, container)
            if found is None or translate.state(found) in (State.EXITED, State.CREATED):
                return True
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(min(pause, max(0.0, deadline - time.monotonic())))
            pause = min(pause * 1.5, 0.5)

    async def _destroy(self, engine: Engine, machine_id: str) -> None:
        """By the engine's id: engines take a name that is not there for the beginning of another container's id."""
        if found := await self._ours(engine, machine_id):
            await self._remove(engine, found["Id"])
        await self._remove_volumes(engine, machine_id)

    async def _remove_volumes(self, engine: Engine, machine_id: str) -> None:
        for name in await self._volumes(engine, machine_id):
            answer = await engine.call("DELETE", f"/volumes/{name}", params={"force": True})
            if answer.status not in (204, 404):
                raise answer.fault(f"remove scratch volume {name}")

    async def _remove(self, engine: Engine, container: str) -> None:
        """Remove until the engine no longer knows it: its clean-up of an ended one may be at work beside us."""
        await self._signal(engine, container, "SIGKILL")
        deadline = time.monotonic() + 2 * KILL_SECONDS
        while True:
            params = {"force": True, "timeout": 0, "v": True}
            answer = await engine.call("DELETE", f"/containers/{container}", params=params, seconds=60.0)
            if answer.status == 404:
                return
            if time.monotonic() > deadline:
                raise Unavailable(f"{self.name} could not remove container {container}: {answer.message}")
            await asyncio.sleep(0.0 if answer.status in (200, 204) else 0.1)


def _alive(pid: int) -> bool:
    return pid > 0 and Path(f"/proc/{pid}").exists()
