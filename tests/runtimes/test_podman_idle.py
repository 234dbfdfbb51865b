"""`idle` machines have the lowest weight that the kernel knows, as it says itself."""

from pathlib import Path

from runtimes import cgroups
from runtimes.contract import Image, Limits, Network, Spec
from runtimes.podman import Podman


def weight(pid: int, where: cgroups.Mounts) -> tuple[str, str]:
    """Shares or weight, and `cpu.idle` where the kernel has it."""
    at = cgroups.directories(pid, where)
    group = at.get("cpu", at.get("", Path("/")))
    share = group / ("cpu.shares" if "cpu" in at else "cpu.weight")
    idle = group / "cpu.idle"
    return share.read_text().strip(), idle.read_text().strip() if idle.exists() else ""


async def test_an_idle_machine_has_the_lowest_weight_and_an_ordinary_one_has_not(podman, podman_image: Image) -> None:
    runtime = Podman(podman.settings)
    found = {}
    try:
        for idle in (True, False):
            spec = Spec(
                id=f"weight-{idle}".lower(),
                owner="run:0",
                space="test.invalid",
                machinetype="weight",
                image=podman_image,
                entrypoint=("/bin/sleep", "60"),
                limits=Limits(processors=1),
                network=Network.NONE,
                idle=idle,
            )
            seen = await runtime.create(spec)
            try:
                assert seen.pid is not None
                found[idle] = weight(seen.pid, cgroups.mounts())
                assert seen.processors == 1
            finally:
                await runtime.destroy(spec.id)
    finally:
        await runtime.aclose()
    assert int(found[True][0]) < int(found[False][0]) / 20
    assert found[True][1] == "1" or int(found[True][0]) <= 2  # runc 1.1 knows weights only
    assert found[False][1] in ("0", "")


def test_cpu_idle_is_asked_of_kernels_that_know_it() -> None:
    assert [cgroups.weigh(release) for release in ("6.18.44-x", "5.15.0", "5.14.0-427.el9", "4.18", "odd")] == [
        *("idle", "idle"),
        *("shares", "shares", "shares"),
    ]
