"""How the suite is made on Podman: machines of others, what the host still has of a machine, services that go away."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtimes.conformance.context import ContainerContext
from runtimes.conformance.outages import hung, stopped
from runtimes.containers.engine import Answer
from runtimes.containers.host import greatest
from runtimes.containers.stamp import volume_name
from runtimes.contract import Image, Runtime, Settings
from runtimes.podman import Podman
from runtimes.podman.engine import PodmanEngine
from runtimes.podman.service import find


async def _ask(settings: Settings, method: str, path: str, **request: Any) -> Answer:
    engine = PodmanEngine(await find(settings.run_dir, settings.options), workers=1)
    try:
        return await engine.call(method, path, **request)
    finally:
        engine.close()


class PodmanForeign:
    """Containers of the same Podman without our stamp."""

    def __init__(self, settings: Settings, image: Image) -> None:
        self._settings, self._image = settings, image

    async def make(self, name: str) -> None:
        runtime = Podman(self._settings)
        try:
            image = await runtime.ensure(self._image)
        finally:
            await runtime.aclose()
        nofile, nproc = greatest(await find(self._settings.run_dir, self._settings.options))
        body = {
            "name": name,
            "image": image.removeprefix("sha256:"),
            "command": ["sleep", "1000"],
            "netns": {"nsmode": "none"},
            "r_limits": [
                {"type": "nofile", "soft": nofile, "hard": nofile},
                {"type": "nproc", "soft": nproc, "hard": nproc},
            ],
        }
        made = await _ask(self._settings, "POST", "/containers/create", body=body)
        if made.status == 201:
            made = await _ask(self._settings, "POST", f"/containers/{name}/start")
        if made.status not in (204, 304):
            raise made.fault(f"make the foreign container {name}")

    async def state(self, name: str) -> str | None:
        found = await _ask(self._settings, "GET", f"/containers/{name}/json")
        return None if found.status == 404 else f"{found.body['Id']} {found.body['State']['Status']}"

    async def remove(self, name: str) -> None:
        params = {"force": True, "timeout": 0}
        for _ in range(100):
            if (await _ask(self._settings, "DELETE", f"/containers/{name}", params=params)).status == 404:
                return
            await asyncio.sleep(0.1)


def podman_context(settings: Settings, directory: Path, image: Image) -> ContainerContext:
    """The suite's context for the Podman that `settings` reach, with an image that has a busybox userland."""

    async def leftovers(machine_id: str) -> Sequence[str]:
        listed = await _ask(settings, "GET", "/containers/json", params={"all": True, "external": True})
        left = [f"container {c['Id']}" for c in listed.body or () if machine_id in (c.get("Names") or ())]
        volumes = await _ask(settings, "GET", "/volumes/json")
        prefix = volume_name(machine_id, 0)[:-1]
        left += [f"volume {v['Name']}" for v in volumes.body or () if v["Name"].startswith(prefix)]
        mounts = await asyncio.to_thread(Path("/proc/self/mountinfo").read_text)
        return left + [f"mount {line}" for line in mounts.splitlines() if machine_id in line]

    def without(socket_path: Path) -> Callable[[], Runtime]:
        return lambda: Podman(
            replace(settings, options={**settings.options, "socket": str(socket_path), "ping_seconds": "0.5"})
        )

    return ContainerContext(
        make=lambda: Podman(settings),
        image=image,
        directory=directory,
        settings=settings,
        foreign=PodmanForeign(settings, image),
        leftovers=leftovers,
        outages={
            "no service": stopped(without(directory / "no.sock")),
            "a service that never answers": hung(directory / "hung.sock", without(directory / "hung.sock")),
        },
    )
