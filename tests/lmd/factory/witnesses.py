"""What the engines themselves report of machines, each by its own event log: independent of lmd's code."""

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import docker

CREATED, STARTED, ENDED, REMOVED = "created", "started", "ended", "removed"
_LIBVIRT = re.compile(r"^(\S+ \S+): event 'lifecycle' for domain '([^']+)': (\w+)", re.MULTILINE)
_WORDS = {
    "podman": {"create": CREATED, "start": STARTED, "died": ENDED, "remove": REMOVED},
    "docker": {"create": CREATED, "start": STARTED, "die": ENDED, "destroy": REMOVED},
    "kvm": {"Defined": CREATED, "Started": STARTED, "Stopped": ENDED, "Crashed": ENDED, "Undefined": REMOVED},
}


@dataclass(slots=True)
class Life:
    """The times (Unix seconds) at which an engine says that something happened to one machine; its exit code."""

    runtime: str
    times: dict[str, list[float]] = field(default_factory=lambda: {k: [] for k in (CREATED, STARTED, ENDED, REMOVED)})
    code: int | None = None

    def add(self, word: str, at: float) -> None:
        if what := _WORDS[self.runtime].get(word):
            self.times[what].append(at)


Lives = dict[str, Life]


@contextmanager
def podman(options: dict[str, str], since: float) -> Iterator[Callable[[], Lives]]:
    """Read at the end from the log that Podman keeps."""
    places = [f"--{name}={options[name]}" for name in ("root", "runroot", "tmpdir")]
    command = ["podman", "--events-backend=file", *places, "events", "--stream=false", "--format", "json"]

    def lives() -> Lives:
        found: Lives = {}
        said = subprocess.run(
            [*command, "--since", f"{since:.0f}"], capture_output=True, text=True, timeout=60, check=True
        )
        for event in map(json.loads, said.stdout.splitlines()):
            if event["Type"] != "container":
                continue
            life = found.setdefault(event["Name"], Life("podman"))
            at = event["timeNano"] / 1e9 if "timeNano" in event else datetime.fromisoformat(event["Time"]).timestamp()
            life.add(event["Status"], at)
            if event["Status"] == "died":
                life.code = int(event.get("ContainerExitCode", 0))  # left out where it is 0
        return found

    yield lives


@contextmanager
def dockers(path: str) -> Iterator[Callable[[], Lives]]:
    """Heard all the time: Docker keeps no more than 256 events."""
    client = docker.DockerClient(base_url=f"unix://{path}", timeout=3600)
    stream = client.events(decode=True, filters={"type": "container"})
    heard: list[dict[str, Any]] = []

    thread = threading.Thread(target=_each, args=(stream, heard), daemon=True)
    thread.start()

    def lives() -> Lives:
        found: Lives = {}
        for event in list(heard):
            words = event["Actor"]["Attributes"]
            life = found.setdefault(words["name"], Life("docker"))
            life.add(event["Action"], event["timeNano"] / 1e9)
            if event["Action"] == "die":
                life.code = int(words["exitCode"])
        return found

    try:
        yield lives
    finally:
        stream.close()
        thread.join(10)
        client.close()


def _each(stream: Any, heard: list[dict[str, Any]]) -> None:
    with suppress(Exception):  # its end, when it is closed
        for event in stream:
            heard.append(event)


@contextmanager
def libvirt(uri: str, log: Path) -> Iterator[Callable[[], Lives]]:
    """Heard by virsh. libvirt knows of no exit code: that is between the guest and us."""
    with log.open("wb") as out:
        listener = subprocess.Popen(
            ["virsh", "--connect", uri, "event", "--event", "lifecycle", "--loop", "--timestamp"],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
        )

    def lives() -> Lives:
        found: Lives = {}
        for when, name, word in _LIBVIRT.findall(log.read_text(errors="replace")):
            at = datetime.strptime(when, "%Y-%m-%d %H:%M:%S.%f%z").timestamp()
            found.setdefault(name, Life("kvm")).add(word, at)
        return found

    try:
        yield lives
    finally:
        listener.terminate()
        listener.wait(10)


def settled(lives: Callable[[], Lives], seconds: float = 20.0) -> Lives:
    """What an engine reports, when each machine that it made is reported as removed."""
    last = time.monotonic() + seconds
    found = lives()
    while any(not life.times[REMOVED] for life in found.values()) and time.monotonic() < last:
        time.sleep(0.1)
        found = lives()
    return found
