"""The `lm` command: the table of its subcommands, each imported when it is used."""

import importlib
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lmd.cli import helping

COMMANDS = {
    "run": ("lmd.cli.run", "Run one machine in the foreground, from a type, a file or an image."),
    "ps": ("lmd.cli.ps", "List the machines of this host."),
    "show": ("lmd.cli.show", "Show all that is known of one machine."),
    "logs": ("lmd.cli.logs", "Print what a machine wrote to its console."),
    "console": ("lmd.cli.console", "Join the console of a virtual machine."),
    "exec": ("lmd.cli.execute", "Run a command in a machine."),
    "shell": ("lmd.cli.shell", "Open a shell in a machine."),
    "stop": ("lmd.cli.stop", "Ask a machine to end, wait, then end it."),
    "destroy": ("lmd.cli.destroy", "End a machine at once and remove all that is left of it."),
    "outputs": ("lmd.cli.outputs", "List or copy what a machine left in its joboutputs."),
    "why": ("lmd.cli.why", "Say why the daemon starts no more machines of each type."),
    "warnings": ("lmd.cli.warnings", "List what the daemon warns of; acknowledge it."),
    "drain": ("lmd.cli.drain", "Have the daemon start nothing more; wait until all has ended."),
    "undrain": ("lmd.cli.undrain", "Have the daemon start machines again."),
    "image": ("lmd.cli.image", "Build, pull, try, list and prune images to start from."),
    "config": ("lmd.cli.config", "Check, show and describe the configuration."),
    "cvmfs": ("lmd.cli.cvmfs", "Look after the CernVM-FS repositories of this host."),
    "doctor": ("lmd.cli.doctor", "Say what works on this host, what does not, and what to type."),
    "simulate": ("lmd.cli.simulate", "Show what a configuration would do, over simulated time."),
    "conformance": ("lmd.cli.conformance", "Try out whether a runtime of this host keeps its contract."),
}
"""Name to module and a line of help; the module's `app` holds one command, or a group of them."""


class Commands(TyperGroup):
    """The subcommands by their table: listing them, or `lm --help`, imports none of them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        return helping.arranged(typer.main.get_command(module.app))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, rows in helping.sections({name: text for name, (_, text) in COMMANDS.items()}):
            with formatter.section(title):
                formatter.write_dl(rows)


app = typer.Typer(
    cls=Commands,
    name="lm",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=helping.examples("Examples:  lm run examples/montecarlo.toml   |   lm ps   |   lm doctor"),
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"lm {version('lmd')}")
        raise typer.Exit


@app.callback()
def lm(
    shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Run work in virtual machines and containers: logical machines."""


def main() -> None:
    """The entry point `lm`; ends with the command's exit code, quietly if the reader of its output has gone."""
    try:
        app(prog_name="lm")
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
