"""The environment's conformance suite: the same payload on every runtime, what it saw and left compared.

    async for result in run("podman", config, places, image):
        print(result.outcome, result.check.sentence, result.reason)

It holds the table of the environment contract (machine/job features, $JOBOUTPUTS, user_data, variables, how a machine
ends) on a user's host, needs no test framework, and runs machines exactly as `lm run` does. `compare` tells where the
portraits of two machines differ.
"""

from lmd.conformance.beside import Live
from lmd.conformance.check import Check, Outcome, Result
from lmd.conformance.checks import BY_HTTP, CHECKS, WITH_REPOSITORY
from lmd.conformance.ground import Ground, NotAvailable, prepare, working_directory
from lmd.conformance.report import Difference, Report, compare, parse
from lmd.conformance.runner import run, run_one
from lmd.conformance.trial import Interrupted, Left, Trial

__all__ = [
    "BY_HTTP",
    "CHECKS",
    "WITH_REPOSITORY",
    "Check",
    "Difference",
    "Ground",
    "Interrupted",
    "Left",
    "Live",
    "NotAvailable",
    "Outcome",
    "Report",
    "Result",
    "Trial",
    "compare",
    "parse",
    "prepare",
    "run",
    "run_one",
    "working_directory",
]
