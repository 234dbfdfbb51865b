"""What a machine's payload saw, as it wrote it down, and how what two machines saw differs. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from runtimes.conformance.check import Violation

OWN = re.compile(
    r"hostname|clock|pattern\.(machine_hostname|manager_hostname|uuid)"
    r"|(machinefeatures|jobfeatures)\.(job_id|jobstart_secs|shutdowntime|shutdowntime_job)"
    r"|environ\.LM_(JOB_ID|JOBSTART_SECS|SHUTDOWNTIME|SHUTDOWNTIME_JOB)"
    r"|place\./lmc-scratch"
)
"""What differs from machine to machine: only that it is there is compared. A scratch directory belongs to the payload's
user or has the sticky bit, as its engine likes it; that every user can write there is compared."""

ENGINES = frozenset({"HOME", "HOSTNAME", "OLDPWD", "PATH", "PWD", "SHLVL", "TERM", "_", "container"})
"""Variables that engines and shells set by themselves; the contract says nothing of them."""

_OCTAL = re.compile(r"\\([0-7]{3})")
HOSTS = re.compile(r"place\./etc/(machine|job)features")
OWNER = re.compile(r" \d+:\d+$")
"""The features belong to the host's root: nobody where a machine has user ids of its own, else its own root."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of the machine's mount table (proc(5), mountinfo): `root` is the path within its file system."""

    root: str
    target: str
    read_only: bool
    kind: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One field in which two machines differ; None where a machine does not have it."""

    key: str
    one: str | None
    other: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """The lines of a portrait by their keys; contents of files are in hex."""

    lines: Mapping[str, str]

    def text(self, key: str) -> str:
        """What stands under `key`; `Violation` if the payload wrote no such line."""
        if key not in self.lines:
            raise Violation(f"the payload reports nothing of {key}")
        return self.lines[key]

    def content(self, key: str) -> bytes:
        """The bytes that stand in hex under `key`."""
        try:
            return bytes.fromhex(self.text(key))
        except ValueError as error:
            raise Violation(f"{key} is not hex: {self.text(key)[:80]!r}") from error

    def below(self, prefix: str) -> dict[str, bytes]:
        """The contents of all keys that begin with `prefix` and a dot, without those."""
        return {key.removeprefix(f"{prefix}."): self.content(key) for key in self.lines if key.startswith(f"{prefix}.")}

    def arguments(self) -> list[bytes]:
        """The arguments that the payload was started with."""
        return [self.content(f"argument.{number + 1}") for number in range(int(self.text("arguments")))]

    def environment(self) -> dict[str, str]:
        """The variables that the payload was started with."""
        pairs = (item.partition(b"=") for item in self.content("environ").split(b"\0") if item)
        return {name.decode(errors="replace"): value.decode(errors="replace") for name, _, value in pairs}

    def mounts(self) -> list[Mounted]:
        """The machine's mount table, in its order."""
        return [_mounted(line) for line in self.content("engine.mounts").decode(errors="replace").splitlines()]

    def fields(self) -> dict[str, str]:
        """All that has to be the same in every machine of a type, whatever runs it."""
        variables = {f"environ.{name}": value for name, value in self.environment().items() if name not in ENGINES}
        plain = {k: v for k, v in self.lines.items() if k != "environ" and not k.startswith("engine.")}
        fields = {key: OWNER.sub("", text) if HOSTS.match(key) else text for key, text in (plain | variables).items()}
        return {key: "(its own)" if OWN.fullmatch(key) and text else text for key, text in fields.items()}


def parse(content: bytes) -> Report:
    """The report in the file that a payload left. Raises `Violation` for what is no report."""
    lines = content.decode(errors="replace").splitlines()
    if not lines or any("=" not in line for line in lines):
        raise Violation(f"the payload's report is not one: {content[:200]!r}")
    return Report({key: text for key, _, text in (line.partition("=") for line in lines)})


def compare(one: Report, other: Report) -> list[Difference]:
    """Where the environments of two machines of the same type differ, by key; empty if they are the same."""
    first, second = one.fields(), other.fields()
    return [
        Difference(key, first.get(key), second.get(key))
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    ]


def _mounted(line: str) -> Mounted:
    words = line.split()
    kind = words[words.index("-") + 1]
    return Mounted(_plain(words[3]), _plain(words[4]), "ro" in words[5].split(","), kind)


def _plain(path: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), path)
