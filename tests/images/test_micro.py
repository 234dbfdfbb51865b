"""The kit that virtual machines boot: the initramfs as Linux reads it, modules in order, our programs in the guest."""

import http.server
import lzma
import os
import shutil
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest

from images.builder import build
from images.built import BuiltImage
from images.cpio import write_cpio
from images.entries import Tree, directory, file, place, symlink
from images.errors import ImageError
from images.kinds.debian import DebianSource
from images.kinds.micro import GUEST, MicroSource
from images.kinds.source import RootTree, Work
from images.kit import bootable, kit_beside
from images.recipe import Recipe, find_recipe

GUESTS = Path(__file__).parents[2] / "images/guest"
SIGNATURE = b"s" * 30 + struct.pack(">8xI", 30) + b"~Module signature appended~\n"
RELEASE = "6.1.0-1-cloud-amd64"


def module(*needed: str) -> bytes:
    return b"\x7fELF\0license=GPL\0depends=" + ",".join(needed).encode() + b"\0name=x\0"


class Mirror(DebianSource):
    """Packages as a mirror would give them, but small."""

    def __init__(self, changes: Tree) -> None:
        super().__init__(os.environ, 0)
        object.__setattr__(self, "changes", changes)

    @contextmanager
    def root(self, recipe: Recipe, work: Work) -> Iterator[RootTree]:
        assert "busybox-static" in recipe.settings.packages
        tree: Tree = {}
        busybox = Path(shutil.which("busybox") or "").read_bytes()
        banner = b"HdrS 6.1.0 (debian-kernel@lists.debian.org) #1 SMP Debian 6.1.99-1 (2026-01-01)\0"
        where = f"/lib/modules/{RELEASE}/kernel/drivers"
        for name, data in {
            "/bin/busybox": busybox,
            f"/boot/vmlinuz-{RELEASE}": banner,
            f"{where}/virtio_pci.ko": module("virtio", "virtio_ring") + SIGNATURE,
            f"{where}/virtio.ko": module("virtio_ring"),
            f"{where}/virtio_ring.ko": module(),
            f"{where}/virtiofs.ko.xz": lzma.compress(module("fuse")),
            f"{where}/unwanted.ko": module(),
        }.items():
            place(tree, name, file(data, 0o755))
        yield RootTree(tree | self.changes, ())


@pytest.fixture
def made(tmp_path: Path, epoch: int) -> Callable[..., BuiltImage]:
    def make(name: str = "image.tar", changes: Tree | None = None) -> BuiltImage:
        source = MicroSource(Mirror(changes or {}))
        return build(find_recipe("micro"), tmp_path / name, epoch, source=source)

    return make


def unpacked(archive: Path, into: Path) -> Path:
    into.mkdir()
    with archive.open("rb") as stream:
        subprocess.run(["busybox", "cpio", "-idm"], cwd=into, stdin=stream, check=True, capture_output=True)
    return into


def test_the_kit_lies_beside_its_image_and_is_whole(made: Callable[..., BuiltImage], tmp_path: Path) -> None:
    image = made()
    kit = kit_beside(image.path)
    assert kit
    assert kit.kernel.read_bytes().startswith(b"HdrS")
    assert kit.kernel.stat().st_mode & 0o777 == kit.initramfs.stat().st_mode & 0o777 == 0o644
    root = unpacked(kit.initramfs, tmp_path / "root")
    assert os.access(root / "init", os.X_OK)
    assert (root / "bin/sh").readlink() == Path("busybox")
    assert (root / "usr/local/bin/lm-payload").exists() and (root / "etc/jobfeatures").is_dir()
    assert [(p.name, p.version) for p in image.packages][1] == (f"linux-image-{RELEASE}", "6.1.99-1")


