"""The Docker runtime: what Docker's interface has of its own, above `runtimes.containers`."""

import asyncio
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from runtimes import used
from runtimes.containers.console import Reader
from runtimes.containers.engine import Answer, Engine
from runtimes.containers.host import fuse_mode, give, greatest
from runtimes.containers.places import FILE_PER_BYTE
from runtimes.containers.runtime import Containers
from runtimes.containers.stamp import LABEL, same, volume_name
from runtimes.contract import (
    Capabilities,
    Conflict,
    Health,
    Image,
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
)
from runtimes.docker import body, capabilities, host, images, network, service, waiting
from runtimes.docker.console import plain
from runtimes.docker.engine import DockerEngine
from runtimes.docker.images import Found

RELEASE_SECONDS = 30.0


class Docker(Containers):
    """Machines as Docker containers; one object talks to one daemon, found at the first call."""

    name: ClassVar[str] = "docker"
    gone = ("No such container",)
    one_range_each = False

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._info: dict[str, Any] = {}
        self._greatest: tuple[int, int] | None = None

    async def probe(self) -> Probe:
        """Healthy with capabilities; missing, where nobody has started it, with the line to type; else unhealthy."""
        try:
            self._capabilities = None
            await self._service()
            can = await self._known(await self._ready())
        except service.Missing as missing:
            return Probe(health=Health.MISSING, reason=str(missing), remedy=missing.remedy)
        except RuntimeFault as fault:
            return Probe(health=Health.UNHEALTHY, reason=str(fault), remedy="systemctl start docker; docker info")
        return Probe(health=Health.HEALTHY, version=self._version, capabilities=can)

    async def interactive(self, machine_id: str, command: Sequence[str], *, terminal: bool) -> Sequence[str]:
        """Docker's own client against the same daemon, which knows terminals."""
        engine = await self._ready()
        if shutil.which("docker") is None:
            raise Rejected("docker's command line is not installed: apt-get install docker.io")
        flags = ["--interactive", "--tty"] if terminal else ["--interactive"]
        return ["docker", "--host", f"unix://{engine.socket}", "exec", *flags, machine_id, *command]

    async def ensure(self, image: Image) -> str:
        """The image's id, once it is in Docker's store."""
        return str((await self._image(await self._ready(), image))["Id"])

    async def images(self) -> Mapping[str, int]:
        """Images that lmd loaded or pulled, with their sizes in bytes."""
        return await images.listed(await self._ready())

    async def remove_image(self, reference: str) -> None:
        """Remove an image that lmd loaded or pulled."""
        await images.remove(await self._ready(), reference)

    async def _service(self) -> DockerEngine:
        async with self._finding:
            if not isinstance(self._engine, DockerEngine):
                if os.geteuid() != 0:
                    raise Unavailable("docker's machines belong to root: run lm as root, or use rootless podman")
                self._engine = await service.find(self.settings.options)
            return self._engine

    async def _ready(self) -> Engine:
        try:
            engine = await self._service()
        except service.Missing as missing:
            raise Unavailable(f"{missing}: {missing.remedy}") from missing
        await service.answers(engine, self.settings.options)
        return engine

    async def _known(self, engine: Engine) -> Capabilities:
        if self._capabilities is None:
            info, version = await asyncio.gather(self._get(engine, "/info"), self._get(engine, "/version"))
            if "rootless" in capabilities.security(info) or info.get("OSType") != "linux":
                raise Unavailable("this docker is rootless or not of Linux, which lmd does not speak with: use podman")
            self._info, self._version = info, str(version.get("Version", ""))
            self._capabilities = capabilities.capabilities(info, str(version["Arch"]), host.beside())
        return self._capabilities

    async def _image(self, engine: Engine, image: Image) -> Found:
        can = await self._known(engine)
        if image.kind not in can.images:
            raise Rejected(f"image {image.location}: {image.kind} on docker: {can.absent.get('images', '')}")
        (architecture,) = can.architectures
        self.settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
        found = await images.ensure(engine, image, self.settings.run_dir, architecture)
        used.note(self.settings.cache_dir, str(found["Id"]))
        return found

    async def _make(self, engine: Engine, spec: Spec) -> bool:
        if await self._there(engine, spec):
            return False
        await engine.run(host.propagating, spec, engine.socket)
        image = await self._image(engine, spec.image)
        if spec.network is Network.BRIDGE:
            await network.ensure(engine, self._version, self._locks)
        try:
            answer = await self._try(engine, spec, image)
        except RuntimeFault as fault:
            if not isinstance(fault, Unavailable):
                await self._remove_volumes(engine, spec.id)
            raise
        if answer.status == 201:
            return True
        await self._remove_volumes(engine, spec.id)
        if "already in use" in answer.message and not await self._there(engine, spec):
            return await self._make(engine, spec)  # what had the name has gone since
        raise answer.fault(f"create machine {spec.id}")

    async def _there(self, engine: Engine, spec: Spec) -> bool:
        """True if the machine of this very spec is there. Raises `Conflict` if a container of its name is another."""
        found = await self._inspect(engine, spec.id)
        if not found or found["Name"] != f"/{spec.id}":  # Docker also takes it for the beginning of an id
            return False
        if same(spec, [found["Config"].get("Labels")]):
            return True
        raise Conflict(f"machine {spec.id}: docker has a container of this name that is not ours")

    async def _try(self, engine: Engine, spec: Spec, image: Found) -> Answer:
        if self._greatest is None:
            self._greatest = await engine.run(greatest, engine.socket)
        nofile, nproc = self._greatest
        first_uid = capabilities.mapped_root(self._info)
        await engine.run(give, spec, first_uid)
        wait = await engine.run(waiting.prepare, self.settings.run_dir, spec.id) if spec.before_start else None
        await self._scratch(engine, spec, first_uid)
        ground = body.Ground(
            image=image,
            first_uid=first_uid,
            nofile=nofile,
            nproc=nproc,
            fuse=fuse_mode() is not None,
            apparmor="apparmor" in capabilities.security(self._info),
            wait=wait,
        )
        request = body.create_body(spec, ground)
        return await engine.call("POST", "/containers/create", params={"name": spec.id}, body=request, seconds=120.0)

    async def _scratch(self, engine: Engine, spec: Spec, first_uid: int) -> None:
        """Make the volumes, which belong to the machine's user."""
        for number in range(len(spec.scratch)):
            wanted = {"Name": volume_name(spec.id, number), "Labels": {f"{LABEL}id": spec.id}}
            made = await engine.call("POST", "/volumes/create", body=wanted)
            if made.status != 201:
                raise made.fault(f"make scratch for machine {spec.id}")
            if (made.body.get("Labels") or {}).get(f"{LABEL}id") != spec.id:
                raise Conflict(f"machine {spec.id}: docker has a volume {wanted['Name']} that is not ours")
            await engine.run(host.hand_over, Path(made.body["Mountpoint"]), spec.user, first_uid)

    async def _run(self, engine: Engine, spec: Spec) -> Any:
        await self._post(engine, f"/containers/{spec.id}/start", f"start machine {spec.id}", (204, 304))
        found = await self._inspect(engine, spec.id)
        if not found or waiting.WAITS not in found["Config"]["Labels"]:
            return found
        if spec.before_start and waiting.waits(found):
            await spec.before_start(Started(id=spec.id, pid=int(found["State"]["Pid"])))
        return await self._released(engine, spec.id, Path(found["Config"]["Labels"][waiting.WAITS]))

    async def _released(self, engine: Engine, machine_id: str, fifo: Path) -> Any:
        """Let a waiting machine go on; the container once its payload runs, or has ended."""
        deadline, told = time.monotonic() + RELEASE_SECONDS, False
        while found := await self._inspect(engine, machine_id):
            if not waiting.waits(found):
                if not told:
                    raise Rejected(f"machine {machine_id} ended before its payload was started")
                return found
            told = waiting.release(fifo) or told
            if time.monotonic() > deadline:
                raise Unavailable(f"machine {machine_id} still waits {RELEASE_SECONDS:g} s after it was let go on")
            await asyncio.sleep(0.01)
        raise Rejected(f"machine {machine_id} was destroyed before its payload was started")

    def _seen(self, found: Mapping[str, Any], out_of_memory: frozenset[str]) -> Seen:
        seen = super()._seen(found, out_of_memory)
        return replace(seen, state=State.CREATED, started=None) if waiting.waits(found) else seen

    async def _pids(self, engine: Engine, running: Sequence[Any]) -> Mapping[str, int]:
        found = await asyncio.gather(*(self._inspect(engine, c["Id"]) for c in running))
        return {one["Id"]: int(one["State"]["Pid"]) for one in found if one and one["State"].get("Pid")}

    async def _volumes(self, engine: Engine, machine_id: str) -> Sequence[str]:
        filters = json.dumps({"label": [f"{LABEL}id={machine_id}"]})
        listed = await self._get(engine, "/volumes", filters=filters)
        return [str(volume["Name"]) for volume in listed.get("Volumes") or ()]

    async def _destroy(self, engine: Engine, machine_id: str) -> None:
        await super()._destroy(engine, machine_id)
        await engine.run(waiting.forget, self.settings.run_dir, machine_id)

    def _reader(self, found: Mapping[str, Any], cap: int) -> Reader:
        path = Path(found["LogPath"])
        return Reader(path, plain, most=FILE_PER_BYTE * cap, older=path.with_name(f"{path.name}.1"))
