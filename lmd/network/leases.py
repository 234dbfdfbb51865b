"""Which machine has which address: a file for each, made at once or not at all, that says whose directory it is for.

The same files are the metadata server's register of callers. An address is free again when that directory is gone.
"""

import json
import os
import secrets
import time
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

from lmd.metadata.account import account
from lmd.metadata.card import CALLERS
from lmd.network.addresses import FIRST, LAST, OURS, Place, place_of

YOUNG_SECONDS = 600.0
"""How long an address is kept for a machine whose directory is not made yet."""


class NoAddress(Exception):
    """All addresses are taken."""


def take(run: Path, directory: Path, start: int) -> Place:
    """A free place for the machine of `directory`, looked for from number `start` on. Raises `NoAddress`, OSError."""
    callers = run / CALLERS
    callers.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = json.dumps({"directory": str(directory)}).encode()
    count = LAST - FIRST + 1
    for step in range(count):
        number = FIRST + (start + step) % count
        if number in OURS:
            continue
        place = Place(number)
        if _taken(callers / str(place.address), content):
            return place
    raise NoAddress(f"all {count} addresses of the network are taken")


def _taken(path: Path, content: bytes) -> bool:
    """Make the file, over one whose machine is gone; False if the address is somebody's."""
    if path.exists():
        if not stale(path):
            return False
        with suppress(FileNotFoundError):
            path.unlink()
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        part.write_bytes(content)
        os.link(part, path)
    except FileExistsError:
        return False
    finally:
        part.unlink(missing_ok=True)
    return True


def note(run: Path, place: Place, directory: Path, name: str, address6: str) -> None:
    """Complete a lease with the machine's name and its IPv6 address. Raises OSError."""
    server = account(os.geteuid())
    callers = run / CALLERS
    server.share(callers, 0o750)
    content = json.dumps({"directory": str(directory), "name": name}).encode()
    for address in filter(None, (str(place.address), address6)):
        part = callers / f".{address}.{os.getpid()}.part"
        part.write_bytes(content)
        server.share(part, 0o640)
        part.rename(callers / address)


def give_back(run: Path, place: Place) -> None:
    """Free an address whose machine will not be made; its IPv6 twin goes with the next sweep."""
    (run / CALLERS / str(place.address)).unlink(missing_ok=True)


def places(run: Path) -> dict[Place, str]:
    """The place and the name of every machine that has one."""
    found = {}
    with suppress(OSError):
        for path in (run / CALLERS).iterdir():
            with suppress(OSError, ValueError, TypeError):
                place = place_of(IPv4Address(path.name))
                found[place] = str(json.loads(path.read_bytes()).get("name") or f"machine-{place.number:04x}")
    return found


def stale(path: Path) -> bool:
    """True if the machine that has this address is gone."""
    try:
        directory = Path(json.loads(path.read_bytes())["directory"])
        return not directory.exists() and time.time() - path.stat().st_mtime > YOUNG_SECONDS
    except FileNotFoundError:
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return True


def sweep(run: Path) -> list[str]:
    """Forget the addresses of machines that are gone; returns them."""
    gone = []
    with suppress(OSError):
        for path in sorted((run / CALLERS).iterdir()):
            if not path.name.startswith(".") and stale(path):
                path.unlink(missing_ok=True)
                gone.append(path.name)
    return gone
