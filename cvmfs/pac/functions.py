"""The functions that proxy auto-configuration scripts may call (as Netscape defined them), in Python."""

from __future__ import annotations

import fnmatch
import ipaddress
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_RESOLVED = 256


class Names:
    """Name resolution, each name once."""

    def __init__(self) -> None:
        self._known: dict[str, str | None] = {}

    def resolve(self, host: str) -> str | None:
        """The first IPv4 address of a host, or None."""
        if host not in self._known and len(self._known) < _RESOLVED:
            try:
                found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
                self._known[host] = str(found[0][4][0])
            except (OSError, UnicodeError, IndexError):
                self._known[host] = None
        return self._known.get(host)

    def own(self) -> str:
        """The address of this host towards the world, found without sending anything."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))
                return str(probe.getsockname()[0])
            except OSError:
                return "127.0.0.1"

    def in_net(self, host: str, pattern: str, mask: str) -> bool:
        """Whether a host (name or address) is in a network."""
        address = self.resolve(host)
        try:
            return address is not None and int(ipaddress.IPv4Address(address)) & int(
                ipaddress.IPv4Address(mask)
            ) == int(ipaddress.IPv4Address(pattern)) & int(ipaddress.IPv4Address(mask))
        except ValueError:
            return False


def _weekdays(*words: str) -> bool:
    now = time.gmtime() if words and words[-1] == "GMT" else time.localtime()
    days = [_DAYS.index(word) for word in words if word in _DAYS]
    today = (now.tm_wday + 1) % 7
    if len(days) < 2:
        return days == [today]
    first, last = days[0], days[1]
    return first <= today <= last if first <= last else today >= first or today <= last


def _times(*words: Any) -> bool:
    gmt = bool(words) and words[-1] == "GMT"
    now = time.gmtime() if gmt else time.localtime()
    numbers = [int(word) for word in words if isinstance(word, float)]
    if len(numbers) == 1:
        return now.tm_hour == numbers[0]
    half = len(numbers) // 2
    start, end = (_seconds(numbers[:half]), _seconds(numbers[half:]))
    moment = now.tm_hour * 3600 + now.tm_min * 60 + now.tm_sec
    return start <= moment <= end if start <= end else moment >= start or moment <= end


def _seconds(parts: list[int]) -> int:
    hours, minutes, seconds = (*parts, 0, 0, 0)[:3]
    return hours * 3600 + minutes * 60 + seconds


def _matches(text: str, pattern: str) -> bool:
    if pattern.count("*") > 32:
        return False
    return fnmatch.fnmatchcase(text, pattern.replace("[", "[[]"))


def pac_functions(names: Names) -> Mapping[str, Callable[..., Any]]:
    """Name to function; arguments are JavaScript values."""
    return {
        "isPlainHostName": lambda host: "." not in host,
        "dnsDomainIs": lambda host, domain: host.endswith(domain),
        "localHostOrDomainIs": lambda host, whole: host == whole or ("." not in host and whole.startswith(host + ".")),
        "isResolvable": lambda host: names.resolve(host) is not None,
        "isInNet": names.in_net,
        "dnsResolve": names.resolve,
        "myIpAddress": names.own,
        "dnsDomainLevels": lambda host: float(host.count(".")),
        "shExpMatch": _matches,
        "weekdayRange": _weekdays,
        "timeRange": _times,
        "alert": lambda *_: None,
        "parseInt": lambda text, *_: float(int(text)),
    }
