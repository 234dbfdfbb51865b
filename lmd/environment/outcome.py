"""How a machine's end is read: shutdown messages, exit codes, and what its supervisor did. Pure.

Classes of shutdown messages: spec section 2.4. A message of the payload wins over all else; what is untrusted in it is
cleaned and cut.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from lmd.environment import printable
from runtimes.contract import End, EndReason

MESSAGE_FILE = "shutdown_message"
MESSAGE_LIMIT = 65_536
"""Bytes of a shutdown_message file that are read; a larger one is no message."""
TEXT_LIMIT = 300
_MESSAGE = re.compile(r"([1-7][0-9]{2})(?: +(.*))?")

CLASSES = {
    1: "ended because the host asked",
    2: "the work was done",
    3: "there was no work",
    4: "this site or host is banned",
    5: "the environment that the site gives is at fault",
    6: "the application or the grid is at fault",
    7: "a passing fault in this machine",
}
"""The hundreds of a shutdown message's code, in words."""


class Why(StrEnum):
    """Why whoever supervises a machine ends it."""

    TIMED_OUT = "timed out"
    HEARTBEAT_MISSING = "heartbeat missing"
    HEARTBEAT_LOST = "heartbeat lost"
    QUOTA = "quota exceeded"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    EARLIER = "told to end earlier"
    PAUSED = "paused"


class Decided(StrEnum):
    """Whose word the outcome is."""

    PAYLOAD = "payload"
    EXIT_CODE = "exit code"
    SUPERVISOR = "supervisor"
    ENGINE = "engine"


class Exit(IntEnum):
    """Exit codes of `lm run`; stable, and apart from those of shells (1, 2, 126 and above)."""

    SUCCESS = 0  # shutdown message 100 to 299, or a clean end without one
    NO_WORK = 10  # shutdown message 300 to 399
    FAILED = 11  # shutdown message 400 and above, or an end that was not clean
    TIMED_OUT = 12
    HEARTBEAT = 13
    QUOTA = 14
    STOPPED = 15  # by lm stop, lm destroy, Ctrl-C or a signal to lm run
    CANNOT_START = 20
    CANNOT_TELL = 21  # the engine stopped answering; the machine may still be there


