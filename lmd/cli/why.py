"""`lm why`: what holds the daemon back."""

from typing import Annotated

import typer

from lmd.cli.speaking import answered, fail, needed, print_json, table, tell, when

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog="Examples:  lm why   |   lm why atlas   |   lm why --json")
def why(
    machinetype: Annotated[str | None, typer.Argument(metavar="TYPE", help="Of this type only.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say, for each machinetype, why no more machines of it are started now, and when that may change."""
    with answered():
        told = needed().get("/v1/why")
    refusals = [one for one in told["refusals"] if machinetype in (None, one["machinetype"])]
    disabled = {name: problems for name, problems in told["disabled"].items() if machinetype in (None, name)}
    if as_json:
        print_json({**told, "refusals": refusals, "disabled": disabled})
        return
    if machinetype and not refusals and not disabled:
        fail(f"{machinetype}: no machinetype of this name; see them with: lm why")
    if refusals:
        rows = [(one["machinetype"], one["code"], one["sentence"], when(one["until"])) for one in refusals]
        table(("TYPE", "CODE", "WHY", "UNTIL"), rows)
    for problems in disabled.values():
        for problem in problems:
            tell(problem)
    if told["draining"]:
        tell(f"draining: {told['draining']}")
