"""Every kind of image through the Docker runtime, a registry that misbehaves, and images that cannot be used."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from local_registry import Registry

from images.archive import ImageConfig, write_docker_archive, write_oci_archive, write_oci_layout
from runtimes.containers.names import LOADED, PULLED
from runtimes.contract import Image, ImageKind, Rejected, Unavailable
from runtimes.docker import Docker

WRITERS = {
    ImageKind.OCI_ARCHIVE: write_oci_archive,
    ImageKind.OCI_LAYOUT: write_oci_layout,
    ImageKind.DOCKER_ARCHIVE: write_docker_archive,
}


@pytest.fixture(scope="module")
def engine(private_docker) -> Iterator[object]:
    with private_docker("images") as made:
        yield made


@pytest.fixture
async def runtime(engine) -> AsyncIterator[Docker]:
    made = Docker(engine.settings)
    yield made
    for name in await made.images():
        await made.remove_image(name)
    assert await made.images() == {}
    await made.aclose()


@pytest.fixture(scope="module")
def registry(engine, busybox_root: Path, tmp_path_factory) -> Iterator[Registry]:
    """At the daemon's own 127.0.0.1, which Docker speaks with without TLS."""
    layout = tmp_path_factory.mktemp("registry") / "layout"
    write_oci_layout(busybox_root, layout, ImageConfig(labels={"from": "registry"}))
    made = Registry(layout, engine.listener())
    yield made
    made.close()


def at(registry: Registry, end: str, **changes: str) -> Image:
    return Image(kind=ImageKind.REFERENCE, location=f"docker://{registry.name}{end}", **changes)


@pytest.mark.parametrize("kind", WRITERS, ids=str)
async def test_an_archive_of_each_form_is_loaded_once_under_our_name_alone(
    engine, runtime: Docker, busybox_root: Path, tmp_path: Path, kind: ImageKind
) -> None:
    path = tmp_path / "image: with a colon"
    image_id = WRITERS[kind](busybox_root, path, ImageConfig(labels={"form": str(kind)}))
    both = Docker(engine.settings)
    try:
        image = Image(kind=kind, location=str(path))
        assert set(await asyncio.gather(runtime.ensure(image), both.ensure(image))) == {image_id}
    finally:
        await both.aclose()
    assert list(await runtime.images()) == [f"{LOADED}:{image_id[7:19]}"]
    listed = await asyncio.to_thread(engine.ask, "GET", "/images/json")
    assert [found["RepoTags"] for found in listed] == [[f"{LOADED}:{image_id[7:19]}"]]


async def test_a_name_that_an_archive_brings_along_stays_with_whom_it_belonged_to(
    engine, runtime: Docker, busybox_root: Path, tmp_path: Path
) -> None:
    theirs = await asyncio.to_thread(engine.import_image, busybox_root, "localhost/theirs:1")
    before = await asyncio.to_thread(engine.ask, "GET", f"/images/{theirs.location}/json")
    path = tmp_path / "image"
    write_docker_archive(busybox_root, path, ImageConfig(reference=theirs.location))
    await runtime.ensure(Image(kind=ImageKind.DOCKER_ARCHIVE, location=str(path)))
    after = await asyncio.to_thread(engine.ask, "GET", f"/images/{theirs.location}/json")
    assert after["Id"] == before["Id"]
    await asyncio.to_thread(engine.ask, "DELETE", f"/images/{theirs.location}")


async def test_an_image_for_another_architecture_is_refused_however_it_comes(
    engine, runtime: Docker, busybox_root: Path, tmp_path: Path
) -> None:
    path = tmp_path / "image"
    write_oci_archive(busybox_root, path, ImageConfig(architecture="s390x"))
    with pytest.raises(Rejected, match="s390x"):
        await runtime.ensure(Image(kind=ImageKind.OCI_ARCHIVE, location=str(path)))
    write_docker_archive(
        busybox_root, tmp_path / "foreign", ImageConfig(architecture="s390x", reference="localhost/f:1")
    )
    made = tmp_path / "foreign"
    await asyncio.to_thread(engine.load, made)
    with pytest.raises(Rejected, match="s390x"):
        await runtime.ensure(Image(kind=ImageKind.REFERENCE, location="localhost/f:1", pull="never"))
    await asyncio.to_thread(engine.ask, "DELETE", "/images/localhost/f:1")


