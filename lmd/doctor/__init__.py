"""`lm doctor`: what this host is like, what cannot work here, and the line to type.

A check is a fact gatherer and a pure rule: `gather` looks at the host under a deadline, `rule` turns what it saw into
findings. `CHECKS` in `lmd.doctor.checks` lists them; whether the runtimes work is found by making a machine.
"""

from lmd.doctor.check import Asked, Check, examine
from lmd.doctor.finding import Finding, Level, Report

__all__ = ["Asked", "Check", "Finding", "Level", "Report", "examine"]
