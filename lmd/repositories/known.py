"""What is known of the repositories of this host: those that types name, and those that are mounted."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lmd.config.models import Config
from lmd.repositories.provider import ALL

if TYPE_CHECKING:
    from cvmfs.hosting import Provider


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """One repository here. `problem` is why it does not answer; empty if it does, or is not mounted."""

    name: str
    provider: str
    where: str
    mounted: bool
    types: tuple[str, ...]
    problem: str = ""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"types": list(self.types)}


def users(config: Config) -> dict[str, tuple[str, ...]]:
    """The repositories that machinetypes name, each with those types."""
    found: dict[str, tuple[str, ...]] = {}
    for type_ in config.machinetypes.values():
        for name in type_.cvmfs_repositories:
            if name != ALL:
                found[name] = (*found.get(name, ()), type_.name)
    return found


def repositories(config: Config, by: "Provider") -> list[Repository]:
    """All that are named or mounted; those that are mounted are looked at, each by a child with a time limit."""
    from cvmfs.fuse.mountpoint import mounted
    from cvmfs.hosting import probe

    named, now = users(config), mounted()
    below = {where.removeprefix(f"{by.root}/") for where in now if where.startswith(f"{by.root}/")}
    found = []
    for name in sorted({*named, *(name for name in below if "/" not in name)}):
        where = by.root / name
        there = str(where) in now
        problem = probe(where, float(config.cvmfs.probe_seconds)) if there else ""
        found.append(
            Repository(
                name=name,
                provider=by.name,
                where=str(where),
                mounted=there,
                types=named.get(name, ()),
                problem=problem,
            )
        )
    return found
