"""The few programs that the suite runs in machines, in words that a runtime's machines understand."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Payload:
    """What goes into a spec to run one program."""

    entrypoint: tuple[str, ...] | None
    args: tuple[str, ...]


class Payloads(Protocol):
    """Programs of known behaviour. Where one returns None, machines of this runtime cannot do it."""

    def exit(self, code: int, *, after: float = 0.0) -> Payload:
        """End by itself with `code`, `after` seconds after the start."""

    def sleep(self, seconds: float) -> Payload:
        """Use nothing for `seconds`, then end with code 0; end at once, with any code, when asked to stop."""

    def polite(self, after: float) -> Payload:
        """Run until asked to stop, work on for `after` seconds, then end with code 0."""

    def deaf(self) -> Payload:
        """Run until forced; being asked changes nothing."""

    def spin(self) -> Payload:
        """Use one processor until stopped."""

    def oom(self) -> Payload:
        """Let the machine's first process take memory without end."""

    def killed_by_signal(self, number: int) -> Payload | None:
        """End by a signal that comes from inside."""

    def shout(self, size: int) -> Payload:
        """Print a line `first`, `size` bytes, a line `last`; end with code 0."""

    def talk(self, pause: float) -> Payload:
        """Print a line `first`, wait, print a line `last`; end with code 0."""

    def write(self, path: str, text: str) -> Payload:
        """Write `text` to the file `path`, end with code 0; with another code if it cannot be written."""

    def fork_bomb(self, bound: int) -> Payload | None:
        """Start processes that stay, printing `forked N` before the Nth; at `bound` print `unbounded` and end."""

    def shell(self, script: str) -> Payload | None:
        """Run a script for a POSIX shell with the usual small commands."""

    def command(self, text: str, code: int) -> tuple[str, ...]:
        """A command for `Exec` that prints `text` and ends with `code`."""


class ShellPayloads:
    """The programs as scripts for /bin/sh of busybox or anything larger, run as the machine's first process."""

    def exit(self, code: int, *, after: float = 0.0) -> Payload:
        return self.shell(f"sleep {after}; exit {code}" if after else f"exit {code}")

    def sleep(self, seconds: float) -> Payload:
        return self.shell(f"trap 'exit 143' TERM; sleep {seconds} & wait $!")

    def polite(self, after: float) -> Payload:
        return self.shell(f"trap 'sleep {after}; exit 0' TERM; while :; do sleep 60 & wait $!; done")

    def deaf(self) -> Payload:
        return self.shell("trap '' TERM INT HUP QUIT; while :; do sleep 1; done")

    def spin(self) -> Payload:
        return self.shell("trap 'exit 143' TERM; while :; do :; done")

    def oom(self) -> Payload:
        # The shell itself must grow: engines notice the end of a machine's first process, not that of a child.
        return self.shell("x=0123456789abcdef; while :; do x=$x$x; done")

    def killed_by_signal(self, number: int) -> Payload | None:
        return None  # the first process of a pid namespace cannot be killed from inside it

    def shout(self, size: int) -> Payload:
        return self.shell(f"echo first; yes 0123456789abcde | head -c {size}; echo; echo last")

    def talk(self, pause: float) -> Payload:
        return self.shell(f"echo first; sleep {pause}; echo last")

    def write(self, path: str, text: str) -> Payload:
        return Payload(("/bin/sh", "-c"), ('printf %s "$2" > "$1"', "sh", path, text))

    def fork_bomb(self, bound: int) -> Payload | None:
        loop = f"while [ $n -lt {bound} ]; do n=$((n+1)); echo forked $n; sleep 25 & done"
        return self.shell(f"n=0; {loop}; echo unbounded")

    def shell(self, script: str) -> Payload:
        return Payload(("/bin/sh", "-c"), (script,))

    def command(self, text: str, code: int) -> tuple[str, ...]:
        return ("/bin/sh", "-c", 'printf %s "$1"; exit "$2"', "sh", text, str(code))
