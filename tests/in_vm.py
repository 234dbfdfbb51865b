"""The second test bed: a virtual machine with systemd and control groups v2, in which the container suites run.

    python tests/in_vm.py [--processors 2] [--memory 4096] [--tests WORDS…] [--record docs/test-in-vm.md]

Builds a disk like images/debian-vm that holds the engines' packages (kept in the cache of images), boots it under QEMU
(accelerated where that works) with this checkout and wheels of all that it needs on a second disk, installs lmd in it
as on a site (a virtual environment, no network), runs `lm doctor` and the suites, and prints what they said; `--record`
writes the result with date and versions. Needs root, QEMU, and a mirror for the packages. In emulation all is 10 to 20
times slower than the host: `--slower` stretches what the suites wait for, `--tests` names fewer. `--results FILE` keeps
how each test ended: a run that was cut off is taken up where it was, and what has failed is run again.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from images.bootable import DISK
from images.cache import default_directory, ensure
from images.recipe import find_recipe, load

ROOT = Path(__file__).parents[1]
EPOCH = 1_795_000_000
PACKAGES = (
    *("podman", "crun", "runc", "uidmap", "slirp4netns", "fuse-overlayfs", "netavark", "aardvark-dns", "iptables"),
    *("nftables", "docker.io", "busybox-static", "skopeo", "fuse3", "python3-venv", "libfuse3-3", "dash"),
    *("util-linux", "procps", "libarchive-tools", "psmisc", "apparmor"),
)
SUITES = (
    "tests/runtimes/test_cgroups.py",
    "tests/runtimes/test_contract_on_podman.py",
    "tests/runtimes/test_contract_on_docker.py",
    "tests/lmd/cli/test_lm_run.py",
)
BEGIN, END = "LMD-IN-VM-BEGIN", "LMD-IN-VM-END"
UNIT = """[Unit]
Description=The suites
After=multi-user.target
[Service]
Type=exec
Environment=HOME=/root
StandardOutput=file:/dev/ttyS0
StandardError=file:/dev/ttyS0
# As under a login: the suites make machines in control groups of the engines' own.
ExecStart=/bin/bash -c 'tar -xf /dev/vdb -C /run guest && exec bash /run/guest'
[Install]
WantedBy=multi-user.target
"""
TOLD = "test-in-vm:"
TELL = f"""from pathlib import Path
def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        print(f"\\n{TOLD} {{report.outcome}} {{report.duration:.0f}} {{report.nodeid}}", flush=True)
    if report.failed:
        print(f"\\n{{str(report.longrepr)[-1500:]}}", flush=True)
def pytest_collection_modifyitems(items):
    known = set(Path("/opt/bed/known").read_text().splitlines())
    items[:] = [item for item in items if item.nodeid not in known]
"""
"""How each test ended, and why when it failed: a run that is cut off has no summary. What is known is not run again."""
ADDRESS = "[Match]\nName=eth0\n[Network]\nDHCP=yes\n"
GUEST = """#!/bin/bash
stty -F /dev/ttyS0 -opost
dmesg -n 1 # the kernel says nothing between the lines of the suites
echo {begin}
growpart /dev/vda 1; resize2fs /dev/vda1 # what cloud-init would have done
mkdir -p /opt/lmd /opt/bed && tar -xf /dev/vdb -C /opt/bed && tar -xf /opt/bed/source.tar -C /opt/lmd
python3 -m venv /opt/venv
/opt/venv/bin/pip install -q --no-index --find-links /opt/bed/wheels 'lmd[cvmfs,dev]'
. /etc/os-release
echo "versions: $PRETTY_NAME, Linux $(uname -r), systemd $(systemctl --version | awk 'NR==1{{print $2}}')," \\
    "$(podman --version), $(docker --version | cut -d, -f1), $(crun --version | head -1)," \\
    "$(runc --version | head -1), $(findmnt -n -o FSTYPE /sys/fs/cgroup)"
