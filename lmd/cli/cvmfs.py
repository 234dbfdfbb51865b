"""`lm cvmfs`: the CernVM-FS repositories of this host, as its machines get them."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from lmd.cli.speaking import fail, here, print_json, size, table, tell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cvmfs.hosting import Provider
    from lmd.config.models import Config
    from lmd.places import Places

app = typer.Typer(
    name="cvmfs",
    help="Look after the CernVM-FS repositories of this host.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)
Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[REPOSITORY]...", help="Full names; without any: those that types name.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command()
def status(as_json: AsJson = False) -> None:
    """List the repositories that types name or that are mounted; exit code 1 if a mounted one does not answer."""
    from lmd.repositories.known import repositories

    config, places = here()
    found = repositories(config, _provider(config, places))
    if as_json:
        print_json([repository.plain() for repository in found])
    elif found:
        rows = [
            (
                repository.name,
                repository.problem or ("answers" if repository.mounted else "not mounted"),
                repository.provider,
                ", ".join(repository.types) or "-",
                repository.where,
            )
            for repository in found
        ]
        table(("REPOSITORY", "STATE", "PROVIDER", "TYPES", "WHERE"), rows)
    else:
        tell("no machinetype names a repository, and none is mounted")
    raise typer.Exit(any(repository.problem for repository in found))


@app.command()
def probe(names: Names = None) -> None:
    """Mount each repository as a machine would have it, and list it; exit code 1 if one cannot be had."""
    _each(names, lambda by, name: by.ensure(name, os.getpid()), "answers")


@app.command()
def remount(names: Names = None) -> None:
    """Take each mount away, whatever hangs in it, and mount again."""
    _each(names, lambda by, name: by.remount(name, os.getpid()), "mounted anew")


@app.command()
def cache(
    as_json: AsJson = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove the half that was used least recently.")] = False,
) -> None:
    """Say what the embedded reader's cache holds."""
    from cvmfs.cache import Cache
    from cvmfs.errors import CvmfsError
    from lmd.repositories.provider import cache as place

    config, places = here()
    folder = place(places)
    if not folder.exists():
        print_json({"directory": str(folder), "bytes": 0}) if as_json else tell(f"{folder}: not there yet")
        return
    try:
        kept = Cache(folder)
        if prune:
            kept.make_room()
        held = kept.used()
    except (CvmfsError, OSError) as error:
        fail(str(error))
    quota = (config.cvmfs.quota_mb if config.cvmfs.quota_mb is not None else 4000) << 20
    if as_json:
        print_json({"directory": str(folder), "bytes": held, "quota_bytes": quota})
    else:
        tell(f"{folder}: {size(held)} of at most {size(quota)}")


def _provider(config: "Config", places: "Places") -> "Provider":
    from lmd.repositories.provider import NoRepositories, provider

    try:
        return provider(config.cvmfs, places)
    except NoRepositories as error:
        fail(str(error))


def _each(names: list[str] | None, act: "Callable[[Provider, str], Path]", done: str) -> None:
    from cvmfs.errors import CvmfsError
    from cvmfs.hosting import probe as answers
    from lmd.repositories.known import users

    config, places = here()
    by = _provider(config, places)
    chosen = names or sorted(users(config))
    if not chosen:
        fail("no machinetype names a repository: say which one")
    wrong = 0
    for name in chosen:
        try:
            where = act(by, name)
            problem = answers(where, float(config.cvmfs.probe_seconds))
        except (CvmfsError, OSError) as error:
            problem = str(error)
        wrong += bool(problem)
        tell(f"{name}: {problem or done}")
    raise typer.Exit(1 if wrong else 0)
