"""Conventional configuration files: shell in form, of which only assignments and plain conditions are understood.

Nothing is executed. Lines that are neither are passed over, as later files may be written for a shell.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from pathlib import Path

from cvmfs.errors import BadConfiguration

_MAX_BYTES = 1 << 20
_ASSIGNMENT = re.compile(r"\s*(?:export\s+|readonly\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL | re.ASCII)
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|([A-Za-z_][A-Za-z0-9_]*))", re.ASCII)
_WORD = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)|([^\s'"\\;#]+|(?<=[^\s;])#)""", re.DOTALL)
_IF = re.compile(r"\s*(?:if|elif)\s+\[\[?\s+(.*?)\s+\]\]?\s*;?\s*(?:then)?\s*", re.DOTALL)


def read_shell(text: str, values: MutableMapping[str, str], what: str) -> None:
    """Apply the assignments of a file to `values`, in order. Raises BadConfiguration for an unbalanced condition."""
    # each level: whether its branch applies, whether one has applied already, whether the level above applies
    levels: list[tuple[bool, bool, bool]] = []
    for line in _statements(text):
        word = line.split(None, 1)[0] if line.strip() else ""
        active = all(level[0] for level in levels)
        if word == "if":
            holds = active and _holds(line, values)
            levels.append((holds, holds, active))
        elif word in ("elif", "else", "fi", "then"):
            if word == "then":
                continue
            if not levels:
                raise BadConfiguration(f"{what}: {word!r} without an if")
            _, done, above = levels.pop()
            if word != "fi":
                holds = above and not done and (word == "else" or _holds(line, values))
                levels.append((holds, done or holds, above))
        elif active:
            _assign(line, values)
    if levels:
        raise BadConfiguration(f"{what}: an if without fi")


def read_shell_file(file: Path, values: MutableMapping[str, str]) -> bool:
    """Apply a file; False if there is none. Raises BadConfiguration if it cannot be read."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise BadConfiguration(f"{file}: cannot be read ({error.strerror})") from error
    if len(data) > _MAX_BYTES:
        raise BadConfiguration(f"{file}: longer than {_MAX_BYTES} bytes")
    read_shell(data.decode("utf-8", "surrogateescape"), values, str(file))
    return True


def _statements(text: str) -> list[str]:
    """Lines, joined where a backslash or an open quote says so, and split at `; then` and the like."""
    found: list[str] = []
    pending = ""
    for line in text.splitlines():
        joined = pending + line
        if _open_quote(joined):
            pending = joined + "\n"
            continue
        if joined.endswith("\\"):
            pending = joined[:-1]
            continue
        pending = ""
        if not joined.lstrip().startswith("#"):
            found.append(joined)
    return [*found, pending] if pending else found


def _open_quote(text: str) -> bool:
    inside = ""
    skip = False
    for letter in text:
        if skip:
            skip = False
        elif letter == "\\" and inside != "'":
            skip = True
        elif inside:
            inside = "" if letter == inside else inside
        elif letter in "'\"":
            inside = letter
        elif letter == "#":
            return False
    return bool(inside)


def _assign(line: str, values: MutableMapping[str, str]) -> None:
    match = _ASSIGNMENT.fullmatch(line)
    if match:
        values[match[1]] = _word(match[2], values)


def _word(text: str, values: MutableMapping[str, str]) -> str:
    """The first word of a text, with quotes removed and variables replaced."""
    found = []
    at = 0
    while match := _WORD.match(text, at):
        single, double, escaped, plain = match.groups()
        if single is not None:
            found.append(single)
        elif double is not None:
            found.append(re.sub(r"\\([\"\\$`])", r"\1", _replace(double, values)))
        else:
            found.append(escaped if escaped is not None else _replace(plain, values))
        at = match.end()
    return "".join(found)


def _replace(text: str, values: MutableMapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: values.get(match[1] or match[3]) or match[2] or "", text)


def _holds(line: str, values: MutableMapping[str, str]) -> bool:
    """Whether a condition of the forms a = b, a != b, -n a, -z a, -f a, -d a, -e a holds; any other does not."""
    match = _IF.match(line)
    if match is None:
        return False
    words = []
    rest = match[1].strip()
    while rest:
        part = re.match(r"""(?:'[^']*'|"(?:[^"\\]|\\.)*"|\\.|[^\s'"\\])+""", rest)
        if part is None:
            return False
        words.append(_word(part[0], values))
        rest = rest[part.end() :].lstrip()
    if len(words) == 3 and words[1] in ("=", "==", "!="):
        return (words[0] == words[2]) == (words[1] != "!=")
    if len(words) == 2 and words[0] in ("-n", "-z"):
        return bool(words[1]) == (words[0] == "-n")
    if len(words) == 2 and words[0] in ("-f", "-d", "-e"):
        path = Path(words[1])
        return {"-f": path.is_file, "-d": path.is_dir, "-e": path.exists}[words[0]]()
    return False