# No Docker of the host's: the suites bring private ones, and two keep house in one network badly.
systemctl stop docker.socket docker.service
cd /opt/lmd
/opt/venv/bin/lm doctor
echo "doctor: $?"
export LMD_TESTS_SLOWER={slower} PYTHONPATH=/opt/lmd:/opt/bed
/opt/venv/bin/python -m pytest -v --color=no --tb=short -p tell -p no:cacheprovider --timeout {timeout} {tests}
echo "result: $?"
echo {end}
systemctl poweroff --force
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processors", type=int, default=2)
    parser.add_argument("--memory", type=int, default=4096, metavar="MIB")
    parser.add_argument("--tests", nargs="+", default=list(SUITES), help="words for pytest", metavar="WORD")
    parser.add_argument("--match", default="", help="only tests that match, as pytest's -k")
    parser.add_argument("--slower", type=float, default=8.0, help="how many times longer the suites wait")
    parser.add_argument("--seconds", type=int, default=6 * 3600)
    parser.add_argument("--acceleration", choices=["kvm", "tcg"], default="tcg")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--results", type=Path, help="where it is kept how each test ended, for the next run to go on")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lmd-in-vm.", dir="/var/tmp") as scratch:
        said = boot(Path(scratch), bed(Path(scratch)), asked)
    return report(said, asked)


def bed(home: Path) -> Path:
    """A disk like the cloud image's with the engines, which runs what a second disk says."""
    folder = home / "test-bed"
    folder.mkdir()
    settings = find_recipe("debian-vm").settings
    packages = ", ".join(f'"{name}"' for name in sorted({*settings.packages, *PACKAGES}))
    (folder / "unit").write_text(UNIT)
    (folder / "address").write_text(ADDRESS)
    (folder / "recipe.toml").write_text(
        f'description = "the second test bed"\nkind = "vm"\nsuite = "{settings.suite}"\npackages = [{packages}]\n'
        '[files."/etc/systemd/system/test-bed.service"]\nsource = "unit"\n'
        '[files."/etc/systemd/system/multi-user.target.wants/test-bed.service"]\nlink = "../test-bed.service"\n'
        '[files."/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"]\n'
        'link = "/lib/systemd/system/systemd-networkd.service"\n'
        '[files."/etc/systemd/network/80-dhcp.network"]\nsource = "address"\n'
        '[files."/etc/cloud/cloud-init.disabled"]\ntext = ""\n'
    )
    directory = default_directory(os.environ, os.geteuid())
    built = ensure(directory, load(folder), EPOCH, progress=lambda step: print(step, flush=True))
    return built.path.with_name(DISK)


