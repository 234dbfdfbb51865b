"""Repositories mounted on this host for others to use: by the distribution's client, or by the embedded reader.

All of this waits, and is for worker threads. Looking at a mount, which may hang for ever, is done by a child process
with a time limit.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cvmfs.asking import CONVENTIONAL, asked
from cvmfs.errors import BadConfiguration, CvmfsError, Refused, Unreachable
from cvmfs.fuse.mountpoint import mounted, unmount, unshare
from cvmfs.inside import replace
from cvmfs.leases import drop, held, living, start_of, take
from cvmfs.trust import check_repository_name

CLIENT = "cvmfs2"
_MOUNT_SECONDS = 120.0
_BOOTED = Path("/run/systemd/system")
_BIND, _REC, _PRIVATE, _SHARED = 0x1000, 0x4000, 1 << 18, 1 << 20


class Provider(Protocol):
    """Who mounts repositories on this host."""

    @property
    def name(self) -> str:
        """`embedded` or `system`."""
        ...

    @property
    def root(self) -> Path:
        """Below which each repository has a directory of its name."""
        ...

    def mounted(self, repository: str) -> bool:
        """Whether it is mounted now, working or not. Raises CvmfsError for what is no repository's name."""
        ...

    def ensure(self, repository: str, holder: int) -> Path:
        """Have it mounted for as long as process `holder` lives; returns where. Raises CvmfsError with the reason."""
        ...

    def keep(self, repository: str, holder: int) -> None:
        """One more process needs it."""
        ...

    def remount(self, repository: str, holder: int) -> Path:
        """Take the mount away, whatever it does, and mount again, also in the machines that have it where that can be
        done. Raises CvmfsError."""
        ...


def probe(path: Path, seconds: float) -> str:
    """Why the directory cannot be listed; empty if it can, within so many seconds."""
    answer = asked(["ls", "-U", "--", f"{path}/"], seconds)
    if answer is None:
        return f"no answer within {seconds:g} s"
    code, said = answer
    text = said.splitlines()
    return "" if code == 0 else (text[-1].rpartition(": ")[2] if text else "cannot be listed")


def shared(path: Path) -> bool:
    """Whether what is mounted below `path` later is seen where it is bound with slave propagation."""
    best, answer = "", False
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.partition(" - ")[0].split(" ")
        where = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
        if (str(path) == where or str(path).startswith(where.rstrip("/") + "/")) and len(where) >= len(best):
            best, answer = where, any(field.startswith("shared:") for field in fields[6:])
    return answer


