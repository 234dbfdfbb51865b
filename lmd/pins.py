"""Which images the configured machinetypes refer to: those are not removed to make room for others."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from images import cache
from lmd.config.files import image_kind
from lmd.config.models import Config, MachineType
from lmd.places import Places
from runtimes import archives, used
from runtimes.contract import Image, ImageKind, Images, Rejected

BUILT = "lmd:"
ARCHIVES = frozenset({ImageKind.OCI_ARCHIVE, ImageKind.OCI_LAYOUT, ImageKind.DOCKER_ARCHIVE})

Pins = Mapping[str, tuple[str, ...]]
"""The names of machinetypes by the first digits of the id of the image that they refer to."""


def of_files(config: Config, places: Places) -> Pins:
    """Images that are files: built ones, and archives by what they say of themselves. Reads them; one that cannot be
    read is nobody's."""
    return _collected(
        (image_id, one.name) for one in config.machinetypes.values() for image_id in _of_file(one, places)
    )


async def of_references(config: Config, runtime: Images) -> Pins:
    """Images that types ask for by a name, as the engine knows it now; those count as used. Raises `Unavailable`."""
    found: list[tuple[str, str]] = []
    for machinetype in config.machinetypes.values():
        if (image := _reference(machinetype)) is not None:
            try:
                found.append((await runtime.ensure(image), machinetype.name))
            except Rejected:
                continue  # not in this engine's store
    return _collected(iter(found))


def _of_file(machinetype: MachineType, places: Places) -> Iterator[str]:
    root = machinetype.root_image
    try:
        if root.startswith(BUILT):
            path = cache.find(root.removeprefix(BUILT), (places.cache / "images",))
            kind = ImageKind.OCI_ARCHIVE
        else:
            kind, location = image_kind(root)
            path = Path(location) if kind in ARCHIVES else None
        if path is not None:
            yield archives.describe(kind, path).image_id
    except (ValueError, Rejected):
        return


def _reference(machinetype: MachineType) -> Image | None:
    if machinetype.root_image.startswith(BUILT):
        return None
    try:
        kind, location = image_kind(machinetype.root_image)
    except ValueError:
        return None
    return Image(kind=kind, location=location, pull="never") if kind is ImageKind.REFERENCE else None


def _collected(pairs: Iterator[tuple[str, str]]) -> Pins:
    pins: dict[str, tuple[str, ...]] = {}
    for image_id, name in pairs:
        digits = image_id.removeprefix("sha256:")[: used.DIGITS]
        pins[digits] = (*pins.get(digits, ()), name)
    return pins