async def test_an_image_is_pulled_once_whoever_asks_together_and_marked_as_ours(
    engine, runtime: Docker, registry: Registry
) -> None:
    registry.pulls = 0
    both = Docker(engine.settings)
    try:
        got = await asyncio.gather(*(one.ensure(at(registry, ":1")) for one in (runtime, both, both)))
    finally:
        await both.aclose()
    assert set(got) == {registry.image_id}
    asked_by_one = registry.pulls
    assert await runtime.ensure(at(registry, ":1")) == registry.image_id
    assert registry.pulls == asked_by_one <= 3  # one pull asks for the manifest by its tag, then by its digest
    assert list(await runtime.images()) == [f"{PULLED}:{registry.image_id[7:19]}"]


async def test_a_pinned_digest_is_held_to_and_a_registry_that_lies_is_found_out(
    runtime: Docker, registry: Registry, busybox_root: Path, tmp_path: Path
) -> None:
    assert await runtime.ensure(at(registry, f"@{registry.digest}")) == registry.image_id
    for name in await runtime.images():
        await runtime.remove_image(name)
    for fault in ("lies", "spoils", "refuses"):
        # Each time another image: Docker remembers a manifest by its digest for a while after its image has gone.
        write_oci_layout(busybox_root, tmp_path / fault, ImageConfig(labels={"fault": fault}))
        digest = registry.add(tmp_path / fault)
        registry.fault = fault
        try:
            with pytest.raises((Rejected, Unavailable), match="docker could not pull"):
                await runtime.ensure(at(registry, f"@{digest}", pull="always"))
        finally:
            registry.fault = ""
        assert await runtime.images() == {}


async def test_who_gives_up_on_a_registry_that_hangs_leaves_nothing(runtime: Docker, registry: Registry) -> None:
    registry.fault = "hangs"
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(runtime.ensure(at(registry, ":2", pull="always")), 1)
    finally:
        registry.fault = ""
        registry.over.set()
    registry.over.clear()
    assert await runtime.images() == {}


async def test_files_that_are_no_images_are_rejected_by_name(runtime: Docker, tmp_path: Path) -> None:
    for kind, content in ((ImageKind.OCI_ARCHIVE, b"none"), (ImageKind.DOCKER_ARCHIVE, json.dumps([]).encode())):
        path = tmp_path / f"{kind}.tar"
        path.write_bytes(content)
        with pytest.raises(Rejected, match=path.name):
            await runtime.ensure(Image(kind=kind, location=str(path)))
    with pytest.raises(Rejected, match="in place"):
        await runtime.ensure(Image(kind=ImageKind.ROOT_DIRECTORY, location=str(tmp_path)))
    with pytest.raises(Rejected, match="not an image's name"):
        await runtime.ensure(Image(kind=ImageKind.REFERENCE, location="a b", pull="never"))


async def test_an_image_that_is_not_ours_or_is_in_use_is_not_removed(
    engine, runtime: Docker, busybox_root: Path, tmp_path: Path
) -> None:
    with pytest.raises(Rejected, match="left alone"):
        await runtime.remove_image("localhost/theirs:1")
    write_oci_archive(busybox_root, tmp_path / "image", ImageConfig(labels={"in": "use"}))
    image_id = await runtime.ensure(Image(kind=ImageKind.OCI_ARCHIVE, location=f"{tmp_path}/image"))
    body = {"Image": image_id, "Cmd": ["true"]}
    await asyncio.to_thread(engine.ask, "POST", "/containers/create", params={"name": "user"}, body=body)
    [name] = await runtime.images()
    with pytest.raises(Rejected, match="in use by 1"):
        await runtime.remove_image(name)
    await asyncio.to_thread(engine.ask, "DELETE", "/containers/user")
    await runtime.remove_image(name)
    await runtime.remove_image(name)
