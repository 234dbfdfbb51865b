"""Virtual machines: our runtime beside virsh doing the same, and beside a container of Podman, in one run.

    python bench/kvm.py [--rounds 10] [--json]

Three figures. From the create call to a running machine, beside `virsh create` of the very same document (the machine's
files made before, untimed). From the create call to the payload's first line on the console, as virtual machine and as
container. The memory of QEMU and what a machine costs beside it (virtiofsd). Needs root; libvirt and Podman are private
ones in a temporary directory, and machines are emulated where KVM does not work.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from images.archive import ImageConfig, write_oci_archive
from images.builder import chosen_epoch
from images.cache import default_directory, ensure
from images.kit import kit_beside
from images.recipe import find_recipe
from runtimes.contract import Boot, Image, ImageKind, Logs, Network, Runtime, Settings, Spec
from runtimes.kvm import Kvm
from runtimes.podman import Podman

DAEMON = Path(__file__).parents[1] / "tests/engines/libvirt_daemon.py"
UNSHARE = ("unshare", "--mount", "--propagation=slave", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")


@contextmanager
def private_libvirt(directory: Path) -> Iterator[Settings]:
    directory.mkdir()
    command = [*UNSHARE, sys.executable, str(DAEMON), str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout and daemon.stdout.readline() == "ready\n"
        options = {
            "uri": f"qemu:///system?socket={directory}/run/libvirt-sock",
            "log_dir": str(directory / "log/qemu"),
        }
        yield Settings(state_dir=directory / "state", run_dir=directory, cache_dir=directory, options=options)
        daemon.communicate()


def busybox(directory: Path) -> Path:
    root = directory / "root"
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "run"):
        (root / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
    for name in ("sh", "sleep", "echo"):
        (root / "bin" / name).symlink_to("busybox")
    return root


def spec(name: str, image: Image, boot: Boot | None) -> Spec:
    return Spec(
        id=name,
        owner="run:bench",
        space="bench.invalid",
        machinetype="bench",
        image=image,
        entrypoint=("/bin/sh", "-c"),
        args=("echo first; sleep 1000",),
        network=Network.NONE,
        boot=boot,
    )


async def timed_create(runtime: Runtime, wanted: Spec) -> float:
    began = time.perf_counter()
    await runtime.create(wanted)
    return time.perf_counter() - began


async def timed_first_line(runtime: Runtime, wanted: Spec) -> float:
    assert isinstance(runtime, Logs)
    began = time.perf_counter()
    await runtime.create(wanted)
    async for chunk in runtime.console(wanted.id, follow=True):
        if b"first" in chunk.data:
            break
    return time.perf_counter() - began


async def by_virsh(runtime: Kvm, wanted: Spec, document: Path) -> float:
    """The machine is made by the runtime, to have its files and its document; then switched off and made by virsh."""
    uri = runtime.settings.options["uri"]
    await runtime.create(wanted)
    said = await asyncio.to_thread(virsh, uri, "dumpxml", "--inactive", wanted.id)
    document.write_text(said)
    await asyncio.to_thread(virsh, uri, "destroy", wanted.id)
    await asyncio.to_thread(virsh, uri, "undefine", wanted.id)
    began = time.perf_counter()
    await asyncio.to_thread(virsh, uri, "create", str(document))
    return time.perf_counter() - began


def virsh(uri: str, *words: str) -> str:
    return subprocess.run(["virsh", "--connect", uri, *words], check=True, capture_output=True, text=True).stdout


def memory(name: str) -> tuple[int, int]:
    """Proportional set sizes in KiB: of the machine's QEMU, and of all else that runs for it."""
    sizes = [0, 0]
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (path / "cmdline").read_bytes()
            if name.encode() in words and path.name != str(os.getpid()):
                rollup = (path / "smaps_rollup").read_text().split("Pss:")[1].split()[0]
                sizes[b"virtiofsd" in words.split(b"\0")[0]] += int(rollup)
    return sizes[0], sizes[1]


async def measure(settings: Settings, directory: Path, rounds: int) -> dict[str, list[float]]:
    epoch = chosen_epoch(os.environ, time.time())
    kit = kit_beside(ensure(default_directory(os.environ, os.geteuid()), find_recipe("micro"), epoch).path)
    assert kit
    boot, root = Boot(kernel=kit.kernel, initramfs=kit.initramfs), busybox(directory)
    write_oci_archive(root, directory / "image.tar", ImageConfig())
    store = {name: str(directory / name) for name in ("store", "runroot", "tmpdir", "network_config_dir")}
    options = {"root": store["store"], **{k: v for k, v in store.items() if k != "store"}}
    podman = Podman(replace(settings, run_dir=directory / "podman", options=options))
    kvm = Kvm(settings)
    found: dict[str, list[float]] = {
        name: [] for name in ("create", "virsh create", "first line, vm", "first line, container", "QEMU", "beside")
    }
    vm = spec("bench-vm", Image(kind=ImageKind.ROOT_DIRECTORY, location=str(root)), boot)
    container = spec("bench-c", Image(kind=ImageKind.OCI_ARCHIVE, location=str(directory / "image.tar")), None)
    try:
        await kvm.probe()
        await podman.probe()
        await podman.ensure(container.image)
        for number in range(rounds + 1):
            kept = found if number else {name: [] for name in found}  # the first round warms the caches
            for kind in ("create", "virsh create") if number % 2 else ("virsh create", "create"):
                wanted = replace(vm, space=kind)
                timing = timed_create(kvm, wanted) if kind == "create" else by_virsh(kvm, wanted, directory / "vm.xml")
                kept[kind].append(await timing)
                await kvm.destroy(vm.id)
            kept["first line, vm"].append(await timed_first_line(kvm, vm))
            qemu, beside = await asyncio.to_thread(memory, vm.id)
            kept["QEMU"].append(qemu / 1024)
            kept["beside"].append(beside / 1024)
            await kvm.destroy(vm.id)
            kept["first line, container"].append(await timed_first_line(podman, container))
            await podman.destroy(container.id)
    finally:
        for runtime, name in ((kvm, vm.id), (podman, container.id)):
            await runtime.destroy(name)
            await runtime.aclose()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="lmd-b."))
    try:
        with private_libvirt(directory / "v") as settings:
            figures = asyncio.run(measure(settings, directory, chosen.rounds))
    finally:
        subprocess.run(["pkill", "-KILL", "-f", f"podman.*{directory}"], check=False)
        subprocess.run(["umount", "-q", directory / "store/overlay"], check=False)
        shutil.rmtree(directory, ignore_errors=True)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    above = 1000 * (medians["create"] - medians["virsh create"])
    ratio = medians["create"] / medians["virsh create"]
    if chosen.json:
        print(json.dumps({"rounds": chosen.rounds, "medians": medians, "ratio": ratio, "above_ms": above}))
        return
    for name, values in figures.items():
        unit, scale = ("MiB", 1) if name in ("QEMU", "beside") else ("ms", 1000)
        low, high = min(values) * scale, max(values) * scale
        print(f"{name:<22} median {medians[name] * scale:7.1f} {unit}   ({low:.1f} to {high:.1f}, n={len(values)})")
    print(f"create / virsh create: {ratio:.2f}, {above:+.0f} ms")


if __name__ == "__main__":
    main()
