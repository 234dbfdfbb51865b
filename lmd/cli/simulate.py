"""`lm simulate`: what a configuration will do, before it is in production."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmd.cli.speaking import fail, print_json, tell

if TYPE_CHECKING:
    from lmd.simulate.figures import Figures
    from lmd.simulate.runs import Asked, Run

app = typer.Typer(rich_markup_mode=None, add_completion=False)
DAYS_OF_SHARES = 14


@app.command(
    epilog="Examples:  lm simulate examples/scenarios/dry.toml   |   lm simulate --scenario dry.toml /etc/lmd/conf.d"
    "   |   lm simulate old.toml new.toml   |   lm simulate --picture slots.svg examples/scenarios/mixed.toml"
)
def simulate(
    configs: Annotated[
        list[Path],
        typer.Argument(
            metavar="CONFIG...", help="Configurations: a file or a directory of *.toml each; two are compared."
        ),
    ],
    scenario: Annotated[
        Path | None, typer.Option(help="File with the [scenario]. Without it: that of the first CONFIG that has one.")
    ] = None,
    factories: Annotated[int | None, typer.Option(min=1, max=10_000, help="So many factories like the first.")] = None,
    days: Annotated[float | None, typer.Option(min=0.01, max=3660, help="Days to simulate.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32, help="Another seed draws other chances.")] = None,
    arrivals: Annotated[
        Path | None, typer.Option(help="CSV of jobs: seconds,machinetype,work_seconds[,count].")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the first factory's timeline: FILE.svg, or FILE.png with cairosvg.")
    ] = None,
    picture_days: Annotated[float, typer.Option(min=0.01, help="Days that the picture shows.")] = 3.0,
    as_json: Annotated[bool, typer.Option("--json", help="All figures as JSON.")] = False,
) -> None:
    """Run the daemon's own decision over simulated time, and say what came of it."""
    from lmd.config.problems import ConfigError
    from lmd.simulate.runs import Asked

    asked = Asked(scenario, factories, days, seed, arrivals)
    if picture is not None and picture.suffix not in (".svg", ".png"):
        fail(f"--picture {picture}: expected a name that ends in .svg or .png")
    try:
        runs = _runs(configs, asked, quiet=as_json)
    except ConfigError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted", 130)
    if as_json:
        print_json({"simulations": [run.figures.plain() for run in runs]})
    else:
        _print(runs)
    if picture is not None:
        _draw(runs[-1], picture, picture_days)


def _runs(configs: list[Path], asked: "Asked", *, quiet: bool) -> "list[Run]":
    from rich.console import Console
    from rich.progress import Progress

    from lmd.simulate.runs import prepared

    worlds = prepared(configs, asked)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        runs = []
        for name, start in worlds:
            task = progress.add_task(name, total=1.0)
            runs.append(start(lambda part, task=task: progress.update(task, completed=part)))  # type: ignore[misc]
    return runs


def _print(runs: "list[Run]") -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    for run in runs:
        _print_one(console, run.figures, run.seconds)
    if len(runs) > 1:
        from lmd.simulate.compare import rows

        for run in runs[1:]:
            table = _table(f"{runs[0].figures.name} beside {run.figures.name}", "", "before", "after", "change")
            for row in rows(runs[0].figures, run.figures):
                table.add_row(*row)
            console.print(table)


def _print_one(console: Any, figures: "Figures", seconds: float) -> None:
    console.print(
        f"{figures.name}: {figures.days:g} days, {figures.processors:.0f} processors on average,"
        f" {figures.decisions} decisions in {seconds:.1f} s"
    )
    console.print(
        f"  used {figures.use:.1%}, for work {figures.useful:.1%}; {figures.share_error:.1%} away from the shares;"
        f" {figures.wasted_per_1000:.2f} wasted starts per 1,000 core-hours"
        + (f"; idle machines harvested {figures.harvested:.1%}" if figures.harvested else "")
    )
    table = _table(None, "machinetype", "target", "share", "of all", "starts", "wasted", "told", "first after")
    for one in figures.types:
        first = f"{one.first_hours:.1f} h" if one.first_hours is not None else "never"
        table.add_row(
            one.machinetype,
            f"{one.target:.1%}",
            f"{one.share:.1%}",
            f"{one.use:.1%}",
            str(one.starts),
            str(one.wasted_starts),
            str(one.told),
            first,
        )
    console.print(table)
    for one in figures.types:
        waits = ", ".join(f"{why} {part:.0%}" for why, part in list(one.waits.items())[:4] if part >= 0.005)
        console.print(f"  {one.machinetype} waited for: {waits or 'nothing'}")
    console.print()
    _print_days(console, figures)
    for why, part in figures.waste.items():
        if part >= 0.0005:
            console.print(f"  {part:6.1%}  {why}")
    console.print()


def _print_days(console: Any, figures: "Figures") -> None:
    days = figures.shares
    step = max(1, -(-len(days) // DAYS_OF_SHARES))
    names = [one.machinetype for one in figures.types if one.target > 0]
    table = _table("shares by day", "day", *names)
    for day in range(0, len(days), step):
        table.add_row(str(day), *(f"{days[day].get(name, 0.0):.1%}" for name in names))
    table.add_row("target", *(f"{one.target:.1%}" for one in figures.types if one.target > 0))
    console.print(table)


def _table(title: str | None, *columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
    return table


def _draw(run: "Run", file: Path, days: float) -> None:
    from lmd.simulate.picture import png

    drawing = run.picture(days)
    try:
        if file.suffix == ".png":
            file.write_bytes(png(drawing))
        else:
            file.write_text(drawing, encoding="utf-8")
    except ModuleNotFoundError:
        fail(f"--picture {file}: PNG needs cairosvg (pip install 'lmd[pictures]'); name a .svg instead")
    except OSError as error:
        fail(f"--picture {file}: cannot be written: {error.strerror}")
    tell(f"drew {file} at {time.strftime('%H:%M:%S')}")
