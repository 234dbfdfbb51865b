"""`lm conformance`: try out whether the runtimes of this host keep their contract and give the environment."""

import asyncio
import os
import sys
import tomllib
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmd.cli.speaking import PROBLEM, USAGE, fail, here, print_json, table, tell

if TYPE_CHECKING:
    from lmd.config.models import Config
    from lmd.conformance.both import Entry, Told
    from lmd.places import Places
    from runtimes.contract import Image

NOT_AVAILABLE = 20
INTERRUPTED = 130
OUTCOME_WIDTH = len("not applicable")

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog="""Examples:

  lm conformance

  lm conformance podman --environment --http

  lm conformance podman --check secrets-arrive --check nested-containers-work --json

  lm conformance podman --set-option oci_runtime=runc

Exit codes: 0 all passed, or are not applicable; 1 a check failed; 2 wrong usage; 20 the runtime is not available.
"""
)
def conformance(
    runtime: Annotated[
        str | None, typer.Argument(metavar="RUNTIME", help="Default: every runtime that is healthy here.")
    ] = None,
    contract: Annotated[bool, typer.Option("--contract", help="Only what the engine has to do for lmd.")] = False,
    environment: Annotated[bool, typer.Option("--environment", help="Only what a machine has to see and do.")] = False,
    http: Annotated[
        bool,
        typer.Option("--http", help="Also the environment by HTTP, for which the factory's network is made (root)."),
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option("--check", metavar="NAME", help="Only this check; may be repeated.")
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the checks, make none.")] = False,
    options: Annotated[
        list[str] | None,
        typer.Option("--set-option", metavar="KEY=VALUE", help="Change an option of RUNTIME; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results as one JSON document at the end.")] = False,
) -> None:
    """Run the two conformance suites on this host: the runtime contract's, and that of the machines' environment.

    Real machines are started and removed, about a hundred, of a small image that is built at the first time. Each
    result is printed as it comes; all checks together take two or three minutes. Ctrl-C ends it and cleans up.
    """
    wanted = _wanted(contract, environment, http, only or [])
    if listing:
        _list(wanted, as_json)
        return
    config, places = _configured(runtime, options or [])
    told = _until_signal(runtime, config, places, wanted, quiet=as_json)
    counts = Counter(one.outcome.value for one in told)
    if as_json:
        print_json({"results": [one.plain() for one in told], "counts": _all_counts(counts)})
    else:
        typer.echo(", ".join(f"{count} {name}" for name, count in _all_counts(counts).items()))
    raise typer.Exit(PROBLEM if counts["failed"] else 0)


def _wanted(contract: bool, environment: bool, http: bool, names: list[str]) -> "list[Entry]":
    """The checks that are asked for; a name that none has is a wrong usage."""
    from lmd.config.rules import nearest
    from lmd.conformance.both import CONTRACT, ENVIRONMENT, chosen, listed

    suites = {name for name, asked in ((CONTRACT, contract), (ENVIRONMENT, environment)) if asked}
    entries = [entry for entry in listed() if not suites or entry.suite in suites]
    known = {entry.name for entry in entries}
    if unknown := [name for name in names if name not in known]:
        lines = [f"--check {name}: no check of this name{nearest(name, known)}" for name in unknown]
        fail("\n".join([*lines, "see all with: lm conformance --list"]), USAGE)
    return chosen(entries, names, http=http)


def _list(entries: "list[Entry]", as_json: bool) -> None:
    if as_json:
        print_json([{"suite": e.suite, "check": e.name, "sentence": e.sentence} for e in entries])
    else:
        table(("SUITE", "CHECK", "SENTENCE"), [(e.suite, e.name, e.sentence) for e in entries])


def _configured(runtime: str | None, options: list[str]) -> "tuple[Config, Places]":
    """The host's configuration, with options of the runtime that is tried on top."""
    from lmd.config.layers import Layer, host_files
    from lmd.config.load import load
    from lmd.config.problems import ConfigError
    from runtimes import registry

    if runtime is not None and runtime not in registry.locations():
        fail(f"no runtime {runtime!r}; known are {', '.join(sorted(registry.locations()))}", USAGE)
    config, places = here()
    if not options:
        return config, places
    if runtime is None:
        fail("--set-option needs a RUNTIME, whose option it is", USAGE)
    values = dict(_option(assignment) for assignment in options)
    layer = Layer("--set-option", Path.cwd(), {"runtimes": {runtime: values}})
    try:
        uid = os.geteuid()
        return load(host_files(uid, os.environ), extra=[layer], guarded=uid == 0), places
    except ConfigError as error:
        fail("\n".join(str(problem) for problem in error.problems), USAGE)


def _option(assignment: str) -> tuple[str, Any]:
    """Key and value; the value is TOML, or where it is none the text itself."""
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        fail(f"--set-option {assignment}: expected KEY=VALUE, as in oci_runtime=runc", USAGE)
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return key, text


def _until_signal(
    runtime: str | None, config: "Config", places: "Places", wanted: "list[Entry]", *, quiet: bool
) -> "list[Told]":
    """Make the checks; a signal ends this when all machines are gone."""
    from lmd.conformance import signals
    from lmd.conformance.trial import Interrupted
    from runtimes.contract import RuntimeFault

    async def work(came: Callable[[], bool]) -> "list[Told]":
        return await _run(await _available(runtime, config, places), config, places, wanted, came, quiet=quiet)

    try:
        return signals.run(work)
    except (asyncio.CancelledError, KeyboardInterrupt, Interrupted):
        fail("interrupted; the machines of the suite are gone", INTERRUPTED)
    except RuntimeFault as fault:
        fail(str(fault))


async def _run(
    runtimes: list[str],
    config: "Config",
    places: "Places",
    wanted: "list[Entry]",
    came: Callable[[], bool],
    *,
    quiet: bool,
) -> "list[Told]":
    """Make the checks on each runtime and print each result, until a signal `came`."""
    from lmd.conformance.both import ALIKE, run, run_alike
    from lmd.conformance.trial import Interrupted

    told: list[Told] = []
    image = await _image(places)
    progress = _Progress(len(wanted) * len(runtimes))
    for name in runtimes:
        progress.next(name)
        async with aclosing(run(name, config, places, image, wanted)) as results:
            async for one in results:
                progress.clear()
                if came():
                    raise Interrupted
                told.append(one)
                if not quiet:
                    _say(one)
                progress.next(name)
    if ALIKE in wanted and (len(runtimes) > 1 or len(wanted) == 1):
        async with aclosing(run_alike(runtimes, config, places, image)) as results:
            async for one in results:
                progress.clear()
                if came():
                    raise Interrupted
                told.append(one)
                if not quiet:
                    _say(one)
    progress.clear()
    return told


async def _available(runtime: str | None, config: "Config", places: "Places") -> list[str]:
    """The runtime that is asked for, or all that are healthy here; none is the end of it."""
    from lmd import engines
    from lmd.conformance.ground import NotAvailable, capabilities

    names = [runtime] if runtime else list(engines.here(os.environ))
    healthy, reasons = [], []
    for name in names:
        try:
            await capabilities(name, config, places)
            healthy.append(name)
        except NotAvailable as error:
            reasons.append(str(error))
    if not healthy:
        fail("; ".join(reasons) or "no runtime is known here", NOT_AVAILABLE)
    for reason in reasons:
        tell(f"passed over: {reason}")
    return healthy


async def _image(places: "Places") -> "Image":
    from images.errors import ImageError
    from lmd.conformance.both import image

    try:
        return await asyncio.to_thread(image, places, tell)
    except ImageError as error:
        fail(str(error), NOT_AVAILABLE)


def _say(told: "Told") -> None:
    """One result for people: outcome, check and sentence; below, why it failed or what was seen."""
    colours = {"failed": typer.colors.RED, "passed": typer.colors.GREEN}
    colour = colours.get(told.outcome.value) if sys.stdout.isatty() else None
    outcome = typer.style(told.outcome.value.ljust(OUTCOME_WIDTH), fg=colour)
    typer.echo(f"{outcome}  {told.entry.name}: {told.entry.sentence}")
    if told.reason:
        typer.echo(f"{'':{OUTCOME_WIDTH}}  {told.reason}")


def _all_counts(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in ("passed", "failed", "not applicable")}


class _Progress:
    """How far it is, in one line on a terminal's standard error that the next output replaces."""

    def __init__(self, count: int) -> None:
        self._count, self._number = count, 0
        self._terminal = sys.stderr.isatty()

    def next(self, runtime: str) -> None:
        """One check more is at work."""
        self._number += 1
        if self._terminal and self._number <= self._count:
            typer.echo(f"{runtime}: check {self._number} of {self._count} …", err=True, nl=False)

    def clear(self) -> None:
        """Take the line away."""
        if self._terminal:
            typer.echo("\r\033[K", err=True, nl=False)
