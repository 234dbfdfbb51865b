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

from cvmfs.configuration import Request, load_settings
from cvmfs.errors import BadConfiguration, CvmfsError
from cvmfs.fuse.mountpoint import check_mountpoint, check_options
from cvmfs.settings import open_repository

_MOUNTED = b"mounted"


def mount(request: Request, options: argparse.Namespace) -> int:
    """Mount, and return 0 once mounted (in the foreground: once unmounted). Raises CvmfsError."""
    where = check_mountpoint(options.mountpoint)
    settings = load_settings(request)
    words = list(options.options)
    if settings.setuid:
        words.append("suid")
    if settings.check_permissions:
        words.append("default_permissions")
    kernel = check_options(words, settings.repository)

    def run(ready: Callable[[], None]) -> None:
        from cvmfs.fuse.serve import serve  # imported by the process that serves

        repository = open_repository(settings)
        if repository.revision.warning:
            logging.getLogger("cvmfs").warning("%s: %s", repository.name, repository.revision.warning)
        serve(repository, settings, where, kernel, ready=ready, with_process=options.with_process)

    if options.foreground:
        run(lambda: None)
        logging.shutdown()
        os._exit(0)  # threads may still wait for a server that hangs
    return _in_background(run, options)


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
