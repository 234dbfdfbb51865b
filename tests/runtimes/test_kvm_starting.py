"""A virtual machine that is being started is not one that has ended, whoever looks, and when."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtimes.contract import EndReason, Image, ImageKind, Limits, Network, Spec, State
from runtimes.kvm import Kvm
from runtimes.kvm.place import Place

SECONDS = 300


@pytest.fixture
async def kvm(libvirt_engine) -> AsyncIterator[Kvm]:
    runtime = Kvm(libvirt_engine.settings)
    try:
        yield runtime
        await runtime.destroy("lmt-starting")
    finally:
        await runtime.aclose()


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    """A machine whose boot sector switches it off at once."""
    tmp_path.chmod(0o755)
    disk = tmp_path / "off.raw"
    disk.write_bytes(
        b"\xfa\xba\x04\x06\xb8\x00\x20\xef\xf4\xeb\xfd".ljust(510, b"\0") + b"\x55\xaa" + bytes(2**20 - 512)
    )
    return Spec(
        id="lmt-starting",
        owner="run:0",
        space="vac.example.org",
        machinetype="test",
        image=Image(kind=ImageKind.DISK_RAW, location=str(disk)),
        limits=Limits(memory_bytes=64 * 2**20),
        network=Network.NONE,
    )


@pytest.mark.timeout(2 * SECONDS)
async def test_who_looks_while_libvirt_starts_it_sees_no_end_and_writes_none_down(kvm: Kvm, spec: Spec) -> None:
    """QEMU's log says that it starts while libvirt still has the domain as off."""
    making = asyncio.create_task(kvm.create(spec))
    looks = 0
    place = Place(kvm.root, spec.id)
    while not making.done():
        for seen in await kvm.machines():
            if seen.id == spec.id and place.started() is None:
                looks += 1
                assert seen.state is not State.EXITED, seen.end
    await making
    assert looks > 3
    async with asyncio.timeout(SECONDS):
        while (seen := (await kvm.machines())[0]).state is not State.EXITED:
            await asyncio.sleep(0.1)
    assert seen.end is not None
    assert seen.end.reason is EndReason.CLEAN
