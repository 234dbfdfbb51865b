"""Docker stopped, killed, hung, out of disk, with others' containers: here, gone and cannot tell are kept apart."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath

import pytest

from images.archive import ImageConfig, write_oci_archive
from runtimes.contract import (
    EndReason,
    Exhausted,
    Health,
    Image,
    ImageKind,
    Mount,
    Network,
    Rejected,
    Spec,
    State,
    Unavailable,
)
from runtimes.docker import Docker

POLITE = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"


@pytest.fixture(scope="module")
def troubled(private_docker) -> Iterator[object]:
    with private_docker("troubled") as engine:
        engine.options["ping_seconds"] = "1"
        yield engine


@pytest.fixture(scope="module")
def image(troubled, busybox_root: Path) -> Image:
    return troubled.import_image(busybox_root, "localhost/lmd-test/busybox:1")


def machine(name: str, image: Image, script: str = POLITE, **changes: object) -> Spec:
    fields = {"id": name, "owner": "run:0", "space": "test.invalid", "machinetype": "trouble", "image": image}
    fields |= {"entrypoint": ("/bin/sh", "-c"), "args": (script,), "network": Network.NONE}
    return Spec(**(fields | changes))


@asynccontextmanager
async def runtime_on(engine) -> AsyncIterator[Docker]:
    runtime = Docker(engine.settings)
    try:
        yield runtime
    finally:
        await runtime.aclose()


async def states(runtime: Docker) -> dict[str, State]:
    return {seen.id: seen.state for seen in await runtime.machines()}


async def test_a_daemon_that_is_stopped_cannot_tell_and_tells_all_when_it_is_back(troubled, image: Image) -> None:
    async with runtime_on(troubled) as runtime:
        await runtime.create(machine("stopped", image))
        troubled.stop()
        try:
            for ask in (runtime.machines, runtime.usage, lambda: runtime.destroy("stopped")):
                with pytest.raises(Unavailable, match="docker"):
                    await ask()
            with pytest.raises(Unavailable):
                await runtime.create(machine("another", image))
            probe = await runtime.probe()
            assert (probe.health, "docker" in probe.reason) == (Health.UNHEALTHY, True)
        finally:
            troubled.start()
        [seen] = await runtime.machines()  # the same object, whose connections are of the old daemon
        assert (seen.id, seen.state) == ("stopped", State.EXITED)
        assert seen.end and seen.end.reason is EndReason.CLEAN
        await runtime.destroy("stopped")
        assert await states(runtime) == {}


async def test_a_daemon_that_is_killed_leaves_what_is_explained_and_destroyed(troubled, image: Image) -> None:
    async with runtime_on(troubled) as runtime:
        await runtime.create(machine("killed", image))
        troubled.kill()
        try:
            with pytest.raises(Unavailable):
                await runtime.machines()
        finally:
            troubled.start()
        assert set(await states(runtime)) == {"killed"}
        await runtime.destroy("killed")
        assert await states(runtime) == {}


async def test_a_daemon_that_hangs_cannot_tell_and_the_machine_goes_on(troubled, image: Image) -> None:
    async with runtime_on(troubled) as runtime:
        seen = await runtime.create(machine("hung", image))
        os.kill(troubled.process.pid, signal.SIGSTOP)
        try:
            began = asyncio.get_running_loop().time()
            for ask in (runtime.machines, lambda: runtime.stop("hung", grace=0)):
                with pytest.raises(Unavailable, match="did not answer"):
                    await ask()
            assert asyncio.get_running_loop().time() - began < 20
            assert Path(f"/proc/{seen.pid}").exists()
        finally:
            os.kill(troubled.process.pid, signal.SIGCONT)
        assert await states(runtime) == {"hung": State.RUNNING}
        await runtime.destroy("hung")


async def test_events_end_with_the_daemon_and_raise_nothing(troubled) -> None:
    async with runtime_on(troubled) as runtime:
        await runtime.machines()
        heard = asyncio.ensure_future(_all(runtime))
        await asyncio.sleep(0.3)
        troubled.stop()
        try:
            assert await asyncio.wait_for(heard, 10) == []
        finally:
            troubled.start()


async def _all(runtime: Docker) -> list[str]:
    return [name async for name in runtime.watch()]


async def test_an_id_that_another_container_s_id_begins_with_touches_nothing(troubled, image: Image) -> None:
    body = {"Image": image.location, "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}
    made = await asyncio.to_thread(troubled.ask, "POST", "/containers/create", params={"name": "theirs"}, body=body)
    await asyncio.to_thread(troubled.ask, "POST", "/containers/theirs/start")
    beginning = made["Id"][:6]
    async with runtime_on(troubled) as runtime:
        await runtime.stop(beginning, grace=0)
        await runtime.destroy(beginning)
        await runtime.create(machine(beginning, image))
        assert await states(runtime) == {beginning: State.RUNNING}
        await runtime.destroy(beginning)
        await runtime.destroy(beginning)
    found = await asyncio.to_thread(troubled.ask, "GET", "/containers/theirs/json")
    assert found["State"]["Running"]
    await asyncio.to_thread(troubled.ask, "DELETE", "/containers/theirs", params={"force": True})


async def test_a_full_disk_is_told_as_such_and_nothing_stays(private_docker, short_tmp, busybox_root) -> None:
    disk = short_tmp / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "lmd-test", disk], check=True)
    try:
        with private_docker("full", data=disk / "data") as engine:
            small = engine.import_image(busybox_root, "localhost/lmd-test/busybox:1")
            large = short_tmp / "large.tar"
            root = short_tmp / "large"
            shutil.copytree(busybox_root, root, symlinks=True)
            (root / "fill").write_bytes(os.urandom(40_000_000))
            write_oci_archive(root, large, ImageConfig())
            async with runtime_on(engine) as runtime:
                with pytest.raises(Exhausted, match="no space left"):
                    await runtime.create(machine("full", Image(kind=ImageKind.OCI_ARCHIVE, location=str(large))))
                assert (await states(runtime), await runtime.images()) == ({}, {})
                await runtime.create(machine("full", small))
                assert await states(runtime) == {"full": State.RUNNING}
                await runtime.destroy("full")
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("remapped", [False, True])
async def test_what_is_mounted_later_appears_and_a_private_source_is_refused_before(
    request: pytest.FixtureRequest, tmp_path: Path, remapped: bool
) -> None:
    engine = request.getfixturevalue("remapped_docker" if remapped else "docker")
    image = request.getfixturevalue("remapped_image" if remapped else "docker_image")
    source = engine.shared
    later = source / "later"
    later.mkdir()
    spec = machine("later", image, mounts=(Mount(source=source, target=PurePosixPath("/cvmfs"), propagate=True),))
    private = machine("private", image, mounts=(Mount(source=tmp_path, target=PurePosixPath("/c"), propagate=True),))
    async with runtime_on(engine) as runtime:
        with pytest.raises(Rejected, match=r"mount --bind .* && mount --make-rshared"):
            await runtime.create(private)
        assert await states(runtime) == {}
        try:
            await runtime.create(spec)
            subprocess.run(["mount", "-t", "tmpfs", "lmd-test", later], check=True)
            (later / "file").write_text("appeared")
            said = await runtime.execute("later", ["cat", "/cvmfs/later/file"])
            assert (said.exit_code, said.output) == (0, b"appeared")
        finally:
            await runtime.destroy("later")
            subprocess.run(["umount", "-l", later], check=False)
            later.rmdir()
