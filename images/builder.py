"""Turn a recipe into an image file, with the list of packages that are in it."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from images.appear import whole_file
from images.archive import Format, ImageConfig, packed
from images.bootable import DISK, write_disk
from images.built import BuiltImage, Package
from images.entries import Entry, place
from images.errors import ImageError
from images.kinds.busybox import BusyboxSource
from images.kinds.debian import DebianSource
from images.kinds.machine import MachineSource
from images.kinds.micro import INITRAMFS, KERNEL, MicroSource
from images.kinds.source import Progress, RootTree, Source, Work
from images.recipe import Recipe
from images.skeleton import add_skeleton, skeleton_digest

PACKAGES_SUFFIX = ".packages"
EPOCH_LIMIT = 253_402_300_799
"""The last second of the year 9999."""


def sources(environ: Mapping[str, str], uid: int) -> dict[str, Source]:
    """What makes each kind of recipe, for this caller on this host."""
    debian = DebianSource(environ, uid)
    return {"busybox": BusyboxSource(), "debian": debian, "micro": MicroSource(debian), "vm": MachineSource(debian)}


def chosen_epoch(environ: Mapping[str, str], now: float) -> int:
    """SOURCE_DATE_EPOCH where it is set, else the last midnight (UTC) before `now`; Unix seconds. Raises ImageError."""
    given = environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        return int(now) // 86400 * 86400
    if not (given.isascii() and given.isdigit() and len(given) <= 12):
        raise ImageError(f"SOURCE_DATE_EPOCH is {given[:40]!r}: expected whole Unix seconds")
    return int(given)


def silent(_: str) -> None:
    """Shows no progress."""


def recipe_digest(recipe: Recipe, source: Source) -> str:
    """SHA-256 in hex over all that decides the image, but the epoch and the versions of packages on the mirror."""
    return recipe.digest(skeleton_digest(), *source.inputs())


def build(
    recipe: Recipe,
    out: Path,
    source_date_epoch: int,
    *,
    progress: Progress = silent,
    source: Source | None = None,
    held: Sequence[int] = (),
) -> BuiltImage:
    """Build the image and write it to the file `out` as an OCI archive, and its packages to `out` + `.packages`.

    The same recipe, epoch (Unix seconds; no file is younger) and package versions give the same bytes. Needs space
    for the image three times over beside `out` while it runs. Raises ImageError.
    """
    source = source or sources(os.environ, os.geteuid())[recipe.settings.kind]
    if not 0 <= source_date_epoch <= EPOCH_LIMIT:
        raise ImageError(f"image {recipe.name}: {source_date_epoch} is no time: give Unix seconds from 0")
    digest = recipe_digest(recipe, source)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".partial", dir=out.parent) as scratch:
            Path(scratch).chmod(0o755)  # apt fetches as a user of its own
            work = Work(epoch=source_date_epoch, scratch=Path(scratch), progress=progress, held=tuple(held))
            with source.root(recipe, work) as made:
                return _write(recipe, made, out, work, digest)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ImageError(f"image {recipe.name}: {where}{error.strerror or error}") from error


def _write(recipe: Recipe, made: RootTree, out: Path, work: Work, digest: str) -> BuiltImage:
    tree = dict(made.tree)
    add_skeleton(tree)
    for path, entry in recipe.files.items():
        place(tree, path, entry)
    work.progress("writing the image")
    for name, beside in ((KERNEL, "kernel"), (INITRAMFS, "initramfs")):
        if recipe.settings.kind == "micro":
            _copy(tree[name], out.with_name(beside))
    if recipe.settings.kind == "vm":
        write_disk(tree, out.with_name(DISK), work)
    listing = "".join(f"{p.name}\t{p.version}\t{p.architecture}\n" for p in made.packages)
    with packed(tree, _config(recipe, made.packages, work.epoch), work.scratch) as image:
        with whole_file(out.with_name(out.name + PACKAGES_SUFFIX)) as part:
            part.write_text(listing)
        image.write(out, Format.OCI)
        return BuiltImage(
            name=recipe.name,
            path=out,
            image_id=image.image_id,
            size_bytes=out.stat().st_size,
            source_date_epoch=work.epoch,
            recipe_digest=digest,
            packages=made.packages,
        )


def _copy(entry: Entry, out: Path) -> None:
    if entry.content is None:
        raise ImageError(f"{out.name}: is no file")
    with whole_file(out) as part, entry.content() as source, part.open("wb") as target:
        shutil.copyfileobj(source, target)
    out.chmod(0o644)  # hypervisors read it as users of their own


def _config(recipe: Recipe, packages: Sequence[Package], epoch: int) -> ImageConfig:
    run = recipe.settings.run
    labels = {
        "org.opencontainers.image.title": recipe.name,
        "org.opencontainers.image.description": recipe.settings.description,
        "lmd.packages": " ".join(f"{package.name}={package.version}" for package in packages),
    }
    return ImageConfig(
        reference=f"localhost/lmd/{recipe.name}:latest",
        epoch=epoch,
        environment=run.environment,
        entrypoint=tuple(run.entrypoint),
        command=tuple(run.command),
        user=run.user,
        working_directory=run.working_directory,
        labels=labels | run.labels,
    )
