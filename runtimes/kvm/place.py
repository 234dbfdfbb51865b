"""A machine's own directory on the host: its disks, logs and share, and what libvirt would forget of it.

share/description, share/report/        what the guest is told, and what it reports
share/root, share/mounts/N              where the root directory and the mounts are bound (by `share.py` alone)
share/scratch/N                         scratch directories, where the machine has no disk for them
virtiofsd, share.json                   what libvirt runs as virtiofsd, and what that binds
root.qcow2, disk.raw                    overlay of the image's disk; the machine's own disk
console.log*, kernel.log*               written by virtlogd, which caps and rotates them
started, shutdown, end.json             when it was started; who switched it off; how it ended, once seen
"""

import errno
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtimes.contract import MACHINE_ID, End, EndReason, ImageKind, Rejected, Spec
from runtimes.kvm import share
from runtimes.kvm.description import description

LOG_TAIL = 20_000
REPORT_BYTES = 4096
REMOVALS = 10


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of one machine. `root` is the runtime's own directory, which holds nothing but machines."""

    root: Path
    machine_id: str

    def __post_init__(self) -> None:
        if not MACHINE_ID.fullmatch(self.machine_id):
            raise ValueError(f"{self.machine_id!r} is no machine id")

    @property
    def path(self) -> Path:
        return self.root / self.machine_id

    def file(self, name: str) -> Path:
        """One of the files named above."""
        return self.path / name

    def prepare(self, spec: Spec, first_uid: int, virtiofsd: Path) -> None:
        """Write all that the machine needs but its disks. May be repeated, also while it starts: whoever asked for
        that before was killed, perhaps. Raises `Rejected` for a bad spec."""
        self.path.mkdir(exist_ok=True, parents=True, mode=0o711)  # QEMU, a user of its own, finds its disks there
        for name in ("share", "share/scratch", "share/mounts"):
            self.file(name).mkdir(exist_ok=True, mode=0o700)
        self.once("report.raw", lambda path: _write(path, bytes(REPORT_BYTES), 0o600))
        binds, kinds = [], {}
        if spec.image.kind is ImageKind.ROOT_DIRECTORY:
            self.file("share/root").mkdir(exist_ok=True)
            binds.append(self._bind(Path(spec.image.location), "root", True, 0))
        for number, mount in enumerate(spec.mounts):
            kinds[number] = "dir" if mount.source.is_dir() else "file"
            stub = self.file(f"share/mounts/{number}")
            stub.mkdir(exist_ok=True) if kinds[number] == "dir" else stub.touch()
            owned = first_uid if mount.owned_by_machine or not mount.read_only else 0
            binds.append(self._bind(mount.source, f"mounts/{number}", mount.read_only, owned))
            if first_uid and mount.owned_by_machine:
                os.chown(mount.source, first_uid, first_uid, follow_symlinks=False)
        for number in range(len(spec.scratch)):
            self._own(self.file(f"share/scratch/{number}"), first_uid, 0o1777)
            binds.append(self._bind(self.file(f"share/scratch/{number}"), f"scratch/{number}", False, first_uid))
        self._private("share/description", description(spec, kinds))
        self._private("share.json", json.dumps({"binary": str(virtiofsd), "binds": binds}).encode())
        words = [sys.executable, "-IS", str(Path(share.__file__)), str(self.file("share.json"))]
        self._replace("virtiofsd", f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n'.encode(), 0o755)

    def once(self, name: str, make: Callable[[Path], None]) -> None:
        """Have a file made, whole or not at all. One that is there stays: a QEMU may have opened it already."""
        if self.file(name).exists():
            return
        part = self.file(f"{name}.part")
        make(part)
        part.rename(self.file(name))

    def _private(self, name: str, data: bytes) -> None:
        """Write a file that only root may read: it may hold secrets."""
        self._replace(name, data, 0o600)

    def _replace(self, name: str, data: bytes, mode: int) -> None:
        part = self.path / f"{self.file(name).name}.part"  # not in the share, where the machine would see it
        _write(part, data, mode)
        part.rename(self.file(name))

    def _bind(self, source: Path, target: str, read_only: bool, first: int) -> dict[str, Any]:
        to = str(self.file(f"share/{target}"))
        return {"source": str(source), "target": to, "read_only": read_only, "first": first}

    def _own(self, folder: Path, first_uid: int, mode: int) -> None:
        folder.mkdir(exist_ok=True)
        folder.chmod(mode)
        if first_uid:
            os.chown(folder, first_uid, first_uid)

    def mark_started(self, at: float) -> float:
        """Note when the machine was started, unless that is noted already; the time that stands."""
        with suppress(OSError), self.file("started").open("x") as stream:
            stream.write(repr(at))
        return self.started() or at

    def started(self) -> float | None:
        """When the machine was started (Unix seconds); None if it has not been, or that is not known."""
        try:
            return float(self.file("started").read_text())
        except (OSError, ValueError):
            return None

    def report(self) -> tuple[str, float | None]:
        """What the guest reports of its end, and when; empty if it has not. Nothing of it is to be trusted."""
        try:
            with self.file("report.raw").open("rb") as stream:
                said = stream.read(REPORT_BYTES).partition(b"\0")[0]
                return said.decode(errors="replace"), os.fstat(stream.fileno()).st_mtime if said else None
        except OSError:
            return "", None

    def note_event(self, reason: str) -> None:
        """Keep the reason that libvirt gives with an end, which it forgets when it is restarted."""
        with suppress(OSError):
            self.file("event").write_text(reason)

    def event(self) -> str | None:
        """The reason that was kept, if any."""
        try:
            return self.file("event").read_text()[:40] or None
        except OSError:
            return None

    def note_shutdown(self, who: str) -> None:
        """Keep who had the machine switched off, `guest` or `host`: libvirt tells that at the event alone."""
        with suppress(OSError):
            self.file("shutdown").write_text(who)

    def shutdown(self) -> str:
        """Who had it switched off; empty if nobody has heard that."""
        try:
            return self.file("shutdown").read_text()[:10]
        except OSError:
            return ""

    def keep_end(self, end: End) -> End:
        """Write down how the machine ended; whoever was first stands. Without the directory nothing is kept."""
        part = self.file(f"end.{os.getpid()}.{id(end):x}")
        try:
            part.write_text(json.dumps(asdict(end)))
            with suppress(FileExistsError):
                self.file("end.json").hardlink_to(part)
        except OSError:
            return end
        finally:
            with suppress(OSError):
                part.unlink()
        return self.end() or end

    def end(self) -> End | None:
        """How it ended, if that has been seen."""
        try:
            words = json.loads(self.file("end.json").read_text())
            return End(**(words | {"reason": EndReason(words["reason"])}))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def remove(self) -> None:
        """Remove the directory. Raises OSError if it cannot be removed; absent is success.

        By rm, which no tree of a guest is too deep for. The last words of the machine's end may be written meanwhile.
        """
        for _ in range(REMOVALS):
            if not self.path.exists():
                return
            command = ["rm", "-rf", "--one-file-system", "--", str(self.path)]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if self.path.exists():
            raise OSError(errno.EIO, " ".join(done.stderr.split())[:300], str(self.path))


def check(spec: Spec) -> None:
    """Raise `Rejected` if something that the spec names is not there on this host."""
    for mount in spec.mounts:
        _require(spec, mount.source, "mount source", mount.source.exists())
    if spec.boot:
        _require(spec, spec.boot.kernel, "kernel", spec.boot.kernel.is_file())
        if spec.boot.initramfs:
            _require(spec, spec.boot.initramfs, "initramfs", spec.boot.initramfs.is_file())
    image = Path(spec.image.location)
    if spec.image.kind is ImageKind.ROOT_DIRECTORY:
        _require(spec, image, "image", image.is_dir(), "no such directory")
    else:
        _require(spec, image, "image", image.is_file())
    if spec.seed:
        _require(spec, spec.seed, "seed", spec.seed.is_file())


def _require(spec: Spec, path: Path, what: str, fulfilled: bool, otherwise: str = "no such file") -> None:
    if not path.is_absolute() or any(ord(letter) < 32 for letter in str(path)):
        raise Rejected(f"machine {spec.id}: {what} {str(path)!r}: expected an absolute path without control characters")
    if not fulfilled:
        raise Rejected(f"machine {spec.id}: {what} {path}: {otherwise}")


def _write(path: Path, data: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)
    with open(path, "xb", opener=lambda file, flags: os.open(file, flags, mode)) as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(data)


def tail(path: Path) -> str:
    """The end of a log; empty if it cannot be read."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - LOG_TAIL))
            return stream.read(LOG_TAIL).decode(errors="replace")
    except OSError:
        return ""
