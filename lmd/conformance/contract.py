"""How the contract's suite is made on each runtime: the built-in ones say it, others are taken as container engines."""

import json
from pathlib import Path

from lmd import engines
from lmd.config.models import Config
from lmd.machine.material import kit_boot, unpacked
from lmd.places import Places
from runtimes import registry
from runtimes.conformance import ContainerContext, Context
from runtimes.containers.engine import Engine
from runtimes.contract import Image, ImageKind, Settings


def context(runtime: str, config: Config, places: Places, image: Image, directory: Path) -> Context:
    """The context of the contract's suite for one runtime; `directory` is empty and the suite's alone."""
    settings = engines.settings(runtime, config, places)
    if runtime == "podman":
        from runtimes.conformance.for_podman import podman_context

        return podman_context(settings, directory, image)
    if runtime == "kvm":
        from runtimes.conformance.for_kvm import kvm_context

        root = unpacked(image, config, places, _silent)
        made = Image(kind=ImageKind.ROOT_DIRECTORY, location=str(root.path))
        return kvm_context(settings, directory, made, kit_boot(places, _silent))
    if runtime == "docker":
        from runtimes.conformance.for_docker import docker_context

        return docker_context(settings, directory, image)
    if runtime == "fake":
        from runtimes.conformance.for_fake import fake_context

        return fake_context(settings, directory)
    return ContainerContext(
        make=lambda: registry.load(runtime, settings), image=image, directory=directory, settings=settings
    )


async def inspected(runtime: str, config: Config, places: Places, machine_id: str) -> str | None:
    """All that the engine itself shows of a machine, as text; None for an engine that is not known here.

    Raises `Unavailable`.
    """
    if runtime == "kvm":
        return await _domain(engines.settings(runtime, config, places), machine_id)
    settings = engines.settings(runtime, config, places)
    engine: Engine
    if runtime == "podman":
        from runtimes.podman.engine import PodmanEngine
        from runtimes.podman.service import find

        engine = PodmanEngine(await find(settings.run_dir, settings.options), workers=1)
    elif runtime == "docker":
        from runtimes.docker import service

        engine = await service.find(settings.options, workers=1)
    else:
        return None
    try:
        answer = await engine.call("GET", f"/containers/{machine_id}/json")
    finally:
        engine.close()
    return json.dumps(answer.body)


async def _domain(settings: Settings, machine_id: str) -> str:
    """A machine as libvirt describes it, with the words by which QEMU is told."""
    from runtimes.kvm.engine import Engine
    from runtimes.kvm.runtime import DEFAULT_URI

    engine = Engine(settings.options.get("uri", DEFAULT_URI), workers=1)
    try:
        return str(await engine.call(lambda c: c.lookupByName(machine_id).XMLDesc(), "look at a machine"))
    finally:
        engine.close()


def _silent(_: str) -> None:
    """Shows no progress."""
