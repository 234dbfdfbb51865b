"""The kinds of value that configuration keys take: sizes with units, names, paths inside a machine, text.

Bare numbers have Vac's unit where Vac has the option; strings carry their own: `k M G T` are powers of ten,
`Ki Mi Gi Ti` powers of two.
"""

import datetime
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, StrictFloat, StrictInt, WithJsonSchema

MEBIBYTE = 1024 * 1024
GIGABYTE = 10**9
LONGEST_TEXT = 65_536
MOST_BYTES = 2**63 - 1
MOST_SECONDS = 10**9
MOST_MOMENT = 10**11

_SIZE = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,9}))? ?([kMGT]|[KMGT]i)?B?")
_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


@dataclass(frozen=True, slots=True)
class Unit:
    """What a bare number of this kind counts; read by the reference page."""

    name: str


def size(value: object, bare: int = 1) -> int:
    """Bytes for `512`, `"512Mi"`, `"1.5G"`; a bare number counts `bare` bytes. Raises ValueError saying what is meant.

    A fraction of a byte is dropped.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return _bounded(value * bare)
    if not isinstance(value, str):
        raise ValueError('expected a size: a whole number, or a string such as "512Mi" or "10G"')
    found = _SIZE.fullmatch(value.strip())
    if not found:
        raise ValueError(f'expected a size such as "512Mi" or "10G", got {shorten(value)}')
    whole, fraction, unit = found.groups(default="")
    factor = _FACTORS[unit] if unit else bare
    return _bounded(int(whole) * factor + int(fraction or 0) * factor // 10 ** len(fraction))


def moment(value: object) -> int:
    """Unix seconds of a date-time with an offset, or of a whole number. Raises ValueError saying what is meant."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return math.floor(value.timestamp())
    raise ValueError(
        "expected a date-time with an offset, such as 2027-03-01T08:00:00+01:00, or Unix seconds, got " + shorten(value)
    )


def shorten(value: object) -> str:
    """The value as it would stand in a message: text quoted, in one line, at most 60 characters; or its kind."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value) if abs(value) < 10**18 or value != value else "a number beyond all bounds"
    if isinstance(value, str):
        text = repr(value[:80])
        return text if len(text) <= 60 else text[:57] + "..."
    kinds = {dict: "a table", list: "a list", tuple: "a list", datetime.datetime: "a date-time"}
    return next((name for kind, name in kinds.items() if isinstance(value, kind)), f"a {type(value).__name__}")


def line(value: str) -> str:
    """The text itself if it has no control character; else raises ValueError."""
    if any(not character.isprintable() for character in value):
        raise ValueError("expected one line without control characters")
    return value


def host_path(value: str) -> str:
    """An absolute path of the host; else raises ValueError."""
    if not line(value).startswith("/"):
        raise ValueError(f"expected an absolute path, got {shorten(value)}")
    return value


def without_nul(value: str) -> str:
    """The text itself if it may be an argument or a variable's value; else raises ValueError."""
    if "\0" in value:
        raise ValueError("may not contain a NUL character")
    return value


def inside_path(value: str) -> str:
    """An absolute, plain path inside a machine; else raises ValueError. Trailing slashes are dropped."""
    line(value)
    path = value.rstrip("/")
    if not value.startswith("/") or "//" in path or any(part in (".", "..") for part in path.split("/")):
        raise ValueError(f'expected an absolute path without "." or "..", got {shorten(value)}')
    if not path:
        raise ValueError("the root of the machine cannot be replaced")
    return path


def budget(value: object) -> int | str | tuple[str, ...]:
    """A number of processors, the path of a file or a command that says it; else raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65_536:
        return value
    if isinstance(value, str) and value.startswith("/") and len(value) <= 4096:
        return line(value)
    if isinstance(value, (list, tuple)) and _is_command(value) and value[0].startswith("/"):
        return tuple(value)
    raise ValueError(
        f"expected a number of 0 to 65536, the absolute path of a file, or a list of a command's absolute path and its"
        f" arguments, got {shorten(value)}"
    )


def notice(value: object) -> str | tuple[str, ...]:
    """`features`, `sigterm` or a command as a list of words; else raises ValueError."""
    if value in ("features", "sigterm"):
        return str(value)
    if isinstance(value, (list, tuple)) and _is_command(value):
        return tuple(value)
    raise ValueError(f'expected "features", "sigterm" or a list with a command and its arguments, got {shorten(value)}')


def _is_command(words: Sequence[object]) -> bool:
    return 0 < len(words) <= 1000 and all(isinstance(word, str) and word and "\0" not in word for word in words)


def _bounded(number: int) -> int:
    if not 0 <= number <= MOST_BYTES:
        raise ValueError("expected a size between 0 and 2^63-1 bytes")
    return number


def _mebibytes(value: Any) -> int:
    return size(value, bare=MEBIBYTE) // MEBIBYTE


def _gigabytes(value: Any) -> int:
    return size(value, bare=GIGABYTE) // GIGABYTE


_SIZE_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{_SIZE.pattern}$"}]}

Bytes = Annotated[int, BeforeValidator(size), Unit("bytes"), WithJsonSchema(_SIZE_SCHEMA)]
MiB = Annotated[int, BeforeValidator(_mebibytes), Field(ge=1, le=2**26), Unit("MiB"), WithJsonSchema(_SIZE_SCHEMA)]
GB = Annotated[int, BeforeValidator(_gigabytes), Field(ge=1, le=2**20), Unit("GB"), WithJsonSchema(_SIZE_SCHEMA)]
Seconds = Annotated[StrictInt, Field(ge=0, le=MOST_SECONDS), Unit("seconds")]
Days = Annotated[StrictFloat, Field(ge=0, le=10_000, allow_inf_nan=False)]
Count = Annotated[StrictInt, Field(ge=1, le=2**31 - 1)]
Processors = Annotated[StrictInt, Field(ge=1, le=65_536)]
Rating = Annotated[StrictFloat, Field(ge=0.01, le=1e6, allow_inf_nan=False)]
_WORDS = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
Budget = Annotated[
    int | str | tuple[str, ...],
    PlainValidator(budget),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^/"}, _WORDS]}),
]
Notice = Annotated[
    str | tuple[str, ...],
    PlainValidator(notice),
    WithJsonSchema({"anyOf": [{"type": "string", "enum": ["features", "sigterm"]}, _WORDS]}),
]
Share = Annotated[StrictFloat, Field(ge=0, le=1e9, allow_inf_nan=False)]
Moment = Annotated[
    int,
    BeforeValidator(moment),
    Field(ge=0, le=MOST_MOMENT),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "format": "date-time"}]}),
]
Line = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(line)]
Text = Annotated[str, Field(max_length=LONGEST_TEXT), AfterValidator(without_nul)]
HostPath = Annotated[str, Field(max_length=4096), AfterValidator(host_path)]
InsidePath = Annotated[str, Field(max_length=4096), AfterValidator(inside_path)]
OptionName = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$")]
DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
DnsName = Annotated[
    str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$", max_length=253)
]
