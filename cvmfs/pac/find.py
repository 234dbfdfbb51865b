"""Where the proxy auto-configuration comes from, and what its answer means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from urllib.parse import urlsplit

from cvmfs.errors import BadConfiguration, CvmfsError, Unreachable
from cvmfs.http import Http, Limits
from cvmfs.pac.script import find_proxy
from cvmfs.routes import DIRECT, check_url

_MAX_SCRIPT = 1 << 20


def find_proxies(
    urls: Sequence[str], servers: Sequence[str], http: Http, limits: Limits
) -> tuple[tuple[str, ...], ...]:
    """Proxy groups for the first server, by the first of the scripts at `urls` that can be had and gives an answer.

    `auto` among the URLs is what the environment variable `http_proxy_pac` or the name wpad says. Scripts are
    fetched without a proxy; `file://` is allowed. Raises Unreachable with the reason of the last failure.
    """
    last: CvmfsError = Unreachable("proxy auto-configuration: no URL is configured (CVMFS_PAC_URLS)")
    for url in urls:
        try:
            server = servers[0]
            answer = find_proxy(_fetch(url, http, limits), server, urlsplit(server).hostname or "")
            return groups_from_answer(answer)
        except CvmfsError as error:
            last = error
    raise Unreachable(f"proxy auto-configuration failed: {last}") from last


def _fetch(url: str, http: Http, limits: Limits) -> str:
    if url.startswith("file://"):
        path = urlsplit(url).path
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as stream:
                data = stream.read(_MAX_SCRIPT)
        except OSError as error:
            raise Unreachable(f"{url}: {error.strerror}") from error
    else:
        data = b"".join(http.get(check_url(url, "CVMFS_PAC_URLS"), None, limits, _MAX_SCRIPT, fresh=True))
    return data.decode("utf-8", "replace")


def groups_from_answer(answer: str) -> tuple[tuple[str, ...], ...]:
    """Groups from an answer such as `PROXY a:3128; PROXY b:3128; DIRECT`, each to be tried after the one before.

    Kinds of proxies that this reader does not speak (SOCKS) are left out. Raises BadConfiguration if none is left.
    """
    groups = []
    for part in answer.split(";"):
        words = part.split()
        kind = words[0].upper() if words else ""
        if kind == "DIRECT" and len(words) == 1:
            groups.append((DIRECT,))
        elif kind in ("PROXY", "HTTP", "HTTPS") and len(words) == 2:
            scheme = "https" if kind == "HTTPS" else "http"
            address = words[1] if "://" in words[1] else f"{scheme}://{words[1]}"
            groups.append((check_url(address, "proxy auto-configuration"),))
    if not groups:
        raise BadConfiguration(f"proxy auto-configuration: the answer {answer[:200]!r} names no usable proxy")
    return tuple(groups)
