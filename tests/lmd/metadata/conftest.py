"""A factory's network in a network namespace of the tests' own, machines in theirs, and the real server between."""

import http.client
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from network_namespace import Namespace

from lmd.environment import features
from lmd.environment.directory import Directory
from lmd.environment.features import Allocation
from lmd.metadata import card
from lmd.metadata.account import account
from lmd.metadata.card import Card
from lmd.network import addresses, bridge
from lmd.network.addresses import GATEWAY, METADATA, METADATA6, Place
from runtimes.containers.nic import connect, index

PREFIX = addresses.own_prefix("the tests' factory")
WANTED = bridge.Wanted(PREFIX)
VARIABLES = {name: f"http://{GATEWAY}/{name.lower()}" for name in ("MACHINEFEATURES", "JOBFEATURES", "JOBOUTPUTS")}
PATIENCE = 3


class Machine:
    """A simulated machine: a namespace in the factory's network, and its directory on the host."""

    def __init__(self, factory: "Factory", number: int, **changes: Any) -> None:
        self.factory, self.place, self.namespace = factory, Place(number), Namespace()
        self._sockets: list[socket.socket] = []
        self.directory = Directory(factory.state / "machines" / f"wn1-{number:x}")
        self.given = Allocation(
            job_id=f"00000000-0000-4000-8000-{number:012x}",
            processors=2,
            memory_bytes=2**31,
            started=time.time(),
            shutdown_time=time.time() + 3600,
            grace=60,
        )
        self.directory.make(features.machinefeatures(self.given), features.jobfeatures(self.given))
        values: dict[str, Any] = {
            "id": self.directory.path.name,
            "job_id": self.given.job_id,
            "space": "example.org",
            "machinetype": "montecarlo",
            "factory": "wn1.example.org",
            "address": str(self.place.address),
            "address6": str(self.place.address6(PREFIX)),
            "mac": self.place.mac,
            "port": self.place.port,
            "bridge": addresses.BRIDGE,
            "gateway": str(GATEWAY),
            "gateway6": str(addresses.gateway6(PREFIX)),
            "public_key": "ssh-ed25519 AAAA author@example.org",
            "variables": VARIABLES,
            "outputs_bytes": 1_000_000,
            "outputs_files": 20,
        }
        user_data = changes.pop("user_data", f"#!/bin/sh\necho secret of {number:x}\n".encode())
        self.card = Card(**values | changes)
        card.make(self.directory.path, self.card, user_data, factory.server)
        card.register(factory.run, self.directory.path, self.card, factory.server)
        factory.namespace.run(self._connect)

    def _connect(self) -> None:
        connect(self.place.nic(PREFIX, ""), self.namespace.pid)

    def socket(self, address: object = METADATA, source: str | None = None) -> socket.socket:
        """A connection from inside the machine."""

        def connect() -> socket.socket:
            return socket.create_connection((str(address), 80), 10, (source, 0) if source else None)

        made: socket.socket = self.namespace.run(connect)
        self._sockets.append(made)
        return made

    def ask(
        self, method: str, path: str, *, at: object = METADATA, body: Any = None, headers: Any = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """One request: status, content, headers."""
        connection = http.client.HTTPConnection(str(at), 80, timeout=20)
        connection.sock = self.socket(at)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            given = dict(headers or {})
            if isinstance(body, bytes) and "Content-Length" not in given and "Transfer-Encoding" not in given:
                given["Content-Length"] = str(len(body))
            for name, value in given.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.headers)
        finally:
            connection.close()

    def get(self, path: str, *, at: object = METADATA) -> bytes:
        """What a path answers, which has to be there."""
        status, content, _ = self.ask("GET", path, at=at)
        assert status == 200, (path, status, content)
        return content

    def put(self, name: str, body: bytes) -> int:
        """The status of a PUT into joboutputs."""
        return self.ask("PUT", f"/joboutputs/{name}", at=GATEWAY, body=body)[0]

    def output(self, name: str) -> bytes:
        return (self.directory.joboutputs / name).read_bytes()

    def left_aside(self) -> list[str]:
        return [path.name for path in (self.directory.path / card.INCOMING).iterdir()]

    def close(self) -> None:
        for each in self._sockets:
            each.close()
        self.namespace.close()
        self.directory.remove()


class Factory:
    """The bridge, the directories, and the server as `lm run` would start it."""

    def __init__(self, directory: Path) -> None:
        self.state, self.run = directory / "state", directory / "run"
        self.server = account(os.geteuid())
        for path in (self.state / "machines", self.run):
            path.mkdir(mode=0o711, parents=True)
        self.state.chmod(0o711)
        directory.chmod(0o711)
        self.server.share(self.state / "machines", 0o710)
        self.namespace = Namespace()
        self.namespace.run(self._bridge)
        self.process: subprocess.Popen[bytes] | None = None

    def _bridge(self) -> None:
        with bridge.netlink() as net:
            net.link("set", index=index(net, "lo"), state="up")
            bridge.make(net)
            bridge.furnish(net, WANTED)

    def words(self, *more: str) -> list[str]:
        features_at = [str(GATEWAY), str(addresses.gateway6(PREFIX))]
        sides = ["--features", *features_at, "--metadata", str(METADATA), str(METADATA6)]
        return [sys.executable, "-m", "lmd.metadata.process", "--run-dir", str(self.run), *sides, *more]

    def start(self, *wrapped: str) -> None:
        reader, writer = os.pipe()
        words = self.words("--ready-fd", str(writer), "--patience", str(PATIENCE))
        command = self.namespace.command(*wrapped, *words)
        with (self.run / "log").open("ab") as log:
            self.process = subprocess.Popen(command, pass_fds=[writer], stderr=log)
        os.close(writer)
        assert os.read(reader, 10) == b"ready\n", self.log()
        os.close(reader)

    def log(self) -> str:
        return (self.run / "log").read_text()

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            assert self.process.wait(10) in (0, -9, -15), self.log()

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.namespace.close()


@pytest.fixture(scope="module")
def factory(short_tmp: Path) -> Iterator[Factory]:
    made = Factory(short_tmp / f"metadata-{secrets.token_hex(3)}")
    try:
        made.start()
        yield made
        assert made.process
        assert made.process.poll() is None, made.log()
        assert "Traceback" not in made.log()
    finally:
        made.close()


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return iter(range(0x0101, 0xA900))


@pytest.fixture
def machine(factory: Factory, numbers: Iterator[int]) -> Iterator[Callable[..., Machine]]:
    """Make machines; they are gone after the test."""
    made: list[Machine] = []

    def make(**changes: Any) -> Machine:
        made.append(Machine(factory, next(numbers), **changes))
        return made[-1]

    try:
        yield make
    finally:
        for each in made:
            each.close()
