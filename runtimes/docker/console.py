"""The lines of Docker's `json-file` log: an object each, whose `log` ends with a newline unless the line goes on.

Docker has replaced what is no UTF-8 by U+FFFD before it writes.
"""

import json


def plain(lines: list[bytes]) -> bytes:
    """The console's own bytes from whole lines of the file (without their newlines); what is no such line is kept."""
    pieces: list[bytes] = []
    for line in lines:
        try:
            pieces.append(str(json.loads(line)["log"]).encode(errors="replace"))
        except (ValueError, TypeError, KeyError):
            pieces += (line, b"\n")
    return b"".join(pieces)
