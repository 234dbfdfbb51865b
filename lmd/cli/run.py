"""`lm run`: one machine in the foreground."""

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lmd.cli.image_store import tell_of_budget
from lmd.cli.speaking import awaited, duration, fail, print_json, size, tell

if TYPE_CHECKING:
    from lmd.config.chosen import Chosen
    from lmd.environment.outcome import Outcome
    from lmd.machine.foreground import Joined, Request, Summary, Voice
    from lmd.places import Places
    from runtimes.contract import Runtime, Seen

CANNOT_START = 20
CANNOT_TELL = 21

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog="""Examples:

  lm run examples/montecarlo.toml --processors 2

  lm run mytype --set environment.DEBUG=1 --timeout 600 --outputs here

  lm run docker.io/library/debian:12 --shell

Exit codes: 0 shutdown message 100 to 299 or a clean end; 10 no work (3xx); 11 the machine failed; 12 timed out;
13 heartbeat lost; 14 joboutputs quota exceeded; 15 stopped; 20 cannot start; 21 the engine stopped answering.
"""
)
def run(
    target: Annotated[
        str, typer.Argument(metavar="TYPE|FILE.toml|IMAGE", help="A configured type, a file with one, or an image.")
    ],
    runtime: Annotated[str | None, typer.Option(help="Run it on this runtime.", show_default=False)] = None,
    processors: Annotated[
        int | None, typer.Option("--processors", "-p", min=1, help="How many it gets; default: as many as it can use.")
    ] = None,
    timeout: Annotated[
        int | None, typer.Option(min=1, metavar="SECONDS", help="End it after this long, if not sooner.")
    ] = None,
    grace: Annotated[
        int, typer.Option(min=0, metavar="SECONDS", help="Notice before the end when it is asked to stop.")
    ] = 30,
    outputs: Annotated[
        Path | None,
        typer.Option("--outputs", "-o", help="Folder for console and outputs; default: lm-outputs/ID.", metavar="DIR"),
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the type; may be repeated.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the ended machine; lm destroy removes it.")] = False,
    shell: Annotated[bool, typer.Option("--shell", help="Open a shell in place of the type's command.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Hand it to the daemon, which looks after it; print its id.")
    ] = False,
    show_features: Annotated[
        bool, typer.Option("--show-features", help="Print the machine's features when it has started.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON; the console goes to standard error.")
    ] = False,
) -> None:
    """Run one machine here, its console on the screen and its outputs in a folder; no daemon is needed.

    Ctrl-C asks the machine to stop and waits; a second Ctrl-C ends it at once. Nothing is left behind either way.
    """
    from lmd.machine.foreground import Request

    if detach:
        _detach(target, [*(sets or ()), *([f"runtime={runtime}"] if runtime else ())], processors, timeout, as_json)
        return
    chosen, places = _chosen(target, [*(sets or ()), *([f"runtime={runtime}"] if runtime else ())])
    if shell and not sys.stdin.isatty():
        tell("standard input is no terminal: the shell reads commands from it")
    request = Request(
        chosen=chosen,
        outputs=_folder(outputs),
        processors=processors,
        seconds=timeout,
        grace=grace,
        keep=keep,
        hold=shell,
        show_features=show_features,
    )
    code, summary = awaited(_run(request, places, shell=shell, as_json=as_json))
    if chosen.config.settings.image_budget is not None:
        tell_of_budget(chosen.config, places, (summary.image_digest or "",))
    if as_json:
        print_json(summary.plain())
    else:
        _say(summary)
    raise typer.Exit(code)


def _detach(target: str, sets: list[str], processors: int | None, seconds: int | None, as_json: bool) -> None:
    """Have the daemon run it; its id on standard output."""
    from lmd.cli.speaking import answered, needed

    daemon = needed()
    body = {"target": target, "sets": sets, "directory": str(Path.cwd()), "processors": processors, "seconds": seconds}
    with answered():
        made = daemon.post("/v1/machines", body, seconds=3600)
    if as_json:
        print_json(made)
    else:
        typer.echo(made["id"])


def _chosen(target: str, sets: list[str]) -> "tuple[Chosen, Places]":
    from lmd.config.chosen import choose
    from lmd.config.layers import host_files
    from lmd.config.problems import ConfigError
    from lmd.places import PlaceError, places

    uid = os.geteuid()
    try:
        host = host_files(uid, os.environ)
        chosen = choose(target, sets, host=host, directory=Path.cwd(), guarded=uid == 0)
        return chosen, places(uid, os.environ).make()
    except ConfigError as error:
        fail("\n".join(str(problem) for problem in error.problems), CANNOT_START)
    except PlaceError as error:
        fail(str(error), CANNOT_START)


def _folder(asked: Path | None) -> Path | None:
    """The folder as asked for; one that holds something already is refused before anything starts."""
    if asked is None:
        return None
    try:
        if asked.exists() and (not asked.is_dir() or any(asked.iterdir())):
            fail(f"outputs {asked}: is there already and not empty; name another folder", CANNOT_START)
    except OSError as error:
        fail(f"outputs {asked}: {error.strerror}", CANNOT_START)
    return asked.absolute()


async def _run(request: "Request", places: "Places", *, shell: bool, as_json: bool) -> "tuple[int, Summary]":
    from lmd.machine.foreground import CannotRun, CannotTell, run

    shells: list[int] = []
    try:
        summary = await run(request, places, _voice(as_json, shell), _in_shell(shells) if shell else None)
    except CannotRun as error:
        fail(str(error), CANNOT_START)
    except CannotTell as error:
        fail(str(error), CANNOT_TELL)
    return (shells[0] if shells else int(summary.outcome.exit)), summary


def _voice(as_json: bool, shell: bool) -> "Voice":
    from lmd.environment.printable import Stream
    from lmd.machine.foreground import Voice

    stream = sys.stderr.buffer if as_json or shell else sys.stdout.buffer
    cleaner = Stream() if stream.isatty() else None

    def show(data: bytes) -> None:
        stream.write(cleaner.feed(data).encode() if cleaner else data)
        stream.flush()

    return Voice(tell=tell, show=show)


def _in_shell(codes: list[int]) -> "Joined":
    """A shell in the machine on this terminal; its exit code goes into `codes`."""

    async def joined(runtime: "Runtime", seen: "Seen") -> None:
        from runtimes.contract import Exec

        if not isinstance(runtime, Exec):
            tell(f"runtime {runtime.name} cannot open a shell")
            codes.append(CANNOT_START)
            return
        command = await runtime.interactive(seen.id, ["/bin/sh"], terminal=sys.stdin.isatty())
        process = await asyncio.create_subprocess_exec(*command)
        codes.append(await process.wait())

    return joined


def _say(summary: "Summary") -> None:
    """The summary for people, on standard error like all that is ours."""
    outcome = summary.outcome
    name = outcome.exit.name.lower().replace("_", " ")
    tell(f"{name} after {duration(summary.seconds)}: {outcome.message or outcome.detail}{_because(outcome)}")
    used = [f"{summary.cpu_seconds:.1f} CPU seconds"] if summary.cpu_seconds is not None else []
    used += [f"{size(summary.memory_peak_bytes)} of memory at its peak"] if summary.memory_peak_bytes else []
    if used:
        tell("used at least " + ", ".join(used))  # read last before it ended
    tell(f"outputs: {summary.files} file(s), {size(summary.bytes)} in {summary.outputs}")
    for line in summary.left_out:
        tell(f"left out: {line}")


def _because(outcome: "Outcome") -> str:
    """What explains the message, where there is more to say than itself."""
    more = [] if outcome.decided == "payload" or outcome.message is None else [f"by its {outcome.decided}"]
    if outcome.detail and outcome.message and outcome.detail not in str(outcome.message):
        more.append(outcome.detail)
    return f" ({', '.join(more)})" if more else ""
