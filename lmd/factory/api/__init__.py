"""The daemon's API: JSON over a Unix socket, version 1."""

VERSION = 1
"""Raised when an answer changes its meaning; both sides say theirs in the header `Lmd-Api`."""
HEADER = "Lmd-Api"
