"""What a machine of a type is made of: its image as runtimes take it, and for virtual machines what starts it.

Container images are the engines' business, except in virtual machines: there the image is unpacked here, once for each
digest, and what it says of its command, variables and user is handed on, since nobody else reads it.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from images import cache, disk, kit, recipe, rootfile, roots
from images.archive import host_architecture
from images.builder import chosen_epoch, recipe_digest, sources
from images.container import Form, opened
from images.described import for_architecture
from images.disk import DiskFormat
from images.errors import ImageError
from images.recipe import Recipe
from images.references import STORE, Fetcher
from images.roots import Root
from lmd.config import rules, virtual
from lmd.config.models import Config, MachineType
from lmd.machine.image import NoImage, image_of
from lmd.machine.start import Start
from lmd.places import Places
from runtimes.contract import Boot, Image, ImageKind

FILE_BYTES = 1_000_000_000
"""Content of images that are made a file system of in a second or two; others are shared as directories."""
Tell = Callable[[str], None]
_FORMS = {
    ImageKind.OCI_ARCHIVE: Form.OCI_ARCHIVE,
    ImageKind.OCI_LAYOUT: Form.OCI_LAYOUT,
    ImageKind.DOCKER_ARCHIVE: Form.DOCKER_ARCHIVE,
}
DISKS = {
    DiskFormat.QCOW2: ImageKind.DISK_QCOW2,
    DiskFormat.RAW: ImageKind.DISK_RAW,
    DiskFormat.ISO: ImageKind.BOOT_ISO,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """An image that is here, checked, and how a virtual machine is started from it (None: a container)."""

    image: Image
    start: Start | None = None


async def material_of(type_: MachineType, config: Config, places: Places, tell: Tell) -> Material:
    """What a machine of the type is made of; what has to be built, fetched or unpacked first is, once.

    Raises `NoImage`, or `images.errors.ImageError`; one line either way.
    """
    if type_.isolation == virtual.CONTAINER:
        return Material(image=await image_of(type_, places, tell))
    try:
        return await _virtual(type_, config, places, tell)
    except ImageError as error:
        raise NoImage(f"machinetype {type_.name}: {error}") from error


async def _virtual(type_: MachineType, config: Config, places: Places, tell: Tell) -> Material:
    if type_.machine_model in virtual.SELF_STARTING:
        if type_.root_image.startswith(rules.BUILT):
            return Material(image=await image_of(type_, places, tell), start=Start())
        return await asyncio.to_thread(_self_starting, type_)
    boot = await asyncio.to_thread(_boot, type_, places, tell)
    if type_.root_image == rules.MICRO and type_.machine_model == "direct":
        if boot.initramfs is None:
            raise NoImage(
                f"machinetype {type_.name}: there is neither an initramfs nor another root_image than the kit"
            )
        return Material(image=Image(kind=ImageKind.INITRAMFS, location=str(boot.initramfs)), start=Start(boot=boot))
    if type_.machine_model == "direct":
        return await asyncio.to_thread(_direct, type_, boot)
    image = await image_of(type_, places, tell)
    if image.kind is ImageKind.ROOT_DIRECTORY:
        return Material(image=image, start=Start(boot=boot))
    root = await asyncio.to_thread(unpacked, image, config, places, tell)
    for_architecture(root.described, type_.architecture or host_architecture())
    made = await asyncio.to_thread(_as_root, root, config, places, tell)
    return Material(image=made, start=Start(boot=boot, described=root.described, named=image.location))


def _as_root(root: Root, config: Config, places: Places, tell: Tell) -> Image:
    """A small image as a file, from which programs start quickly; a large one as it is, without another copy."""
    if root.bytes > int(config.runtimes.get("kvm", {}).get("image_file_bytes", FILE_BYTES)):
        return Image(kind=ImageKind.ROOT_DIRECTORY, location=str(root.path))
    return Image(kind=ImageKind.DISK_RAW, location=str(rootfile.ensure(places.cache / "rootfiles", root, tell)))


def _self_starting(type_: MachineType) -> Material:
    found = disk.check(Path(type_.root_image))
    wanted = "a disk image with a bootloader (qcow2 or raw)" if type_.machine_model == "vm-raw" else "a boot ISO"
    if (found.format is DiskFormat.ISO) == (type_.machine_model == "vm-raw"):
        raise ImageError(f"image {found.path}: is {found.format}; machine_model {type_.machine_model} needs {wanted}")
    return Material(image=Image(kind=DISKS[found.format], location=str(found.path)), start=Start())


def _direct(type_: MachineType, boot: Boot) -> Material:
    path = Path(type_.root_image)
    if path.is_dir():
        return Material(image=Image(kind=ImageKind.ROOT_DIRECTORY, location=str(path)), start=Start(boot=boot))
    found = disk.check(path)
    if found.format is DiskFormat.ISO:
        raise ImageError(f"image {path}: is a boot ISO; machine_model direct needs a root file system")
    return Material(image=Image(kind=DISKS[found.format], location=str(path)), start=Start(boot=boot))


def _boot(type_: MachineType, places: Places, tell: Tell) -> Boot:
    """The type's kernel and initramfs, or those of the kit."""
    line = type_.kernel_arguments
    if type_.kernel is None:
        return replace(kit_boot(places, tell), command_line=line)
    for path in (type_.kernel, type_.initramfs):
        if path is not None and not Path(path).is_file():
            raise ImageError(f"{path}: there is no such file to boot a machine with")
    if (type_.architecture or host_architecture()) == "amd64" and not kit.bootable(Path(type_.kernel)):
        raise ImageError(f"{type_.kernel}: is no kernel that can be started (bzImage, ELF or Multiboot)")
    return Boot(
        kernel=Path(type_.kernel), initramfs=Path(type_.initramfs) if type_.initramfs else None, command_line=line
    )


