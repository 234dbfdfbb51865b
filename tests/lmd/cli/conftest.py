"""`lm` as its users run it: a process of its own, with directories of its own and the tests' private Podman."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from kvm_suites import put
from lm_left import clear

LM = [sys.executable, "-c", "from lmd.cli.main import main; main()"]


class Lm:
    """Runs `lm`; everything it may write is below `home`."""

    def __init__(self, home: Path, options: Mapping[str, str], policy: str = "") -> None:
        self.home = home
        self.podman_options = options
        (home / "config").mkdir(parents=True)
        (home / "work").mkdir()
        lines = [f"{key} = {json.dumps(value)}" for key, value in options.items()]
        text = "\n".join(["[runtimes.podman]", *lines, "[policy]", policy])
        (home / "config/lmd.toml").write_text(text)
        names = {"LMD_CONFIG_DIR": "config", "LMD_STATE_DIR": "state", "LMD_RUN_DIR": "run", "LMD_CACHE_DIR": "cache"}
        self.environment = os.environ | {name: str(home / part) for name, part in names.items()} | {"NO_COLOR": "1"}

    def __call__(self, *arguments: str, stdin: str = "", seconds: float = 50) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*LM, *arguments],
            cwd=self.home / "work",
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )

    def start(self, *arguments: str) -> "Running":
        return Running(self, arguments)

    def machines(self) -> list[dict]:
        return json.loads(self("ps", "--json").stdout)

    def machinetype(self, name: str, script: str, **keys: object) -> str:
        """Write NAME.toml and its user_data; returns the file's name."""
        work = self.home / "work"
        (work / f"{name}.sh").write_text(f"#!/bin/sh\n{script}\n")
        keys = {
            "root_image": "lmd:busybox",
            "user_data": f"{name}.sh",
            "mb_per_processor": 64,
            "network": "none",
        } | keys
        lines = [f"{key} = {_toml(value)}" for key, value in keys.items() if value is not None]
        (work / f"{name}.toml").write_text("\n".join([f"[machinetypes.{name}]", *lines]) + "\n")
        return f"{name}.toml"


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


class Running:
    """An `lm` in the background; its two streams go to files."""

    def __init__(self, lm: Lm, arguments: tuple[str, ...]) -> None:
        number = len(list(lm.home.glob("*.out")))
        self.out, self.err = lm.home / f"{number}.out", lm.home / f"{number}.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [*LM, *arguments],
                cwd=lm.home / "work",
                env=lm.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def until(self, text: str, seconds: float = 30) -> None:
        """Wait until this has been printed."""
        last = time.monotonic() + seconds
        while text not in self.said():
            assert time.monotonic() < last, f"no {text!r} in {self.said()!r}"
            assert self.process.poll() is None or text in self.said(), f"it ended and said {self.said()!r}"
            time.sleep(0.05)

    def said(self) -> str:
        return self.out.read_text(errors="replace") + self.err.read_text(errors="replace")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 40) -> int:
        return self.process.wait(seconds)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="session")
def podman(private_podman) -> Iterator[object]:
    """One OCI runtime is enough here: the contract's suite runs on both."""
    with private_podman("cli", "crun") as engine:
        yield engine


@pytest.fixture(scope="session")
def image_cache(short_tmp: Path) -> Path:
    """Built once for all tests."""
    return short_tmp / "image-cache"


@pytest.fixture
def lm(podman, short_tmp: Path, image_cache: Path, request: pytest.FixtureRequest) -> Iterator[Lm]:
    home = short_tmp / f"lm{abs(hash(request.node.nodeid)):x}"
    made = Lm(home, podman.options)
    made.environment["LMD_CACHE_DIR"] = str(image_cache)
    yield made
    for machine in made.machines():
        made("destroy", machine["id"])
    assert made.machines() == []


@pytest.fixture
def host(lm: Lm, repository: tuple[str, Path]) -> Iterator[Lm]:
    url, key = repository
    text = f'\n[cvmfs]\nprovider = "embedded"\nserver_url = ["{url}"]\npublic_key = ["{key}"]\nidle_seconds = 1\n'
    with (lm.home / "config/lmd.toml").open("a") as file:
        file.write(text)
    yield lm
    clear(lm.home)


@pytest.fixture
def vm(lm: Lm, libvirt_engine, micro_kit, image_cache: Path) -> Iterator[Lm]:
    """`lm` that knows a libvirt of the tests' own; the kit is built already."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in libvirt_engine.options.items()]
    with (lm.home / "config/lmd.toml").open("a") as out:
        out.write("\n".join(["", "[runtimes.kvm]", *lines, ""]))
    put(micro_kit, image_cache)
    yield lm


@pytest.fixture
def user_with_repository(ordinary_user, repository: tuple[str, Path]) -> Iterator[object]:
    """An ordinary user whose configuration knows the repository."""
    url, key = repository
    home = ordinary_user.home
    (home / "key.pub").write_bytes(key.read_bytes())
    (home / "key.pub").chmod(0o644)
    folder = home / ".config/lmd"
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder.parent, folder):
        os.chown(path, ordinary_user.uid, ordinary_user.uid)  # Podman writes there too
    (folder / "lmd.toml").write_text(
        f'[cvmfs]\nprovider = "embedded"\nserver_url = ["{url}"]\npublic_key = ["{home}/key.pub"]\nidle_seconds = 1\n'
    )
    yield ordinary_user
    (folder / "lmd.toml").unlink()
