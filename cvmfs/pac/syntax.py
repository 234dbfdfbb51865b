"""The part of JavaScript that proxy auto-configuration is written in, as a tree.

Nodes are tuples whose first item is their kind. Statements: ("var", name, expression), ("expression", e),
("return", e), ("if", condition, then, otherwise), ("while", condition, body, step), ("block", statements),
("function", name, parameters, body), ("break",), ("continue",). For loops become blocks with a while.
"""

from __future__ import annotations

import re
from typing import Any

from cvmfs.errors import BadConfiguration

Node = tuple[Any, ...]
_MAX_DEPTH = 60
_TOKEN = re.compile(
    r"(?P<space>(?:\s|//[^\n]*|/\*.*?\*/)+)"
    r"|(?P<number>0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?)"
    r"|(?P<name>[A-Za-z_$][A-Za-z0-9_$]*)"
    r"""|(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
    r"|(?P<sign>===|!==|==|!=|<=|>=|&&|\|\||\+\+|--|\+=|-=|[-+*/%<>=!?:;,.(){}\[\]])",
    re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_STRENGTH = {
    **{"||": 1, "&&": 2, "==": 3, "!=": 3, "===": 3, "!==": 3, "<": 4, ">": 4, "<=": 4, ">=": 4},
    **{"+": 5, "-": 5, "*": 6, "/": 6, "%": 6},
}
_ASSIGNMENTS = ("=", "+=", "-=")


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPES.get(code, code)


def _tokens(text: str) -> list[tuple[str, str]]:
    found = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise BadConfiguration(f"proxy auto-configuration: cannot read the script at {text[at : at + 30]!r}")
        kind = str(match.lastgroup)
        if kind == "string":
            found.append((kind, _ESCAPE.sub(_unescape, match[0][1:-1])))
        elif kind != "space":
            found.append((kind, match[0]))
        at = match.end()
    return [*found, ("end", "")]


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0
        self._depth = 0

    def program(self) -> list[Node]:
        statements = []
        while self._tokens[self._at][0] != "end":
            statements.append(self._statement())
        return statements

    def _peek(self, *signs: str) -> bool:
        kind, text = self._tokens[self._at]
        return kind in ("sign", "name") and text in signs

    def _take(self, *signs: str) -> bool:
        if self._peek(*signs):
            self._at += 1
            return True
        return False

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise BadConfiguration(
                f"proxy auto-configuration: {sign!r} expected, not {self._tokens[self._at][1][:30]!r}"
            )

    def _name(self) -> str:
        kind, text = self._tokens[self._at]
        if kind != "name":
            raise BadConfiguration(f"proxy auto-configuration: a name expected, not {text[:30]!r}")
        self._at += 1
        return text

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise BadConfiguration("proxy auto-configuration: the script is nested too deeply")

    def _statement(self) -> Node:
        self._deeper()
        try:
            return self._any_statement()
        finally:
            self._depth -= 1

    def _any_statement(self) -> Node:
        if self._take("{"):
            return self._block()
        if self._take("function"):
            return self._function(self._name())
        if self._take("if"):
            return self._if()
        if self._take("for"):
            return self._for()
        if self._take("while"):
            self._expect("(")
            condition = self._expression()
            self._expect(")")
            return ("while", condition, self._statement(), None)
        if self._take(";"):
            return ("block", [])
        return self._simple()

    def _simple(self) -> Node:
        if self._take("return"):
            value = ("value", None) if self._peek(";", "}") else self._expression()
            statement: Node = ("return", value)
        elif self._peek("break", "continue"):
            statement = (self._name(),)
        else:
            statement = self._declaration()
        if not self._peek("}"):
            self._take(";")  # a line's end does as well, as scripts in the wild have it
        return statement

    def _declaration(self) -> Node:
        if not self._take("var", "let", "const"):
            return ("expression", self._expression())
        statements: list[Node] = []
        while True:
            name = self._name()
            statements.append(("var", name, self._expression() if self._take("=") else ("value", None)))
            if not self._take(","):
                return statements[0] if len(statements) == 1 else ("block", statements)

    def _block(self) -> Node:
        statements = []
        while not self._take("}"):
            statements.append(self._statement())
        return ("block", statements)

    def _function(self, name: str) -> Node:
        self._expect("(")
        parameters = []
        while not self._take(")"):
            parameters.append(self._name())
            self._take(",")
        self._expect("{")
        return ("function", name, parameters, self._block())

    def _if(self) -> Node:
        self._expect("(")
        condition = self._expression()
        self._expect(")")
        then = self._statement()
        return ("if", condition, then, self._statement() if self._take("else") else ("block", []))

    def _for(self) -> Node:
        self._expect("(")
        start: Node = ("block", []) if self._peek(";") else self._declaration()
        self._expect(";")
        condition: Node = ("value", True) if self._peek(";") else self._expression()
        self._expect(";")
        step = None if self._peek(")") else self._expression()
        self._expect(")")
        return ("block", [start, ("while", condition, self._statement(), step)])

    def _expression(self) -> Node:
        self._deeper()
        try:
            left = self._conditional()
            for sign in _ASSIGNMENTS:
                if self._take(sign):
                    right = self._expression()
                    return ("assign", left, right if sign == "=" else ("binary", sign[0], left, right))
            return left
        finally:
            self._depth -= 1

    def _conditional(self) -> Node:
        condition = self._binary(1)
        if not self._take("?"):
            return condition
        then = self._expression()
        self._expect(":")
        return ("conditional", condition, then, self._expression())

    def _binary(self, least: int) -> Node:
        left = self._unary()
        while True:
            kind, sign = self._tokens[self._at]
            strength = _STRENGTH.get(sign, 0) if kind == "sign" else 0
            if strength < least:
                return left
            self._at += 1
            left = ("binary", sign, left, self._binary(strength + 1))

    def _unary(self) -> Node:
        self._deeper()
        try:
            for sign in ("!", "-", "+"):
                if self._take(sign):
                    return ("unary", sign, self._unary())
            for sign in ("++", "--"):
                if self._take(sign):
                    target = self._unary()
                    return ("assign", target, ("binary", sign[0], target, ("value", 1.0)))
            return self._postfix(self._primary())
        finally:
            self._depth -= 1

    def _postfix(self, value: Node) -> Node:
        while True:
            if self._take("."):
                value = ("member", value, ("value", self._name()))
            elif self._take("["):
                value = ("member", value, self._expression())
                self._expect("]")
            elif self._take("("):
                value = ("call", value, self._list(")"))
            elif self._peek("++", "--"):
                sign = self._tokens[self._at][1]
                self._at += 1
                value = ("assign", value, ("binary", sign[0], value, ("value", 1.0)))
            else:
                return value

    def _list(self, end: str) -> list[Node]:
        found = []
        while not self._take(end):
            found.append(self._expression())
            if not self._peek(end):
                self._expect(",")
        return found

    def _primary(self) -> Node:
        kind, text = self._tokens[self._at]
        self._at += 1
        if kind == "string":
            return ("value", text)
        if kind == "number":
            return ("value", float(int(text, 16)) if text[:2] in ("0x", "0X") else float(text))
        if kind == "name":
            constants = {"true": True, "false": False, "null": None, "undefined": None}
            return ("value", constants[text]) if text in constants else ("name", text)
        if (kind, text) == ("sign", "("):
            value = self._expression()
            self._expect(")")
            return value
        if (kind, text) == ("sign", "["):
            return ("array", self._list("]"))
        raise BadConfiguration(f"proxy auto-configuration: an expression expected, not {text[:30]!r}")


def parse_script(text: str) -> list[Node]:
    """The statements of a script. Raises BadConfiguration for what is not understood."""
    try:
        return _Parser(text).program()
    except IndexError:
        raise BadConfiguration("proxy auto-configuration: the script ends early") from None
