"""Mount a repository, or serve a descriptor that is mounted already, until told to stop."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Sequence

import pyfuse3
import trio

from cvmfs.errors import CvmfsError
from cvmfs.fuse.inodes import Node, node_key
from cvmfs.fuse.operations import Operations
from cvmfs.repository import Repository
from cvmfs.settings import Settings
from cvmfs.tree import Located

_TASKS = 128
_LEAST_TTL = 1.0
_RETRY_SECONDS = 60.0
log = logging.getLogger("cvmfs")


def serve(
    repository: Repository,
    settings: Settings,
    where: str,
    options: Sequence[str] = (),
    *,
    ready: Callable[[], None] = lambda: None,
    with_process: int | None = None,
) -> None:
    """Show `repository` at `where` until it is unmounted, a signal says to end, or `with_process` (a pid) has ended.

    `where` is a directory, or `/dev/fd/N` for a descriptor of /dev/fuse that is mounted already. `options` go to
    the kernel. `ready` is called once it is mounted. SIGHUP looks for a new revision at once.
    Raises CvmfsError or RuntimeError (from the mount).
    """
    operations = Operations(repository, kernel_timeout=settings.kernel_timeout, owner=settings.owner)
    pyfuse3.init(operations, where, set(options))
    try:
        ready()
        trio.run(_run, _Service(repository, settings, operations), with_process)
    finally:
        pyfuse3.close(unmount=True)  # a descriptor that was mounted already is only closed
        repository.close()


class _Service:
    """What runs beside the operations."""

    def __init__(self, repository: Repository, settings: Settings, operations: Operations) -> None:
        self._repository = repository
        self._settings = settings
        self._operations = operations
        self._wake = trio.Event()

    async def signals(self, end: Callable[[], None]) -> None:
        """End on SIGTERM and SIGINT, look for a new revision on SIGHUP."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
            async for number in received:
                if number == signal.SIGHUP:
                    self._wake.set()
                else:
                    end()

    async def watch(self, process: int, end: Callable[[], None]) -> None:
        """End with another process."""
        try:
            fd = os.pidfd_open(process)
        except ProcessLookupError:
            end()
            return
        try:
            await trio.lowlevel.wait_readable(fd)
        finally:
            os.close(fd)
        end()

    async def refresh(self) -> None:
        """Look for a new revision whenever the time to live is over."""
        while True:
            with trio.move_on_after(self._pause()):
                await self._wake.wait()
            self._wake = trio.Event()
            try:
                if await trio.to_thread.run_sync(self._repository.refresh, abandon_on_cancel=True):
                    log.info("%s: now at revision %d", self._repository.name, self._repository.revision.number)
                    await self._announce()
                warning = self._repository.revision.warning
            except CvmfsError as error:
                warning = str(error)
            if warning:
                log.warning("%s: stays at its revision: %s", self._repository.name, warning)

    def _pause(self) -> float:
        if not self._settings.refresh or self._repository.pin:
            return float("inf")
        pause = float(self._repository.ttl)
        if self._settings.max_ttl is not None:
            pause = min(pause, self._settings.max_ttl)
        if self._repository.revision.warning:
            pause = min(pause, _RETRY_SECONDS)
        return max(_LEAST_TTL, pause)

    async def _announce(self) -> None:
        """Tell the kernel which of the names that it may remember mean something else now."""
        inodes = self._operations.inodes
        tree = self._repository.tree
        told = list(inodes.told())
        directories = inodes.directories()
        paths = [node.path + b"/" + name for node, name, _ in told] + [node.path for node in directories]

        def look_up() -> list[Located | CvmfsError | None]:
            found: list[Located | CvmfsError | None] = []
            for path in paths:
                try:
                    found.append(tree.lookup(path))
                except CvmfsError as error:
                    found.append(error)
            return found

        found = await trio.to_thread.run_sync(look_up, abandon_on_cancel=True)
        changed = [
            (parent, name)
            for (parent, name, number), now in zip(told, found, strict=False)
            if self._changed(parent, name, number, now)
        ]
        kept = []
        for node, now in zip(directories, found[len(told) :], strict=True):
            if isinstance(now, Located) and node_key(node.path, now) == node.key:
                node.located = now
                kept.append(node)
        await trio.to_thread.run_sync(_invalidate, kept, abandon_on_cancel=True)
        for parent, name in changed:
            parent.names.pop(name, None)
            pyfuse3.invalidate_entry_async(parent.number, name, ignore_enoent=True)

    def _changed(self, parent: Node, name: bytes, number: int, now: Located | CvmfsError | None) -> bool:
        if parent.names.get(name) != number:
            return False
        if isinstance(now, CvmfsError):
            return True
        node = self._operations.inodes.get(number)
        if now is None or node is None:
            return number != 0 or now is not None
        return node.key != node_key(parent.path + b"/" + name, now)


def _invalidate(directories: list[Node]) -> None:
    for node in directories:
        try:
            pyfuse3.invalidate_inode(node.number, attr_only=True)
        except OSError:  # forgotten by the kernel in the meantime
            continue


async def _run(service: _Service, with_process: int | None) -> None:
    async with trio.open_nursery() as nursery:
        # ending cancels the operations too: none of them may hold up the end while it waits for a server
        end = nursery.cancel_scope.cancel
        nursery.start_soon(service.signals, end)
        nursery.start_soon(service.refresh)
        if with_process is not None:
            nursery.start_soon(service.watch, with_process, end)
        await pyfuse3.main(max_tasks=_TASKS)
        end()
