"""Repositories kept mounted on the host: by the embedded reader, and by a stand-in for the distribution's client."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lm_left import left, servers, until
from lm_repositories import NAME

from cvmfs.errors import Refused, Unreachable
from cvmfs.hosting import System, probe
from lmd.config.models import Config, Cvmfs, MachineType
from lmd.places import Places
from lmd.repositories.handing import located
from lmd.repositories.keeping import Keeping, needed


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for pid in servers(tmp_path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        if line.split()[4].startswith(f"{tmp_path}/"):
            subprocess.run(["umount", "-l", line.split()[4]], check=False)
    assert until(lambda: not left(tmp_path))


def reads(name: str, **keys: object) -> MachineType:
    plain = {"name": name, "root_image": "lmd:busybox", "target_share": 1.0, "entrypoint": ("true",)}
    return MachineType.model_validate(plain | keys)


def config(repository: tuple[str, Path], *types: MachineType, **options: object) -> Config:
    url, key = repository
    plain = {"provider": "embedded", "server_url": [url], "public_key": [str(key)], "idle_seconds": 1}
    cvmfs = Cvmfs.model_validate(plain | {"probe_seconds": 2} | options)
    return Config(machinetypes={type_.name: type_ for type_ in types}, cvmfs=cvmfs)


def test_a_mount_that_is_dead_is_made_again_and_one_that_hangs_after_a_while(
    home: Path, repository: tuple[str, Path]
) -> None:
    reading = reads("reads", cvmfs_repositories=[NAME])
    plain, lacking = reads("plain"), reads("lacks", cvmfs_repositories=["none.example.org"])
    configured = config(repository, reading, plain, lacking)
    kept = Keeping(Places(home / "state", home / "run", home / "cache").make())
    kept.look(configured)
    assert (kept.problem(reading), kept.problem(plain)) == ("", "")
    assert kept.problem(lacking).startswith("CernVM-FS repository none.example.org: manifest of none.example.org")
    (first,) = servers(home)
    os.kill(first, signal.SIGKILL)
    kept.look(configured)
    assert kept.problem(reading) == ""
    (second,) = servers(home)
    os.kill(second, signal.SIGSTOP)
    for _ in range(2):
        kept.look(configured)
        assert kept.problem(reading) == f"CernVM-FS repository {NAME}: no answer within 2 s"
        assert servers(home) == [second], "one that is slow has been taken from those that read from it"
    kept.look(configured)
    assert kept.problem(reading) == ""
    kinds = [kind for kind, name, _ in kept.done if name == NAME]
    assert kinds == ["repository-mounted", "repository-remounted", "repository-remounted"]


async def test_a_root_image_in_a_repository_is_mounted_and_kept(home: Path, repository: tuple[str, Path]) -> None:
    type_ = reads("unpacked", root_image=f"/cvmfs/{NAME}/root", cvmfs={"where": "machine"}, cvmfs_repositories=["a.b"])
    assert needed(type_) == (NAME,)
    places = Places(home / "state", home / "run", home / "cache").make()
    found = await located(type_, config(repository, type_), places)
    assert (Path(found.root_image) / "etc/here").read_text() == "a root file system\n"


@pytest.fixture
def system(home: Path, repository: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> System:
    """The distribution's client: a program `mount` that takes what mount(8) takes and starts a process `cvmfs2`."""
    url, key = repository
    folder = home / "bin"
    folder.mkdir()
    (folder / "cvmfs2").symlink_to(os.path.realpath(sys.executable))
    paths = ":".join(path for path in sys.path if path)
    (folder / "mount").write_text(
        f'#!/bin/sh\n[ "$1 $2" = "-t cvmfs" ] && [ $# = 4 ] || exit 1\n'
        f'[ "$3" = {NAME} ] || {{ echo "CernVM-FS: failed to fetch the repository signature of $3" >&2; exit 32; }}\n'
        f"export PYTHONPATH={json.dumps(paths)}\n"
        f'exec {folder}/cvmfs2 -m cvmfs mount "$3" "$4" --server {url} --key {key} --cache {home}/c -o allow_other\n'
    )
    (folder / "mount").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return System(home / "cvmfs", 5.0)


def test_the_distributions_client_is_asked_and_mended(home: Path, system: System) -> None:
    where = system.ensure(NAME, os.getpid())
    assert (where / "hello").read_text() == "hello of revision 1\n"
    (first,) = servers(home)
    assert system.ensure(NAME, os.getpid()) == where
    assert servers(home) == [first], "it was mounted twice"
    with pytest.raises(Refused, match=r"mount -t cvmfs failed \(32\): CernVM-FS: failed to fetch"):
        system.ensure("none.example.org", os.getpid())
    for number, said in ((signal.SIGKILL, "Transport endpoint is not connected"), (signal.SIGSTOP, "no answer")):
        (client,) = servers(home)
        os.kill(client, number)
        assert until(lambda said=said: said in probe(where, 1.0))
        if number is signal.SIGKILL:
            with pytest.raises(Unreachable, match="not connected"):
                system.ensure(NAME, os.getpid())
        system.remount(NAME, os.getpid())
        assert (where / "hello").read_text() == "hello of revision 1\n"
        assert until(lambda client=client: client not in servers(home))


def test_a_slow_client_of_the_distribution_s_is_left_to_its_administrator(
    home: Path, system: System, repository: tuple[str, Path]
) -> None:
    type_ = reads("reads", cvmfs_repositories=[NAME])
    options = {"provider": "system", "settings": {"CVMFS_MOUNT_DIR": str(system.root)}}
    configured, kept = config(repository, type_, **options), Keeping(Places(home / "s", home / "r", home / "ca").make())
    kept.look(configured)
    assert kept.problem(type_) == ""
    (client,) = servers(home)
    os.kill(client, signal.SIGSTOP)
    for _ in range(3):
        kept.look(configured)
    assert "no answer within 2 s" in kept.problem(type_)
    assert servers(home) == [client]
    os.kill(client, signal.SIGCONT)
    kept.look(configured)
    assert kept.problem(type_) == ""
