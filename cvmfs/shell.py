"""Conventional configuration files: shell in form, of which assignments, conditions, `return` and `.` are understood.

Nothing is executed: a command that is not one of these does nothing, and counts as failed in a condition.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path

from cvmfs.errors import BadConfiguration

_MAX_BYTES = 1 << 20
_MOST_INCLUDED = 20
_ASSIGNMENT = re.compile(r"(?:export\s+|readonly\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL | re.ASCII)
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|([A-Za-z_][A-Za-z0-9_]*))", re.ASCII)
_WORD = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)|([^\s'"\\;#]+|(?<=[^\s;])#)""", re.DOTALL)
_KEYWORD = re.compile(r"(if|then|elif|else|fi)(?:\s+(.*))?", re.DOTALL)
_TEST = re.compile(r"\[\[?\s+(.*?)\s+\]\]?", re.DOTALL)
Values = MutableMapping[str, str]
Include = Callable[[str], str | None]
"""The text of the file that `.` names, or None if there is none."""


def read_shell(text: str, values: Values, what: str, include: Include = lambda _: None) -> None:
    """Apply the assignments of a file to `values`, in order. Raises BadConfiguration for an unbalanced condition."""
    _Reading(values, what, include).read(text)


def read_shell_file(file: Path, values: Values) -> bool:
    """Apply a file; False if there is none. Raises BadConfiguration if it cannot be read."""
    text = _text(file)
    if text is None:
        return False
    read_shell(text, values, str(file), lambda name: _text(file.parent / name))
    return True


def _text(file: Path) -> str | None:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise BadConfiguration(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(data) > _MAX_BYTES:
        raise BadConfiguration(f"{file}: longer than {_MAX_BYTES} bytes")
    return data.decode("utf-8", "surrogateescape")


class _Return(Exception):
    """The rest of a file is not read."""


class _Reading:
    def __init__(self, values: Values, what: str, include: Include) -> None:
        self._values, self._what, self._include = values, what, include
        self._included = 0
        # each level: whether its branch applies, whether one has applied already, whether the level above applies
        self._levels: list[tuple[bool, bool, bool]] = []

    def read(self, text: str) -> None:
        above, self._levels = self._levels, []
        try:
            for statement in _statements(text):
                self._statement(statement)
            if self._levels:
                raise BadConfiguration(f"{self._what}: an if without fi")
        except _Return:
            pass
        finally:
            self._levels = above

    def _statement(self, statement: str) -> None:
        keyword = _KEYWORD.fullmatch(statement)
        word, rest = keyword.groups("") if keyword else ("", "")
        active = all(level[0] for level in self._levels)
        if word == "if":
            holds = active and self._list(rest)
            self._levels.append((holds, holds, active))
        elif word in ("elif", "else", "fi"):
            if not self._levels:
                raise BadConfiguration(f"{self._what}: {word!r} without an if")
            _, done, above = self._levels.pop()
            if word != "fi":
                holds = above and not done and (word == "else" or self._list(rest))
                self._levels.append((holds, done or holds, above))
            if word == "else" and rest:
                self._statement(rest)
        elif word == "then":
            if rest:
                self._statement(rest)
        elif active:
            self._list(statement)

    def _list(self, text: str) -> bool:
        """Commands with && and || between them; whether the last that ran succeeded."""
        result, wanted = True, True
        for operator, command in _split(text):
            if operator:
                wanted = result == (operator == "&&")
            if wanted:
                result = self._command(command)
        return result

    def _command(self, text: str) -> bool:
        if text.startswith("! "):
            return not self._command(text[2:].strip())
        if test := _TEST.fullmatch(text):
            return self._test(test[1])
        if match := _ASSIGNMENT.fullmatch(text):
            self._values[match[1]] = _word(match[2], self._values)
            return True
        words = self._words(text)
        if words[:1] == ["return"]:
            raise _Return
        if words[:1] == ["unset"]:
            for name in words[1:]:
                self._values.pop(name, None)
        if words[:1] in (["."], ["source"]) and len(words) == 2:
            return self._source(words[1])
        return words[:1] in ([":"], ["true"], ["unset"])

    def _source(self, name: str) -> bool:
        self._included += 1
        text = self._include(name) if self._included <= _MOST_INCLUDED and "\0" not in name else None
        if text is None:
            return False
        self.read(text)
        return True

    def _words(self, text: str) -> list[str]:
        words = []
        rest = text.strip()
        while rest:
            part = re.match(r"""(?:'[^']*'|"(?:[^"\\]|\\.)*"|\\.|[^\s'"\\])+""", rest, re.DOTALL)
            if part is None:
                return []
            words.append(_word(part[0], self._values))
            rest = rest[part.end() :].lstrip()
        return words

    def _test(self, text: str) -> bool:
        """Whether a test of the forms a = b, a != b, -n a, -z a, -f a, -d a, -e a or a holds; any other does not."""
        words = self._words(text)
        if words[:1] == ["!"] and len(words) > 1:
            return not _holds(words[1:])
        return _holds(words)


def _holds(words: list[str]) -> bool:
    if len(words) == 3 and words[1] in ("=", "==", "!="):
        return (words[0] == words[2]) == (words[1] != "!=")
    if len(words) == 2 and words[0] in ("-n", "-z"):
        return bool(words[1]) == (words[0] == "-n")
    if len(words) == 2 and words[0] in ("-f", "-d", "-e", "-r") and "\0" not in words[1]:
        path = Path(words[1])
        return {"-f": path.is_file, "-d": path.is_dir, "-e": path.exists, "-r": path.exists}[words[0]]()
    return len(words) == 1 and bool(words[0])


def _statements(text: str) -> Iterator[str]:
    """Commands without what is around them: at line ends and semicolons, but for those in quotes; no comments."""
    found = ""
    quote = ""
    skip = comment = False
    for at, letter in enumerate(text):
        if comment and letter != "\n":
            continue
        comment = False
        if skip:
            skip = False
            found = found[:-1] if letter == "\n" else found + letter
        elif letter == "\\" and quote != "'":
            skip = True
            found += letter
        elif quote:
            quote = "" if letter == quote else quote
            found += letter
        elif letter == "#" and (at == 0 or text[at - 1] in " \t\n;"):
            comment = True
        elif letter in "\n;":
            if found.strip():
                yield found.strip()
            found = ""
        else:
            quote = letter if letter in "'\"" else ""
            found += letter
    if found.strip():
        yield found.strip()


def _split(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a list, each with the operator before it."""
    operator, start, quote, skip = "", 0, "", False
    at = 0
    while at < len(text):
        letter = text[at]
        if skip:
            skip = False
        elif letter == "\\" and quote != "'":
            skip = True
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif text[at : at + 2] in ("&&", "||"):
            yield operator, text[start:at].strip()
            operator, start = text[at : at + 2], at + 2
            at += 1
        at += 1
    yield operator, text[start:].strip()


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