@dataclass(frozen=True, slots=True)
class Embedded:
    """The embedded reader, a process for each repository that outlives its callers and ends with its last holder.

    `base` holds mountpoints, leases and logs; `config` is the reader's TOML; `idle` (s) is how long a mount that
    nobody holds stays.
    """

    base: Path
    config: Path
    idle: float = 60.0
    name: str = "embedded"

    @property
    def root(self) -> Path:
        """See Provider."""
        return self.base / "mnt"

    def mounted(self, repository: str) -> bool:
        """See Provider."""
        return str(self.root / check_repository_name(repository)) in mounted()

    def ensure(self, repository: str, holder: int) -> Path:
        """See Provider."""
        where = self.root / check_repository_name(repository)
        leases = self.base / "leases" / repository
        with held(leases):
            take(leases, holder)
            where.mkdir(mode=0o755, parents=True, exist_ok=True)
            if str(where) in mounted() and (why := probe(where, 10.0)):
                self._end(repository, why)
            if str(where) not in mounted():
                with held(self.base):
                    try:
                        self._share()
                        self._mount(repository, where, leases)
                    except BaseException:
                        unshare(str(self.root))
                        raise
        return where

    def keep(self, repository: str, holder: int) -> None:
        """See Provider."""
        leases = self.base / "leases" / check_repository_name(repository)
        with held(leases):
            take(leases, holder)

    def remount(self, repository: str, holder: int) -> Path:
        """See Provider."""
        check_repository_name(repository)
        kill_server(self.pid_file(repository))  # first: one that was stopped may hold the lock of the leases
        with held(self.base / "leases" / repository):
            self._end(repository, "remount was asked for")
        where = self.ensure(repository, holder)
        for pid in living(self.base / "leases" / repository):
            if not _same_mounts(pid):
                replace(pid, str(where), str(CONVENTIONAL / repository))
        return where

    def pid_file(self, repository: str) -> Path:
        """Names the process that serves the mount, and its start."""
        return self.base / "pids" / repository

    def _mount(self, repository: str, where: Path, leases: Path) -> None:
        for name in ("log", "pids"):
            (self.base / name).mkdir(mode=0o700, exist_ok=True)
        words = [sys.executable, "-m", "cvmfs", "mount", repository, str(where), "--config", str(self.config)]
        words += ["--leases", str(leases), "--idle", f"{self.idle:g}", "--log", str(self.base / "log" / repository)]
        words += ["--pid-file", str(self.pid_file(repository))]
        if may_allow_others():
            words += ["-o", "allow_other"]
        run_reader(scoped(words, f"CernVM-FS repository {repository} for machines"), repository)

    def _end(self, repository: str, why: str) -> None:
        """End the process and its mount, also where they hang; the lock of the leases is held."""
        kill_server(self.pid_file(repository))
        unmount(str(self.root / repository))
        if str(self.root / repository) in mounted():
            raise Unreachable(f"{self.root / repository}: is broken ({why}) and cannot be unmounted")

    def _share(self) -> None:
        """Make the mountpoints' directory a shared mount, where we may: what is mounted later appears in machines."""
        if os.geteuid() != 0 or shared(self.root):
            return
        root = os.fsencode(self.root)
        with contextlib.suppress(OSError):
            _mount_call(root, root, _BIND | _REC)
            _mount_call(b"", root, _PRIVATE)
            _mount_call(b"", root, _SHARED)


def sweep(base: Path, leaving: int | None = None) -> None:
    """Take away the mounts below an Embedded's `base` of which the server was killed and that nobody holds; process
    `leaving` does not hold any more."""
    root = base / "mnt"
    for where in sorted(mounted()):
        name = where.removeprefix(f"{root}/")
        if name == where or "/" in name:
            continue
        with held(base / "leases" / name):
            if leaving is not None:
                drop(base / "leases" / name, leaving)
            if not living(base / "leases" / name) and not _serves(base / "pids" / name):
                unmount(where)
    with held(base):
        unshare(str(root))


def _same_mounts(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino == os.stat("/proc/self/ns/mnt").st_ino  # noqa: PTH116 — magic links
    except OSError:
        return True


def _serves(pid_file: Path) -> bool:
    try:
        pid, _, start = pid_file.read_text(encoding="ascii").strip().partition(" ")
        return start_of(int(pid)) == int(start)
    except (OSError, ValueError):
        return False


@dataclass(frozen=True, slots=True)
class System:
    """The distribution's client, by autofs where that owns /cvmfs, else by `mount -t cvmfs`."""

    root: Path = CONVENTIONAL
    seconds: float = 60.0
    name: str = "system"

    def mounted(self, repository: str) -> bool:
        """See Provider."""
        return str(self.root / check_repository_name(repository)) in mounted()

    def ensure(self, repository: str, holder: int) -> Path:
        """See Provider."""
        where = self.root / check_repository_name(repository)
        if not self._automounted() and str(where) not in mounted():
            self._mount(repository, where)
        if why := probe(where, self.seconds):
            raise Unreachable(f"{where}: {why}")
        return where

    def keep(self, repository: str, holder: int) -> None:
        """The distribution's mounts are not counted: they stay, or autofs ends them when nobody uses them."""

    def remount(self, repository: str, holder: int) -> Path:
        """See Provider."""
        where = self.root / check_repository_name(repository)
        if (device := _device(where)) is not None:
            with contextlib.suppress(OSError):  # what waits for it gets an error, also where the client was stopped
                Path(f"/sys/fs/fuse/connections/{os.minor(device)}/abort").write_text("1")
            _run(["umount", "-l", "--", str(where)], self.seconds)
            for pid in _clients(repository, where):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)  # it holds the lock of its workspace
        return self.ensure(repository, holder)

    def _automounted(self) -> bool:
        return any(
            line.partition(" - ")[2].startswith("autofs ") and line.split(" ")[4] == str(self.root)
            for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        )

    def _mount(self, repository: str, where: Path) -> None:
        if os.geteuid() != 0:
            raise BadConfiguration(
                f"{where}: not mounted, and only root may mount it with the distribution's client:"
                f" mount -t cvmfs {repository} {where}"
            )
        try:
            where.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise BadConfiguration(f"{where}: cannot be made ({error.strerror})") from error
        code, said = _run(["mount", "-t", "cvmfs", repository, str(where)], self.seconds)
        if code != 0:
            raise Refused(f"{repository}: mount -t cvmfs failed ({code}): {said or 'it says nothing'}")


