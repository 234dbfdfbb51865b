"""Docker's daemon, through the connections of docker-py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from docker import APIClient

from runtimes.containers.engine import FAULTS, Answer, Engine, Faults
from runtimes.contract import Exhausted, Unavailable


@dataclass(frozen=True, slots=True)
class DockerAnswer(Answer):
    """Status and decoded body of one call."""

    engine: ClassVar[str] = "docker"
    faults: ClassVar[Faults] = (
        *FAULTS,
        ("address pools have been fully subnetted", Exhausted),
        ("no available ipv4 addresses", Exhausted),
        ("context deadline exceeded", Unavailable),
        ("request canceled while waiting", Unavailable),
        ("containerd.sock", Unavailable),
        ("transport is closing", Unavailable),
    )


class DockerEngine(Engine):
    """One Docker daemon; `api` is the version of its interface, "" for requests that have none (`/version`)."""

    answer = DockerAnswer

    def __init__(self, socket: Path, *, api: str, workers: int = 8) -> None:
        super().__init__(socket, workers=workers)
        self._root = f"/v{api}" if api else ""

    def _connect(self) -> APIClient:
        return APIClient(base_url=f"unix://{self.socket}", version=self._root.removeprefix("/v") or "1.41", timeout=30)

    def _ask(self, client: APIClient, method: str, path: str, **request: Any) -> Any:
        return getattr(client, method.lower())(f"{client.base_url}{self._root}{path}", **request)
