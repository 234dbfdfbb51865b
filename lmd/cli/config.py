"""`lm config`: check, show and describe the configuration."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lmd.config.models import Config
    from lmd.config.problems import Problem

app = typer.Typer(
    name="config",
    help="Check, show and describe the configuration.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)
Files = Annotated[
    list[Path] | None,
    typer.Argument(metavar="FILE", help="Files to read on top of the host's configuration.", show_default=False),
]


@app.command()
def check(files: Files = None) -> None:
    """Say all that is wrong with the configuration, a line each; exit code 1 if anything is."""
    from lmd.config.load import all_problems

    config = _load(files)
    _stop_at(all_problems(config))
    count = len(config.machinetypes)
    typer.echo(
        f"no errors; {count} machinetype{'' if count == 1 else 's'}: {', '.join(config.machinetypes)}".rstrip(": ")
    )


@app.command()
def show(
    files: Files = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say which file set each value.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Values and their origins as JSON.")] = False,
) -> None:
    """Print the configuration in force, with its defaults, as TOML."""
    from lmd.config.show import as_data, as_toml

    config = _load(files)
    typer.echo(_json(as_data(config)) if as_json else as_toml(config, origin=origin), nl=as_json)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from lmd.config.schema import schema as made

    typer.echo(_json(made()))


def _load(files: list[Path] | None) -> "Config":
    from lmd.config.load import load_host
    from lmd.config.problems import ConfigError

    try:
        return load_host(os.geteuid(), os.environ, files or [])
    except ConfigError as error:
        _stop_at(error.problems)
        raise


def _stop_at(problems: "list[Problem] | tuple[Problem, ...]") -> None:
    """Print the problems and exit with 1; do nothing where there are none."""
    if not problems:
        return
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    for problem in problems:
        console.print(str(problem), style="red")
    sources = len({problem.source for problem in problems})
    console.print(f"{_count(len(problems), 'error')} in {_count(sources, 'file')}")
    raise typer.Exit(1)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
