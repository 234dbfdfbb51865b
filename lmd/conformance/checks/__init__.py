"""All checks of the environment, in the order in which they are run."""

from lmd.conformance.check import Check
from lmd.conformance.checks import delivering, ending, featuring, leaving, repositories, surrounding

CHECKS: tuple[Check, ...] = (
    *featuring.CHECKS,
    *delivering.CHECKS,
    *surrounding.CHECKS,
    *leaving.CHECKS,
    *ending.CHECKS,
)

WITH_REPOSITORY = repositories.CHECKS
"""Those that need a CernVM-FS repository beside a runtime."""

__all__ = ["CHECKS", "WITH_REPOSITORY"]
