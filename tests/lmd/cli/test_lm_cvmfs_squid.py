"""Machines read a repository through a real Squid, with the configuration that its machinetype writes."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for what the tests of this folder share

from lm_repositories import NAME, published, served

from images import recipe

PROGRAM = Path(recipe.__file__).parent / "squid/lm-squid"


def started(folder: Path, **variables: str) -> subprocess.Popen[bytes]:
    names = {"LM_SQUID_DIR": str(folder), "LM_SQUID_MB": "100", "PATH": os.environ["PATH"]} | variables
    return subprocess.Popen([str(PROGRAM)], env=names, stderr=subprocess.PIPE, user="proxy", group="proxy")


@pytest.fixture
def folder(short_tmp: Path) -> Path:
    made = Path(tempfile.mkdtemp(prefix="squid.", dir=short_tmp))

    os.chown(made, *_proxy())
    return made


def _proxy() -> tuple[int, int]:
    import pwd

    entry = pwd.getpwnam("proxy")
    return entry.pw_uid, entry.pw_gid


@pytest.fixture
def squid(folder: Path, free_port: int, url: str) -> Iterator[str]:
    ports = {"LM_SQUID_PORT": str(free_port), "LM_SQUID_SERVER_PORTS": url.rpartition(":")[2]}
    process = started(folder, LM_SQUID_CLIENTS="127.0.0.1 10.0.0.0/8", LM_SQUID_SERVERS="127.0.0.1", **ports)
    last = time.monotonic() + 30
    while subprocess.run(["ss", "-Htln", f"sport = :{free_port}"], capture_output=True).stdout == b"":
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < last, "squid does not listen"
        time.sleep(0.1)
    yield f"http://127.0.0.1:{free_port}"
    process.terminate()
    process.wait(20)
    if process.stderr:
        process.stderr.close()


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def key(short_tmp: Path) -> Path:
    return short_tmp / "squid-repository.pub"


@pytest.fixture
def url(short_tmp: Path) -> Iterator[str]:
    with served(published(short_tmp / "squid-repository").root) as made:
        yield made


def test_the_second_machine_s_reads_are_hits(lm, squid: str, folder: Path, url: str, key: Path) -> None:
    with (lm.home / "config/lmd.toml").open("a") as file:
        file.write(
            f'\n[cvmfs]\nprovider = "embedded"\nserver_url = ["{url}"]\npublic_key = ["{key}"]\n'
            f'http_proxy = ["{squid}"]\nidle_seconds = 1\n'
        )
    type_ = lm.machinetype("reads", f"cat /cvmfs/{NAME}/hello", cvmfs_repositories=[NAME], cvmfs={"where": "machine"})
    for number in range(2):
        lm.environment["LMD_CACHE_DIR"] = str(lm.home / f"cache-{number}")  # no reader's own cache may help
        assert lm("run", type_).stdout == "hello of revision 1\n"
        if number == 0:
            first = (folder / "access.log").read_text().splitlines()
    second = (folder / "access.log").read_text().splitlines()[len(first) :]
    objects = [line.split()[3] for line in second if "/data/" in line]
    assert objects
    assert all("HIT" in word for word in objects), second
    assert all("MISS" in line for line in first if "/data/" in line)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "LM_SQUID_CLIENTS: name the addresses"),
        ({"LM_SQUID_CLIENTS": "all; http_access allow all"}, "is neither an address nor a network"),
        ({"LM_SQUID_CLIENTS": "10.0.0.1", "LM_SQUID_SERVERS": "a\nb c;d"}, "is not a host name or a domain"),
        ({"LM_SQUID_CLIENTS": "10.0.0.1", "LM_SQUID_PORT": "x"}, "x is not a number"),
        ({"LM_SQUID_CLIENTS": "10.0.0.1.1"}, "squid.conf: "),
    ],
)
def test_a_wrong_value_is_named_and_nothing_starts(folder: Path, variables: dict[str, str], message: str) -> None:
    process = started(folder, **variables)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 2
    assert message in said.decode()


def test_the_recipe_is_right() -> None:
    found = recipe.find_recipe("squid")
    assert found.settings.packages == ["ca-certificates", "squid"]
    assert "/usr/bin/lm-squid" in found.files
