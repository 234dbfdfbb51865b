"""Run a proxy auto-configuration script, bounded in steps and in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cvmfs.errors import BadConfiguration
from cvmfs.pac.functions import Names, pac_functions
from cvmfs.pac.syntax import Node, parse_script

_MAX_STEPS = 200_000
_MAX_TEXT = 1 << 16
_MAX_CALLS = 40


class _Return(Exception):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


def find_proxy(script: str, url: str, host: str) -> str:
    """What `FindProxyForURL(url, host)` of the script answers. Raises BadConfiguration."""
    try:
        answer = _Run(parse_script(script)).call("FindProxyForURL", [url, host])
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        raise BadConfiguration(f"proxy auto-configuration: the script failed ({error})") from error
    if not isinstance(answer, str):
        raise BadConfiguration("proxy auto-configuration: the script gave no answer")
    return answer


class _Run:
    """One run: values are texts, floats, booleans, None, lists and functions."""

    def __init__(self, program: list[Node]) -> None:
        self._steps = 0
        self._calls = 0
        self._globals: dict[str, Any] = dict(pac_functions(Names()))
        self._globals["String"] = _text
        self._globals["Number"] = float
        self._do_all(program, self._globals)

    def call(self, name: str, arguments: list[Any]) -> Any:
        function = self._globals.get(name)
        if not callable(function):
            raise BadConfiguration(f"proxy auto-configuration: the script has no function {name}")
        return function(*arguments)

    def _step(self) -> None:
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise BadConfiguration(f"proxy auto-configuration: the script does not end within {_MAX_STEPS} steps")

    def _do_all(self, statements: list[Node], scope: dict[str, Any]) -> None:
        for statement in statements:  # functions can be called before the line that defines them
            if statement[0] == "function":
                self._define(statement, scope)
        for statement in statements:
            self._do(statement, scope)

    def _define(self, statement: Node, scope: dict[str, Any]) -> None:
        _, name, parameters, body = statement

        def function(*arguments: Any) -> Any:
            self._calls += 1
            if self._calls > _MAX_CALLS:
                raise BadConfiguration("proxy auto-configuration: the script calls itself too deeply")
            padded = list(arguments) + [None] * len(parameters)
            local = dict(zip(parameters, padded, strict=False))
            try:
                self._do(body, local)
            except _Return as result:
                return result.value
            finally:
                self._calls -= 1
            return None

        scope[name] = function

    def _do(self, statement: Node, scope: dict[str, Any]) -> None:
        self._step()
        kind = statement[0]
        if kind == "block":
            self._do_all(statement[1], scope)
        elif kind == "var":
            scope[statement[1]] = self._value(statement[2], scope)
        elif kind == "expression":
            self._value(statement[1], scope)
        elif kind == "return":
            raise _Return(self._value(statement[1], scope))
        elif kind == "if":
            self._do(statement[2] if _true(self._value(statement[1], scope)) else statement[3], scope)
        elif kind == "while":
            self._loop(statement, scope)
        elif kind in ("break", "continue"):
            raise _Break if kind == "break" else _Continue

    def _loop(self, statement: Node, scope: dict[str, Any]) -> None:
        _, condition, body, step = statement
        while _true(self._value(condition, scope)):
            try:
                self._do(body, scope)
            except _Break:
                return
            except _Continue:
                pass
            if step is not None:
                self._value(step, scope)

    def _value(self, node: Node, scope: dict[str, Any]) -> Any:
        self._step()
        kind = node[0]
        if kind == "value":
            return node[1]
        if kind == "name":
            return scope[node[1]] if node[1] in scope else self._globals[node[1]]
        evaluate: dict[str, Callable[[Node, dict[str, Any]], Any]] = {
            "array": lambda node, scope: [self._value(item, scope) for item in node[1]],
            "unary": self._unary,
            "binary": self._binary,
            "conditional": self._conditional,
            "assign": self._assign,
            "member": lambda node, scope: _member(self._value(node[1], scope), self._value(node[2], scope)),
            "call": self._call,
        }
        return evaluate[kind](node, scope)

    def _conditional(self, node: Node, scope: dict[str, Any]) -> Any:
        return self._value(node[2] if _true(self._value(node[1], scope)) else node[3], scope)

    def _unary(self, node: Node, scope: dict[str, Any]) -> Any:
        value = self._value(node[2], scope)
        return not _true(value) if node[1] == "!" else -float(value) if node[1] == "-" else float(value)

    def _assign(self, node: Node, scope: dict[str, Any]) -> Any:
        if node[1][0] != "name":
            raise BadConfiguration("proxy auto-configuration: only variables can be assigned to")
        value = self._value(node[2], scope)
        name = node[1][1]
        (scope if name in scope or name not in self._globals else self._globals)[name] = value
        return value

    def _call(self, node: Node, scope: dict[str, Any]) -> Any:
        function = self._value(node[1], scope)
        if not callable(function):
            raise BadConfiguration("proxy auto-configuration: the script calls what is no function")
        return function(*[self._value(item, scope) for item in node[2]])

    def _binary(self, node: Node, scope: dict[str, Any]) -> Any:
        sign = node[1]
        left = self._value(node[2], scope)
        if sign == "&&":
            return self._value(node[3], scope) if _true(left) else left
        if sign == "||":
            return left if _true(left) else self._value(node[3], scope)
        right = self._value(node[3], scope)
        if sign in ("==", "===", "!=", "!=="):
            same = left == right and (isinstance(left, bool) == isinstance(right, bool))
            return same if sign[0] == "=" else not same
        if sign == "+" and (isinstance(left, str) or isinstance(right, str)):
            joined = _text(left) + _text(right)
            if len(joined) > _MAX_TEXT:
                raise BadConfiguration("proxy auto-configuration: the script makes too long a text")
            return joined
        return _compute(sign, left, right)


def _compute(sign: str, left: Any, right: Any) -> Any:
    if sign in ("<", ">", "<=", ">="):
        if not (isinstance(left, str) and isinstance(right, str)):
            left, right = float(left), float(right)
        return {"<": left < right, ">": left > right, "<=": left <= right, ">=": left >= right}[sign]
    left, right = float(left), float(right)
    operations: dict[str, Callable[[], float]] = {
        "+": lambda: left + right,
        "-": lambda: left - right,
        "*": lambda: left * right,
        "/": lambda: left / right,
        "%": lambda: left % right,
    }
    return operations[sign]()


def _true(value: Any) -> bool:
    return value not in (None, False, "", 0.0)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "null" if value is None else str(value)


def _member(value: Any, name: Any) -> Any:
    """A property or method of a text or an array."""
    if isinstance(value, str | list) and isinstance(name, float):
        position = int(name)
        return value[position] if 0 <= position < len(value) else None
    if isinstance(value, str | list) and name == "length":
        return float(len(value))
    if isinstance(value, str) and name in _METHODS:
        method = _METHODS[name]
        return lambda *arguments: method(value, *arguments)
    raise BadConfiguration(f"proxy auto-configuration: the script uses .{_text(name)[:40]}, which is not supported")


def _substring(text: str, start: float, end: float | None = None) -> str:
    first = max(0, int(start))
    last = len(text) if end is None else max(0, int(end))
    return text[min(first, last) : max(first, last)]


def _slice(text: str, start: float, end: float | None = None) -> str:
    return text[int(start) : None if end is None else int(end)]


_METHODS: dict[str, Callable[..., Any]] = {
    "toLowerCase": lambda text: text.lower(),
    "toUpperCase": lambda text: text.upper(),
    "indexOf": lambda text, part, start=0.0: float(text.find(part, int(start))),
    "lastIndexOf": lambda text, part: float(text.rfind(part)),
    "substring": _substring,
    "substr": lambda text, start, length=None: text[int(start) :][: None if length is None else int(length)],
    "slice": _slice,
    "charAt": lambda text, position=0.0: text[int(position) : int(position) + 1],
    "split": lambda text, sign: [*text.split(sign)] if sign else list(text),
    "startsWith": lambda text, part: text.startswith(part),
    "endsWith": lambda text, part: text.endswith(part),
    "includes": lambda text, part: part in text,
    "replace": lambda text, old, new: text.replace(old, new, 1),
    "trim": lambda text: text.strip(),
    "toString": lambda text: text,
}
