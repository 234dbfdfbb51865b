"""`lm outputs`: what a machine left in its joboutputs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lmd.cli.show import Machine
from lmd.cli.speaking import awaited, fail, here, print_json, size, tell, the_machine

if TYPE_CHECKING:
    from lmd.config.models import Config
    from lmd.places import Places

app = typer.Typer(rich_markup_mode=None, add_completion=False)
MOST_BYTES = 10**13
MOST_FILES = 10**7


@app.command(epilog="Examples:  lm outputs abcdef   |   lm outputs abcdef results/")
def outputs(
    machine: Machine,
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="Copy them into this new folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List what a machine has left in $JOBOUTPUTS so far, or copy it; links out of it, devices and the like stay."""
    config, places = here()
    awaited(_outputs(config, places, machine, folder, as_json))


async def _outputs(config: "Config", places: "Places", wanted: str, folder: Path | None, as_json: bool) -> None:
    found = await the_machine(config, places, wanted)
    if found.directory is None:
        fail(f"machine {found.id}: has no directory here")
    if folder is None:
        _list(found.directory.joboutputs, as_json)
    else:
        _copy(found.directory.joboutputs, folder, as_json)


def _list(source: Path, as_json: bool) -> None:
    from lmd.environment.joboutputs import listing
    from lmd.environment.printable import name

    entries = listing(source, most_files=MOST_FILES)
    if as_json:
        print_json([{"path": name(entry.path), "kind": entry.kind, "bytes": entry.bytes} for entry in entries])
        return
    for entry in entries:
        typer.echo(f"{size(entry.bytes):>10}  {entry.kind:<10}  {name(entry.path)}")
    tell(f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}, {size(sum(entry.bytes for entry in entries))}")


def _copy(source: Path, folder: Path, as_json: bool) -> None:
    from lmd.environment.collect import CollectError, collect

    try:
        report = collect(source, folder, most_bytes=MOST_BYTES, most_files=MOST_FILES)
    except CollectError as error:
        fail(str(error))
    if as_json:
        print_json({"files": report.files, "bytes": report.bytes, "left_out": report.left_out})
        return
    tell(f"{report.files} file(s), {size(report.bytes)} in {folder}")
    for line in report.left_out:
        tell(f"left out: {line}")
