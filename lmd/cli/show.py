"""`lm show`: one machine in full."""

from typing import Annotated, Any

import typer

from lmd.cli.speaking import answered, awaited, duration, here, print_json, size, the_daemon, the_machine, when

app = typer.Typer(rich_markup_mode=None, add_completion=False)
Machine = Annotated[str, typer.Argument(metavar="ID", help="A machine's id, or a part that only one has.")]


@app.command(epilog="Examples:  lm show wn1-abcdefghijklm   |   lm show abcdef --json")
def show(
    machine: Machine,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show all that is known of one machine: its engine's view, its record, its use and its features."""
    found = _of_daemon(machine) or awaited(_found(*here(), machine))
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        if isinstance(value, dict):
            typer.echo(f"{key}:")
            for name, inner in value.items():
                typer.echo(f"  {name:<26} {_written(name, inner)}")
        elif key == "events":
            typer.echo("events:")
            for event in value:
                more = {name: told for name, told in event.items() if name not in ("seq", "at", "kind", "machine")}
                typer.echo(
                    f"  {when(event['at'])}  {event['kind']:<20} {', '.join(f'{k} {v}' for k, v in more.items())}"
                )
        elif value is not None:
            typer.echo(f"{key:<28} {_written(key, value)}")


def _of_daemon(wanted: str) -> dict[str, Any] | None:
    """What the daemon knows of one of its machines; None if there is no daemon, or it is not one of its own."""
    daemon = the_daemon()
    if daemon is None:
        return None
    with answered():
        found = daemon.machine(wanted)
        return dict(daemon.get(f"/v1/machines/{found['id']}")) if found else None


async def _found(config: Any, places: Any, wanted: str) -> dict[str, Any]:
    from contextlib import suppress
    from dataclasses import asdict

    from lmd.engines import opened
    from runtimes.contract import RuntimeFault

    machine = await the_machine(config, places, wanted)
    found = machine.plain()
    if machine.seen and not machine.seen.end:
        with suppress(RuntimeFault):
            async with opened(machine.runtime, config, places) as runtime:
                usage = (await runtime.usage()).get(machine.id)
                found["usage"] = asdict(usage) if usage else None
    if machine.directory:
        for part in (machine.directory.machinefeatures, machine.directory.jobfeatures):
            with suppress(OSError):
                found[part.name] = {path.name: path.read_text()[:200] for path in sorted(part.iterdir())}
    return found


TIMES = ("created", "started", "at", "shutdown_time", "ended")


def _written(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key in TIMES:
        return when(value)
    if key.endswith("_bytes") and isinstance(value, int):
        return size(value)
    if key.endswith("_seconds") and isinstance(value, float):
        return duration(value)
    return str(value)
