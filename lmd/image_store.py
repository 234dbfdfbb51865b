"""The images on this host that are ours: those built here and those that we brought into engines' stores."""

import asyncio
import time
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from images.errors import ImageError
from lmd import engines, image_files, pins
from lmd.config import virtual
from lmd.config.models import Config
from lmd.image_files import BUILT, Stored, digits
from lmd.places import Places
from runtimes import used
from runtimes.contract import Health, Image, Images, Runtime, RuntimeFault

__all__ = ["BUILT", "Store", "Stored", "keep_within_budget", "pull", "remove", "stored", "surplus"]

ASK_SECONDS = 60.0
_KEEPERS = tuple(name for name in engines.AUTO if virtual.RUNTIMES.get(name) == virtual.CONTAINER)
"""Runtimes that keep images of their own."""


@dataclass(slots=True)
class Store:
    """What is there, and which engines could not tell, a line each."""

    images: list[Stored] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


async def stored(config: Config, places: Places, names: Sequence[str]) -> Store:
    """The images of the cache and of the runtimes `names`; one that is not installed has none.

    A runtime that keeps no images is asked only what its machines use, if there are files that they could. One that
    cannot be asked is a problem if the configuration speaks of it, or if no other works.
    """
    store = Store(await asyncio.to_thread(image_files.built, places))
    unpacked = await asyncio.to_thread(image_files.unpacked, places)
    of_machines: set[str] = set()
    silent: dict[str, str] = {}
    working = False
    for name in names:
        try:
            async with asyncio.timeout(ASK_SECONDS), engines.opened(name, config, places) as runtime:
                if not isinstance(runtime, Images) and not unpacked:
                    continue
                probe = await runtime.probe()
                if probe.health is Health.UNHEALTHY:
                    silent[name] = probe.reason
                elif probe.health is Health.HEALTHY:
                    working = True
                    used_here = {digits(seen.image_digest or "") for seen in await runtime.machines()}
                    of_machines |= used_here
                    if isinstance(runtime, Images):
                        store.images += await _kept(name, runtime, config, places, used_here)
        except (RuntimeFault, engines.NoRuntime) as error:
            silent[name] = str(error)
        except TimeoutError:
            silent[name] = f"no answer within {ASK_SECONDS:g} s"
    store.problems += [
        f"{name} cannot be asked: {why}"
        for name, why in silent.items()
        if not working or engines.counted_on(name, config)
    ]
    store.images += image_files.in_use(unpacked, None if silent else of_machines, time.time())
    needed = await asyncio.to_thread(pins.of_files, config, places)
    store.images = [replace(one, needed_by=one.needed_by + needed.get(one.digits, ())) for one in store.images]
    return store


async def _kept(
    name: str, images: Images, config: Config, places: Places, of_machines: Collection[str]
) -> list[Stored]:
    there = await images.images()
    needed = await pins.of_references(config, images) if there else {}
    found = []
    for reference, size in there.items():
        short = digits(reference.rpartition(":")[2])
        last = used.last(places.cache, short) or 0.0
        found.append(
            Stored(
                where=name,
                name=reference,
                id=short,
                bytes=size,
                used=last,
                in_use=short in of_machines,
                needed_by=needed.get(short, ()),
            )
        )
    return found


def surplus(images: Sequence[Stored], budget: int) -> list[Stored]:
    """What has to go so that all together are at most `budget` bytes: least recently used first, none that stays."""
    total, going = sum(image.bytes for image in images), []
    for image in sorted(images, key=lambda each: (each.used, each.where, each.name)):
        if total <= budget:
            break
        if not image.stays:
            going.append(image)
            total -= image.bytes
    return going


async def keep_within_budget(
    config: Config, places: Places, names: Sequence[str], sparing: Collection[str] = ()
) -> tuple[list[Stored], list[str]]:
    """Hold to the configured `image_budget`, if there is one; `sparing` has ids (`sha256:…`) that were brought just
    now. Returns what was removed, and a line for each that could not be, or for an engine that could not be asked."""
    budget = config.settings.image_budget
    if budget is None:
        return [], []
    store = await stored(config, places, names)
    spared = {digits(image_id) for image_id in sparing}
    going = [image for image in surplus(store.images, budget) if image.digits not in spared]
    return going, store.problems + await remove(going, config, places)


async def remove(images: Sequence[Stored], config: Config, places: Places) -> list[str]:
    """Remove these; returns a line for each that could not be removed."""
    problems = []
    async with AsyncExitStack() as stack:
        opened: dict[str, Runtime] = {}
        for image in images:
            try:
                if image.where in image_files.FILES:
                    await asyncio.to_thread(image_files.remove, image, places)
                    continue
                if image.where not in opened:
                    runtime = await stack.enter_async_context(engines.opened(image.where, config, places))
                    opened[image.where] = runtime
                runtime = opened[image.where]
                if isinstance(runtime, Images):
                    await runtime.remove_image(image.name)
            except (RuntimeFault, engines.NoRuntime, ImageError, OSError) as error:
                problems.append(str(error))
    return problems


async def pull(image: Image, runtime: str | None, config: Config, places: Places, seconds: float) -> tuple[str, str]:
    """Bring an image into an engine's store: the first that is healthy, or `runtime`; its name and the image's id.

    Raises `NoRuntime`, the contract's errors, and `TimeoutError` after `seconds`.
    """
    reasons = []
    for name in (runtime,) if runtime else _KEEPERS:
        async with asyncio.timeout(seconds), engines.opened(name, config, places) as made:
            probe = await made.probe()
            if probe.health is Health.HEALTHY and isinstance(made, Images):
                return name, await made.ensure(image)
            reasons.append(f"{name} is {probe.health}: {probe.reason or 'it keeps no images'}")
    raise engines.NoRuntime("; ".join(reasons))
