"""Every kind of image through the Podman runtime, and files that are none."""

import json
import tarfile
from pathlib import Path

import pytest

from images.archive import ImageConfig, host_architecture, write_docker_archive, write_oci_archive, write_oci_layout
from runtimes.contract import Image, ImageKind, Network, Rejected, Spec, State
from runtimes.podman import Podman

WRITERS = {
    ImageKind.OCI_ARCHIVE: write_oci_archive,
    ImageKind.OCI_LAYOUT: write_oci_layout,
    ImageKind.DOCKER_ARCHIVE: write_docker_archive,
}


def machine(image: Image, **changes: object) -> Spec:
    fields = {
        "id": "image-test",
        "owner": "run:0",
        "space": "test.invalid",
        "machinetype": "image",
        "image": image,
        "entrypoint": ("/bin/sh", "-c"),
        "args": ("cat /proc/self/uid_map; ls /etc; ip -6 route 2>/dev/null",),
        "network": Network.NONE,
    }
    return Spec(**(fields | changes))


async def run(runtime: Podman, spec: Spec) -> str:
    await runtime.create(spec)
    try:
        return b"".join([chunk.data async for chunk in runtime.console(spec.id, follow=True)]).decode()
    finally:
        await runtime.destroy(spec.id)


@pytest.mark.parametrize("kind", WRITERS, ids=str)
async def test_an_image_in_each_form_is_loaded_once_and_runs(podman, busybox_root: Path, tmp_path: Path, kind) -> None:
    path = tmp_path / "image"
    image_id = WRITERS[kind](busybox_root, path, ImageConfig(labels={"form": str(kind)}))
    runtime = Podman(podman.settings)
    try:
        image = Image(kind=kind, location=str(path))
        assert await runtime.ensure(image) == image_id
        seen = await runtime.create(machine(image))
        assert seen.image_digest == image_id
        await runtime.destroy(seen.id)
        assert "65536" in await run(runtime, machine(image))
    finally:
        await runtime.aclose()


async def test_an_image_that_podman_does_not_have_is_loaded_by_create(podman, busybox_root, tmp_path) -> None:
    write_oci_archive(busybox_root, tmp_path / "image", ImageConfig(labels={"only": "here"}))
    runtime = Podman(podman.settings)
    try:
        assert "passwd" in await run(runtime, machine(Image(kind=ImageKind.OCI_ARCHIVE, location=f"{tmp_path}/image")))
    finally:
        await runtime.aclose()


def _tar_of(path: Path, **files: bytes) -> None:
    (path.parent / "parts").mkdir()
    with tarfile.open(path, "w") as archive:
        for number, (name, content) in enumerate(files.items()):
            part = path.parent / "parts" / str(number)
            part.write_bytes(content)
            archive.add(part, arcname=name.replace("__", ".").replace("_", "/"))


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        (ImageKind.OCI_ARCHIVE, {}),
        (ImageKind.OCI_ARCHIVE, {"index__json": b"{}"}),
        (ImageKind.OCI_ARCHIVE, {"index__json": json.dumps({"manifests": [{"digest": "sha256:../../x"}]}).encode()}),
        (ImageKind.OCI_ARCHIVE, {"index__json": b"[" * 100_000}),
        (ImageKind.DOCKER_ARCHIVE, {"manifest__json": b'[{"Config": "../../etc/passwd"}]'}),
        (ImageKind.DOCKER_ARCHIVE, {"manifest__json": b"[{}, {}]"}),
    ],
)
async def test_a_file_that_is_no_image_is_rejected_before_anything_is_made(podman, tmp_path, kind, files) -> None:
    path = tmp_path / "image.tar"
    _tar_of(path, **files)
    runtime = Podman(podman.settings)
    try:
        with pytest.raises(Rejected, match=r"image\.tar"):
            await runtime.create(machine(Image(kind=kind, location=str(path))))
        assert list(await runtime.machines()) == []
    finally:
        await runtime.aclose()


async def test_a_root_directory_that_lacks_what_podman_needs_is_rejected_by_name(podman, tmp_path: Path) -> None:
    (tmp_path / "root/etc").mkdir(parents=True)
    runtime = Podman(podman.settings)
    try:
        with pytest.raises(Rejected, match=r"lacks /etc/hosts, /etc/hostname"):
            await runtime.create(machine(Image(kind=ImageKind.ROOT_DIRECTORY, location=str(tmp_path / "root"))))
    finally:
        await runtime.aclose()


async def test_a_bridged_machine_has_ipv4_and_where_the_host_has_it_ipv6(podman, podman_image: Image) -> None:
    from runtimes.containers.network import has_ipv6

    runtime = Podman(podman.settings)
    try:
        said = await run(runtime, machine(podman_image, network=Network.BRIDGE, args=("ip route; ip -6 route",)))
        assert "default via 10." in said
        if has_ipv6(Path("/proc/net/if_inet6").read_text()):
            assert "default via fd" in said
    finally:
        await runtime.aclose()


async def test_a_named_capability_and_a_device_are_given_and_no_other(podman, podman_image: Image) -> None:
    runtime = Podman(podman.settings)
    script = "grep CapEff /proc/self/status; ls -l /dev/loop-control 2>&1; chown 5:5 /etc/passwd && echo chowned"
    try:
        spec = machine(podman_image, args=(script,), capabilities=frozenset({"CHOWN"}), devices=("/dev/loop-control",))
        said = await run(runtime, spec)
        assert "CapEff:\t0000000000000001" in said
        assert "10, 237" in said
        assert "chowned" in said
    finally:
        await runtime.aclose()


async def test_an_architecture_that_this_host_has_not_is_refused(podman, podman_image: Image) -> None:
    runtime = Podman(podman.settings)
    try:
        assert (await runtime.probe()).capabilities.architectures == {host_architecture()}
        with pytest.raises(Rejected, match="architecture s390x"):
            await runtime.create(machine(podman_image, architecture="s390x"))
    finally:
        await runtime.aclose()


async def test_a_machine_that_runs_is_shown_running_with_its_own_ids_and_limits(podman, podman_image: Image) -> None:
    runtime = Podman(podman.settings)
    try:
        seen = await runtime.create(machine(podman_image, args=("sleep 30",)))
        assert (seen.state, seen.first_uid > 65535) == (State.RUNNING, True)
        assert Path(f"/proc/{seen.pid}/uid_map").read_text().split() == ["0", str(seen.first_uid), "65536"]
        await runtime.destroy(seen.id)
    finally:
        await runtime.aclose()


async def test_a_machine_outlives_its_archive_and_a_second_create_finds_it(podman, busybox_root, tmp_path) -> None:
    path = tmp_path / "image.tar"
    write_oci_archive(busybox_root, path, ImageConfig())
    runtime = Podman(podman.settings)
    spec = machine(Image(kind=ImageKind.OCI_ARCHIVE, location=str(path)), args=("sleep 30",))
    try:
        first = await runtime.create(spec)
        path.unlink()
        assert (await runtime.create(spec)).pid == first.pid
    finally:
        await runtime.destroy(spec.id)
        await runtime.aclose()
