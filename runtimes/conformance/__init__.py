"""The contract's conformance suite, run by pytest over all runtimes and by `lm conformance` on a user's host."""
