"""How images that lmd brought into an engine's store are named there: only those are ever removed. Pure."""

from collections.abc import Mapping, Sequence

from runtimes.contract import Rejected

LOADED = "localhost/lmd"
"""The repository that images loaded from archives are named in, with the first digits of their id."""
PULLED = "localhost/lmd/pulled"
"""The same for images that were pulled and had not been there."""
DIGITS = 12


def tag(image_id: str) -> str:
    """The tag of an image of ours."""
    return image_id.removeprefix("sha256:")[:DIGITS]


def ours(name: str) -> bool:
    """True for the names that mark an image as one that lmd brought."""
    return name.rpartition(":")[0] in (LOADED, PULLED)


def quoted(name: str) -> str:
    """An image's name as part of a request's path. Raises `Rejected` for what can be none."""
    if not name or any(ch.isspace() or ch in "?#%" or not ch.isprintable() for ch in name) or ".." in name:
        raise Rejected(f"image {name!r}: not an image's name")
    return name


def given_back(brought: Sequence[str], before: Mapping[str, str]) -> list[tuple[str, str, str | None]]:
    """What to do with names that an archive brought along: (repository, tag, the image whose name it was or None).

    `before` are the ids of the images behind all names, before the archive was loaded.
    """
    undo = []
    for name in brought:
        repository, colon, tagged = name.rpartition(":")
        if colon and "/" not in tagged and repository not in (LOADED, PULLED, "sha256"):
            undo.append((repository, tagged, before.get(name)))
    return undo
