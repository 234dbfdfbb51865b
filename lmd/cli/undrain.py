"""`lm undrain`: start machines again."""

from typing import Annotated

import typer

from lmd.cli.speaking import answered, needed, tell

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog="Examples:  lm undrain   |   lm undrain --type atlas")
def undrain(
    machinetype: Annotated[str | None, typer.Option("--type", help="Only machines of this type.")] = None,
    host_shutdown: Annotated[
        bool, typer.Option("--host-shutdown", help="For the unit that ends machines when the host goes down.")
    ] = False,
) -> None:
    """Start machines again; a type that was drained by itself stays so until it is named."""
    with answered():
        told = needed().post("/v1/undrain", {"machinetype": machinetype, "host_shutdown": host_shutdown})
    tell(f"draining all the same: {told['draining']}" if told["draining"] else "starting machines again")
