"""How the suite is made on Docker: machines of others, what the host still has of a machine, daemons that go away."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtimes import rlimits
from runtimes.conformance.context import ContainerContext
from runtimes.conformance.outages import hung, stopped
from runtimes.containers.engine import Answer
from runtimes.containers.stamp import listed_name, volume_name
from runtimes.contract import Image, Runtime, Settings
from runtimes.docker import Docker, waiting
from runtimes.docker.service import find


async def _ask(settings: Settings, method: str, path: str, **request: Any) -> Answer:
    engine = await find(settings.options, workers=1)
    try:
        return await engine.call(method, path, **request)
    finally:
        engine.close()


class DockerForeign:
    """Containers of the same Docker without our stamp."""

    def __init__(self, settings: Settings, image: Image) -> None:
        self._settings, self._image = settings, image

    async def make(self, name: str) -> None:
        runtime = Docker(self._settings)
        try:
            image = await runtime.ensure(self._image)
        finally:
            await runtime.aclose()
        body = {"Image": image, "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}
        made = await _ask(self._settings, "POST", "/containers/create", params={"name": name}, body=body)
        if made.status == 201:
            made = await _ask(self._settings, "POST", f"/containers/{name}/start")
        if made.status != 204:
            raise made.fault(f"make the foreign container {name}")

    async def state(self, name: str) -> str | None:
        found = await _ask(self._settings, "GET", f"/containers/{name}/json")
        return None if found.status == 404 else f"{found.body['Id']} {found.body['State']['Status']}"

    async def remove(self, name: str) -> None:
        for _ in range(100):
            if (await _ask(self._settings, "DELETE", f"/containers/{name}", params={"force": True})).status == 404:
                return
            await asyncio.sleep(0.1)


def docker_context(settings: Settings, directory: Path, image: Image) -> ContainerContext:
    """The suite's context for the Docker that `settings` reach, with an image that has a busybox userland."""

    async def daemon() -> Path:
        engine = await find(settings.options, workers=1)
        engine.close()
        return Path("/proc") / str(rlimits.peer(engine.socket) or "self")

    async def leftovers(machine_id: str) -> Sequence[str]:
        listed = await _ask(settings, "GET", "/containers/json", params={"all": True})
        left = [f"container {c['Id']}" for c in listed.body or () if listed_name(c) == machine_id]
        volumes = await _ask(settings, "GET", "/volumes")
        prefix = volume_name(machine_id, 0)[:-1]
        left += [f"volume {v['Name']}" for v in volumes.body["Volumes"] or () if v["Name"].startswith(prefix)]
        mounts = await asyncio.to_thread((await daemon() / "mountinfo").read_text)
        left += [f"mount {line}" for line in mounts.splitlines() if machine_id in line]
        fifo = waiting.fifo(settings.run_dir, machine_id)
        return left + ([str(fifo)] if fifo.exists() else [])

    async def host_network() -> str:
        return str((await daemon() / "ns/net").readlink())

    def without(socket_path: Path) -> Callable[[], Runtime]:
        options = {**settings.options, "socket": str(socket_path), "ping_seconds": "0.5"}
        return lambda: Docker(replace(settings, options=options))

    return ContainerContext(
        make=lambda: Docker(settings),
        image=image,
        directory=directory,
        settings=settings,
        foreign=DockerForeign(settings, image),
        leftovers=leftovers,
        host_network=host_network,
        outages={
            "no daemon": stopped(without(directory / "no.sock")),
            "a daemon that never answers": hung(directory / "hung.sock", without(directory / "hung.sock")),
        },
    )