def kit_boot(places: Places, tell: Tell) -> Boot:
    """The kernel and initramfs of the kit, which is built if it has not been. Blocks; raises ImageError."""
    directories = (places.cache / "images", cache.default_directory(os.environ, 0))
    wanted = recipe.find_recipe(kit.RECIPE)
    found = _kit(wanted, directories)
    if found is None:
        tell(f"building the image {kit.RECIPE}, once: the kernel and initramfs of virtual machines")
        epoch = chosen_epoch(os.environ, time.time())
        found = kit.kit_beside(cache.ensure(directories[0], wanted, epoch, progress=tell).path)
    if found is None:
        raise ImageError(f"image {kit.RECIPE}: has no kernel beside it; build it again: lm image build micro --rebuild")
    return Boot(kernel=found.kernel, initramfs=found.initramfs)


def _kit(wanted: Recipe, directories: Sequence[Path]) -> kit.Kit | None:
    """The newest kit of this very recipe: one of an older lmd does not understand what it is told."""
    digest = recipe_digest(wanted, sources(os.environ, os.geteuid())[wanted.settings.kind])
    for directory in directories:
        for image, _ in cache.listed(directory):
            if (image.name, image.recipe_digest) == (wanted.name, digest) and (found := kit.kit_beside(image.path)):
                return found
    return None


def unpacked(image: Image, config: Config, places: Places, tell: Tell) -> Root:
    """A container image as a root directory, unpacked now if it has not been. Blocks; raises ImageError."""
    directory = places.cache / "roots"
    if image.kind is ImageKind.REFERENCE:
        return Fetcher(directory=directory, stores=stores(config)).ensure(image.location, image.pull, tell)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with opened(_FORMS[image.kind], Path(image.location), directory) as read:
        return roots.find(directory, read.described.image_id) or roots.ensure(directory, read, tell)


def stores(config: Config) -> Sequence[str]:
    """Where this host's engines keep images, as skopeo has it."""
    options = config.runtimes.get("podman", {})
    if "root" in options:
        return (f"{STORE}[{options['root']}+{options.get('runroot', '/run/containers/storage')}]",)
    return (STORE,)
