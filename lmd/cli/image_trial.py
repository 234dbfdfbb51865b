"""`lm image test`: whether an image can be a machine's."""

import asyncio
import os
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lmd.cli.speaking import PROBLEM, USAGE, fail, here, print_json, tell

if TYPE_CHECKING:
    from lmd.config.models import Config
    from lmd.conformance.both import Entry, Told
    from lmd.image_trial import Lack
    from lmd.places import Places
    from runtimes.contract import Image

NOT_AVAILABLE = 20
INTERRUPTED = 130
EPILOG = (
    "Examples:  lm image test lmd:base   ·   lm image test docker.io/library/debian:12 --json   ·   "
    "lm image test oci-archive:mine.tar --check nested-containers-see-the-environment"
)


def test(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="As in root_image: lmd:NAME, a reference, a file.")],
    runtime: Annotated[str, typer.Option(help="The runtime it is tried on.")] = "podman",
    only: Annotated[
        list[str] | None, typer.Option("--check", metavar="NAME", help="Only this check of the suite; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Say what an image lacks, then run the suite of the machines' environment inside it.

    Exit codes: 0 nothing that is needed is lacking and no check failed; 1 otherwise; 2 wrong usage; 20 the runtime or
    the image is not available.
    """
    from lmd.conformance import signals
    from lmd.conformance.ground import NotAvailable
    from lmd.conformance.trial import Interrupted
    from lmd.engines import NoRuntime
    from runtimes.contract import RuntimeFault

    wanted = _wanted(only or [])
    config, places = here()
    found = _found(image, places)

    async def work(came: Callable[[], bool]) -> "tuple[list[Lack], list[Told]]":
        return await _tried(runtime, found, config, places, wanted, came, quiet=as_json)

    try:
        lacking, told = signals.run(work)
    except (asyncio.CancelledError, KeyboardInterrupt, Interrupted):
        fail("interrupted; the machines of the suite are gone", INTERRUPTED)
    except (NotAvailable, NoRuntime, RuntimeFault) as error:
        fail(str(error), NOT_AVAILABLE)
    failed = [one for one in told if one.outcome.value == "failed"]
    bad = bool(failed) or any(lack.needed for lack in lacking)
    if as_json:
        lacks = [{"what": lack.what, "why": lack.why, "needed": lack.needed} for lack in lacking]
        print_json({"image": image, "lacks": lacks, "results": [one.plain() for one in told], "good": not bad})
    else:
        typer.echo(f"{image}: " + ("cannot be a machine's as it is" if bad else "can be a machine's"))
    raise typer.Exit(PROBLEM if bad else 0)


def _wanted(names: list[str]) -> "list[Entry]":
    from lmd.config.rules import nearest
    from lmd.conformance.both import ENVIRONMENT, chosen, listed

    entries = [entry for entry in listed() if entry.suite == ENVIRONMENT]
    known = {entry.name for entry in entries}
    if unknown := [name for name in names if name not in known]:
        fail("\n".join(f"--check {name}: no check of this name{nearest(name, known)}" for name in unknown), USAGE)
    return chosen(entries, names)


def _found(text: str, places: "Places") -> "Image":
    from images import cache
    from lmd.config.files import image_kind
    from runtimes.contract import Image, ImageKind

    if text.startswith("lmd:"):
        name = text.removeprefix("lmd:")
        built = cache.find(name, (places.cache / "images", cache.default_directory(os.environ, 0)))
        if built is None:
            fail(f"image {text}: has not been built; build it with: lm image build {name}", NOT_AVAILABLE)
        return Image(kind=ImageKind.OCI_ARCHIVE, location=str(built))
    try:
        kind, location = image_kind(text)
    except ValueError as error:
        fail(f"image {text}: {error}", USAGE)
    if kind is not ImageKind.REFERENCE:
        location = str(Path(location).absolute())
    return Image(kind=kind, location=location)


async def _tried(
    runtime: str,
    image: "Image",
    config: "Config",
    places: "Places",
    wanted: "list[Entry]",
    came: Callable[[], bool],
    *,
    quiet: bool,
) -> "tuple[list[Lack], list[Told]]":
    """What it lacks, and what came of the suite; that is left out where what it needs is lacking."""
    from lmd.conformance.both import run
    from lmd.conformance.trial import Interrupted
    from lmd.image_trial import healthy, lacks

    async with healthy(runtime, config, places) as made:
        lacking = await lacks(made, image, f"run:{os.geteuid()}")
    for lack in lacking if not quiet else ():
        typer.echo(f"lacks {lack.what}: {lack.why}")
    told: list[Told] = []
    if any(lack.needed for lack in lacking):
        tell("the suite was not run: it needs what is lacking")
        return lacking, told
    async with aclosing(run(runtime, config, places, image, wanted)) as results:
        async for one in results:
            if came():
                raise Interrupted
            told.append(one)
            if not quiet:
                typer.echo(f"{one.outcome.value:14}  {one.entry.sentence}")
                if one.reason:
                    typer.echo(f"{'':14}  {one.reason}")
    return lacking, told
