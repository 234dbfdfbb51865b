"""Calls to an engine's HTTP interface, each with a deadline, in threads of our own; its errors as the contract's four.

The engines' own clients make the connections. Their low-level interface is used rather than their resource classes:
those drop or refuse fields that machines need, and the interface itself is the stable part.
"""

import asyncio
import json
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from runtimes.contract import Exhausted, Rejected, RuntimeFault, Unavailable

ANSWER_LIMIT = 64_000_000
AGAIN = 5
AGAIN_SECONDS = 0.05
T = TypeVar("T")

Faults = tuple[tuple[str, type[RuntimeFault]], ...]

FAULTS: Faults = (
    ("no space left on device", Exhausted),
    ("disk quota exceeded", Exhausted),
    ("resource temporarily unavailable", Exhausted),
    ("cannot allocate memory", Exhausted),
    ("too many open files", Exhausted),
    ("i/o timeout", Unavailable),
    ("connection refused", Unavailable),
)
"""What engines say, by what it means; anything else that they refuse is for good."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and decoded body of one call to the engine that a subclass names."""

    engine: ClassVar[str]
    faults: ClassVar[Faults]

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
        kind = next((kind for words, kind in self.faults if words in lower), Rejected)
        return kind(f"{self.engine} could not {doing}: {self.message}")


class Engine(ABC):
    """One service at a Unix socket. Not tied to an event loop; `close` ends its threads."""

    answer: ClassVar[type[Answer]]
    passing: ClassVar[tuple[str, ...]] = ()
    """What the engine says, with status 500, of a thing that goes away while it is looked at: ask again."""

    def __init__(self, socket: Path, *, workers: int = 8) -> None:
        self.socket = socket
        self.name = self.answer.engine
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=self.name)
        self._local = threading.local()
        self._clients: list[Any] = []

    @abstractmethod
    def _connect(self) -> Any:
        """A client of the engine for one thread: it has `close`."""

    @abstractmethod
    def _ask(self, client: Any, method: str, path: str, **request: Any) -> Any:
        """A streamed response of `requests` to a request below the interface's root."""

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

        A look at what changes under the engine's eyes (`passing`) is asked for again, at most `AGAIN` times.
        """
        left = AGAIN if method == "GET" else 0
        while True:
            answer = await self.run(lambda: self.blocking(method, path, params=params, body=body, seconds=seconds))
            if left == 0 or answer.status != 500 or not any(words in answer.message for words in self.passing):
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
                return self._call("POST", path, None, opened, seconds, {"Content-Type": "application/x-tar"})

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
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[Any]:
        """An answer that is read while it comes; for use inside `run`. `seconds` is the longest silence."""
        data = json.dumps(body).encode() if body is not None else None
        with self._translated(path, seconds), self._response(method, path, params, data, seconds, headers) as response:
            yield response

    def client(self) -> Any:
        """The engine's own client, this thread's."""
        found = getattr(self._local, "client", None)
        if found is None:
            found = self._local.client = self._connect()
            self._clients.append(found)
        return found

    def _call(
        self,
        method: str,
        path: str,
        params: Any,
        data: Any,
        seconds: float,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        with (
            self._translated(path, seconds),
            self._response(method, path, params, data, seconds, headers) as response,
        ):
            return self.answer(response.status_code, decoded(response.raw.read(ANSWER_LIMIT, decode_content=True)))

    def _response(
        self, method: str, path: str, params: Any, data: Any, seconds: float, headers: Mapping[str, str] | None
    ) -> closing[Any]:
        request: dict[str, Any] = {} if data is None else {"data": data}
        request["headers"] = {"Content-Type": "application/json", **(headers or {})}
        return closing(
            self._ask(self.client(), method, path, params=params, timeout=(10.0, seconds), stream=True, **request)
        )

    @contextmanager
    def _translated(self, path: str, seconds: float) -> Iterator[None]:
        try:
            yield
        except (requests.RequestException, HTTPError, OSError) as error:
            cause = self._cause(error)
            if isinstance(cause, (requests.Timeout, ReadTimeoutError)):
                raise Unavailable(f"{self.name} did not answer {path} within {seconds:g} s ({self.socket})") from error
            raise Unavailable(f"{self.name} cannot be reached at {self.socket}: {_reason(cause)}") from error

    @staticmethod
    def _cause(error: BaseException) -> BaseException:
        """What lies under an error that a client has wrapped."""
        return error.__cause__ or error if type(error).__name__ == "APIError" else error


def listening(path: Path) -> bool:
    """True if a process accepts connections there (it may still never answer)."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5.0)
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True


def decoded(text: bytes) -> Any:
    """JSON, or the lines of a stream of JSON objects as a list, or the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace")


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
