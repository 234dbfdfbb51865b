"""All checks of the environment, in the order in which they are run."""

from lmd.conformance.check import Check
from lmd.conformance.checks import delivering, ending, featuring, leaving, surrounding

CHECKS: tuple[Check, ...] = (
    *featuring.CHECKS,
    *delivering.CHECKS,
    *surrounding.CHECKS,
    *leaving.CHECKS,
    *ending.CHECKS,
)

__all__ = ["CHECKS"]