def _device(where: Path) -> int | None:
    """The device of the file system that is mounted there, by mountinfo alone; None if there is none of FUSE."""
    found = None
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        head, _, kind = line.partition(" - ")
        fields = head.split(" ")
        if fields[4] == str(where) and kind.startswith("fuse"):
            major, _, minor = fields[2].partition(":")
            found = os.makedev(int(major), int(minor))
    return found


def _clients(repository: str, where: Path) -> list[int]:
    """The processes `cvmfs2 … REPOSITORY WHERE`, with their watchdogs."""
    found, wanted = [], {repository.encode(), os.fsencode(where)}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().rstrip(b"\0").split(b"\0")
            if words[0].rpartition(b"/")[2] == CLIENT.encode() and wanted <= set(words):
                found.append(int(entry.parent.name))
    return found


def client() -> str | None:
    """The distribution's client on this host."""
    return shutil.which(CLIENT, path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/local/bin")


def may_allow_others() -> bool:
    """Whether other users of this host may be let into our FUSE mounts."""
    if os.geteuid() == 0:
        return True
    with contextlib.suppress(OSError):
        lines = Path("/etc/fuse.conf").read_text(errors="replace").splitlines()
        return any(line.strip() == "user_allow_other" for line in lines)
    return False


def run_reader(words: list[str], repository: str) -> None:
    """Run `python -m cvmfs mount` in the background of which it reports back. Raises CvmfsError with what it said."""
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_MOUNT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unreachable(f"{repository}: not mounted within {_MOUNT_SECONDS:g} s") from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it says nothing"]
        raise CvmfsError("; ".join(line.removeprefix("cvmfs: ") for line in said[-3:])[:1000])


def scoped(words: list[str], what: str) -> list[str]:
    """The command in a unit of its own where systemd runs, so that it is neither accounted to nor ended with whoever
    needs it first; else as it is. It keeps the mount namespace of this process, which the engines have to share."""
    if os.geteuid() != 0 or not _BOOTED.is_dir() or shutil.which("systemd-run") is None:
        return words
    return ["systemd-run", "--scope", "--quiet", "--collect", f"--description={what}", "--", *words]


def kill_server(pid_file: Path) -> None:
    """Kill the process that a pid file names, if it is that very one still; one that is stopped too."""
    with contextlib.suppress(OSError, ValueError):
        if _serves(pid_file):
            os.kill(int(pid_file.read_text(encoding="ascii").partition(" ")[0]), signal.SIGKILL)
    pid_file.unlink(missing_ok=True)


def _run(words: list[str], seconds: float) -> tuple[int, str]:
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return 124, f"no answer within {seconds:g} s"
    except OSError as error:
        return 127, f"{words[0]}: {error.strerror}"
    return done.returncode, " ".join((done.stderr + done.stdout).decode("utf-8", "replace").split())[-500:]


def _mount_call(source: bytes, target: bytes, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source, target, b"none", flags, None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fsdecode(target))
