"""The second test bed: a virtual machine with systemd and control groups v2, in which the container suites run.

    python tests/in_vm.py [--processors 2] [--memory 4096] [--tests PATH…] [--record docs/test-in-vm.md]

Builds a disk like images/debian-vm that holds the engines' packages, this checkout and wheels of all that it needs,
boots it under QEMU (accelerated where that works), installs lmd in it as on a site (a virtual environment, no network),
runs `lm doctor` and the suites, and prints what they said; `--record` writes the result with date and versions. Needs
root, QEMU, and a mirror for the packages. In emulation it takes hours: name fewer tests.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from images.bootable import DISK
from images.builder import build
from images.recipe import find_recipe, load
from lmd.environment.seed import Seed, write

ROOT = Path(__file__).parents[1]
PACKAGES = (
    *("podman", "crun", "runc", "uidmap", "slirp4netns", "fuse-overlayfs", "netavark", "aardvark-dns", "iptables"),
    *("nftables", "docker.io", "busybox-static", "mmdebstrap", "skopeo", "fuse3", "python3-venv", "libfuse3-3", "dash"),
    *("util-linux", "procps", "libarchive-tools"),
)
SUITES = ("tests/runtimes/test_contract_on_podman.py", "tests/runtimes/test_contract_on_docker.py", "tests/lmd/cli")
BEGIN, END = "LMD-IN-VM-BEGIN", "LMD-IN-VM-END"
GUEST = """#!/bin/bash
exec >/dev/ttyS0 2>&1
stty -F /dev/ttyS0 -opost
echo {begin}
mkdir /opt/lmd && tar -xJf /opt/source.tar.xz -C /opt/lmd && tar -xJf /opt/wheels.tar.xz -C /opt
python3 -m venv /opt/venv
/opt/venv/bin/pip install -q --no-index --find-links /opt/wheels 'lmd[cvmfs,dev]'
. /etc/os-release
echo "versions: $PRETTY_NAME, Linux $(uname -r), systemd $(systemctl --version | awk 'NR==1{{print $2}}')," \\
    "$(podman --version), $(docker --version | cut -d, -f1), $(findmnt -n -o FSTYPE /sys/fs/cgroup)"
cd /opt/lmd
/opt/venv/bin/lm doctor
/opt/venv/bin/python -m pytest -q -p no:cacheprovider --timeout 1800 {tests}
echo "result: $?"
echo {end}
systemctl poweroff
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processors", type=int, default=2)
    parser.add_argument("--memory", type=int, default=4096, metavar="MIB")
    parser.add_argument("--tests", nargs="+", default=list(SUITES))
    parser.add_argument("--seconds", type=int, default=6 * 3600)
    parser.add_argument("--acceleration", choices=["kvm", "tcg"], default="tcg")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--disk", type=Path, help="a disk that was kept; made and kept here where there is none")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lmd-in-vm.", dir="/var/tmp") as scratch:
        home = Path(scratch)
        disk = asked.disk or home / DISK
        if not disk.exists():
            make_disk(home, disk)
        said = boot(home, disk, asked)
    return report(said, asked)


