"""Links with variables: `$(NAME)` and `$(NAME:-default)` in the target of a link."""

from __future__ import annotations

import re
from collections.abc import Mapping

_VARIABLE = re.compile(rb"\$\(([^()$:]*)(?::-([^()]*))?\)")


def expand(target: bytes, values: Mapping[str, str]) -> bytes:
    """The target as it is shown: unset variables become their default, or nothing."""
    if b"$(" not in target:
        return target

    def replace(match: re.Match[bytes]) -> bytes:
        value = values.get(match[1].decode("utf-8", "replace"))
        return value.encode("utf-8", "surrogateescape") if value is not None else match[2] or b""

    return _VARIABLE.sub(replace, target)
