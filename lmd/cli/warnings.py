"""`lm warnings`: what an administrator should mend."""

from typing import Annotated

import typer

from lmd.cli.speaking import answered, needed, print_json, table, tell, when

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog="Examples:  lm warnings   |   lm warnings --all   |   lm warnings --acknowledge runtime:docker")
def warnings(
    acknowledge: Annotated[
        list[str] | None, typer.Option("--acknowledge", metavar="KEY", help="This one is known; may be repeated.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also those acknowledged or resolved.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List what the daemon warns of: raised when it begins, resolved when it is over, quiet when acknowledged."""
    daemon = needed()
    with answered():
        for key in acknowledge or ():
            daemon.post("/v1/warnings/acknowledge", {"key": key})
            tell(f"{key}: acknowledged")
        if acknowledge:
            return
        found = daemon.get("/v1/warnings", **({"all": 1} if everything else {}))
    if as_json:
        print_json(found)
        return
    if not found:
        tell("no warnings")
        return
    table(("WARNING", "SINCE", "STATE", "TEXT"), [(w["key"], when(w["raised"]), _state(w), w["text"]) for w in found])


def _state(warning: dict[str, object]) -> str:
    if warning["resolved"]:
        return "resolved"
    return f"acknowledged by {warning['by']}" if warning["acknowledged"] else "open"
