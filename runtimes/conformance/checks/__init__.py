"""The checks, by subject; each module lists its own in the order in which they are made."""

from runtimes.conformance.checks import creating, ending, listing

CHECKS = (*listing.CHECKS, *creating.CHECKS, *ending.CHECKS)
