"""The images on this host that are ours: those built here and those that we brought into engines' stores."""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from images import cache
from images.built import BuiltImage
from images.errors import ImageError
from lmd import engines, pins
from lmd.config import virtual
from lmd.config.models import Config
from lmd.places import Places
from runtimes import used
from runtimes.contract import Health, Image, Images, Runtime, RuntimeFault

BUILT = "built"
ASK_SECONDS = 60.0
_KEEPERS = tuple(name for name in engines.AUTO if virtual.RUNTIMES.get(name) == virtual.CONTAINER)
"""Runtimes that keep images of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One image. `where`: `built`, or the engine; `used`: Unix seconds of its last use, or of its making if unknown.

    `id` has at least the first twelve digits. `in_use`: a machine was made of it, whose engine needs it. `needed_by`:
    the configured machinetypes that refer to it.
    """

    where: str
    name: str
    id: str
    bytes: int
    used: float
    in_use: bool = False
    needed_by: tuple[str, ...] = ()
    built: BuiltImage | None = None

    @property
    def digits(self) -> str:
        """The digits by which images are told apart."""
        return self.id[: used.DIGITS]

    @property
    def stays(self) -> bool:
        """Whether it is not to be removed for the sake of room."""
        return self.in_use or bool(self.needed_by)


@dataclass(slots=True)
class Store:
    """What is there, and which engines could not tell, a line each."""

    images: list[Stored] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


async def stored(config: Config, places: Places, names: Sequence[str]) -> Store:
    """The images of the cache and of the runtimes `names`; one that is not installed has none."""
    store = Store([_built(places, image, at) for image, at in cache.listed(places.cache / "images")])
    needed = await asyncio.to_thread(pins.of_files, config, places)
    for name in names:
        try:
            async with asyncio.timeout(ASK_SECONDS), engines.opened(name, config, places) as runtime:
                probe = await runtime.probe()
                if probe.health is Health.UNHEALTHY:
                    store.problems.append(f"{name} cannot be asked: {probe.reason}")
                elif probe.health is Health.HEALTHY and isinstance(runtime, Images):
                    there = await _kept(runtime, runtime, places)
                    by_name = await pins.of_references(config, runtime) if there else {}
                    store.images += [replace(one, needed_by=by_name.get(one.digits, ())) for one in there]
        except (RuntimeFault, engines.NoRuntime) as error:
            store.problems.append(f"{name} cannot be asked: {error}")
        except TimeoutError:
            store.problems.append(f"{name} cannot be asked: no answer within {ASK_SECONDS:g} s")
    store.images = [replace(one, needed_by=one.needed_by + needed.get(one.digits, ())) for one in store.images]
    return store


def _built(places: Places, image: BuiltImage, at: float) -> Stored:
    return Stored(
        where=BUILT,
        name=image.name,
        id=image.image_id.removeprefix("sha256:"),
        bytes=image.size_bytes,
        used=max(at, used.last(places.cache, image.image_id) or 0.0),
        built=image,
    )


async def _kept(runtime: Runtime, images: Images, places: Places) -> list[Stored]:
    of_machines = {
        (seen.image_digest or "").removeprefix("sha256:")[: used.DIGITS] for seen in await runtime.machines()
    }
    found = []
    for name, size in (await images.images()).items():
        digits = name.rpartition(":")[2]
        last = used.last(places.cache, digits) or 0.0
        found.append(
            Stored(where=runtime.name, name=name, id=digits, bytes=size, used=last, in_use=digits[:12] in of_machines)
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
    spared = {image_id.removeprefix("sha256:")[: used.DIGITS] for image_id in sparing}
    going = [image for image in surplus(store.images, budget) if image.digits not in spared]
    return going, store.problems + await remove(going, config, places)


async def remove(images: Sequence[Stored], config: Config, places: Places) -> list[str]:
    """Remove these; returns a line for each that could not be removed."""
    problems = []
    async with AsyncExitStack() as stack:
        opened: dict[str, Runtime] = {}
        for image in images:
            try:
                if image.built:
                    await asyncio.to_thread(cache.remove, places.cache / "images", image.built)
                    continue
                if image.where not in opened:
                    runtime = await stack.enter_async_context(engines.opened(image.where, config, places))
                    opened[image.where] = runtime
                runtime = opened[image.where]
                if isinstance(runtime, Images):
                    await runtime.remove_image(image.name)
            except (RuntimeFault, engines.NoRuntime, ImageError) as error:
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
