"""Images for another architecture are refused: a kernel with an emulator registered would run them, slowly. Pure."""

from collections.abc import Collection

from runtimes.contract import Rejected


def fitting(image: str, architecture: str, machines: Collection[str]) -> None:
    """Raises `Rejected` unless an image for `architecture` (Go's words; "" if it does not say) fits `machines`."""
    if architecture and architecture not in machines:
        raise Rejected(f"image {image} is for {architecture}, and machines here are {', '.join(sorted(machines))}")
