"""What a site allows, against what a machinetype asks."""

from lmd.config.models import MachineType, Policy
from runtimes.contract import Network


def violations(machinetype: MachineType, policy: Policy) -> list[tuple[tuple[str, ...], str]]:
    """Each thing that the type asks and the site does not allow: the key, and a sentence that says how to allow it."""
    found: list[tuple[tuple[str, ...], str]] = []
    if machinetype.network is Network.HOST and not policy.host_network:
        found.append((("network",), '"host" is not allowed here; [policy] host_network = true would allow it'))
    if machinetype.nested_containers and not policy.nested_containers:
        found.append((("nested_containers",), "is not allowed here: [policy] nested_containers is false"))
    for key in ("capabilities", "devices"):
        allowed = getattr(policy, key)
        for asked in getattr(machinetype, key):
            if asked not in allowed:
                found.append(((key,), f"{asked} is not allowed here; it would have to be in {key} of [policy]"))
    allowed = policy.cvmfs_repositories
    for name in machinetype.cvmfs_repositories if allowed is not None else ():
        if name not in (allowed or ()):
            found.append(
                (
                    ("cvmfs_repositories",),
                    f"{name} is not allowed here; it would have to be in cvmfs_repositories of [policy]",
                )
            )
    return found
