"""Calls to Podman's API, each with a deadline, in threads of our own; its errors turned into the contract's four.

podman-py's `APIClient` is used rather than its resource classes: those drop or refuse fields that machines need
(`idmappings`, tmpfs mounts, the event stream), and the API itself is the stable part.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import requests
from podman.api.client import APIClient
from podman.errors import APIError
from urllib3.exceptions import HTTPError, ReadTimeoutError

from runtimes.contract import Exhausted, Rejected, RuntimeFault, Unavailable

API_VERSION = "4.0.0"
ANSWER_LIMIT = 64_000_000
T = TypeVar("T")

FAULTS: tuple[tuple[str, type[RuntimeFault]], ...] = (
    ("no space left on device", Exhausted),
    ("disk quota exceeded", Exhausted),
    ("could not find enough available", Exhausted),
    ("resource temporarily unavailable", Exhausted),
    ("cannot allocate memory", Exhausted),
    ("too many open files", Exhausted),
    ("allocating lock", Exhausted),
    ("no more ip addresses", Exhausted),
    ("no available ip", Exhausted),
    ("i/o timeout", Unavailable),
    ("connection refused", Unavailable),
    ("database is locked", Unavailable),
)
"""What Podman says, by what it means; anything else that it refuses is for good."""

PASSING = ("no such process",)
"""What Podman says, with status 500, when a container's process ends while Podman reads of it in /proc."""
AGAIN = 5
AGAIN_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and decoded body of one call."""

    status: int
    body: Any

    @property
    def message(self) -> str:
        """What an error answer says, on one line and at most 500 characters long."""
        text = self.body.get("message") or self.body.get("cause") if isinstance(self.body, dict) else self.body or ""
        return " ".join(str(text).split())[:500]

    def fault(self, doing: str) -> RuntimeFault:
        """The contract's error for this answer."""
        lower = self.message.lower()
        kind = next((kind for words, kind in FAULTS if words in lower), Rejected)
        return kind(f"podman could not {doing}: {self.message}")


class Engine:
    """One Podman service. Not tied to an event loop; `close` ends its threads."""

    def __init__(self, socket: Path, *, workers: int = 8) -> None:
        self.socket = socket
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="podman")
        self._local = threading.local()
        self._clients: list[APIClient] = []

    def close(self) -> None:
        """Let go of the connections; calls under way are left to their deadlines."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for client in self._clients:
            client.close()

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run a blocking function in one of this engine's threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        seconds: float = 30.0,
    ) -> Answer:
        """One request with a JSON body and answer. Raises `Unavailable` when no answer comes within `seconds`.

        A look at what changes under Podman's eyes (`PASSING`) is asked for again, at most `AGAIN` times.
        """
        left = AGAIN if method == "GET" else 0
        while True:
            answer = await self.run(lambda: self.blocking(method, path, params=params, body=body, seconds=seconds))
            if left == 0 or answer.status != 500 or not any(words in answer.message for words in PASSING):
                return answer
            left -= 1
            await asyncio.sleep(AGAIN_SECONDS)

    def blocking(
        self, method: str, path: str, *, params: Any = None, body: Any = None, seconds: float = 30.0
    ) -> Answer:
        """The same, for work that runs in one of this engine's threads already."""
        data = json.dumps(body).encode() if body is not None else None
        return self._call(method, path, params, data, seconds)

    async def upload(self, path: str, stream: Callable[[], IO[bytes]], *, seconds: float) -> Answer:
        """POST a file or a made-up stream of bytes. Raises `Unavailable` as `call` does."""

        def work() -> Answer:
            with stream() as opened:
                return self._call("POST", path, None, opened, seconds, "application/x-tar")

        return await self.run(work)

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        seconds: float = 30.0,
    ) -> Iterator[Any]:
        """An answer that is read while it comes; for use inside `run`. `seconds` is the longest silence."""
        data = json.dumps(body).encode() if body is not None else None
        with self._translated(path, seconds), self._response(method, path, params, data, seconds) as response:
            yield response

    def _client(self) -> APIClient:
        client: APIClient | None = getattr(self._local, "client", None)
        if client is None:
            client = APIClient(base_url=f"http+unix://{self.socket}", version=API_VERSION, timeout=30.0)
            self._local.client = client
            self._clients.append(client)
        return client

    def _call(
        self, method: str, path: str, params: Any, data: Any, seconds: float, kind: str = "application/json"
    ) -> Answer:
        with (
            self._translated(path, seconds),
            self._response(method, path, params, data, seconds, kind) as response,
        ):
            return Answer(response.status_code, decoded(response.raw.read(ANSWER_LIMIT, decode_content=True)))

    def _response(
        self, method: str, path: str, params: Any, data: Any, seconds: float, kind: str = "application/json"
    ) -> closing[Any]:
        ask = getattr(self._client(), method.lower())
        arguments = {} if data is None else {"data": data}
        headers = {"Content-Type": kind}
        return closing(ask(path, params=params, headers=headers, timeout=(10.0, seconds), stream=True, **arguments))

    @contextmanager
    def _translated(self, path: str, seconds: float) -> Iterator[None]:
        try:
            yield
        except (requests.RequestException, APIError, HTTPError, OSError) as error:
            cause = error.__cause__ if isinstance(error, APIError) and error.__cause__ else error
            if isinstance(cause, (requests.Timeout, ReadTimeoutError)):
                raise Unavailable(f"podman did not answer {path} within {seconds:g} s ({self.socket})") from error
            raise Unavailable(f"podman cannot be reached at {self.socket}: {_reason(cause)}") from error


def decoded(text: bytes) -> Any:
    """JSON, or the lines of a stream of JSON objects as a list, or the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace")


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
