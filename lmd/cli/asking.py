"""How `lm` asks the daemon: JSON over its Unix socket, if it is there."""

import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from lmd.places import Places

API_VERSION = 1
HEADER = "Lmd-Api"
SOCKET = "lmd.sock"
SECONDS = 60.0
MACHINES = "/v1/machines"


class Refused(Exception):
    """The daemon says no; `code` is its stable word for programs."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class NoDaemon(Exception):
    """The daemon does not answer, or not in a way that this `lm` understands; one line."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float | None) -> None:
        super().__init__("lmd", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Daemon:
    """The daemon behind the socket `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, path: str, **query: Any) -> Any:
        """What it answers, decoded. Raises `Refused`, `NoDaemon`."""
        return self._asked("GET", path, query, None)

    def post(self, path: str, body: Mapping[str, Any] | None = None, *, seconds: float = SECONDS, **query: Any) -> Any:
        """The same for something to be done."""
        return self._asked("POST", path, query, body or {}, seconds)

    def stream(self, path: str, **query: Any) -> Iterator[bytes]:
        """An answer as it comes, without an end of its own. Raises as `get`."""
        connection = _Connection(self.path, None)
        try:
            response = self._answer(connection, "GET", path, query, None)
            if response.status != 200:
                self._refuse(response.read())
            while data := response.read1(65_536):
                yield data
        except http.client.HTTPException:
            return
        finally:
            connection.close()

    def machine(self, wanted: str) -> dict[str, Any] | None:
        """The one machine of the daemon's factory that an id, or a part of one, means; None if it is none of those.

        Raises `Refused` if several are meant.
        """
        if not wanted:
            return None
        machines = [one for one in self.get(MACHINES, all=1) if one["owner"].startswith("factory:")]
        matching = [one for one in machines if one["id"] == wanted] or [
            one for one in machines if one["id"].startswith(wanted) or one["id"].endswith(wanted)
        ]
        if len(matching) > 1:
            names = ", ".join(one["id"] for one in matching[:5])
            raise Refused("several", f"{wanted}: {len(matching)} machines match: {names}")
        return matching[0] if matching else None

    def _asked(
        self, method: str, path: str, query: Mapping[str, Any], body: Any, seconds: float | None = SECONDS
    ) -> Any:
        connection = _Connection(self.path, seconds)
        try:
            response = self._answer(connection, method, path, query, body)
            content = response.read()
            if response.status >= 400:
                self._refuse(content)
            return json.loads(content)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NoDaemon(f"the daemon at {self.path} does not answer: {error or type(error).__name__}") from error
        finally:
            connection.close()

    def _answer(
        self, connection: _Connection, method: str, path: str, query: Mapping[str, Any], body: Any
    ) -> http.client.HTTPResponse:
        target = quote(path) + (f"?{urlencode(query)}" if query else "")
        try:
            connection.request(method, target, None if body is None else json.dumps(body), {HEADER: str(API_VERSION)})
            response = connection.getresponse()
        except OSError as error:
            raise NoDaemon(f"the daemon at {self.path} does not answer: {error.strerror or error}") from error
        theirs = response.getheader(HEADER)
        if theirs is not None and theirs.isdigit() and int(theirs) > API_VERSION:
            raise NoDaemon(f"the daemon speaks version {theirs} of the API, this lm {API_VERSION}: update lm")
        return response

    def _refuse(self, content: bytes) -> None:
        try:
            told = json.loads(content)["error"]
            code, text = str(told["code"]), str(told["message"])
        except (ValueError, KeyError, TypeError):
            raise NoDaemon(f"the daemon at {self.path} gave an answer that is none") from None
        raise Refused(code, text)


def daemon(places: "Places") -> Daemon | None:
    """The daemon of this host, if one listens: root's, which others may use as members of its group; else None."""
    paths = [places.run / SOCKET]
    if os.geteuid() != 0 and not os.environ.get("LMD_RUN_DIR"):
        paths.append(Path("/run/lmd") / SOCKET)
    for path in paths:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(SECONDS)
            try:
                probe.connect(str(path))
            except OSError:
                continue
        return Daemon(path)
    return None
