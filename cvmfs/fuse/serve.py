"""Mount a repository, or serve a descriptor that is mounted already, until told to stop."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cvmfs.activity import MessageKeeper
from cvmfs.errors import BadConfiguration, CvmfsError
from cvmfs.fuse.inodes import Node, node_key
from cvmfs.fuse.loop import Loop, pyfuse3
from cvmfs.fuse.mountpoint import unmount, unshare
from cvmfs.fuse.operations import Operations, shown_by
from cvmfs.leases import held, living
from cvmfs.repository import Repository
from cvmfs.settings import Settings
from cvmfs.tree import Located

_TASKS = 128
_THREADS = 64
_SWITCH_SECONDS = 0.0005  # a request should not wait for a thread that is busy unpacking
_LEAST_TTL = 1.0
_RETRY_SECONDS = 60.0
_Found = Located | CvmfsError | None
log = logging.getLogger("cvmfs")


@dataclass(frozen=True, slots=True)
class Leases:
    """Where the leases are, and how many seconds a mount without any lives."""

    directory: Path
    idle: float


def serve(
    repository: Repository,
    settings: Settings,
    where: str,
    options: Sequence[str] = (),
    *,
    ready: Callable[[], None] = lambda: None,
    with_process: int | None = None,
    leases: Leases | None = None,
) -> None:
    """Show `repository` at `where` until it is unmounted, a signal says to end, or `with_process` (a pid) has ended.

    `where` is a directory, or `/dev/fd/N` for a descriptor of /dev/fuse that is mounted already. `options` go to
    the kernel. `ready` is called once it is mounted. `leases` say who needs it: nobody for long, and it ends. SIGHUP
    looks for a new revision at once. To be called in the main thread, once in a process. Raises CvmfsError.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    loop = Loop(_THREADS)
    pyfuse3.trio = loop  # type: ignore[attr-defined]  # as pyfuse3.asyncio.enable does
    operations = Operations(repository, loop, shown_by(settings))
    try:
        pyfuse3.init(operations, where, set(options))
    except RuntimeError as error:  # libfuse has said on standard error what it was
        raise BadConfiguration(f"mountpoint {where}: the mount failed ({error})") from error
    refresher = Refresher(repository, settings, operations, loop)
    try:
        ready()
        log.addHandler(MessageKeeper(repository.activity))
        with _signals(loop, refresher):
            threading.Thread(target=refresher.run, daemon=True, name="cvmfs-refresh").start()
            if with_process is not None:
                threading.Thread(target=_watch, args=(with_process, loop), daemon=True, name="cvmfs-watch").start()
            if leases is not None:
                threading.Thread(target=_keep, args=(leases, where, loop), daemon=True, name="cvmfs-leases").start()
            loop.run(pyfuse3.main(min_tasks=2, max_tasks=_TASKS))
    finally:
        pyfuse3.close(unmount=True)  # a descriptor that was mounted already is only closed
        if leases is not None:
            with held(leases.directory.parent.parent):  # nobody mounts beside it now
                unshare(os.path.dirname(where))  # noqa: PTH120 — a text
        repository.close()


@contextlib.contextmanager
def _signals(loop: Loop, refresher: Refresher) -> Iterator[None]:
    """End on SIGTERM and SIGINT, look for a new revision on SIGHUP."""
    actions = {signal.SIGTERM: loop.stop, signal.SIGINT: loop.stop, signal.SIGHUP: refresher.wake.set}
    before = {number: signal.signal(number, lambda number, _: actions[signal.Signals(number)]()) for number in actions}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(process: int, loop: Loop) -> None:
    """End the loop with another process."""
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(process)
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        waiting.poll()
        os.close(fd)
    loop.stop()


def _keep(leases: Leases, where: str, loop: Loop) -> None:
    """Unmount when no lease has held for long; whoever takes one meanwhile waits, and then sees that it is gone."""
    needed = time.monotonic()
    while True:
        time.sleep(min(leases.idle / 4, 5.0))
        if living(leases.directory):
            needed = time.monotonic()
        elif time.monotonic() - needed >= leases.idle:
            with held(leases.directory):
                if not living(leases.directory):
                    unmount(where)
                    loop.stop()
                    return


class Refresher:
    """Looks for a new revision whenever the time to live is over, in a thread of its own."""

    def __init__(self, repository: Repository, settings: Settings, operations: Operations, loop: Loop) -> None:
        self._repository = repository
        self._settings = settings
        self._operations = operations
        self._loop = loop
        self.wake = threading.Event()

    def run(self) -> None:
        """Go on until the process ends."""
        activity = self._repository.activity
        while True:
            pause = self._pause()
            activity.expires = None if pause is None else activity.clock() + pause
            self.wake.wait(pause)
            self.wake.clear()
            try:
                if self._repository.refresh():
                    log.info("%s: now at revision %d", self._repository.name, self._repository.revision.number)
                    self._announce()
                warning = self._repository.revision.warning
            except CvmfsError as error:
                warning = str(error)
            except Exception:
                log.exception("an error of this program while looking for a new revision")
                continue
            if warning:
                log.warning("%s: stays at its revision: %s", self._repository.name, warning)

    def _pause(self) -> float | None:
        if not self._settings.refresh or self._repository.pin:
            return None
        pause = float(self._repository.ttl)
        if self._settings.max_ttl is not None:
            pause = min(pause, self._settings.max_ttl)
        if self._repository.revision.warning:
            pause = min(pause, _RETRY_SECONDS)
        return min(max(_LEAST_TTL, pause), threading.TIMEOUT_MAX)

    def _announce(self) -> None:
        """Tell the kernel which of the names that it may remember mean something else now."""
        inodes = self._operations.inodes
        told, directories = self._loop.call(lambda: (list(inodes.told()), inodes.directories()))
        now = [self._look_up(parent.path + b"/" + name) for parent, name, _ in told]
        now_directories = [self._look_up(node.path) for node in directories]

        def apply() -> tuple[list[Node], list[tuple[int, bytes]]]:
            kept = [node for node, found in zip(directories, now_directories, strict=True) if _update(node, found)]
            changed = []
            for (parent, name, number), found in zip(told, now, strict=True):
                if self._changed(parent, name, number, found):
                    parent.names.pop(name, None)
                    changed.append((parent.number, name))
            return kept, changed

        kept, changed = self._loop.call(apply)
        for node in kept:
            with contextlib.suppress(OSError):  # forgotten by the kernel in the meantime
                pyfuse3.invalidate_inode(node.number, attr_only=True)
        for number, name in changed:
            with contextlib.suppress(OSError):
                pyfuse3.invalidate_entry(number, name)

    def _look_up(self, path: bytes) -> _Found:
        try:
            return self._repository.tree.lookup(path)
        except CvmfsError as error:
            return error

    def _changed(self, parent: Node, name: bytes, number: int, found: _Found) -> bool:
        if parent.names.get(name) != number:
            return False
        if isinstance(found, CvmfsError):
            return True
        node = self._operations.inodes.get(number)
        if found is None or node is None:
            return number != 0 or found is not None
        return node.key != node_key(parent.path + b"/" + name, found)


def _update(node: Node, found: _Found) -> bool:
    """Give a directory its new description, if it is one still."""
    if not isinstance(found, Located) or node_key(node.path, found) != node.key:
        return False
    node.located = found
    return True
