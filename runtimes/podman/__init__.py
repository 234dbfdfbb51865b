"""Machines as containers of Podman, through its API: root's or an ordinary user's."""

from runtimes.podman.runtime import Podman

__all__ = ["Podman"]
