"""A machine's share: put together where the host does not see it, read-only by the kernel, with ids of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtimes.contract import Image, ImageKind, Mount, Network, Spec
from runtimes.kvm import making, share
from runtimes.kvm.place import Place

FIRST = 2_000_000_000


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script where virtiofsd would run, with `binds` of source, target, read_only and first."""

    def run(script: str, *binds: tuple[Path, Path, bool, int], **more: object) -> subprocess.CompletedProcess[str]:
        names = ("source", "target", "read_only", "first")
        words = [dict(zip(names, map(plain, bind), strict=True)) for bind in binds]
        order = tmp_path / "share.json"
        order.write_text(json.dumps({"binary": "/bin/sh", "binds": words}))
        command = [sys.executable, "-IS", str(share.__file__), str(order), "-c", script]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **more)

    return run


def plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_binds_are_seen_inside_and_not_on_the_host(run, tmp_path: Path) -> None:
    source, target = folder(tmp_path / """it's "<a>" """), folder(tmp_path / "target")
    (source / "file").write_text("seen")
    done = run(f"cat '{target}/file'", (source, target, True, 0))
    assert (done.returncode, done.stdout) == (0, "seen"), done.stderr
    assert list(target.iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_read_only_holds_for_all_below_and_against_root(run, tmp_path: Path) -> None:
    source, target = folder(tmp_path / "source"), folder(tmp_path / "target")
    inner = folder(source / "inner")
    subprocess.run(["mount", "-t", "tmpfs", "inner", str(inner)], check=True)
    try:
        done = run(f"echo x > '{target}/file'; echo x > '{target}/inner/file'", (source, target, True, 0))
    finally:
        subprocess.run(["umount", str(inner)], check=True)
    assert done.returncode != 0
    assert done.stderr.count("Read-only file system") == 2


def test_what_is_written_is_owned_by_the_machines_own_ids(run, tmp_path: Path) -> None:
    source, target = folder(tmp_path / "source"), folder(tmp_path / "target")
    os.chown(source, FIRST, FIRST)
    script = f"cd '{target}' && stat -c %u . && echo x > file && mkdir user && chown 1000:1000 user"
    done = run(script, (source, target, False, FIRST))
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
    assert (source / "file").stat().st_uid == FIRST
    assert (source / "user").stat().st_gid == FIRST + 1000


def test_a_source_that_is_gone_ends_it_with_its_name(run, tmp_path: Path) -> None:
    done = run("echo never", (tmp_path / "gone", folder(tmp_path / "target"), True, 0))
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"{tmp_path}/gone" in done.stderr and "No such file" in done.stderr


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A directory below which mounts propagate, as /cvmfs on a factory."""
    path = folder(tmp_path / "shared")
    subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
    subprocess.run(["mount", "--make-rshared", str(path)], check=True)
    yield path
    subprocess.run(["umount", "-R", str(path)], check=True)


def test_file_systems_that_are_mounted_later_appear(run, shared: Path, tmp_path: Path) -> None:
    target, late = folder(tmp_path / "target"), folder(shared / "late")
    script = f"""
        nsenter --target $PPID --mount mount -t tmpfs late '{late}'
        echo x > '{target}/late/file'
        grep -c "{target}/late" /proc/self/mountinfo
    """
    done = run(script, (shared, target, False, 0))
    assert done.stdout == "1\n", done.stderr
    assert (late / "file").exists()


def test_what_a_machine_is_told_is_for_root_alone(tmp_path: Path) -> None:
    place = Place(tmp_path, "lm-1")
    secret = tmp_path / "secret"
    secret.write_text("x")
    place.prepare(
        Spec(
            id="lm-1",
            owner="run:0",
            space="x",
            machinetype="x",
            image=Image(kind=ImageKind.ROOT_DIRECTORY, location="/"),
            environment={"TOKEN": "s3cret"},
            mounts=(Mount(source=secret, target=secret, owned_by_machine=True),),
            network=Network.NONE,
        ),
        FIRST,
        Path("/usr/lib/qemu/virtiofsd"),
    )
    for path in (place.file("share"), place.file("share/description"), place.file("share.json")):
        assert path.stat().st_mode & 0o077 == 0, path
    assert secret.stat().st_uid == FIRST
    assert place.file("report.raw").stat().st_size == 4096


def test_what_a_starting_machine_has_open_is_not_replaced(tmp_path: Path) -> None:
    """Whoever asked for its start was killed; the next one asks again while QEMU is starting."""
    spec = Spec(
        id="lm-1",
        owner="run:0",
        space="x",
        machinetype="x",
        image=Image(kind=ImageKind.DISK_RAW, location=str(tmp_path / "image")),
        disk_bytes=2**20,
        network=Network.NONE,
    )
    (tmp_path / "image").write_bytes(bytes(2**20))
    place = Place(tmp_path / "kvm", "lm-1")
    disks = [place.file(name) for name in ("report.raw", "root.qcow2", "disk.raw")]
    making.prepare(spec, place, FIRST, None)
    before = [disk.stat().st_ino for disk in disks]
    disks[0].write_bytes(b"exit 1\n\0")
    making.prepare(spec, place, FIRST, None)
    assert [disk.stat().st_ino for disk in disks] == before
    assert place.report()[0] == "exit 1\n"
    assert not list(place.path.rglob("*.part"))


def test_a_machines_directory_is_removed_however_deep_it_is(tmp_path: Path) -> None:
    place = Place(tmp_path, "lm-1")
    place.path.mkdir()
    script = "import os\nfor _ in range(3000):\n os.mkdir('d')\n os.chdir('d')"
    subprocess.run([sys.executable, "-c", script], cwd=place.path, check=True)
    place.remove()
    assert not place.path.exists()
    place.remove()
