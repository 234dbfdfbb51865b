"""The images that were built on this host, one directory each, complete or not there, and never changed afterwards.

    NAME.tar                         link to the newest image of that name
    NAME/DIGEST-EPOCH-ID/image.tar   an OCI archive; beside it image.tar.packages and image.json
    NAME/DIGEST-EPOCH.partial/       an image that is being built, or was when its builder died
    NAME/lock                        held while an image of that name is built

DIGEST is the recipe's, ID the image's. The same recipe and epoch have several images if the mirror had newer packages.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from images.builder import build, recipe_digest, silent, sources
from images.built import BuiltImage, read_record, write_record
from images.errors import ImageError
from images.kinds.source import Progress
from images.recipe import NAME, Recipe

IMAGE = "image.tar"
RECORD = "image.json"


def default_directory(environ: Mapping[str, str], uid: int) -> Path:
    """Where this user's images are kept (XDG base directories 0.8: a path that is not absolute is ignored).

    LMD_CACHE_DIR in the environment wins, and then nothing outside it is looked at.
    """
    if chosen := environ.get("LMD_CACHE_DIR"):
        return Path(chosen) / "images"
    if uid == 0:
        return Path("/var/cache/lmd/images")
    given = environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if given.startswith("/") else Path(environ.get("HOME") or Path.home(), ".cache")
    return base / "lmd" / "images"


def search_directories(environ: Mapping[str, str], uid: int) -> tuple[Path, ...]:
    """Where `lmd:NAME` is looked up: the user's own images, then those that root has built for all."""
    return tuple(dict.fromkeys((default_directory(environ, uid), default_directory(environ, 0))))


def find(name: str, cache_dirs: Sequence[Path]) -> Path | None:
    """The OCI archive of the newest image of the recipe `name`, or None. What this path holds never changes."""
    if not NAME.fullmatch(name):
        return None
    found = []
    for folder in cache_dirs:
        try:
            path = (folder / f"{name}.tar").resolve(strict=True)
            found.append((path.stat().st_mtime, path))
        except OSError:
            continue
    return max(found, key=lambda each: each[0])[1] if found else None


def listed(directory: Path) -> list[tuple[BuiltImage, float]]:
    """All complete images in a cache directory and when they were built (Unix seconds); by name, the newest first."""
    found = []
    for record in directory.glob(f"*/*/{RECORD}"):
        path = record.with_name(IMAGE)
        image = read_record(record, path)
        if image is not None and record.parent.suffix != ".partial" and _size(path) == image.size_bytes:
            found.append((image, path.stat().st_mtime))
    return sorted(found, key=lambda each: (each[0].name, -each[1]))


def remove(directory: Path, image: BuiltImage) -> None:
    """Remove an image that `listed` gave; absent is success. The name goes to the next newest. Raises ImageError."""
    home = directory / image.name
    try:
        with _locked(home / "lock", image.name, silent):
            gone = image.path.parent.with_suffix(".partial")
            with suppress(FileNotFoundError):
                image.path.parent.rename(gone)  # at once; what a crash leaves of it, the next build removes
            left = [other for other, _ in listed(directory) if other.name == image.name]
            if left:
                _point(directory / f"{image.name}.tar", left[0].path)
            else:
                (directory / f"{image.name}.tar").unlink(missing_ok=True)
            shutil.rmtree(gone, ignore_errors=True)
    except OSError as error:
        raise ImageError(f"image {image.name}: {image.path}: {error.strerror or error}") from error


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def ensure(
    directory: Path, recipe: Recipe, source_date_epoch: int, *, rebuild: bool = False, progress: Progress = silent
) -> BuiltImage:
    """The image from the cache, or built now; with `rebuild` always built. Raises ImageError.

    One process builds an image, the others wait for it and take what it made.
    """
    home = directory / recipe.name
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _locked(home / "lock", recipe.name, progress) as lock:
            image = None if rebuild else _kept(home, recipe, source_date_epoch)
            image = image or _built(home, recipe, source_date_epoch, progress, lock)
            _point(directory / f"{recipe.name}.tar", image.path)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ImageError(f"image {recipe.name}: {where}{error.strerror or error}") from error
    return image


def _kept(home: Path, recipe: Recipe, epoch: int) -> BuiltImage | None:
    digest = recipe_digest(recipe, sources(os.environ, os.geteuid())[recipe.settings.kind])
    found = [
        (built, image)
        for image, built in listed(home.parent)
        if (image.name, image.recipe_digest, image.source_date_epoch) == (recipe.name, digest, epoch)
    ]
    return max(found, key=lambda each: each[0])[1] if found else None


def _built(home: Path, recipe: Recipe, epoch: int, progress: Progress, lock: int) -> BuiltImage:
    for left in home.glob("*.partial"):  # of a builder that died: the lock says that none is alive
        shutil.rmtree(left)
    partial = home / "build.partial"
    partial.mkdir()
    try:
        image = build(recipe, partial / IMAGE, epoch, progress=progress, held=(lock,))
        write_record(image, partial / RECORD)
        place = home / f"{image.recipe_digest[:16]}-{epoch}-{image.image_id.removeprefix('sha256:')[:12]}"
        if place in [kept.path.parent for kept, _ in listed(home.parent)]:  # built again, to the same bytes
            os.utime(place / IMAGE)
        else:
            if place.exists():  # damaged, or it would be listed
                shutil.rmtree(place)
            partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return replace(image, path=place / IMAGE)


def _point(link: Path, target: Path) -> None:
    """Make the link, by a rename: it never points to nothing on the way."""
    wanted = target.relative_to(link.parent)
    if link.is_symlink() and link.readlink() == wanted:
        return
    fresh = target.parent.parent / "link.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(wanted)
    fresh.replace(link)


@contextmanager
def _locked(path: Path, name: str, progress: Progress) -> Iterator[int]:
    """Hold the lock and give its descriptor. Children that inherit it hold it too, until the last of them ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another process that builds {name}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
