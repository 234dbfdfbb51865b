"""A libvirt of one's own: `unshare -m -n -p … python libvirt_daemon.py DIRECTORY` prints `ready`, obeys the words on
its standard input, and ends with all it runs when that is closed.

libvirtd, virtlogd and the machines are alone in their mount, network and process namespaces; their sockets, logs and
state are below DIRECTORY, which must have a short path: `run/libvirt-sock`, `log/qemu/NAME.log`. This process is the
first of its process namespace, so nothing outlives it, and it reaps at once what libvirt leaves to others: libvirt
waits for the end of each QEMU that it probes.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

CONFIGURATION = {
    "libvirtd.conf": 'auth_unix_ro = "none"\nauth_unix_rw = "none"\nunix_sock_group = "root"\n',
    "qemu.conf": 'user = "root"\ngroup = "root"\nsecurity_driver = "none"\nremember_owner = 0\n',
    "virtlogd.conf": "",
}
"""Root: users of the distribution's package may be unable to open /dev/kvm, and libvirt then probes for a minute."""
PLACES = {"run": "/run/libvirt", "log": "/var/log/libvirt", "lib": "/var/lib/libvirt", "cache": "/var/cache/libvirt"}
START_SECONDS = 60
SIGNALS = {"end": signal.SIGTERM, "kill": signal.SIGKILL, "stop": signal.SIGSTOP, "continue": signal.SIGCONT}


def arrange(directory: Path) -> None:
    """In our mount namespace, put directories of our own where libvirt has its places, and our configuration."""
    etc = directory / "etc"
    shutil.copytree("/etc/libvirt", etc, dirs_exist_ok=True, ignore=shutil.ignore_patterns("networks", "autostart"))
    for name, text in CONFIGURATION.items():
        (etc / name).write_text(text)
    for name, place in {**PLACES, "etc": "/etc/libvirt"}.items():
        (directory / name).mkdir(exist_ok=True)
        Path(place).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", str(directory / name), place], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    own_sys(directory / "cgroup")


def own_sys(aside: Path) -> None:
    """Show the interfaces of our network namespace in /sys, where libvirt sets them, and still the control groups."""
    aside.mkdir()
    for command in (
        ["mount", "--rbind", "/sys/fs/cgroup", str(aside)],
        ["mount", "-t", "sysfs", "sysfs", "/sys"],
        ["mount", "--rbind", str(aside), "/sys/fs/cgroup"],
    ):
        subprocess.run(command, check=True)


def start(directory: Path, name: str, socket: str) -> "subprocess.Popen[bytes]":
    """Start one daemon and wait until it listens."""
    path = directory / "run" / socket
    path.unlink(missing_ok=True)
    command = [f"/usr/sbin/{name}", "--config", str(directory / "etc" / f"{name}.conf")]
    command += ["--pid-file", str(directory / f"{name}.pid")]  # its own one would tell of a daemon of the host
    with (directory / f"{name}.out").open("ab") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    last = time.monotonic() + START_SECONDS
    while not path.exists():
        if process.poll() is not None or time.monotonic() > last:
            raise SystemExit(f"{name} did not start: {(directory / f'{name}.out').read_text()[-500:]}")
        time.sleep(0.02)
    return process


def reap(ours: set[int]) -> None:
    """Take leave of orphans; what is ours is waited for by its Popen."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ChildProcessError):
            pid, state = int(path.parent.name), path.read_text().rpartition(")")[2].split()[0]
            if state == "Z" and pid not in ours:
                os.waitpid(pid, os.WNOHANG)


def serve(directory: Path) -> None:
    """Do what each line of standard input says to libvirtd, and answer `done`; end at its end."""
    virtlogd = start(directory, "virtlogd", "virtlogd-sock")
    libvirtd = start(directory, "libvirtd", "libvirt-sock")
    print("ready", flush=True)
    while True:
        reap({virtlogd.pid, libvirtd.pid})
        if not select.select([sys.stdin], [], [], 0.05)[0]:
            continue
        word = sys.stdin.readline().strip()
        if not word:
            return
        if word in SIGNALS:
            libvirtd.send_signal(SIGNALS[word])
        if word in ("end", "kill"):
            libvirtd.wait()
        if word == "start":
            libvirtd = start(directory, "libvirtd", "libvirt-sock")
        print("done", flush=True)


def tidy(hosts: bool) -> None:
    """Remove the control groups that libvirt makes for all its machines, unless the host's own libvirt has them too."""
    if hosts:
        return
    for folder in Path("/sys/fs/cgroup").glob("*/machine"):
        with suppress(OSError):  # another libvirt of tests has machines in it
            folder.rmdir()


if __name__ == "__main__":
    place, hosts = Path(sys.argv[1]), Path("/run/libvirt/libvirt-sock").exists()
    arrange(place)
    serve(place)
    tidy(hosts)
