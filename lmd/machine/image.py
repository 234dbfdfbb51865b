"""The image that a machinetype names, as runtimes take it; one of our own recipes is built when it is first needed."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from images import cache, recipe
from images.bootable import DISK
from images.builder import chosen_epoch
from lmd.config.files import image_kind
from lmd.config.models import MachineType
from lmd.places import Places
from runtimes.contract import Image, ImageKind

BUILT = "lmd:"


class NoImage(Exception):
    """The image cannot be had; one line that names the type."""


async def image_of(type_: MachineType, places: Places, tell: Callable[[str], None]) -> Image:
    """The type's image. Raises `NoImage`, or `images.errors.ImageError` if it cannot be built."""
    if type_.root_image.startswith(BUILT):
        name = type_.root_image.removeprefix(BUILT)
        path = cache.find(name, (places.cache / "images", cache.default_directory(os.environ, 0)))
        if path is None:
            epoch = chosen_epoch(os.environ, time.time())
            found = recipe.find_recipe(name)
            tell(f"building the image {name}, once")
            built = await asyncio.to_thread(cache.ensure, places.cache / "images", found, epoch, progress=tell)
            path = built.path
        if type_.machine_model == "vm-raw":
            return _disk(type_, path.with_name(DISK))
        return Image(kind=ImageKind.OCI_ARCHIVE, location=str(path))
    try:
        kind, location = image_kind(type_.root_image)
    except ValueError as error:
        raise NoImage(f"machinetype {type_.name}: root_image: {error}") from error
    return Image(kind=kind, location=location, pull=type_.pull)


def _disk(type_: MachineType, path: Path) -> Image:
    """The disk beside an image of ours. Raises `NoImage` if the recipe makes none."""
    if not path.is_file():
        raise NoImage(f"machinetype {type_.name}: root_image: {type_.root_image} has no disk; lmd:debian-vm has one")
    return Image(kind=ImageKind.DISK_QCOW2, location=str(path))
