"""The Podman runtime: the contract's calls as requests to Podman's API."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from runtimes import cgroups, idranges, kernellog, used
from runtimes.contract import (
    Capabilities,
    Conflict,
    ConsoleChunk,
    ExecResult,
    Health,
    Image,
    Limit,
    Network,
    Probe,
    Rejected,
    RuntimeFault,
    Seen,
    Settings,
    Spec,
    Started,
    State,
    Unavailable,
    Usage,
    unmet,
)
from runtimes.idranges import IdRange
from runtimes.locks import held
from runtimes.podman import body, capabilities, execute, host, images, network, service, translate
from runtimes.podman.console import Reader, kept
from runtimes.podman.engine import Answer, Engine

OURS = json.dumps({"label": [f"{body.LABEL}id"]})
"""The filter of a listing that leaves only containers with our stamp."""
KILL_SECONDS = 15.0
POLL_SECONDS = 0.05
RECLAIM = 'chown -R -h -P 0:0 -- "$1" && chmod -R u+rwX -- "$1"'
"""Inside the user's namespace its root is the caller, who then may read and remove all below the path $1."""
GONE = ("no such container", "no container with name or ID")
"""What Podman says, not always with status 404, of a container that vanishes while it is looked at."""


class Podman:
    """Machines as Podman containers; one object talks to one service, found at the first call."""

    name: ClassVar[str] = "podman"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._engine: Engine | None = None
        self._finding = asyncio.Lock()
        self._capabilities: Capabilities | None = None
        self._fuse = ""
        self._version = ""
        self._greatest: tuple[int, int] | None = None
        self._cgroups = cgroups.mounts()

    async def probe(self) -> Probe:
        """Healthy with capabilities; missing with the line to type; unhealthy with what Podman said."""
        try:
            engine = await self._service()
            self._capabilities = None
            can = await self._known(engine)
        except service.Missing as missing:
            return Probe(health=Health.MISSING, reason="podman is not installed", remedy=str(missing))
        except RuntimeFault as fault:
            return Probe(health=Health.UNHEALTHY, reason=str(fault), remedy="podman info")
        return Probe(health=Health.HEALTHY, version=self._version, capabilities=can)

    async def machines(self) -> Sequence[Seen]:
        """Every container with our stamp."""
        engine = await self._ready()
        listed = await self._get(engine, "/containers/json", all=True, filters=OURS)
        ids = [c["Id"] for c in listed or () if translate.stamped(c.get("Labels"), (c.get("Names") or [""])[0])]
        found = await asyncio.gather(*(self._inspect(engine, container) for container in ids))
        return await self._translate([one for one in found if one])

    async def create(self, spec: Spec) -> Seen:
        """As the contract says; a create that fails after the container was made removes it again."""
        engine = await self._ready()
        if lacking := unmet(spec, await self._known(engine)):
            raise Rejected(f"machine {spec.id}: podman here lacks {'; '.join(lacking)}")
        async with held(self._locks, f"machine {spec.id}"):
            made = await self._make(engine, spec)
            try:
                return await self._start(engine, spec, made)
            except BaseException as error:
                if made and not isinstance(error, Unavailable):
                    await asyncio.shield(self._remove(engine, spec.id, len(spec.scratch)))
                raise

    async def stop(self, machine_id: str, *, grace: float) -> None:
        """SIGTERM, `grace` seconds, SIGKILL. Raises `Unavailable` if the machine lives on even so."""
        engine = await self._ready()
        if not await self._ours(engine, machine_id):
            return
        if grace > 0:
            await self._signal(engine, machine_id, "SIGTERM")
            if await self._ended(engine, machine_id, grace):
                return
        await self._signal(engine, machine_id, "SIGKILL")
        if not await self._ended(engine, machine_id, KILL_SECONDS):
            raise Unavailable(
                f"machine {machine_id} still runs {KILL_SECONDS:g} s after SIGKILL; its host may hang in I/O"
            )

    async def destroy(self, machine_id: str) -> None:
        """Kill and remove the container and its volumes; repeated until Podman knows nothing of either."""
        engine = await self._ready()
        found = await self._ours(engine, machine_id)
        count = int(found["Config"]["Labels"].get(f"{body.LABEL}scratch", "0")) if found else 0
        if found:
            await self._remove(engine, machine_id, count)
        await self._remove_volumes(engine, machine_id)

    async def usage(self) -> Mapping[str, Usage]:
        """From the control groups of each running machine's first process; no request but one listing.

        A machine without a control group of its own (rootless on v1) is left out.
        """
        engine = await self._ready()
        filters = {"label": [f"{body.LABEL}id"], "status": ["running"]}
        listed = await self._get(engine, "/containers/json", filters=json.dumps(filters))
        running = [c for c in listed or () if translate.stamped(c.get("Labels"), (c.get("Names") or [""])[0])]

        def read() -> dict[str, Usage]:
            used = {}
            for found in running:
                try:
                    used[found["Names"][0]] = cgroups.usage(found["Pid"], self._cgroups, found["Id"])
                except ProcessLookupError:
                    continue
            return used

        return await engine.run(read)

    async def watch(self) -> AsyncIterator[str]:
        """Ids from Podman's event stream; ends when the stream does."""
        engine = await self._ready()
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[str | None]()
        stop = execute.Stop()

        def read() -> None:
            filters = {"type": ["container"], "label": [f"{body.LABEL}id"]}
            try:
                for name in execute.event_names(engine, filters, stop):
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
        """From conmon's log file; see `runtimes.podman.console`."""
        engine = await self._ready()
        found = await self._ours(engine, machine_id)
        if found is None:
            return
        cap = int(found["Config"]["Labels"].get(f"{body.LABEL}console", 1_000_000))
        reader = Reader(Path(found["HostConfig"]["LogConfig"]["Path"]), most=body.FILE_PER_BYTE * cap)
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
                    ended = not _alive(pid) and await self._ended(engine, machine_id, 0)
                    await asyncio.sleep(POLL_SECONDS)
                    if not pid and not ended:
                        again = await self._ours(engine, machine_id)
                        pid = (again["State"].get("Pid") or 0) if again else 0
        finally:
            reader.close()

    async def execute(self, machine_id: str, command: Sequence[str], *, limit: int = 1_000_000) -> ExecResult:
        """Run `command` in the machine. Raises `Rejected` if the machine does not run or has no such command."""
        engine = await self._ready()
        if await self._ours(engine, machine_id) is None:
            raise Rejected(f"machine {machine_id} is not there")
        return await engine.run(execute.run, engine, machine_id, list(command), limit)

    async def interactive(self, machine_id: str, command: Sequence[str], *, terminal: bool) -> Sequence[str]:
        """Podman's own client against the same service, which knows terminals."""
        engine = await self._ready()
        flags = ["--interactive", "--tty"] if terminal else ["--interactive"]
        return ["podman", "--url", f"unix://{engine.socket}", "exec", *flags, machine_id, *command]

    async def reclaim(self, path: Path) -> None:
        """Rootless: from inside the user's namespace, where the machine's users are ids that its root may change."""
        if not (await self._known(await self._ready())).user_namespace:
            await execute.unshared(["sh", "-c", RECLAIM, "sh", str(path)])

    async def ensure(self, image: Image) -> str:
        """The image's id, once it is in Podman's store."""
        image_id = await images.ensure(await self._ready(), image, self._locks)
        used.note(self.settings.cache_dir, image_id)
        return image_id

    async def images(self) -> Mapping[str, int]:
        """Images that lmd loaded or pulled, with their sizes in bytes."""
        return await images.listed(await self._ready())

    async def remove_image(self, reference: str) -> None:
        """Remove an image that lmd loaded or pulled."""
        await images.remove(await self._ready(), reference)

    async def aclose(self) -> None:
        """Close the connections; machines, and an own service, go on."""
        if self._engine:
            self._engine.close()
            self._engine = None

    @property
    def _locks(self) -> Path:
        return self.settings.run_dir / "locks"

    async def _service(self) -> Engine:
        async with self._finding:
            if self._engine is None:
                self._engine = Engine(await service.find(self.settings.run_dir, self.settings.options))
            return self._engine

    async def _ready(self) -> Engine:
        """The engine, whose own service may have ended by itself since."""
        try:
            engine = await self._service()
            if not await engine.run(service.listening, engine.socket):
                await self.aclose()
                engine = await self._service()
        except service.Missing as missing:
            raise Unavailable(f"podman is not installed: {missing}") from missing
        return engine

    async def _get(self, engine: Engine, path: str, **params: Any) -> Any:
        answer = await engine.call("GET", path, params=params)
        if answer.status != 200:
            raise Unavailable(f"podman answered {answer.status} to {path}: {answer.message}")
        return answer.body

    async def _inspect(self, engine: Engine, name: str) -> Any:
        answer = await engine.call("GET", f"/containers/{name}/json")
        if answer.status == 404 or any(words in answer.message for words in GONE):
            return None
        if answer.status != 200:
            raise Unavailable(f"podman could not look at {name}: {answer.message}")
        return answer.body

    async def _ours(self, engine: Engine, machine_id: str) -> Any:
        """The container of this id if it is there and carries our stamp; what lacks the stamp is not there for us."""
        found = await self._inspect(engine, machine_id)
        return found if found and translate.stamped(found["Config"].get("Labels"), machine_id) else None

    async def _translate(self, found: Sequence[Any]) -> list[Seen]:
        suspects = any(c["State"].get("ExitCode") == 137 for c in found)
        killed = await asyncio.to_thread(kernellog.groups_killed_by_memory_limit) if suspects else frozenset()
        return [translate.seen(container, self.name, killed) for container in found]

    async def _known(self, engine: Engine) -> Capabilities:
        if self._capabilities is None:
            info, fuse = await self._get(engine, "/info"), host.fuse_mode()
            self._version = str((info.get("version") or {}).get("Version", ""))
            self._fuse = capabilities.fuse_by(info, fuse)
            self._capabilities = capabilities.capabilities(info, fuse, host.opens_tun())
        return self._capabilities

    async def _make(self, engine: Engine, spec: Spec) -> bool:
        """True if the container has been made now, False if this very machine was there. Raises `Conflict` if another
        was. The image is looked for only if Podman says that it is not known."""
        try:
            root = host.root_directory(spec.image)
            image = None if root else await engine.run(images.name, spec.image)
        except Rejected:
            if await self._there(engine, spec):  # its image may be gone by now: the machine has its own
                return False
            raise
        if spec.network is Network.BRIDGE and (await self._known(engine)).user_namespace:
            await network.ensure(engine)
        answer = await self._try(engine, spec, root, image) if root or image else None
        if answer and answer.status != 201 and any(words in answer.message for words in images.UNKNOWN):
            answer = None
        if answer is None:
            image = (await self.ensure(spec.image)).removeprefix("sha256:")
            answer = await self._try(engine, spec, None, image)
        if answer.status == 201:
            return True
        if answer.status == 200:
            return False
        await self._remove_volumes(engine, spec.id)
        if "already in use" in answer.message:
            raise Conflict(f"machine {spec.id}: podman has a container of this name that is not ours")
        raise answer.fault(f"create machine {spec.id}")

    async def _try(self, engine: Engine, spec: Spec, root: str | None, image: str | None) -> Answer:
        """The answer to a request to create it; status 200 if it is there. Ids are chosen under a lock."""
        own_ids = (await self._known(engine)).user_namespace
        if self._greatest is None:
            self._greatest = await engine.run(host.greatest, engine.socket)
        nofile, nproc = self._greatest
        async with held(self._locks, "user ids"):
            listed = await self._get(engine, "/containers/json", all=True, filters=OURS)
            if _same(spec, listed or ()):
                return Answer(200, None)
            ids = self._free_ids(listed or ()) if own_ids else None
            await engine.run(host.give, spec, ids)
            request = body.create_body(
                spec, image=image, root=root, ids=ids, nofile=nofile, nproc=nproc, fuse=self._fuse
            )
            request |= network.request(spec.network, rootless=not own_ids)
            return await engine.call("POST", "/containers/create", body=request, seconds=120.0)

    async def _there(self, engine: Engine, spec: Spec) -> bool:
        return _same(spec, await self._get(engine, "/containers/json", all=True, filters=OURS) or ())

    def _free_ids(self, listed: Sequence[Any]) -> IdRange:
        options = self.settings.options
        available = idranges.pool(
            int(options.get("first_uid", idranges.DEFAULT_FIRST)), int(options.get("uid_count", idranges.DEFAULT_COUNT))
        )
        uids = (c["Labels"].get(f"{body.LABEL}uid", "") for c in listed)
        return idranges.free_range(available, {int(uid) for uid in uids if uid.isdecimal()}, host.subordinate())

    async def _start(self, engine: Engine, spec: Spec, made: bool) -> Seen:
        """Start it unless it has been; what was asked of the kernel is verified before it counts as created."""
        found = None if made and not spec.before_start else await self._inspect(engine, spec.id)
        if found is None or found["State"]["Status"] in ("created", "configured", "initialized"):
            if spec.before_start:
                await self._post(engine, f"/containers/{spec.id}/init", f"prepare machine {spec.id}", (204, 304))
                found = await self._inspect(engine, spec.id)
                await spec.before_start(Started(id=spec.id, pid=int(found["State"]["Pid"])))
            await self._post(engine, f"/containers/{spec.id}/start", f"start machine {spec.id}", (204, 304))
            found = await self._inspect(engine, spec.id)
            if complaint := await engine.run(self._not_in_force, spec, found):
                raise Rejected(f"machine {spec.id}: {complaint}")
        return (await self._translate([found]))[0]

    def _not_in_force(self, spec: Spec, found: Mapping[str, Any]) -> str | None:
        """What was asked of the kernel and is not so; None if all is, or the machine has ended already."""
        pid = found["State"].get("Pid")
        first = int(found["Config"]["Labels"][f"{body.LABEL}uid"])
        if not pid:
            return None
        try:
            mapped = Path(f"/proc/{pid}/uid_map").read_text().split()
            now = cgroups.in_force(pid, self._cgroups, found["Id"])
        except (OSError, ProcessLookupError):
            return None
        if first and mapped[:3] != ["0", str(first), str(idranges.MACHINE_IDS)]:
            return f"its user ids are {' '.join(mapped[:3])}, not the range {first}"
        wanted = spec.limits
        for limit, asked, is_now in (
            (Limit.PROCESSORS, wanted.processors, now.processors),
            (Limit.MEMORY, wanted.memory_bytes, now.memory_bytes),
            (Limit.PIDS, wanted.pids, now.pids),
        ):
            if limit in spec.required_limits and asked is not None and (is_now is None or is_now > asked * 1.01):
                return f"its limit on {limit} is {is_now}, not {asked}"
        return None

    async def _post(self, engine: Engine, path: str, doing: str, good: tuple[int, ...]) -> Answer:
        answer = await engine.call("POST", path, seconds=120.0)
        if answer.status not in good:
            raise answer.fault(doing)
        return answer

    async def _signal(self, engine: Engine, machine_id: str, signal: str) -> None:
        answer = await engine.call("POST", f"/containers/{machine_id}/kill", params={"signal": signal})
        if answer.status not in (204, 404, 409, 500):
            raise answer.fault(f"signal machine {machine_id}")

    async def _ended(self, engine: Engine, machine_id: str, within: float) -> bool:
        """True once the machine is gone or has ended; False if it has not within that many seconds."""
        deadline, pause = time.monotonic() + within, 0.02
        while True:
            found = await self._inspect(engine, machine_id)
            if found is None or translate.STATES.get(found["State"]["Status"], State.EXITED) in (
                State.EXITED,
                State.CREATED,
            ):
                return True
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(min(pause, max(0.0, deadline - time.monotonic())))
            pause = min(pause * 1.5, 0.5)

    async def _remove(self, engine: Engine, machine_id: str, scratch: int) -> None:
        """Remove until Podman no longer knows it: its own clean-up of an ended container may be at work beside us."""
        await self._signal(engine, machine_id, "SIGKILL")
        deadline = time.monotonic() + 2 * KILL_SECONDS
        while True:
            params = {"force": True, "timeout": 0, "v": True}
            answer = await engine.call("DELETE", f"/containers/{machine_id}", params=params, seconds=60.0)
            if answer.status == 404:
                break
            if time.monotonic() > deadline:
                raise Unavailable(f"podman could not remove machine {machine_id}: {answer.message}")
            await asyncio.sleep(0.0 if answer.status == 200 else 0.1)
        if scratch:
            await self._remove_volumes(engine, machine_id)

    async def _remove_volumes(self, engine: Engine, machine_id: str) -> None:
        prefix = body.volume_name(machine_id, 0)[:-1]
        listed = await self._get(engine, "/volumes/json")
        for name in (v["Name"] for v in listed or () if v["Name"].startswith(prefix)):
            if name.removeprefix(prefix).isdecimal():
                answer = await engine.call("DELETE", f"/volumes/{name}", params={"force": True})
                if answer.status not in (204, 404):
                    raise answer.fault(f"remove scratch volume {name}")


def _same(spec: Spec, listed: Sequence[Any]) -> bool:
    """True if the machine of this very spec is there. Raises `Conflict` if one of this name but another spec is."""
    labels = next((c["Labels"] for c in listed if translate.stamped(c.get("Labels"), spec.id)), None)
    if labels and labels[f"{body.LABEL}digest"] != spec.digest():
        raise Conflict(f"machine {spec.id} exists already with another specification; destroy it first")
    return labels is not None


def _alive(pid: int) -> bool:
    return pid > 0 and Path(f"/proc/{pid}").exists()
