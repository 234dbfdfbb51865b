"""The command `mount`: in the foreground, or as a process of its own that reports back once it is mounted."""

from __future__ import annotations

import argparse
import contextlib
import encodings.idna  # noqa: F401 — loaded now: an upgrade may replace the files under a running mount
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from cvmfs.client import serve_with
from cvmfs.configuration import Request, load_settings
from cvmfs.errors import BadConfiguration, CvmfsError
from cvmfs.fuse.mountpoint import check_inside, check_mountpoint, check_options
from cvmfs.inside import Joiner, join_control_groups
from cvmfs.leases import start_of
from cvmfs.settings import Settings, cache_directory, open_repository
from cvmfs.trust import check_repository_name

log = logging.getLogger("cvmfs")
_MOUNTED = b"mounted"


def mount(request: Request, options: argparse.Namespace) -> int:
    """Mount, and return 0 once mounted (in the foreground: once unmounted). Raises CvmfsError."""
    where = check_inside(options.mountpoint) if options.inside else check_mountpoint(options.mountpoint)
    if options.client and not options.inside:
        raise BadConfiguration("--client: only for a mount with --inside; else use: mount -t cvmfs")
    job = _Job(load_settings(request) if not options.client else None, request, where, options)
    if options.foreground:
        job.run(lambda: None)
        logging.shutdown()
        os._exit(0)  # threads may still wait for a server that hangs
    return _in_background(job.run, options)


class _Job:
    """One mount, from what was asked for to its end."""

    def __init__(self, settings: Settings | None, request: Request, where: str, options: argparse.Namespace) -> None:
        self._settings, self._request, self._where, self._options = settings, request, where, options
        words = list(options.options)
        if settings is not None and settings.setuid:
            words.append("suid")
        if settings is not None and settings.check_permissions:
            words.append("default_permissions")
        self._kernel = check_options(words, request.repository)

    def run(self, ready: Callable[[], None]) -> None:
        """Mount and serve; `ready` is called once it is mounted. Raises CvmfsError."""
        options = self._options
        joiner = Joiner(options.inside) if options.inside else None  # first: it needs a process with one thread
        try:
            if options.inside and (refused := join_control_groups(options.inside)):
                log.warning("not accounted to the machine by the control groups %s", " ".join(refused))
            if options.pid_file is not None:
                _write_pid(options.pid_file)
            if self._settings is not None:
                self._by_reader(self._settings, joiner, ready)
            elif joiner is not None:
                self._by_client(joiner, ready)
        finally:
            if joiner is not None:
                joiner.close()
            if options.pid_file is not None:
                options.pid_file.unlink(missing_ok=True)

    def _by_reader(self, settings: Settings, joiner: Joiner | None, ready: Callable[[], None]) -> None:
        from cvmfs.fuse.serve import Leases, serve  # imported by the process that serves

        options = self._options
        repository = open_repository(settings)
        if repository.revision.warning:
            shown = repository.revision
            log.warning("%s: shown is revision %d, seen last: %s", repository.name, shown.number, shown.warning)
        place = self._where
        if joiner is not None:
            place = f"/dev/fd/{joiner.mount(self._where, settings.repository, suid='suid' in self._kernel)}"
        serve(
            repository,
            settings,
            place,
            self._kernel,
            ready=ready,
            with_process=options.inside or options.with_process,
            leases=Leases(options.leases, options.idle) if options.leases else None,
        )

    def _by_client(self, joiner: Joiner, ready: Callable[[], None]) -> None:
        name = check_repository_name(self._request.repository)
        given = self._request.given.get("CVMFS_CACHE_DIR")
        cache = Path(given) if given else cache_directory({}).parent / "cvmfs2"
        fd = joiner.mount(self._where, name)
        serve_with(self._options.client, name, fd, self._options.inside, cache, self._request.etc, ready)


def _write_pid(file: Path) -> None:
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    draft.write_text(f"{os.getpid()} {start_of(os.getpid())}\n", encoding="ascii")
    draft.replace(file)


def _in_background(run: Callable[[Callable[[], None]], None], options: argparse.Namespace) -> int:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        os.close(reading)
        _serve_and_exit(run, writing, options)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        answer = stream.read()
    if answer == _MOUNTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # nothing is left to do here, and taking the interpreter down would take a tenth of the time
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1


def _serve_and_exit(run: Callable[[Callable[[], None]], None], writing: int, options: argparse.Namespace) -> None:
    """The life of the process in the background; errors before it is mounted still go to the terminal."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        run(lambda: _detach(writing, options))
        code = 0
    except BadConfiguration as error:
        logging.getLogger("cvmfs").error("%s", error)
        code = 2
    except CvmfsError as error:
        logging.getLogger("cvmfs").error("%s", error)
        code = 16
    except BaseException:
        logging.getLogger("cvmfs").exception("ended by an error of this program")
    finally:
        with contextlib.suppress(Exception):
            logging.shutdown()
        os._exit(code)  # threads may still wait for a server that hangs


def _detach(writing: int, options: argparse.Namespace) -> None:
    """Let go of the terminal, and tell the waiting command that it is done."""
    handler: logging.Handler = logging.NullHandler()
    if options.log is not None:
        handler = logging.FileHandler(options.log)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    elif os.path.exists("/dev/log"):  # noqa: PTH110 — a socket
        from logging.handlers import SysLogHandler

        handler = SysLogHandler("/dev/log")
        handler.setFormatter(logging.Formatter("lmd-cvmfs: %(message)s"))
    logging.getLogger().handlers[:] = [handler]
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    os.write(writing, _MOUNTED)
    os.close(writing)
