"""What a type said about a machine when it was made: it holds for the machine's life, whatever becomes of the type."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from lmd.config.models import MachineType
from lmd.machine.rules import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Durations in seconds, sizes in bytes.

    `notice` is how a machine is told of an earlier end: `features` alone, `sigterm` at once, or a command run in it.
    """

    fizzle_seconds: float = 600
    heartbeat_file: str | None = None
    heartbeat_seconds: float = 0
    outputs_bytes: int = 1_000_000_000
    outputs_files: int = 5000
    outcome: Mapping[int, str] = field(default_factory=dict)
    console_bytes: int = 1_000_000
    grace: float = 1800
    notice: str | tuple[str, ...] = "sigterm"
    keep_days: float = 3.0

    def terms(self, started: float, shutdown_time: float) -> Terms:
        """The rules of supervision for a life between these times, in whatever clock they are."""
        return Terms(
            started=started,
            shutdown_time=shutdown_time,
            fizzle_seconds=self.fizzle_seconds,
            heartbeat_file=self.heartbeat_file,
            heartbeat_seconds=self.heartbeat_seconds,
            outputs_bytes=self.outputs_bytes,
            outputs_files=self.outputs_files,
        )


CONDITIONS: TypeAdapter[Conditions] = TypeAdapter(Conditions)


def conditions(type_: MachineType) -> Conditions:
    """Those of a machinetype as it is configured now."""
    return Conditions(
        fizzle_seconds=type_.fizzle_seconds,
        heartbeat_file=type_.heartbeat_file,
        heartbeat_seconds=type_.heartbeat_seconds,
        outputs_bytes=type_.joboutputs_bytes,
        outputs_files=type_.joboutputs_files,
        outcome=type_.outcome,
        console_bytes=type_.console_bytes,
        grace=type_.grace_secs,
        notice=type_.notice,
        keep_days=type_.machines_dir_days,
    )
