"""The checks, by subject; each module lists its own in the order in which they are made."""

from runtimes.conformance.checks import adopting, confining, creating, ending, filling, limiting, listing, talking

CHECKS = (
    *listing.CHECKS,
    *creating.CHECKS,
    *ending.CHECKS,
    *adopting.CHECKS,
    *filling.CHECKS,
    *talking.CHECKS,
    *limiting.CHECKS,
    *confining.CHECKS,
)