def make_disk(home: Path, disk: Path) -> None:
    """A disk like the cloud image's, with the engines, this checkout and the wheels."""
    folder = home / "test-bed"
    folder.mkdir()
    wheels = home / "wheels"
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--wheel-dir", str(wheels), f"{ROOT}[cvmfs,dev]"]
    subprocess.run(command, check=True)
    subprocess.run(["tar", "-cJf", folder / "wheels.tar.xz", "-C", home, "wheels"], check=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    pack = ["tar", "-cJf", folder / "source.tar.xz", "--null", "--files-from=-", "-C", ROOT]
    subprocess.run(pack, input=listed, cwd=ROOT, check=True)
    settings = find_recipe("debian-vm").settings
    packages = ", ".join(f'"{name}"' for name in sorted({*settings.packages, *PACKAGES}))
    cloud = settings.files["/etc/cloud/cloud.cfg.d/90-lmd.cfg"].text or ""
    (folder / "recipe.toml").write_text(
        f'description = "the second test bed"\nkind = "vm"\nsuite = "{settings.suite}"\npackages = [{packages}]\n'
        f'[files."/etc/cloud/cloud.cfg.d/90-lmd.cfg"]\ntext = """{cloud}"""\n'
        '[files."/opt/source.tar.xz"]\nsource = "source.tar.xz"\n'
        '[files."/opt/wheels.tar.xz"]\nsource = "wheels.tar.xz"\n'
    )
    build(load(folder), home / "image.tar", int(time.time()), progress=lambda step: print(step, flush=True))
    shutil.move(home / DISK, disk)


def boot(home: Path, disk: Path, asked: argparse.Namespace) -> str:
    """Boot, wait until it has switched itself off, and give what its console said."""
    script = GUEST.format(begin=BEGIN, end=END, tests=" ".join(asked.tests))
    write(home / "seed.iso", Seed(instance_id=str(time.time()), hostname="test-bed", user_data=script.encode()))
    overlay, console = home / "overlay.qcow2", home / "console"
    backing = ["-b", str(disk.absolute()), "-F", "qcow2", str(overlay), "30G"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing], check=True)
    command = ["qemu-system-x86_64", "-machine", "q35", "-accel", asked.acceleration]
    command += [
        "-cpu",
        "host" if asked.acceleration == "kvm" else "max",
        "-nographic",
        "-no-reboot",
        "-monitor",
        "none",
    ]
    command += ["-smp", str(asked.processors), "-m", str(asked.memory)]
    command += ["-serial", f"file:{console}", "-monitor", "none"]
    command += ["-drive", f"file={overlay},if=virtio,discard=unmap", "-device", "virtio-scsi-pci"]
    command += [
        "-drive",
        f"file={home / 'seed.iso'},if=none,id=cd,format=raw,readonly=on",
        "-device",
        "scsi-cd,drive=cd",
    ]
    command += ["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n", "-device", "virtio-rng-pci"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    last, shown = time.monotonic() + asked.seconds, 0
    try:
        while process.poll() is None and time.monotonic() < last:
            time.sleep(1)
            text = console.read_text(errors="replace") if console.exists() else ""
            print(text[shown:], end="", flush=True)
            shown = len(text)
    finally:
        process.kill()
        process.wait()
    return console.read_text(errors="replace")


def report(said: str, asked: argparse.Namespace) -> int:
    """Print and record; 0 if the suites passed."""
    found = re.search(rf"^{BEGIN}\r?$(.*?)^{END}", said, re.DOTALL | re.MULTILINE)
    text = found[1].replace("\r", "") if found else ""
    result = re.search(r"^result: (\d+)$", text, re.MULTILINE)
    versions = re.search(r"^versions: (.*)$", text, re.MULTILINE)
    counts = re.findall(r"^.*\b\d+ (?:passed|failed).* in .*$", text, re.MULTILINE)
    failed = re.findall(r"^(?:FAILED|ERROR) .*$", text, re.MULTILINE)
    if asked.record:
        lines = [
            "# The suites in a virtual machine with systemd and control groups of version 2",
            "",
            f"Written by `make test-in-vm` on {time.strftime('%Y-%m-%d')} ({asked.acceleration}).",
            "",
            f"- {versions[1] if versions else 'the machine did not come as far as saying its versions'}",
            f"- {' '.join(asked.tests)}",
            f"- {counts[-1].strip('= ') if counts else 'no result: it did not come to its end in time'}",
            *(f"- {line}" for line in failed[:50]),
        ]
        asked.record.write_text("\n".join(lines) + "\n")
    return int(result[1]) if result else 3


if __name__ == "__main__":
    sys.exit(main())
