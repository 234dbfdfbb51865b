"""Streams of an engine's interface, read in a worker thread: commands inside a container, and events."""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runtimes.containers.engine import Engine
from runtimes.contract import ExecResult, Rejected, Unavailable

_HEADER = struct.Struct(">BxxxI")
COMMAND_SECONDS = 3600.0
LINE_LIMIT = 1_000_000
NOT_STARTED = b"OCI runtime exec failed"
"""What Docker writes, as if the command had, when there is no such command."""


def run(engine: Engine, name: str, container: str, command: Sequence[str], limit: int) -> ExecResult:
    """Run a command in the machine `name` to its end; each of its two streams is cut at `limit` bytes."""
    request = {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True}
    made = engine.blocking("POST", f"/containers/{container}/exec", body=request)
    if made.status == 404 or "state improper" in made.message or "not running" in made.message:
        raise Rejected(f"machine {name} does not run")
    if made.status != 201:
        raise made.fault(f"run a command in machine {name}")
    session = made.body["Id"]
    out: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
    path = f"/exec/{session}/start"
    with engine.stream("POST", path, body={"Detach": False, "Tty": False}, seconds=COMMAND_SECONDS) as answer:
        if answer.status_code != 200:
            raise Rejected(f"machine {name} cannot run {command[0]!r}: {_message(answer.raw.read(10_000))}")
        for kind, data in _frames(answer.raw):
            stream = out.setdefault(kind, bytearray())
            stream += data[: max(0, limit - len(stream))]
    ended = engine.blocking("GET", f"/exec/{session}/json")
    code = int(ended.body.get("ExitCode", -1)) if ended.status == 200 else -1
    if code in (126, 127) and (not out[1] or out[1].startswith(NOT_STARTED)):
        reason = bytes(out[1] or out[2]).decode(errors="replace").strip()[:300]
        raise Rejected(f"machine {name} cannot run {command[0]!r}: {reason}")
    return ExecResult(exit_code=code, output=bytes(out[1]), errors=bytes(out[2]))


def _frames(raw: Any) -> Iterator[tuple[int, bytes]]:
    """The multiplexed stream: 8-byte headers of stream number and length, each followed by its data."""
    while len(header := raw.read(_HEADER.size)) == _HEADER.size:
        kind, length = _HEADER.unpack(header)
        while length > 0:
            data = raw.read(min(length, 65_536))
            if not data:
                return
            length -= len(data)
            yield kind, data


def _message(text: bytes) -> str:
    try:
        return str(json.loads(text)["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return text.decode(errors="replace").strip()[:300]


class Stop:
    """Ends an event stream that another thread reads."""

    def __init__(self) -> None:
        self.asked = False
        self.answer: Any = None

    def now(self) -> None:
        """Cut the connection under the reader, if there is one."""
        self.asked = True
        connection = getattr(getattr(self.answer, "raw", None), "connection", None)
        sock = getattr(connection, "sock", None)
        if sock is not None:
            try:
                sock.shutdown(2)
            except OSError:
                return


def event_names(engine: Engine, filters: Mapping[str, Any], stop: Stop) -> Iterator[str]:
    """Names of containers as events come. Raises `Unavailable` when the stream cannot be had or breaks."""
    params = {"stream": True, "filters": json.dumps(filters)}
    with engine.stream("GET", "/events", params=params, seconds=86_400.0) as answer:
        stop.answer = answer
        if stop.asked:
            return
        if answer.status_code != 200:
            raise Unavailable(f"{engine.name} answered {answer.status_code} to /events")
        while line := answer.raw.readline(LINE_LIMIT):
            try:
                name = json.loads(line)["Actor"]["Attributes"]["name"]
            except (ValueError, KeyError, TypeError):
                continue
            yield str(name)
