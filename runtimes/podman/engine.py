"""Podman's service, through the connections of podman-py."""

from dataclasses import dataclass
from typing import Any, ClassVar

from podman.api.client import APIClient

from runtimes.containers.engine import FAULTS, Answer, Engine, Faults
from runtimes.contract import Exhausted, Unavailable

API_VERSION = "4.0.0"


@dataclass(frozen=True, slots=True)
class PodmanAnswer(Answer):
    """Status and decoded body of one call."""

    engine: ClassVar[str] = "podman"
    faults: ClassVar[Faults] = (
        *FAULTS,
        ("could not find enough available", Exhausted),
        ("allocating lock", Exhausted),
        ("no more ip addresses", Exhausted),
        ("no available ip", Exhausted),
        ("database is locked", Unavailable),
    )


class PodmanEngine(Engine):
    """One Podman service."""

    answer = PodmanAnswer
    passing = ("no such process",)  # a container's process ended while Podman read of it in /proc

    def _connect(self) -> APIClient:
        return APIClient(base_url=f"http+unix://{self.socket}", version=API_VERSION, timeout=30.0)

    def _ask(self, client: APIClient, method: str, path: str, **request: Any) -> Any:
        return getattr(client, method.lower())(path, **request)
