"""The network `lmd` in Docker. IPv6 from Docker 27 on, which masquerades it: before, its addresses lead nowhere."""

from pathlib import Path

from runtimes.containers.engine import Engine
from runtimes.containers.network import LABEL, NAME, host_has_ipv6
from runtimes.contract import Rejected
from runtimes.locks import held

IPV6_SINCE = 27


async def ensure(engine: Engine, version: str, locks: Path) -> None:
    """Make the network unless it is there. Raises `Rejected` if another of this name is, or if Docker refuses it."""
    if await _there(engine):
        return
    async with held(locks, f"network {NAME}"):  # Docker makes two of one name
        if await _there(engine):
            return
        wanted = {
            "Name": NAME,
            "CheckDuplicate": True,
            "Driver": "bridge",
            "EnableIPv6": masquerades(version) and host_has_ipv6(),
            "Labels": {LABEL: "1"},
        }
        made = await engine.call("POST", "/networks/create", body=wanted, seconds=120.0)
        if made.status not in (201, 409):
            raise made.fault(f"make the network {NAME}")


def masquerades(version: str) -> bool:
    """True for a version of Docker whose bridges lead IPv6 to the outside."""
    major = version.partition(".")[0]
    return major.isdecimal() and int(major) >= IPV6_SINCE


async def _there(engine: Engine) -> bool:
    found = await engine.call("GET", f"/networks/{NAME}")
    if found.status != 200 or found.body.get("Name") != NAME:
        return False
    if LABEL not in (found.body.get("Labels") or {}):
        raise Rejected(f"docker has a network {NAME} that is not ours: rename it, or give the machinetype another")
    return True
