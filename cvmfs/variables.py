"""Links with variables: `$(NAME)` and `$(NAME:-default)` in the target of a link."""

from __future__ import annotations

import re
from collections.abc import Mapping

_VARIABLE = re.compile(rb"\$\(([^)]*)\)")


def expand(target: bytes, values: Mapping[str, str]) -> bytes:
    """The target as it is shown: unset variables become their default, or nothing. A name goes up to the first
    closing parenthesis; without one, the text stays."""
    if b"$(" not in target:
        return target

    def replace(match: re.Match[bytes]) -> bytes:
        name, _, default = match[1].partition(b":-")
        value = values.get(name.decode("utf-8", "surrogateescape"))
        return default if value is None else value.encode("utf-8", "surrogateescape")

    return _VARIABLE.sub(replace, target)
