"""Find the Docker daemon to talk to: the socket that the configuration names, or $DOCKER_HOST, or the host's own."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtimes.containers.engine import listening
from runtimes.contract import Unavailable
from runtimes.docker.engine import DockerEngine

PING_SECONDS = 5.0
API = (1, 41)
"""The interface of Docker 20.10, the oldest that is spoken."""
DEFAULT = Path("/run/docker.sock")
WHERE = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Missing(Exception):
    """There is no Docker here: not installed, or nobody has started it. `remedy` is the line to type."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


def socket(options: Mapping[str, str], environment: Mapping[str, str]) -> Path:
    """Where the daemon listens. A daemon of another host cannot be used: the machine's files are here."""
    named = options.get("socket") or environment.get("DOCKER_HOST", "")
    if named.startswith("unix://") or named.startswith("/"):
        return Path(named.removeprefix("unix://"))
    return DEFAULT


def chosen(version: Mapping[str, Any]) -> str:
    """The version of the interface to speak with a daemon that answered so to `/version`: ours, or the daemon's oldest
    where that is newer. Raises `Unavailable` if the daemon is too old."""
    newest, oldest = _numbers(version.get("ApiVersion")), _numbers(version.get("MinAPIVersion"))
    if newest < API:
        raise Unavailable(f"docker {version.get('Version')} is too old: lmd needs 20.10 or newer")
    return ".".join(str(number) for number in max(API, oldest))


def _numbers(text: object) -> tuple[int, ...]:
    parts = str(text or "0").split(".")
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else (0,)


async def find(options: Mapping[str, str], *, workers: int = 8) -> DockerEngine:
    """A daemon that answers. Raises `Missing` if there is none that anybody wants, `Unavailable` with the reason."""
    path = socket(options, os.environ)
    if not path.is_socket():
        if shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:{WHERE}") is None:
            raise Missing("docker is not installed", "apt-get install docker.io")
        if path == DEFAULT and "socket" not in options:
            raise Missing("docker's daemon does not run", "systemctl start docker")
    _require(path)
    engine = DockerEngine(path, api="", workers=1)
    try:
        answer = await engine.call("GET", "/version", seconds=seconds(options))
        if answer.status != 200:
            raise Unavailable(f"docker answered {answer.status} to /version: {answer.message}")
        return DockerEngine(path, api=chosen(answer.body), workers=workers)
    finally:
        engine.close()


def _require(path: Path) -> None:
    if not listening(path):
        raise Unavailable(f"docker does not answer at {path}: its daemon does not run, or may not be spoken with")


async def answers(engine: DockerEngine, options: Mapping[str, str]) -> None:
    """Raises `Unavailable` unless the daemon answers now: one that hangs is found out before much is asked of it."""
    _require(engine.socket)
    await engine.call("GET", "/_ping", seconds=seconds(options))


def seconds(options: Mapping[str, str]) -> float:
    """How long a daemon may take to say that it is there."""
    return float(options.get("ping_seconds", PING_SECONDS))
