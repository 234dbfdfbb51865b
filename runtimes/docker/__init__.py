"""Machines as containers of Docker, through its API."""

from runtimes.docker.runtime import Docker

__all__ = ["Docker"]
