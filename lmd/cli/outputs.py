"""`lm outputs`: what a machine left in its joboutputs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lmd.cli.show import Machine
from lmd.cli.speaking import awaited, fail, here, print_json, size, tell, the_machine

if TYPE_CHECKING:
    from lmd.config.models import Config
    from lmd.places import Places

app = typer.Typer(rich_markup_mode=None)
MOST_BYTES = 10**13
MOST_FILES = 10**7


@app.command(epilog="Examples:  lm outputs abcdef   |   lm outputs abcdef results/")
def outputs(
    machine: Machine,
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Copy them into this new folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List what a machine has left in $JOBOUTPUTS so far, or copy it; links out of it, devices and the like stay."""
    config, places = here()
    awaited(_outputs(config, places, machine, folder, as_json))


async def _outputs(config: "Config", places: "Places", wanted: str, folder: Path | None, as_json: bool) -> None:
    import tempfile

    from lmd.environment.collect import CollectError, collect

    found = await the_machine(config, places, wanted)
    if found.directory is None:
        fail(f"machine {found.id}: has no directory here")
    source = found.directory.joboutputs
    try:
        if folder is not None:
            report = collect(source, folder, most_bytes=MOST_BYTES, most_files=MOST_FILES)
            entries: list[tuple[str, int]] = []
        else:
            with tempfile.TemporaryDirectory(prefix="lm-outputs.") as scratch:
                report = collect(source, Path(scratch) / "o", most_bytes=MOST_BYTES, most_files=MOST_FILES)
                entries = _entries(Path(scratch) / "o")
    except CollectError as error:
        fail(str(error))
    if as_json:
        listed = [{"path": path, "bytes": count} for path, count in entries]
        print_json({"files": report.files, "bytes": report.bytes, "left_out": report.left_out, "entries": listed})
        return
    for path, count in entries:
        typer.echo(f"{size(count):>10}  {path}")
    tell(f"{report.files} file(s), {size(report.bytes)}" + (f" in {folder}" if folder else ""))
    for line in report.left_out:
        tell(f"left out: {line}")


def _entries(root: Path) -> list[tuple[str, int]]:
    found = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink())
    return [(ascii(str(path.relative_to(root)))[1:-1], path.stat().st_size) for path in found]
