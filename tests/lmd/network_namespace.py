"""Network namespaces for tests, and what runs inside them."""

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000


class Namespace:
    """A network namespace that a process holds."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo ready; read _"], stdin=-1, stdout=-1)
        assert self._holder.stdout
        assert self._holder.stdout.readline() == b"ready\n"
        self.pid = self._holder.pid

    @classmethod
    def of(cls, pid: int) -> "Namespace":
        """The namespace that a process of somebody else's is in."""
        made = cls.__new__(cls)
        made.pid = pid
        return made

    def run(self, call: Callable[..., T], *args: Any) -> T:
        """`call` in a thread that is in this namespace."""
        result: list[Any] = []

        def inside() -> None:
            descriptor = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
            try:
                assert ctypes.CDLL(None).setns(descriptor, _CLONE_NEWNET) == 0
                result.extend((True, call(*args)))
            except BaseException as error:
                result.extend((False, error))
            finally:
                os.close(descriptor)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        good, value = result
        if not good:
            raise value
        return value

    def command(self, *words: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *words]

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate()
