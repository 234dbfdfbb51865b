"""How a virtual machine is started, and what of its type becomes of that. Pure."""

from dataclasses import dataclass

from images.described import Described
from lmd.config.models import MachineType
from runtimes.contract import Boot

GIGABYTE = 10**9
DEFAULT_GIGABYTES = 40
"""A disk for each processor where nothing else is said: a CernVM's root disk, as Vac has it for files, and that of a
machine with `tmp_binds`. Sparse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """`boot` None: by what is on the image. `described`: what the container image `named` says of itself."""

    boot: Boot | None = None
    described: Described | None = None
    named: str = ""


Words = tuple[str, ...]


class NoCommand(Exception):
    """Nothing says what the machine is to run; one line."""


def command(
    start: Start, given: tuple[str, ...] | None, args: tuple[str, ...] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Entrypoint and arguments as a container engine would have them: what is given, else what the image says."""
    if given is not None:
        return given, args or ()
    described = start.described
    entrypoint = described.entrypoint if described else ()
    words = args if args is not None else described.command if described else ()
    if not entrypoint and not words:
        raise NoCommand("its image names no command; give user_data or an entrypoint")
    return (entrypoint, words) if entrypoint else (words, ())


def disk_bytes(type_: MachineType, processors: int) -> int | None:
    """The size of the machine's own disk in bytes; None if it has none. `tmp_binds` are on one, so that they end where
    it does, and not where the host's disk does."""
    each = type_.disk_gb_per_processor
    if each is None and (type_.machine_model in ("cernvm3", "cernvm4") or type_.tmp_binds):
        each = DEFAULT_GIGABYTES
    return None if each is None else each * processors * GIGABYTE
