"""Images that are files of ours: built ones, and what virtual machines start from."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from images import cache, rootfile, roots
from images.built import BuiltImage
from lmd.places import Places
from runtimes import used

BUILT, UNPACKED, ROOT_FILE = "built", "unpacked", "disk file"
FILES = frozenset({BUILT, UNPACKED, ROOT_FILE})
"""Where images are that no engine keeps."""

ROOTS, ROOT_FILES = "roots", "rootfiles"
"""The directories of the cache in which virtual machines find their images."""

STARTING_SECONDS = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One image. `where`: `built`, `unpacked`, `disk file`, or the engine; `used`: Unix seconds of its last use, or of
    its making if that is unknown.

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


def hexadecimal(image_id: str) -> str:
    """The digits of an id."""
    return image_id.removeprefix("sha256:")


def digits(image_id: str) -> str:
    """As many digits of an id as images are told apart by."""
    return hexadecimal(image_id)[: used.DIGITS]


def built(places: Places) -> list[Stored]:
    """What was built here."""
    return [_built(places, image, at) for image, at in cache.listed(places.cache / "images")]


def _built(places: Places, image: BuiltImage, at: float) -> Stored:
    return Stored(
        where=BUILT,
        name=image.name,
        id=image.image_id.removeprefix("sha256:"),
        bytes=image.size_bytes,
        used=max(at, used.last(places.cache, image.image_id) or 0.0),
        built=image,
    )


def unpacked(places: Places) -> list[Stored]:
    """What virtual machines start from: unpacked images, and the files made of them."""
    found = [
        Stored(
            where=UNPACKED,
            name=root.described.image_id[:19],
            id=hexadecimal(root.described.image_id),
            bytes=root.bytes,
            used=at,
        )
        for root, at in roots.listed(places.cache / ROOTS)
    ]
    for path in (places.cache / ROOT_FILES).glob(f"*.{rootfile.FILE_SYSTEM}"):
        with suppress(OSError):
            status = path.stat()
            found.append(
                Stored(
                    where=ROOT_FILE,
                    name=path.name[:12],
                    id=path.stem,
                    bytes=status.st_blocks * 512,
                    used=status.st_mtime,
                )
            )
    return found


def in_use(images: Sequence[Stored], of_machines: Collection[str] | None, now: float) -> list[Stored]:
    """The same, with those that machines have (`of_machines`, digits of ids) marked as in use. None: an engine could
    not be asked, so that any may be. One used just now (Unix seconds) may be for a machine that is being made."""
    new = now - STARTING_SECONDS
    return [replace(one, in_use=of_machines is None or one.digits in of_machines or one.used > new) for one in images]


def remove(image: Stored, places: Places) -> None:
    """Remove one; absent is success. Raises ImageError or OSError."""
    if image.built:
        cache.remove(places.cache / "images", image.built)
    elif image.where == UNPACKED:
        roots.remove(places.cache / ROOTS, f"sha256:{image.id}")
    else:
        (places.cache / ROOT_FILES / f"{image.id}.{rootfile.FILE_SYSTEM}").unlink(missing_ok=True)
