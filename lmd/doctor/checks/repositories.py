"""Whether CernVM-FS repositories can come into machines here, and whether those that types name answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lmd.doctor.check import Asked, Check
from lmd.doctor.finding import Finding, note, ok, warning

SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Repositories:
    """`missing` is why no provider works; `broken` and `named` are repositories, the former with why."""

    provider: str
    missing: str
    named: Sequence[str]
    broken: Sequence[tuple[str, str]]
    others: bool


def gather(asked: Asked) -> Repositories:
    """Look at what is mounted; nothing is mounted for it."""
    from lmd.repositories.known import repositories, users
    from lmd.repositories.provider import NoRepositories, provider

    named = tuple(sorted(users(asked.config)))
    try:
        by = provider(asked.config.cvmfs, asked.places)
        from cvmfs.hosting import may_allow_others

        found = repositories(asked.config, by)
    except NoRepositories as error:
        return Repositories(provider="", missing=str(error), named=named, broken=(), others=True)
    broken = tuple((repository.name, repository.problem) for repository in found if repository.problem)
    return Repositories(provider=by.name, missing="", named=named, broken=broken, others=may_allow_others())


def rule(found: Repositories) -> Iterator[Finding]:
    """A lack is worth a warning only where a type names a repository."""
    if found.missing:
        sentence, _, remedy = found.missing.partition(": ")
        said = warning if found.named else note
        yield said(f"repositories cannot be had: {remedy or sentence}")
        return
    reader = "the embedded reader" if found.provider == "embedded" else "the distribution's client"
    yield ok(f"repositories come by {reader}; {len(found.named)} named by types")
    for name, why in found.broken:
        yield warning(f"repository {name} does not answer: {why}", f"lm cvmfs remount {name}")
    if not found.others and found.provider == "embedded":
        yield note(
            "other users of this host, and so most users of machines, cannot be let into an ordinary user's mounts"
            ' (a type can have cvmfs.where = "machine" instead)',
            "echo user_allow_other >> /etc/fuse.conf",
        )


CHECK = Check("cernvm-fs", gather, rule, seconds=SECONDS)
