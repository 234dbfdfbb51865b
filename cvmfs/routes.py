"""Which way a request goes: servers in turn, proxies in fail-over groups that share the load among their members."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from cvmfs.errors import BadConfiguration

DIRECT = "DIRECT"
AUTO = "auto"
ProxyGroups = tuple[tuple[str, ...], ...]


def parse_proxies(text: str) -> ProxyGroups:
    """Groups of proxies: `;` separates groups (fail over), `|` members (share the load), `DIRECT` is no proxy.

    A proxy without a scheme is http. Raises BadConfiguration.
    """
    groups = []
    for part in text.split(";"):
        members = tuple(_proxy(word) for word in part.split("|") if word.strip())
        if members:
            groups.append(members)
    if not groups:
        raise BadConfiguration("no proxy: CVMFS_HTTP_PROXY (or --proxy) has to name proxies, DIRECT or auto")
    return tuple(groups)


def _proxy(word: str) -> str:
    word = word.strip()
    if word.upper() == DIRECT:
        return DIRECT
    if word.lower() == AUTO:
        return AUTO
    return check_url(word if "://" in word else f"http://{word}", "proxy")


def check_url(text: str, what: str) -> str:
    """The URL without a final slash, if it is http or https with a host. Raises BadConfiguration."""
    text = text.strip().rstrip("/")
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or any(ord(letter) <= 32 or ord(letter) == 127 for letter in text):
        raise BadConfiguration(f"{what} {text[:120]!r}: not a URL such as http://host:port")
    return text


def parse_servers(text: str, repository: str) -> tuple[str, ...]:
    """The roots of the repository on its servers, from a list with `;` in which `@fqrn@` and `@org@` are replaced.

    Raises BadConfiguration.
    """
    text = text.replace("@fqrn@", repository).replace("@org@", repository.partition(".")[0])
    found = tuple(check_url(word, "server") for word in text.split(";") if word.strip())
    if not found:
        raise BadConfiguration("no server: CVMFS_SERVER_URL (or --server) has to name one")
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class ResetAfter:
    """Seconds after which a failed proxy or server is tried first again."""

    proxy: float = 300.0
    server: float = 1800.0


class Routes:
    """Remembers what failed, and says in which order to try. Safe to use from several threads."""

    def __init__(
        self,
        servers: Sequence[str],
        proxies: Callable[[], ProxyGroups],
        reset: ResetAfter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`proxies` is asked once, on first use: automatic configuration needs the network."""
        self._servers = tuple(servers)
        self._ask_proxies = proxies
        self._groups: ProxyGroups | None = None
        self._reset = reset
        self._clock = clock
        self._failed: dict[str, float] = {}
        self._lock = threading.Lock()

    @property
    def groups(self) -> ProxyGroups:
        """The proxies, found out on first use. Raises what finding them out raises."""
        with self._lock:
            if self._groups is None:
                self._groups = self._ask_proxies()
            return self._groups

    def servers(self) -> list[str]:
        """The servers: those that work in their given order, then those that failed, longest ago first."""
        return self._order(self._servers, self._reset.server)

    def proxies(self, path: str) -> list[str]:
        """The proxies for this path. Among the members of a group each path has its own order, so that the load
        is shared and each proxy sees the same paths again."""
        known = self.groups
        ordered = [member for group in known for member in sorted(group, key=lambda name: _weight(name, path))]
        return self._order(ordered, self._reset.proxy)

    def failed(self, name: str) -> None:
        """Note that this server or proxy did not work."""
        with self._lock:
            self._failed[name] = self._clock()

    def works(self, name: str) -> None:
        """Note that it did."""
        if name in self._failed:
            with self._lock:
                self._failed.pop(name, None)

    def _order(self, names: Sequence[str], reset: float) -> list[str]:
        if not self._failed:
            return list(names)
        now = self._clock()
        with self._lock:
            since = {name: when for name in names if now - (when := self._failed.get(name, -reset)) < reset}
        return [name for name in names if name not in since] + sorted(since, key=lambda name: since[name])


def _weight(name: str, path: str) -> bytes:
    return hashlib.blake2b(f"{name} {path}".encode(), digest_size=8).digest()
