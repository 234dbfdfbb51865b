"""The lines that conmon writes, in the format of Kubernetes' log files: `time stream tag text`, tag P where the text
goes on in the next line."""

import re

_LINE = re.compile(rb"^\S+ (?:stdout|stderr) ([FP])(?:\S*) (.*)$", re.DOTALL)


def plain(lines: list[bytes]) -> bytes:
    """The console's own bytes from whole lines of the file (without their newlines); what is no such line is kept."""
    pieces: list[bytes] = []
    for line in lines:
        if match := _LINE.match(line):
            pieces += (match[2], b"\n") if match[1] == b"F" else (match[2],)
        else:
            pieces += (line, b"\n")
    return b"".join(pieces)
