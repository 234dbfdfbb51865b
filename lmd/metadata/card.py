"""What the metadata server is told of a machine: files that it alone of all unprivileged processes may read.

    MACHINE/metadata/card.json, MACHINE/metadata/user_data     root:SERVER 0640, behind 0750
    MACHINE/incoming/                                          root:SERVER 0770: uploads that are not complete
    RUN/callers/ADDRESS                                        which machine has this address

SERVER is a group of the server's own. A caller counts while its card says that the address is its own, so that what
a removed machine leaves behind means nothing.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lmd.environment import trees
from lmd.metadata.account import Account

SCHEMA = 1
CARD_LIMIT = 1_000_000
ASIDE, CARD, USER_DATA, INCOMING, CALLERS = "metadata", "card.json", "user_data", "incoming", "callers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One machine, as the server answers for it. `address6` may be "". `prefix6` is the length of its prefix.

    `token_required`: whether the EC2 tree is closed to callers without a token (IMDSv2). `variables` are the three
    of the environment, as the type wants them. `cvmfs`: what a CernVM-FS client in the machine has to know.
    """

    id: str
    job_id: str
    space: str
    machinetype: str
    factory: str
    address: str
    mac: str
    port: str = ""
    bridge: str = ""
    address6: str = ""
    prefix6: int = 64
    gateway: str = ""
    gateway6: str = ""
    mtu: int = 1500
    public_key: str = ""
    token_required: bool = False
    variables: dict[str, str]
    cvmfs: dict[str, str] = field(default_factory=dict)
    outputs_bytes: int
    outputs_files: int
    schema: int = SCHEMA


_CARD = TypeAdapter(Card)


class Unreadable(Exception):
    """A machine's files cannot be used; one line."""


def make(directory: Path, card: Card, user_data: bytes | None, server: Account) -> None:
    """Write what the server reads of a machine, and the place for its uploads. Raises OSError."""
    aside, incoming = directory / ASIDE, directory / INCOMING
    for path, mode in ((aside, 0o750), (incoming, 0o770)):
        path.mkdir(mode=0o700, exist_ok=True)
        server.share(path, mode)
    if user_data is not None:
        _write(aside / USER_DATA, user_data, server)
    _write(aside / CARD, _CARD.dump_json(card, indent=1), server)


def register(run: Path, directory: Path, card: Card, server: Account) -> None:
    """Let the server know the machine by its addresses. Raises OSError."""
    callers = run / CALLERS
    callers.mkdir(mode=0o700, parents=True, exist_ok=True)
    server.share(callers, 0o750)
    content = json.dumps({"directory": str(directory)}).encode()
    for address in filter(None, (card.address, card.address6)):
        _write(callers / str(ip_address(address)), content, server)


@contextmanager
def opened(run: Path, address: IPv4Address | IPv6Address) -> Iterator[tuple[Card, int]]:
    """The card of the machine that has an address, and the descriptor of its directory, open within the context.

    Raises `Unreadable` if the address is no machine's, or its machine is gone.
    """
    try:
        with (run / CALLERS / str(address)).open("rb") as file:
            path = json.loads(file.read(CARD_LIMIT))["directory"]
        # O_PATH: the directory lets the server pass, not look around.
        top = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unreadable(f"{address} is no machine's address") from error
    try:
        yield _card(top, address), top
    finally:
        os.close(top)


def _card(top: int, address: IPv4Address | IPv6Address) -> Card:
    try:
        with trees.directory(ASIDE, top) as aside, trees.regular(CARD, aside) as file:
            content: Any = json.loads(os.read(file, CARD_LIMIT))
        names = Card.__dataclass_fields__
        card = _CARD.validate_python({k: v for k, v in content.items() if k in names})
    except (OSError, ValueError, AttributeError, trees.Refused) as error:
        raise Unreadable(f"the card of {address} cannot be read") from error
    if str(address) not in (card.address, card.address6):
        raise Unreadable(f"{address} is no longer the address of {card.id}")
    return card


def addresses(run: Path) -> dict[str, Path]:
    """Every registered address and the directory of its machine, whether that is still there or not."""
    found = {}
    with suppress(OSError):
        for path in (run / CALLERS).iterdir():
            with suppress(OSError, ValueError, KeyError):
                found[path.name] = Path(json.loads(path.read_bytes())["directory"])
    return found


def _write(path: Path, content: bytes, server: Account) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        server.share(part, 0o640)
        part.rename(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