@dataclass(frozen=True, slots=True)
class Message:
    """A shutdown message: its code and its text, which is printable, on one line and not long."""

    code: int
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.text}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a machine ended. `message` None: it left none and needs none; `detail` is a sentence for people."""

    message: Message | None
    decided: Decided
    detail: str
    exit: Exit

    @property
    def meaning(self) -> str:
        """The message's class in words, or the detail where there is no message."""
        return CLASSES[self.message.code // 100] if self.message else self.detail


def parse(content: bytes | None) -> Message | None:
    """The first line of a shutdown_message file, `NNN text`; None if it has no code of 100 to 799."""
    match = _MESSAGE.fullmatch(printable.line((content or b"")[:MESSAGE_LIMIT], TEXT_LIMIT))
    return Message(int(match[1]), match[2] or "") if match else None


def mapped(codes: Mapping[int, str], end: End | None) -> Message | None:
    """The message that a type's `outcome` table gives for the exit code; None if it has none.

    The exit code of a machine that the memory limit has ended is not its payload's word.
    """
    if end is None or end.exit_code is None or end.exit_code not in codes or end.reason is EndReason.OOM:
        return None
    return parse(codes[end.exit_code].encode())


WORDS = {
    Why.TIMED_OUT: (Message(700, "Passed shutdowntime"), Exit.TIMED_OUT),
    Why.HEARTBEAT_MISSING: (Message(700, "Heartbeat file not created"), Exit.HEARTBEAT),
    Why.HEARTBEAT_LOST: (Message(700, "Heartbeat file not updated"), Exit.HEARTBEAT),
    Why.QUOTA: (Message(700, "Joboutputs quota exceeded"), Exit.QUOTA),
    Why.STOPPED: (Message(100, "Stopped by the operator"), Exit.STOPPED),
    Why.INTERRUPTED: (Message(100, "lm run was interrupted"), Exit.STOPPED),
    Why.EARLIER: (Message(100, "Ended because the host asked"), Exit.STOPPED),
    Why.PAUSED: (Message(700, "Paused by its engine"), Exit.FAILED),
}
"""What a supervisor writes when the payload has left no message (spec 2.4), and the exit code either way."""

ENDS = {
    EndReason.OOM: "the memory limit ended it",
    EndReason.KILLED: "a signal ended it",
    EndReason.CRASHED: "its payload never ran",
    EndReason.LOST: "the engine cannot say how it ended",
}


def judge(
    payload: bytes | None,
    end: End | None,
    codes: Mapping[int, str],
    ended_by: tuple[Why, str] | None,
    *,
    lifetime: float,
    fizzle: float,
) -> Outcome:
    """The outcome of a machine that lived `lifetime` seconds.

    `payload`: content of its shutdown_message, `end`: the engine's word (None: the machine vanished), `ended_by`: why
    its supervisor ended it, if it did. An end within `fizzle` seconds without any message is a fault of the machine
    (700), however clean it looks to the engine, where it was not ended by us and did not exit with 0.
    """
    message = parse(payload)
    if message:
        return Outcome(message=message, decided=Decided.PAYLOAD, detail=_why(ended_by), exit=_exit(message, ended_by))
    if ended_by:
        why, detail = ended_by
        message, code = WORDS[why]
        return Outcome(message=message, decided=Decided.SUPERVISOR, detail=detail, exit=code)
    message = mapped(codes, end)
    if message:
        detail = f"exit code {end.exit_code}" if end else ""
        return Outcome(message=message, decided=Decided.EXIT_CODE, detail=detail, exit=_exit(message, None))
    return _engine(end, lifetime, fizzle)


def _engine(end: End | None, lifetime: float, fizzle: float) -> Outcome:
    if end is None:
        gone = Message(700, "The machine is gone")
        return Outcome(message=gone, decided=Decided.ENGINE, detail="another has destroyed it", exit=Exit.STOPPED)
    if end.reason is EndReason.CLEAN and end.exit_code == 0:
        return Outcome(message=None, decided=Decided.ENGINE, detail="exit code 0", exit=Exit.SUCCESS)
    if end.reason is EndReason.CLEAN:  # nobody knows more: a machine with a system of its own that went off
        detail = printable.line(end.detail.encode(errors="replace"), TEXT_LIMIT) or "it ended by itself"
        if lifetime < fizzle:
            early = Message(700, f"{detail}, {lifetime:.0f} s after its start")
            return Outcome(message=early, decided=Decided.ENGINE, detail=detail, exit=Exit.FAILED)
        return Outcome(message=None, decided=Decided.ENGINE, detail=detail, exit=Exit.SUCCESS)
    detail = ENDS.get(end.reason) or f"exit code {end.exit_code}"
    if end.detail:
        detail += f" ({printable.line(end.detail.encode(errors='replace'), TEXT_LIMIT)})"
    text = f"{detail}, {lifetime:.0f} s after its start" if lifetime < fizzle else detail
    return Outcome(message=Message(700, text), decided=Decided.ENGINE, detail=detail, exit=Exit.FAILED)


def _why(ended_by: tuple[Why, str] | None) -> str:
    return f"{ended_by[0]}: {ended_by[1]}" if ended_by else ""


def _exit(message: Message, ended_by: tuple[Why, str] | None) -> Exit:
    """What the supervisor had to do shows in the exit code, whatever the payload wrote about it."""
    if ended_by and ended_by[0] not in (Why.STOPPED, Why.INTERRUPTED, Why.EARLIER):
        return WORDS[ended_by[0]][1]
    if message.code < 300:
        return Exit.STOPPED if ended_by else Exit.SUCCESS
    return Exit.NO_WORK if message.code < 400 else Exit.FAILED