def test_modules_come_with_what_they_need_and_nothing_else(made: Callable[..., BuiltImage], tmp_path: Path) -> None:
    kit = kit_beside(made().path)
    assert kit
    folder = unpacked(kit.initramfs, tmp_path / "root") / "lib/modules" / RELEASE
    assert sorted(path.name for path in folder.glob("*.ko")) == [
        *("virtio-pci.ko", "virtio-ring.ko", "virtio.ko", "virtiofs.ko"),
    ]
    assert (folder / "virtio-pci.ko").read_bytes() == module("virtio", "virtio_ring")  # unsigned
    assert (folder / "virtiofs.ko").read_bytes() == module("fuse")  # unpacked
    table = dict(line.split(":") for line in (folder / "modules.dep").read_text().splitlines())
    assert table["virtio-pci.ko"].split() == ["virtio.ko", "virtio-ring.ko"]
    assert table["virtiofs.ko"].split() == []  # fuse is built in


def test_the_same_packages_give_the_same_kit(made: Callable[..., BuiltImage]) -> None:
    one, other = made("one.tar"), made("other.tar")
    assert one.image_id == other.image_id


def test_packages_without_a_kernel_are_no_kit(made: Callable[..., BuiltImage]) -> None:
    with pytest.raises(ImageError, match="vmlinuz"):
        made(changes={f"boot/vmlinuz-{RELEASE}": directory()})


def test_a_cpio_archive_holds_every_kind_of_entry(tmp_path: Path) -> None:
    tree: Tree = {"a/b/file": file(b"x" * 5, 0o640), "a/link": symlink("b/file"), "empty": file(b"")}
    out = BytesIO()
    write_cpio(tree, out, 1_700_000_000)
    (tmp_path / "a.cpio").write_bytes(out.getvalue())
    assert len(out.getvalue()) % 4 == 0
    root = unpacked(tmp_path / "a.cpio", tmp_path / "root")
    assert (root / "a/link").read_text() == "xxxxx"
    assert (root / "a/b/file").stat().st_mode & 0o777 == 0o640
    assert (root / "a/b/file").stat().st_mtime == 1_700_000_000
    assert (root / "empty").read_bytes() == b""


@pytest.mark.parametrize("name", GUEST)
@pytest.mark.parametrize("shell", [["busybox", "sh"], ["dash"]], ids=lambda words: words[0])
def test_what_runs_in_the_guest_can_be_read_by_a_shell(name: str, shell: list[str]) -> None:
    subprocess.run([*shell, "-n", str(GUESTS / name)], check=True)


class Taking(http.server.BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken[self.path] = body
        self.send_response(507 if "full" in self.path else 201)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taking) as made:
        made.taken = {}
        threading.Thread(target=made.serve_forever).start()
        yield made
        made.shutdown()


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """lm-put with the commands of busybox alone."""
    for name in ("wc", "cat", "nc", "head"):
        (tmp_path / name).symlink_to(shutil.which("busybox") or "")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["busybox", "sh", str(GUESTS / "lm-put"), *words]
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)

    return run


def test_lm_put_sends_a_file_byte_by_byte(server, put, tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    (tmp_path / "a file").write_bytes(data)
    done = put(str(tmp_path / "a file"), f"http://127.0.0.1:{server.server_port}/joboutputs/x")
    assert (done.returncode, done.stderr) == (0, "")
    assert server.taken == {"/joboutputs/x": data}


def test_lm_put_says_what_the_server_refused(server, put, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    full = put(str(tmp_path / "file"), f"http://127.0.0.1:{server.server_port}/full")
    assert full.returncode == 1 and "507" in full.stderr
    assert put(str(tmp_path / "file"), "ftp://127.0.0.1/x").returncode == 2
    assert put(str(tmp_path / "gone"), "http://127.0.0.1/x").returncode == 2


def test_what_qemu_would_not_take_for_a_kernel_is_told_from_one(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    for content, boots in (
        (b"\0" * 0x202 + b"HdrS", True),
        (b"\x7fELF\x02", True),
        (b"#!/bin/sh\n", False),
        (b"", False),
    ):
        kernel.write_bytes(content)
        assert bootable(kernel) is boots
