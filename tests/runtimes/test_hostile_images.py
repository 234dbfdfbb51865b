"""Archives that are damaged, lie about themselves or reach for the host: refused, or kept inside; nothing stays."""

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from images.archive import ImageConfig, host_architecture, write_docker_archive
from runtimes.archive_digests import verify
from runtimes.contract import Image, ImageKind, Network, Rejected, Spec
from runtimes.podman import Podman

Member = tuple[tarfile.TarInfo, bytes]
OTHER = "s390x" if host_architecture() != "s390x" else "amd64"


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"", **fields: int) -> Member:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size, made.mode = kind, link, len(data), 0o755
    for field, value in fields.items():
        setattr(made, field, value)
    return made, data


def tar(members: list[Member]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def oci_archive(
    path: Path,
    members: list[Member],
    *,
    pack: Callable[[bytes], bytes] = bytes,
    change: Callable[[dict], None] = lambda _: None,
) -> Path:
    """An archive of one layer, packed by `pack`; `change` is made to its configuration."""
    plain = tar(members)
    blobs: dict[str, bytes] = {}

    def put(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "size": len(data)}

    config = {
        "architecture": host_architecture(),
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(plain).hexdigest()}"]},
    }
    change(config)
    kind = "application/vnd.oci.image"
    layer = {"mediaType": f"{kind}.layer.v1.tar"} | put(pack(plain))
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": {"mediaType": f"{kind}.config.v1+json"} | put(json.dumps(config).encode()),
        "layers": [layer],
    }
    entry = {"mediaType": f"{kind}.manifest.v1+json"} | put(json.dumps(manifest).encode())
    blobs["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    blobs["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    path.write_bytes(tar([member(name, data=data) for name, data in blobs.items()]))
    return path


@pytest.fixture(scope="module")
def podman(private_podman, tmp_path_factory) -> Iterator[object]:
    """One OCI runtime is enough: images are the same for both. Its uploads lie in a directory of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("uploads")))
        with private_podman("hostile", "crun") as engine:
            yield engine


@pytest.fixture(scope="module")
def shell() -> list[Member]:
    program = shutil.which("busybox")
    assert program, "busybox is not installed: apt-get install busybox-static"
    return [
        member("bin", tarfile.DIRTYPE),
        member("bin/busybox", data=Path(program).read_bytes()),
        *(member(f"bin/{name}", tarfile.SYMTYPE, "/bin/busybox") for name in ("sh", "ls", "cat", "head")),
        member("tmp", tarfile.DIRTYPE),
        member("etc", tarfile.DIRTYPE),
    ]


async def ran(podman, path: Path, script: str) -> str:
    """What a machine of the image prints."""
    spec = Spec(
        id="hostile",
        owner="run:0",
        space="test.invalid",
        machinetype="hostile",
        image=Image(kind=ImageKind.OCI_ARCHIVE, location=str(path)),
        entrypoint=("/bin/sh", "-c", script),
        args=(),
        network=Network.NONE,
        user="0:0",
    )
    runtime = Podman(podman.settings)
    try:
        await runtime.create(spec)
        return b"".join([chunk.data async for chunk in runtime.console(spec.id, follow=True)]).decode()
    finally:
        await runtime.destroy(spec.id)
        await runtime.aclose()


async def refused(podman, path: Path, words: str) -> None:
    """It is not taken into the store, and the store is as before."""
    runtime = Podman(podman.settings)
    try:
        await runtime.probe()
        before = await stored(podman, runtime)
        with pytest.raises(Rejected, match=words) as told:
            await runtime.ensure(Image(kind=ImageKind.OCI_ARCHIVE, location=str(path)))
        assert len(str(told.value)) < 400
        assert await stored(podman, runtime) == before
    finally:
        await runtime.aclose()


async def stored(podman, runtime: Podman) -> tuple[list[str], list[str], list[str]]:
    """Images, layers and left-over uploads."""
    layers = sorted(path.name for path in (podman.directory / "root/overlay").glob("*") if len(path.name) == 64)
    uploads = sorted(path.name for path in Path(os.environ["TMPDIR"]).glob("libpod-*"))
    return sorted(await runtime.images()), layers, uploads


def spoilt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"\x7fELF") + 1000] ^= 0xFF
    path.write_bytes(data)


async def test_a_damaged_archive_is_refused(podman, shell, tmp_path: Path) -> None:
    path = oci_archive(tmp_path / "image.tar", shell)
    spoilt(path)
    await refused(podman, path, "is damaged: layer .* is not what its digest says")


async def test_another_image_under_an_image_s_id_is_refused(podman, shell, tmp_path: Path) -> None:
    def lie(config: dict) -> None:
        config["rootfs"]["diff_ids"] = ["sha256:" + "0" * 64]

    path = oci_archive(tmp_path / "image.tar", shell, change=lie)
    await refused(podman, path, "is not the one that its configuration names")


async def test_layers_that_the_configuration_does_not_name_are_refused(podman, shell, tmp_path: Path) -> None:
    path = oci_archive(tmp_path / "image.tar", shell, change=lambda config: config["rootfs"].update(diff_ids=[]))
    await refused(podman, path, "names 0 layers, 1 are in it")


async def test_an_image_for_other_processors_is_refused(podman, shell, tmp_path: Path) -> None:
    path = oci_archive(tmp_path / "image.tar", shell, change=lambda config: config.update(architecture=OTHER))
    await refused(podman, path, f"is for {OTHER}, machines here have {host_architecture()}")


@pytest.mark.parametrize("link", ["/etc/shadow", "../../../../../../../../etc/shadow"])
async def test_a_hard_link_out_of_the_image_is_refused(podman, shell, tmp_path: Path, link: str) -> None:
    path = oci_archive(tmp_path / "image.tar", [*shell, member("stolen", tarfile.LNKTYPE, link)])
    await refused(podman, path, "podman could not load .*image.tar: writing blob")


async def test_absolute_links_and_paths_stay_inside_the_image(podman, shell, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    inside, there = str(outside).lstrip("/"), {info.name for info, _ in shell}
    members = [
        *(member(str(one), tarfile.DIRTYPE) for one in reversed(Path(inside).parents[:-1]) if str(one) not in there),
        member(inside, tarfile.DIRTYPE),
        member("away", tarfile.SYMTYPE, str(outside)),
        member("away/through-a-link", data=b"x"),
        member(f"{outside}/by-its-path", data=b"x"),
        member("../" * 12 + f"{inside}/by-going-up", data=b"x"),
    ]
    path = oci_archive(tmp_path / "image.tar", [*shell, *members])
    said = await ran(podman, path, f"ls {outside}")
    assert list(outside.iterdir()) == []
    assert set(said.split()) == {"through-a-link", "by-its-path", "by-going-up"}


async def test_device_nodes_of_an_image_open_nothing(podman, shell, tmp_path: Path) -> None:
    nodes = [
        member("disk", tarfile.BLKTYPE, devmajor=254, mode=0o666),
        member("log", tarfile.CHRTYPE, devmajor=1, devminor=11, mode=0o666),
        member("memory", tarfile.CHRTYPE, devmajor=1, devminor=1, mode=0o666),
    ]
    path = oci_archive(tmp_path / "image.tar", [*shell, *nodes])
    said = await ran(podman, path, "for node in disk log memory; do head -c 1 /$node 2>&1 || echo shut; done")
    assert said.count("shut") == 3, said


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_a_layer_is_what_it_is_meant_to_be_however_it_is_packed(shell, tmp_path: Path, pack) -> None:
    verify(ImageKind.OCI_ARCHIVE, oci_archive(tmp_path / "image.tar", shell, pack=pack))


def test_members_of_gzip_in_a_row_are_one_layer(shell, tmp_path: Path) -> None:
    def pack(data: bytes) -> bytes:
        return gzip.compress(data[:1000]) + gzip.compress(data[1000:])

    verify(ImageKind.OCI_ARCHIVE, oci_archive(tmp_path / "image.tar", shell, pack=pack))


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_packed_layer_of_another_content_is_refused(shell, tmp_path: Path, pack) -> None:
    path = oci_archive(tmp_path / "image.tar", shell, pack=lambda data: pack(data[:-1] + b"x"))
    with pytest.raises(Rejected, match="is not the one that its configuration names"):
        verify(ImageKind.OCI_ARCHIVE, path)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_layer_that_cannot_be_unpacked_is_refused(shell, tmp_path: Path, pack) -> None:
    path = oci_archive(tmp_path / "image.tar", shell, pack=lambda data: pack(data)[:-200] + b"\xff" * 200)
    with pytest.raises(Rejected, match="is damaged"):
        verify(ImageKind.OCI_ARCHIVE, path)


def test_a_docker_archive_is_held_to_its_layers_too(busybox_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    write_docker_archive(busybox_root, path, ImageConfig())
    verify(ImageKind.DOCKER_ARCHIVE, path)
    spoilt(path)
    with pytest.raises(Rejected, match="is not the one that its configuration names"):
        verify(ImageKind.DOCKER_ARCHIVE, path)
