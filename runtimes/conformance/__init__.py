"""The runtime contract's conformance suite: what every runtime must do, tried on a real one.

    async for result in run(context):
        print(result.outcome, result.check.sentence, result.reason)

It needs no test framework, so that a user can try a host. `Context` says how to make the runtime and what its
machines can be told to do; `ContainerContext` is the one for container engines.
"""

from runtimes.conformance.check import Check, Outcome, Result
from runtimes.conformance.checks import CHECKS
from runtimes.conformance.context import ContainerContext, Context, Foreign, Leftovers, Outage
from runtimes.conformance.payloads import Payload, Payloads, ShellPayloads
from runtimes.conformance.runner import run, run_one

__all__ = [
    "CHECKS",
    "Check",
    "ContainerContext",
    "Context",
    "Foreign",
    "Leftovers",
    "Outage",
    "Outcome",
    "Payload",
    "Payloads",
    "Result",
    "ShellPayloads",
    "run",
    "run_one",
]