def second_disk(home: Path, asked: argparse.Namespace) -> Path:
    """A tar file with the script, this checkout and the wheels, which the machine reads as a disk."""
    content = home / "content"
    content.mkdir()
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--wheel-dir", str(content / "wheels")]
    subprocess.run([*command, f"{ROOT}[cvmfs,dev]"], check=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    pack = ["tar", "-cf", content / "source.tar", "--null", "--files-from=-"]
    subprocess.run(pack, input=listed, cwd=ROOT, check=True)
    words = [*asked.tests, *(["-k", asked.match] if asked.match else [])]
    timeout = int(120 * asked.slower)
    said = GUEST.format(begin=BEGIN, end=END, tests=shlex.join(words), slower=asked.slower, timeout=timeout)
    (content / "guest").write_text(said)
    (content / "tell.py").write_text(TELL)
    known = [name for name, outcome in results(asked.results).items() if outcome != "failed"]
    (content / "known").write_text("\n".join(known))
    disk = home / "second.tar"
    subprocess.run(["tar", "-cf", disk, "-C", content, "guest", "tell.py", "known", "source.tar", "wheels"], check=True)
    shutil.rmtree(content)
    return disk


def boot(home: Path, disk: Path, asked: argparse.Namespace) -> str:
    """Boot, wait until it has switched itself off, and give what its console said."""
    overlay, console, second = home / "overlay.qcow2", home / "console", second_disk(home, asked)
    backing = ["-b", str(disk.resolve()), "-F", "qcow2", str(overlay), "30G"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing], check=True)
    machine = {
        "-machine": "q35",
        "-accel": asked.acceleration,
        "-cpu": "host" if asked.acceleration == "kvm" else "max",
        "-smp": str(asked.processors),
        "-m": str(asked.memory),
        "-serial": f"file:{console}",
        "-monitor": "none",
        "-netdev": "user,id=n",
    }
    command = ["qemu-system-x86_64", "-nographic", "-no-reboot", *(word for pair in machine.items() for word in pair)]
    command += ["-drive", f"file={overlay},if=virtio,discard=unmap"]
    command += ["-drive", f"file={second},if=virtio,format=raw,readonly=on"]
    command += ["-device", "virtio-net-pci,netdev=n", "-device", "virtio-rng-pci"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        for more in followed(console, process, time.monotonic() + asked.seconds):
            print(more, end="", flush=True)
    finally:
        process.kill()
        process.wait()
    return console.read_text(errors="replace")


def followed(console: Path, process: "subprocess.Popen[bytes]", last: float) -> Iterator[str]:
    """What the console says, as it comes, until the machine is off or its time is over."""
    shown = 0
    while process.poll() is None and time.monotonic() < last:
        time.sleep(1)
        text = console.read_text(errors="replace") if console.exists() else ""
        yield text[shown:]
        shown = len(text)


def results(path: Path | None) -> dict[str, str]:
    """How each test ended in earlier runs, by its name."""
    return json.loads(path.read_text()) if path and path.exists() else {}


def report(said: str, asked: argparse.Namespace) -> int:
    """Keep and record; 0 if the suites have come to their end and nothing has failed, in this run or those before."""
    found = re.search(rf"^{BEGIN}\r?$(.*?)(?:^{END}|\Z)", said, re.DOTALL | re.MULTILINE)
    text = re.sub(r"\x1b\[[0-9;]*m|\r", "", found[1]) if found else ""
    ended = re.search(r"^result: ([015])$", text, re.MULTILINE)  # pytest's: all passed, some failed, nothing was left
    outcomes = results(asked.results) | {
        name: outcome for outcome, name in re.findall(rf"^{TOLD} (\w+) \d+ (\S+)$", text, re.MULTILINE)
    }
    if asked.results:
        asked.results.write_text(json.dumps(outcomes, indent=1))
    if asked.record:
        asked.record.write_text("\n".join(recorded(text, outcomes, bool(ended), asked)) + "\n")
    return 0 if ended and "failed" not in outcomes.values() else 1 if outcomes else 3


def recorded(text: str, outcomes: dict[str, str], ended: bool, asked: argparse.Namespace) -> Iterator[str]:
    """The lines of the record."""
    versions = re.search(r"^versions: (.*)$", text, re.MULTILINE)
    matching = f", those that match {asked.match!r}" if asked.match else ""
    yield "# The suites in a virtual machine with systemd and control groups of version 2"
    yield ""
    how = f"{asked.acceleration}, time limits of the tests ×{asked.slower:g}"
    yield f"Written by `tests/in_vm.py` (`make test-in-vm`) on {time.strftime('%Y-%m-%d')} ({how})."
    yield ""
    yield f"- {versions[1] if versions else 'the machine did not come as far as saying its versions'}"
    yield f"- {' '.join(asked.tests)}{matching}"
    yield "- it came to its end" if ended else "- it did not come to its end in time; until then:"
    if results(asked.results).keys() - set(re.findall(rf"^{TOLD} \w+ \d+ (\S+)$", text, re.MULTILINE)):
        yield "- in several runs: what had passed in an earlier one was not run again"
    suites = dict.fromkeys(name.partition("::")[0] for name in outcomes)
    for suite in suites:
        counts = Counter(outcome for name, outcome in outcomes.items() if name.startswith(f"{suite}::"))
        yield f"- {suite}: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    yield from (f"- FAILED {name}" for name in [n for n, outcome in outcomes.items() if outcome == "failed"][:50])


if __name__ == "__main__":
    sys.exit(main())
