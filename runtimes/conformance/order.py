"""What a process is told that creates machines for the suite and is killed by it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from runtimes.conformance.payloads import Payload
from runtimes.contract import Boot, Image, ImageKind, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The runtime by name and settings, what its machines run, and the ids to keep and to churn."""

    runtime: str
    settings: Settings
    image: Image
    payload: Payload
    boot: Boot | None = None
    keep: tuple[str, ...] = ()
    churn: tuple[str, ...] = ()

    def dump(self) -> str:
        """The order as JSON, for `load`."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def load(cls, text: str) -> "Order":
        """The order of `dump`."""
        words = json.loads(text)
        places = {name: Path(words["settings"][name]) for name in ("state_dir", "run_dir", "cache_dir")}
        entrypoint = words["payload"]["entrypoint"]
        return cls(
            runtime=words["runtime"],
            settings=Settings(**places, options=words["settings"]["options"]),
            image=Image(**(words["image"] | {"kind": ImageKind(words["image"]["kind"])})),
            payload=Payload(None if entrypoint is None else tuple(entrypoint), tuple(words["payload"]["args"])),
            boot=_boot(words["boot"]),
            keep=tuple(words["keep"]),
            churn=tuple(words["churn"]),
        )


def _boot(words: dict[str, str] | None) -> Boot | None:
    if words is None:
        return None
    initramfs = Path(words["initramfs"]) if words["initramfs"] else None
    return Boot(kernel=Path(words["kernel"]), initramfs=initramfs, command_line=words["command_line"])
