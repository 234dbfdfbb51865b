"""`lm doctor`: what works on this host, what does not, and the line to type."""

import asyncio
import os
import pwd
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmd.cli.speaking import USAGE, fail, print_json, table

if TYPE_CHECKING:
    from lmd.doctor import Asked, Check, Finding, Report
    from lmd.places import Places

WIDTH = len("problem")

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog="""Examples:

  lm doctor

  lm doctor mytype.toml

  lm doctor --json --quick

  lm doctor --matrix

Exit codes, as monitoring plugins have them: 0 ok, notes included; 1 warnings: something is weaker here, or a type may
ask for what fails; 2 problems: machines do not run, or soon will not; also wrong usage.
"""
)
def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TYPE|FILE.toml|IMAGE", help="Only what machines of this type need; default: the whole host."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only ask engines, make no machine to try them.")] = False,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Print what is all right, too.")] = False,
    matrix: Annotated[
        bool, typer.Option("--matrix", help="Print what each engine of this host can do, and why something is missing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All findings as JSON.")] = False,
) -> None:
    """Examine this host: engines, user ids, control groups, limits, namespaces, mounts, devices, network, disk, clock.

    Each engine is tried with a machine of its own, which is removed again; nothing else on the host is changed. Below
    what is wrong stands what to type. With a TYPE: what that needs and this host lacks; no machine is made.
    """
    from lmd.doctor import examine
    from lmd.doctor.checks import CHECKS

    asked = _asked(trial=not quick)
    if matrix:
        _matrix(asked, as_json=as_json)
        return
    checks = CHECKS if target is None else _of_type(target)
    with asyncio.Runner() as runner:
        try:
            report = runner.run(examine(checks, asked))
        except KeyboardInterrupt:
            fail("interrupted", 130)
        if as_json:
            print_json(plain(report))
        else:
            _print(report, everything=everything or target is not None)
        if report.hung:  # the thread that waits for a hung engine must not be waited for
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(report.exit_code)
    raise typer.Exit(report.exit_code)


def _asked(*, trial: bool) -> "Asked":
    """For this user, with the configuration if it can be used."""
    from lmd import engines
    from lmd.config.load import load_host
    from lmd.config.models import Config
    from lmd.config.problems import ConfigError
    from lmd.doctor import Asked
    from lmd.places import places

    uid, unreadable, config = os.geteuid(), [], Config()
    try:
        config = load_host(uid, os.environ)
    except ConfigError as error:
        unreadable = list(error.problems)
    return Asked(
        uid=uid,
        user=_user(uid),
        environment=dict(os.environ),
        config=config,
        places=places(uid, os.environ),
        unreadable=unreadable,
        runtimes=engines.here(os.environ),
        trial=trial,
        ask_daemon=lambda: _warnings(places(uid, os.environ)),
    )


def _warnings(places: "Places") -> list[str] | None:
    """What the daemon warns of; None if no daemon listens. Raises `NoDaemon` or `Refused`."""
    from lmd.cli.asking import daemon

    listening = daemon(places)
    return None if listening is None else [str(one["text"]) for one in listening.get("/v1/warnings")]


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return os.environ.get("USER", str(uid))


def _matrix(asked: "Asked", *, as_json: bool) -> None:
    from lmd.doctor.matrix import of_host, remarks, rows
    from lmd.doctor.runtimes import gather

    columns = of_host(asyncio.run(gather(replace(asked, trial=False))))
    if not columns:
        fail("no runtime works on this host; see: lm doctor")
    if as_json:
        print_json([one.plain() for one in columns])
        return
    table(("", *(one.title for one in columns)), rows(columns))
    for line in remarks(columns):
        typer.echo(line)


def _of_type(target: str) -> "Sequence[Check[Any]]":
    """The checks of a machinetype; what is wrong with its table is a wrong usage."""
    from lmd.config.chosen import choose
    from lmd.config.layers import host_files
    from lmd.config.problems import ConfigError
    from lmd.doctor.fitness import checks

    uid = os.geteuid()
    try:
        chosen = choose(target, [], host=host_files(uid, os.environ), directory=Path.cwd(), guarded=uid == 0)
    except ConfigError as error:
        fail("\n".join(str(problem) for problem in error.problems), USAGE)
    return checks(chosen)


def plain(report: "Report") -> dict[str, object]:
    """The report for JSON."""
    return {
        "level": report.level.word,
        "exit_code": report.exit_code,
        "findings": [found.plain() for found in report.findings],
    }


def _print(report: "Report", *, everything: bool) -> None:
    """A line for each finding, below it what to type; what is all right only on demand, or in short."""
    from lmd.doctor import Level

    for found in report.findings:
        if everything or found.level is not Level.OK or found.check in ("host", "runtimes"):
            _say(found)
    counts = {level: report.count(level) for level in Level}
    said = ", ".join(
        f"{count} {level.word}{'s' if level is not Level.OK and count != 1 else ''}" for level, count in counts.items()
    )
    typer.echo(said + ("" if everything else " (all of them: lm doctor --all)"))


def _say(found: "Finding") -> None:
    from lmd.doctor import Level

    colours = {Level.PROBLEM: typer.colors.RED, Level.WARNING: typer.colors.YELLOW, Level.OK: typer.colors.GREEN}
    colour = colours.get(found.level) if sys.stdout.isatty() else None
    typer.echo(f"{typer.style(found.level.word.ljust(WIDTH), fg=colour)}  {found.check}: {found.sentence}")
    if found.remedy:
        typer.echo(f"{'':{WIDTH}}  -> {found.remedy}")
