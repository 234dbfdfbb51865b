"""`lm image pull` and `lm image prune`, and the engines' part of `lm image list`."""

import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmd.cli.speaking import PROBLEM, USAGE, awaited, fail, here, print_json, size, table, tell, when

if TYPE_CHECKING:
    from lmd.config.models import Config
    from lmd.image_store import Store, Stored
    from lmd.places import Places
    from runtimes.contract import Image

KEEP = "10G"
HEADS = ("WHERE", "NAME", "ID", "SIZE", "LAST USED")
PULL_EPILOG = (
    "Examples:  lm image pull docker.io/library/debian:12   ·   lm image pull quay.io/x/y@sha256:…   ·   "
    "lm image pull oci-archive:/srv/image.tar --runtime podman"
)
PRUNE_EPILOG = "Examples:  lm image prune   ·   lm image prune --keep 2G --dry-run   ·   lm image prune --keep 0"


def pull(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="As in root_image. A name may be pinned: NAME@sha256:DIGEST.")
    ],
    runtime: Annotated[
        str | None, typer.Option(help="Into this engine's store; default: the first that works.", show_default=False)
    ] = None,
    timeout: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="Give up after this long.")] = 3600,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Bring an image into an engine's store, whether it is there or not, so that the next machine starts at once.

    Exit codes: 0 it is there; 1 it could not be had, or the engine cannot be asked; 2 it is no image's name.
    """
    config, places = here()
    began = time.monotonic()
    engine, image_id = awaited(_pull(_named(image), runtime, config, places, timeout))
    if as_json:
        print_json({"image": image, "runtime": engine, "image_id": image_id})
    else:
        typer.echo(f"{image}: {image_id} in {engine}, {time.monotonic() - began:.1f} s")
    tell_of_budget(config, places, (image_id,))


def _named(text: str) -> "Image":
    from lmd.config.files import image_kind
    from runtimes.contract import Image, ImageKind

    try:
        kind, location = image_kind(text)
    except ValueError as error:
        fail(f"image {text}: {error}", USAGE)
    if kind is ImageKind.ROOT_DIRECTORY:
        fail(f"image {text}: a directory is used in place and goes into no store", USAGE)
    return Image(kind=kind, location=location, pull="always")


async def _pull(
    image: "Image", runtime: str | None, config: "Config", places: "Places", timeout: int
) -> tuple[str, str]:
    from lmd.image_store import pull as pulled

    try:
        return await pulled(image, runtime, config, places, timeout)
    except TimeoutError:
        fail(f"image {image.location}: not there after {timeout} s; its registry does not answer, or is slow")


def prune(
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help=f"How much may stay, such as 500M or 20Gi. Default: image_budget of the configuration, else {KEEP}.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Remove images, the least recently used first, until those of lmd are not larger than SIZE together.

    Only those that lmd has built, or has brought into an engine's store; none that a machine uses or that a configured
    machinetype refers to. Exit codes: 0 done, 1 something could not be removed or an engine could not be asked, 2 wrong
    usage.
    """
    from lmd.config.values import size as parsed
    from lmd.image_store import remove, stored, surplus

    config, places = here()
    try:
        configured = config.settings.image_budget
        wanted = keep or (KEEP if configured is None else str(configured))
        budget = parsed(int(wanted) if wanted.isdecimal() else wanted)
    except ValueError as error:
        fail(f"--keep {keep}: {error}", USAGE)
    store = awaited(stored(config, places, _names()))
    going = surplus(store.images, budget)
    problems = [] if dry_run else awaited(remove(going, config, places))
    if as_json:
        told = {"removed": [plain(image) for image in going], "problems": store.problems + problems}
        print_json(told | {"dry_run": dry_run, "budget": budget})
    else:
        _say(store, going, dry_run=dry_run)
    if store.problems + problems:
        fail("\n".join(store.problems + problems), PROBLEM)


def _say(store: "Store", going: "list[Stored]", *, dry_run: bool) -> None:
    if going:
        table(HEADS, rows(going))
    left = sum(image.bytes for image in store.images) - sum(image.bytes for image in going)
    word = "would be removed" if dry_run else "removed"
    tell(f"{len(going)} image(s) {word}, {size(sum(image.bytes for image in going))}; {size(left)} stay")


def in_engines() -> "Store":
    """The images of ours in this host's engines."""
    from lmd.image_files import BUILT
    from lmd.image_store import Store, stored

    config, places = here()
    found = awaited(stored(config, places, _names()))
    return Store([image for image in found.images if image.where != BUILT], found.problems)


def rows(images: "list[Stored]") -> list[tuple[str, ...]]:
    """The rows of a table of images below `HEADS`."""
    return [
        (
            image.where,
            image.name,
            image.id[:12],
            size(image.bytes),
            when(image.used) + _why_it_stays(image),
        )
        for image in images
    ]


def _why_it_stays(image: "Stored") -> str:
    if image.needed_by:
        return f" (needed by {', '.join(image.needed_by)})"
    return " (in use)" if image.in_use else ""


def after_build(image_id: str) -> None:
    """Hold to image_budget where one is configured; building itself needs no configuration."""
    from lmd.config.load import load_host
    from lmd.config.problems import ConfigError

    try:
        configured = load_host(os.geteuid(), os.environ).settings.image_budget
    except ConfigError:
        return
    if configured is not None:
        tell_of_budget(*here(), (image_id,))


def tell_of_budget(config: "Config", places: "Places", sparing: tuple[str, ...] = ()) -> None:
    """Hold to the configured image_budget, and tell what was removed for it."""
    from lmd.image_store import keep_within_budget

    gone, problems = awaited(keep_within_budget(config, places, _names(), sparing))
    if gone:
        names = ", ".join(f"{image.name} ({image.where})" for image in gone)
        tell(f"removed to keep within image_budget: {names}")
    for problem in problems:
        tell(f"image_budget: {problem}")


def plain(image: "Stored") -> dict[str, Any]:
    """One image for JSON."""
    return {
        "where": image.where,
        "name": image.name,
        "id": image.id[:12],
        "bytes": image.bytes,
        "used": image.used or None,
        "in_use": image.in_use,
        "needed_by": list(image.needed_by),
    }


def _names() -> tuple[str, ...]:
    from lmd.engines import here as runtimes_here

    return runtimes_here(os.environ)
