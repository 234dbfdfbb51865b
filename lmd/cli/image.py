"""`lm image`: build machine images and list them; what is done with engines is in `image_store` and `image_trial`."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmd.cli import image_store, image_trial
from lmd.cli.speaking import tell

if TYPE_CHECKING:
    from images.built import BuiltImage
    from images.kinds.source import Progress
    from images.recipe import Recipe

app = typer.Typer(
    name="image",
    help="Build machine images, bring them into engines' stores, try, list and remove them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)


class Form(StrEnum):
    """The values of --format; those of `images.archive.Format`, which is imported only when an image is built."""

    OCI = "oci"
    OCI_LAYOUT = "oci-layout"
    DOCKER = "docker"
    DIRECTORY = "directory"


@app.command(
    epilog="Examples:  lm image build   ·   lm image build busybox --output busybox.tar --format docker   ·   "
    "lm image build ./myimage   ·   SOURCE_DATE_EPOCH=1700000000 lm image build --json"
)
def build(
    name: Annotated[str, typer.Argument(help="A recipe's name, or a directory with a recipe.toml in it.")] = "base",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the image here too, in the form of --format.")
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="The form of --output.")] = Form.OCI,
    epoch: Annotated[
        int | None,
        typer.Option(
            "--source-date-epoch",
            min=0,
            metavar="N",
            help="The image's date in Unix seconds: no file in it is younger. Default: $SOURCE_DATE_EPOCH, else today.",
            show_default=False,
        ),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build even if this image is in the cache, for newer packages.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was built as JSON.")] = False,
) -> None:
    """Build an image, or take it from the cache. Machinetypes use it as root_image = "lmd:NAME".

    The same recipe, date and package versions give the same bytes. Exit code: 0 it is there, 1 it could not be built,
    2 the recipe or the command line is wrong.
    """
    from images.archive import Format, opened
    from images.builder import chosen_epoch
    from images.cache import default_directory, ensure
    from images.errors import ImageError

    if form is not Form.OCI and output is None:
        _stop(f"--format {form} needs --output: the cache holds OCI archives", 2)
    recipe = _recipe(name)
    try:
        date = chosen_epoch(os.environ, time.time()) if epoch is None else epoch
        with _progress(name) as progress:
            directory = default_directory(os.environ, os.geteuid())
            image = ensure(directory, recipe, date, rebuild=rebuild, progress=progress)
            if output is not None:
                progress(f"writing {output}")
                with opened(image.path) as packed:
                    packed.write(output, Format(form.value))
    except ImageError as error:
        _stop(str(error), 1)
    except OSError as error:
        _stop(f"{error.filename or output}: {error.strerror or error}", 1)
    _report(image, output, as_json=as_json)
    image_store.after_build(image.image_id)


@app.command("list", epilog="Examples:  lm image list   ·   lm image list --json")
def list_images(as_json: Annotated[bool, typer.Option("--json", help="The tables as JSON.")] = False) -> None:
    """List the images that were built on this host or brought into its engines, and the recipes that can be built."""
    from images.builder import sources
    from images.cache import find, listed, search_directories
    from images.recipe import builtin, load

    directories = search_directories(os.environ, os.geteuid())
    kinds = sources(os.environ, os.geteuid())
    images = [
        image.plain() | {"built": int(built), "current": find(image.name, directories) == image.path.resolve()}
        for directory in directories
        for image, built in listed(directory)
    ]
    recipes = [
        {
            "name": recipe.name,
            "description": recipe.settings.description,
            "missing": kinds[recipe.settings.kind].missing(),
        }
        for recipe in map(load, builtin().values())
    ]
    store = image_store.in_engines()
    if as_json:
        kept = [image_store.plain(image) for image in store.images]
        typer.echo(_json({"images": images, "engines": kept, "problems": store.problems, "recipes": recipes}))
        return
    _tables(images, recipes)
    typer.echo()
    _table(
        "Images that lmd has brought into engines or unpacked (lm image prune)",
        image_store.HEADS,
        image_store.rows(store.images),
    )
    for problem in store.problems:
        tell(problem)


app.command("pull", epilog=image_store.PULL_EPILOG)(image_store.pull)
app.command("test", epilog=image_trial.EPILOG)(image_trial.test)
app.command("prune", epilog=image_store.PRUNE_EPILOG)(image_store.prune)


def _tables(images: list[dict[str, Any]], recipes: list[dict[str, Any]]) -> None:
    _table(
        "Images built on this host",
        ("NAME", "ROOT_IMAGE", "BUILT", "SIZE", "PACKAGES", "ID", "FILE"),
        [
            (
                image["name"],
                f"lmd:{image['name']}" if image["current"] else "-",
                _local(image["built"]),
                _size(image["size_bytes"]),
                str(len(image["packages"])),
                image["image_id"].removeprefix("sha256:")[:12],
                str(image["path"]),
            )
            for image in images
        ],
    )
    typer.echo()
    _table(
        "Recipes that can be built (lm image build NAME)",
        ("NAME", "WHAT", "LACKING ON THIS HOST"),
        [(recipe["name"], recipe["description"], recipe["missing"] or "-") for recipe in recipes],
    )


def _recipe(name: str) -> "Recipe":
    from images.errors import ImageError
    from images.recipe import find_recipe

    try:
        return find_recipe(name)
    except ImageError as error:
        _stop(str(error), 2)
        raise


def _stop(message: str, code: int) -> None:
    typer.echo(f"lm image: {message}", err=True)
    raise typer.Exit(code)


@contextmanager
def _progress(name: str) -> "Iterator[Progress]":
    """On a terminal one line that moves, else nothing."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda _: None
        return
    started = time.monotonic()
    with console.status(f"{escape(name)}: …") as status:
        yield lambda step: status.update(f"{escape(name)}: {escape(step)} ({time.monotonic() - started:.0f} s)")


def _report(image: "BuiltImage", output: Path | None, *, as_json: bool) -> None:
    if as_json:
        typer.echo(_json(image.plain() | {"output": None if output is None else str(output)}))
        return
    count = f"{len(image.packages)} package{'' if len(image.packages) == 1 else 's'}"
    typer.echo(f"{image.name}: {image.image_id}, {_size(image.size_bytes)}, {count}")
    typer.echo(f'root_image = "lmd:{image.name}", which is now {image.path}')
    if output is not None:
        typer.echo(f"written to {output}")


def _json(value: Any) -> str:
    return json.dumps(value, indent=2)


def _size(count: int) -> str:
    return f"{count / 1_000_000:.1f} MB"


def _local(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(seconds))


def _table(title: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Columns as wide as what they hold, never cut or wrapped: they can be read by programs too."""
    typer.echo(title)
    lines = [heads, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines if rows else []:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  " + "  ".join(cells).rstrip())
    if not rows:
        typer.echo("  none yet")
