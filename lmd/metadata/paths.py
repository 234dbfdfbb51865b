"""A request's path as the names it is made of, or the refusal of one that tries to be something else. Pure."""

from urllib.parse import unquote_to_bytes

LONGEST_NAME = 255
LONGEST_PATH = 1024


class BadPath(Exception):
    """A path that is refused, whatever it leads to; one line."""


def names(raw: str) -> tuple[str, ...]:
    """`/latest//meta-data/?x` as `("latest", "meta-data", "")`: slashes folded, as Vac does, a last empty name for a
    final slash; the query is left out. Raises `BadPath`.

    Names are decoded once. What is a slash, a NUL or a step up only after that is refused, not followed.
    """
    path = raw.partition("?")[0].partition("#")[0]
    if len(path) > LONGEST_PATH:
        raise BadPath(f"the path is longer than {LONGEST_PATH} characters")
    if not path.startswith("/"):
        raise BadPath("the path does not begin with a slash")
    parts = path.split("/")
    folded = [part for part in parts if part] + ([""] if parts[-1] == "" else [])
    return tuple(map(_name, folded))


def _name(part: str) -> str:
    try:
        name = unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise BadPath("a name in the path is not UTF-8") from None
    if name in (".", "..") or "/" in name or "\\" in name:
        raise BadPath("a name in the path would lead elsewhere")
    if not name.isprintable():
        raise BadPath("a name in the path has control characters")
    if len(name.encode()) > LONGEST_NAME:
        raise BadPath(f"a name in the path is longer than {LONGEST_NAME} bytes")
    return name
