"""Make what a machine has written fit to be shown: no control characters, no terminal sequences. Pure."""

import codecs
import re

_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor movements
    r"|(?:\x1b[\]P^_X]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]{0,4096}(?:\x07|\x1b\\|\x9c)"  # OSC, DCS, SOS, PM, APC
    r"|\x1b[ -/]+[0-~]"  # character sets and the like
    r"|\x1b[0-Z\\^-~]"
)
_UNFINISHED = re.compile(
    r"(?:(?:\x1b\[|\x9b)[0-?]*[ -/]*"
    r"|(?:\x1b[\]P^_X]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]{0,4096}\x1b?"
    r"|\x1b[ -/]*"
    r"|\r)\Z"
)
_LONGEST_SEQUENCE = 4100
# Controls but newline and tab, lone surrogates, line separators, and what reverses the direction of writing.
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb]"
)


def terminal(text: str) -> str:
    """Text that moves no cursor, sets no title and hides nothing: only newline and tab are left of the controls.

    A carriage return, by which a line could be overwritten, becomes a newline.
    """
    return _HARMFUL.sub("", _SEQUENCE.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def decoded(data: bytes) -> str:
    """Bytes as UTF-8 made fit for a terminal; what is no UTF-8 becomes the replacement character."""
    return terminal(data.decode(errors="replace"))


class Stream:
    """`decoded` for pieces: a character or sequence that a piece cuts in two is held back for the next one."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def feed(self, data: bytes, *, final: bool = False) -> str:
        """What can be shown now; `final` lets go of everything."""
        text = self._held + self._decoder.decode(data, final)
        cut = None if final else _UNFINISHED.search(text, max(0, len(text) - _LONGEST_SEQUENCE))
        self._held = text[cut.start() :] if cut else ""
        return terminal(text[: cut.start()] if cut else text)


def line(data: bytes, limit: int) -> str:
    """The first line that is not blank, fit for a terminal, white space as single blanks, at most `limit` characters.

    What is cut ends in an ellipsis. Bytes far beyond what `limit` characters can need are not looked at.
    """
    start = data.lstrip()[: limit * 8 + 4096]
    first = next((text for text in decoded(start).split("\n") if text.strip()), "")
    words = " ".join(first.split())
    return words if len(words) <= limit else words[: limit - 1] + "…"


def name(path: str | bytes) -> str:
    r"""A file name in one printable line; control characters, bytes that are no UTF-8 and backslashes are escaped
    (`\n`, `\xff`, `\\`), so that different names look different."""
    data = path if isinstance(path, bytes) else path.encode(errors="surrogateescape")
    text = data.replace(b"\\", b"\\\\").decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
