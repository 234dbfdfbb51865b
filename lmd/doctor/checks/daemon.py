"""Whether the daemon of this host answers, and what it warns of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lmd.doctor.check import Asked, Check
from lmd.doctor.finding import Finding, note, ok, problem, warning


@dataclass(frozen=True, slots=True)
class Daemon:
    """`running`: whether one listens. `silent`: why it gave no answer; `warnings`: its open ones."""

    running: bool
    silent: str = ""
    warnings: Sequence[str] = ()


def gather(asked: Asked) -> Daemon:
    """Asked by whoever knows its API; any failure is an answer, too."""
    if asked.ask_daemon is None:
        return Daemon(running=False)
    try:
        told = asked.ask_daemon()
    except Exception as error:  # whatever keeps it from answering is told
        return Daemon(running=True, silent=str(error) or type(error).__name__)
    return Daemon(running=told is not None, warnings=told or ())


def rule(daemon: Daemon) -> Iterator[Finding]:
    """One that listens and does not answer is a problem; no daemon is none."""
    if not daemon.running:
        yield note("no daemon runs on this host; lm run needs none")
    elif daemon.silent:
        yield problem(daemon.silent, "systemctl status lmd; journalctl --unit lmd --lines 50")
    else:
        yield ok("the daemon answers")
    for text in daemon.warnings:
        yield warning(f"the daemon warns: {text}", "lm warnings")


CHECK = Check("daemon", gather, rule, seconds=15.0)
