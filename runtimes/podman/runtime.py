"""The Podman runtime: what Podman's interface has of its own, above `runtimes.containers`."""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar

from runtimes import cgroups, idranges, used
from runtimes.containers.console import Reader
from runtimes.containers.engine import Answer, Engine, listening
from runtimes.containers.host import fuse_mode, give, greatest
from runtimes.containers.places import FILE_PER_BYTE
from runtimes.containers.runtime import Containers
from runtimes.containers.stamp import LABEL, same, volume_name
from runtimes.contract import (
    Capabilities,
    Conflict,
    Exhausted,
    Health,
    Image,
    Limit,
    Network,
    Probe,
    Rejected,
    RuntimeFault,
    Settings,
    Spec,
    Started,
    Unavailable,
)
from runtimes.idranges import IdRange
from runtimes.locks import Held, held
from runtimes.podman import body, capabilities, host, images, network, service, unshared
from runtimes.podman.console import plain
from runtimes.podman.engine import PodmanEngine


class Podman(Containers):
    """Machines as Podman containers; one object talks to one service, found at the first call."""

    name: ClassVar[str] = "podman"
    gone = ("no such container", "no container with name or ID")
    one_range_each = True

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._fuse = ""
        self._greatest: tuple[int, int] | None = None
        self._taken: frozenset[int] = frozenset()

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

    async def interactive(self, machine_id: str, command: Sequence[str], *, terminal: bool) -> Sequence[str]:
        """Podman's own client against the same service, which knows terminals."""
        engine = await self._ready()
        flags = ["--interactive", "--tty"] if terminal else ["--interactive"]
        return ["podman", "--url", f"unix://{engine.socket}", "exec", *flags, machine_id, *command]

    async def reclaim(self, path: Path) -> None:
        """Rootless: from inside the user's namespace, where the machine's users are ids that its root may change."""
        if not (await self._known(await self._ready())).user_namespace:
            await unshared.run(["sh", "-c", unshared.RECLAIM, "sh", str(path)])

    async def ensure(self, image: Image) -> str:
        """The image's id, once it is in Podman's store."""
        engine = await self._ready()
        architectures = (await self._known(engine)).architectures
        image_id = await images.ensure(engine, image, self._locks, architectures)
        used.note(self.settings.cache_dir, image_id)
        return image_id

    async def images(self) -> Mapping[str, int]:
        """Images that lmd loaded or pulled, with their sizes in bytes."""
        return await images.listed(await self._ready())

    async def remove_image(self, reference: str) -> None:
        """Remove an image that lmd loaded or pulled."""
        await images.remove(await self._ready(), reference)

    async def _service(self) -> Engine:
        async with self._finding:
            if self._engine is None:
                self._engine = PodmanEngine(await service.find(self.settings.run_dir, self.settings.options))
            return self._engine

    async def _ready(self) -> Engine:
        """The engine, whose own service may have ended by itself since."""
        try:
            engine = await self._service()
            if not await engine.run(listening, engine.socket):
                await self.aclose()
                engine = await self._service()
        except service.Missing as missing:
            raise Unavailable(f"podman is not installed: {missing}") from missing
        return engine

    async def _known(self, engine: Engine) -> Capabilities:
        if self._capabilities is None:
            info, fuse = await self._get(engine, "/info"), fuse_mode()
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
        can = await self._known(engine)
        own_ids = can.user_namespace
        if self._greatest is None:
            self._greatest = await engine.run(greatest, engine.socket)
        nofile, nproc = self._greatest
        async with AsyncExitStack() as stack:
            ids = await self._own_ids(engine, stack) if own_ids else None
            if await self._there(engine, spec):
                return engine.answer(200, None)
            await engine.run(give, spec, ids.first if ids else 0)
            request = body.create_body(
                spec,
                image=image,
                root=root,
                ids=ids,
                nofile=nofile,
                nproc=nproc,
                fuse=self._fuse,
                weigh=cgroups.weigh(os.uname().release) if Limit.PROCESSORS in can.limits else None,
            )
            request |= network.request(spec.network, rootless=not own_ids)
            return await engine.call("POST", "/containers/create", body=request, seconds=120.0)

    async def _there(self, engine: Engine, spec: Spec) -> bool:
        found = await self._inspect(engine, spec.id)
        return bool(found) and same(spec, [found["Config"].get("Labels")])

    async def _own_ids(self, engine: Engine, stack: AsyncExitStack) -> IdRange:
        """A range that no machine has, and that nobody else takes until `stack` is closed: each has a lock of its own,
        so that many machines are made at the same time."""
        busy: set[int] = set()
        while True:
            try:
                ids = self._free_ids(self._taken | busy)
            except Exhausted:  # some may have gone since the last look
                self._taken = _first_uids(await self._listed(engine))
                ids = self._free_ids(self._taken | busy)
            try:
                lock = held(self._locks, f"user ids {ids.first}", seconds=0)
                async with AsyncExitStack() as trial:
                    await trial.enter_async_context(lock)
                    filters = json.dumps({"label": [f"{LABEL}uid={ids.first}"]})
                    free = not await self._listed(engine, all=True, filters=filters)
                    if free:
                        self._taken |= {ids.first}
                        stack.push_async_exit(trial.pop_all())
                        return ids
                    self._taken = _first_uids(await self._listed(engine))
            except Held:
                busy.add(ids.first)

    def _free_ids(self, taken: Collection[int]) -> IdRange:
        options = self.settings.options
        available = idranges.pool(
            int(options.get("first_uid", idranges.DEFAULT_FIRST)), int(options.get("uid_count", idranges.DEFAULT_COUNT))
        )
        return idranges.free_range(available, taken, host.subordinate())

    async def _run(self, engine: Engine, spec: Spec) -> Any:
        if spec.before_start:
            await self._post(engine, f"/containers/{spec.id}/init", f"prepare machine {spec.id}", (204, 304))
            found = await self._inspect(engine, spec.id)
            await spec.before_start(Started(id=spec.id, pid=int(found["State"]["Pid"])))
        await self._post(engine, f"/containers/{spec.id}/start", f"start machine {spec.id}", (204, 304))
        return await self._inspect(engine, spec.id)

    async def _pids(self, engine: Engine, running: Sequence[Any]) -> Mapping[str, int]:
        return {c["Id"]: int(c["Pid"]) for c in running}

    def _reader(self, found: Mapping[str, Any], cap: int) -> Reader:
        return Reader(Path(found["HostConfig"]["LogConfig"]["Path"]), plain, most=FILE_PER_BYTE * cap)

    async def _volumes(self, engine: Engine, machine_id: str) -> Sequence[str]:
        prefix = volume_name(machine_id, 0)[:-1]
        listed = [str(v["Name"]) for v in await self._get(engine, "/volumes/json") or ()]
        return [name for name in listed if name.startswith(prefix) and name.removeprefix(prefix).isdecimal()]


def _first_uids(listed: Sequence[Any]) -> frozenset[int]:
    """The first host user ids of the machines in a listing."""
    uids = (c["Labels"].get(f"{LABEL}uid", "") for c in listed)
    return frozenset(int(uid) for uid in uids if uid.isdecimal())
