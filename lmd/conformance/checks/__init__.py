"""All checks of the environment, in the order in which they are run."""

from lmd.conformance.check import Check
from lmd.conformance.checks import delivering, ending, featuring, leaving, repositories, serving, surrounding

CHECKS: tuple[Check, ...] = (
    *featuring.CHECKS,
    *delivering.CHECKS,
    *surrounding.CHECKS,
    *leaving.CHECKS,
    *ending.CHECKS,
)

WITH_REPOSITORY = repositories.CHECKS
"""Those that need a CernVM-FS repository beside a runtime."""

BY_HTTP = serving.CHECKS
"""Those whose machines want the factory's network."""

__all__ = ["BY_HTTP", "CHECKS", "WITH_REPOSITORY"]
