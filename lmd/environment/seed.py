"""A NoCloud seed: the CD on which cloud-init finds what others ask a metadata server for (label `cidata`)."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LABEL = "cidata"
LIMIT = 32_000_000


class SeedError(Exception):
    """A seed cannot be made; one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """What is on it. `mac` names the network card; with `address6` that address is set, else none by IPv6.

    `cvmfs`: what a CernVM-FS client in the machine has to know.
    """

    instance_id: str
    hostname: str
    user_data: bytes = b""
    public_key: str = ""
    mac: str = ""
    address6: str = ""
    prefix6: int = 64
    gateway6: str = ""
    cvmfs: Mapping[str, str] = field(default_factory=dict)


def files(seed: Seed) -> dict[str, bytes]:
    """Name to content. JSON is YAML, which is what cloud-init reads."""
    meta: dict[str, Any] = {"instance-id": seed.instance_id, "local-hostname": seed.hostname}
    if seed.public_key:
        meta["public-keys"] = [seed.public_key]
    if seed.cvmfs:
        meta["cvmfs"] = dict(seed.cvmfs)
    found = {"meta-data": _yaml(meta), "user-data": seed.user_data}
    if seed.mac:
        card: dict[str, Any] = {"match": {"macaddress": seed.mac}, "dhcp4": True}
        if seed.address6:
            card["addresses"] = [f"{seed.address6}/{seed.prefix6}"]
            card["routes"] = [{"to": "::/0", "via": seed.gateway6}] if seed.gateway6 else []
        found["network-config"] = _yaml({"version": 2, "ethernets": {"lmd": card}})
    return found


def write(path: Path, seed: Seed) -> None:
    """Write the CD's image, for root alone: user_data may hold a private key. Raises `SeedError`."""
    from pycdlib import PyCdlib  # machines that want a seed alone need it

    content = files(seed)
    if sum(map(len, content.values())) > LIMIT:
        raise SeedError(f"user_data is larger than a seed may be, {LIMIT} bytes")
    part = path.with_name(f".{path.name}.part")
    image = PyCdlib()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    try:
        for number, (name, data) in enumerate(content.items()):
            short = f"/FILE{number}.;1"
            image.add_fp(io.BytesIO(data), len(data), short, rr_name=name, joliet_path=f"/{name}")
        part.unlink(missing_ok=True)
        part.touch(0o600)
        with part.open("r+b") as file:
            image.write_fp(file)
        part.rename(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise SeedError(f"{path}: {error.strerror}") from error
    finally:
        image.close()


def _yaml(value: Any) -> bytes:
    return f"{json.dumps(value, indent=1)}\n".encode()
