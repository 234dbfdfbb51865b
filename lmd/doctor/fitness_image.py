"""What a machinetype's image is, and whether it is there, without an engine and without bringing it. Reads the host."""

from dataclasses import dataclass, replace
from pathlib import Path

from images import cache, disk, kit, recipe
from images.archive import host_architecture
from images.builder import sources
from images.errors import ImageError
from lmd.config import rules, virtual
from lmd.config.files import image_kind
from lmd.config.models import MachineType
from lmd.doctor.check import Asked
from lmd.doctor.finding import Finding, note, ok, problem
from lmd.machine.image import BUILT
from lmd.machine.material import DISKS
from lmd.machine.start import Start
from runtimes import archives
from runtimes.contract import Boot, Image, ImageKind, Rejected

NOWHERE = Path("/nowhere")


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """`given` is the image that a runtime would be asked for; `named`, where an engine keeps images, the one to ask it
    about. `start` is a virtual machine's, with stand-ins for what is made only when one starts."""

    given: Image
    named: Image | None = None
    start: Start | None = None
    findings: tuple[Finding, ...] = ()


def look(type_: MachineType, asked: Asked) -> Looked:
    """By the type's isolation and model."""
    if type_.isolation == virtual.CONTAINER:
        return _of_containers(type_, asked)
    if type_.machine_model in virtual.SELF_STARTING:
        return _disk(type_, Start())
    start = Start(boot=Boot(kernel=Path(type_.kernel or NOWHERE), initramfs=None))
    said = () if type_.kernel else (_kit(asked),)
    if type_.root_image == rules.MICRO and type_.machine_model == "direct":
        made = Looked(given=Image(kind=ImageKind.INITRAMFS, location=""))
    elif type_.machine_model == "direct" and not Path(type_.root_image).is_dir():
        made = _disk(type_, start)
    else:  # unpacked here, whatever it is
        made = replace(
            _of_containers(type_, asked), given=Image(kind=ImageKind.ROOT_DIRECTORY, location=""), named=None
        )
    return replace(made, start=start, findings=(*made.findings, *said))


def _of_containers(type_: MachineType, asked: Asked) -> Looked:
    if type_.root_image.startswith(BUILT):
        return _built(type_.root_image.removeprefix(BUILT), asked)
    try:
        kind, location = image_kind(type_.root_image)
        image = Image(kind=kind, location=location, pull=type_.pull)
        if kind in (ImageKind.REFERENCE, ImageKind.ROOT_DIRECTORY):
            return Looked(given=image, named=image if kind is ImageKind.REFERENCE else None)
        described = archives.describe(kind, Path(location))
        wanted = type_.architecture or host_architecture()
        if complaint := archives.foreign(location, described.architecture, frozenset({wanted})):
            return Looked(given=image, findings=(problem(str(complaint)),))
        said = ok(f"image {location} is a readable {kind} for {described.architecture or 'any processor'}")
        return Looked(given=image, findings=(said,))
    except ValueError:
        return Looked(given=Image(kind=ImageKind.OCI_ARCHIVE, location=""))  # told with the other files
    except Rejected as error:
        return Looked(given=Image(kind=ImageKind.OCI_ARCHIVE, location=""), findings=(problem(str(error)),))


def _built(name: str, asked: Asked) -> Looked:
    path = cache.find(name, (asked.places.cache / "images", cache.default_directory(asked.environment, 0)))
    if path is not None:
        said = ok(f"image {BUILT}{name} has been built: {path}")
        return Looked(given=Image(kind=ImageKind.OCI_ARCHIVE, location=str(path)), findings=(said,))
    return Looked(given=Image(kind=ImageKind.OCI_ARCHIVE, location=""), findings=(_to_build(name, asked),))


def _to_build(name: str, asked: Asked) -> Finding:
    try:
        missing = sources(asked.environment, asked.uid)[recipe.find_recipe(name).settings.kind].missing()
    except ImageError as error:
        return problem(str(error))
    if missing:
        return problem(f"image {BUILT}{name} has not been built and cannot be", missing)
    return note(f"image {BUILT}{name} will be built at first", f"lm image build {name}")


def _kit(asked: Asked) -> Finding:
    """The kernel that boots a container image as a virtual machine."""
    found = kit.find_kit((asked.places.cache / "images", cache.default_directory(asked.environment, 0)))
    return _to_build(kit.RECIPE, asked) if found is None else ok(f"the kernel of virtual machines is {found.kernel}")


def _disk(type_: MachineType, start: Start) -> Looked:
    try:
        found = disk.check(Path(type_.root_image))
    except ImageError:
        return Looked(given=Image(kind=ImageKind.DISK_RAW, location=""), start=start)  # told with the other files
    said = ok(f"image {found.path} is a {found.format} disk of {found.virtual_bytes / 1e9:.1f} GB")
    return Looked(given=Image(kind=DISKS[found.format], location=str(found.path)), start=start, findings=(said,))
